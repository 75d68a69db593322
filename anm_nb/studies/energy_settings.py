"""The settings of the energy notebooks: what their parameter cells may say, and the runs that follow from it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
from pydantic import AfterValidator, Field, model_validator

from anm_nb import store
from anm_nb.bounds import (
    Count,
    Counts,
    Decay,
    Distinct,
    Examples,
    Fraction,
    LearningRate,
    Records,
    Seeds,
    Size,
    Steps,
    Threads,
    Weight,
    Width,
)
from anm_nb.config import ParameterError, Parameters
from anm_nb.energy.negatives import get_negatives, named_negatives
from anm_nb.energy.sampler import Form
from anm_nb.energy.train import EnergyConfig
from anm_nb.studies.reference_settings import TaskNames
from anm_nb.tasks import TASKS, get_task, task_class
from anm_nb.tasks.base import MatrixTask, reference_scores
from anm_nb.training.seeds import generator


def _strategy_name(name: str) -> str:
    """The name itself. Raises `ParameterError` for one that neither is registered nor is "none"."""
    named_negatives(name)
    return name


StrategyName = Annotated[str, AfterValidator(_strategy_name)]
StrategyNames = Annotated[tuple[StrategyName, ...], Field(strict=False, min_length=1), Distinct]
TaskName = Annotated[str, AfterValidator(TASKS.known)]


class Sanity(Parameters):
    """The sizes and seeds at which every invariant is checked."""

    notebook: ClassVar[str] = "00_sanity"

    task: TaskName = "inverse"
    size: Size = 5
    width: Width = 64
    batch: Annotated[Examples, Field(ge=2)] = 64
    seeds: Seeds = (0, 1, 2)

    @model_validator(mode="after")
    def _usable(self) -> Sanity:
        self.config()
        return self

    def config(self) -> EnergyConfig:
        """A run with mined negatives at this size."""
        return EnergyConfig.of(self, negatives=get_negatives("anm"))


class AnmVsCorruption(Parameters):
    """Negative strategies against one another, on the same seeds, batches and noise."""

    notebook: ClassVar[str] = "10_anm_vs_corruption"

    task: TaskName = "inverse"
    size: Size = 5
    strategies: StrategyNames = (
        "none",
        "stock",
        "random",
        "anm",
        "anm_orthogonal",
    )
    seeds: Seeds = (0, 1, 2)
    steps: Steps = 80
    batch: Examples = 128
    width: Width = 128
    head: Literal["squared_norm", "scalar"] = "squared_norm"
    network: str | None = None  # None: the task's published one
    contrastive_weight: Weight = 0.5
    lr: LearningRate = 2e-3
    lr_final: Fraction = 0.05
    ema_decay: Decay = 0.95
    ema_every: Steps = 1
    records: Records = 5
    dev_examples: Examples = 128
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Threads = 1

    @model_validator(mode="after")
    def _usable(self) -> AnmVsCorruption:
        if not issubclass(task_class(self.task), MatrixTask):
            raise ParameterError(f"task = '{self.task}': this comparison is of mean squared errors of matrices")
        self.configs()  # what no task or network can be made of is refused here
        return self

    def configs(self) -> dict[str, EnergyConfig]:
        """One run for each strategy, alike in everything else."""
        return {strategy: EnergyConfig.of(self, negatives=named_negatives(strategy)) for strategy in self.strategies}

    def get_or_train(self) -> dict[str, store.Run]:
        """The finished run of each strategy, trained where the store has none."""
        return {strategy: store.get_or_train(config) for strategy, config in self.configs().items()}

    def reference_scores(self, n: int = 2000) -> pd.DataFrame:
        """The task's trivial, classical and best-possible scores on n problems."""
        return get_task(self.task, size=self.size).reference_scores(n, generator=generator(0, "references"))


class IredTraining(Parameters):
    """How one task of IRED's table is trained and tested."""

    size: Size = 8
    network: str | None = None  # None: the task's published one
    width: Width = 128
    task_options: dict[str, Any] = Field(default_factory=dict)
    steps: Steps = 60
    batch: Examples = 128
    lr: LearningRate = 2e-3
    lr_final: Fraction = 0.05
    ema_decay: Decay = 0.95
    ema_every: Steps = 1
    records: Records = 3
    dev_examples: Examples = 64
    inner_steps: Count | None = None  # the sampler's descent steps a level; None: the number published
    test_examples: Annotated[Examples, Field(ge=2)] = 200
    test_inner_steps: Counts = (1, 5, 10)


SMALL: dict[str, Any] = {"inner_steps": 2, "dev_examples": 10, "test_examples": 10, "test_inner_steps": [1, 2]}
PER_TASK: dict[str, dict[str, Any]] = {
    "connectivity": {"size": 12, "width": 16, "batch": 16, "steps": 30, **SMALL},
    "sudoku": {"size": 9, "width": 8, "batch": 8, "steps": 5, "task_options": {"pool": 100}, **SMALL},
}


class IredTable(IredTraining):
    """Base IRED, with its stock negatives, on every task it was published for; `per_task` replaces single values."""

    notebook: ClassVar[str] = "15_ired_table"

    tasks: TaskNames = ("addition", "lowrank", "inverse", "connectivity", "sudoku")
    per_task: dict[str, dict[str, Any]] = Field(default_factory=lambda: PER_TASK)
    seeds: Seeds = (0, 1, 2)
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Threads = 1

    @model_validator(mode="after")
    def _usable(self) -> IredTable:
        for task in self.per_task:
            task_class(task)
        self.configs()
        return self

    def training(self, task: str) -> IredTraining:
        """The values for one task."""
        shared = {name: getattr(self, name) for name in IredTraining.model_fields}
        try:
            return IredTraining(**shared | self.per_task.get(task, {}))
        except ParameterError as error:
            raise error.within(f"per_task.{task}") from None

    def configs(self, form: Form = "paper") -> dict[str, EnergyConfig]:
        """One run for each task, with stock negatives as the paper words them.

        Of the released form, which differs where negatives descend on the energy, one for each matrix task.
        """
        asked = [task for task in self.tasks if form == "paper" or issubclass(task_class(task), MatrixTask)]
        return {task: self._config(task, self.training(task), form) for task in asked}

    def get_or_train(self, form: Form = "paper") -> dict[str, store.Run]:
        """The finished run of each task, trained where the store has none."""
        return {task: store.get_or_train(config) for task, config in self.configs(form).items()}

    def reference_scores(self) -> pd.DataFrame:
        """Every task's references on problems like those it is tested on, with `task` and `split` columns."""
        tables = [
            reference_scores({task: config.make_task()}, self.training(task).test_examples, seed)
            for task, config in self.configs().items()
            for seed in self.seeds
        ]
        return pd.concat(tables, ignore_index=True)

    def _config(self, task: str, values: IredTraining, form: Form) -> EnergyConfig:
        at_steps = {} if form == "paper" else {"test_inner_steps": ()}
        return EnergyConfig.of(self, values, task=task, negatives=get_negatives("stock", form=form), **at_steps)
