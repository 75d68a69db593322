"""Adversarial negative mining: projected descent on the energy, batched (ANM checklist, sections B and H).

With backtracking, a trial is accepted when Ẽ(trial) ≤ Ẽ(y) − (c/α)‖trial − y‖², the projected form of the document's
rule: equal to it inside the set, while at the border the document's own form, with ‖∇Ẽ‖², could refuse every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from jaxtyping import Bool
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from anm_nb.bounds import Count
from anm_nb.config import ParameterError, Parameters
from anm_nb.energy.constraints import Constraint, L2Ball
from anm_nb.energy.networks import gradient_and_value
from anm_nb.energy.schedule import Points, Values
from anm_nb.training.graph import host_may_wait

SHRINK = 0.5  # factor on the step after a rejection
BB_RANGE = 10.0  # α may be this many times the first α, or that part of it
RESTARTS = 2  # new starts after which a point too near the truth is given up, and marked

Energy = Callable[[Tensor], Tensor]  # clean points [b, d] to energies [b]
Marks = Bool[Tensor, " b"]
Rule = Literal["armijo", "fixed", "barzilai_borwein"]


class MinerConfig(Parameters):
    """How negatives are mined. Lengths are in units of ‖y⁺‖, example by example.

    `rule` sets the step size α. "armijo": α halves after every rejection and never grows. "fixed": α stays, and every
    step is taken, whatever it does to the energy. "barzilai_borwein": after each step s, which changed the gradient by
    Δg, α = ‖s‖²/⟨s, Δg⟩ (Barzilai & Borwein 1988), with backtracking as safeguard and within a factor `BB_RANGE` of
    the first α; the upper bound stands in where the curvature ⟨s, Δg⟩ is not positive (Birgin, Martínez & Raydan 2000).
    """

    steps: Count = 3  # accepted descent steps
    eps: PositiveFloat = 1.0  # radius of the ball around the truth
    delta: NonNegativeFloat = 0.1  # least distance from the truth; nearer points start anew
    start: PositiveFloat = 0.5  # distance from the truth at which descent starts, in a random direction
    step_size: PositiveFloat = 0.5  # length of the first trial step
    rule: Rule = "armijo"
    armijo_c: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    max_backtracks: Count = 4  # rejections in a row after which an example stops
    tol: NonNegativeFloat = 0.0  # an example stops when its projected gradient mapping is shorter
    distance_weight: NonNegativeFloat = 0.0  # λ of E − λ‖y − y⁺‖²
    turns: PositiveInt | None = None  # evaluations after which an example is cut; None: under 1 % are, measured

    @model_validator(mode="after")
    def _fits(self) -> MinerConfig:
        if not self.delta <= self.start <= self.eps:
            raise ValueError(f"delta = {self.delta} ≤ start = {self.start} ≤ eps = {self.eps} has to hold")
        if self.turns is not None and self.turns <= self.steps:
            raise ValueError(f"turns = {self.turns}: should be more than steps = {self.steps}, as the start is one")
        return self

    def to_the_end(self) -> MinerConfig:
        """The same miner, with as many turns as any descent can take where it has no limit of its own."""
        most = (RESTARTS + 1) * (1 + self.steps * self.max_backtracks)
        return self if self.turns else self.model_copy(update={"turns": most})


@dataclass(frozen=True)
class Mined:
    """Negatives in clean y-space, and what the miner recorded of each example (tensors [batch])."""

    y_neg: Points
    log: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One turn of the miner: a trial point of every example, and what became of it.

    An example is in at most one of `starting`, `accepted` and `rejected`, which are all False after it has ended.
    """

    turn: int
    y: Points
    value: Values  # Ẽ of the trial points
    previous: Points  # where they were tried from
    previous_value: Values
    alpha: Values  # step size of the trial
    below: Values  # how far Ẽ lies below the Armijo bound
    starting: Marks  # a fresh starting point, taken whatever its energy
    accepted: Marks
    rejected: Marks


def at_length(direction: Points, length: Values) -> Points:
    """The directions with these lengths; a zero vector stays zero."""
    return direction * (length / direction.norm(dim=1).clamp_min(1e-30)).unsqueeze(1)


