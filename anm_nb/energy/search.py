"""Searches for answers of low energy, with counted costs, and the cause of each failure: the search or the model.

A search is a generator function of a `Problem` and a `torch.Generator`. It yields answers [b, y_dim] to all b problems
repeatedly, and the problem counts the cost. `langevin` is an example; searches of your own have the same signature.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from anm_nb.energy.networks import Energy, Model, energy_given, gradient_and_value
from anm_nb.energy.sampler import sample
from anm_nb.energy.schedule import NoiseSchedule, Points, Values
from anm_nb.tasks import Batch, Clues, DenoisingTask

GRADIENT = 3  # cost of an energy with its gradient, in forward passes
AT_A_TIME = 512  # answers per problem whose energies are computed in one call
Choices = Int[Tensor, "rows cells"]  # the class, 0 … classes − 1, or sign, 0 or 1, of every decision
Search = Callable[[Any, torch.Generator], Iterator[Tensor]]


class Problem:
    """b problems, and the energy E(x, √ᾱ_k·y, k) at one noise level k that ranks answers to them.

    Answers are [b·m, y_dim] with m per problem, problem after problem. `cost` counts forward passes per problem so far.
    The methods on decisions need a task with `classes`.
    """

    def __init__(
        self, model: Model, task: DenoisingTask, batch: Batch, schedule: NoiseSchedule, level: int, inner_steps: int
    ) -> None:
        self.model, self.task, self.batch, self.schedule = model, task, batch, schedule
        self.level, self.inner_steps, self.cost = level, inner_steps, 0
        self.classes: int = getattr(task, "classes", 0)  # entries per decision: 1 if each is a sign, 0 without any
        self.options = max(2, self.classes)  # values that a decision can take
        nothing = torch.zeros_like(batch.y)
        self.clues = task.clues(batch) or Clues(nothing.bool(), nothing)

    def each(self, rows: Tensor, answers: Tensor) -> Tensor:
        """Rows [b, …] of the problems, repeated for every answer."""
        return rows.repeat_interleave(len(answers) // len(self.batch.x), 0)

    def impose(self, y: Points, signal: Tensor | float = 1.0) -> Points:
        """y with its given entries put back, scaled by `signal`."""
        return Clues(self.each(self.clues.mask, y), self.each(self.clues.values, y)).impose(y, signal)

    @torch.no_grad()
    def energy(self, y: Points) -> Values:
        """Energies of answers, for one forward pass each."""
        return self._energy_at(y, 1)(y)

    @torch.no_grad()
    def gradient(self, y: Points) -> Points:
        """Gradients of the energy at answers, for `GRADIENT` forward passes each."""
        return gradient_and_value(self._energy_at(y, GRADIENT), y)[0]

    def _energy_at(self, y: Points, cost: int) -> Energy:
        self.cost += cost * (len(y) // len(self.batch.x))
        k = torch.full((len(y),), self.level, device=y.device)
        noised_energy, signal = energy_given(self.model, self.each(self.batch.x, y), k), self.schedule.signal(k)
        return lambda point: noised_energy(signal * self.impose(point))

    def choices(self, y: Points) -> Choices:
        """The decision in each cell of answers: the class of its largest entry, or the sign of its only one."""
        return (y > 0).long() if self.classes == 1 else y.unflatten(1, (-1, self.classes)).argmax(2)

    def entries(self, chosen: Choices) -> Points:
        """Answers with entries ±1 that stand for the decisions."""
        return 2.0 * (chosen if self.classes == 1 else F.one_hot(chosen, self.classes).flatten(1)) - 1

    def free_cells(self) -> Bool[Tensor, "b cells"]:
        """The cells that are not given as clues."""
        return ~self.clues.mask.unflatten(1, (-1, self.classes)).all(2)


def published(problem: Problem, generator: torch.Generator, restarts: int = 1) -> Iterator[Points]:
    """The published sampler, from new noise at every restart."""
    schedule, batch, steps, clamp = problem.schedule, problem.batch, problem.inner_steps, problem.task.sample_clamp
    for _ in range(restarts):
        problem.cost += published_cost(len(schedule.betas), steps)
        yield sample(problem.model, schedule, batch.x, batch.y.shape[1], generator, steps, clamp, problem.clues)


def published_cost(levels: int, inner_steps: int) -> int:
    """Forward passes of the published sampler: 1 + `inner_steps` gradients and one last energy at every level."""
    return levels * (GRADIENT * (inner_steps + 1) + 1)


@torch.no_grad()
def fresh_noise(problem: Problem, generator: torch.Generator, restarts: int = 1) -> Iterator[Points]:
    """New noise at every level, as in diffusion samplers, then one descent step. So restarts differ."""
    x, shape, schedule = problem.batch.x, problem.batch.y.shape, problem.schedule
    for _ in range(restarts):
        y = torch.randn(shape, generator=generator, device=x.device)
        for level in reversed(range(len(schedule.betas))):
            k = torch.full((len(x),), level, device=x.device)
            signal, sigma = schedule.signal(k), schedule.sigma(k)
            limit, energy = signal * problem.task.sample_clamp, energy_given(problem.model, x, k)
            noised = signal * y + sigma * torch.randn(shape, generator=generator, device=x.device)
            for length in (sigma, schedule.step_size(k)):  # to the denoised estimate √ᾱ_k·x̂₀, then downhill
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
) -> Iterator[Points]:
    """y ← y − η∇E + √(2ηT)·ξ, ξ from N(0, I), on the energy of the problem; an answer every `every` steps."""
    y, clamp = next(fresh_noise(problem, generator)), problem.task.sample_clamp
    yield y
    for step in range(1, steps + 1):
        noise = torch.randn(y.shape, generator=generator, device=y.device)
        moved = y - step_size * problem.gradient(y) + (2 * step_size * temperature) ** 0.5 * noise
        y = problem.impose(moved.clamp(-clamp, clamp))
        if step % every == 0:
            yield y


def beam(problem: Problem, generator: torch.Generator, width: int = 1, rounds: int = 30) -> Iterator[Points]:
    """Keeps the `width` answers of lowest energy among the kept ones and all that differ from one of these in one cell.

    Width 1 is greedy descent. Ends after `rounds`, or once no energy falls. The clues stay.
    """
    first, options = problem.choices(next(fresh_noise(problem, generator))), problem.options
    cells = torch.eye(first.shape[1], dtype=torch.long, device=first.device)
    changes = torch.cat([shift * cells[:, None] for shift in range(1, options)], 1).flatten(0, 1)  # [changes, cells]
    given = ~problem.free_cells().repeat_interleave(options - 1, 1)
    kept, energies = first[:, None], problem.energy(problem.entries(first))[:, None]  # [b, width, cells], [b, width]
    yield problem.entries(first)
    for _ in range(rounds):
        moves = ((kept[:, :, None] + changes) % options).flatten(1, 2)
        parts = [each.flatten(0, 1) for each in moves.split(AT_A_TIME, 1)]
        found = torch.cat([problem.energy(problem.entries(each)).view(len(first), -1) for each in parts], 1)
        found = found.masked_fill(given.repeat(1, kept.shape[1]), torch.inf)
        pool, of_pool, before = torch.cat([kept, moves], 1), torch.cat([energies, found], 1), energies
        order = of_pool.argsort(dim=1, stable=True)[:, : 8 * width]  # repeats of one answer are few
        top, energies = pool.take_along_dim(order[:, :, None], 1), of_pool.gather(1, order)
        twice = (top[:, :, None] == top[:, None]).all(3).tril(-1).any(2) | energies.isinf()
        places = twice.long().argsort(dim=1, stable=True)[:, :width]
        places = places.masked_fill(twice.gather(1, places), 0)  # if fewer are left, repeat the lowest
        kept, energies = top.take_along_dim(places[:, :, None], 1), energies.gather(1, places)
        yield problem.entries(kept[:, 0])
        if before.shape == energies.shape and bool((energies >= before).all()):
            return


def annealing(
    problem: Problem, generator: torch.Generator, steps: int = 500, hot: float = 1.0, every: int = 50
) -> Iterator[Points]:
    """Random changes of a cell, taken with probability min(1, e^(−ΔE/T)), T from hot to hot/100 (Kirkpatrick 1983)."""
    now, free = problem.choices(next(fresh_noise(problem, generator))), problem.free_cells().float()
    energy, rows = problem.energy(problem.entries(now)), torch.arange(len(now), device=now.device)
    on = dict[str, Any](generator=generator, device=now.device)
    yield problem.entries(now)
    for step in range(1, steps + 1):
        cell = torch.multinomial(free, 1, generator=generator)[:, 0]
        trial, shift = now.clone(), torch.randint(1, problem.options, rows.shape, **on)
        trial[rows, cell] = (trial[rows, cell] + shift) % problem.options
        found, temperature = problem.energy(problem.entries(trial)), hot * 0.01 ** (step / steps)
        taken = torch.rand(rows.shape, **on) < ((energy - found) / temperature).exp()
        now, energy = torch.where(taken[:, None], trial, now), torch.where(taken, found, energy)
        if step % every == 0:
            yield problem.entries(now)


@dataclass(frozen=True)
class Found:
    """n answers to each of b problems, in the order of the search."""

    answers: Float[Tensor, "n b y_dim"]
    energies: Float[Tensor, "n b"]
    costs: np.ndarray  # [n], forward passes per problem up to each answer
    truth: Values  # energies of the true answers
    right: Bool[Tensor, "n b"]  # which answers are accepted

    def of(self, rows: slice) -> "Found":
        """The answers to some of the problems."""
        return Found(self.answers[:, rows], self.energies[:, rows], self.costs, self.truth[rows], self.right[:, rows])

    def chosen(self, values: Shaped[Tensor, "n b"]) -> Shaped[Tensor, "n b"]:
        """For each n, the value of the lowest-energy answer among the first n."""
        return values.gather(0, self.energies.cummin(0).indices)


def find(
    way: Search,
    problem: Problem,
    generator: torch.Generator,
    accepted: Callable[[Points], Bool[Tensor, " b"]],
    budget: float = float("inf"),
) -> Found:
    """Run a search until the budget (forward passes per problem) is spent. The first answer always counts.

    Answers are rounded to decisions if the task has them. `accepted(answers)` [b] marks the correct ones; of a problem
    with many solutions it has to accept all.
    """
    rows = list[tuple[Tensor, Tensor, int, Tensor]]()
    problem.cost = 0
    for y in way(problem, generator):
        if problem.classes:
            y = problem.impose(problem.entries(problem.choices(y)))
        energy = problem.energy(y)
        if rows and problem.cost > budget:
            break
        rows.append((y, energy, problem.cost, accepted(y).bool()))
    answers, energies, costs, right = zip(*rows, strict=True)
    truth = problem.energy(problem.batch.y)
    return Found(torch.stack(answers), torch.stack(energies), np.array(costs), truth, torch.stack(right))


def blame(found: Found, strongest: Found) -> np.ndarray:
    """Label every problem [b] "solved", "search error" or "model error".

    A failure is a model error if this search, or the `strongest` one on the same problems, found a wrong answer with an
    energy at or below the truth's. Otherwise the search missed the truth, or something of lower energy.
    """
    lower = [(~each.right & (each.energies <= each.truth)).any(0) for each in (found, strongest)]
    failed = np.where((lower[0] | lower[1]).cpu(), "model error", "search error")
    return np.where(found.chosen(found.right)[-1].cpu(), "solved", failed)
