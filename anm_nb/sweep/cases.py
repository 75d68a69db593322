"""One case: a notebook run by papermill in a process of its own, its executed copy put in place when it is whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from anm_nb.sweep.outcomes import Outcome, put_in_place

PARTIAL_PREFIX = ".partial-"  # of the folders in which cases grow
RUNS_USED = "ANM_NB_RUNS_USED"  # names the file to which the run store appends the key of every run it serves
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
POLL_SECONDS = 0.02
STOP_SECONDS = 5.0  # how long an interrupted notebook may take to close its kernel before it is killed
ERROR_LINES = 4  # of a failure's message that are kept
ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Case:
    """One notebook to run: where it is, where its executed copy goes, and the parameters it is given.

    `parameters` is a YAML file, a mapping from names to values, or None for the notebook's own defaults; `digest`,
    where there is one, stands for all that the result depends on, and is kept with the outcome.
    """

    notebook: Path
    output: Path
    parameters: Path | Mapping[str, Any] | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """What outcomes and messages call the case: the output's name without its ending."""
        return self.output.name.removesuffix(".ipynb")


class Interrupted(Exception):
    """A case did not run to its end because it is no longer wanted."""


def run_case(case: Case, threads: int, env: Mapping[str, str], stopped: Callable[[], bool]) -> Outcome:
    """Run the case with so many threads, and `env` over this process's environment, until `stopped` says otherwise.

    The case grows in a folder of its own beside its output, which appears in one step or, where papermill failed before
    its first cell, disappears. Raises Interrupted when stopped, and OSError where there is no room for the results.
    """
    case.output.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=PARTIAL_PREFIX, dir=case.output.parent) as folder:
        partial, log, used = (Path(folder, name) for name in ("notebook.ipynb", "log", "runs-used"))
        surroundings = os.environ | env | _surroundings(Path(folder), threads) | {RUNS_USED: str(used)}
        exit_status, peak_mib = _run_process(_request(case, partial), surroundings, log, stopped)
        if partial.exists():
            put_in_place(partial, case.output)
        else:  # an older result must not stand for this run
            case.output.unlink(missing_ok=True)
        error = None
        if exit_status != 0:
            said = _error_in_notebook(case.output) or _last_line(log.read_text("utf-8", errors="replace"))
            error = said or f"papermill ended with status {exit_status}"
        keys = sorted(set(used.read_text("utf-8").split())) if used.exists() else ()
    seconds = time.monotonic() - start
    return Outcome(case.name, "failed" if error else "done", seconds, peak_mib, error, case.digest, tuple(keys))


def _request(case: Case, partial: Path) -> dict[str, Any]:
    """What papermill is asked for; the values as they are, since YAML would read JSON's 1e-05 as text."""
    parameters = case.parameters or {}
    if isinstance(parameters, Path):
        parameters = yaml.safe_load(parameters.read_text("utf-8")) or {}
    notebook = case.notebook.resolve()
    return {
        "input_path": str(notebook),
        "output_path": str(partial.resolve()),
        "parameters": dict(parameters),
        "cwd": str(notebook.parent),
    }


def _run_process(
    request: Mapping[str, Any], env: Mapping[str, str], log: Path, stopped: Callable[[], bool]
) -> tuple[int, float]:
    """Run to the end; return the exit status and the peak memory, in MiB, of the process or a descendant of it."""
    if stopped():
        raise Interrupted
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "anm_nb.sweep.process"],
            env=env,
            stdin=subprocess.PIPE,  # stays open as long as this process lives: the other one ends with it
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches this program alone, which then ends its processes in order
        )
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        while not stopped():
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)  # unlike Popen.wait, it reports the memory
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return process.returncode, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
            time.sleep(POLL_SECONDS)
        raise Interrupted
    finally:
        if process.returncode is None:
            _end(process)
        process.stdin.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _surroundings(folder: Path, threads: int) -> dict[str, str]:
    """A share of the cores, a kernel that is this very interpreter, and figures that stay in the notebook."""
    # JUPYTER_PATH comes before every kernel that a user or a system may have installed under the same name.
    spec = folder / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": launch, "display_name": "Python 3", "language": "python"}))
    path = os.pathsep.join(filter(None, [str(folder.resolve()), os.environ.get("JUPYTER_PATH")]))
    backend = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # not one chosen for scripts
    return dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"JUPYTER_PATH": path} | backend


def _error_in_notebook(path: Path) -> str | None:
    """What the failing cell of an executed notebook says, as `Name: message`."""
    if not path.exists():
        return None
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                return _first_lines(f"{output['ename']}: {output['evalue']}")
    return None


def _first_lines(said: str) -> str:
    return "\n".join(ANSI_COLOUR.sub("", said).strip().splitlines()[:ERROR_LINES])


def _last_line(log: str) -> str:
    lines = [line for line in ANSI_COLOUR.sub("", log).splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
