"""Adversarial negative mining: batched projected descent on the energy (ANM checklist, sections B and H).

A trial point is accepted if Ẽ(trial) ≤ Ẽ(y) − (c/α)‖trial − y‖², Armijo's rule for projected descent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from anm_nb.config import Count, ParameterError, Parameters
from anm_nb.energy.constraints import Constraint
from anm_nb.energy.networks import Energy, Inputs, Model, Targets, energy_given, gradient_and_value
from anm_nb.energy.schedule import Points, SharedNoise, Values
from anm_nb.tasks import Clues, DenoisingTask
from anm_nb.training.seeds import RowDraws
from anm_nb.training.stack import host_may_wait

BB_RANGE = 10.0  # α stays within this factor of the first α
RESTARTS = 2  # of an example that comes too close to the truth; after these it only counts as `too_close`

Marks = Bool[Tensor, " b"]


class MinerConfig(Parameters):
    """Options of the miner. Lengths are in units of each example's ‖y⁺‖.

    `rule` sets the step size α. "armijo": halved after every rejection. "fixed": constant, and every step is accepted.
    "barzilai_borwein": as "armijo", but after a step s that changed the gradient by Δg it becomes ‖s‖²/⟨s, Δg⟩, within
    a factor `BB_RANGE` of the first α, or the largest such α if ⟨s, Δg⟩ ≤ 0 (Birgin, Martínez & Raydan 2000).
    """

    steps: Count = 3  # accepted descent steps
    eps: PositiveFloat = 1.0  # radius of the ball around the truth
    delta: NonNegativeFloat = 0.1  # least distance from the truth; an example that comes closer restarts
    start: PositiveFloat = 0.5  # distance of the random starting point from the truth
    step_size: PositiveFloat = 0.5  # length of the first trial step
    rule: Literal["armijo", "fixed", "barzilai_borwein"] = "armijo"
    armijo_c: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    max_backtracks: Count = 4  # rejections in a row that end an example
    tol: NonNegativeFloat = 0.0  # an example ends once ‖y − Π(y − α∇Ẽ)‖ is shorter
    distance_weight: NonNegativeFloat = 0.0  # λ in Ẽ(y) = E(y) − λ‖y − y⁺‖²
    turns: PositiveInt | None = None  # evaluations that cut an example off; None: enough for over 99 % to end

    @model_validator(mode="after")
    def _fits(self) -> "MinerConfig":
        if not self.delta <= self.start <= self.eps:
            raise ValueError(f"delta = {self.delta} ≤ start = {self.start} ≤ eps = {self.eps} has to hold")
        if self.turns is not None and self.turns <= self.steps:
            raise ValueError(f"turns = {self.turns}: should be more than steps = {self.steps}, as the start takes one")
        return self


@dataclass(frozen=True)
class MiningProblem:
    """Inputs of a strategy, rows seed after seed. GPUs need `torch.where` instead of `.item()`, `if` or `x[mask]`."""

    task: DenoisingTask
    x: Inputs
    y_pos: Targets
    noise: SharedNoise  # levels k and ε, shared by positive and negative
    model: Model  # the networks in training
    averaged: Model  # their EMA, in eval mode and without gradients
    draws: RowDraws  # random rows: .normal(shape), .uniform(shape), .integers(high, shape)
    clues: Clues | None = None  # answer entries given by the problem; they stay fixed
    progress: Float[Tensor, ""] = field(default_factory=lambda: torch.ones(()))  # fraction of training done, in [0, 1]

    @property
    def energy(self) -> Energy:
        """EMA energies of clean points under the batch's noise, low for good negatives. Access is costly: keep it."""
        of_noised = energy_given(self.averaged, self.x, self.noise.k)
        return lambda y: of_noised(self.noise.noised(self.impose(y)).as_subclass(Tensor))

    @cached_property
    def noised_energy(self) -> Energy:
        """Energies of noised points under the networks in training, with gradients if these are on at first access."""
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
    """Negatives in clean y-space, and a log of one tensor [b] per column."""

    y_neg: Points
    log: dict[str, Tensor] = field(default_factory=dict)


class Trial(NamedTuple):
    """One turn of the miner: a trial point per example and its outcome. All marks are False after an example's end."""

    y: Points
    value: Values  # Ẽ of the trial points
    previous: Points  # the points they were tried from
    previous_value: Values
    alpha: Values  # step size of the trial
    starting: Marks  # a new starting point, taken whatever its energy
    accepted: Marks
    rejected: Marks


