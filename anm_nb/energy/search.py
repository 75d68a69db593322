"""Ways to look for an answer of low energy, what they cost counted, and who is to blame for a failure.

A search is a function of a problem and a generator that yields answers [b, d] to all problems, one after another, each
when it is found; the problem counts what it spends. Options follow, and `start` is the search whose first answer it
improves. Bring your own by writing such a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from anm_nb.config import ParameterError
from anm_nb.energy.networks import Model, energy_given, gradient_and_value
from anm_nb.energy.sampler import SamplerConfig, sample
from anm_nb.energy.schedule import NoiseSchedule
from anm_nb.tasks.base import Batch, Clues, DenoisingTask

GRADIENT = 3  # forward passes that an energy with its gradient counts as: a backward pass costs about two


@dataclass
class Problem:
    """b problems and the energy by which their answers are judged: E(x, √ᾱ_k·y, k), without noise, at one level k.

    Answers may be m to each problem, [m·b, d], problem after problem; what the task gives away is always imposed.
    `cost` is what was spent on each problem so far, in forward passes of the network.
    """

    model: Model
    task: DenoisingTask
    batch: Batch
    schedule: NoiseSchedule
    level: int = 4
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    cost: float = 0.0

    def __post_init__(self) -> None:
        nothing = torch.zeros_like(self.batch.y)
        self.clues = self.task.clues(self.batch) or Clues(nothing.bool(), nothing)  # what is given of the answers

    def impose(self, y: Float[Tensor, "rows d"], signal: Float[Tensor, "rows 1"] | float = 1.0) -> Tensor:
        """y with its given entries put back, scaled by `signal`."""
        return Clues(self._each(self.clues.mask, y), self._each(self.clues.values, y)).impose(y, signal)

    @torch.no_grad()
    def energy(self, y: Float[Tensor, "rows d"]) -> Float[Tensor, " rows"]:
        """Energies of answers."""
        return self._judge(y, 1)(y)

    @torch.no_grad()
    def gradient(self, y: Float[Tensor, "rows d"]) -> Float[Tensor, "rows d"]:
        """Gradients of the energies."""
        return gradient_and_value(self._judge(y, GRADIENT), y)[0]

    def _each(self, of_problems: Tensor, answers: Tensor) -> Tensor:
        """What each problem has, for each of its answers."""
        return of_problems.repeat_interleave(len(answers) // len(self.batch.x), 0)

    def _judge(self, y: Tensor, cost: int) -> Callable[[Tensor], Tensor]:
        self.cost += cost * (len(y) // len(self.batch.x))
        x, k = self._each(self.batch.x, y), torch.full((len(y),), self.level, device=y.device)
        of_x, signal = energy_given(self.model, x, k), self.schedule.signal(k)
        return lambda y: of_x(signal * self.impose(y))

    @property
    def classes(self) -> int:
        """How many entries of y make a cell of a discrete answer: the highest is the choice; of one, its sign is."""
        if (classes := getattr(self.task, "classes", None)) is None:
            raise ParameterError(f"task '{self.task.name}': its answers are no choices (it has no `classes`)")
        return classes

    @cached_property
    def free(self) -> Bool[Tensor, "b cells"]:
        """The cells that are not given."""
        return ~self.clues.mask.unflatten(1, (-1, self.classes)).all(2)

    def choices(self, y: Float[Tensor, "rows d"]) -> Int[Tensor, "rows cells"]:
        """The choice in each cell of an answer."""
        return (y > 0).long() if self.classes == 1 else y.unflatten(1, (-1, self.classes)).argmax(2)

    def entries(self, choices: Int[Tensor, "rows cells"]) -> Float[Tensor, "rows d"]:
        """Choices as entries of ± 1."""
        ones = choices if self.classes == 1 else nn.functional.one_hot(choices, self.classes).flatten(1)
        return 2.0 * ones - 1

    def neighbours(
        self, choices: Int[Tensor, "rows cells"]
    ) -> tuple[Int[Tensor, "rows moves cells"], Bool[Tensor, "rows moves"]]:
        """All answers that differ in one cell, and which of them are allowed: no given cell changes."""
        options, cell = max(2, self.classes), torch.eye(choices.shape[1], dtype=torch.long, device=choices.device)
        moves = torch.cat([shift * cell[:, None] for shift in range(1, options)], 1).flatten(0, 1)
        allowed = self._each(self.free, choices).repeat_interleave(options - 1, 1)
        return (choices[:, None] + moves) % options, allowed


Search = Callable[[Problem, torch.Generator], Iterator[Tensor]]


def published(problem: Problem, generator: torch.Generator, restarts: int = 1) -> Iterator[Tensor]:
    """The published sampler, started anew from fresh noise `restarts` times."""
    x, y_dim, clamp = problem.batch.x, problem.batch.y.shape[1], problem.task.sample_clamp
    for _ in range(restarts):
        problem.cost += published_cost(len(problem.schedule.betas), problem.sampler)
        yield sample(problem.model, problem.schedule, x, y_dim, generator, problem.sampler, clamp, problem.clues)


def published_cost(levels: int, sampler: SamplerConfig) -> int:
    """Forward passes that one answer of the published sampler costs."""
    return levels * (GRADIENT * (sampler.inner_steps + 1) + 1)


@torch.no_grad()
def fresh_noise(problem: Problem, generator: torch.Generator, restarts: int = 1) -> Iterator[Tensor]:
    """The sampler with fresh noise at each level, ỹ = √ᾱ_k·y + σ_k·ε, as diffusion samplers have, and one step each.

    Its restarts differ, which those of the published sampler do not.
    """
    schedule, x, shape = problem.schedule, problem.batch.x, problem.batch.y.shape
    for _ in range(restarts):
        y = torch.randn(shape, generator=generator, device=x.device)
        for level in reversed(range(len(schedule.betas))):
            k = torch.full((len(x),), level, device=x.device)
            signal, sigma = schedule.signal(k), schedule.sigma(k)
            limit, energy = signal * problem.task.sample_clamp, energy_given(problem.model, x, k)
            noised = signal * y + sigma * torch.randn(shape, generator=generator, device=x.device)
            for length in (sigma, schedule.step_size(k)):  # to the estimate of the clean answer, then down from it
                noised = problem.impose(noised, signal)
                gradient, _ = gradient_and_value(energy, noised)
                noised = (noised - length * gradient).clamp(-limit, limit)
                problem.cost += GRADIENT
            y = noised / signal
        yield problem.impose(y)


def langevin(
    problem: Problem,
    generator: torch.Generator,
    steps: int = 50,
    step_size: float = 0.01,
    temperature: float = 0.1,
    every: int = 10,
    start: Search = published,
) -> Iterator[Tensor]:
    """Steps y ← y − η∇E + √(2ηT)·ξ on the judging energy, η the step size; an answer `every` so many of them."""
    y, clamp = next(start(problem, generator)), problem.task.sample_clamp
    yield y
    for step in range(1, steps + 1):
        noise = (2 * step_size * temperature) ** 0.5 * torch.randn(y.shape, generator=generator, device=y.device)
        y = problem.impose((y - step_size * problem.gradient(y) + noise).clamp(-clamp, clamp))
        if step % every == 0:
            yield y


def beam(
    problem: Problem, generator: torch.Generator, width: int = 1, rounds: int = 30, start: Search = published
) -> Iterator[Tensor]:
    """Of `width` answers and all their neighbours the `width` of lowest energy are kept; greedy descent with one.

    Ends after `rounds`, or where nothing gets lower.
    """
    first = problem.choices(next(start(problem, generator)))
    kept, energies = first[:, None], problem.energy(problem.entries(first))[:, None]  # [b, width, cells], [b, width]
    yield problem.entries(first)
    for _ in range(rounds):
        moves, allowed = problem.neighbours(kept.flatten(0, 1))
        found = problem.energy(problem.entries(moves.flatten(0, 1))).masked_fill(~allowed.flatten(), torch.inf)
        pool = torch.cat([kept, moves.view(len(first), -1, first.shape[1])], 1)
        values, before = torch.cat([energies, found.view(len(first), -1)], 1), energies
        order = values.argsort(dim=1, stable=True)[:, : 8 * width]  # an answer is reached in few ways
        top = pool.gather(1, order[:, :, None].expand(-1, -1, first.shape[1]))
        twice = (top[:, :, None] == top[:, None]).all(3).tril(-1).any(2) | values.gather(1, order).isinf()
        places = twice.long().argsort(dim=1, stable=True)[:, :width]
        chosen = order.gather(1, places.masked_fill(twice.gather(1, places), 0))
        kept, energies = pool.gather(1, chosen[:, :, None].expand(-1, -1, first.shape[1])), values.gather(1, chosen)
        yield problem.entries(kept[:, 0])
        if before.shape == energies.shape and bool((energies >= before).all()):
            return


def annealing(
    problem: Problem,
    generator: torch.Generator,
    steps: int = 500,
    hot: float = 1.0,
    cold: float = 0.01,
    every: int = 50,
    start: Search = published,
) -> Iterator[Tensor]:
    """Random changes of single cells, taken with probability min(1, exp(−ΔE/T)), T falling geometrically hot → cold."""
    choices = problem.choices(next(start(problem, generator)))
    energy, rows = problem.energy(problem.entries(choices)), torch.arange(len(choices), device=choices.device)
    options = max(2, problem.classes)
    yield problem.entries(choices)
    for step in range(1, steps + 1):
        cell = torch.multinomial(problem.free.float(), 1, generator=generator)[:, 0]
        shift = torch.randint(1, options, rows.shape, generator=generator, device=rows.device)
        trial = choices.clone()
        trial[rows, cell] = (trial[rows, cell] + shift) % options
        found = problem.energy(problem.entries(trial))
        luck = torch.rand(rows.shape, generator=generator, device=rows.device)
        taken = luck < ((energy - found) / (hot * (cold / hot) ** (step / steps))).exp()
        choices, energy = torch.where(taken[:, None], trial, choices), torch.where(taken, found, energy)
        if step % every == 0:
            yield problem.entries(choices)


@dataclass(frozen=True)
class Found:
    """What a search found for b problems: n answers, their energies, what each cost, and the truth's energy."""

    answers: Float[Tensor, "n b d"]
    energies: Float[Tensor, "n b"]
    costs: Float[np.ndarray, " n"]  # forward passes a problem, all up to that answer
    truth: Float[Tensor, " b"]
    right: Bool[Tensor, "n b"]

    def of(self, rows: slice) -> Found:
        """What was found for some of the problems."""
        return Found(self.answers[:, rows], self.energies[:, rows], self.costs, self.truth[rows], self.right[:, rows])

    def chosen(self, values: Tensor) -> Tensor:
        """Of values [n, b], those of the answer of lowest energy so far, after each answer."""
        return values.gather(0, self.energies.cummin(0).indices)


