"""Cases side by side, here or on Dask workers, going on from those that have ended, and the tables over all of them."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import socket
import sys
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import track

from anm_nb import files
from anm_nb.cases import Case, differing, package_digest
from anm_nb.config import ParameterError
from anm_nb.execution import PARTIAL, Outcome, duration, keep, outcome_in, run_case, tally
from anm_nb.store import store_root

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client


def outcomes_of(
    cases: Sequence[Case],
    jobs: int | None = None,
    until: float = math.inf,
    client: Client | None = None,
    resources: Mapping[str, float] | None = None,
) -> Generator[Outcome]:
    """The outcomes of the cases as they end, `jobs` at a time, sharing out the cores; a failing one stops no other.

    With a Dask client, its workers run as many as they have threads, or as the `resources` that a case needs allow. A
    case whose worker was lost runs again on another; one that lost two has failed. No case starts after the time
    `until`. An exception, and closing the iterator, end what runs.
    """
    from joblib import cpu_count

    jobs = jobs or max(1, min(cpu_count(), len(cases)))
    threads, stop = (None, None) if client else (max(1, cpu_count() // jobs), threading.Event())
    executor: Any = client.get_executor(pure=False, resources=resources) if client else ThreadPoolExecutor(jobs)
    outputs = {"ANM_NB_OUTPUTS": f"{files.outputs_root()}"}  # a relative one would be another beside the notebook

    def submit(case: Case) -> Future[Outcome | None]:
        return executor.submit(run_case, replace(case, env={**outputs, **case.env}), threads, until, stop)

    waiting = {submit(case): case for case in cases}
    try:
        while waiting:
            done = wait(waiting, return_when=FIRST_COMPLETED).done
            while done:
                future = done.pop()
                case, error = waiting.pop(future), future.exception()
                left = list(case.output.parent.glob(f"{PARTIAL}{case.name}-*"))
                if type(error).__name__ != "KilledWorker":
                    if outcome := future.result():
                        yield outcome
                elif len(left) > 1:
                    said = "two workers died while they ran it, as happens where memory runs out"
                    yield keep(case, left[0], said, 0.0)
                else:  # Dask blames cases that only waited on that worker, too
                    waiting[submit(case)] = case
                del future  # Dask runs again what is still referred to, where the worker that had it is lost
    finally:
        if stop:
            stop.set()
        executor.shutdown(cancel_futures=True) if stop else executor.shutdown(wait=False)


@contextlib.contextmanager
def dask_client(scheduler: str) -> Iterator[Client]:
    """A client of a Dask scheduler. Raises `ParameterError` where none answers, or a worker has other sources."""
    where = urlsplit(scheduler if "://" in scheduler else f"tcp://{scheduler}")
    try:
        from distributed import Client

        if where.scheme == "tcp":  # a scheduler speaks first; to a silent server Dask's client listens without end
            with socket.create_connection((where.hostname or "", where.port or 0), 10) as tried:
                tried.recv(1)
        client = Client(scheduler, timeout=10, set_as_default=False)
    except ModuleNotFoundError:
        raise ParameterError("--scheduler: Dask is missing; in the clone, pip install -e '.[cluster]'") from None
    except (OSError, ValueError) as error:
        raise ParameterError(f"--scheduler {scheduler}: no Dask scheduler answers there: {error}") from None
    with client:
        mine, found = package_digest(), client.run(package_digest, on_error="return")
        if others := [worker for worker, digest in found.items() if digest != mine]:
            raise ParameterError(f"Dask workers with other sources of anm_nb, or none: {', '.join(others)}")
        yield client


@contextlib.contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Have a folder of results to oneself, without what a killed process or a lost worker left half-written there.

    Raises `ParameterError` while another process runs cases into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            lock = files.locked(folder / ".sweep.lock", "a sweep runs into this folder", wait=False)
            stack.enter_context(lock)
        except files.Held:
            raise ParameterError(f"{folder}: another process is running cases into it") from None

        @stack.callback
        def clear() -> None:
            for each in folder.glob(f"{PARTIAL}*"):
                shutil.rmtree(each, ignore_errors=True)

        clear()
        yield


def run_cases(cases: Sequence[Case], console: Console, outcomes: dict[str, Outcome], **place: Any) -> None:
    """Run cases, note in `outcomes` how each ends and print it above a progress bar; `place` is as for `outcomes_of`.

    Raises OSError where the disk is full, after what runs has been stopped; notebooks in their place stay.
    """
    scheduler = place.pop("scheduler", None)
    shown: Any = {"total": len(cases), "console": console, "transient": True, "disable": not console.is_terminal}
    with dask_client(scheduler) if scheduler else contextlib.nullcontext() as client:
        for case in cases:
            case.output.unlink(missing_ok=True)  # an older result must not stand for this run
        with contextlib.closing(outcomes_of(cases, client=client, **place)) as running:
            for outcome in track(running, "cases", **shown):
                outcomes[outcome.name] = outcome
                said = [outcome.name, duration(outcome.seconds), f"{outcome.peak_mib:.0f} MiB", tally(outcome.verdicts)]
                error = f"\n       {outcome.error}" if outcome.error else ""
                console.print(f"{outcome.status:6} {'  '.join(said).rstrip()}{error}", soft_wrap=True)


def run_sweep(
    cases: Sequence[Case], console: Console, retry_failed: bool = False, dry_run: bool = False, **place: Any
) -> tuple[int, str]:
    """Run the cases that are not finished, and write the tables over all; exit code and why.

    1 if anything failed, 130 if interrupted, 75 if cases are left that would start after the time for them.
    """
    folder, outcomes = cases[0].output.parent, dict[str, Outcome]()

    def counted() -> str:
        counts = Counter(outcomes[case.name].status if case.name in outcomes else "not finished" for case in cases)
        return ", ".join(f"{counts[each]} {each}" for each in ("done", "failed", "not finished") if counts[each])

    try:
        with contextlib.nullcontext() if dry_run else own_folder(folder):
            for case in cases:
                try:
                    outcome = outcome_in(case.output)
                except ParameterError as error:
                    print(f"anm-nb: {error}; its case runs again", file=sys.stderr)
                    continue
                if outcome and outcome.digest == case.digest and not (retry_failed and outcome.error):
                    outcomes[case.name] = outcome
            todo = [case for case in cases if case.name not in outcomes]
            for case in cases if dry_run else ():
                status = "to run" if case in todo else outcomes[case.name].status
                console.print(f"{status:6} {case.name}", soft_wrap=True)
            again = "; --retry-failed runs again what failed" if any(each.error for each in outcomes.values()) else ""
            console.print(f"{len(cases)} cases: {counted()}{again}; results in {folder}", soft_wrap=True)
            if dry_run:
                return 0, ""
            for name in ("table.parquet", "table.csv") if todo else ():  # they would be of other cases than the rest
                (folder / name).unlink(missing_ok=True)
            run_cases(todo, console, outcomes, **place)
            write_tables(cases, outcomes, folder)
    except KeyboardInterrupt:
        return 130, f"stopped: {counted()}; the same command goes on from there"
    except OSError as error:
        return 1, f"{error}; {counted()}, which are kept; the same command goes on from there"
    console.print(f"Tables: {folder / 'table.parquet'}, table.csv; a page: anm-nb index {folder}", soft_wrap=True)
    if len(outcomes) < len(cases):
        return 75, f"time is up: {counted()}; the same command goes on from there"  # EX_TEMPFAIL of sysexits.h
    failed = [case.name for case in cases if outcomes[case.name].error]
    return (1, f"{len(failed)} of {len(cases)} cases failed: {', '.join(failed)}") if failed else (0, "")


def write_tables(cases: Sequence[Case], outcomes: Mapping[str, Outcome], folder: Path) -> None:
    """Write `table.parquet`, a row for each verdict, and `table.csv`, one for each seed of each run, each atomically.

    Both begin with `case`, `notebook`, `status` and every differing parameter under its own name (as `parameter_<name>`
    where verdicts have that; lists as JSON); a case that ended without verdicts or runs is one row. Then come the
    verdict, or how many of each kind there are, the run, and its last record. The same results make the same bytes.
    """
    import pandas as pd

    ended = [(case, outcomes[case.name]) for case in cases if case.name in outcomes]
    taken = {"case", "notebook", "status", "verdicts", *(name for _, o in ended for row in o.verdicts for name in row)}
    varied = {name: f"parameter_{name}" if name in taken else name for name in differing(cases)}
    verdicts, scores = list[dict[Any, Any]](), list[dict[Any, Any]]()
    for case, outcome in ended:
        head: dict[str, Any] = {"case": case.name, "notebook": case.notebook.stem, "status": outcome.status}
        head |= {column: case.values.get(name) for name, column in varied.items()}
        verdicts += [head | dict(row) for row in outcome.verdicts or [{}]]
        records = [record for key in outcome.runs for record in _last_records(key)] or [{"run": None}]
        scores += [head | {"verdicts": tally(outcome.verdicts)} | record for record in records]

    def one_type(column: pd.Series[Any]) -> pd.Series[Any]:
        kinds = set(column.dropna().map(type))
        return column.map(json.dumps, na_action="ignore") if len(kinds) > 1 or kinds & {list, dict} else column

    files.replace_whole(folder / "table.csv", pd.DataFrame(scores).to_csv(index=False).encode())
    files.replace_whole(folder / "table.parquet", pd.DataFrame(verdicts).apply(one_type).to_parquet(index=False))


def _last_records(key: str) -> list[dict[Any, Any]]:
    """The last record of each seed of a stored run, with what the run is; its key alone where it cannot be read."""
    from anm_nb.run import CorruptRun, Run

    run = Run(store_root() / key)
    try:
        last = run.metrics.loc[run.metrics.groupby("seed")["step"].idxmax()].to_dict("records")
        return [{"run": key, "task": run.summary["task"], "method": run.summary["method"]} | row for row in last]
    except (CorruptRun, OSError):
        return [{"run": key}]
