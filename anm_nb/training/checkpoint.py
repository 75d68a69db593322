"""Checkpoints: one safetensors file, its small facts and a checksum in the header, replaced atomically.

The one before the newest is kept, so that a newest one that a disk has spoiled costs the steps between the two and
no more.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
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


def last_good_checkpoint(path: Path) -> Path | None:
    """The newest checkpoint that is as it was written: `path`, or the one before it; None where there is neither.

    One that is not is moved out of the way, with a warning that names it.
    """
    spoiled = []
    for candidate in (path, before(path)):
        if not candidate.exists():
            continue
        try:
            _, facts = load_checkpoint(candidate)
        except CorruptCheckpoint as error:
            os.replace(candidate, candidate.with_name(f"{candidate.name}.corrupt"))
            spoiled.append(str(error))
            continue
        _warn(spoiled, f"training continues from step {facts.get('step')}, of the checkpoint before it")
        return candidate
    _warn(spoiled, "training starts from the beginning")
    return None


def before(path: Path) -> Path:
    """Where the checkpoint before the newest one lies."""
    return path.with_name(f"{path.name}.before")


def _warn(spoiled: list[str], then: str) -> None:
    if spoiled:
        warnings.warn(f"checkpoint cannot be trusted: {'; '.join(spoiled)}; {then}", stacklevel=4)


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