def search(
    way: Search, problem: Problem, generator: torch.Generator, accepted: Callable, budget: float = math.inf
) -> Found:
    """Run a search; each answer is judged by its energy, which is counted. `accepted(y)` [b] says which are right.

    A point between the answers of a discrete task stands for the nearest, and is judged as that: relaxed points may
    have energies that no answer has. What is found after the `budget` is spent, in forward passes a problem, does not
    count; the first answer always does.
    """
    problem.cost, rows = 0.0, list[tuple[Tensor, Tensor, float, Tensor]]()
    discrete = getattr(problem.task, "classes", None) is not None
    for y in way(problem, generator):
        y = problem.impose(problem.entries(problem.choices(y))) if discrete else y
        energy = problem.energy(y)
        if rows and problem.cost > budget:
            break
        rows.append((y, energy, problem.cost, accepted(y).bool()))
    answers, energies, costs, right = zip(*rows, strict=True)
    truth = problem.energy(problem.batch.y)
    return Found(torch.stack(answers), torch.stack(energies), np.array(costs), truth, torch.stack(right))


def blame(found: Found, strongest: Found | None = None) -> pd.Series:
    """Each problem [b] as "solved", "search error" or "model error".

    A failure is the model's where a wrong answer whose energy is at or below the truth's is known, from this search or
    from the strongest of all; else the search's: the truth, or something better than what it returned, was there.
    """
    known = [(~each.right & (each.energies <= each.truth)).any(0) for each in (found, strongest or found)]
    failed = np.where((known[0] | known[1]).cpu(), "model error", "search error")
    return pd.Series(np.where(found.chosen(found.right)[-1].cpu(), "solved", failed), name="blame")
