"""Cases run side by side, fail alone, and leave nothing half-written."""

import json
import resource
import signal
import subprocess
import sys

import nbformat
import pytest
from trivial_sweep import ended, wait_until, write_notebook

from anm_nb.sweep.cases import Case
from anm_nb.sweep.workers import run_cases

REPORT = """
import os, sys, json
block = bytearray(mib << 20)
names = ["OMP_NUM_THREADS", "MPLBACKEND"]
print(json.dumps({"mib": mib, "python": sys.executable, "cwd": os.getcwd()} | {k: os.environ.get(k) for k in names}))
"""
MIB = 400
FAIL = "raise ValueError('n is\\n\\x1b[31mtoo small')"
ENDLESS = """
import os, pathlib
pathlib.Path("pid").write_text(str(os.getpid()))
while True:
    pass
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Three cases, two at a time: one that reports its surroundings, one that fails, one whose notebook is missing."""
    folder = tmp_path_factory.mktemp("sweep")
    report = write_notebook(folder / "notebooks" / "01_report.ipynb", "mib = 1", REPORT)
    fails = write_notebook(folder / "notebooks" / "02_fails.ipynb", "n = 1", FAIL)
    other_kernel = folder / "kernels" / "python3" / "kernel.json"
    other_kernel.parent.mkdir(parents=True)
    other_kernel.write_text(json.dumps({"argv": ["/nonexistent"], "display_name": "x", "language": "python"}))
    out = folder / "out"
    write_notebook(out / "03_missing.ipynb", "old = True")
    cases = [
        Case(folder / "notebooks" / "03_missing.ipynb", out / "03_missing.ipynb"),
        Case(report, out / "01_report.ipynb", {"mib": MIB}),
        Case(fails, out / "02_fails.ipynb"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        patch.setenv("MPLBACKEND", "agg")
        patch.setattr("joblib.cpu_count", lambda: 6)
        outcomes = sorted(run_cases(cases, 2), key=lambda outcome: outcome.name)
    return out, outcomes


def test_a_failing_case_does_not_stop_the_others(ran):
    assert [(outcome.name, outcome.status) for outcome in ran[1]] == [
        ("01_report", "done"), ("02_fails", "failed"), ("03_missing", "failed"),
    ]  # fmt: skip


def test_a_case_runs_in_this_interpreter_beside_its_notebook_with_its_share_of_cores(ran):
    out = ran[0]
    cells = nbformat.read(out / "01_report.ipynb", as_version=4).cells
    report = json.loads(cells[-1].outputs[0].text)
    assert report == {
        "mib": MIB,
        "python": sys.executable,
        "cwd": str(out.parent / "notebooks"),
        "OMP_NUM_THREADS": "3",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }


def test_peak_memory_is_that_of_the_kernel(ran):
    report = ran[1][0]
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # which Linux counts for what a process starts
    assert MIB < report.peak_mib < max(MIB, own) + 200
    assert 0.5 < report.seconds < 120


def test_a_failure_is_told_in_the_words_of_the_failing_cell(ran):
    assert ran[1][1].error == "ValueError: n is\ntoo small"
    assert "03_missing.ipynb" in ran[1][2].error


def test_a_failing_notebook_is_kept_and_an_older_result_does_not_stand_for_a_run_that_left_none(ran):
    assert sorted(path.name for path in ran[0].iterdir()) == ["01_report.ipynb", "02_fails.ipynb"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupt_ends_the_kernel_and_leaves_nothing_half_written(tmp_path, jobs):
    notebook = write_notebook(tmp_path / "01_endless.ipynb", "n = 1", ENDLESS)
    out = tmp_path / "out"
    program = (
        "from pathlib import Path; from anm_nb.sweep.workers import Case, run_cases\n"
        f"list(run_cases([Case(Path({str(notebook)!r}), Path({str(out)!r}, 'a.ipynb'))], {jobs}))"
    )
    running = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    pid = tmp_path / "pid"
    wait_until(lambda: pid.exists() and pid.read_text(), 60)
    running.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in running.communicate(timeout=120)[1]
    assert list(out.iterdir()) == []
    wait_until(lambda: ended(int(pid.read_text())), 10)


def test_a_case_ends_with_the_program_that_runs_it_however_that_ended(tmp_path):
    notebook = write_notebook(tmp_path / "01_endless.ipynb", "n = 1", ENDLESS)
    program = (
        "from pathlib import Path; from anm_nb.sweep.workers import Case, run_cases\n"
        f"list(run_cases([Case(Path({str(notebook)!r}), Path({str(tmp_path)!r}, 'out', 'a.ipynb'))], 2))"
    )
    running = subprocess.Popen([sys.executable, "-c", program])
    pid = tmp_path / "pid"
    wait_until(lambda: pid.exists() and pid.read_text(), 60)
    running.kill()
    running.wait()
    wait_until(lambda: ended(int(pid.read_text())), 30)
    assert not (tmp_path / "out" / "a.ipynb").exists()


DEADLY = """
import os, psutil, signal
if deadly:
    os.kill(psutil.Process().parent().pid, signal.SIGKILL)
    while True:
        pass
"""


def test_where_the_process_of_a_case_is_killed_it_fails_and_the_others_run(tmp_path):
    notebook = write_notebook(tmp_path / "01_deadly.ipynb", "deadly = False", DEADLY)
    cases = [Case(notebook, tmp_path / f"deadly={deadly}.ipynb", {"deadly": deadly}) for deadly in (True, False)]
    died, ran_on = run_cases(cases, 1)
    assert (died.status, died.error) == ("failed", "its process was ended by SIGKILL, as happens where memory runs out")
    assert (ran_on.status, ran_on.error) == ("done", None)


SERVED = """
import os
with open(os.environ["ANM_NB_RUNS_USED"], "a") as used:
    used.write("bbbb\\n")
    used.write("aaaa\\n")
    used.write("bbbb\\n")
"""
SMALL = """
assert type(lr) is float and lr == 1e-05, lr
"""


def test_a_case_notes_the_runs_it_was_served_and_gets_its_values_as_they_are(tmp_path):
    notebook = write_notebook(tmp_path / "01_served.ipynb", "lr = 1.0", SMALL, SERVED)
    case = Case(notebook, tmp_path / "lr=1e-05.ipynb", {"lr": 0.00001}, digest="d")
    (outcome,) = run_cases([case], 1)
    assert (outcome.name, outcome.status, outcome.error) == ("lr=1e-05", "done", None)
    assert (outcome.runs, outcome.digest) == (("aaaa", "bbbb"), "d")


# what is stored is not believed unseen


def swap(trivial):
    one, two = (trivial.out / f"n={n}.ipynb" for n in (1, 2))
    texts = one.read_bytes(), two.read_bytes()
    one.write_bytes(texts[1]), two.write_bytes(texts[0])


def edit(path, old: str, new: str):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.parametrize(
    ("change", "again", "named"),
    [
        (lambda t: edit(t.out / "n=2.ipynb", '"refuted"', '"supported"'), [2], ["n=2.ipynb is not the notebook"]),
        (swap, [1, 2], ["n=1.ipynb is not the notebook", "n=2.ipynb is not the notebook"]),
        (lambda t: (t.out / "n=1.ipynb").write_text('{"cells": ['), [1], ["n=1.ipynb is not the notebook"]),
        (lambda t: edit(t.out / "outcomes.json", '"done"', '"bone"'), [1], ["outcomes.json: the entry of n=1 is"]),
        (lambda t: edit(t.out / "outcomes.json", '"failed"', '"done"'), [13], ["outcomes.json: the entry of n=13"]),
        (lambda t: edit(t.out / "outcomes.json", '"n=1"', '"n=2"'), [1], ["outcomes.json: the entry of n=2 is"]),
        (lambda t: (t.out / "outcomes.json").write_text("[{"), [1, 13, 2], ["outcomes.json cannot be read"]),
        (lambda t: (t.out / "outcomes.json").write_text("[1, null]"), [1, 13, 2], ["outcomes.json: the entry of"]),
    ],
)
def test_what_is_not_as_it_was_written_is_named_and_runs_again(trivial, fake, change, again, named):
    trivial.write(grid={"n": [1, 13, 2]})
    trivial.invoke()
    table, expected = (trivial.out / "table.parquet").read_bytes(), trivial.outcomes()
    fake.clear()
    change(trivial)
    dry = trivial.invoke("--dry-run")
    result = trivial.invoke()
    assert (result.exit_code, fake) == (1, again), result.output
    for said in named:
        assert f"{trivial.out}/{said}" in result.stderr
        assert said in dry.stderr
    assert (trivial.out / "table.parquet").read_bytes() == table
    assert trivial.outcomes() == expected
    assert "written" not in trivial.invoke().stderr
