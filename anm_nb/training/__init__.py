"""Training: one step over the seed axis for all families. Here: who hears of a training, and who may interrupt it."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Tell = Callable[..., object]  # of a seed's Member, step, loss, and a row where one was measured
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)
TELL_SECONDS = 0.5  # between two words on where a training is
LOGGERS: dict[str, Callable[[Any, int, int, Mapping[str, float]], object]] = {}


def on_record(logger: Callable[[Any, int, int, Mapping[str, float]], object]) -> Any:
    """Call `logger(config, seed, step, row)` at every record, and with the final tests; `row` as in `Run.metrics`."""
    LOGGERS[logger.__qualname__] = logger
    return logger


def watched() -> bool:
    """Whether somebody can see a bar: in a terminal, or in a kernel that a Jupyter server started."""
    return sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ


@contextmanager
def progress(members: Sequence[Any]) -> Iterator[Tell]:
    """Whom trainings of these seeds tell where they are: a bar over the steps of all of them, and every logger."""
    from tqdm.auto import tqdm

    config, steps = members[0].config, dict[tuple[int, int], int]()
    what = getattr(config, "method", None) or getattr(config, "routing", config.family)
    total, layout = len(members) * config.total_steps(), "{l_bar}{bar}| {elapsed} gone, {remaining} left"
    with tqdm(desc=what, total=total, leave=False, disable=not watched(), bar_format=layout) as bar:

        def tell(member: Any, step: int, loss: float, row: Mapping[str, float]) -> None:
            if row:
                for logger in LOGGERS.values():
                    logger(member.config, member.seed, step, row)
            if not bar.disable:
                place = id(member.config), member.seed
                bar.initial += 0 if place in steps else step  # what was trained before says nothing of the time left
                steps[place] = step
                bar.n = sum(steps.values())
                bar.set_description(f"{what}, seeds: {len(members)}, step {bar.n:,} of {total:,}, loss {loss:.3g}")

        yield tell


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
    return _deadline.get() - time.monotonic()


class Interrupted(KeyboardInterrupt):
    """Somebody interrupted a training, whose state is saved. A notebook shows the message and no traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


@contextmanager
def interrupts(leave: Callable[[], object]) -> Iterator[None]:
    """Within it the first interrupt (SIGINT) only calls `leave`; another one interrupts as ever."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def once(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        leave()

    signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
