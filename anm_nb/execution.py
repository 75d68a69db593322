"""One case: a notebook run by papermill in a process of its own, and how it ended, noted in the executed notebook."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import re
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anm_nb import files
from anm_nb.analysis import VERDICT_MIME
from anm_nb.cases import Case, code_digest, digest_of
from anm_nb.config import ParameterError
from anm_nb.store import KEPT, RUNS_USED

NOTED = "anm_nb"  # where a notebook's metadata says how its case ended
PARTIAL = ".partial-"  # begins the names of the folders in which cases grow
DISK_FULL = 74  # exit status of a case's process for which there was no room
STATES = ("supported", "refuted", "equivalent", "undecided", "not trained long enough", "not measured")


@dataclass(frozen=True)
class Outcome:
    """How a case ended, and what its notebook left."""

    name: str
    seconds: float  # with the kernel's start
    peak_mib: float  # of the kernel
    error: str | None = None  # why it failed
    digest: str | None = None  # the case's
    runs: Sequence[str] = ()  # keys of the stored runs that the notebook was served
    verdicts: Sequence[Mapping[str, Any]] = ()

    @property
    def status(self) -> str:
        """`done` or `failed`."""
        return "failed" if self.error else "done"


def plain(text: str) -> str:
    """The text without ANSI sequences and control characters, which a terminal would obey."""
    return "".join(c for c in re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", text) if c.isprintable() or c in "\n\t")


def duration(seconds: float) -> str:
    """Seconds as a person reads them: `31.2 s`, `2 min 05 s`."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


def verdicts_in(notebook: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The judged claims in a notebook's outputs, a mapping each."""
    outputs = (output for cell in notebook["cells"] for output in cell.get("outputs", []))
    shown = (output.get("data", {}).get(VERDICT_MIME) for output in outputs)
    rows = (row for each in shown if isinstance(each, Mapping) for row in each.get("verdicts", ()))
    return [dict(row) for row in rows if row.get("verdict") in STATES and row.get("claim")]


def tally(verdicts: Iterable[Mapping[str, Any]]) -> str:
    """How many verdicts there are of each kind, such as `2 supported, 1 undecided`; empty where there are none."""
    counts = Counter(row["verdict"] for row in verdicts)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def outcome_in(path: Path) -> Outcome | None:
    """How the case of an executed notebook ended; None where there is none that a case left.

    Raises `ParameterError` where the notebook is not as it was written.
    """
    if not path.exists():
        return None
    try:
        notebook = json.loads(path.read_bytes())
        if (noted := notebook["metadata"].pop(NOTED, None)) is None:
            return None
        if noted.pop("sha256") != digest_of([notebook, noted]):
            raise ValueError("its checksum is another")
        return Outcome(path.name.removesuffix(".ipynb"), **noted, verdicts=verdicts_in(notebook))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ParameterError(f"{path} is not the notebook that was written ({error})") from None


def run_case(case: Case, threads: int | None, until: float, stop: threading.Event | None = None) -> Outcome | None:
    """Run a case in a process of its own until `stop`, or Dask, says otherwise; None where it is `until` already.

    The executed notebook appears atomically, a failed one too. Raises `DiskFull`, `CancelledError` when stopped, and
    `ParameterError` where the code that the case depends on is not, or does not stay, what it was.
    """
    if time.time() >= until:
        return None
    start, wanted = time.monotonic(), _wanted(stop)
    _check_code(case)
    case.output.parent.mkdir(parents=True, exist_ok=True)
    with (
        files.full_disk_named(case.output, "the case runs again when there is room"),
        tempfile.TemporaryDirectory(prefix=f"{PARTIAL}{case.name}-", dir=case.output.parent) as name,
    ):
        folder = Path(name)
        env = {"OMP_NUM_THREADS": "1", **os.environ, **case.env, RUNS_USED: f"{folder / 'runs'}"}
        env |= {"OMP_NUM_THREADS": f"{threads}"} if threads else {}
        # a kernel that is this very interpreter, and figures that stay in the notebook
        env |= {"JUPYTER_PREFER_ENV_PATH": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        program = [sys.executable, "-c", "from anm_nb.execution import execute; execute()"]
        with (folder / "log").open("wb") as log:
            streams: Any = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log}
            # Standard input stays open as long as this process lives; a Ctrl-C in the terminal reaches this one alone.
            with subprocess.Popen(program, env=env, start_new_session=True, **streams) as process:
                assert process.stdin is not None
                process.stdin.write(pickle.dumps((case, folder)))
                process.stdin.flush()
                while process.poll() is None:
                    if not wanted():
                        raise CancelledError
                    time.sleep(0.05)
        if process.returncode == DISK_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{case.output}")
        _check_code(case)
        last = plain(_text(folder / "log")).strip().splitlines()[-1:]
        said = f"its process ended with status {process.returncode}, as happens where memory runs out; {last}"
        return keep(case, folder, said, time.monotonic() - start)


def _check_code(case: Case) -> None:
    if case.code is not None and case.code != code_digest(case.notebook):
        where = f"{case.notebook}, or the sources of anm_nb in {Path(__file__).parent} on {socket.gethostname()},"
        raise ParameterError(f"{where} changed while the sweep ran; {case.name} is not kept: start the sweep again")


def _wanted(stop: threading.Event | None) -> Callable[[], bool]:
    """Whether whoever asked for the case still waits for it: Dask itself lets a running task go on to its end."""
    if stop is not None:
        return lambda: not stop.is_set()
    from distributed import get_worker

    tasks, key = get_worker().state.tasks, get_worker().get_current_task()
    return lambda: key in tasks and tasks[key].state != "cancelled"


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


def keep(case: Case, folder: Path, said: str, seconds: float) -> Outcome:
    """Put the notebook that a case's process left in its folder into place, with how it ended, else what is `said`."""
    ended, notebook = {"error": said, "peak_mib": 0.0}, json.loads(case.notebook.read_text("utf-8"))
    with contextlib.suppress(ValueError):  # none, or half of one
        notebook = json.loads(_text(folder / "notebook.ipynb"))
    with contextlib.suppress(ValueError):
        ended = json.loads(_text(folder / "ended"))
    runs = sorted({key for key in _text(folder / "runs").split() if not key.startswith(KEPT)})
    noted: dict[str, Any] = {**ended, "seconds": seconds, "digest": case.digest, "runs": runs}
    sealed = noted | {"sha256": digest_of([notebook, noted])}
    (folder / "whole").write_text(json.dumps(notebook | {"metadata": notebook["metadata"] | {NOTED: sealed}}, indent=1))
    files.put_in_place(folder / "whole", case.output)
    return Outcome(case.name, **noted, verdicts=verdicts_in(notebook))


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.exists() else ""
