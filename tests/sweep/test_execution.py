"""Cases as processes: they fail independently, end with their parent, and leave nothing half-written."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from trivial_sweep import ended, wait_until, write_notebook

from anm_nb.cases import Case, outcome_in
from anm_nb.sweep import outcomes_of

ROOT = Path(__file__).resolve().parents[2]
REPORT = """
import os, sys, json
assert type(lr) is float and lr == 1e-05, lr
with open(os.environ["ANM_NB_RUNS_USED"], "a") as used:
    used.write("bbbb\\nkept:x\\naaaa\\nbbbb\\n")
names = ["OMP_NUM_THREADS", "MPLBACKEND"]
print(json.dumps({"python": sys.executable, "cwd": os.getcwd()} | {name: os.environ.get(name) for name in names}))
"""
FAIL = "raise ValueError('n is\\n\\x1b[31mtoo small')"
DEADLY = """
import os, signal
os.kill(os.getppid(), signal.SIGKILL)
while True:
    pass
"""


def test_cases_run_independently_in_this_interpreter_and_in_the_folder_of_their_notebook(tmp_path, monkeypatch):
    """Two at a time: one reports its environment, one fails, one kills the process that runs it."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr("joblib.cpu_count", lambda: 6)
    out, cases = tmp_path / "out", []
    for name, source, given in (("n=0.1", DEADLY, {}), ("lr=1e-05", REPORT, {"lr": 0.00001}), ("fails", FAIL, {})):
        notebook = write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", "lr = 1.0", source)
        cases.append(Case(notebook, out / f"{name}.ipynb", given))
    outcomes = {outcome.name: outcome for outcome in outcomes_of(cases, 2)}
    report = outcomes["lr=1e-05"]
    assert (report.error, report.runs) == (None, ["aaaa", "bbbb"])
    assert outcomes["fails"].error == "ValueError: n is\ntoo small"
    assert "ended with status -9, possibly because memory ran out" in outcomes["n=0.1"].error
    assert {case.name: outcome_in(case) for case in cases} == outcomes
    assert sorted(path.name for path in out.iterdir()) == ["fails.ipynb", "lr=1e-05.ipynb", "n=0.1.ipynb"]
    cells = nbformat.read(out / "lr=1e-05.ipynb", as_version=4).cells
    assert json.loads(cells[-1].outputs[0].text) == {
        "python": sys.executable,
        "cwd": str(tmp_path / "notebooks"),
        "OMP_NUM_THREADS": "3",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }


def test_ctrl_c_keeps_finished_cases_a_kill_leaves_no_process_and_the_same_command_continues(trivial):
    trivial.write(cases=[{"n": 13}, {"n": 2, "pause": 600.0}])
    running = trivial.start("--jobs", "1")
    kernel = trivial.wait_for_kernel(2)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=60)[0]
    assert running.returncode == 130, said
    assert "anm-nb: stopped: 1 failed, 1 not finished; run the same command again to continue" in said
    assert "Traceback" not in said
    wait_until(lambda: ended(kernel), 10)
    assert trivial.half_written() == []
    assert sorted(trivial.outcomes()) == ["n=13"]

    (trivial.folder / "pid-2").unlink()
    running = trivial.start()
    kernel = trivial.wait_for_kernel(2)
    running.kill()
    running.wait()
    wait_until(lambda: ended(kernel), 30)
    assert trivial.half_written() != []
    assert trivial.ran() == [13, 2, 2]
    code, said = trivial.run("--budget", "0.001")
    assert (code, trivial.half_written()) == (75, []), said
    assert "out of time: 1 failed, 1 not finished" in said


@pytest.mark.slow
def test_a_sweep_killed_at_random_moments_ends_as_if_never_killed(trivial):
    """Ten SIGKILLs with a restart after each: the table has the same bytes, and no recorded case ran again."""
    trivial.write(base={"pause": 0.2, "x": 0.25}, grid={"n": [1, 2, 3, 4, 5, 13]})
    code, said = trivial.run("--jobs", "2")
    assert code == 1, said
    expected = (trivial.out / "table.parquet").read_bytes()
    cells = {name: executed(trivial.out / f"{name}.ipynb") for name in trivial.outcomes()}
    (trivial.folder / "ran").unlink()
    trivial.out = trivial.folder / "killed"
    chance, kills = random.Random(0), 0
    while True:
        recorded, ran = set(trivial.outcomes()), len(trivial.ran())
        running = trivial.start("--jobs", "2")
        if kills < 10:  # soon enough after the start that the sweep does not finish before the tenth
            wait_until(lambda running=running: trivial.out.exists() or running.poll() is not None, 120)
            time.sleep(chance.uniform(0, 2.5))
            running.kill()
            kills += 1
        said = running.communicate(timeout=600)[0]
        assert not [n for n in trivial.ran()[ran:] if f"n={n}" in recorded], (kills, said)
        assert recorded <= set(trivial.outcomes())
        for path in trivial.out.glob("*.ipynb"):  # every notebook in place is complete
            assert executed(path) == cells[path.stem]
        if running.returncode == 1:
            break
        assert running.returncode == -signal.SIGKILL, said
    assert kills == 10
    assert (trivial.out / "table.parquet").read_bytes() == expected
    assert trivial.half_written() == []


def executed(path) -> list:
    """Sources and outputs of a notebook, after a check that it is valid and complete."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code[:2])
    return [(cell.source, [output.get("data") for output in cell.outputs]) for cell in code]


DISK = """
mount -t tmpfs -o size=400k tmpfs "$OUT" || exit 99
"$@"
status=$?
ls -A "$OUT"
exit $status
"""


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    ran = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False)
    return ran.returncode == 0


@pytest.mark.skipif(not can_mount(), reason="no disk of a given size can be had here")
def test_a_disk_that_fills_up_in_a_case_is_named_and_no_half_notebook_is_left(trivial):
    """The first case fits; the second prints more than fits on the disk."""
    write_notebook(trivial.notebook, "n = 1", "import os\nprint(os.urandom(n).hex())")
    trivial.write(cases=[{"n": 1000}, {"n": 400_000}])
    trivial.out.mkdir()
    sweep = [sys.executable, "-m", "anm_nb.cli", "sweep", str(trivial.folder / "trivial.yaml"), "--jobs", "1"]
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-c", DISK, "sh", *sweep, "--out", str(trivial.out)],
        cwd=ROOT, env=os.environ | {"OUT": str(trivial.out), "ANM_NB_OUTPUTS": str(trivial.folder / "outputs")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert f"No space left on device: '{trivial.out}" in ran.stderr
    assert "1 done, 1 not finished; finished cases are kept, run the same command again to continue" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout.split()[-2:] == [".sweep.lock", "n=1000.ipynb"]
