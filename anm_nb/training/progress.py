"""Bars for whoever watches, and trainings of limited time."""

from __future__ import annotations

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


def time_is_limited() -> bool:
    """Whether a `time_limit` is set."""
    return _deadline.get() is not None


def time_is_up() -> bool:
    """Whether a `time_limit` has passed."""
    deadline = _deadline.get()
    return deadline is not None and time.monotonic() > deadline


def progress_bar(items: Iterable[Item], what: str, total: int, shown: bool = True) -> Iterable[Item]:
    """The same, with a bar where somebody can see it: in a terminal, or in a kernel that a Jupyter server started."""
    if shown and (sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ):
        return tqdm(items, desc=what, total=total, leave=False)
    return items
