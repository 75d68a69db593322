"""Adversarial negative mining: projected descent on the energy, batched (ANM checklist, sections B and H).

A trial is accepted when Ẽ(trial) ≤ Ẽ(y) − (c/α)‖trial − y‖², the projected form of Armijo's rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from anm_nb.config import Count, ParameterError, Parameters
from anm_nb.energy.constraints import Constraint
from anm_nb.energy.networks import Inputs, Model, Targets, energy_given, gradient_and_value
from anm_nb.energy.schedule import Points, SharedNoise, Values
from anm_nb.tasks import Clues, DenoisingTask
from anm_nb.training.seeds import RowDraws
from anm_nb.training.stack import host_may_wait

BB_RANGE = 10.0  # α may be this many times the first α, or that part of it
RESTARTS = 2  # new starts after which a point too near the truth is given up, and marked

Energy = Callable[[Tensor], Tensor]  # clean points [b, d] to energies [b]
Marks = Bool[Tensor, " b"]


class MinerConfig(Parameters):
    """How negatives are mined. Lengths are in units of ‖y⁺‖, example by example.

    `rule` sets the step size α. "armijo": halved after every rejection. "fixed": constant, and every step is taken.
    "barzilai_borwein": ‖s‖²/⟨s, Δg⟩ after a step s that changed the gradient by Δg (Barzilai & Borwein 1988), within
    `BB_RANGE` of the first α, and its upper bound where ⟨s, Δg⟩ ≤ 0 (Birgin, Martínez & Raydan 2000).
    """

    steps: Count = 3  # accepted descent steps
    eps: PositiveFloat = 1.0  # radius of the ball around the truth
    delta: NonNegativeFloat = 0.1  # least distance from the truth; nearer points start anew
    start: PositiveFloat = 0.5  # distance from the truth at which descent starts, in a random direction
    step_size: PositiveFloat = 0.5  # length of the first trial step
    rule: Literal["armijo", "fixed", "barzilai_borwein"] = "armijo"
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


@dataclass(frozen=True)
class MiningProblem:
    """What a strategy may use, seed after seed; on a GPU with `torch.where`, and no `.item()`, `if` or `x[mask]`."""

    task: DenoisingTask
    x: Inputs
    y_pos: Targets
    noise: SharedNoise  # levels k and ε that positive and negative share
    model: Model  # the network in training
    averaged: Model  # its EMA, in eval mode and without gradients
    draws: RowDraws  # random rows: .normal(shape), .uniform(shape), .integers(high, shape)
    clues: Clues | None = None  # entries of the answers that are given, and stay as they are
    progress: Float[Tensor, ""] = field(default_factory=lambda: torch.ones(()))  # share of the training done, in [0, 1]

    @property
    def energy(self) -> Energy:
        """EMA energies of clean points under the batch's own noise, low for a good negative; take it once for many."""
        of_noised = energy_given(self.averaged, self.x, self.noise.k)
        return lambda y: of_noised(self.noise.noised(self.impose(y)).as_subclass(Tensor))

    @cached_property
    def noised_energy(self) -> Energy:
        """Energies of noised points under the network in training; with gradients if first asked for with them."""
        return energy_given(self.model, self.x, self.noise.k)

    def impose(self, y: Targets) -> Targets:
        return y if self.clues is None else self.clues.impose(y)

    @property
    def given(self) -> Bool[Tensor, "b y_dim"] | None:
        return None if self.clues is None else self.clues.mask

    @property
    def seeds(self) -> int:
        return len(self.draws.generators)


