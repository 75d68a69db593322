"""Annealed sampling by energy descent (IRED, arXiv 2406.11179, algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from anm_nb.config import Parameters
from anm_nb.energy.networks import Model, energy_given, gradient_and_value
from anm_nb.energy.schedule import NoiseSchedule
from anm_nb.tasks.base import Clues
from anm_nb.training.graph import host_may_wait

Form = Literal["paper", "released"]  # of IRED: as its paper has it, or as its released code does


class SamplerConfig(Parameters):
    """How the sampler descends at each noise level.

    `form` "released" is the released code, which differs from the paper in two ways: for continuous tasks (those with a
    clamp above 1) steps from the second on are twice as long, and what is returned is still scaled by √ᾱ₀.
    """

    form: Form = "paper"
    inner_steps: PositiveInt = 5  # at most so many descent steps
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


@torch.no_grad()
def descend(
    energy: Callable[[Tensor], Tensor],
    noised: Float[Tensor, "b d"],
    step_size: Float[Tensor, "b 1"],
    bound: Float[Tensor, "b 1"],
    steps: int,
    tolerance: float | None = None,
    callback: Callable[[int, Tensor, Tensor, Tensor], None] | None = None,
    later: float = 1.0,
) -> Float[Tensor, "b d"]:
    """Gradient steps on the energy of noised points, clamped to ±bound, those from the second on `later` times as long.

    A step that raises the energy is not taken. With a `tolerance` an example rests after the first step that lowers its
    energy E by no more than tolerance·|E|; when all rest the descent ends, where the host may wait to see it.
    `callback(step, noised, energy, accepted)` is called at the start, as step 0, and after each step.

    Each evaluation serves the acceptance of one step and the gradient of the next; the last needs no gradient.
    """
    gradient, value = gradient_and_value(energy, noised)
    moving = torch.ones_like(value, dtype=torch.bool)
    if callback is not None:
        callback(0, noised, value, ~moving)
    for step in range(1, steps + 1):
        length = step_size if step == 1 else later * step_size
        trial = torch.clamp(noised - length * gradient, -bound, bound)
        if step < steps:
            trial_gradient, trial_value = gradient_and_value(energy, trial)
        else:
            trial_gradient, trial_value = gradient, energy(trial)
        taken = moving & (trial_value <= value)
        if tolerance is not None:
            moving = moving & (value - trial_value > tolerance * value.abs())
        noised = torch.where(taken.unsqueeze(1), trial, noised)
        gradient = torch.where(taken.unsqueeze(1), trial_gradient, gradient)
        value = torch.where(taken, trial_value, value)
        if callback is not None:
            callback(step, noised, value, taken)
        if tolerance is not None and host_may_wait() and not bool(moving.any()):
            break
    return noised


@torch.no_grad()
def sample(
    model: Model,
    schedule: NoiseSchedule,
    x: Float[Tensor, "b x_dim"],
    y_dim: int,
    generator: torch.Generator | Sequence[torch.Generator],
    config: SamplerConfig = PUBLISHED,
    clamp: float = 2.0,
    clues: Clues | None = None,
    callback: Callable[[SamplerState], None] | None = None,
) -> Float[Tensor, "b y_dim"]:
    """Predictions for inputs x: from N(0, I), level by level from the most noise to the least.

    At each level k the score gives x̂₀ (clamped to ±clamp), which, scaled to the level, descends `config.inner_steps`
    steps. Entries given by `clues` are √ᾱ_k times their value wherever the model is evaluated, whatever the clamp, and
    as given in the result and in every state. `callback` is handed the state at the start of each level's descent and
    after each of its steps. With several generators the rows are as many blocks, each of which starts from its own.
    """
    sources = [generator] if isinstance(generator, torch.Generator) else generator
    block = (len(x) // len(sources), y_dim)
    noised = torch.cat([torch.randn(block, generator=each, device=x.device, dtype=x.dtype) for each in sources])
    released = config.form == "released"
    for level in reversed(range(len(schedule.betas))):
        k = torch.full((len(x),), level, device=x.device)
        signal, sigma = schedule.signal(k), schedule.sigma(k)
        at_level = energy_given(model, x, k)

        def energy(point: Tensor, at_level: Callable = at_level, signal: Tensor = signal) -> Tensor:
            return at_level(_held(point, clues, signal))

        def report(
            step: int, noised: Tensor, energy: Tensor, accepted: Tensor, level: int = level, signal: Tensor = signal
        ) -> None:
            if callback is not None:
                callback(SamplerState(level, step, _held(noised / signal, clues), energy, accepted))

        score, _ = gradient_and_value(energy, noised)
        estimate = ((noised - sigma * score) / signal).clamp(-clamp, clamp)
        settled = descend(
            energy,
            signal * estimate,
            schedule.step_size(k),
            signal * clamp,
            config.inner_steps,
            config.tolerance,
            report,
            later=2.0 if released and clamp > 1 else 1.0,
        )
        y = _held(settled / signal, clues)
        if level:
            noised = schedule.signal(k - 1) * y
    return signal * y if released else y


def _held(point: Tensor, clues: Clues | None, signal: Tensor | float = 1.0) -> Tensor:
    """The point with its given entries, if any, put back."""
    return point if clues is None else clues.impose(point, signal)
