"""Run cases in parallel, here or on Dask workers, each with papermill in its own process, and write a table over all.

Each executed notebook is written atomically and records how its case ended, so an interrupted sweep can continue.
"""

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

PARTIAL = ".partial-"  # prefix of the folders of running cases


def run_case(case: Case, until: float, env: Mapping[str, str]) -> Outcome | None:
    """Run a case in its own process, which ends early if its folder is removed. None if the time is past `until`.

    The executed notebook is written atomically, even if it failed. Raises OSError if the disk is full and
    `CancelledError` if the case was stopped.
    """
    if time.time() >= until:
        return None
    start = time.monotonic()
    case.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{PARTIAL}{case.name}-", dir=case.output.parent) as name:
        folder, log = Path(name), Path(name, "log")
        # the kernel of this interpreter, and figures inside the notebook
        kernel = {"JUPYTER_PREFER_ENV_PATH": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        context = {files.RUNS_USED: f"{folder / 'runs'}", files.NOTEBOOK: case.notebook.stem}
        (folder / "case").write_bytes(pickle.dumps(case))
        program = [sys.executable, "-c", "from anm_nb.sweep import execute; execute()", name, f"{os.getpid()}"]
        with log.open("wb") as out:  # a new session, so that Ctrl-C in the terminal reaches only the parent process
            process: Any = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out, "start_new_session": True}
            environment = {"OMP_NUM_THREADS": "1", **os.environ, **env, **kernel, **context}
            status = subprocess.run(program, env=environment, **process).returncode
        if not log.exists():
            raise CancelledError
        logged = log.read_text("utf-8", "replace").strip()
        for code in files.FULL:
            if status and os.strerror(code) in logged:
                raise OSError(code, os.strerror(code), f"{case.output}")
        failure = f"its process ended with status {status}, possibly because memory ran out; {logged[-200:]}"
        return keep(case, folder, failure if status else "", time.monotonic() - start)


def execute() -> None:
    """Entry point of a case's process: execute the notebook; end if the parent process or the log file is gone."""
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    case = pickle.loads((folder / "case").read_bytes())

    def watch() -> None:
        while os.getppid() == parent and (folder / "log").exists():
            time.sleep(0.1)
        os._exit(1)  # the kernel notices this and ends too

    threading.Thread(target=watch, daemon=True).start()
    # an optional import of papermill's dependencies that spends 1.5 s compiling a grammar that no notebook needs
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
    """Yield the outcomes of cases as they end. `jobs` cases share the cores; a failed case does not stop the others.

    Dask workers run one case per thread; if a worker is lost, its cases run again, up to the scheduler's
    `allowed-failures`. No case starts after the time `until`; `env` overrides the environment. An exception, or closing
    the iterator, ends the running cases. Raises OSError if no scheduler answers.
    """
    from joblib import cpu_count

    jobs = jobs or max(1, min(cpu_count(), len(cases)))
    env = {"ANM_NB_OUTPUTS": f"{files.outputs_root()}", **(env or {})}  # absolute: notebooks run in their own folder
    if scheduler:
        from distributed import Client

        client = Client(scheduler, timeout=10, set_as_default=False)
        executor = client.get_executor(pure=False)
    else:
        env["OMP_NUM_THREADS"] = f"{max(1, cpu_count() // jobs)}"
        client, executor = None, ThreadPoolExecutor(jobs)
    waiting = {executor.submit(run_case, case, until, env): case for case in cases}
    try:
        for future in as_completed(waiting):
            case, error = waiting.pop(future), future.exception()
            if type(error).__name__ == "KilledWorker":
                failure = "workers died while it ran or waited there, possibly because memory ran out"
                yield keep(case, case.output.with_suffix(".lost"), failure)  # this folder does not exist: all was lost
            elif outcome := future.result():
                yield outcome
            del future  # if a worker is lost, Dask reruns its results that are still referenced
    finally:
        running = [future for future in waiting if not future.cancel()]
        clear(cases)
        while not all(future.done() for future in running):  # one of them may have made its folder just now
            time.sleep(0.05)
            clear(cases)
        client.close() if client else executor.shutdown()


