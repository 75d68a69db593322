"""One case: a notebook run by papermill in a process of its own, its executed copy put in place when it is whole."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anm_nb.sweep.outcomes import Outcome
from anm_nb.sweep.process import DISK_FULL, STOP_SECONDS
from anm_nb.terminal import plain

PARTIAL_PREFIX = ".partial-"  # of the folders in which cases grow
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ERROR_LINES = 4  # of a failure's message that are kept
POLL_SECONDS = 0.02


class Interrupted(Exception):
    """A case did not run to its end because it is no longer wanted."""


@dataclass(frozen=True)
class Case:
    """One notebook to run: where it is, where its executed copy goes, and the parameters it is given.

    `parameters` is a YAML file, a mapping from names to values, or None for the notebook's own defaults. Where there is
    one, `digest` stands for all that the result depends on and is kept with the outcome, and `code` is the part of it
    (`code_digest`) that must still hold when the case has run.
    """

    notebook: Path
    output: Path
    parameters: Path | Mapping[str, Any] | None = None
    digest: str | None = None
    code: str | None = None

    @property
    def name(self) -> str:
        """What outcomes and messages call the case: the output's name without its ending."""
        return self.output.name.removesuffix(".ipynb")


def run_case(case: Case, threads: int | None, env: Mapping[str, str], stopped: Callable[[], bool]) -> Outcome:
    """Run the case, with `env` over this process's environment, until `stopped` says otherwise.

    Without `threads` it has as many as OMP_NUM_THREADS says here. The case grows in a folder of its own beside its
    output, which appears in one step or, where papermill left no whole notebook, disappears. Raises Interrupted when
    stopped, DiskFull, and ParameterError where the code it depends on is not, or does not stay, what it was.
    """
    from anm_nb.files import DiskFull, put_in_place, sha256_of
    from anm_nb.store import RUNS_USED

    output = Path(os.path.abspath(case.output))
    output.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    _check_code(case)
    with tempfile.TemporaryDirectory(prefix=PARTIAL_PREFIX, dir=output.parent) as folder:
        partial, log, used = (Path(folder, name) for name in ("notebook.ipynb", "log", "runs-used"))
        surroundings = os.environ | env | _surroundings(Path(folder), threads or threads_here())
        status, peak = _papermill(_request(case, partial), surroundings | {RUNS_USED: str(used)}, log, stopped)
        if status == DISK_FULL:
            raise DiskFull(errno.ENOSPC, f"no space left on the device while writing {output}")
        _check_code(case)
        executed = _whole(partial)
        if executed is not None:
            put_in_place(partial, output)
        else:  # an older result must not stand for this run
            output.unlink(missing_ok=True)
        error = None if status == 0 and executed is not None else _why_failed(status, executed, log)
        keys = sorted(set(used.read_text("utf-8").split())) if used.exists() else ()
    checksum = None if executed is None else sha256_of(output)
    seconds, rest = time.monotonic() - start, (case.digest, tuple(keys), checksum, status < 0)
    return Outcome(case.name, "failed" if error else "done", seconds, peak, error, *rest)


def threads_here() -> int:
    """The threads that OMP_NUM_THREADS gives this process, the first of its list (one for each nesting level), or 1."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return max(1, int(first)) if first.isdecimal() else 1


def _check_code(case: Case) -> None:
    from anm_nb.config import ParameterError
    from anm_nb.sweep.digests import code_digest

    if case.code is not None and case.code != code_digest(case.notebook):
        raise ParameterError(
            f"{case.notebook}, or the sources of anm_nb, changed while the sweep ran; {case.name} is not kept: "
            "start the sweep again, with what is there now"
        )


def _papermill(
    request: Mapping[str, Any], env: Mapping[str, str], log: Path, stopped: Callable[[], bool]
) -> tuple[int, float]:
    """Exit status and peak memory, in MiB, of a process that does what is requested; what it says goes to the log."""
    with log.open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "anm_nb.sweep.process"],
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
                return process.returncode, _mebibytes(usage)
            time.sleep(POLL_SECONDS)
        raise Interrupted
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # a case that still runs closes its kernel and ends
        try:
            process.wait(STOP_SECONDS + 1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _mebibytes(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _request(case: Case, partial: Path) -> dict[str, Any]:
    """What papermill is asked for; the values as they are, since YAML would read JSON's 1e-05 as text."""
    parameters = case.parameters or {}
    if isinstance(parameters, Path):
        from anm_nb.yaml_file import read_yaml  # brings pydantic along

        parameters = read_yaml(parameters)
    notebook = case.notebook.resolve()
    return {
        "input_path": str(notebook),
        "output_path": str(partial),
        "parameters": dict(parameters),
        "cwd": str(notebook.parent),
    }


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


def _whole(notebook: Path) -> Any:
    """The content of a notebook; None where there is none, or half of one."""
    try:
        return json.loads(notebook.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _why_failed(status: int, executed: Any, log: Path) -> str:
    """The words of the failing cell, or else of papermill, or else how the process ended."""
    for cell in executed["cells"] if executed else []:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                said = plain(f"{output['ename']}: {output['evalue']}").strip().splitlines()
                return "\n".join(line for line in said[:ERROR_LINES])
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name}, as happens where memory runs out"
    lines = re.findall(r"\S.*", plain(log.read_text("utf-8", errors="replace")))
    return lines[-1].strip() if lines else f"papermill ended with status {status} and left no whole notebook"
