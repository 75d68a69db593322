"""Ways to look for answers of low energy, with counted costs, and who is to blame for a failure: search or model.

A search is a generator function: of a `Problem` and a `torch.Generator` it yields answers [b, y_dim] to all b problems,
again and again, and the problem counts what it spends. `langevin` is an example; one's own is called the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from anm_nb.energy.networks import Model, energy_given, gradient_and_value
from anm_nb.energy.sampler import sample
from anm_nb.energy.schedule import NoiseSchedule, Points, Values
from anm_nb.tasks import Batch, Clues, DenoisingTask

GRADIENT = 3  # forward passes that an energy with its gradient counts as
AT_A_TIME = 512  # answers to each problem whose energies are computed together
Choices = Int[Tensor, "rows cells"]  # of a class, 0 … classes − 1, or a sign, 0 or 1, for each decision
Search = Callable[[Any, torch.Generator], Iterator[Tensor]]


class Problem:
    """b problems, and the energy E(x, √ᾱ_k·y, k) at one noise level k that judges answers to them.

    Answers may be m to each problem, [b·m, y_dim], problem after problem; `cost` is forward passes a problem so far.
    What concerns decisions needs a task with `classes`.
    """

    def __init__(
        self, model: Model, task: DenoisingTask, batch: Batch, schedule: NoiseSchedule, level: int, inner_steps: int
    ) -> None:
        self.model, self.task, self.batch, self.schedule = model, task, batch, schedule
        self.level, self.inner_steps, self.cost = level, inner_steps, 0
        nothing = torch.zeros_like(batch.y)
        self.clues = task.clues(batch) or Clues(nothing.bool(), nothing)

    def each(self, of_problems: Tensor, answers: Tensor) -> Tensor:
        """What each problem has, for each of its answers."""
        return of_problems.repeat_interleave(len(answers) // len(self.batch.x), 0)

    def impose(self, y: Points, signal: Tensor | float = 1.0) -> Points:
        """y with what is given away put back, scaled by `signal`."""
        return Clues(self.each(self.clues.mask, y), self.each(self.clues.values, y)).impose(y, signal)

    @torch.no_grad()
    def energy(self, y: Points) -> Values:
        """Energies of answers, at one forward pass each."""
        self.cost += len(y) // len(self.batch.x)
        return self._judge(y)(y)

    @torch.no_grad()
    def gradient(self, y: Points) -> Points:
        """Gradients of the energy at answers, at `GRADIENT` forward passes each."""
        self.cost += GRADIENT * (len(y) // len(self.batch.x))
        return gradient_and_value(self._judge(y), y)[0]

    def _judge(self, y: Points) -> Callable[[Tensor], Tensor]:
        k = torch.full((len(y),), self.level, device=y.device)
        of_x, signal = energy_given(self.model, self.each(self.batch.x, y), k), self.schedule.signal(k)
        return lambda point: of_x(signal * self.impose(point))

    def choices(self, y: Points) -> Choices:
        """The decision in each cell of answers: the highest of its entries, or the sign of its one."""
        classes = self.task.classes
        return (y > 0).long() if classes == 1 else y.unflatten(1, (-1, classes)).argmax(2)

    def entries(self, chosen: Choices) -> Points:
        """Decisions as entries of ± 1."""
        classes = self.task.classes
        return 2.0 * (chosen if classes == 1 else torch.nn.functional.one_hot(chosen, classes).flatten(1)) - 1

    def free_cells(self) -> Bool[Tensor, "b cells"]:
        """The cells that are not given."""
        return ~self.clues.mask.unflatten(1, (-1, self.task.classes)).all(2)


def published(problem: Problem, generator: torch.Generator, restarts: int = 1) -> Iterator[Points]:
    """The published sampler, from fresh noise each time."""
    what = problem.model, problem.schedule, problem.batch.x, problem.batch.y.shape[1]
    how = generator, problem.inner_steps, problem.task.sample_clamp, problem.clues
    for _ in range(restarts):
        problem.cost += published_cost(len(problem.schedule.betas), problem.inner_steps)
        yield sample(*what, *how)


def published_cost(levels: int, inner_steps: int) -> int:
    """Forward passes of the published sampler: a score and `inner_steps` of descent a level, the last value alone."""
    return levels * (GRADIENT * (inner_steps + 1) + 1)


@torch.no_grad()
def fresh_noise(problem: Problem, generator: torch.Generator, restarts: int = 1) -> Iterator[Points]:
    """Fresh noise at each level, as diffusion samplers have, and one step of descent; so restarts differ."""
    x, shape, schedule = problem.batch.x, problem.batch.y.shape, problem.schedule
    for _ in range(restarts):
        y = torch.randn(shape, generator=generator, device=x.device)
        for level in reversed(range(len(schedule.betas))):
            k = torch.full((len(x),), level, device=x.device)
            signal, sigma = schedule.signal(k), schedule.sigma(k)
            limit, energy = signal * problem.task.sample_clamp, energy_given(problem.model, x, k)
            noised = signal * y + sigma * torch.randn(shape, generator=generator, device=x.device)
            for length in (sigma, schedule.step_size(k)):  # to the clean estimate, then down
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
    """y ← y − η∇E + √(2ηT)·ξ on the judging energy; an answer `every` so many steps."""
    y, clamp = next(fresh_noise(problem, generator)), problem.task.sample_clamp
    yield y
    for step in range(1, steps + 1):
        noise = torch.randn(y.shape, generator=generator, device=y.device)
        moved = y - step_size * problem.gradient(y) + (2 * step_size * temperature) ** 0.5 * noise
        y = problem.impose(moved.clamp(-clamp, clamp))
        if step % every == 0:
            yield y


def beam(problem: Problem, generator: torch.Generator, width: int = 1, rounds: int = 30) -> Iterator[Points]:
    """Of `width` answers and all that differ from one in a cell, the `width` of lowest energy; greedy descent with 1.

    It ends after `rounds`, or where no energy falls any more. The clues stay.
    """
    first, options = problem.choices(next(fresh_noise(problem, generator))), max(2, problem.task.classes)
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
        order = of_pool.argsort(dim=1, stable=True)[:, : 8 * width]  # few ways lead to one answer
        top, energies = pool.take_along_dim(order[:, :, None], 1), of_pool.gather(1, order)
        twice = (top[:, :, None] == top[:, None]).all(3).tril(-1).any(2) | energies.isinf()
        places = twice.long().argsort(dim=1, stable=True)[:, :width]
        places = places.masked_fill(twice.gather(1, places), 0)  # the lowest again, where there are fewer
        kept, energies = top.take_along_dim(places[:, :, None], 1), energies.gather(1, places)
        yield problem.entries(kept[:, 0])
        if before.shape == energies.shape and bool((energies >= before).all()):
            return


def annealing(
    problem: Problem, generator: torch.Generator, steps: int = 500, hot: float = 1.0, every: int = 50
) -> Iterator[Points]:
    """Single cells change at random with probability min(1, exp(−ΔE/T)), T falling to hot/100 (Kirkpatrick 1983)."""
    now, free = problem.choices(next(fresh_noise(problem, generator))), problem.free_cells().float()
    energy, rows = problem.energy(problem.entries(now)), torch.arange(len(now), device=now.device)
    options, on = max(2, problem.task.classes), dict[str, Any](generator=generator, device=now.device)
    yield problem.entries(now)
    for step in range(1, steps + 1):
        cell = torch.multinomial(free, 1, generator=generator)[:, 0]
        trial, shift = now.clone(), torch.randint(1, options, rows.shape, **on)
        trial[rows, cell] = (trial[rows, cell] + shift) % options
        found, luck = problem.energy(problem.entries(trial)), torch.rand(rows.shape, **on)
        taken = luck < ((energy - found) / (hot * 0.01 ** (step / steps))).exp()
        now, energy = torch.where(taken[:, None], trial, now), torch.where(taken, found, energy)
        if step % every == 0:
            yield problem.entries(now)


@dataclass(frozen=True)
class Found:
    """n answers to each of b problems, in the order in which they were found."""

    answers: Float[Tensor, "n b y_dim"]
    energies: Float[Tensor, "n b"]
    costs: np.ndarray  # [n], forward passes a problem, all up to that answer
    truth: Values  # the energies of the right answers
    right: Bool[Tensor, "n b"]  # whether an answer is accepted

    def of(self, rows: slice) -> Found:
        """What was found to some of the problems."""
        return Found(self.answers[:, rows], self.energies[:, rows], self.costs, self.truth[rows], self.right[:, rows])

    def chosen(self, values: Shaped[Tensor, "n b"]) -> Shaped[Tensor, "n b"]:
        """Of values, those of the answer of lowest energy so far, after each answer."""
        return values.gather(0, self.energies.cummin(0).indices)


def find(
    way: Search,
    problem: Problem,
    generator: torch.Generator,
    accepted: Callable[[Points], Bool[Tensor, " b"]],
    budget: float = float("inf"),
) -> Found:
    """Run a search and judge each answer, rounded to decisions where the task has them; beyond the budget none counts.

    `accepted(answers)` says which are right: with many right answers, all of them. The first answer always counts.
    """
    rows = list[tuple[Tensor, Tensor, int, Tensor]]()
    problem.cost = 0
    for y in way(problem, generator):
        if hasattr(problem.task, "classes"):
            y = problem.impose(problem.entries(problem.choices(y)))
        energy = problem.energy(y)
        if rows and problem.cost > budget:
            break
        rows.append((y, energy, problem.cost, accepted(y).bool()))
    answers, energies, costs, right = zip(*rows, strict=True)
    truth = problem.energy(problem.batch.y)
    return Found(torch.stack(answers), torch.stack(energies), np.array(costs), truth, torch.stack(right))


def blame(found: Found, strongest: Found) -> np.ndarray:
    """Each problem [b] as "solved", "search error" or "model error".

    A failure is the model's where a wrong answer with an energy at or below the truth's is known, from this search or
    the `strongest` of all, for the same problems; else the search missed the truth, or something better.
    """
    lower = [(~each.right & (each.energies <= each.truth)).any(0) for each in (found, strongest)]
    failed = np.where((lower[0] | lower[1]).cpu(), "model error", "search error")
    return np.where(found.chosen(found.right)[-1].cpu(), "solved", failed)
