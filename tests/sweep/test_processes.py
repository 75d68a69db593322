"""Sweeps as processes that are interrupted or killed, or where things change or run out while they run."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from trivial_sweep import ended, wait_until, write_notebook

ROOT = Path(__file__).resolve().parents[2]
EDITS_ITSELF = """
import pathlib
path = pathlib.Path("square.ipynb")
path.write_text(path.read_text().replace("import pathlib", "import  pathlib"))
"""
EDITS_SOURCES = """
import pathlib, anm_nb
with (pathlib.Path(anm_nb.__file__).parent / "tasks" / "base.py").open("a") as file:
    file.write("# edited\\n")
"""


def test_ctrl_c_keeps_what_is_finished_ends_the_rest_and_says_so(trivial):
    trivial.write(base={"pause": 0.0}, cases=[{"n": 1}, {"n": 13}, {"n": 2, "pause": 600.0}, {"n": 3}])
    running = trivial.start("--jobs", "1")
    kernel = trivial.wait_for_kernel(2)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=60)[0]
    assert running.returncode == 130, said
    assert "anm-nb: stopped: 1 done, 1 failed, 2 not finished; the same command goes on from there" in said
    assert "Traceback" not in said
    assert trivial.half_written() == []
    assert {name: row["status"] for name, row in trivial.outcomes().items()} == {
        "n=1,pause=0": "done", "n=13,pause=0": "failed",
    }  # fmt: skip
    assert sorted(path.name for path in trivial.out.glob("*.ipynb")) == ["n=1,pause=0.ipynb", "n=13,pause=0.ipynb"]
    wait_until(lambda: ended(kernel), 10)


@pytest.mark.slow
def test_a_sweep_killed_at_random_moments_ends_as_if_it_never_was(trivial):
    """Ten SIGKILLs, a restart after each: the same table to the byte, and no case that was recorded ran again."""
    trivial.write(base={"pause": 0.2}, grid={"n": [1, 2, 3, 4, 5, 13], "x": [0.25]})
    code, said = trivial.run("--jobs", "2")
    assert code == 1, said
    expected = (trivial.out / "table.parquet").read_bytes()
    statuses = {name: row["status"] for name, row in trivial.outcomes().items()}
    cells = {name: executed(trivial.out / f"{name}.ipynb") for name in statuses}
    (trivial.folder / "ran").unlink()
    trivial.out = trivial.folder / "killed"
    chance, kills = random.Random(0), 0
    while True:
        recorded, ran = set(trivial.outcomes()), len(trivial.ran())
        running = trivial.start("--jobs", "2")
        if kills < 10:
            kill_at_random(trivial, running, chance)
            kills += 1
        said = running.communicate(timeout=600)[0]
        again = [n for n in trivial.ran()[ran:] if f"n={n}" in recorded]
        assert not again, (kills, said)
        assert recorded <= set(trivial.outcomes())
        for path in trivial.out.glob("*.ipynb"):  # whatever has its name is whole
            assert executed(path) == cells[path.stem]
        if running.returncode == 1:
            break
        assert running.returncode == -signal.SIGKILL, said
    assert kills == 10
    assert {name: row["status"] for name, row in trivial.outcomes().items()} == statuses
    assert (trivial.out / "table.parquet").read_bytes() == expected
    assert trivial.half_written() == []


def kill_at_random(trivial, running, chance: random.Random) -> None:
    """Some time after the sweep has started on its folder; soon enough that ten of them do not see it through."""
    wait_until(lambda: trivial.out.exists() or running.poll() is not None, 120)
    time.sleep(chance.uniform(0, 2.5))
    running.kill()


def executed(path) -> list:
    """Sources and outputs of a notebook, which has to be valid and whole."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    failed = any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert failed or all(cell.execution_count for cell in code)
    return [(cell.source, [output.get("data") for output in cell.outputs]) for cell in code]


