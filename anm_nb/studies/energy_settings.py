"""The settings of the energy notebooks: what their parameter cells may say, and the runs that follow from it."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from anm_nb.bounds import Examples, Seeds, Size, Width
from anm_nb.config import Parameters
from anm_nb.energy.negatives import get_negatives
from anm_nb.energy.train import EnergyConfig
from anm_nb.tasks import TaskName


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
