"""What a person sees of cases that run: a live table, a line at the end of each, and a summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from anm_nb.gallery import duration, memory
from anm_nb.sweep.outcomes import Outcome

RUNNING_SHOWN = 8


class Progress:
    """Counts of cases by state, the time left, and what is running; where nobody watches, only the line each leaves.

    `slots` is how many run at a time; `skipped` are cases that need not run, `total` those that do.
    """

    def __init__(self, console: Console, total: int, slots: int, skipped: int = 0) -> None:
        self.total, self.slots, self.skipped = total, max(1, slots), skipped
        self.running: dict[str, float] = {}  # when each started
        self.finished: dict[str, Outcome] = {}
        self._console = console
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=2, transient=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()

    def started(self, name: str) -> None:
        """A case began, or began again; one whose end was already told is not running."""
        if name not in self.finished:
            self.running[name] = time.monotonic()

    def ended(self, outcome: Outcome) -> None:
        """A case came to its end."""
        self.finished[outcome.name] = outcome
        self.running.pop(outcome.name, None)
        self._console.print(_line(outcome), soft_wrap=True)

    def seconds_left(self) -> float | None:
        """What the cases not yet finished will take if they are like the others; None before any is finished."""
        if not self.finished:
            return None
        mean = sum(outcome.seconds for outcome in self.finished.values()) / len(self.finished)
        now = time.monotonic()
        begun = [max(0.0, mean - (now - start)) for start in tuple(self.running.values())]
        waiting = self.total - len(self.finished) - len(begun)
        return max([(sum(begun) + waiting * mean) / self.slots, *begun])

    def _render(self) -> Group:
        failed = sum(outcome.status == "failed" for outcome in self.finished.values())
        left = self.seconds_left()
        counts = (len(self.finished) - failed, len(self.running), failed, self.skipped)
        waiting = self.total - len(self.finished) - len(self.running)
        table = Table("done", "running", "failed", "skipped", "waiting", "time left", box=None, pad_edge=False)
        table.add_row(*map(str, counts), str(max(0, waiting)), "–" if left is None else duration(left))
        now = time.monotonic()
        running = list(self.running.items())
        lines = [Text(f"  {name}  {duration(now - start)}") for name, start in running[:RUNNING_SHOWN]]
        if len(running) > RUNNING_SHOWN:
            lines.append(Text(f"  and {len(running) - RUNNING_SHOWN} more"))
        return Group(table, *lines)


def summary(console: Console, outcomes: Sequence[Outcome], verdicts: Callable[[str], str], kind: str) -> None:
    """A table of how each case ended; `verdicts` tells of a name what its notebook found, `kind` what a name is of."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (kind, "status", "verdicts"):
        table.add_column(column, overflow="fold")
    table.add_column("time", justify="right")
    table.add_column("peak memory", justify="right")
    for outcome in outcomes:
        status = Text(outcome.status, style="red" if outcome.status == "failed" else "")
        cells = (verdicts(outcome.name) or "–", duration(outcome.seconds), memory(outcome.peak_mib))
        table.add_row(outcome.name, status, *cells)
    console.print()
    console.print(table)


def counted(counts: Mapping[str, int]) -> str:
    """The counts that are not zero, such as `3 done, 1 failed`."""
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing"


def _line(outcome: Outcome) -> str:
    line = f"{outcome.status:6} {outcome.name}  {duration(outcome.seconds)}, {memory(outcome.peak_mib)}"
    return line if outcome.error is None else f"{line}\n       {outcome.error}"