@dataclass(frozen=True)
class Mined:
    """Negatives in clean y-space, and what was recorded of each example (tensors [batch])."""

    y_neg: Points
    log: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One turn of the miner: a trial point of every example, and what became of it: nothing after its end."""

    y: Points
    value: Values  # Ẽ of the trial points
    previous: Points  # where they were tried from
    previous_value: Values
    alpha: Values  # step size of the trial
    starting: Marks  # a fresh starting point, taken whatever its energy
    accepted: Marks
    rejected: Marks
    slack: Values  # how far Ẽ is below Armijo's bound


class _Descent:
    """Where every example is between two turns, the point that it tries next, and what is counted."""

    def __init__(self, y_pos: Points, constraint: Constraint, config: MinerConfig) -> None:
        self.y_pos, self.constraint, self.config, self.scale = y_pos, constraint, config, y_pos.norm(dim=1)
        self.y = self.ahead = y_pos
        self.value = self.alpha = self.first_alpha = self.scale  # any positive number, until the start
        self.gradient, self.start_value, self.slack = map(torch.zeros_like, (y_pos, self.scale, self.scale))
        self.accepted = self.backtracks = self.streak = self.restarts = torch.zeros_like(self.scale, dtype=torch.long)
        self.done = self.accepted.bool()
        self.starting = self.too_close = ~self.done

    def trial_points(self, sources: Sequence[torch.Generator], may_wait: bool) -> Points:
        """The points ahead, or starts in random directions; where the host may wait, only blocks in need are drawn."""
        blocks = self.starting.unflatten(0, (len(sources), -1)).any(1)
        wanted = blocks.tolist() if may_wait else [True] * len(sources)
        if not any(wanted):
            return self.ahead
        direction = torch.ones_like(self.y)
        for block, source, drawn in zip(direction.chunk(len(sources)), sources, wanted, strict=True):
            if drawn:
                block.normal_(generator=source)
        start = self.constraint.start(self.y_pos, direction, self.config.start * self.scale)
        return torch.where(self.starting.unsqueeze(1), start, self.ahead)

    def judge(self, point: Points, value: Values) -> Trial:
        below = self.value - value - self.config.armijo_c / self.alpha * (point - self.y).square().sum(1)
        stepping = ~self.done & ~self.starting
        enough = torch.ones_like(stepping) if self.config.rule == "fixed" else below >= 0
        taken, refused = stepping & enough, stepping & ~enough
        return Trial(point, value, self.y, self.value, self.alpha, self.starting, taken, refused, below)

    def move(self, trial: Trial, gradient: Points, is_near: Callable[[Tensor], Tensor]) -> None:
        """Go where a trial was taken, choose the next point, and mark who has ended or starts anew."""
        config, taken, alpha = self.config, trial.accepted, self.alpha
        if config.rule == "barzilai_borwein":
            step = trial.y - self.y
            curvature = (step * (gradient - self.gradient)).sum(1)
            length = torch.where(curvature > 0, step.square().sum(1) / curvature, torch.inf)
            length = torch.clamp(length, self.first_alpha / BB_RANGE, self.first_alpha * BB_RANGE)
            alpha = torch.where(taken, length, alpha)
        moved = taken | trial.starting
        self.y = torch.where(moved.unsqueeze(1), trial.y, self.y)
        self.gradient = torch.where(moved.unsqueeze(1), gradient, self.gradient)
        self.value = torch.where(moved, trial.value, self.value)
        self.start_value = torch.where(trial.starting, trial.value, self.start_value)
        self.slack = torch.where(taken, torch.minimum(self.slack, trial.slack), self.slack)
        first_step = config.step_size * self.scale / self.gradient.norm(dim=1).clamp_min(1e-12)
        self.first_alpha = torch.where(trial.starting, first_step, self.first_alpha)
        self.alpha = torch.where(trial.starting, self.first_alpha, torch.where(trial.rejected, alpha / 2, alpha))
        self.ahead = self.constraint.project(self.y - self.alpha.unsqueeze(1) * self.gradient)
        self.backtracks = self.backtracks + trial.rejected
        self.streak = torch.where(moved, 0, self.streak + trial.rejected)  # of rejections
        self.too_close = is_near(self.y)
        self.starting = moved & self.too_close & (self.restarts < RESTARTS)
        self.restarts = self.restarts + self.starting
        self.accepted = torch.where(self.starting, 0, self.accepted + taken)
        ended = (self.accepted >= config.steps) | (self.streak >= config.max_backtracks)
        if config.tol:
            ended = ended | moved & ((self.y - self.ahead).norm(dim=1) < config.tol * self.scale)
        self.done = self.done | ~self.starting & ended

    def mined(self) -> Mined:
        gm_norm = (self.y - self.ahead).norm(dim=1)  # the length of the step that would be tried next
        log = {
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
            "too_close": self.too_close,
            "e_start": self.start_value,
            "e_mined": self.value,
        }
        return Mined(self.y, log)


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

    Every turn, which `callback` is handed, evaluates Ẽ and its gradient at one trial point of each example. An example
    ends after `steps` accepted steps, `max_backtracks` rejections in a row, or at a point stationary to `tol`; one too
    near the truth (`near(y)` [batch], or by `delta`) starts anew, at most `RESTARTS` times. Several generators have as
    many blocks of examples. Raises `ParameterError` for an energy that is not finite, but not `in_training`.
    """
    sources = [generator] if isinstance(generator, torch.Generator) else generator
    descent, may_wait = _Descent(y_pos, constraint, config), host_may_wait()
    is_near = near or (lambda y: (y - y_pos).norm(dim=1) < config.delta * descent.scale)

    def objective(point: Tensor) -> Tensor:
        if (value := energy(point)).shape != (count := len(point),):
            raise ParameterError(f"energy of {count} points has shape {(*value.shape,)}: should be one number for each")
        return value - config.distance_weight * (point - y_pos).square().sum(1) if config.distance_weight else value

    # Turns beyond the steps (one is the start) with which under 1 % of examples are cut on params/mid.
    spare = 7 if near is not None else 5 if config.rule == "barzilai_borwein" else 2
    for _ in range(config.turns or config.steps + spare):
        if may_wait and bool(descent.done.all()):
            break
        point = descent.trial_points(sources, may_wait)
        gradient, value = gradient_and_value(objective, point)
        if may_wait and not in_training and bool((refused := ~descent.done & ~value.isfinite()).any()):
            first = int(refused.nonzero()[0])
            raise ParameterError(f"energy of example {first} = {float(value[first])}: should be a finite number")
        trial = descent.judge(point, value)
        if callback is not None:
            callback(trial)
        descent.move(trial, gradient, is_near)
    return descent.mined()
