"""The settings of the notebooks that explore: what their parameter cells may say, and the runs that follow from it.

Their runs are those of other notebooks where parameters are the same, so that whoever ran these has nothing to train.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from anm_nb import store
from anm_nb.bounds import (
    Count,
    Decay,
    Epochs,
    Examples,
    Fraction,
    LearningRate,
    Rate,
    Records,
    Seeds,
    Size,
    Steps,
    Temperature,
    Threads,
    Weight,
    Width,
)
from anm_nb.config import ParameterError, Parameters
from anm_nb.energy.negatives import get_negatives
from anm_nb.energy.strategies import Strategies, labelled
from anm_nb.energy.train import EnergyConfig
from anm_nb.ranking.train import RankingConfig
from anm_nb.tasks import TaskName

BOARD: dict[str, Any] = {
    "size": 4, "task_options": {"pool": 500}, "network": "mlp", "width": 128, "steps": 50, "batch": 64, "lr": 5e-3,
    "ema_decay": 0.9, "records": 5, "dev_examples": 24, "inner_steps": 1,
}  # fmt: skip


class ExploreMargins(Parameters):
    """The runs of notebook 13, for margins and landscapes, and one of notebook 14, for a board that is solved.

    `board` replaces single values of notebook 14's Sudoku.
    """

    notebook: ClassVar[str] = "40_explore_margins"

    task: TaskName = "inverse"
    size: Size = 4
    strategies: Strategies = ("none", "stock", "random", "anm", "anm_orthogonal")
    seeds: Seeds = (0, 1, 2)
    steps: Steps = 80
    batch: Examples = 64
    width: Width = 64
    head: Literal["squared_norm", "scalar"] = "squared_norm"
    network: str | None = None  # None: the task's published one
    contrastive_weight: Weight = 0.5
    lr: LearningRate = 2e-3
    lr_final: Fraction = 0.05
    ema_decay: Decay = 0.95
    ema_every: Steps = 1
    records: Records = 5
    dev_examples: Examples = 48
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Threads = 1
    board: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _usable(self) -> ExploreMargins:
        self.configs()
        self.board_config()
        return self

    def configs(self) -> dict[str, EnergyConfig]:
        """One run for each strategy, alike in everything else, with the weights of every record."""
        strategies = labelled(self.strategies)
        return {name: EnergyConfig.of(self, negatives=each, keep_weights=True) for name, each in strategies.items()}

    def get_or_train(self) -> dict[str, store.Run]:
        """The finished run of each strategy, trained where the store has none."""
        return {strategy: store.get_or_train(config) for strategy, config in self.configs().items()}

    def board_config(self) -> EnergyConfig:
        """The run of the Sudoku, trained with IRED's own negatives."""
        shared = {name: getattr(self, name) for name in ("seeds", "precision", "device", "threads")}
        values = {"task": "sudoku", "negatives": get_negatives("stock"), "keep_weights": True, **shared}
        try:
            return EnergyConfig(**BOARD | self.board | values)
        except ParameterError as error:
            raise error.within("board") from None

    def get_or_train_board(self) -> store.Run:
        """The finished run of the Sudoku, trained where the store has none."""
        return store.get_or_train(self.board_config())


class ExploreRouting(Parameters):
    """The runs of notebook 20."""

    notebook: ClassVar[str] = "41_explore_routing"

    task: str = "partial_sort"
    size: Annotated[Size, Field(ge=2)] = 10
    mask_rate: Rate = 0.5
    width: Width = 32
    n_heads: Count = 4
    max_inner_iters: Count = 3
    hrm_period: Count = 2
    temperature: Temperature = 2.0
    entropy_weight: Weight = 1e-3
    entropy_every: Epochs = 1
    warmup_epochs: Annotated[int, Field(ge=0, le=10**5)] = 1
    encoder_lr: LearningRate = 5e-3
    controller_lr: LearningRate = 2e-3
    batch: Examples = 32
    epochs: Epochs = 3
    stop_at_score: Annotated[float, Field(gt=-1, le=1)] | None = None
    train_samples: Examples = 160
    dev_samples: Examples = 100
    test_samples: Examples = 200
    seeds: Seeds = (1, 2, 3)
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Threads = 1

    @model_validator(mode="after")
    def _usable(self) -> ExploreRouting:
        self.configs()
        return self

    def configs(self) -> dict[str, RankingConfig]:
        """The HRM model and the same one without iteration."""
        hrm = RankingConfig.of(self)
        return {"baseline": hrm.baseline(), "hrm": hrm}

    def get_or_train(self) -> dict[str, store.Run]:
        """The finished runs by name, trained where the store has none."""
        return {name: store.get_or_train(config) for name, config in self.configs().items()}
