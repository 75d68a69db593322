"""Annealed sampling by energy descent (IRED, arXiv 2406.11179, algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from anm_nb.config import Parameters
from anm_nb.energy.networks import energy_given, gradient_and_value
from anm_nb.energy.schedule import NoiseSchedule
from anm_nb.tasks.base import Clues


class SamplerConfig(Parameters):
    """How the sampler descends at each noise level."""

    inner_steps: PositiveInt = 5  # at most so many descent steps
    accept: bool = True  # a step that raises the energy is not taken; False takes every step
    tolerance: NonNegativeFloat | None = None  # an example rests after a step that lowers E by ≤ tolerance·|E|


PUBLISHED = SamplerConfig()  # Sudoku's recipe alone has another number of steps, `DenoisingTask.inner_steps`


@dataclass(frozen=True)
class SamplerState:
    """Where the sampler is after `step` descent steps of a level; step 0 is where the level's descent starts."""

    level: int
    step: int
    y: Float[Tensor, "b y_dim"]  # in y-space, given entries as given
    energy: Float[Tensor, " b"]
    accepted: Bool[Tensor, " b"]  # who has moved in this step; nobody in step 0


@dataclass
class Trajectory:
    """A callback that keeps every state it is handed, on the device they are on."""

    states: list[SamplerState] = field(default_factory=list)

    def __call__(self, state: SamplerState) -> None:
        """Keep one more."""
        self.states.append(state)

    @property
    def level(self) -> Int[Tensor, " records"]:
        """The noise level of each record."""
        return torch.tensor([state.level for state in self.states])

    @property
    def step(self) -> Int[Tensor, " records"]:
        """The step of each record within its level."""
        return torch.tensor([state.step for state in self.states])

    @property
    def y(self) -> Float[Tensor, "records b y_dim"]:
        """The points, in y-space."""
        return torch.stack([state.y for state in self.states])

    @property
    def energy(self) -> Float[Tensor, "records b"]:
        """Their energies, each at its record's level."""
        return torch.stack([state.energy for state in self.states])

    @property
    def accepted(self) -> Bool[Tensor, "records b"]:
        """Who moved in which step; its sum over records is the number of steps each example took."""
        return torch.stack([state.accepted for state in self.states])


@torch.no_grad()
def descend(
    energy: Callable[[Tensor], Tensor],
    noised: Float[Tensor, "b d"],
    step_size: Float[Tensor, "b 1"],
    bound: Float[Tensor, "b 1"],
    steps: int,
    accept: bool = True,
    tolerance: float | None = None,
    callback: Callable[[int, Tensor, Tensor, Tensor], None] | None = None,
) -> Float[Tensor, "b d"]:
    """Gradient steps on the energy of noised points, clamped to ±bound.

    With `accept` a step that raises the energy is not taken. With a `tolerance` an example rests from the first step on
    that lowers its energy E by no more than tolerance·|E|, that step included or not as `accept` has it; when all rest
    the descent ends. `callback(step, noised, energy, accepted)` is called at the start, as step 0, and after each step.

    Each evaluation serves the acceptance of one step and the gradient of the next; the last needs no gradient.
    """
    gradient, value = gradient_and_value(energy, noised)
    moving = torch.ones_like(value, dtype=torch.bool)
    if callback is not None:
        callback(0, noised, value, ~moving)
    for step in range(1, steps + 1):
        trial = torch.clamp(noised - step_size * gradient, -bound, bound)
        if step < steps:
            trial_gradient, trial_value = gradient_and_value(energy, trial)
        else:
            trial_gradient, trial_value = gradient, energy(trial)
        taken = moving & (trial_value <= value) if accept else moving
        if tolerance is not None:
            moving = moving & (value - trial_value > tolerance * value.abs())
        noised = torch.where(taken.unsqueeze(1), trial, noised)
        gradient = torch.where(taken.unsqueeze(1), trial_gradient, gradient)
        value = torch.where(taken, trial_value, value)
        if callback is not None:
            callback(step, noised, value, taken)
        if tolerance is not None and not bool(moving.any()):
            break
    return noised


@torch.no_grad()
def sample(
    model: nn.Module,
    schedule: NoiseSchedule,
    x: Float[Tensor, "b x_dim"],
    y_dim: int,
    generator: torch.Generator,
    config: SamplerConfig = PUBLISHED,
    clamp: float = 2.0,
    clues: Clues | None = None,
    callback: Callable[[SamplerState], None] | None = None,
) -> Float[Tensor, "b y_dim"]:
    """Predictions for inputs x: from N(0, I), level by level from the most noise to the least.

    At each level k the score gives x̂₀ (clamped to ±clamp), which, scaled to the level, descends `config.inner_steps`
    steps. Entries given by `clues` are √ᾱ_k times their value wherever the model is evaluated, whatever the clamp, and
    as given in the result and in every state. `callback` is handed the state at the start of each level's descent and
    after each of its steps; a `Trajectory` keeps them.
    """
    noised = torch.randn(len(x), y_dim, generator=generator, device=x.device, dtype=x.dtype)
    for level in reversed(range(len(schedule.betas))):
        k = torch.full((len(x),), level, device=x.device)
        signal, sigma = schedule.signal(k), schedule.sigma(k)

        at_level = energy_given(model, x, k)

        def energy(point: Tensor, at_level: Callable = at_level, signal: Tensor = signal) -> Tensor:
            return at_level(_held(point, clues, signal))

        score, _ = gradient_and_value(energy, noised)
        estimate = ((noised - sigma * score) / signal).clamp(-clamp, clamp)
        settled = descend(
            energy,
            signal * estimate,
            schedule.step_size(k),
            signal * clamp,
            config.inner_steps,
            config.accept,
            config.tolerance,
            None if callback is None else _in_y_space(callback, level, signal, clues),
        )
        y = _held(settled / signal, clues)
        if level:
            noised = schedule.signal(k - 1) * y
    return y


def _held(point: Tensor, clues: Clues | None, signal: Tensor | float = 1.0) -> Tensor:
    """The point with its given entries, if any, put back."""
    return point if clues is None else clues.impose(point, signal)


def _in_y_space(
    callback: Callable[[SamplerState], None], level: int, signal: Tensor, clues: Clues | None
) -> Callable[[int, Tensor, Tensor, Tensor], None]:
    """The sampler's callback as one for the descent at a level."""

    def report(step: int, noised: Tensor, energy: Tensor, accepted: Tensor) -> None:
        callback(SamplerState(level, step, _held(noised / signal, clues), energy, accepted))

    return report
