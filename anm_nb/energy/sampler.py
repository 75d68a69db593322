"""Annealed sampling by energy descent (IRED, arXiv 2406.11179, algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anm_nb.energy.networks import gradient_and_value
from anm_nb.energy.schedule import NoiseSchedule


@torch.no_grad()
def descend(
    energy: Callable[[Tensor], Tensor],
    noised: Float[Tensor, "b d"],
    step_size: Float[Tensor, "b 1"],
    bound: Float[Tensor, "b 1"],
    steps: int,
) -> Float[Tensor, "b d"]:
    """Gradient steps on the energy of noised points, clamped to ±bound; a step that raises the energy is not taken.

    Each evaluation serves the acceptance of one step and the gradient of the next; the last needs no gradient.
    """
    gradient, value = gradient_and_value(energy, noised)
    for remaining in reversed(range(steps)):
        trial = torch.clamp(noised - step_size * gradient, -bound, bound)
        if remaining:
            trial_gradient, trial_value = gradient_and_value(energy, trial)
        else:
            trial_gradient, trial_value = gradient, energy(trial)
        lower = (trial_value <= value).unsqueeze(1)
        noised = torch.where(lower, trial, noised)
        gradient = torch.where(lower, trial_gradient, gradient)
        value = torch.minimum(trial_value, value)
    return noised


@torch.no_grad()
def sample(
    model: nn.Module,
    schedule: NoiseSchedule,
    x: Float[Tensor, "b x_dim"],
    y_dim: int,
    generator: torch.Generator,
    inner_steps: int = 5,
    clamp: float = 2.0,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Float[Tensor, "b y_dim"]:
    """Predictions for inputs x: from N(0, I), level by level from the most noise to the least.

    At each level k the score gives x̂₀ (clamped to ±clamp), which, scaled to the level, descends `inner_steps` steps.
    `callback(k, y)` is handed the estimate in y-space after each level.
    """
    noised = torch.randn(len(x), y_dim, generator=generator, device=x.device)
    for level in reversed(range(len(schedule.betas))):
        k = torch.full((len(x),), level, device=x.device)
        signal, sigma = schedule.signal(k), schedule.sigma(k)

        def energy(point: Tensor, k: Tensor = k) -> Tensor:
            return model(x, point, k)

        score, _ = gradient_and_value(energy, noised)
        estimate = ((noised - sigma * score) / signal).clamp(-clamp, clamp)
        settled = descend(energy, signal * estimate, schedule.step_size(k), signal * clamp, inner_steps)
        y = settled / signal
        if callback is not None:
            callback(level, y)
        if level:
            noised = schedule.signal(k - 1) * y
    return y
