"""A sweep from its first case to its tables: shown while it runs, each outcome kept as its case ends."""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from anm_nb.config import ParameterError
from anm_nb.files import Held, locked
from anm_nb.sweep import workers
from anm_nb.sweep.cases import Case, Sweep
from anm_nb.sweep.outcomes import (
    SCORES_FILE,
    TABLE_FILE,
    Outcome,
    read_verdicts,
    tally,
    valid_outcomes,
    write_outcomes,
    write_tables,
)
from anm_nb.sweep.process import PARTIAL_PREFIX, STOP_SECONDS, half_written
from anm_nb.terminal import duration, memory, refuse, say

if TYPE_CHECKING:
    from distributed import Client

LOCK_FILE = ".sweep.lock"
INTERRUPTED = 130  # a shell's exit code for Ctrl-C
OUT_OF_TIME = 75  # EX_TEMPFAIL of sysexits.h: try again later


@dataclass(frozen=True)
class Place:
    """Where cases run: `jobs` at a time here, or on Dask; none starts after `until`, in seconds since 1970."""

    jobs: int | None = None
    backend: Literal["local", "dask"] = "local"
    scheduler: str | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    until: float = math.inf

    def slots(self, cases: int) -> int | None:
        """How many of the cases run at a time; None where a scheduler's workers say."""
        from joblib import cpu_count

        return None if self.scheduler else self.jobs or max(1, min(cpu_count(), cases))


@contextmanager
def folder_of_results(folder: Path) -> Iterator[None]:
    """Have the folder to oneself, without what a killed process or a lost worker left half-written there.

    Raises `ParameterError` while another process runs cases into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / LOCK_FILE, "a sweep runs into this folder", wait=False):
            _remove_partial(folder)
            try:
                yield
            finally:
                _remove_partial(folder)
    except Held:
        raise ParameterError(f"{folder}: another process is running cases into it") from None


def _remove_partial(folder: Path) -> None:
    for partial in folder.glob(f"{PARTIAL_PREFIX}*"):
        shutil.rmtree(partial, ignore_errors=True)


def run_into(
    folder: Path,
    cases: Sequence[Case],
    kept: Sequence[Outcome],
    console: Console,
    place: Place,
    client: Client | None = None,
) -> list[Outcome]:
    """Run the cases, beside the `kept` outcomes of earlier ones, storing all outcomes after each.

    A case's older outcome is forgotten before anything starts. Returns the outcomes in the order of the cases. Raises
    OSError where there is no room for the outcomes, after what runs has been stopped; those stored before stay.
    """
    outcomes: dict[str, Outcome] = {}
    write_outcomes(kept, folder)
    running = workers.run_cases(cases, place.slots(len(cases)), client, place.resources, place.until)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    live: dict[str, Any] = {"console": console, "transient": True, "disable": not console.is_terminal}
    with Progress(*columns, speed_estimate_period=math.inf, **live) as progress, closing(running):
        task = progress.add_task(f"{len(kept)} done before", total=len(cases))
        for outcome in running:
            outcomes[outcome.name] = outcome
            write_outcomes([*kept, *outcomes.values()], folder)
            ended = Counter(each.status for each in outcomes.values())
            said = f"{ended['done']} done, {ended['failed']} failed, {len(kept)} before"
            progress.update(task, advance=1, description=said)
            said = f"{outcome.status:6} {outcome.name}  {duration(outcome.seconds)}, {memory(outcome.peak_mib)}"
            console.print(f"{said}\n       {outcome.error}" if outcome.error else said, soft_wrap=True)
    return [outcomes[case.name] for case in cases if case.name in outcomes]


def summary(console: Console, outcomes: Sequence[Outcome], folder: Path, kind: str) -> None:
    """A table of how each case ended and what its notebook found; `kind` is what a name is of."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (kind, "status", "verdicts", "time", "peak memory"):
        table.add_column(column, overflow="fold", justify="right" if column in ("time", "peak memory") else "left")
    for outcome in outcomes:
        status = Text(outcome.status, style="red" if outcome.status == "failed" else "")
        found = tally(read_verdicts(folder / f"{outcome.name}.ipynb"))
        table.add_row(outcome.name, status, found or "–", duration(outcome.seconds), memory(outcome.peak_mib))
    console.print()
    console.print(table)


