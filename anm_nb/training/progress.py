"""Bars for whoever watches, and trainings of limited time."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


class OutOfTime(RuntimeError):
    """A training's time was up; its state is saved, and it goes on from there when it is asked for again."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Trainings inside save their state and raise `OutOfTime` once so many seconds have passed."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def seconds_left() -> float:
    """Until the `time_limit` that is set; infinite without one."""
    deadline = _deadline.get()
    return math.inf if deadline is None else deadline - time.monotonic()


def progress_bar(items: Iterable[Item], what: str, total: int, shown: bool = True) -> Iterable[Item]:
    """The same, with a bar where somebody can see it: in a terminal, or in a kernel that a Jupyter server started."""
    if shown and (sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ):
        return tqdm(items, desc=what, total=total, leave=False)
    return items
