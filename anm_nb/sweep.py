"""Cases side by side, here or on Dask workers, each a notebook run by papermill in a process of its own; their tables.

How a case ended is noted in its executed notebook, which appears as a whole: a sweep goes on from those that there are.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from anm_nb import files
from anm_nb.cases import Case, Outcome, code_digest, differing, duration, keep, outcome_in, plain, tally
from anm_nb.config import ParameterError
from anm_nb.store import RUNS_USED, store_root

if TYPE_CHECKING:
    import pandas as pd

PARTIAL = ".partial-"  # begins the names of the folders in which cases grow
DISK_FULL = 74  # exit status of a case's process for which there was no room


def run_case(case: Case, threads: int | None, until: float) -> Outcome | None:
    """Run a case in a process of its own; None where it is `until` already. It ends when its folder is cleared away.

    The executed notebook appears atomically, a failed one too. Raises `DiskFull`, and `CancelledError` when stopped.
    """
    if time.time() >= until:
        return None
    start, code = time.monotonic(), code_digest(case.notebook)
    case.output.parent.mkdir(parents=True, exist_ok=True)
    with (
        files.full_disk_named(case.output, "the case runs again when there is room"),
        tempfile.TemporaryDirectory(prefix=f"{PARTIAL}{case.name}-", dir=case.output.parent) as name,
    ):
        folder, log = Path(name), Path(name, "log")
        env = {"OMP_NUM_THREADS": "1", **os.environ, **case.env, RUNS_USED: f"{folder / 'runs'}"}
        env |= {"OMP_NUM_THREADS": f"{threads}"} if threads else {}
        # a kernel that is this very interpreter, and figures that stay in the notebook
        env |= {"JUPYTER_PREFER_ENV_PATH": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        program = [sys.executable, "-c", "from anm_nb.sweep import execute; execute()"]
        # Standard input stays open as long as this process lives; a Ctrl-C in the terminal reaches this one alone.
        with (
            log.open("wb") as out,
            subprocess.Popen(
                program, env=env, start_new_session=True, stdin=subprocess.PIPE, stdout=out, stderr=out
            ) as process,
        ):
            assert process.stdin is not None
            process.stdin.write(pickle.dumps((case, folder)))
            process.stdin.flush()
            while process.poll() is None:
                if not log.exists():
                    raise CancelledError
                time.sleep(0.05)
        if process.returncode == DISK_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{case.output}")
        last = plain(log.read_text("utf-8", "replace")).strip().splitlines()[-1:]
        said = f"its process ended with status {process.returncode}, as happens where memory runs out; {last}"
        return keep(case, folder, said, time.monotonic() - start, code)


def execute() -> None:
    """In a process of its own: execute the case that standard input brings; the process ends when its input does."""
    case, folder = pickle.load(sys.stdin.buffer)

    def end_with_input() -> None:
        os.read(sys.stdin.fileno(), 1)
        os._exit(1)  # which the kernel notices, and ends too

    threading.Thread(target=end_with_input, daemon=True).start()
    source, error = case.notebook.resolve(), None
    try:
        from papermill import execute_notebook

        options = {"cwd": source.parent, "kernel_name": "python3", "language": "python", "progress_bar": False}
        execute_notebook(source, folder / "notebook.ipynb", dict(case.parameters), **options)
    except Exception as raised:
        if any(os.strerror(code) in traceback.format_exc() for code in files.FULL):
            os._exit(DISK_FULL)
        said = f"{getattr(raised, 'ename', type(raised).__name__)}: {getattr(raised, 'evalue', raised)}"
        error = "\n".join(plain(said).strip().splitlines()[:4])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    (folder / "ended").write_text(json.dumps({"error": error, "peak_mib": peak}), "utf-8")


def outcomes_of(
    cases: Sequence[Case],
    jobs: int | None = None,
    until: float = math.inf,
    scheduler: str | None = None,
    resources: Mapping[str, float] | None = None,
) -> Generator[Outcome]:
    """The outcomes of the cases as they end, `jobs` at a time, sharing out the cores; a failing one stops no other.

    The workers of a Dask scheduler run as many as they have threads, or as the `resources` that a case needs allow. A
    case whose worker was lost runs again on another; one that lost two has failed. No case starts after the time
    `until`. An exception, and closing the iterator, end what runs. Raises `ParameterError` where no scheduler answers.
    """
    from joblib import cpu_count

    jobs = jobs or max(1, min(cpu_count(), len(cases)))
    threads = None if scheduler else max(1, cpu_count() // jobs)
    client = _dask_client(scheduler) if scheduler else None
    executor = client.get_executor(pure=False, resources=resources) if client else ThreadPoolExecutor(jobs)
    outputs = {"ANM_NB_OUTPUTS": f"{files.outputs_root()}"}  # a relative one would be another beside the notebook

    def submit(case: Case) -> Future[Outcome | None]:
        return executor.submit(run_case, replace(case, env={**outputs, **case.env}), threads, until)

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
                    yield keep(case, left[0], said, code=code_digest(case.notebook))
                else:  # Dask blames cases that only waited on that worker, too
                    waiting[submit(case)] = case
                del future  # Dask runs again what is still referred to, where the worker that had it is lost
    finally:
        begun = [future for future in waiting if not future.cancel()]
        for folder in {case.output.parent for case in cases}:
            clear(folder)
            while not all(future.done() for future in begun):  # one may only now have made its folder
                time.sleep(0.05)
                clear(folder)
        client.close() if client else executor.shutdown()


def _dask_client(scheduler: str) -> Any:
    try:
        from distributed import Client

        return Client(scheduler, timeout=10, set_as_default=False)
    except ModuleNotFoundError:
        raise ParameterError("--scheduler: Dask is missing; in the clone, pip install -e '.[cluster]'") from None
    except (OSError, ValueError) as error:
        raise ParameterError(f"--scheduler {scheduler}: no Dask scheduler answers there: {error}") from None


def clear(folder: Path) -> None:
    """Remove what is half-written in a folder of results; cases that still run there, on whatever machine, end."""
    for each in folder.glob(f"{PARTIAL}*"):
        (each / "log").unlink(missing_ok=True)
        shutil.rmtree(each, ignore_errors=True)


@contextlib.contextmanager
def own_folder(cases: Sequence[Case]) -> Iterator[Path]:
    """Have the folder of results to oneself, without what a killed process or a lost worker left half-written there.

    Raises `ParameterError` while another process runs cases into it, and where it holds the notebooks themselves.
    """
    folder = cases[0].output.parent
    if folder.resolve() in {case.notebook.resolve().parent for case in cases}:
        raise ParameterError(f"--out {folder} holds the notebooks themselves; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with files.locked(folder / ".sweep.lock", "a sweep runs into this folder", wait=False):
            clear(folder)
            yield folder
    except files.Held:
        raise ParameterError(f"{folder}: another process is running cases into it") from None


def run_cases(cases: Sequence[Case], console: Console, outcomes: dict[str, Outcome], **place: Any) -> None:
    """Run cases, note in `outcomes` how each ends and print it above a progress bar; `place` is as for `outcomes_of`.

    Raises OSError where the disk is full, after what runs has been stopped; notebooks in their place stay.
    """
    shown: Any = {"total": len(cases), "console": console, "transient": True, "disable": not console.is_terminal}
    for case in cases:
        case.output.unlink(missing_ok=True)  # an older result must not stand for this run
    with contextlib.closing(outcomes_of(cases, **place)) as running:
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
    codes = {notebook: code_digest(notebook) for notebook in {case.notebook for case in cases}}
    digests = {case.name: case.digest(codes[case.notebook]) for case in cases}

    def counted() -> str:
        counts = Counter(outcomes[case.name].status if case.name in outcomes else "not finished" for case in cases)
        return ", ".join(f"{counts[each]} {each}" for each in ("done", "failed", "not finished") if counts[each])

    try:
        with contextlib.nullcontext() if dry_run else own_folder(cases):
            for case in cases:
                try:
                    outcome = outcome_in(case.output)
                except ParameterError as error:
                    print(f"anm-nb: {error}; its case runs again", file=sys.stderr)
                    continue
                if outcome and outcome.digest == digests[case.name] and not (retry_failed and outcome.error):
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
    if len(outcomes) < len(cases):
        return 75, f"time is up: {counted()}; the same command goes on from there"  # EX_TEMPFAIL of sysexits.h
    if edited := [name for name, outcome in outcomes.items() if outcome.digest != digests[name]]:
        said = "sources changed while the sweep ran, or are others on that Dask worker, for"
        return 1, f"{said} {', '.join(edited)}; start it again"
    failed = [case.name for case in cases if outcomes[case.name].error]
    return (1, f"{len(failed)} of {len(cases)} cases failed: {', '.join(failed)}") if failed else (0, "")


def write_tables(cases: Sequence[Case], outcomes: Mapping[str, Outcome], folder: Path) -> None:
    """Write `table.parquet`, a row for each verdict, and `table.csv`, one for each seed of each run, each atomically.

    Both begin with `case`, `notebook`, `status` and every differing parameter under its own name (as `parameter_<name>`
    where verdicts have that; lists as JSON); a case that ended without verdicts or runs is one row. Then come the
    verdict, or how many of each kind there are, the run, and its last record. The same results make the same bytes.
    """
    import pandas as pd

    from anm_nb.run import CorruptRun, Run

    def last_records(run: Run) -> list[dict[Any, Any]]:
        head = {"run": run.key}
        with contextlib.suppress(CorruptRun, OSError):  # gone since: its key alone
            last = run.metrics.loc[run.metrics.groupby("seed")["step"].idxmax()].to_dict("records")
            return [{**head, "task": run.summary["task"], "method": run.summary["method"], **row} for row in last]
        return [head]

    def one_type(column: pd.Series[Any]) -> pd.Series[Any]:
        kinds = set(column.dropna().map(type))
        return column.map(json.dumps, na_action="ignore") if len(kinds) > 1 or kinds & {list, dict} else column

    ended = [(case, outcomes[case.name]) for case in cases if case.name in outcomes]
    taken = {"case", "notebook", "status", "verdicts", *(name for _, o in ended for row in o.verdicts for name in row)}
    varied = {name: f"parameter_{name}" if name in taken else name for name in differing(cases)}
    verdicts, scores = list[dict[Any, Any]](), list[dict[Any, Any]]()
    for case, outcome in ended:
        head: dict[str, Any] = {"case": case.name, "notebook": case.notebook.stem, "status": outcome.status}
        head |= {column: case.values.get(name) for name, column in varied.items()}
        verdicts += [head | dict(row) for row in outcome.verdicts or [{}]]
        records = [record for key in outcome.runs for record in last_records(Run(store_root() / key))]
        scores += [head | {"verdicts": tally(outcome.verdicts)} | record for record in records or [{"run": None}]]
    files.replace_whole(folder / "table.csv", pd.DataFrame(scores).to_csv(index=False).encode())
    files.replace_whole(folder / "table.parquet", pd.DataFrame(verdicts).apply(one_type).to_parquet(index=False))
