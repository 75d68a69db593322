"""What a training keeps of one seed: its record, and its two latest checkpoints, a SHA-256 before safetensors bytes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from anm_nb import store
from anm_nb.files import full_disk_named, replace_whole
from anm_nb.identity import identity_of
from anm_nb.store import STATE, CorruptRun, Run
from anm_nb.training import Measurement, TrainingConfig, watched

State = tuple[dict[str, Tensor], dict[str, Any]]  # tensors, and facts for JSON


@dataclass
class SeedRecord:
    """One seed's measurements so far, and the weights that are kept of it, on the CPU, by name as in `Run.weights`."""

    seed: int
    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # spent in steps, as they stood at each row
    selection: dict[str, float] = field(default_factory=dict)  # step, score, measurements waited since
    ended: bool = False
    failure: str = ""  # why it could not go on
    arrays: dict[str, list[Tensor]] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, prefix: str, weights: Mapping[str, Tensor]) -> None:
        """Copy weights, by names that begin with a prefix."""
        self.weights |= {f"{prefix}.{name}": _own(each) for name, each in weights.items()}

    def add(self, row: dict[str, float], measured: Measurement, averaged: Mapping[str, Tensor], seconds: float) -> None:
        """Append a row, its arrays and, where its selection score is the best so far, the EMA weights."""
        self.rows.append({"seed": self.seed, **row, **measured.scalars})
        self.seconds.append(round(seconds, 3))
        for name, array in measured.arrays.items():
            self.arrays.setdefault(name, []).append(_own(array))
        if measured.selection is None:
            return
        score = -math.inf if math.isnan(measured.selection) else measured.selection
        if not self.selection or score > self.selection["score"]:  # the earliest of equals stays
            self.keep("selected", averaged)
            self.selection = {"step": row["step"], "score": score, "waited": -1}
        self.selection["waited"] += 1

    def score_reached(self, config: TrainingConfig) -> bool:
        """Whether nothing is left to gain."""
        enough = config.stop_at_score
        return enough is not None and self.selection.get("score", -math.inf) >= enough

    def end(self, config: TrainingConfig, evaluated: Measurement) -> None:
        """Note what was selected, whether training stopped early, and the final evaluation."""
        last = self.rows[-1]
        if self.selection:
            early = float(last["step"] < config.total_steps())
            last |= {"selected_step": self.selection["step"], "stopped_early": early}
            if config.stop_at_score is not None:
                last["score_reached"] = float(self.score_reached(config))
        last |= evaluated.scalars
        self.arrays |= {name: [_own(array)] for name, array in evaluated.arrays.items()}
        self.ended = True

    def state(self) -> State:
        """All of it as tensors, and facts for JSON."""
        tensors = {f"array.{name}": torch.stack(values) for name, values in self.arrays.items()}
        tensors |= {f"weights.{name}": tensor for name, tensor in self.weights.items()}
        return tensors, {name: value for name, value in vars(self).items() if name not in ("arrays", "weights")}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> SeedRecord:
        """The record whose `state` that was, among other tensors and facts."""
        arrays = {name: list(values) for name, values in by_prefix(tensors, "array.").items()}
        own = {name: facts[name] for name in ("seed", "rows", "seconds", "selection", "ended", "failure")}
        return cls(**own, arrays=arrays, weights=by_prefix(tensors, "weights."))


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def checkpoint_of(folder: Path, seed: int) -> Path:
    """Where a seed's checkpoint lies, in the folder of its run's key."""
    return folder / f"seed-{seed}.checkpoint"


