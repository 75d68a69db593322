"""Measure the overhead of a sweep beyond its notebooks, and the speed-up by a second job.

Overhead: the wall time of a sweep of trivial cases, one at a time, minus papermill's own durations of the kernels in
the same run; for comparison, the time of some cases as `papermill` commands. Speed-up: equal cases that keep one core
busy for a while, with one job and with two.

    python benchmarks/sweep_overhead.py [--cases 200] [--equal 8] [--seconds 10]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from anm_nb.cases import Case
from anm_nb.sweep import outcomes_of

PARAMETERS = "n = 0\nseconds = 0.0"
WORK = """
import time
stop = time.process_time() + seconds
while time.process_time() < stop:
    pass
"""
PLAIN = 20  # number of papermill commands


def main() -> None:
    """Measure and print, without judging."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200, help="trivial cases")
    parser.add_argument("--equal", type=int, default=8, help="equal cases")
    parser.add_argument("--seconds", type=float, default=10.0, help="of work on one core for each equal case")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        notebook = Path(folder, "work.ipynb")
        cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(WORK)]
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(new_notebook(cells=cells, metadata=metadata), notebook)
        overhead(notebook, args.cases)
        speed_up(notebook, args.equal, args.seconds)


def overhead(notebook: Path, count: int) -> None:
    """Print seconds per case: of the sweep, by papermill's own durations, and of plain papermill commands."""
    cases = [Case(notebook, notebook.parent / "swept" / f"n={n}.ipynb", {"n": n}) for n in range(count)]
    swept = seconds_of(lambda: sweep(cases, jobs=1))
    executed = (json.loads(case.output.read_text("utf-8"))["metadata"]["papermill"]["duration"] for case in cases)
    kernel = sum(executed)
    few = cases[:PLAIN]
    plain = seconds_of(lambda: [papermill(case) for case in few])
    print(f"{count} trivial cases, seconds per case: sweep {swept / count:.3f}, ", end="")
    print(f"between the kernel's start and end {kernel / count:.3f}, a papermill command {plain / len(few):.3f}")
    print(f"sweep beyond the kernel: {1000 * (swept - kernel) / count:.0f} ms per case, {swept / kernel - 1:.1%}")


def speed_up(notebook: Path, count: int, seconds: float) -> None:
    """Print the wall time of equal cases with one job and with two."""
    times = {}
    for jobs in (1, 2):
        folder = notebook.parent / f"jobs-{jobs}"
        cases = [Case(notebook, folder / f"n={n}.ipynb", {"n": n, "seconds": seconds}) for n in range(count)]
        times[jobs] = seconds_of(lambda cases=cases, jobs=jobs: sweep(cases, jobs))
    print(f"{count} equal cases of {seconds:g} s: 1 job {times[1]:.1f} s, 2 jobs {times[2]:.1f} s, ", end="")
    print(f"{times[1] / times[2]:.2f} times as fast")


def sweep(cases: list[Case], jobs: int) -> None:
    """Run the cases as `anm-nb sweep` does."""
    for outcome in outcomes_of(cases, jobs):
        if outcome.error:
            sys.exit(outcome.error)


def papermill(case: Case) -> None:
    """Run a case as a person would."""
    output = case.output.parent.parent / "plain.ipynb"
    command = [sys.executable, "-m", "papermill", str(case.notebook), str(output), "--no-progress-bar"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "-p", "n", str(case.parameters["n"])], env=env, check=True, capture_output=True)


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
