"""Cases side by side, here or on Dask workers, each a notebook run by papermill in a process of its own; their tables.

How a case ended is noted in its executed notebook, which appears as a whole: a sweep goes on from those that there are.
"""

from __future__ import annotations

import contextlib
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
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import track

from anm_nb import files
from anm_nb.cases import Case, Outcome, differing, keep, outcome_in, tally
from anm_nb.config import ParameterError
from anm_nb.store import CorruptRun, Run, store_root

PARTIAL = ".partial-"  # begins the names of the folders in which cases grow


def run_case(case: Case, until: float) -> Outcome | None:
    """Run a case in a process of its own; None where it is `until` already. It ends when its folder is cleared away.

    The executed notebook appears atomically, a failed one too. Raises `DiskFull`, and `CancelledError` when stopped.
    """
    if time.time() >= until:
        return None
    start = time.monotonic()
    case.output.parent.mkdir(parents=True, exist_ok=True)
    with (
        files.full_disk_named(case.output, "the case runs again when there is room"),
        tempfile.TemporaryDirectory(prefix=f"{PARTIAL}{case.name}-", dir=case.output.parent) as name,
    ):
        folder, log = Path(name), Path(name, "log")
        # a kernel that is this very interpreter, and figures that stay in the notebook
        kernel = {"JUPYTER_PREFER_ENV_PATH": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        env = {"OMP_NUM_THREADS": "1", **os.environ, **case.env, **kernel, files.RUNS_USED: f"{folder / 'runs'}"}
        (folder / "case").write_bytes(pickle.dumps(case))
        program = [sys.executable, "-c", "from anm_nb.sweep import execute; execute()", name, f"{os.getpid()}"]
        with log.open("wb") as out:  # in a session of its own: a Ctrl-C in the terminal reaches this process alone
            streams: Any = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
            status = subprocess.run(program, env=env, start_new_session=True, **streams).returncode
        if not log.exists():
            raise CancelledError
        said = log.read_text("utf-8", "replace").strip()
        for code in files.FULL:
            if status and os.strerror(code) in said:
                raise OSError(code, os.strerror(code), f"{case.output}")
        last = f"its process ended with status {status}, as happens where memory runs out; {said[-200:]}"
        return keep(case, folder, last if status else "", time.monotonic() - start)


def execute() -> None:
    """In a process of its own: execute the case in a folder; ends with the process that started it and with the log."""
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    case = pickle.loads((folder / "case").read_bytes())

    def watch() -> None:
        while os.getppid() == parent and (folder / "log").exists():
            time.sleep(0.1)
        os._exit(1)  # which the kernel notices, and ends too

    threading.Thread(target=watch, daemon=True).start()
    # papermill's imports do without it, which takes 1.5 s to compile a grammar that no notebook needs
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    from papermill import execute_notebook

    options = {"cwd": case.notebook.parent, "kernel_name": "python3", "language": "python", "progress_bar": False}
    try:
        execute_notebook(case.notebook, folder / "notebook.ipynb", dict(case.parameters), **options)
    finally:
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        (folder / "peak").write_text(f"{peak}")


def outcomes_of(
    cases: Sequence[Case], jobs: int | None = None, until: float = math.inf, scheduler: str | None = None
) -> Generator[Outcome]:
    """The outcomes of the cases as they end, `jobs` at a time, sharing out the cores; a failing one stops no other.

    A Dask scheduler's workers run as many as they have threads. A case whose worker was lost runs again on another; one
    that lost two has failed. No case starts after the time `until`. An exception, and closing the iterator, end what
    runs. Raises OSError where no scheduler answers.
    """
    from joblib import cpu_count

    jobs = jobs or max(1, min(cpu_count(), len(cases)))
    env = {"ANM_NB_OUTPUTS": f"{files.outputs_root()}"}  # a relative one would be another beside the notebook
    if scheduler:
        from distributed import Client

        client = Client(scheduler, timeout=10, set_as_default=False)
        executor = client.get_executor(pure=False)
    else:
        env["OMP_NUM_THREADS"] = f"{max(1, cpu_count() // jobs)}"
        client, executor = None, ThreadPoolExecutor(jobs)

    def submit(case: Case) -> Future[Outcome | None]:
        return executor.submit(run_case, replace(case, env={**env, **case.env}), until)

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
                    yield keep(case, left[0], said)
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


def clear(folder: Path) -> None:
    """Remove what is half-written in a folder of results; cases that still run there, on whatever machine, end."""
    for each in folder.glob(f"{PARTIAL}*"):
        (each / "log").unlink(missing_ok=True)
        shutil.rmtree(each, ignore_errors=True)


def run_sweep(
    cases: Sequence[Case], resume: bool = True, retry_failed: bool = False, dry_run: bool = False, **place: Any
) -> tuple[int, str]:
    """Run cases, or with `resume` those that are not finished and write tables over all; exit code and why.

    Each is told as it ends, above a progress bar; `place` is as for `outcomes_of`. 1 if anything failed, 130 if
    interrupted, 75 if cases are left that would start after the time for them. Raises `ParameterError` while another
    process runs cases into their folder, and where it holds the notebooks themselves.
    """
    console = Console(markup=False, emoji=False, highlight=False)  # texts of files are text
    folder, outcomes = cases[0].output.parent, dict[str, Outcome]()
    if folder.resolve() in {case.notebook.resolve().parent for case in cases}:
        raise ParameterError(f"--out {folder} holds the notebooks themselves; choose another folder")

    def counted() -> str:
        counts = Counter(outcomes[case.name].status if case.name in outcomes else "not finished" for case in cases)
        return ", ".join(f"{counts[each]} {each}" for each in ("done", "failed", "not finished") if counts[each])

    try:
        with contextlib.nullcontext() if dry_run else FileLock(folder / ".sweep.lock", blocking=False):
            for case in cases if resume else ():
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
            console.print(f"{len(cases)} cases: {counted()}; results in {folder}", soft_wrap=True)
            if dry_run:
                return 0, ""
            clear(folder)  # what a killed process or a lost worker left
            bar: Any = {"total": len(todo), "console": console, "transient": True, "disable": not console.is_terminal}
            with contextlib.closing(outcomes_of(todo, **place)) as running:
                for outcome in track(running, "cases", **bar):
                    outcomes[outcome.name] = outcome
                    said = f"\n       {outcome.error}" if outcome.error else ""
                    took = f"{outcome.seconds:.0f} s  {outcome.peak_mib:.0f} MiB  {tally(outcome.verdicts)}"
                    console.print(f"{outcome.status:6} {outcome.name}  {took}{said}", soft_wrap=True)
            if resume:  # else there may be other cases than these
                write_tables(cases, outcomes, folder)
    except Timeout:
        raise ParameterError(f"{folder}: another process is running cases into it") from None
    except KeyboardInterrupt:
        return 130, f"stopped: {counted()}; the same command goes on from there"
    except OSError as full:
        return 1, f"{full}; {counted()}, which are kept; the same command goes on from there"
    if len(outcomes) < len(cases):
        return 75, f"time is up: {counted()}; the same command goes on from there"  # EX_TEMPFAIL of sysexits.h
    failed = [case.name for case in cases if outcomes[case.name].error]
    return (1, f"{len(failed)} of {len(cases)} cases failed: {', '.join(failed)}") if failed else (0, "")


def write_tables(cases: Sequence[Case], outcomes: Mapping[str, Outcome], folder: Path) -> None:
    """Write `table.parquet`, a row for each verdict, and `table.csv`, one for each seed of each run, each atomically.

    Both begin with `case`, `notebook`, `status`, the number of `verdicts` of each kind, and each parameter that differs
    (as `<name>_parameter` where verdicts or runs have that name; lists as JSON); a case that ended without verdicts or
    runs is one row. Then come the verdict, or the run and its last record. The same results make the same bytes.
    """
    import pandas as pd

    varied = list(dict.fromkeys(name for names in differing(cases).values() for name in names))
    heads, verdicts, records = list[dict[str, Any]](), list[dict[str, Any]](), list[pd.DataFrame]()
    for case, outcome in [(case, outcomes[case.name]) for case in cases if case.name in outcomes]:
        own = {"case": case.name, "notebook": case.notebook.stem, "status": outcome.status}
        heads.append(own | {"verdicts": tally(outcome.verdicts)} | {name: case.values.get(name) for name in varied})
        verdicts += [{"case": case.name, **row} for row in outcome.verdicts]
        for key in outcome.runs:
            run, last = Run(store_root() / key), pd.DataFrame({"run": [key]})
            with contextlib.suppress(CorruptRun):  # gone since: its key alone
                last = run.metrics.groupby("seed").tail(1)
                last = last.assign(run=key, task=run.summary["task"], method=run.summary["method"])
            records.append(last.assign(case=case.name))
    table = pd.DataFrame(heads)
    for name in varied:
        if pd.api.types.infer_dtype(table[name]).startswith("mixed"):
            table[name] = table[name].map(json.dumps)
    beside: Any = {"on": "case", "how": "left", "suffixes": ("_parameter", "")}
    none = pd.DataFrame({"case": []}, dtype=object)
    judged = table.merge(pd.DataFrame(verdicts) if verdicts else none, **beside)
    scored = table.merge(pd.concat([none, *records]), **beside)
    files.replace_whole(folder / "table.parquet", judged.to_parquet(index=False))
    files.replace_whole(folder / "table.csv", scored.to_csv(index=False).encode())
