"""Adversarial negative mining: projected descent with Armijo backtracking, batched (ANM checklist, section B).

A trial is accepted when Ẽ(trial) ≤ Ẽ(y) − (c/α)‖trial − y‖², the projected form of the document's rule: equal to it
inside the set, while at the border the document's own form, with ‖∇Ẽ‖², could refuse every step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from anm_nb.energy.networks import gradient_and_value
from anm_nb.parameters import Parameters

Energy = Callable[[Tensor], Tensor]  # clean points [b, d] to energies [b]


@runtime_checkable
class Constraint(Protocol):
    """A set with its projection."""

    def project(self, y: Tensor) -> Tensor:
        """The nearest point of the set, row by row."""

    def residual(self, y: Tensor) -> Tensor:
        """Distance [batch] from the set."""


class MinerConfig(Parameters):
    """How negatives are mined. Lengths are in units of ‖y⁺‖, example by example."""

    steps: PositiveInt = 3  # accepted descent steps
    eps: PositiveFloat = 1.0  # radius of the ball around the truth
    delta: NonNegativeFloat = 0.1  # least distance from the truth; nearer points start anew
    start: PositiveFloat = 0.5  # distance from the truth at which descent starts, in a random direction
    step_size: PositiveFloat = 0.5  # length of the first trial step
    armijo_c: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    shrink: Annotated[float, Field(gt=0, lt=1)] = 0.5  # factor on the step after a rejection
    max_backtracks: PositiveInt = 4  # rejections in a row after which an example stops
    max_restarts: NonNegativeInt = 2  # new starts after which a point nearer than delta is given up, and marked
    distance_weight: NonNegativeFloat = 0.0  # λ of E − λ‖y − y⁺‖²

    @model_validator(mode="after")
    def _lengths_fit(self) -> MinerConfig:
        if not self.delta <= self.start <= self.eps:
            raise ValueError(f"delta = {self.delta} ≤ start = {self.start} ≤ eps = {self.eps} has to hold")
        return self


@dataclass(frozen=True)
class Mined:
    """Negatives in clean y-space, and what the miner recorded of each example (tensors [batch])."""

    y_neg: Float[Tensor, "b d"]
    log: dict[str, Tensor] = field(default_factory=dict)


def random_shift(
    y: Float[Tensor, "b d"], length: Float[Tensor, " b"], generator: torch.Generator
) -> Float[Tensor, "b d"]:
    """Random directions, uniform on the sphere, of the given lengths."""
    direction = torch.randn(y.shape, generator=generator, device=y.device, dtype=y.dtype)
    return direction * (length / direction.norm(dim=1)).unsqueeze(1)


@torch.no_grad()
def mine(
    energy: Energy, y_pos: Float[Tensor, "b d"], constraint: Constraint, config: MinerConfig, generator: torch.Generator
) -> Mined:
    """Minimise Ẽ(y) = E(y) − λ‖y − y⁺‖² over the constraint, all examples at once.

    Every turn of the loop evaluates Ẽ and its gradient at one trial point of each example, which serves both the Armijo
    test of that point and the next step from it. A rejection shrinks α. An example ends after `steps` accepted steps or
    `max_backtracks` rejections in a row; one that lands nearer than `delta` to the truth starts anew, at most
    `max_restarts` times, and is then marked `too_close`.
    """
    scale = y_pos.norm(dim=1)
    count = torch.zeros(len(y_pos), dtype=torch.long, device=y_pos.device)
    accepted, backtracks, streak, restarts = count, count, count, count
    starting = torch.ones_like(count, dtype=torch.bool)
    done = ~starting
    y, gradient, alpha, value, slack = y_pos, torch.zeros_like(y_pos), scale, scale, torch.zeros_like(scale)

    def objective(point: Tensor) -> Tensor:
        return energy(point) - config.distance_weight * (point - y_pos).square().sum(1)

    while not bool(done.all()):
        trial = constraint.project(y - alpha.unsqueeze(1) * gradient)
        if bool(starting.any()):
            fresh = _starting_points(y_pos, constraint, config.start * scale, generator)
            trial = torch.where(starting.unsqueeze(1), fresh, trial)
        trial_gradient, trial_value = gradient_and_value(objective, trial)
        # how far the trial lies below the Armijo bound; ≥ 0 for every accepted step
        below = value - trial_value - config.armijo_c / alpha * (trial - y).square().sum(1)
        stepping = ~done & ~starting & (below >= 0)
        rejected = ~done & ~starting & (below < 0)
        moved = stepping | starting
        y, gradient = _where(moved, trial, y), _where(moved, trial_gradient, gradient)
        value = torch.where(moved, trial_value, value)
        slack = torch.where(stepping, torch.minimum(slack, below), slack)
        first_step = config.step_size * scale / gradient.norm(dim=1).clamp_min(1e-12)
        alpha = torch.where(starting, first_step, torch.where(rejected, config.shrink * alpha, alpha))
        wrongness = (y - y_pos).norm(dim=1)
        too_close = wrongness < config.delta * scale
        backtracks, streak = backtracks + rejected, torch.where(moved, 0, streak + rejected)
        starting = moved & too_close & (restarts < config.max_restarts)
        restarts = restarts + starting
        accepted = torch.where(starting, 0, accepted + stepping)
        done = done | ~starting & ((accepted >= config.steps) | (streak >= config.max_backtracks))

    stationary_gap = y - constraint.project(y - alpha.unsqueeze(1) * gradient)  # the projected gradient mapping
    return Mined(
        y,
        {
            "miner_accepted": accepted,
            "miner_backtracks": backtracks,
            "miner_restarts": restarts,
            "armijo_slack": slack,
            "gm_norm": stationary_gap.norm(dim=1),
            "feasibility_residual": constraint.residual(y),
            "wrongness": wrongness,
            "too_close": too_close,
        },
    )


def _where(condition: Bool[Tensor, " b"], yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(condition.unsqueeze(1), yes, no)


def _starting_points(
    y_pos: Tensor, constraint: Constraint, distance: Float[Tensor, " b"], generator: torch.Generator
) -> Tensor:
    """Random feasible points at the given distance from the truth."""
    shift = constraint.project(y_pos + random_shift(y_pos, distance, generator)) - y_pos
    return y_pos + shift * (distance / shift.norm(dim=1).clamp_min(1e-30)).unsqueeze(1)