@torch.no_grad()
def mine(
    energy: Energy,
    y_pos: Points,
    constraint: Constraint,
    config: MinerConfig,
    generator: torch.Generator | Sequence[torch.Generator],
    callback: Callable[[Trial], None] | None = None,
    near: Callable[[Tensor], Tensor] | None = None,
    in_training: bool = False,
) -> Mined:
    """Minimise Ẽ(y) = E(y) − λ‖y − y⁺‖² over the constraint, all examples at once.

    Every turn evaluates Ẽ and its gradient at one trial point of each example, which serves both the test of that point
    and the next step from it; `callback` is handed every turn. An example ends after `steps` accepted steps,
    `max_backtracks` rejections in a row, or at a point stationary to `tol`; one that lands too near the truth
    (`near(y)` [batch], by default nearer than `delta`) starts anew, at most `RESTARTS` times, and is then marked
    `too_close`. One that has not ended after `turns` turns stays where it is and is marked `miner_cut`.
    With several generators the examples are as many equal blocks, each of which starts from its own, as it would alone.
    Where the host may wait, the loop ends with the last example, starting points are drawn only for blocks that need
    them, and an energy that is not finite raises `ParameterError` with its example and value (except `in_training`,
    where one seed's energies may fail and the loss tells of it).
    """
    sources = [generator] if isinstance(generator, torch.Generator) else generator

    def objective(point: Tensor) -> Tensor:
        value = energy(point)
        if value.shape != point.shape[:1]:
            shape = tuple(value.shape)
            raise ParameterError(f"energy of {len(point)} points has shape {shape}: should be one number for each")
        if not config.distance_weight:
            return value
        return value - config.distance_weight * (point - y_pos).square().sum(1)

    now, may_wait = _Descents(y_pos, constraint, config, near), host_may_wait()
    # Turns beyond the steps (one is the start) with which under 1 % of examples are cut on params/mid. Answers that
    # round to the truth start anew most often, and Barzilai–Borwein's steps grow again.
    spare = 7 if near is not None else 5 if config.rule == "barzilai_borwein" else 2
    for turn in range(config.turns or config.steps + spare):
        if may_wait and bool(now.done.all()):
            break
        trial = now.trial(sources, may_wait)
        gradient, value = gradient_and_value(objective, trial)
        if may_wait and not in_training and bool((refused := ~now.done & ~value.isfinite()).any()):
            first = int(refused.nonzero()[0])
            raise ParameterError(f"energy of example {first} = {float(value[first])}: should be a finite number")
        tried = now.judge(trial, value, turn)
        if callback is not None:
            callback(tried)
        now.advance(tried, gradient)
    return Mined(now.y, now.log())


