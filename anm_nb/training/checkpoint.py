"""The two latest checkpoints of a seed in training: tensors and facts, a SHA-256 before safetensors bytes."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from anm_nb.files import full_disk_named, replace_whole

State = tuple[dict[str, Tensor], dict[str, Any]]  # tensors, and facts for JSON


def checkpoint_of(folder: Path, seed: int) -> Path:
    """Where a seed's checkpoint lies, in the folder of its run's key."""
    return folder / f"seed-{seed}.checkpoint"


def before(path: Path) -> Path:
    """Where the checkpoint before the newest one lies."""
    return path.with_name(f"{path.name}.before")


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able facts atomically; the file that was there stays beside. Raises `DiskFull`."""
    as_bytes = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    data = save(plain | {"facts": as_bytes})
    with full_disk_named(path, "training goes on from its last checkpoint, or the beginning, when there is room"):
        if path.exists():
            os.replace(path, before(path))
        replace_whole(path, hashlib.sha256(data).digest() + data)


def common_checkpoints(paths: Iterable[Path]) -> list[State]:
    """A checkpoint of each path, of the newest step that they share; nothing without one."""
    found = [{facts["step"]: (tensors, facts) for tensors, facts in good_checkpoints(path)} for path in paths]
    shared = set.intersection(*map(set, found)) if found else set()
    return [each[max(shared)] for each in found] if shared else []


def good_checkpoints(path: Path) -> list[State]:
    """The newest checkpoint and the one before it, every byte checked; a bad one is set aside with a warning."""
    good = []
    for candidate in filter(Path.exists, (path, before(path))):
        data = candidate.read_bytes()
        if hashlib.sha256(data[32:]).digest() == data[:32]:
            tensors = load(data[32:])
            good.append((tensors, json.loads(bytes(tensors.pop("facts").tolist()))))
            continue
        os.replace(candidate, candidate.with_name(f"{candidate.name}.corrupt"))
        then = "training goes on from the one before it, or from the beginning"
        warnings.warn(f"checkpoint {candidate} is not as it was written; {then}", stacklevel=4)
    return good


def by_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
