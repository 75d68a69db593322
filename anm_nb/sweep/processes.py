"""The processes that run cases, as seen from the sweep: started when needed, used again, ended in order."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from anm_nb.sweep.process import STOP_SECONDS

POLL_SECONDS = 0.02


class Interrupted(Exception):
    """A case did not run to its end because it is no longer wanted."""


class Ended(NamedTuple):
    """How the process of a case ended: exit status, and the peak memory, in MiB, of it or of its kernel."""

    status: int
    peak_mib: float


class CaseProcess:
    """A process with papermill loaded (`anm_nb.sweep.process`), which runs one case at a time."""

    def __init__(self, log: Path) -> None:
        with log.open("ab") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "anm_nb.sweep.process"],
                stdin=subprocess.PIPE,  # stays open as long as this process lives: the other one ends with it
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,  # a Ctrl-C reaches this program alone, which then ends its processes in order
            )

    def run(self, request: Mapping[str, Any], env: Mapping[str, str], log: Path, stopped: Callable[[], bool]) -> Ended:
        """Have papermill do what is requested; what it says goes to the log. Raises Interrupted when stopped."""
        assert self._process.stdin is not None
        line = json.dumps({"request": dict(request), "env": dict(env), "log": str(log.resolve())})
        with contextlib.suppress(BrokenPipeError):  # it has died, as the end of its replies will tell
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        while not stopped():
            if (ended := self._reply(POLL_SECONDS)) is not None:
                return ended
        raise Interrupted

    @property
    def usable(self) -> bool:
        """Whether it can take a case."""
        return self._process.poll() is None

    def end(self) -> None:
        """End it and the case that it runs, whose kernel is given time to close."""
        assert self._process.stdin is not None
        if self.usable:
            self._signal(signal.SIGTERM)  # to the case; the process itself goes when its input ends
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _reply(self, seconds: float) -> Ended | None:
        """How the case ended, if it does within so many seconds."""
        replies = self._process.stdout
        assert replies is not None
        if not select.select([replies], [], [], seconds)[0]:
            return None
        if line := replies.readline():
            return Ended(**json.loads(line))
        self._signal(signal.SIGKILL)  # it died before its case did
        return Ended(self._process.wait(), 0.0)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


_idle: list[CaseProcess] = []  # kept for the next case


@contextmanager
def case_process(log: Path) -> Iterator[CaseProcess]:
    """A process for one case: one that has done with another, or a new one, whose own troubles are told in the log."""
    process = _idle.pop() if _idle else None
    if process is None or not process.usable:
        process = CaseProcess(log)
    try:
        yield process
    except BaseException:
        process.end()
        raise
    if process.usable:
        _idle.append(process)
    else:
        process.end()


def end_idle_processes() -> None:
    """End those that wait for another case."""
    while _idle:
        _idle.pop().end()
