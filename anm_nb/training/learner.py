"""What the training loop asks of a family: a learner, its parameter groups, its losses and its measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@dataclass
class ParameterGroup:
    """Parameters with an optimiser, a clipping norm, and the number of steps for which they stay frozen."""

    name: str
    parameters: list[nn.Parameter]
    optimiser: torch.optim.Optimizer
    clip_norm: float
    frozen_steps: int = 0


@dataclass
class StepLosses:
    """The scalar to descend, and its parts by name for the record."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Measurement:
    """One row of the metrics table and the arrays kept beside it, which have the same shape at every step.

    With a `selection` score (higher is better, NaN never is) the loop keeps the EMA weights of the best measurement.
    """

    scalars: dict[str, float]
    arrays: dict[str, Tensor] = field(default_factory=dict)
    selection: float | None = None


@runtime_checkable
class Learner(Protocol):
    """What a family brings: a model, its groups, every generator it draws from, its losses and its measurements."""

    model: nn.Module
    groups: Sequence[ParameterGroup]
    generators: Mapping[str, torch.Generator]

    def losses(self, step: int, averaged: nn.Module) -> StepLosses:
        """Losses of the next batch; `averaged` is the EMA of the model, in eval mode and without gradients."""

    def measure(self, step: int, averaged: nn.Module, losses: StepLosses) -> Measurement:
        """Measurements before the update of this step. Must leave `generators` as they are."""


@runtime_checkable
class Stateful(Protocol):
    """A learner with state beside its weights, optimisers and generators: tensors by name, changed in place."""

    state: dict[str, Tensor]


@runtime_checkable
class FinallyEvaluated(Protocol):
    """A learner that is evaluated once more when training is over, on data that nothing was chosen by."""

    def evaluate(self, selected: nn.Module) -> Measurement:
        """The evaluation of the selected weights, or of the last EMA where none were selected."""