def command(trivial, *arguments: str, package: Path = ROOT, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """The sweep by a package that lies somewhere, from somewhere."""
    paths = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": paths, "ANM_NB_OUTPUTS": str(trivial.folder / "outputs")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "anm_nb.cli", "sweep", str(trivial.folder / "trivial.yaml"), *arguments],
        cwd=cwd or trivial.folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("edits", ["the notebook", "the package"])
def test_what_ran_while_its_code_was_edited_is_not_kept(trivial, edits):
    package = trivial.folder / "site"
    shutil.copytree(ROOT / "anm_nb", package / "anm_nb", ignore=shutil.ignore_patterns("__pycache__"))
    write_notebook(trivial.notebook, "n = 1", EDITS_ITSELF if edits == "the notebook" else EDITS_SOURCES)
    trivial.write(grid={"n": [1, 2]})
    ran = command(trivial, "--out", str(trivial.out), "--jobs", "1", package=package)
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert f"{trivial.notebook}, or the sources of anm_nb, changed while the sweep ran" in ran.stderr
    assert re.search("n=[12] is not kept", ran.stderr)  # whichever is seen first
    assert "Traceback" not in ran.stderr
    assert trivial.outcomes() == {}
    assert list(trivial.out.glob("*.ipynb")) == []


@pytest.mark.parametrize("out", ["results", "../here/results", "."])
def test_results_go_to_a_folder_given_relative_to_where_one_is(trivial, out):
    here = trivial.folder / "here"
    here.mkdir()
    trivial.write(grid={"n": [1, 2]})
    ran = command(trivial, "--out", out, cwd=here)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    trivial.out = here / out
    assert sorted(trivial.outcomes()) == ["n=1", "n=2"]
    assert trivial.half_written() == []


DISK = """
mount -t tmpfs -o size={size}k tmpfs "$OUT" || exit 99
"$@"
status=$?
echo "left: $(ls -A "$OUT" | tr "\\n" " ")"
cat "$OUT"/outcomes.json
for notebook in "$OUT"/*.ipynb; do
    [ ! -e "$notebook" ] || {python} -c "import json, sys; json.load(open(sys.argv[1]))" "$notebook" || exit 98
done
exit $status
"""


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    ran = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False)
    return ran.returncode == 0


@pytest.mark.skipif(not can_mount(), reason="no disk of a given size can be had here")
@pytest.mark.parametrize("size", [400, 700])
def test_a_disk_that_runs_full_in_a_case_is_named_and_no_half_notebook_is_left(trivial, size):
    """The first case fits; the second prints more than there is room for."""
    write_notebook(trivial.notebook, "n = 1", "import os\nprint(os.urandom(n).hex())")
    trivial.write(cases=[{"n": 1000}, {"n": 400_000}])
    trivial.out.mkdir()
    script = DISK.format(size=size, python=sys.executable)
    sweep = [sys.executable, "-m", "anm_nb.cli", "sweep", str(trivial.folder / "trivial.yaml"), "--jobs", "1"]
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *sweep, "--out", str(trivial.out)],
        cwd=ROOT, env=os.environ | {"OUT": str(trivial.out), "ANM_NB_OUTPUTS": str(trivial.folder / "outputs")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "o space left on" in ran.stderr
    assert str(trivial.out) in ran.stderr
    assert "1 done, 1 not finished, which are kept; the same command goes on from there" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "JSONDecodeError" not in ran.stderr + ran.stdout
    assert '"name": "n=1000"' in ran.stdout
    assert "n=400000.ipynb" not in ran.stdout.split("left: ")[1]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "ascii:strict"])
def test_a_terminal_that_lacks_a_verdict_s_characters_gets_its_sweep_and_table(trivial, monkeypatch, encoding):
    trivial.write(grid={"n": [1]})  # its claim has a middle dot
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    code, said = trivial.run()
    assert code == 0, said
    assert (trivial.out / "table.parquet").exists()
