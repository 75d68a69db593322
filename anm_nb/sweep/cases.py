"""One case: a notebook run by papermill in a process of its own, its executed copy put in place when it is whole."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from anm_nb.sweep.outcomes import Outcome
from anm_nb.sweep.processes import Interrupted, case_process

PARTIAL_PREFIX = ".partial-"  # of the folders in which cases grow
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
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


def run_case(case: Case, threads: int, env: Mapping[str, str], stopped: Callable[[], bool]) -> Outcome:
    """Run the case with so many threads, and `env` over this process's environment, until `stopped` says otherwise.

    The case grows in a folder of its own beside its output, which appears in one step or, where papermill failed before
    its first cell, disappears. Raises Interrupted when stopped, and OSError where there is no room for the results.
    """
    from anm_nb.files import put_in_place
    from anm_nb.store import RUNS_USED

    case.output.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=PARTIAL_PREFIX, dir=case.output.parent) as folder:
        partial, log, used = (Path(folder, name) for name in ("notebook.ipynb", "log", "runs-used"))
        surroundings = os.environ | env | _surroundings(Path(folder), threads) | {RUNS_USED: str(used)}
        if stopped():
            raise Interrupted
        with case_process(log) as process:
            ended = process.run(_request(case, partial), surroundings, log, stopped)
        if partial.exists():
            put_in_place(partial, case.output)
        else:  # an older result must not stand for this run
            case.output.unlink(missing_ok=True)
        error = _why_failed(ended.status, case.output, log) if ended.status else None
        keys = sorted(set(used.read_text("utf-8").split())) if used.exists() else ()
    seconds = time.monotonic() - start
    return Outcome(case.name, "failed" if error else "done", seconds, ended.peak_mib, error, case.digest, tuple(keys))


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


def _why_failed(status: int, notebook: Path, log: Path) -> str:
    """The words of the failing cell, or else of papermill, or else how the process ended."""
    if said := _error_in_notebook(notebook):
        return said
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name}, as happens where memory runs out"
    return _last_line(log.read_text("utf-8", errors="replace")) or f"papermill ended with status {status}"


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