class _Descents:
    """Where every example stands between two turns."""

    def __init__(
        self, y_pos: Tensor, constraint: Constraint, config: MinerConfig, near: Callable[[Tensor], Tensor] | None
    ) -> None:
        self.y_pos, self.constraint, self.config = y_pos, constraint, config
        self.scale = y_pos.norm(dim=1)
        self.is_near = near or (lambda y: (y - y_pos).norm(dim=1) < config.delta * self.scale)
        self.y = self.ahead = y_pos  # where it is, and the point that is tried next
        self.gradient = torch.zeros_like(y_pos)
        # any positive number stands in for step sizes and the value until the start
        self.value = self.alpha = self.first_alpha = self.scale
        self.start_value = self.slack = torch.zeros_like(self.scale)
        self.accepted = self.backtracks = self.restarts = torch.zeros_like(self.scale, dtype=torch.long)
        self.streak = self.accepted  # rejections in a row
        self.done = self.accepted.bool()
        self.near = self.starting = ~self.done

    def trial(self, sources: Sequence[torch.Generator], may_wait: bool) -> Points:
        """The points of this turn. Directions are drawn block by block; where nobody starts, only if unavoidable."""
        starts = [True] * len(sources)
        if may_wait:
            starts = self.starting.unflatten(0, (len(sources), -1)).any(1).tolist()
        if not any(starts):
            return self.ahead
        directions = torch.ones_like(self.y_pos)
        for block, source, starting in zip(directions.chunk(len(sources)), sources, starts, strict=True):
            if starting:
                block.normal_(generator=source)
        return _where(self.starting, self.starting_points(directions), self.ahead)

    def starting_points(self, direction: Points) -> Points:
        """Feasible points in those directions, at the starting distance, nearer where the set ends before."""
        y_pos, constraint, distance = self.y_pos, self.constraint, self.config.start * self.scale
        if isinstance(constraint, L2Ball):  # whose directions all reach as far
            return y_pos + at_length(constraint.tangent(direction), distance)
        shift = constraint.project(y_pos + at_length(direction, distance)) - y_pos
        start = y_pos + at_length(shift, distance)
        outside = constraint.residual(start) > 1e-5 * distance  # beyond rounding
        return _where(outside, constraint.project(start), start)

    def judge(self, trial: Points, value: Values, turn: int) -> Trial:
        """Which examples take their trial points."""
        below = self.value - value - self.config.armijo_c / self.alpha * (trial - self.y).square().sum(1)
        stepping = ~self.done & ~self.starting
        enough = torch.ones_like(stepping) if self.config.rule == "fixed" else below >= 0
        judged = (self.starting, stepping & enough, stepping & ~enough)
        return Trial(turn, trial, value, self.y, self.value, self.alpha, below, *judged)

    def advance(self, tried: Trial, trial_gradient: Points) -> None:
        """The state after a turn."""
        config, moved, left = self.config, tried.accepted | tried.starting, self.gradient
        self.y, self.gradient = _where(moved, tried.y, self.y), _where(moved, trial_gradient, self.gradient)
        first = config.step_size * self.scale / self.gradient.norm(dim=1).clamp_min(1e-12)
        self.first_alpha = torch.where(tried.starting, first, self.first_alpha)
        alpha = torch.where(tried.rejected, SHRINK * self.alpha, self.alpha)
        if config.rule == "barzilai_borwein":
            step = tried.y - tried.previous
            curvature = (step * (trial_gradient - left)).sum(1)
            spectral = torch.where(curvature > 0, step.square().sum(1) / curvature, torch.inf)
            spectral = torch.clamp(spectral, self.first_alpha / BB_RANGE, self.first_alpha * BB_RANGE)
            alpha = torch.where(tried.accepted, spectral, alpha)
        self.alpha = torch.where(tried.starting, first, alpha)
        self.ahead = self.constraint.project(self.y - self.alpha.unsqueeze(1) * self.gradient)
        self.value = torch.where(moved, tried.value, self.value)
        self.start_value = torch.where(tried.starting, tried.value, self.start_value)
        self.slack = torch.where(tried.accepted, torch.minimum(self.slack, tried.below), self.slack)
        self.backtracks = self.backtracks + tried.rejected
        self.streak = torch.where(moved, 0, self.streak + tried.rejected)
        self.near = self.is_near(self.y)
        self.starting = moved & self.near & (self.restarts < RESTARTS)
        self.restarts = self.restarts + self.starting
        self.accepted = torch.where(self.starting, 0, self.accepted + tried.accepted)
        ended = (self.accepted >= config.steps) | (self.streak >= config.max_backtracks)
        if config.tol:
            ended = ended | moved & ((self.y - self.ahead).norm(dim=1) < config.tol * self.scale)
        self.done = self.done | ~self.starting & ended

    def log(self) -> dict[str, Tensor]:
        """The columns of section B. `gm_norm` is the length of the step that would be tried next."""
        gm_norm = (self.y - self.ahead).norm(dim=1)
        return {
            "miner_accepted": self.accepted,
            "miner_backtracks": self.backtracks,
            "miner_limit_hits": self.streak >= self.config.max_backtracks,  # ended by rejections, not by choice
            "miner_restarts": self.restarts,
            "miner_cut": ~self.done,
            "miner_converged": gm_norm < self.config.tol * self.scale,
            "armijo_slack": self.slack,
            "gm_norm": gm_norm,
            "feasibility_residual": self.constraint.residual(self.y),
            "wrongness": (self.y - self.y_pos).norm(dim=1),
            "too_close": self.near,
            "e_start": self.start_value,
            "e_mined": self.value,
        }


def _where(condition: Marks, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(condition.unsqueeze(1), yes, no)
