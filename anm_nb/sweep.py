"""Cases side by side, here or on Dask workers, each a notebook run by papermill in a process of its own; their table.

How a case ended is noted in its executed notebook, which appears as a whole: a sweep goes on from those that there are.
"""

from __future__ import annotations

import math
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import track

from anm_nb import files
from anm_nb.cases import Case, Outcome, keep, outcome_in, tally
from anm_nb.config import ParameterError

PARTIAL = ".partial-"  # begins the names of the folders in which cases grow


def run_case(case: Case, until: float, env: Mapping[str, str]) -> Outcome | None:
    """Run a case in a process of its own; None where it is `until` already. It ends when its folder is cleared away.

    The executed notebook appears atomically, a failed one too. Raises OSError where a disk is full, and
    `CancelledError` when stopped.
    """
    if time.time() >= until:
        return None
    start = time.monotonic()
    case.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{PARTIAL}{case.name}-", dir=case.output.parent) as name:
        folder, log = Path(name), Path(name, "log")
        # a kernel that is this very interpreter, and figures that stay in the notebook
        kernel = {"JUPYTER_PREFER_ENV_PATH": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        told = {files.RUNS_USED: f"{folder / 'runs'}", files.NOTEBOOK: case.notebook.stem}
        (folder / "case").write_bytes(pickle.dumps(case))
        program = [sys.executable, "-c", "from anm_nb.sweep import execute; execute()", name, f"{os.getpid()}"]
        with log.open("wb") as out:  # in a session of its own: a Ctrl-C in the terminal reaches this process alone
            process: Any = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out, "start_new_session": True}
            own = {"OMP_NUM_THREADS": "1", **os.environ, **env, **kernel, **told}
            status = subprocess.run(program, env=own, **process).returncode
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
    execute_notebook(case.notebook, folder / "notebook.ipynb", dict(case.parameters), **options)


