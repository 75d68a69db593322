"""Training an energy: the config of a run, one flat table of what a person sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, PositiveFloat, model_validator

from anm_nb.bounds import (
    Count,
    Decay,
    Examples,
    Fraction,
    LearningRate,
    Records,
    Size,
    Steps,
    Weight,
    Width,
    require_memory,
    weight_bytes,
)
from anm_nb.config import ParameterError
from anm_nb.energy.learner import Balance, EnergyLearner
from anm_nb.energy.negatives import Negatives
from anm_nb.energy.networks import EnergyNetwork, Head, get_network
from anm_nb.energy.sampler import SamplerConfig
from anm_nb.tasks import task_class
from anm_nb.tasks.base import DenoisingTask
from anm_nb.training.learner import Member, TrainingConfig
from anm_nb.training.run import Trained, train

WEIGHTS = ("contrastive_weight", "contrastive_weight_end")  # each of several stacked seeds may have its own, and lr


class EnergyConfig(TrainingConfig):
    """One energy-diffusion run: a task, a network, a negative strategy, and how long to train, for several seeds.

    What is None follows the recipe published for the task.
    """

    family: ClassVar[str] = "energy"
    version: ClassVar[int] = 1  # raise it when a golden run says that numerics have changed

    task: str = "inverse"
    size: Size = 5
    task_options: dict[str, Any] = Field(default_factory=dict)  # the task's options beside its size
    network: str | None = None
    levels: Annotated[Count, Field(ge=2)] = 10
    width: Width = 128
    head: Head = "squared_norm"
    negatives: Negatives = None  # "none": no contrastive loss
    contrastive_weight: Weight | None = None
    contrastive_weight_end: Weight | None = None  # where the weight moves to, linearly
    contrast_from: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the steps before which there is no contrast
    soft_label: bool = False  # label each pair σ(m*) instead of 1 (`soft_info_nce`)
    balance: Balance | None = None  # None: the contrastive weight stays as it is
    probes: bool = False  # on a CPU, prove in every step that the negative is noised once (checklist, section C)
    inner_steps: Count | None = None  # the sampler's descent steps a level
    training_examples: Examples | None = None  # a fixed set of so many, in epochs; None: fresh ones in every step
    dev_examples: Examples = 256
    test_examples: Examples | None = None  # None: no final evaluation on test problems
    # Numbers of descent steps a level to test at, beside the sampler's own.
    test_inner_steps: Annotated[tuple[Count, ...], Field(strict=False)] = ()
    steps: Steps = 300
    batch: Examples = 128
    lr: LearningRate = 1e-3
    lr_final: Fraction = 0.05  # cosine decay to this fraction of lr; 1 = constant
    clip_norm: PositiveFloat = 1.0
    ema_decay: Decay = 0.99
    ema_every: Steps = 1
    records: Records = 10  # measurements, half of them in the first 20 % of steps
    record_every: Steps | None = None  # measure every so many steps, and at the last, instead

    @model_validator(mode="after")
    def _usable(self) -> EnergyConfig:
        task = self.make_task()
        get_network(self.network or task.network)
        if self.balance is not None and self.contrastive_weight_end is not None:
            raise ParameterError("balance and contrastive_weight_end: either adapts the contrastive weight, not both")
        require_memory(dict(self), self.least_bytes(task))
        return self

    def least_bytes(self, task: DenoisingTask) -> dict[str, int]:
        """Bytes that training one seed needs at least, by the fields they come from."""
        pair = 4 * (task.x_dim + task.y_dim)
        row = pair + 12 * task.y_dim  # with the target its noise, the noised point and its score
        kept = len(self.record_steps()) if self.keep_weights else 0
        large = self.width * (task.x_dim + task.y_dim) > 10**6  # counting takes milliseconds, small ones need none
        return {
            "width size": weight_bytes(lambda: self.make_network(task), kept) if large else 0,
            "batch size": self.batch * row,
            "dev_examples size": self.dev_examples * row,
            "training_examples size": (self.training_examples or 0) * pair,
            "test_examples size": (self.test_examples or 0) * row,
        }

    def make_task(self) -> DenoisingTask:
        made = self.task_class
        try:
            return made(size=self.size, **self.task_options)
        except ParameterError as error:
            raise (error.within("task_options") if str(error).startswith("unknown") else error) from None

    @property
    def task_class(self) -> type[DenoisingTask]:
        """The task's class. Raises `ParameterError` for one that an energy cannot learn."""
        task = task_class(self.task)
        if not issubclass(task, DenoisingTask):
            raise ParameterError(f"task = '{self.task}': the energy family needs a task with a flat target")
        return task

    def make_network(self, task: DenoisingTask) -> EnergyNetwork:
        """The network for that task, its weights not yet drawn from a generator."""
        return get_network(self.network or task.network).for_task(task, self.width, self.head, self.levels)

    def make_sampler(self, task: DenoisingTask) -> SamplerConfig:
        return SamplerConfig(inner_steps=self.inner_steps or task.inner_steps)

    @property
    def method(self) -> str:
        """The name of the negative strategy; "none" for plain denoising."""
        return self.negatives.name if self.negatives else "none"

    def plugins(self) -> list[type]:
        """The classes of the task, the network and the strategy."""
        network = get_network(self.network or self.task_class.network)
        return [self.task_class, network, *([type(self.negatives)] if self.negatives else [])]

    def train(self, workdir: Path) -> Trained:
        return train(self, workdir)

    def make_learner(self, members: Sequence[Member], device: str) -> EnergyLearner:
        return EnergyLearner(members, device)

    def stack_key(self) -> str:
        apart = {"seeds", "lr"} if self.balance else {"seeds", "lr", *WEIGHTS}
        return self.model_dump_json(exclude=apart) + str([getattr(self, name) is None for name in WEIGHTS])

    def total_steps(self) -> int:
        return self.steps

    def record_steps(self) -> list[int]:
        """Steps at which to measure: 0, the last, and dense over the first 20 % (ANM checklist, section J)."""
        if self.record_every is not None:
            return sorted({*range(0, self.steps, self.record_every), self.steps})
        early, knee = max(1, self.records // 2), self.steps / 5
        late = max(1, self.records - early - 1)
        points = {int(knee * i / early) for i in range(early + 1)}
        return sorted(points | {round(knee + (self.steps - knee) * i / late) for i in range(1, late + 1)})

    def lr_factor(self, step: int) -> float:
        """Factor on the learning rate: cosine from 1 at step 0 to `lr_final` at the last."""
        return self.lr_final + (1 - self.lr_final) * (1 + math.cos(math.pi * step / self.steps)) / 2

    def averaging(self) -> tuple[float, int]:
        return self.ema_decay, self.ema_every

    def weight_at(self, step: int) -> float:
        """The contrastive weight λ at a step, before `balance` adapts it."""
        progress = step / self.steps
        if self.negatives is None or progress < self.contrast_from:
            return 0.0
        weight = self.contrastive_weight
        if weight is None:  # as published for the task; asked for every step of every seed, so no task is made
            weight = self.task_class.contrastive_weight
        end = self.contrastive_weight_end
        return weight if end is None else weight + (end - weight) * progress
