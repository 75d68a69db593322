"""What a training keeps of one seed: its record, and checkpoints that are replaced atomically and checked when read.

A checkpoint is one safetensors file, its small facts and a checksum in the header. The one before the newest is kept,
so that a newest one that a disk has spoiled costs the steps between the two and no more.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from anm_nb.files import flush_folder, full_disk_named, write_through
from anm_nb.training.learner import Measurement, TrainingConfig

State = tuple[dict[str, Tensor], dict[str, Any]]  # tensors, and facts for JSON


_FACTS = ("seed", "rows", "seconds", "selection", "ended", "failure")


@dataclass
class SeedRecord:
    """One seed's measurements so far. `weights` are its last ones once it has ended, by name as in `Run.weights`."""

    seed: int
    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # spent in steps, as they stood at each row
    selection: dict[str, float] = field(default_factory=dict)  # step, score, measurements waited since
    ended: bool = False
    failure: str = ""  # why it could not go on
    arrays: dict[str, list[Tensor]] = field(default_factory=dict)
    selected: dict[str, Tensor] = field(default_factory=dict)  # EMA weights of the best selection score
    kept: dict[str, Tensor] = field(default_factory=dict)  # EMA weights of the records, `step<n>.averaged.…`
    weights: dict[str, Tensor] = field(default_factory=dict)

    def add(self, row: dict[str, float], measured: Measurement, averaged: Mapping[str, Tensor], seconds: float) -> None:
        """Append a row, its arrays and, where its selection score is the best so far, the EMA weights."""
        self.rows.append({"seed": self.seed, **row, **measured.scalars})
        self.seconds.append(round(seconds, 3))
        for name, array in measured.arrays.items():
            self.arrays.setdefault(name, []).append(array.detach().to("cpu", copy=True))
        if measured.selection is None:
            return
        score = -math.inf if math.isnan(measured.selection) else measured.selection
        if not self.selection or score > self.selection["score"]:  # the earliest of equals stays
            self.selected = {name: tensor.detach().clone() for name, tensor in averaged.items()}
            self.selection = {"step": row["step"], "score": score, "waited": 0}
        else:
            self.selection["waited"] += 1

    def score_reached(self, config: TrainingConfig) -> bool:
        """Whether the best selection score is as good as `stop_at_score` asks for."""
        enough = config.stop_at_score
        return enough is not None and bool(self.selection) and self.selection["score"] >= enough

    def stops(self, config: TrainingConfig) -> bool:
        """Whether nothing is left to gain, or nothing was gained for `patience` measurements."""
        waited = bool(self.selection) and self.selection["waited"] >= (config.patience or math.inf)
        return self.score_reached(config) or waited

    def end(self, config: TrainingConfig, evaluated: Measurement) -> None:
        """Note what was selected, whether training stopped early, and the final evaluation."""
        if self.selection:
            step = int(self.rows[-1]["step"])
            early = step < config.total_steps()
            self.rows[-1] |= {"selected_step": self.selection["step"], "stopped_early": float(early)}
            if config.stop_at_score is not None:
                self.rows[-1]["score_reached"] = float(self.score_reached(config))
            if early and not self.score_reached(config):
                warnings.warn(
                    f"seed {self.seed} stopped at step {step} of {config.total_steps()}: no better selection score "
                    f"than at step {self.selection['step']:g} in {config.patience} measurements",
                    stacklevel=2,
                )
        self.rows[-1] |= evaluated.scalars
        self.arrays |= {name: [array.detach().to("cpu", copy=True)] for name, array in evaluated.arrays.items()}
        self.ended = True

    def fail(self, step: int, losses: dict[str, float]) -> None:
        """Note the step and the losses, `loss` and its parts by name, with which this seed cannot go on."""
        said = ", ".join(f"{name} = {value:g}" for name, value in losses.items() if name != "loss")
        self.ended = True
        self.failure = (
            f"loss = {losses['loss']:g} at step {step} of seed {self.seed} ({said}); "
            "a lower learning rate, stronger clipping or float32 precision are the first things to try"
        )

    def state(self) -> State:
        """All of it as tensors, and facts for JSON."""
        arrays = {name: torch.stack(values) for name, values in self.arrays.items()}
        parts = {"array": arrays, "selected": self.selected, "kept": self.kept, "last": self.weights}
        tensors = {f"{part}.{name}": tensor for part, found in parts.items() for name, tensor in found.items()}
        return tensors, {name: getattr(self, name) for name in _FACTS}

    def load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], device: str) -> None:
        """Continue where `state` stood."""
        for name in _FACTS:
            setattr(self, name, facts[name])
        self.arrays = {name: list(values.cpu()) for name, values in by_prefix(tensors, "array.").items()}
        self.selected = {name: tensor.to(device) for name, tensor in by_prefix(tensors, "selected.").items()}
        self.kept, self.weights = by_prefix(tensors, "kept."), by_prefix(tensors, "last.")


