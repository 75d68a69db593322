"""Problems: batches made on the device, native metrics, and the scores any method has to be read against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from anm_nb.config import Distinct, Registry

if TYPE_CHECKING:
    from anm_nb.tasks.base import Task

# A built-in task is imported when asked for, so that a list of names costs no torch import.
TASKS: Registry[Task] = Registry(
    "task",
    {
        "addition": "anm_nb.tasks.matrices:Addition",
        "connectivity": "anm_nb.tasks.matrices:Connectivity",
        "hinted_sort": "anm_nb.tasks.hinted_sort:HintedSort",
        "inverse": "anm_nb.tasks.matrices:Inverse",
        "lowrank": "anm_nb.tasks.matrices:LowRank",
        "partial_sort": "anm_nb.tasks.ordering:PartialSort",
        "sudoku": "anm_nb.tasks.sudoku:Sudoku",
    },
)
register_task, task_class = TASKS.register, TASKS.get
TaskName = Annotated[str, AfterValidator(TASKS.known)]
TaskNames = Annotated[tuple[TaskName, ...], Field(strict=False, min_length=1), Distinct]


def get_task(name: str, **options: Any) -> Task:
    """A task by name: `get_task("inverse", size=20)`. Raises `ParameterError` for unknown names and options."""
    return TASKS.get(name)(**options)