def outcomes_of(
    cases: Sequence[Case],
    jobs: int | None = None,
    until: float = math.inf,
    scheduler: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Generator[Outcome]:
    """The outcomes of the cases as they end, `jobs` at a time, sharing out the cores; a failing one stops no other.

    A Dask scheduler's workers run as many as they have threads, and a case again whose worker was lost, as often as
    Dask's `allowed-failures` says; then it has failed. No case starts after the time `until`; `env` is over the
    environment. An exception, and closing the iterator, end what runs. Raises OSError where no scheduler answers.
    """
    from joblib import cpu_count

    jobs = jobs or max(1, min(cpu_count(), len(cases)))
    own = {"ANM_NB_OUTPUTS": f"{files.outputs_root()}", **(env or {})}  # absolute, as notebooks run beside themselves
    if scheduler:
        from distributed import Client

        client = Client(scheduler, timeout=10, set_as_default=False)
        executor = client.get_executor(pure=False)
    else:
        own["OMP_NUM_THREADS"] = f"{max(1, cpu_count() // jobs)}"
        client, executor = None, ThreadPoolExecutor(jobs)
    waiting = {executor.submit(run_case, case, until, own): case for case in cases}
    try:
        for future in as_completed(waiting):
            case, error = waiting.pop(future), future.exception()
            if type(error).__name__ == "KilledWorker":
                said = "workers died while it ran or waited there, as happens where memory runs out"
                yield keep(case, case.output.with_suffix(".lost"), said)  # no such folder: nothing is left of it
            elif outcome := future.result():
                yield outcome
            del future  # Dask runs again what is still referred to, where the worker that had it is lost
    finally:
        begun = [future for future in waiting if not future.cancel()]
        clear(cases)
        while not all(future.done() for future in begun):  # one may only now have made its folder
            time.sleep(0.05)
            clear(cases)
        client.close() if client else executor.shutdown()


def clear(cases: Sequence[Case]) -> None:
    """Remove what is half-written where cases' results go; cases that still run there, on whatever machine, end."""
    for folder in {case.output.parent for case in cases}:
        for each in folder.glob(f"{PARTIAL}*"):
            (each / "log").unlink(missing_ok=True)
            shutil.rmtree(each, ignore_errors=True)


def run_sweep(
    cases: Sequence[Case], retry_failed: bool = False, dry_run: bool = False, **place: Any
) -> tuple[int, str]:
    """Run the cases that are not finished, and write a table over all; exit code and why.

    Each is told as it ends, above a progress bar; `place` is as for `outcomes_of`. 1 if anything failed, 130 if
    interrupted, 75 if cases are left that would start after the time for them. Raises `ParameterError` while another
    process runs cases into their folder, and where it holds the notebooks themselves.
    """
    console = Console(markup=False, emoji=False, highlight=False)  # texts of files are text
    folder = cases[0].output.parent
    if folder.resolve() in {case.notebook.resolve().parent for case in cases}:
        raise ParameterError(f"--out {folder} holds the notebooks themselves; choose another folder")
    found = [outcome for case in cases if (outcome := outcome_in(case))]
    outcomes = {outcome.name: outcome for outcome in found if not (retry_failed and outcome.error)}
    todo = [case for case in cases if case.name not in outcomes]

    def counted() -> str:
        counts = Counter(outcomes[case.name].status if case.name in outcomes else "not finished" for case in cases)
        return ", ".join(f"{counts[each]} {each}" for each in ("done", "failed", "not finished") if counts[each])

    if dry_run:
        for case in cases:
            console.print(f"{'to run' if case in todo else outcomes[case.name].status:6} {case.name}", soft_wrap=True)
    console.print(f"{len(cases)} cases: {counted()}; results in {folder}", soft_wrap=True)
    if dry_run:
        return 0, ""
    try:
        with FileLock(folder / ".sweep.lock", blocking=False), closing(outcomes_of(todo, **place)) as running:
            clear(cases)  # what a killed process or a lost worker left
            bar: Any = {"total": len(todo), "console": console, "transient": True, "disable": not console.is_terminal}
            for outcome in track(running, "cases", **bar):
                outcomes[outcome.name] = outcome
                said = f"\n       {outcome.error}" if outcome.error else ""
                took = f"{outcome.seconds:.0f} s  {tally(outcome.verdicts)}"
                console.print(f"{outcome.status:6} {outcome.name}  {took}{said}", soft_wrap=True)
            write_table(cases, outcomes, folder)
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


def write_table(cases: Sequence[Case], outcomes: Mapping[str, Outcome], folder: Path) -> None:
    """Write `table.parquet` atomically: a row for each verdict of each case, or one for a case that ended without any.

    A row has `case`, `notebook`, `status`, `runs` (the keys of all that the case was served), each parameter that is
    some case's own (as `<name>_parameter` where verdicts have that name; lists as text), and the verdict. The same
    results make the same bytes.
    """
    import pandas as pd

    varied = list(dict.fromkeys(name for case in cases for name in case.own))
    heads, verdicts = list[dict[str, Any]](), list[dict[str, Any]]()
    for case, outcome in [(case, outcomes[case.name]) for case in cases if case.name in outcomes]:
        own = {"case": case.name, "notebook": case.notebook.stem, "status": outcome.status}
        heads.append(own | {"runs": " ".join(outcome.runs)} | {name: case.values.get(name) for name in varied})
        verdicts += [{"case": case.name, **row} for row in outcome.verdicts]
    table = pd.DataFrame(heads, columns=["case", "notebook", "status", "runs", *varied])
    table = table.astype({name: str for name in varied if table[name].dtype == object})
    judged = pd.DataFrame(verdicts or {"case": []}).astype({"case": str})
    whole = table.merge(judged, on="case", how="left", suffixes=("_parameter", ""))
    files.replace_whole(folder / "table.parquet", whole.to_parquet(index=False))
