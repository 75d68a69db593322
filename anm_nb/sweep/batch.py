"""Cases run into a folder: shown while they do, and their outcomes kept as each ends."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from rich.console import Console

from anm_nb import sweep
from anm_nb.config import ParameterError
from anm_nb.sweep.cases import PARTIAL_PREFIX, Case
from anm_nb.sweep.display import Progress
from anm_nb.sweep.outcomes import Outcome
from anm_nb.sweep.process import STOP_SECONDS

if TYPE_CHECKING:
    from distributed import Client

LOCK_FILE = ".sweep.lock"


@contextmanager
def folder_of_results(folder: Path) -> Iterator[None]:
    """Have the folder to oneself, without what a killed process or a lost worker left half-written there.

    Raises ParameterError while another process runs cases into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / LOCK_FILE).acquire(timeout=0)
    except Timeout:
        raise ParameterError(f"{folder}: another process is running cases into it") from None
    with lock:
        _remove_partial(folder)
        try:
            yield
        finally:
            _remove_partial(folder)


def run_into(
    folder: Path,
    cases: Sequence[Case],
    kept: Sequence[Outcome],
    jobs: int | None,
    console: Console,
    cluster: Client | None = None,
    resources: Mapping[str, float] | None = None,
) -> list[Outcome]:
    """Run the cases, beside the `kept` outcomes of earlier ones, storing all outcomes after each: none is ever lost.

    Arguments as of `run_cases`. A case's older outcome is forgotten before anything starts. Raises OSError where there
    is no room for the outcomes, after what runs has been stopped; those stored before stay.
    """
    finished: list[Outcome] = []
    slots = jobs or (sum(cluster.ncores().values()) if cluster else 1)
    with Progress(console, len(cases), slots, skipped=len(kept)) as progress:

        def on_done(outcome: Outcome) -> None:
            finished.append(outcome)
            sweep.write_outcomes([*kept, *finished], folder)
            progress.ended(outcome)

        sweep.write_outcomes(kept, folder)
        return sweep.run_cases(cases, jobs, progress.started, on_done, cluster, resources)


def wait_for_workers_to_stop(folder: Path) -> None:
    """Wait until no worker of a cluster has a case half-written in the folder, as long as it may take one to stop."""
    deadline = time.monotonic() + 2 * STOP_SECONDS
    while any(folder.glob(f"{PARTIAL_PREFIX}*")) and time.monotonic() < deadline:
        time.sleep(0.1)


def _remove_partial(folder: Path) -> None:
    for partial in folder.glob(f"{PARTIAL_PREFIX}*"):
        shutil.rmtree(partial, ignore_errors=True)
