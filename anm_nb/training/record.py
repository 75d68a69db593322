"""What is recorded of one seed while it trains: rows, arrays, the selected weights, and how it ended."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anm_nb.training.learner import Measurement, TrainingConfig


def by_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


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

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All of it as tensors, and facts for JSON."""
        tensors = {f"array.{name}": torch.stack(values) for name, values in self.arrays.items()}
        tensors |= {f"selected.{name}": tensor for name, tensor in self.selected.items()}
        tensors |= {f"kept.{name}": tensor for name, tensor in self.kept.items()}
        tensors |= {f"last.{name}": tensor for name, tensor in self.weights.items()}
        facts = {name: getattr(self, name) for name in _FACTS}
        return tensors, facts

    def load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], device: str) -> None:
        """Continue where `state` stood."""
        for name in _FACTS:
            setattr(self, name, facts[name])
        self.arrays = {name: list(values.cpu()) for name, values in by_prefix(tensors, "array.").items()}
        self.selected = {name: tensor.to(device) for name, tensor in by_prefix(tensors, "selected.").items()}
        self.kept, self.weights = by_prefix(tensors, "kept."), by_prefix(tensors, "last.")


_FACTS = ("seed", "rows", "seconds", "selection", "ended", "failure")
