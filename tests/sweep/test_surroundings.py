"""Sweeps as processes where things change or run out while they run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from trivial_sweep import write_notebook

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
    assert "n=1 is not kept" in ran.stderr
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
