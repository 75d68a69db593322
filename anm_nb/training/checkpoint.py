"""Checkpoints: one safetensors file, its small facts and a checksum in the header, replaced atomically.

The one before the newest is kept, so that a newest one that a disk has spoiled costs the steps between the two and
no more.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from anm_nb.files import flush_folder, full_disk_named, write_through


class CorruptCheckpoint(RuntimeError):
    """A checkpoint is not as it was written; the message names the file, what was expected and what was found."""


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able facts to `path`; a reader sees the old file or the new one, never half of one.

    The old one stays beside it. Raises `DiskFull`, naming the step that training will continue from.
    """
    owned = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(facts)
    data = save(owned, metadata={"facts": text, "sha256": _checksum(owned, text)})
    partial = path.with_name(f"{path.name}.partial")
    with full_disk_named(path, _continuing(path)):
        try:
            write_through(partial, data)
            if path.exists():
                os.replace(path, before(path))
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        flush_folder(path.parent)


def load_checkpoint(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on `device`, and the facts of a checkpoint. Raises `CorruptCheckpoint`."""
    try:
        with safe_open(path, framework="pt", device="cpu") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            header = stored.metadata()
        text, expected = header["facts"], header["sha256"]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CorruptCheckpoint(f"{path} cannot be read as a checkpoint ({error})") from error
    if (found := _checksum(tensors, text)) != expected:
        raise CorruptCheckpoint(f"{path}: expected sha256 {expected}, found {found}")
    return {name: tensor.to(device) for name, tensor in tensors.items()}, json.loads(text)


def last_good_checkpoint(path: Path, seed: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint that is as it was written, at `path` or the one before it; None where there is neither.

    One that is not, or that is of another run than the folder's name says, or of another seed, is moved out of the
    way, with a warning that names it.
    """
    found = good_checkpoints(path, seed)
    return found[0] if found else None


def common_checkpoints(paths: Sequence[Path], seeds: Sequence[int]) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:
    """A checkpoint of each seed, those that have not ended all at the newest step that every one of them has.

    Empty where there is no such step: training starts from the beginning.
    """
    found = [good_checkpoints(path, seed) for path, seed in zip(paths, seeds, strict=True)]
    if not all(found):
        return []
    going_on = [each for each in found if not each[0][1]["ended"]]
    steps = set.intersection(*({facts["step"] for _, facts in each} for each in going_on)) if going_on else {0}
    if not steps:
        return []
    return [
        each[0] if each[0][1]["ended"] else next(one for one in each if one[1]["step"] == max(steps)) for each in found
    ]


def good_checkpoints(path: Path, seed: int | None) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:
    """The newest checkpoint and the one before it, as far as they are there, whole, and of this run and seed."""
    good, spoiled = [], []
    for candidate in (path, before(path)):
        if not candidate.exists():
            continue
        try:
            tensors, facts = load_checkpoint(candidate)
            _require_own(candidate, facts, path.parent.name, seed)
        except CorruptCheckpoint as error:
            os.replace(candidate, candidate.with_name(f"{candidate.name}.corrupt"))
            spoiled.append(str(error))
            continue
        good.append((tensors, facts))
    if spoiled:
        then = "training starts from the beginning"
        if good:
            then = f"training continues from step {good[0][1].get('step')}, of the checkpoint before it"
        warnings.warn(f"checkpoint cannot be trusted: {'; '.join(spoiled)}; {then}", stacklevel=4)
    return good


def _require_own(path: Path, facts: Mapping[str, Any], key: str, seed: int | None) -> None:
    if facts.get("key", key) != key:
        raise CorruptCheckpoint(f"{path} belongs to run {facts['key']}, not to {key}")
    if seed is not None and facts.get("seed", seed) != seed:
        raise CorruptCheckpoint(f"{path} belongs to seed {facts['seed']}, not to {seed}")


def before(path: Path) -> Path:
    """Where the checkpoint before the newest one lies."""
    return path.with_name(f"{path.name}.before")


def _checksum(tensors: Mapping[str, Tensor], facts: str) -> str:
    """SHA-256 over the facts and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _continuing(path: Path) -> str:
    """What a training does that could not write its checkpoint."""
    if not path.exists():
        return "training starts from the beginning when there is room"
    with safe_open(path, framework="pt") as standing:
        step = json.loads(standing.metadata()["facts"]).get("step")
    return f"nothing was lost: training continues from step {step} when there is room"
