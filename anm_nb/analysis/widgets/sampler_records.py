"""How the energy of a finished run solves held-out problems, step by step, computed when first asked for and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from anm_nb.analysis.widgets.answers import AnswerPictures
from anm_nb.energy.evaluate import trained_energy
from anm_nb.energy.sampler import SamplerState, sample
from anm_nb.energy.schedule import NoiseSchedule
from anm_nb.energy.train import EnergyConfig
from anm_nb.store import Run
from anm_nb.tasks.base import Batch
from anm_nb.training.seeds import generator

PROBLEMS = 8

Tell = Callable[[int, int], None]  # is told the level and step that a solution has come to


@dataclass(frozen=True)
class Solution:
    """A problem and the sampler's way to its answer; states are in the order in which it went through them."""

    level: np.ndarray  # [states], the noise level
    step: np.ndarray  # [states], the descent step within the level; 0 is where its descent starts
    energy: np.ndarray  # [states], at the state's own level
    accepted: np.ndarray  # [states], whether the step was taken
    answers: np.ndarray  # [states, rows, columns], as `AnswerPictures.array`
    error: np.ndarray  # [states, rows, columns], |answer − truth|, or 1 where a digit is wrong
    truth: np.ndarray  # [rows, columns]
    given: np.ndarray  # [rows, columns], whether the problem gives the cell away


class Solutions:
    """Solutions of the first test problems of a run, by seed and problem."""

    def __init__(self, run: Run) -> None:
        assert isinstance(run.config, EnergyConfig)
        self.run, self.config = run, run.config
        self.task = self.config.make_task()
        self.answers = AnswerPictures(self.task)
        self.sampler = self.config.make_sampler(self.task)
        self.problems, self._energy = cache(self._problems), cache(self._trained)
        self._solved: dict[tuple[int, int], Solution] = {}

    def solution(self, seed: int, problem: int, tell: Tell | None = None) -> Solution:
        """The way to the answer of one problem, from starting noise that depends on seed and problem alone."""
        if (seed, problem) not in self._solved:
            self._solved[seed, problem] = self._solve(seed, problem, tell)
        return self._solved[seed, problem]

    def _solve(self, seed: int, problem: int, tell: Tell | None) -> Solution:
        batch = _row(self.problems(seed), problem)
        states: list[SamplerState] = []

        def keep(state: SamplerState) -> None:
            states.append(state)
            if tell:
                tell(state.level, state.step)

        source, schedule = generator(seed, f"explorer/{problem}"), NoiseSchedule.cosine(self.config.levels)
        clues, clamp = self.task.clues(batch), self.task.sample_clamp
        sample(self._energy(seed), schedule, batch.x, self.task.y_dim, source, self.sampler, clamp, clues, keep)
        answers = np.stack([self.answers.array(state.y[0]) for state in states])
        truth = self.answers.array(batch.y[0])
        wrong = answers != truth if self.answers.digits else np.abs(answers - truth)
        given = np.zeros(truth.shape, bool) if clues is None else self.answers.cells(clues.mask[0])
        rows = [(state.level, state.step, float(state.energy), bool(state.accepted)) for state in states]
        level, step, energy, accepted = (np.array(column) for column in zip(*rows, strict=True))
        return Solution(level, step, energy, accepted, answers, wrong.astype(float), truth, given)

    def _problems(self, seed: int) -> Batch:
        return self.task.stream("test").sample(PROBLEMS, generator=generator(seed, "explorer"))

    def _trained(self, seed: int) -> nn.Module:
        return trained_energy(self.run, seed)


def _row(batch: Batch, row: int) -> Batch:
    """One problem of a batch, as a batch."""

    def own(values: Tensor) -> Tensor:
        return torch.narrow(values, 0, row, 1)

    return Batch(own(batch.x), own(batch.y), None if batch.known is None else own(batch.known))
