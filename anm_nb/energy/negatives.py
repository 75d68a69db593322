"""Negative strategies: what the contrastive loss is shown as wrong. Bring your own by subclassing `NegativeStrategy`.

A strategy works in clean y-space. Noising is the trainer's, once, with the noise of the positive (`SharedNoise`).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from anm_nb.energy.constraints import L2Ball
from anm_nb.energy.miner import Mined, MinerConfig, mine, random_shift
from anm_nb.energy.sampler import descend
from anm_nb.energy.schedule import SharedNoise
from anm_nb.parameters import ParameterError, Parameters, unknown_name
from anm_nb.tasks.base import Clues, DenoisingTask


@dataclass(frozen=True)
class MiningProblem:
    """Everything a strategy may use to propose negatives for a batch."""

    task: DenoisingTask
    x: Float[Tensor, "b x_dim"]
    y_pos: Float[Tensor, "b y_dim"]
    noise: SharedNoise  # levels k and ε that positive and negative share
    model: nn.Module  # the network in training
    averaged: nn.Module  # its EMA, in eval mode and without gradients
    generator: torch.Generator
    clues: Clues | None = None  # entries of the answers that are given, and stay as they are

    def energy(self, y: Float[Tensor, "b y_dim"]) -> Float[Tensor, " b"]:
        """EMA energies of clean points y, noised with the batch's own noise: what a mined negative should have low."""
        noise = self.noise
        y = y if self.clues is None else self.clues.impose(y)
        return self.averaged(self.x, noise.schedule.q_sample(y, noise.k, noise.eps), noise.k)


class NegativeStrategy(Parameters):
    """A way to propose negatives. Set `name`, add options as fields, implement `propose`, and register the class."""

    name: ClassVar[str]

    @abstractmethod
    def propose(self, problem: MiningProblem) -> Mined:
        """Negatives [batch, y_dim] in clean y-space. Runs without gradients to any weights."""


_STRATEGIES: dict[str, type[NegativeStrategy]] = {}


def register_negatives(strategy: type[NegativeStrategy]) -> type[NegativeStrategy]:
    """Class decorator: makes a strategy known by its `name`. Defining it again replaces it, as notebooks do."""
    _STRATEGIES[strategy.name] = strategy
    return strategy


def get_negatives(name: str, **options: Any) -> NegativeStrategy:
    """A strategy by name: `get_negatives("random", eps=0.5)`. Raises `ParameterError` for unknown names and options."""
    if name not in _STRATEGIES:
        raise ParameterError(unknown_name("negative strategy", name, _STRATEGIES))
    return _STRATEGIES[name](**options)


def named_negatives(name: str) -> NegativeStrategy | None:
    """The strategy of that name with its default options; None for "none", training without a contrastive loss."""
    if name not in (*_STRATEGIES, "none"):
        raise ParameterError(unknown_name("negative strategy", name, [*_STRATEGIES, "none"]))
    return None if name == "none" else get_negatives(name)


@register_negatives
class Stock(NegativeStrategy):
    """IRED's own: the task's corruption (`DenoisingTask.corrupt`).

    For continuous tasks that is the truth noised with 3ε, after two energy-descent steps, back in y-space and clamped.
    """

    name = "stock"
    noise_factor: PositiveFloat = 3.0
    descent_steps: PositiveInt = 2

    def propose(self, problem: MiningProblem) -> Mined:
        """Negatives by the published recipe."""
        return Mined(problem.task.corrupt(problem.y_pos, lambda: self._settled(problem), problem.generator))

    def _settled(self, problem: MiningProblem) -> Tensor:
        """Noised targets after a few descent steps on the energy, back in y-space."""
        schedule, k = problem.noise.schedule, problem.noise.k
        start = schedule.q_sample(problem.y_pos, k, self.noise_factor * problem.noise.eps)
        settled = descend(
            lambda point: problem.model(problem.x, point, k),
            start.as_subclass(Tensor),
            schedule.step_size(k),
            schedule.signal(k) * problem.task.sample_clamp,
            self.descent_steps,
        )
        return schedule.to_clean(settled, k)


@register_negatives
class Random(NegativeStrategy):
    """A random direction at distance `eps`·‖y⁺‖ from the truth, optionally orthogonal to the noise."""

    name = "random"
    eps: PositiveFloat = 1.0
    orthogonal_to_noise: bool = False

    def propose(self, problem: MiningProblem) -> Mined:
        """Negatives that look at neither the energy nor the problem."""
        y_pos = problem.y_pos
        length = self.eps * y_pos.norm(dim=1)
        shift = random_shift(y_pos, length, problem.generator)
        if self.orthogonal_to_noise:
            shift = L2Ball(torch.zeros_like(y_pos), length, problem.noise.eps).project(shift)
            shift = shift * (length / shift.norm(dim=1)).unsqueeze(1)
        return Mined(y_pos + shift)


@register_negatives
class Anm(NegativeStrategy):
    """Adversarial negative mining: low EMA energy within a ball around the truth (ANM checklist, section B).

    `orthogonal_to_noise` keeps y⁻ − y⁺ orthogonal to the shared ε, which makes every negative legitimate
    (`SharedNoise.optimal_margin`); without it the miner removes the noise of the positive instead of finding an error.
    """

    name = "anm"
    orthogonal_to_noise: bool = False
    miner: MinerConfig = Field(default_factory=MinerConfig)

    def propose(self, problem: MiningProblem) -> Mined:
        """Negatives mined against the EMA energy."""
        normal = problem.noise.eps if self.orthogonal_to_noise else None
        ball = L2Ball(problem.y_pos, self.miner.eps * problem.y_pos.norm(dim=1), normal)
        return mine(problem.energy, problem.y_pos, ball, self.miner, problem.generator)


@register_negatives
class AnmOrthogonal(Anm):
    """`anm` with the negative kept orthogonal to the noise, under a name of its own for tables and figures."""

    name = "anm_orthogonal"
    orthogonal_to_noise: bool = True
