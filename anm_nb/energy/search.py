"""Ways to look for an answer of low energy, what they cost counted. Bring your own by subclassing `Search`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from anm_nb.config import ParameterError, Parameters
from anm_nb.energy.networks import Model, energy_given, gradient_and_value
from anm_nb.energy.sampler import SamplerConfig, sample
from anm_nb.energy.schedule import NoiseSchedule
from anm_nb.tasks.base import Batch, Clues, DenoisingTask

GRADIENT = 3  # forward passes that an energy with its gradient counts as: a backward pass costs about two


@dataclass
class Problem:
    """b problems and the energy by which their answers are judged: E(x, √ᾱ_k·y, k), without noise, at one level k.

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
        if not 0 <= self.level < len(self.schedule.betas):
            raise ParameterError(f"level = {self.level}: from 0 to {len(self.schedule.betas) - 1}")

    @property
    def bound(self) -> float:
        """Answers stay within ± this."""
        return self.task.sample_clamp

    @torch.no_grad()
    def energy(self, y: Float[Tensor, "rows d"]) -> Float[Tensor, " rows"]:
        """Energies of answers, `rows` a multiple of b: m answers of each problem, problem after problem."""
        copies = len(y) // len(self.batch.x)
        self.cost += copies
        return self.at(self.level, copies)(y)

    def at(self, level: int, copies: int = 1) -> Callable[[Tensor], Tensor]:
        """y ↦ E(x, √ᾱ_k·y, k) at a level, not counted; clues are imposed."""
        x = self.batch.x.repeat_interleave(copies, 0)
        k = torch.full((len(x),), level, device=x.device)
        of_x, signal, clues = energy_given(self.model, x, k), self.schedule.signal(k), self.clues(copies)
        return lambda y: of_x(signal * (y if clues is None else clues.impose(y)))

    def clues(self, copies: int = 1) -> Clues | None:
        """What is given of the answers, each problem's `copies` times in a row; None where nothing is."""
        clues = self.task.clues(self.batch)
        if clues is None or copies == 1:
            return clues
        return Clues(clues.mask.repeat_interleave(copies, 0), clues.values.repeat_interleave(copies, 0))

    def answer(self, y: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """The answer that a point stands for: of a task with choices the chosen ones, as entries of ± 1."""
        if getattr(self.task, "classes", None) is None:
            return y
        decisions = Decisions(self)
        written = decisions.write(decisions.read(y))
        clues = self.clues()
        return written if clues is None else clues.impose(written)

    def published(self, generator: torch.Generator) -> Float[Tensor, "b d"]:
        """The answers of the published sampler from fresh starting noise."""
        self.cost += published_cost(len(self.schedule.betas), self.sampler)
        x, y_dim, clues = self.batch.x, self.batch.y.shape[1], self.clues()
        return sample(self.model, self.schedule, x, y_dim, generator, self.sampler, self.bound, clues)


def published_cost(levels: int, sampler: SamplerConfig) -> int:
    """Forward passes that one answer of the published sampler costs."""
    return levels * (GRADIENT * (sampler.inner_steps + 1) + 1)


class Decisions:
    """A discrete answer as one choice for each cell, [b, cells], of which the given ones are fixed.

    A task says by `classes` how many entries of y make a cell: the highest is the choice; with one, its sign is.
    """

    def __init__(self, problem: Problem) -> None:
        classes = getattr(problem.task, "classes", None)
        if classes is None:
            raise ParameterError(f"task '{problem.task.name}': its answers are no choices (it has no `classes`)")
        self.classes, self.options = classes, max(2, classes)
        clues = problem.clues()
        entries = problem.batch.y.shape[1]
        x = problem.batch.x
        free = torch.ones(len(x), entries, dtype=torch.bool, device=x.device) if clues is None else ~clues.mask
        self.free = free.reshape(len(free), -1, classes).any(2)

    def read(self, y: Float[Tensor, "b d"]) -> Int[Tensor, "b cells"]:
        """The choices of an answer."""
        return (y > 0).long() if self.classes == 1 else y.unflatten(1, (-1, self.classes)).argmax(2)

    def write(self, choices: Int[Tensor, "b cells"]) -> Float[Tensor, "b d"]:
        """Choices as entries of ± 1."""
        if self.classes == 1:
            return 2.0 * choices - 1
        return 2.0 * torch.nn.functional.one_hot(choices, self.classes).flatten(1) - 1

    def neighbours(
        self, choices: Int[Tensor, "b cells"]
    ) -> tuple[Int[Tensor, "b moves cells"], Bool[Tensor, "b moves"]]:
        """All answers that differ in one cell, and which of them are allowed: no given cell changes.

        The rows may be several answers of each problem, problem after problem.
        """
        cells = choices.shape[1]
        moves = choices[:, None, None].repeat(1, cells, self.options - 1, 1)
        place = torch.arange(cells, device=choices.device)
        for shift in range(1, self.options):
            moves[:, place, shift - 1, place] = (choices + shift) % self.options
        free = self.free.repeat_interleave(len(choices) // len(self.free), 0)
        allowed = free[:, :, None].expand(-1, -1, self.options - 1)
        return moves.flatten(1, 2), allowed.flatten(1, 2)


class Search(Parameters, ABC):
    """A way to look for low energy. Subclass it with `name` and `answers` for one of your own."""

    name: ClassVar[str]
    start: Literal["published", "fresh"] = "published"  # what a way that improves an answer starts from

    def first(self, problem: Problem, generator: torch.Generator) -> Float[Tensor, "b d"]:
        """The answer to start from: of the published sampler, or of one cheap pass of `FreshNoise`."""
        if self.start == "published":
            return problem.published(generator)
        return next(FreshNoise().answers(problem, generator))

    @abstractmethod
    def answers(self, problem: Problem, generator: torch.Generator) -> Iterator[Float[Tensor, "b d"]]:
        """Answers to all problems, one after another, each when it is found; `problem` counts what they cost."""


class Published(Search):
    """The published sampler, started anew `restarts` times (best of N by energy)."""

    name = "published sampler"
    restarts: PositiveInt = 1

    def answers(self, problem: Problem, generator: torch.Generator) -> Iterator[Tensor]:
        for _ in range(self.restarts):
            yield problem.published(generator)


class FreshNoise(Search):
    """The sampler with fresh noise at each level, as diffusion samplers have: ỹ = √ᾱ_k·y + τ·σ_k·ε before descending.

    Several `restarts` differ, which those of the published sampler do not.
    """

    name = "fresh noise"
    restarts: PositiveInt = 1
    temperature: NonNegativeFloat = 1.0  # τ
    steps: NonNegativeInt = 1  # descent steps a level

    def answers(self, problem: Problem, generator: torch.Generator) -> Iterator[Tensor]:
        schedule, x, clues = problem.schedule, problem.batch.x, problem.clues()
        for _ in range(self.restarts):
            y = torch.randn(problem.batch.y.shape, generator=generator, device=x.device)
            for level in reversed(range(len(schedule.betas))):
                k = torch.full((len(x),), level, device=x.device)
                signal, sigma = schedule.signal(k), schedule.sigma(k)
                eps = torch.randn(y.shape, generator=generator, device=x.device)
                at_level = energy_given(problem.model, x, k)
                noised = signal * y + self.temperature * sigma * eps
                for step in range(self.steps + 1):
                    point = noised if clues is None else clues.impose(noised, signal)
                    with torch.no_grad():
                        score, _ = gradient_and_value(at_level, point)
                    problem.cost += GRADIENT
                    if step == 0:  # the estimate of the clean answer, scaled to the level
                        noised = signal * ((point - sigma * score) / signal).clamp(-problem.bound, problem.bound)
                    else:
                        limit = signal * problem.bound
                        noised = (point - schedule.step_size(k) * score).clamp(-limit, limit)
                y = noised / signal
            yield y if clues is None else clues.impose(y)


class Langevin(Search):
    """Langevin steps y ← y − η∇E + √(2ηT)·ξ on the judging energy, from the sampler's answer."""

    name = "Langevin"
    steps: PositiveInt = 50
    step_size: PositiveFloat = 0.01  # η
    temperature: NonNegativeFloat = 0.1  # T
    every: PositiveInt = 10  # steps from one answer to the next

    def answers(self, problem: Problem, generator: torch.Generator) -> Iterator[Tensor]:
        y, clues = self.first(problem, generator), problem.clues()
        yield y
        energy = problem.at(problem.level)
        for step in range(1, self.steps + 1):
            with torch.no_grad():
                gradient, _ = gradient_and_value(energy, y)
            problem.cost += GRADIENT
            noise = torch.randn(y.shape, generator=generator, device=y.device)
            y = y - self.step_size * gradient + (2 * self.step_size * self.temperature) ** 0.5 * noise
            y = y.clamp(-problem.bound, problem.bound)
            y = y if clues is None else clues.impose(y)
            if step % self.every == 0:
                yield y


class Beam(Search):
    """Changes of single decisions: of all neighbours of `width` answers the `width` of lowest energy are kept.

    It starts from the sampler's answer, and ends after `rounds` or where nothing gets lower. Of width 1 it is
    greedy descent.
    """

    name = "beam"
    width: PositiveInt = 1
    rounds: PositiveInt = 30

    def answers(self, problem: Problem, generator: torch.Generator) -> Iterator[Tensor]:
        decisions = Decisions(problem)
        start = decisions.read(self.first(problem, generator))
        beam = start[:, None]  # [b, width, cells]
        energies = problem.energy(decisions.write(start))[:, None]
        yield decisions.write(start)
        for _ in range(self.rounds):
            b, _, cells = beam.shape
            moves, allowed = decisions.neighbours(beam.flatten(0, 1))
            found = problem.energy(decisions.write(moves.flatten(0, 1))).view(b, -1)
            found = found.masked_fill(~allowed.view(b, -1), torch.inf)
            pool = torch.cat([beam, moves.view(b, -1, cells)], 1)
            lowest = torch.cat([energies, found], 1)
            kept = self._distinct(pool, lowest)
            before, energies = energies, lowest.gather(1, kept)
            beam = pool.gather(1, kept[:, :, None].expand(-1, -1, cells))
            yield decisions.write(beam[:, 0])
            if before.shape == energies.shape and bool((energies >= before).all()):
                break

    def _distinct(self, pool: Tensor, energies: Tensor) -> Int[Tensor, "b width"]:
        """The places of the lowest energies, answers that occur twice once."""
        device, pool, energies = pool.device, pool.cpu(), energies.cpu()  # row by row is slow on a GPU
        order = energies.argsort(dim=1, stable=True)[:, : 8 * self.width]  # an answer is reached in few ways
        chosen = []
        for answers, values, row in zip(pool, energies, order, strict=True):
            seen, own = set(), []
            for place in row.tolist():
                key = tuple(answers[place].tolist())
                if key not in seen and values[place] < torch.inf:
                    seen.add(key)
                    own.append(place)
            chosen.append((own + own[:1] * self.width)[: self.width])
        return torch.tensor(chosen, device=device)


class Annealing(Search):
    """Simulated annealing over single decisions from the sampler's answer; temperatures fall geometrically.

    A random free cell gets a random other choice, accepted with probability min(1, exp(−ΔE/T)).
    """

    name = "annealing"
    steps: PositiveInt = 500
    hot: PositiveFloat = 1.0  # T at the first step, in units of energy
    cold: PositiveFloat = 0.01  # and at the last
    every: PositiveInt = 50

    def answers(self, problem: Problem, generator: torch.Generator) -> Iterator[Tensor]:
        decisions = Decisions(problem)
        choices = decisions.read(self.first(problem, generator))
        energy, rows = problem.energy(decisions.write(choices)), torch.arange(len(choices), device=choices.device)
        yield decisions.write(choices)
        for step in range(1, self.steps + 1):
            temperature = self.hot * (self.cold / self.hot) ** (step / self.steps)
            cell = torch.multinomial(decisions.free.float(), 1, generator=generator)[:, 0]
            shift = torch.randint(1, decisions.options, (len(rows),), generator=generator, device=choices.device)
            trial = choices.clone()
            trial[rows, cell] = (trial[rows, cell] + shift) % decisions.options
            found = problem.energy(decisions.write(trial))
            luck = torch.rand(len(rows), generator=generator, device=choices.device)
            taken = luck < ((energy - found) / temperature).exp()
            choices = torch.where(taken[:, None], trial, choices)
            energy = torch.where(taken, found, energy)
            if step % self.every == 0:
                yield decisions.write(choices)
