"""The settings of the notebooks that explore: what their parameter cells may say, and the runs that follow from it.

Their runs are those of other notebooks where parameters are the same, so that whoever ran these has nothing to train.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from anm_nb import store
from anm_nb.bounds import Examples, Records, Size, Width
from anm_nb.config import ParameterError
from anm_nb.energy.negatives import get_negatives
from anm_nb.energy.train import EnergyConfig
from anm_nb.studies.energy_settings import AnmVsCorruption
from anm_nb.studies.ranking_settings import HrmVsBaseline

BOARD: dict[str, Any] = {
    "size": 4, "task_options": {"pool": 500}, "network": "mlp", "width": 128, "steps": 50, "batch": 64, "lr": 5e-3,
    "ema_decay": 0.9, "records": 5, "dev_examples": 24, "inner_steps": 1,
}  # fmt: skip


class ExploreMargins(AnmVsCorruption):
    """The runs of notebook 13, for margins and landscapes, and one of notebook 14, for a board that is solved.

    `board` replaces single values of notebook 14's Sudoku.
    """

    notebook: ClassVar[str] = "40_explore_margins"

    size: Size = 4
    batch: Examples = 64
    width: Width = 64
    records: Records = 5
    dev_examples: Examples = 48
    board: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _board_usable(self) -> ExploreMargins:
        self.board_config()
        return self

    def configs(self) -> dict[str, EnergyConfig]:
        """One run for each strategy, alike in everything else, with the weights of every record."""
        return {name: config.model_copy(update={"keep_weights": True}) for name, config in super().configs().items()}

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


class ExploreRouting(HrmVsBaseline):
    """The runs of notebook 20."""

    notebook: ClassVar[str] = "41_explore_routing"
