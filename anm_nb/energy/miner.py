"""Adversarial negative mining: projected descent on the energy, batched (ANM checklist, sections B and H).

With backtracking, a trial is accepted when Ẽ(trial) ≤ Ẽ(y) − (c/α)‖trial − y‖², the projected form of the document's
rule: equal to it inside the set, while at the border the document's own form, with ‖∇Ẽ‖², could refuse every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from anm_nb.config import ParameterError, Parameters
from anm_nb.energy.networks import gradient_and_value

Energy = Callable[[Tensor], Tensor]  # clean points [b, d] to energies [b]
Rule = Literal["armijo", "fixed", "barzilai_borwein"]


@runtime_checkable
class Constraint(Protocol):
    """A set with its projection."""

    def project(self, y: Tensor) -> Tensor:
        """The nearest point of the set, row by row."""

    def residual(self, y: Tensor) -> Tensor:
        """Distance [batch] from the set."""


class MinerConfig(Parameters):
    """How negatives are mined. Lengths are in units of ‖y⁺‖, example by example.

    `rule` sets the step size α. "armijo": α shrinks after every rejection and never grows. "fixed": α stays, and every
    step is taken, whatever it does to the energy. "barzilai_borwein": after each step s, which changed the gradient by
    Δg, α = ‖s‖²/⟨s, Δg⟩ (Barzilai & Borwein 1988), with backtracking as safeguard and within `bb_range` of the first
    α, whose upper end also stands in where the curvature ⟨s, Δg⟩ is not positive (Birgin, Martínez & Raydan 2000).
    """

    steps: PositiveInt = 3  # accepted descent steps
    eps: PositiveFloat = 1.0  # radius of the ball around the truth
    delta: NonNegativeFloat = 0.1  # least distance from the truth; nearer points start anew
    start: PositiveFloat = 0.5  # distance from the truth at which descent starts, in a random direction
    step_size: PositiveFloat = 0.5  # length of the first trial step
    rule: Rule = "armijo"
    armijo_c: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    shrink: Annotated[float, Field(gt=0, lt=1)] = 0.5  # factor on the step after a rejection
    bb_range: Annotated[float, Field(ge=1)] = 10.0  # α may be this many times the first α, or that part of it
    max_backtracks: PositiveInt = 4  # rejections in a row after which an example stops
    max_restarts: NonNegativeInt = 2  # new starts after which a point nearer than delta is given up, and marked
    tol: NonNegativeFloat = 0.0  # an example stops when its projected gradient mapping is shorter
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


@dataclass(frozen=True)
class Trial:
    """One turn of the miner: a trial point of every example, and what became of it.

    An example is in at most one of `starting`, `accepted` and `rejected`; in none once it has ended.
    """

    turn: int
    y: Float[Tensor, "b d"]
    value: Float[Tensor, " b"]  # Ẽ of the trial points
    previous: Float[Tensor, "b d"]  # where they were tried from
    previous_value: Float[Tensor, " b"]
    alpha: Float[Tensor, " b"]  # step size of the trial
    below: Float[Tensor, " b"]  # how far Ẽ lies below the Armijo bound
    starting: Bool[Tensor, " b"]  # a fresh starting point, taken whatever its energy
    accepted: Bool[Tensor, " b"]
    rejected: Bool[Tensor, " b"]


@dataclass(frozen=True)
class _Descents:
    """Where every example stands between two turns."""

    y: Float[Tensor, "b d"]
    ahead: Float[Tensor, "b d"]  # the point that is tried next
    gradient: Float[Tensor, "b d"]
    value: Float[Tensor, " b"]
    start_value: Float[Tensor, " b"]
    alpha: Float[Tensor, " b"]
    first_alpha: Float[Tensor, " b"]
    slack: Float[Tensor, " b"]
    accepted: Int[Tensor, " b"]
    backtracks: Int[Tensor, " b"]
    streak: Int[Tensor, " b"]  # rejections in a row
    restarts: Int[Tensor, " b"]
    near: Bool[Tensor, " b"]
    starting: Bool[Tensor, " b"]
    done: Bool[Tensor, " b"]


def random_shift(
    y: Float[Tensor, "b d"], length: Float[Tensor, " b"], generator: torch.Generator
) -> Float[Tensor, "b d"]:
    """Random directions, uniform on the sphere, of the given lengths."""
    return _stretched(torch.randn(y.shape, generator=generator, device=y.device, dtype=y.dtype), length)


def _stretched(direction: Float[Tensor, "b d"], length: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
    return direction * (length / direction.norm(dim=1)).unsqueeze(1)


@torch.no_grad()
def mine(
    energy: Energy,
    y_pos: Float[Tensor, "b d"],
    constraint: Constraint,
    config: MinerConfig,
    generator: torch.Generator | Sequence[torch.Generator],
    callback: Callable[[Trial], None] | None = None,
    near: Callable[[Tensor], Tensor] | None = None,
) -> Mined:
    """Minimise Ẽ(y) = E(y) − λ‖y − y⁺‖² over the constraint, all examples at once.

    Every turn of the loop evaluates Ẽ and its gradient at one trial point of each example, which serves both the test
    of that point and the next step from it; `callback` is handed every turn. An example ends after `steps` accepted
    steps, `max_backtracks` rejections in a row, or at a point stationary to `tol`; one that lands too near the truth
    (`near(y)` [batch] is true, by default nearer than `delta`) starts anew, at most `max_restarts` times, and is then
    marked `too_close`. With several generators the examples are as many blocks of equal length, each of which starts
    from its own generator, as it would alone. Raises `ParameterError` for an energy that is not a finite number, by
    example and value.
    """
    scale = y_pos.norm(dim=1)
    sources = [generator] if isinstance(generator, torch.Generator) else generator

    def objective(point: Tensor) -> Tensor:
        return _one_each(energy(point), point) - config.distance_weight * (point - y_pos).square().sum(1)

    def within_delta(point: Tensor) -> Tensor:
        return (point - y_pos).norm(dim=1) < config.delta * scale

    now, turn = _before(y_pos, scale), 0
    while not bool(now.done.all()):
        trial = now.ahead
        beginning = now.starting.unflatten(0, (len(sources), -1)).any(1).tolist()
        if any(beginning):
            shift = _starting_shifts(y_pos, config.start * scale, sources, beginning)
            trial = _where(now.starting, _starting_points(y_pos, constraint, config.start * scale, shift), trial)
        gradient, value = gradient_and_value(objective, trial)
        _require_finite(value, ~now.done)
        tried = _judged(now, trial, value, config, turn)
        if callback is not None:
            callback(tried)
        now = _advanced(now, tried, gradient, constraint, config, scale, near or within_delta)
        turn += 1
    return Mined(now.y, _log(now, y_pos, constraint, config.tol * scale, config.max_backtracks))


def _before(y_pos: Float[Tensor, "b d"], scale: Float[Tensor, " b"]) -> _Descents:
    """Every example about to start. Step sizes and values stand in until then: any positive number does."""
    count = torch.zeros(len(y_pos), dtype=torch.long, device=y_pos.device)
    everyone, nobody, zero = torch.ones_like(count, dtype=torch.bool), count.bool(), torch.zeros_like(scale)
    return _Descents(
        y=y_pos,
        ahead=y_pos,
        gradient=torch.zeros_like(y_pos),
        value=scale,
        start_value=zero,
        alpha=scale,
        first_alpha=scale,
        slack=zero,
        accepted=count,
        backtracks=count,
        streak=count,
        restarts=count,
        near=everyone,
        starting=everyone,
        done=nobody,
    )


def _judged(now: _Descents, trial: Tensor, value: Tensor, config: MinerConfig, turn: int) -> Trial:
    """Which examples take their trial points."""
    below = now.value - value - config.armijo_c / now.alpha * (trial - now.y).square().sum(1)
    stepping = ~now.done & ~now.starting
    enough = torch.ones_like(stepping) if config.rule == "fixed" else below >= 0
    accepted, rejected = stepping & enough, stepping & ~enough
    return Trial(turn, trial, value, now.y, now.value, now.alpha, below, now.starting, accepted, rejected)


def _advanced(
    now: _Descents,
    tried: Trial,
    trial_gradient: Tensor,
    constraint: Constraint,
    config: MinerConfig,
    scale: Tensor,
    is_near: Callable[[Tensor], Tensor],
) -> _Descents:
    """Where every example stands after a turn."""
    moved = tried.accepted | tried.starting
    y, gradient = _where(moved, tried.y, now.y), _where(moved, trial_gradient, now.gradient)
    first = config.step_size * scale / gradient.norm(dim=1).clamp_min(1e-12)
    first_alpha = torch.where(tried.starting, first, now.first_alpha)
    alpha = torch.where(tried.starting, first, torch.where(tried.rejected, config.shrink * now.alpha, now.alpha))
    if config.rule == "barzilai_borwein":
        spectral = _spectral_step(tried.y - now.y, trial_gradient - now.gradient, first_alpha, config.bb_range)
        alpha = torch.where(tried.accepted, spectral, alpha)
    ahead = constraint.project(y - alpha.unsqueeze(1) * gradient)
    near = is_near(y)
    streak = torch.where(moved, 0, now.streak + tried.rejected)
    starting = moved & near & (now.restarts < config.max_restarts)
    accepted = torch.where(starting, 0, now.accepted + tried.accepted)
    ended = (accepted >= config.steps) | (streak >= config.max_backtracks)
    stationary = moved & ((y - ahead).norm(dim=1) < config.tol * scale)
    return _Descents(
        y=y,
        ahead=ahead,
        gradient=gradient,
        value=torch.where(moved, tried.value, now.value),
        start_value=torch.where(tried.starting, tried.value, now.start_value),
        alpha=alpha,
        first_alpha=first_alpha,
        slack=torch.where(tried.accepted, torch.minimum(now.slack, tried.below), now.slack),
        accepted=accepted,
        backtracks=now.backtracks + tried.rejected,
        streak=streak,
        restarts=now.restarts + starting,
        near=near,
        starting=starting,
        done=now.done | ~starting & (ended | stationary),
    )


def _spectral_step(step: Tensor, change: Tensor, first: Tensor, bb_range: float) -> Float[Tensor, " b"]:
    """‖s‖²/⟨s, Δg⟩ within its bounds; the upper one where the curvature is not positive."""
    curvature = (step * change).sum(1)
    spectral = torch.where(curvature > 0, step.square().sum(1) / curvature, torch.inf)
    return torch.clamp(spectral, first / bb_range, first * bb_range)


def _log(
    now: _Descents, y_pos: Tensor, constraint: Constraint, tol: Float[Tensor, " b"], max_backtracks: int
) -> dict[str, Tensor]:
    """The columns of section B. `gm_norm` is the length of the step that would be tried next."""
    gm_norm = (now.y - now.ahead).norm(dim=1)
    return {
        "miner_accepted": now.accepted,
        "miner_backtracks": now.backtracks,
        "miner_limit_hits": now.streak >= max_backtracks,  # ended by rejections, not by choice
        "miner_restarts": now.restarts,
        "miner_converged": gm_norm < tol,
        "armijo_slack": now.slack,
        "gm_norm": gm_norm,
        "feasibility_residual": constraint.residual(now.y),
        "wrongness": (now.y - y_pos).norm(dim=1),
        "too_close": now.near,
        "e_start": now.start_value,
        "e_mined": now.value,
    }


def _where(condition: Bool[Tensor, " b"], yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(condition.unsqueeze(1), yes, no)


def _one_each(energies: Tensor, points: Tensor) -> Tensor:
    if energies.shape != points.shape[:1]:
        raise ParameterError(
            f"energy of {len(points)} points has shape {tuple(energies.shape)}: should be one number for each"
        )
    return energies


def _require_finite(value: Float[Tensor, " b"], active: Bool[Tensor, " b"]) -> None:
    refused = active & ~value.isfinite()
    if bool(refused.any()):
        example = int(refused.nonzero()[0])
        raise ParameterError(f"energy of example {example} = {float(value[example])}: should be a finite number")


def _starting_shifts(
    y_pos: Tensor, distance: Float[Tensor, " b"], sources: Sequence[torch.Generator], beginning: Sequence[bool]
) -> Tensor:
    """Random shifts of that length, block by block; nothing is drawn for a block in which nobody begins."""
    blocks = zip(y_pos.chunk(len(sources)), sources, beginning, strict=True)
    directions = [
        torch.randn(block.shape, generator=source, device=block.device, dtype=block.dtype)
        if begins
        else torch.ones_like(block)
        for block, source, begins in blocks
    ]
    return _stretched(torch.cat(directions), distance)


def _starting_points(
    y_pos: Tensor, constraint: Constraint, distance: Float[Tensor, " b"], shift: Float[Tensor, "b d"]
) -> Tensor:
    """Feasible points in the directions of the shifts, at the given distance, nearer where the set ends before."""
    shift = constraint.project(y_pos + shift) - y_pos
    start = y_pos + shift * (distance / shift.norm(dim=1).clamp_min(1e-30)).unsqueeze(1)
    outside = constraint.residual(start) > 1e-5 * distance  # beyond rounding: Euclidean balls never are
    return _where(outside, constraint.project(start), start)
