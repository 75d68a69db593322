"""The settings of the energy notebooks: what their parameter cells may say, and the runs that follow from it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import pandas as pd
from pydantic import AfterValidator, Field, model_validator

from anm_nb import store
from anm_nb.bounds import (
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
from anm_nb.energy.train import EnergyConfig
from anm_nb.tasks import TASKS, get_task, task_class
from anm_nb.tasks.base import MatrixTask
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
