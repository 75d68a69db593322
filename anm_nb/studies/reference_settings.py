"""The settings of notebook 01: which tasks are scored without training a model, at which size, for which seeds."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pandas as pd
from pydantic import AfterValidator, Field, PositiveInt, model_validator

from anm_nb.bounds import Seeds
from anm_nb.config import Parameters
from anm_nb.tasks import get_task, task_class
from anm_nb.tasks.base import Task, reference_scores


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError("each may appear once")
    return names


TaskNames = Annotated[tuple[str, ...], Field(strict=False, min_length=1), AfterValidator(_distinct)]


class ReferenceScores(Parameters):
    """Which tasks are scored, at which size, on how many problems a seed."""

    notebook: ClassVar[str] = "01_reference_scores"

    tasks: TaskNames = (
        "addition",
        "lowrank",
        "inverse",
        "connectivity",
        "sudoku",
        "partial_sort",
        "hinted_sort",
    )
    size: PositiveInt = 20
    task_options: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {"connectivity": {"size": 12}, "sudoku": {"size": 9, "pool": 400}}
    )
    problems: Annotated[int, Field(ge=2)] = 400
    seeds: Seeds = (0, 1, 2, 3, 4)

    @model_validator(mode="after")
    def _usable(self) -> ReferenceScores:
        for task in self.task_options:
            task_class(task)
        self.made()
        return self

    def made(self) -> dict[str, Task]:
        """The tasks, each at its size and with its options."""
        return {task: get_task(task, **{"size": self.size} | self.task_options.get(task, {})) for task in self.tasks}

    def scores(self) -> pd.DataFrame:
        """The table of `reference_scores` for every seed."""
        return pd.concat([reference_scores(self.made(), self.problems, seed) for seed in self.seeds], ignore_index=True)
