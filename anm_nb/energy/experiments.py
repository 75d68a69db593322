"""The settings of the energy notebooks: what their parameter cells may say, and the runs that follow from it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import pandas as pd
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from anm_nb import runs
from anm_nb.energy.negatives import get_negatives, named_negatives
from anm_nb.energy.train import EnergyConfig
from anm_nb.parameters import ParameterError, Parameters
from anm_nb.tasks import get_task
from anm_nb.training.loop import LoopConfig, Seeds
from anm_nb.training.seeds import generator


class Sanity(Parameters):
    """The sizes and seeds at which every invariant is checked."""

    notebook: ClassVar[str] = "00_sanity"

    task: str = "inverse"
    size: PositiveInt = 5
    width: PositiveInt = 64
    batch: Annotated[int, Field(ge=2)] = 64
    seeds: Seeds = (0, 1, 2)

    @model_validator(mode="after")
    def _usable(self) -> Sanity:
        self.config()
        return self

    def config(self) -> EnergyConfig:
        """A run with mined negatives at this size."""
        return EnergyConfig(
            task=self.task,
            size=self.size,
            width=self.width,
            negatives=get_negatives("anm"),
            loop=LoopConfig(batch=self.batch),
            seeds=self.seeds,
        )


class AnmVsCorruption(Parameters):
    """Negative strategies against one another, on the same seeds, batches and noise."""

    notebook: ClassVar[str] = "10_anm_vs_corruption"

    task: str = "inverse"
    size: PositiveInt = 5
    strategies: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = (
        "none",
        "stock",
        "random",
        "anm",
        "anm_orthogonal",
    )
    seeds: Seeds = (0, 1, 2)
    steps: PositiveInt = 80
    batch: PositiveInt = 128
    width: PositiveInt = 128
    head: Literal["squared_norm", "scalar"] = "squared_norm"
    contrastive_weight: Annotated[float, Field(ge=0)] = 0.5
    lr: PositiveFloat = 2e-3
    lr_final: Annotated[float, Field(gt=0, le=1)] = 0.05
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.95
    ema_every: PositiveInt = 1
    records: Annotated[int, Field(ge=3)] = 5
    dev_examples: PositiveInt = 128
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: PositiveInt = 1

    @model_validator(mode="after")
    def _usable(self) -> AnmVsCorruption:
        if len(set(self.strategies)) != len(self.strategies):
            raise ParameterError(f"strategies = {list(self.strategies)}: each may appear once")
        self.configs()  # names of tasks and strategies, and their options, are refused here
        return self

    def configs(self) -> dict[str, EnergyConfig]:
        """One run for each strategy, alike in everything else."""
        loop = LoopConfig(
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            lr_final=self.lr_final,
            ema_decay=self.ema_decay,
            ema_every=self.ema_every,
            records=self.records,
            precision=self.precision,
            device=self.device,
            threads=self.threads,
        )
        return {
            strategy: EnergyConfig(
                task=self.task,
                size=self.size,
                width=self.width,
                head=self.head,
                negatives=named_negatives(strategy),
                contrastive_weight=self.contrastive_weight,
                dev_examples=self.dev_examples,
                loop=loop,
                seeds=self.seeds,
            )
            for strategy in self.strategies
        }

    def get_or_train(self) -> dict[str, runs.Run]:
        """The finished run of each strategy, trained where the store has none."""
        return {strategy: runs.get_or_train(config) for strategy, config in self.configs().items()}

    def reference_scores(self, n: int = 2000) -> pd.DataFrame:
        """The task's trivial, classical and best-possible scores on n problems."""
        return get_task(self.task, size=self.size).reference_scores(n, generator=generator(0, "references"))