class CorruptCheckpoint(RuntimeError):
    """A checkpoint is not as it was written; the message names the file, what was expected and what was found."""


def checkpoint_of(folder: Path, seed: int) -> Path:
    """Where a seed's checkpoint lies, in the folder of its run's key."""
    return folder / f"seed-{seed}.safetensors"


def before(path: Path) -> Path:
    """Where the checkpoint before the newest one lies."""
    return path.with_name(f"{path.name}.before")


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able facts to `path`; a reader sees the old file or the new one, never half of one.

    The old one stays beside it. Raises `DiskFull`, naming the step that training will continue from.
    """
    owned = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(facts)
    data = save(owned, metadata={"facts": text, "sha256": _checksum(owned, text)})
    partial, standing = path.with_name(f"{path.name}.partial"), facts_of(path)
    then = "training starts from the beginning when there is room"
    if standing:
        then = f"nothing was lost: training continues from step {standing.get('step')} when there is room"
    with full_disk_named(path, then):
        try:
            write_through(partial, data)
            if path.exists():
                os.replace(path, before(path))
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        flush_folder(path.parent)


def facts_of(path: Path) -> dict[str, Any]:
    """A checkpoint's facts as its header has them, unchecked; empty where there is none that can be read."""
    try:
        with safe_open(path, framework="pt") as stored:
            return dict(json.loads(stored.metadata()["facts"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return {}


def load_checkpoint(path: Path) -> State:
    """The tensors and the facts of a checkpoint, every byte of it checked. Raises `CorruptCheckpoint`."""
    try:
        with safe_open(path, framework="pt", device="cpu") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            header = stored.metadata()
        text, expected = header["facts"], header["sha256"]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CorruptCheckpoint(f"{path} cannot be read as a checkpoint ({error})") from error
    if (found := _checksum(tensors, text)) != expected:
        raise CorruptCheckpoint(f"{path}: expected sha256 {expected}, found {found}")
    return tensors, json.loads(text)


def common_checkpoints(paths: Sequence[Path], seeds: Sequence[int]) -> list[State]:
    """A checkpoint of each seed, those that have not ended all at the newest step that every one of them has.

    Empty where there is no such step: training starts from the beginning.
    """
    found = [good_checkpoints(path, seed) for path, seed in zip(paths, seeds, strict=True)]
    if not all(found):
        return []
    going_on = [{facts["step"] for _, facts in each} for each in found if not each[0][1]["ended"]]
    steps = set.intersection(*going_on) if going_on else {0}
    if not steps:
        return []
    return [next(one for one in each if each[0][1]["ended"] or one[1]["step"] == max(steps)) for each in found]


def good_checkpoints(path: Path, seed: int) -> list[State]:
    """The newest checkpoint and the one before it, as far as they are there, whole, and of this run and seed.

    One that is not, or that is of another run than the folder's name says, or of another seed, is moved out of the
    way, with a warning that names it.
    """
    good, spoiled = [], []
    for candidate in (path, before(path)):
        if not candidate.exists():
            continue
        try:
            tensors, facts = load_checkpoint(candidate)
            for what, own in (("run", path.parent.name), ("seed", seed)):
                if (said := facts.get("key" if what == "run" else what, own)) != own:
                    raise CorruptCheckpoint(f"{candidate} belongs to {what} {said}, not to {own}")
            good.append((tensors, facts))
        except CorruptCheckpoint as error:
            os.replace(candidate, candidate.with_name(f"{candidate.name}.corrupt"))
            spoiled.append(str(error))
    if spoiled:
        then = "training starts from the beginning"
        if good:
            then = f"training continues from step {good[0][1].get('step')}, of the checkpoint before it"
        warnings.warn(f"checkpoint cannot be trusted: {'; '.join(spoiled)}; {then}", stacklevel=4)
    return good


def by_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _checksum(tensors: Mapping[str, Tensor], facts: str) -> str:
    """SHA-256 over the facts and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
