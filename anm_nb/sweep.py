"""Run notebooks in batch: a list of cases, each through papermill in a process of its own, several at a time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

OUTCOMES_FILE = "outcomes.json"
POLL_SECONDS = 0.05
STOP_SECONDS = 5.0  # how long an interrupted notebook may take to close its kernel before it is killed
ERROR_LINES = 4  # of a failure's message that are kept
ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Case:
    """One notebook to run: where it is, where its executed copy goes, and the parameters it is given.

    `parameters` is a YAML file, a mapping from names to values, or None for the notebook's own defaults.
    """

    notebook: Path
    output: Path
    parameters: Path | Mapping[str, object] | None = None

    @property
    def name(self) -> str:
        """What outcomes and messages call the case: the output's name without its ending."""
        return self.output.stem

    @property
    def partial(self) -> Path:
        """Where the executed copy grows until it is finished."""
        return self.output.with_name(f".{self.output.stem}.partial.ipynb")


@dataclass(frozen=True)
class Outcome:
    """How a case ended: wall-clock seconds with the kernel's start, peak resident memory in MiB, and why it failed.

    The peak is that of the largest process of the case; Linux counts it from the size of the process that starts one,
    so it is never less than the memory of whoever called `run_cases`.
    """

    name: str
    status: Literal["done", "failed"]
    seconds: float
    peak_mib: float
    error: str | None = None


class Interrupted(Exception):
    """A case did not run to its end because the whole list is being stopped."""


def run_cases(
    cases: Sequence[Case],
    jobs: int,
    on_start: Callable[[Case], None] | None = None,
    on_done: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Run every case, `jobs` at a time, sharing out the cores; a failing one does not stop the others.

    `on_start` is called from the thread that runs the case, `on_done` from the caller's, as cases finish. Returns the
    outcomes in the order of the cases. An interrupt ends what runs and leaves no half-written notebook behind.
    """
    from joblib import Parallel, cpu_count, delayed  # a third of a second, so not at import

    stopping, slots = threading.Event(), threading.Semaphore(jobs)

    def run(case: Case) -> Outcome:
        with slots:
            if on_start and not stopping.is_set():
                on_start(case)
            return _run_case(case, env, stopping)

    with tempfile.TemporaryDirectory(prefix="anm-nb-") as kernels:
        env = _environment(Path(kernels), threads=max(1, cpu_count() // jobs))
        parallel = Parallel(n_jobs=jobs, backend="threading", return_as="generator_unordered", batch_size=1)
        outcomes = {}
        try:
            for outcome in parallel(delayed(run)(case) for case in cases):
                outcomes[outcome.name] = outcome
                if on_done:
                    on_done(outcome)
        except BaseException:
            stopping.set()
            for _ in range(jobs):  # every running case gives its slot back once its processes are gone
                slots.acquire()
            raise
    return [outcomes[case.name] for case in cases]


def write_outcomes(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write the outcomes, by name, as a table beside the executed notebooks, in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{OUTCOMES_FILE}.partial"
    rows = [asdict(outcome) for outcome in sorted(outcomes, key=lambda outcome: outcome.name)]
    partial.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, folder / OUTCOMES_FILE)


def read_outcomes(folder: Path) -> list[Outcome]:
    """The outcomes stored in a folder of executed notebooks; none where no run has finished there yet."""
    path = folder / OUTCOMES_FILE
    if not path.exists():
        return []
    return [Outcome(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def _run_case(case: Case, env: Mapping[str, str], stopping: threading.Event) -> Outcome:
    case.output.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with tempfile.TemporaryFile() as log:
        try:
            exit_status, peak_mib = _run_process(_papermill(case), env, log.fileno(), stopping)
            if case.partial.exists():
                os.replace(case.partial, case.output)
            else:  # papermill failed before its first cell: an older result must not stand for this run
                case.output.unlink(missing_ok=True)
        finally:
            case.partial.unlink(missing_ok=True)
        seconds = time.monotonic() - start
        if exit_status == 0:
            return Outcome(case.name, "done", seconds, peak_mib)
        log.seek(0)
        message = _error_in_notebook(case.output) or _last_line(log.read().decode(errors="replace"))
    return Outcome(case.name, "failed", seconds, peak_mib, message or f"papermill ended with status {exit_status}")


def _papermill(case: Case) -> list[str]:
    command = [sys.executable, "-m", "papermill", str(case.notebook.resolve()), str(case.partial.resolve())]
    command += ["--kernel", "python3", "--language", "python", "--no-progress-bar"]
    command += ["--cwd", str(case.notebook.resolve().parent)]
    if isinstance(case.parameters, Path):
        command += ["--parameters_file", str(case.parameters.resolve())]
    elif case.parameters:
        command += ["--parameters_yaml", json.dumps(dict(case.parameters))]  # JSON is YAML
    return command


def _run_process(
    command: Sequence[str], env: Mapping[str, str], log: int, stopping: threading.Event
) -> tuple[int, float]:
    """Run to the end; return the exit status and the peak memory, in MiB, of the process or a descendant of it."""
    if stopping.is_set():
        raise Interrupted
    process = subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a Ctrl-C reaches this program alone, which then ends its processes in order
    )
    try:
        while not stopping.wait(POLL_SECONDS):
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)  # unlike Popen.wait, it reports the memory
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return process.returncode, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        raise Interrupted
    finally:
        if process.returncode is None:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment(kernels: Path, threads: int) -> dict[str, str]:
    """The environment of a case: a share of the cores, and a kernel that is this very interpreter."""
    env = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        env[name] = str(threads)
    env.pop("MPLBACKEND", None)  # a backend chosen for scripts would keep figures out of the notebook
    # JUPYTER_PATH comes before every kernel that a user or a system may have installed under the same name.
    spec = kernels / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": launch, "display_name": "Python 3", "language": "python"}))
    env["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(kernels), env.get("JUPYTER_PATH")]))
    return env


def _error_in_notebook(path: Path) -> str | None:
    """What the failing cell of an executed notebook says, as `Name: message`."""
    if not path.exists():
        return None
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                lines = ANSI_COLOUR.sub("", f"{output['ename']}: {output['evalue']}").strip().splitlines()
                return "\n".join(lines[:ERROR_LINES])
    return None


def _last_line(log: str) -> str:
    lines = [line for line in ANSI_COLOUR.sub("", log).splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
