"""Many cases into a folder, here or on a Dask cluster: shown while they run, their outcomes kept as each ends."""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from anm_nb.config import ParameterError
from anm_nb.sweep.case import PARTIAL_PREFIX, STOP_SECONDS, Case, Outcome, OutOfTime, growing, run_case, write_outcomes
from anm_nb.terminal import refuse, say

if TYPE_CHECKING:
    from distributed import Client

    from anm_nb.sweep.plan import Sweep

LOCK_FILE = ".sweep.lock"
RUNNING_SHOWN = 8
INTERRUPTED = 130  # a shell's exit code for Ctrl-C
OUT_OF_TIME = 75  # EX_TEMPFAIL of sysexits.h: try again later


def run_cases(
    cases: Sequence[Case],
    jobs: int | None,
    cluster: Client | None = None,
    resources: Mapping[str, float] | None = None,
    until: float = math.inf,
) -> Generator[Outcome]:
    """The outcomes of the cases as they finish, `jobs` at a time, sharing out the cores; a failing one stops no other.

    With a cluster, its workers run as many as they have threads, or as the `resources` that a case needs allow. Where
    `jobs` is None they need not be here, and a case has as many threads as its worker's OMP_NUM_THREADS says. No case
    starts after the time `until`. An exception, and closing the iterator, end what runs and leave nothing half-written.
    """
    from joblib import cpu_count

    from anm_nb import files

    env = {"ANM_NB_OUTPUTS": str(files.outputs_root())}  # a relative one would mean another place beside the notebook
    threads = max(1, cpu_count() // jobs) if jobs else None
    place: Any
    if cluster:
        from anm_nb.sweep.cluster import Workers

        place = Workers(cluster, resources or {}, threads, env, until)
    else:
        place = Threads(jobs or cpu_count(), threads or 1, env, until)
    waiting: dict[Future[Any], Case] = {}
    try:
        waiting |= {place.submit(case): case for case in cases}
        while waiting:
            done = wait(waiting, return_when=FIRST_COMPLETED).done
            while done:
                future = done.pop()
                case = waiting.pop(future)
                try:
                    outcome = place.outcome(case, future)
                except OutOfTime:
                    continue
                del future  # Dask runs again what is still referred to, where the worker that had it is lost
                if outcome is None:
                    waiting[place.submit(case)] = case
                else:
                    yield outcome
    finally:
        place.close()


class Threads:
    """Cases on threads here, each waiting for its case's process."""

    def __init__(self, jobs: int, threads: int, env: Mapping[str, str], until: float) -> None:
        self._executor, self._stopping = ThreadPoolExecutor(jobs), threading.Event()
        self._threads, self._env, self._until = threads, env, until

    def submit(self, case: Case) -> Future[Outcome]:
        """The case's future, whose result is for `outcome`."""
        return self._executor.submit(self._run, case)

    def _run(self, case: Case) -> Outcome:
        if time.time() >= self._until:
            raise OutOfTime
        return run_case(case, self._threads, self._env, self._stopping.is_set)

    def outcome(self, case: Case, future: Future[Outcome]) -> Outcome:
        """How a case ended. Raises OutOfTime where it was not started, and what its thread raised."""
        return future.result()

    def close(self) -> None:
        """End what runs, and wait until its processes are gone."""
        self._stopping.set()
        self._executor.shutdown(cancel_futures=True)


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


def _remove_partial(folder: Path) -> None:
    for partial in folder.glob(f"{PARTIAL_PREFIX}*"):
        shutil.rmtree(partial, ignore_errors=True)


def run_into(
    folder: Path,
    cases: Sequence[Case],
    kept: Sequence[Outcome],
    jobs: int | None,
    console: Console,
    cluster: Client | None = None,
    resources: Mapping[str, float] | None = None,
    until: float = math.inf,
) -> list[Outcome]:
    """Run the cases, beside the `kept` outcomes of earlier ones, storing all outcomes after each: none is ever lost.

    Arguments as of `run_cases`. A case's older outcome is forgotten before anything starts. Returns the outcomes in the
    order of the cases. Raises OSError where there is no room for the outcomes, after what runs has been stopped; those
    stored before stay.
    """
    from anm_nb.gallery import duration, memory

    outcomes: dict[str, Outcome] = {}
    write_outcomes(kept, folder)
    running = run_cases(cases, jobs, cluster, resources, until)
    with _LiveTable(console, folder, len(cases), len(kept)) as table, closing(running):
        for outcome in running:
            outcomes[outcome.name] = outcome
            write_outcomes([*kept, *outcomes.values()], folder)
            table.count(outcome)
            said = f"{outcome.status:6} {outcome.name}  {duration(outcome.seconds)}, {memory(outcome.peak_mib)}"
            console.print(f"{said}\n       {outcome.error}" if outcome.error else said, soft_wrap=True)
    return [outcomes[case.name] for case in cases if case.name in outcomes]


class _LiveTable(Progress):
    """Counts of cases by state, the time left, and what is running; nothing where nobody watches."""

    def __init__(self, console: Console, folder: Path, total: int, skipped: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.folder, self.ended, self.skipped = folder, Counter[str](), skipped
        options: dict[str, Any] = {"transient": True, "disable": not console.is_terminal, "refresh_per_second": 2}
        super().__init__(*columns, console=console, speed_estimate_period=math.inf, **options)
        self.add_task(self._counts(), total=total)

    def _counts(self) -> str:
        return f"{self.ended['done']} done, {self.ended['failed']} failed, {self.skipped} skipped"

    def count(self, outcome: Outcome) -> None:
        """A case came to its end."""
        self.ended[outcome.status] += 1
        self.update(self.task_ids[0], advance=1, description=self._counts())

    def get_renderables(self) -> Iterator[RenderableType]:
        """The counts, and below them the cases that grow in the folder of results."""
        yield from super().get_renderables()
        running = sorted(set(growing(self.folder)))
        yield from (Text(f"  {name}") for name in running[:RUNNING_SHOWN])
        if len(running) > RUNNING_SHOWN:
            yield Text(f"  and {len(running) - RUNNING_SHOWN} more")


def summary(console: Console, outcomes: Sequence[Outcome], verdicts: Callable[[str], str], kind: str) -> None:
    """A table of how each case ended; `verdicts` tells of a name what its notebook found, `kind` what a name is of."""
    from anm_nb.gallery import duration, memory

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (kind, "status", "verdicts", "time", "peak memory"):
        table.add_column(column, overflow="fold", justify="right" if column in ("time", "peak memory") else "left")
    for outcome in outcomes:
        status = Text(outcome.status, style="red" if outcome.status == "failed" else "")
        cells = (verdicts(outcome.name) or "–", duration(outcome.seconds), memory(outcome.peak_mib))
        table.add_row(outcome.name, status, *cells)
    console.print()
    console.print(table)


def run_sweep(
    sweep: Sweep,
    chosen: Sequence[Case],
    console: Console,
    retry_failed: bool = False,
    jobs: int | None = None,
    backend: str = "local",
    scheduler: str | None = None,
    resources: Mapping[str, float] | None = None,
    until: float = math.inf,
) -> None:
    """Run what has to run of the chosen cases, and write the tables over all that ended.

    Exits with 1 if anything failed, with 130 if interrupted, with 75 if cases are left that would start after `until`.
    """
    from joblib import cpu_count

    from anm_nb.sweep import cluster
    from anm_nb.sweep.table import SCORES_FILE, TABLE_FILE

    try:
        with folder_of_results(sweep.folder):
            sweep.read()  # again, now that nobody else writes
            waiting = to_run(sweep, chosen, retry_failed)
            names = {case.name for case in waiting}
            kept = [outcome for name, outcome in sweep.outcomes.items() if name not in names]
            slots = None if scheduler else jobs or max(1, min(cpu_count(), len(waiting)))
            place = cluster.connected(scheduler, slots) if backend == "dask" and waiting else nullcontext()
            try:
                for name in (TABLE_FILE, SCORES_FILE) if waiting else ():  # they would be of other cases than the rest
                    (sweep.folder / name).unlink(missing_ok=True)
                with place as client:
                    run_into(sweep.folder, waiting, kept, slots, console, client, resources, until)
            except BaseException:
                deadline = time.monotonic() + 2 * STOP_SECONDS  # of a cluster's workers, to stop what they run
                while growing(sweep.folder) and time.monotonic() < deadline:
                    time.sleep(0.1)
                raise
            finally:
                sweep.read()
            _conclude(console, sweep, chosen)
    except KeyboardInterrupt:
        refuse(f"stopped: {counted(sweep, chosen)}; the same command goes on from there", INTERRUPTED)
    except OSError as error:
        refuse(f"{error}; {counted(sweep, chosen)}, which are kept; the same command goes on from there", 1)


def to_run(sweep: Sweep, chosen: Sequence[Case], retry_failed: bool) -> list[Case]:
    """Those of the chosen cases that are not finished."""
    return [case for case in chosen if sweep.status(case) in (("new", "failed") if retry_failed else ("new",))]


def counted(sweep: Sweep, chosen: Sequence[Case], todo: Sequence[Case] = (), before: bool = False) -> str:
    """How many cases are in each state, such as `3 done, 1 failed`; with those that are to run, `before` they do."""
    states = {case.name: sweep.status(case) for case in chosen} | {case.name: "to run" for case in todo}
    when, counts = " before" if before else "", Counter(states.values())
    words = {"to run": "to run", "done": f"done{when}", "failed": f"failed{when}", "new": "not finished"}
    return ", ".join(f"{counts[state]} {said}" for state, said in words.items() if counts[state]) or "nothing"


def tell(sweep: Sweep, chosen: Sequence[Case], console: Console, retry_failed: bool, each: bool) -> None:
    """Say what there is of a sweep before it runs, or `each` case of it."""
    for problem in sweep.problems:
        say(f"anm-nb: {problem}; its case runs again", err=True)
    todo = to_run(sweep, chosen, retry_failed)
    for case in chosen if each else ():
        console.print(f"{'to run' if case in todo else sweep.status(case):6} {case.name}")
    console.print(f"{len(chosen)} cases: {counted(sweep, chosen, todo, before=True)}; results in {sweep.folder}")
    if sweep.folded:
        console.print(f"{sweep.folded} more in the file are the same as one of its cases, and run once")
    if any(sweep.status(case) == "failed" and case not in todo for case in chosen):
        console.print("What failed before is not run again unless its inputs change, or with --retry-failed")


def _conclude(console: Console, sweep: Sweep, chosen: Sequence[Case]) -> None:
    from anm_nb.sweep.table import SCORES_FILE, states, write_tables

    outputs = {case.name: case.output for case in chosen if case.name in sweep.outcomes}
    table = write_tables(sweep.cases, sweep.outcomes, sweep.folder)

    def verdicts(name: str) -> str:
        return ", ".join(f"{count} {state}" for state, count in states(outputs[name]).items() if count)

    summary(console, [sweep.outcomes[name] for name in outputs], verdicts, "case")
    pages = f"Table: {table}, with scores: {SCORES_FILE}; a page: anm-nb index {sweep.folder}"
    console.print(f"{counted(sweep, chosen)}. {pages}")
    failed = [name for name in outputs if sweep.outcomes[name].status == "failed"]
    if len(outputs) < len(chosen):
        refuse(f"time is up: {counted(sweep, chosen)}; the same command goes on from there", OUT_OF_TIME)
    if failed:
        refuse(f"{len(failed)} of {len(chosen)} cases failed: {', '.join(failed)}", 1)
