"""Annealed sampling by energy descent (IRED, arXiv 2406.11179, algorithm 2)."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from anm_nb.energy.networks import Energy, Model, energy_given, gradient_and_value
from anm_nb.energy.schedule import Column, NoiseSchedule, Points
from anm_nb.tasks import Batch, Clues, DenoisingTask
from anm_nb.training.seeds import generator


@torch.no_grad()
def descend(
    energy: Energy,
    noised: Points,
    step_size: Column,
    bound: Column,
    steps: int,
    callback: Callable[[int, Tensor, Tensor, Tensor], None] = lambda *_: None,
    later: float = 1.0,
) -> Points:
    """Gradient steps on the energy of noised points, clamped to ±bound. Steps that would raise the energy are rejected.

    After the first, steps are `later` times as long. `callback(step, noised, energy, accepted)` gets step 0, the start.
    """
    gradient, value = gradient_and_value(energy, noised)
    callback(0, noised, value, torch.zeros_like(value, dtype=torch.bool))
    for step in range(1, steps + 1):
        length = step_size if step == 1 else later * step_size
        trial = torch.clamp(noised - length * gradient, -bound, bound)
        trial_gradient, trial_value = gradient_and_value(energy, trial) if step < steps else (gradient, energy(trial))
        taken = trial_value <= value
        noised = torch.where(taken.unsqueeze(1), trial, noised)
        gradient = torch.where(taken.unsqueeze(1), trial_gradient, gradient)
        value = torch.where(taken, trial_value, value)
        callback(step, noised, value, taken)
    return noised


@torch.no_grad()
def sample(
    model: Model,
    schedule: NoiseSchedule,
    x: Float[Tensor, "b x_dim"],
    y_dim: int,
    source: torch.Generator | Sequence[torch.Generator],
    inner_steps: int = 5,
    clamp: float = 2.0,
    clues: Clues | None = None,
    callback: Callable[[int, int, Tensor, Tensor, Tensor], None] | None = None,
) -> Float[Tensor, "b y_dim"]:
    """Sample answers to x: start from N(0, I) and descend level by level, from the most noise to the least.

    At level k, x̂₀ = (ỹ − σ_k∇E)/√ᾱ_k is clamped to ±clamp, √ᾱ_k·x̂₀ descends `inner_steps` steps, y is the result over
    √ᾱ_k, and the next ỹ is √ᾱ_k₋₁·y. Entries given by `clues` enter the model as √ᾱ_k times their value.
    `callback(level, step, y, energy, accepted)` gets step 0, the start. Several generators draw equal blocks of rows.
    """
    sources = [source] if isinstance(source, torch.Generator) else source
    block = len(x) // len(sources), y_dim
    noised = torch.cat([torch.randn(block, generator=each, device=x.device, dtype=x.dtype) for each in sources])
    held: Callable[..., Tensor] = (lambda y, signal=1.0: y) if clues is None else clues.impose
    for level in reversed(range(len(schedule.betas))):
        k = torch.full((len(x),), level, device=x.device)
        signal, sigma, at_level = schedule.signal(k), schedule.sigma(k), energy_given(model, x, k)

        def energy(point: Tensor, at_level: Callable = at_level, signal: Tensor = signal) -> Tensor:
            return at_level(held(point, signal))

        def report(step: int, now: Tensor, *found: Tensor, level: int = level, signal: Tensor = signal) -> None:
            if callback is not None:
                callback(level, step, held(now / signal), *found)

        score, _ = gradient_and_value(energy, noised)
        start = signal * ((noised - sigma * score) / signal).clamp(-clamp, clamp)
        settled = descend(energy, start, schedule.step_size(k), signal * clamp, inner_steps, report)
        y = held(settled / signal)
        if level:
            noised = schedule.signal(k - 1) * y
    return y


def predict(
    model: Model,
    task: DenoisingTask,
    batch: Batch,
    schedule: NoiseSchedule,
    inner_steps: int,
    seeds: Sequence[int],
    clamp: float | None = None,
) -> Float[Tensor, "b y_dim"]:
    """Sampled answers to a batch that holds equally many rows of each seed; a seed fixes the noise of its own rows."""
    sources = [generator(seed, "sampling", batch.x.device.type) for seed in seeds]
    bound = task.sample_clamp if clamp is None else clamp
    return sample(model, schedule, batch.x, batch.y.shape[1], sources, inner_steps, bound, task.clues(batch))