def clear(cases: Sequence[Case]) -> None:
    """Remove half-written results from the cases' folders; this also ends cases that still run, on any machine."""
    for folder in {case.output.parent for case in cases}:
        for each in folder.glob(f"{PARTIAL}*"):
            (each / "log").unlink(missing_ok=True)
            shutil.rmtree(each, ignore_errors=True)


def run_sweep(
    cases: Sequence[Case], retry_failed: bool = False, dry_run: bool = False, **place: Any
) -> tuple[int, str]:
    """Run the unfinished cases and write a table over all. Returns the exit code and the reason.

    Prints each case as it ends, above a progress bar; `place` goes to `outcomes_of`. The code is 1 if anything failed,
    130 after an interrupt, and 75 if time ran out before all cases had started. Raises `ParameterError` if another
    process is running cases into the folder, or if the folder holds the notebooks themselves.
    """
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)  # print names and errors literally
    folder = cases[0].output.parent
    if folder.resolve() in {case.notebook.resolve().parent for case in cases}:
        raise ParameterError(f"--out {folder} holds the notebooks themselves; choose another folder")
    finished = [outcome for case in cases if (outcome := outcome_in(case))]
    outcomes = {outcome.name: outcome for outcome in finished if not (retry_failed and outcome.error)}
    todo = [case for case in cases if case.name not in outcomes]

    def counted() -> str:
        counts = Counter(outcomes[case.name].status if case.name in outcomes else "not finished" for case in cases)
        return ", ".join(f"{counts[each]} {each}" for each in ("done", "failed", "not finished") if counts[each])

    if dry_run:
        for case in cases:
            console.print(f"{'to run' if case in todo else outcomes[case.name].status:6} {case.name}")
    console.print(f"{len(cases)} cases: {counted()}; results in {folder}")
    if dry_run:
        return 0, ""
    try:
        with FileLock(folder / ".sweep.lock", blocking=False), closing(outcomes_of(todo, **place)) as running:
            clear(cases)  # left by a killed process or a lost worker
            bar = track(running, "cases", len(todo), console=console, transient=True, disable=not console.is_terminal)
            for outcome in bar:
                outcomes[outcome.name] = outcome
                error = f"\n       {outcome.error}" if outcome.error else ""
                summary = f"{outcome.seconds:.0f} s  {tally(outcome.verdicts)}"
                console.print(f"{outcome.status:6} {outcome.name}  {summary}{error}")
            write_table(cases, outcomes, folder)
    except Timeout:
        raise ParameterError(f"another process is running cases into {folder}") from None
    except KeyboardInterrupt:
        return 130, f"stopped: {counted()}; run the same command again to continue"
    except OSError as error:
        return 1, f"{error}; {counted()}; finished cases are kept, run the same command again to continue"
    if len(outcomes) < len(cases):
        return 75, f"out of time: {counted()}; run the same command again to continue"  # EX_TEMPFAIL of sysexits.h
    failed = [case.name for case in cases if outcomes[case.name].error]
    return (1, f"{len(failed)} of {len(cases)} cases failed: {', '.join(failed)}") if failed else (0, "")


def write_table(cases: Sequence[Case], outcomes: Mapping[str, Outcome], folder: Path) -> None:
    """Write `table.parquet` atomically: one row per verdict; a case without verdicts gets one row.

    A row has `case`, `notebook`, `status`, `runs` (the keys of all runs that the case used), every parameter that some
    case sets (as `<name>_parameter` if another column has that name; lists as text), and the verdict. Equal results
    give equal bytes.
    """
    import pandas as pd

    taken = {"case", "notebook", "status", "runs"}.union(*(row for each in outcomes.values() for row in each.verdicts))
    varied = dict.fromkeys(name for case in cases for name in case.own)
    parameters = {name: f"{name}_parameter" if name in taken else name for name in varied}
    rows = list[dict[str, Any]]()
    for case, outcome in [(case, outcomes[case.name]) for case in cases if case.name in outcomes]:
        facts = {"case": case.name, "notebook": case.notebook.stem, "status": outcome.status}
        values = {parameters[name]: case.values.get(name) for name in varied}
        rows += [{**facts, "runs": " ".join(outcome.runs), **values, **each} for each in outcome.verdicts or [{}]]
    table = pd.DataFrame(rows)
    table = table.astype({name: str for name in parameters.values() if rows and table[name].dtype == object})
    files.replace_whole(folder / "table.parquet", table.to_parquet(index=False))
