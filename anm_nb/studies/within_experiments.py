"""The settings of the notebook on the within-run comparison, and the runs that follow from it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from anm_nb import store
from anm_nb.bounds import Decay, Examples, Fraction, LearningRate, Seeds, Size, Steps, Threads, Weight, Width
from anm_nb.config import Parameters
from anm_nb.energy.negatives import Mixed, get_negatives
from anm_nb.studies.energy_settings import StrategyName, StrategyNames, TaskName
from anm_nb.studies.within_run import WithinRunConfig


class WithinRun(Parameters):
    """Mined against corrupted negatives within one training: a run for each way to mine."""

    notebook: ClassVar[str] = "11_anm_within_run"

    task: TaskName = "inverse"
    size: Size = 5
    baseline: StrategyName = "stock"
    miners: StrategyNames = ("anm_orthogonal", "anm")
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
    record_every: Steps = 10
    dev_examples: Examples = 256
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Threads = 1

    @model_validator(mode="after")
    def _usable(self) -> WithinRun:
        self.configs()
        return self

    def configs(self) -> dict[str, WithinRunConfig]:
        """One run for each way to mine: batches half of it, half of the baseline."""
        baseline = get_negatives(self.baseline)
        return {
            miner: WithinRunConfig.of(self, negatives=Mixed(first=get_negatives(miner), second=baseline))
            for miner in self.miners
        }

    def get_or_train(self) -> dict[str, store.Run]:
        """The finished run of each comparison, trained where the store has none."""
        return {miner: store.get_or_train(config) for miner, config in self.configs().items()}
