"""Problems: batches made on the device, native metrics, and the scores any method has to be read against."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anm_nb.config import ParameterError, unknown_name

if TYPE_CHECKING:
    from anm_nb.tasks.base import Batch, Task

__all__ = ["Batch", "Task", "get_task", "register_task", "task_class", "task_names"]

# Built-in tasks by name; imported when asked for, so that a list of names costs no torch import.
_TASKS: dict[str, str | type[Task]] = {
    "addition": "anm_nb.tasks.matrices:Addition",
    "connectivity": "anm_nb.tasks.connectivity:Connectivity",
    "hinted_sort": "anm_nb.tasks.hinted_sort:HintedSort",
    "inverse": "anm_nb.tasks.matrices:Inverse",
    "lowrank": "anm_nb.tasks.matrices:LowRank",
    "partial_sort": "anm_nb.tasks.ordering:PartialSort",
    "sudoku": "anm_nb.tasks.sudoku:Sudoku",
}


def task_names() -> list[str]:
    """The names `get_task` knows."""
    return sorted(_TASKS)


def register_task(task: type[Task]) -> type[Task]:
    """Class decorator: makes a task of your own known to `get_task` and to configurations by its `name`."""
    _TASKS[task.name] = task
    return task


def task_class(name: str) -> type[Task]:
    """The class behind a task's name. Raises `ParameterError` naming the nearest one for a name that does not exist."""
    if name not in _TASKS:
        raise ParameterError(unknown_name("task", name, task_names()))
    entry = _TASKS[name]
    if isinstance(entry, str):
        module, attribute = entry.split(":")
        _TASKS[name] = entry = getattr(import_module(module), attribute)
    return entry


def get_task(name: str, **options: Any) -> Task:
    """A task by name: `get_task("inverse", size=20)`.

    Raises `ParameterError` for an unknown name, an unknown option, or a value the task refuses.
    """
    return task_class(name)(**options)


def __getattr__(name: str) -> Any:
    if name in ("Batch", "Task"):
        return getattr(import_module("anm_nb.tasks.base"), name)
    raise AttributeError(f"module 'anm_nb.tasks' has no attribute '{name}'")