def run_sweep(
    sweep: Sweep, chosen: Sequence[Case], console: Console, retry_failed: bool, dry_run: bool, place: Place
) -> None:
    """Say what there is, run what is not finished of the chosen cases, and write the tables over all that ended.

    Exits with 1 if anything failed, with 130 if interrupted, with 75 if cases are left that would start after the time
    for them.
    """
    outcomes, problems = valid_outcomes(sweep.cases, sweep.folder)
    for problem in problems:
        say(f"anm-nb: {problem}; its case runs again", err=True)
    todo = _unfinished(chosen, outcomes, retry_failed)
    waiting = {case.name for case in todo}
    for case in chosen if dry_run else ():
        console.print(f"{'to run' if case.name in waiting else outcomes[case.name].status:6} {case.name}")
    console.print(f"{len(chosen)} cases: {_counted(chosen, outcomes, todo, ' before')}; results in {sweep.folder}")
    if sweep.folded:
        console.print(f"{sweep.folded} more in the file are the same as one of its cases, and run once")
    if any(case.name not in waiting and outcomes[case.name].status == "failed" for case in chosen):
        console.print("What failed before is not run again unless its inputs change, or with --retry-failed")
    if dry_run:
        return

    def counted() -> str:
        return _counted(chosen, valid_outcomes(sweep.cases, sweep.folder)[0])

    try:
        with folder_of_results(sweep.folder):
            _run_unfinished(sweep, chosen, console, retry_failed, place)
            _conclude(console, sweep, chosen)
    except KeyboardInterrupt:
        refuse(f"stopped: {counted()}; the same command goes on from there", INTERRUPTED)
    except OSError as error:
        refuse(f"{error}; {counted()}, which are kept; the same command goes on from there", 1)


def _run_unfinished(sweep: Sweep, chosen: Sequence[Case], console: Console, retry_failed: bool, place: Place) -> None:
    outcomes, _ = valid_outcomes(sweep.cases, sweep.folder)  # again, now that nobody else writes
    todo = _unfinished(chosen, outcomes, retry_failed)
    kept = [outcomes[name] for name in outcomes.keys() - {case.name for case in todo}]
    dask = place.backend == "dask" and todo
    cluster: Any = workers.dask_client(place.scheduler, place.slots(len(todo))) if dask else nullcontext()
    try:
        for name in (TABLE_FILE, SCORES_FILE) if todo else ():  # they would be of other cases than the rest
            (sweep.folder / name).unlink(missing_ok=True)
        with cluster as client:
            run_into(sweep.folder, todo, kept, console, place, client)
    except BaseException:
        deadline = time.monotonic() + 2 * STOP_SECONDS  # for a cluster's workers to stop what they run
        while half_written(sweep.folder) and time.monotonic() < deadline:
            time.sleep(0.1)
        raise


def _unfinished(chosen: Sequence[Case], outcomes: Mapping[str, Outcome], retry_failed: bool) -> list[Case]:
    again = ("failed",) if retry_failed else ()
    return [case for case in chosen if case.name not in outcomes or outcomes[case.name].status in again]


def _counted(
    chosen: Sequence[Case], outcomes: Mapping[str, Outcome], todo: Sequence[Case] = (), before: str = ""
) -> str:
    """How many cases are in each state, such as `3 done, 1 failed`; `todo` are about to run."""
    ended = {name: f"{outcome.status}{before}" for name, outcome in outcomes.items()}
    states = ended | {case.name: "to run" for case in todo}
    counts = Counter(states.get(case.name, "not finished") for case in chosen)
    order = ("to run", f"done{before}", f"failed{before}", "not finished")
    return ", ".join(f"{counts[state]} {state}" for state in order if counts[state]) or "nothing"


def _conclude(console: Console, sweep: Sweep, chosen: Sequence[Case]) -> None:
    outcomes, _ = valid_outcomes(sweep.cases, sweep.folder)
    write_tables(sweep.cases, outcomes, sweep.folder)
    ended = [outcomes[case.name] for case in chosen if case.name in outcomes]
    summary(console, ended, sweep.folder, "case")
    pages = f"Table: {sweep.folder / TABLE_FILE}, with scores: {SCORES_FILE}; a page: anm-nb index {sweep.folder}"
    console.print(f"{_counted(chosen, outcomes)}. {pages}")
    if len(ended) < len(chosen):
        refuse(f"time is up: {_counted(chosen, outcomes)}; the same command goes on from there", OUT_OF_TIME)
    if failed := [outcome.name for outcome in ended if outcome.status == "failed"]:
        refuse(f"{len(failed)} of {len(chosen)} cases failed: {', '.join(failed)}", 1)
