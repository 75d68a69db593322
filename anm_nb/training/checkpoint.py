"""The two latest checkpoints of a seed in training, each a state saved by torch and preceded by its SHA-256."""

import hashlib
import os
import warnings
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from anm_nb.files import full_disk_named, replace_whole


def checkpoint_of(folder: Path, seed: int) -> Path:
    """Path of a seed's checkpoint in the folder of its run."""
    return folder / f"seed-{seed}.pt"


def before(path: Path) -> Path:
    """Path of the previous checkpoint, next to the newest one."""
    return path.with_name(f"{path.name}.before")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors and plain data atomically, and keep the previous one beside it. Raises `DiskFull`."""
    torch.save(tree_map_only(Tensor, lambda each: each.detach().to("cpu", copy=True), state), file := BytesIO())
    data = file.getvalue()
    with full_disk_named(path, "training continues from its last checkpoint, or the beginning, once there is room"):
        if path.exists():
            os.replace(path, before(path))
        replace_whole(path, hashlib.sha256(data).digest() + data)


def good_checkpoints(path: Path) -> list[dict[str, Any]]:
    """Load the newest checkpoint and the previous one. One with a wrong checksum is set aside with a warning."""
    good = []
    for candidate in filter(Path.exists, (path, before(path))):
        data = candidate.read_bytes()
        if hashlib.sha256(data[32:]).digest() == data[:32]:
            good.append(torch.load(BytesIO(data[32:]), weights_only=True))
            continue
        os.replace(candidate, candidate.with_name(f"{candidate.name}.corrupt"))
        then = "training continues from the previous checkpoint, or from the beginning"
        warnings.warn(f"checkpoint {candidate} has changed since it was written; {then}", stacklevel=4)
    return good


def common_checkpoints(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """One checkpoint per path, all of the newest step that every path has; empty if there is no such step."""
    found = [{state["step"]: state for state in reversed(good_checkpoints(path))} for path in paths]
    shared = set.intersection(*map(set, found)) if found else set()
    return [each[max(shared)] for each in found] if shared else []


def by_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with this prefix, keyed by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