def before(path: Path) -> Path:
    """Where the checkpoint before the newest one lies."""
    return path.with_name(f"{path.name}.before")


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able facts atomically; the file that was there stays beside. Raises `DiskFull`."""
    data = save({name: _own(tensor).contiguous() for name, tensor in tensors.items()} | {"facts": _as_bytes(facts)})
    with full_disk_named(path, "training goes on from its last checkpoint, or the beginning, when there is room"):
        if path.exists():
            os.replace(path, before(path))
        replace_whole(path, hashlib.sha256(data).digest() + data)


def _as_bytes(facts: Mapping[str, Any]) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)


def _apart(tensors: dict[str, Tensor]) -> State:
    return tensors, json.loads(bytes(tensors.pop("facts").tolist()))


def load_checkpoint(path: Path) -> State:
    """The tensors and the facts of a checkpoint, every byte of it checked. Raises `CorruptRun`."""
    data = path.read_bytes()
    expected, found = data[:32].hex(), hashlib.sha256(data[32:]).hexdigest()
    if found != expected:
        raise CorruptRun(f"{path}: expected sha256 {expected}, found {found}")
    return _apart(load(data[32:]))


def common_checkpoints(paths: Iterable[Path]) -> list[State]:
    """A checkpoint of each path; all that go on at the newest step that they share, nothing without one."""
    found = [good_checkpoints(path) for path in paths]
    going_on = [{facts["step"] for _, facts in each} for each in found if each and not each[0][1]["ended"]]
    step = max(set.intersection(*going_on), default=None) if going_on else 0
    if not all(found) or step is None:
        return []
    return [next(one for one in each if each[0][1]["ended"] or one[1]["step"] == step) for each in found]


def good_checkpoints(path: Path) -> list[State]:
    """The newest checkpoint and the one before it, as far as they are good; a bad one is set aside with a warning."""
    good, spoiled = [], []
    for candidate in filter(Path.exists, (path, before(path))):
        try:
            good.append(load_checkpoint(candidate))
        except CorruptRun as error:
            os.replace(candidate, candidate.with_name(f"{candidate.name}.corrupt"))
            spoiled.append(str(error))
    if spoiled:
        then = f"continues from step {good[0][1]['step']}, of the checkpoint before it" if good else ""
        said = f"{'; '.join(spoiled)}; training {then or 'starts from the beginning'}"
        warnings.warn(f"checkpoint cannot be trusted: {said}", stacklevel=4)
    return good


def go_on_from_shorter(config: TrainingConfig, folder: Path) -> str:
    """Put the last state of the same config's longest shorter run into a folder, and return its key, or say why not."""
    length, why_not = config.length, config.why_not_longer()
    if not length or folder.parent != store.partial_root() or (why_not and not watched()):
        return ""
    identity, shorter = identity_of(config), dict[int, Run]()
    asked = identity["config"][length]
    for run in map(Run, store.run_folders()):
        with suppress(CorruptRun):
            steps, goes_on = run.settings.get(length, asked), why_not or STATE in run.manifest["files"]
            same = run.manifest["identity"] | {"config": run.settings | {length: asked}} == identity
            if same and goes_on and steps < asked:
                shorter[steps] = run
    if not shorter:
        return ""
    run = shorter[max(shorter)]
    if not why_not:
        try:
            states = run.tensors(STATE)
            for seed in config.seeds:
                own = by_prefix(run.weights, f"seed{seed}.")
                state, facts = _apart(by_prefix(states, f"seed{seed}."))
                state |= {name: own[name.removeprefix("weights.")] for name in facts.pop("in_weights")}
                save_checkpoint(checkpoint_of(folder, seed), state, facts)
            return run.key
        except CorruptRun as error:
            why_not = str(error)
    if watched():
        said = f"run {run.key} has the first {max(shorter):,} {length}, but training starts anew: {why_not}"
        print(said, file=sys.stderr)
    return ""


def last_state(config: TrainingConfig, folder: Path, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every seed's state before its last step, without what `weights` have; empty where no training can go on."""
    state: dict[str, Tensor] = {}
    for seed in () if config.why_not_longer() else config.seeds:
        newest, *before = good_checkpoints(checkpoint_of(folder, seed))
        early = newest[1]["rows"][-1]["step"] < config.total_steps()  # and would in a longer training
        found = [newest] if early else [each for each in before if not each[1]["ended"]]
        if not found:
            return {}
        tensors, facts = found[0]
        own = {name: weights.get(f"seed{seed}.{name.removeprefix('weights.')}") for name in tensors}
        kept = [name for name, each in own.items() if each is not None and torch.equal(each, tensors[name])]
        state |= {f"seed{seed}.{name}": each for name, each in tensors.items() if name not in kept}
        state[f"seed{seed}.facts"] = _as_bytes(facts | {"in_weights": kept})
    return state


def by_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
