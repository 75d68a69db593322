"""One case: a notebook run by papermill in a process of its own, which ends with whoever started it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from anm_nb.config import ParameterError
from anm_nb.files import FULL, DiskFull, put_in_place, sha256_of
from anm_nb.sweep.cases import Case
from anm_nb.sweep.notebook import code_digest
from anm_nb.sweep.outcomes import Outcome
from anm_nb.terminal import plain

PARTIAL_PREFIX = ".partial-"  # of the folders in which cases grow
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ERROR_LINES = 4  # of a failure's message that are kept
STOP_SECONDS = 5.0  # how long an interrupted notebook may take to close its kernel before it is killed
DISK_FULL = 74  # the exit status where there was no room for the executed notebook
PROGRAM = "from anm_nb.sweep.process import serve; serve()"


class Interrupted(Exception):
    """A case did not run to its end because it is no longer wanted."""


def half_written(folder: Path) -> list[str]:
    """The names of the cases that are half-written in a folder of results, once for each place where they are."""
    return [path.name.removeprefix(PARTIAL_PREFIX).rpartition("-")[0] for path in folder.glob(f"{PARTIAL_PREFIX}*")]


def threads_here() -> int:
    """The threads that OMP_NUM_THREADS gives this process, the first of its list (one for each nesting level), or 1."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return max(1, int(first)) if first.isdecimal() else 1


def attempt(
    case: Case,
    threads: int | None,
    env: Mapping[str, str],
    until: float,
    stopped: Callable[[], bool],
    times: int = 1,
) -> Outcome | None:
    """Run a case, so many times at most where its process is killed; None where it is too late to start."""
    for number in range(1, times + 1):
        if time.time() >= until:
            return None
        outcome = run_case(case, threads, env, stopped)
        if not outcome.killed or number == times:
            return outcome
    return None


def run_case(case: Case, threads: int | None, env: Mapping[str, str], stopped: Callable[[], bool]) -> Outcome:
    """Run the case, with `env` over this process's environment, until `stopped` says otherwise.

    Without `threads` it has as many as OMP_NUM_THREADS says here. The case grows in a folder of its own beside its
    output, which appears atomically or, where papermill left no whole notebook, disappears. Raises `Interrupted` when
    stopped, `DiskFull`, and `ParameterError` where the code it depends on is not, or does not stay, what it was.
    """
    from anm_nb.store import KEPT, RUNS_USED

    output = Path(os.path.abspath(case.output))
    output.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    _check_code(case)
    with tempfile.TemporaryDirectory(prefix=f"{PARTIAL_PREFIX}{case.name}-", dir=output.parent) as folder:
        partial, log, used = (Path(folder, name) for name in ("notebook.ipynb", "log", "runs-used"))
        surroundings = {**os.environ, **env, **case.env} | _surroundings(Path(folder), threads or threads_here())
        status, peak = _papermill(_request(case, partial), surroundings | {RUNS_USED: str(used)}, log, stopped)
        if status == DISK_FULL:
            raise DiskFull(errno.ENOSPC, f"no space left on the device while writing {output}")
        _check_code(case)
        try:
            executed = json.loads(partial.read_text(encoding="utf-8"))
            put_in_place(partial, output)
        except (FileNotFoundError, ValueError):  # none, or half of one: an older result must not stand for this run
            executed = None
            output.unlink(missing_ok=True)
        error = None if status == 0 and executed is not None else _why_failed(status, executed, log)
        lines = set(used.read_text("utf-8").split()) if used.exists() else set()
    checksum = None if executed is None else sha256_of(output)
    runs = tuple(sorted(line for line in lines if not line.startswith(KEPT)))
    end = (time.monotonic() - start, peak, error, case.digest, runs, checksum, status < 0)
    return Outcome(case.name, "failed" if error else "done", *end)


def _check_code(case: Case) -> None:
    if case.code is not None and case.code != code_digest(case.notebook):
        raise ParameterError(
            f"{case.notebook}, or the sources of anm_nb, changed while the sweep ran; {case.name} is not kept: "
            "start the sweep again"
        )


def _papermill(
    request: Mapping[str, Any], env: Mapping[str, str], log: Path, stopped: Callable[[], bool]
) -> tuple[int, float]:
    """Exit status and peak memory, in MiB, of a process that executes a request; its output goes to the log."""
    with log.open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,  # stays open as long as this process lives: the other one ends with it
            stdout=said,
            stderr=said,
            env=env,
            start_new_session=True,  # a Ctrl-C reaches this program alone, which then ends its processes in order
        )
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it has died, as its status will tell
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        while not stopped():
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                process.returncode = os.waitstatus_to_exitcode(status)
                return process.returncode, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
            time.sleep(0.02)
        raise Interrupted
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # a case that still runs closes its kernel and ends
        try:
            process.wait(STOP_SECONDS + 1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serve() -> None:
    """Execute the notebook that standard input's first line asks for, in JSON; the process ends with its input.

    The exit status is 0, `DISK_FULL`, or 1 with a traceback on stderr.
    """
    request = json.loads(sys.stdin.buffer.readline())

    def end_with_the_sweep() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # which closes the kernel
        time.sleep(STOP_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=end_with_the_sweep, daemon=True).start()
    try:
        from papermill import execute_notebook

        execute_notebook(**request, kernel_name="python3", language="python", progress_bar=False)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the log is on the same disk
            traceback.print_exc()
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, OSError) and cause.errno in FULL):
            cause = cause.__cause__ or cause.__context__
        os._exit(DISK_FULL if cause else 1)


def _request(case: Case, partial: Path) -> dict[str, Any]:
    """Arguments of papermill's `execute_notebook`."""
    notebook = case.notebook.resolve()
    paths = {"input_path": str(notebook), "output_path": str(partial), "cwd": str(notebook.parent)}
    return paths | {"parameters": dict(case.parameters)}


def _surroundings(folder: Path, threads: int) -> dict[str, str]:
    """A share of the cores, a kernel that is this very interpreter, and figures that stay in the notebook."""
    # JUPYTER_PATH comes before every kernel that a user or a system may have installed under the same name.
    spec = folder / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": launch, "display_name": "Python 3", "language": "python"}))
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("JUPYTER_PATH")]))
    backend = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # not one chosen for scripts
    return dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"JUPYTER_PATH": path} | backend


def _why_failed(status: int, executed: Any, log: Path) -> str:
    """The words of the failing cell, or else of papermill, or else how the process ended."""
    for cell in executed["cells"] if executed else []:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                return "\n".join(plain(f"{output['ename']}: {output['evalue']}").strip().splitlines()[:ERROR_LINES])
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name}, as happens where memory runs out"
    lines = re.findall(r"\S.*", plain(log.read_text("utf-8", errors="replace")))
    return lines[-1].strip() if lines else f"papermill ended with status {status} and left no whole notebook"