@torch.no_grad()
def mine(
    energy: Energy,
    y_pos: Points,
    constraint: Constraint,
    config: MinerConfig,
    generator: torch.Generator | Sequence[torch.Generator],
    callback: Callable[[Trial], None] | None = None,
    near: Callable[[Tensor], Tensor] | None = None,
) -> Mined:
    """Minimise Ẽ(y) = E(y) − λ‖y − y⁺‖² over the constraint set, all examples at once.

    Every turn evaluates Ẽ and its gradient at one trial point per example, and is passed to `callback`. An example ends
    after `steps` accepted steps, after `max_backtracks` rejections in a row, or at a point stationary to `tol`. If it
    comes too close to the truth (`near(y)` [b]; default: within `delta`), it restarts, at most `RESTARTS` times. Of
    several generators each draws for one block of examples. Raises `ParameterError` unless energies are [b].
    """
    sources = [generator] if isinstance(generator, torch.Generator) else generator
    may_wait, scale = host_may_wait(), y_pos.norm(dim=1)
    is_near = near or (lambda y: (y - y_pos).norm(dim=1) < config.delta * scale)

    def objective(point: Tensor) -> Tensor:
        found = energy(point)
        if found.shape != (len(point),):
            raise ParameterError(f"energy of {len(point)} points has shape {(*found.shape,)}: should be one per point")
        return found - config.distance_weight * (point - y_pos).square().sum(1) if config.distance_weight else found

    y = ahead = y_pos  # current points, and the trial points that follow
    value = alpha = first_alpha = scale  # placeholders until the start; they have to be positive
    gradient, start_value, slack = map(torch.zeros_like, (y_pos, scale, scale))
    accepted = backtracks = streak = restarts = torch.zeros_like(scale, dtype=torch.long)
    done = accepted.bool()
    starting = too_close = ~done
    # Turns besides `steps`, one of them for the start: with these, under 1 % of examples are cut off on params/mid.
    spare = 7 if near is not None else 5 if config.rule == "barzilai_borwein" else 2
    for _ in range(config.turns or config.steps + spare):
        if may_wait and bool(done.all()):
            break
        point = ahead
        if not may_wait or bool(starting.any()):
            start = constraint.start(y_pos, _directions(y, starting, sources, may_wait), config.start * scale)
            point = torch.where(starting.unsqueeze(1), start, ahead)
        new_gradient, new_value = gradient_and_value(objective, point)
        below = value - new_value - config.armijo_c / alpha * (point - y).square().sum(1)  # margin to Armijo's bound
        enough = torch.ones_like(done) if config.rule == "fixed" else below >= 0
        taken, rejected = (~done & ~starting & each for each in (enough, ~enough))
        if callback is not None:
            callback(Trial(point, new_value, y, value, alpha, starting, taken, rejected))
        if config.rule == "barzilai_borwein":
            alpha = torch.where(taken, _spectral_step(point - y, new_gradient - gradient, first_alpha), alpha)
        moved = taken | starting
        y = torch.where(moved.unsqueeze(1), point, y)
        gradient = torch.where(moved.unsqueeze(1), new_gradient, gradient)
        value, start_value = torch.where(moved, new_value, value), torch.where(starting, new_value, start_value)
        slack = torch.where(taken, torch.minimum(slack, below), slack)
        first_step = config.step_size * scale / gradient.norm(dim=1).clamp_min(1e-12)
        first_alpha = torch.where(starting, first_step, first_alpha)
        alpha = torch.where(starting, first_alpha, torch.where(rejected, alpha / 2, alpha))
        ahead = constraint.project(y - alpha.unsqueeze(1) * gradient)

        backtracks, streak = backtracks + rejected, torch.where(moved, 0, streak + rejected)
        too_close = is_near(y)
        starting = moved & too_close & (restarts < RESTARTS)
        restarts, accepted = restarts + starting, torch.where(starting, 0, accepted + taken)
        ended = (accepted >= config.steps) | (streak >= config.max_backtracks)
        if config.tol:
            ended = ended | moved & ((y - ahead).norm(dim=1) < config.tol * scale)
        done = done | ~starting & ended

    gm_norm = (y - ahead).norm(dim=1)  # length of the gradient mapping: of the step that would come next
    log = {
        "miner_accepted": accepted,
        "miner_backtracks": backtracks,
        "miner_limit_hits": streak >= config.max_backtracks,  # ended by rejections
        "miner_restarts": restarts,
        "miner_cut": ~done,
        "miner_converged": gm_norm < config.tol * scale,
        "armijo_slack": slack,
        "gm_norm": gm_norm,
        "feasibility_residual": constraint.residual(y),
        "wrongness": (y - y_pos).norm(dim=1),
        "too_close": too_close,
        "e_start": start_value,
        "e_mined": value,
    }
    return Mined(y, log)


def _directions(y: Points, starting: Marks, sources: Sequence[torch.Generator], may_wait: bool) -> Points:
    """Normal draws, a block of rows per generator. If the host may wait, blocks without a starting row draw nothing."""
    directions, count = torch.ones_like(y), len(sources)
    for block, needed, source in zip(directions.chunk(count), starting.chunk(count), sources, strict=True):
        if not may_wait or bool(needed.any()):
            block.normal_(generator=source)
    return directions


def _spectral_step(step: Points, change: Points, first: Values) -> Values:
    """‖s‖²/⟨s, Δg⟩ (Barzilai & Borwein 1988), within a factor `BB_RANGE` of the first α; the largest if ⟨s, Δg⟩ ≤ 0."""
    curvature = (step * change).sum(1)
    length = torch.where(curvature > 0, step.square().sum(1) / curvature, torch.inf)
    return torch.clamp(length, first / BB_RANGE, first * BB_RANGE)
