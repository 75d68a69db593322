"""Commands and their messages, with and without a clone."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from trivial_sweep import write_notebook
from typer.testing import CliRunner

from anm_nb.cli import app
from anm_nb.files import project_root
from anm_nb.store import scan


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of two notebooks, the second of which fails."""
    write_notebook(tmp_path / "notebooks" / "00_fine.ipynb", "n = 1", "print('n is', n)")
    write_notebook(tmp_path / "notebooks" / "10_fails.ipynb", "n = 1", "raise ValueError('no luck')")
    write_notebook(tmp_path / "notebooks" / "draft.ipynb", "raise ValueError('not numbered')")
    (tmp_path / "params" / "quick").mkdir(parents=True)
    (tmp_path / "params" / "quick" / "00_fine.yaml").write_text("n: 5\n")
    monkeypatch.setattr("anm_nb.files.project_root", lambda: tmp_path)
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path


def anm_nb(*arguments: object):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_demo_runs_every_numbered_notebook_and_names_the_failed_one_and_only_keeps_the_others(project):
    result = anm_nb("demo")
    out = project / "outputs" / "quick"
    assert (result.exit_code, result.stderr) == (1, "anm-nb: 1 of 2 cases failed: 10_fails\n")
    assert "ValueError: no luck" in result.stdout
    assert f"Gallery: {out / 'index.html'}" in result.stdout
    assert "n is 5" in (out / "00_fine.ipynb").read_text()
    assert "ValueError: no luck" in (out / "index.html").read_text(encoding="utf-8")
    before = (out / "00_fine.ipynb").stat().st_mtime_ns
    write_notebook(project / "notebooks" / "10_fails.ipynb", "print('now')")
    assert anm_nb("demo", "--only", "10").exit_code == 0
    assert (out / "00_fine.ipynb").stat().st_mtime_ns == before
    assert "no luck" not in (out / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "10_fial"], "unknown notebook '10_fial' (did you mean '10_fails'?); known: 00_fine, 10_fails"),
        (["--out", "{project}/notebooks"], "holds the notebooks themselves"),
    ],
)
def test_demo_refuses_before_it_runs_anything(project, monkeypatch, arguments, said):
    monkeypatch.setattr("anm_nb.sweep.run_case", lambda *_: pytest.fail("ran"))
    result = anm_nb("demo", *(argument.format(project=project) for argument in arguments))
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_importing_loads_nothing_heavy():
    heavy = "{'torch', 'matplotlib', 'pandas', 'numpy', 'nbformat', 'nbconvert', 'joblib', 'jinja2'}"
    program = f"import sys, anm_nb.cli; print(*sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_the_doctor_says_what_it_found_and_what_it_could_not_examine(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    shutil.copytree(project_root() / "outputs" / "reference" / "models", tmp_path / "runs")
    (run,) = [run for run in scan()[0] if run.summary["method"] == "anm_orthogonal"]
    said = anm_nb("doctor", run.key[:6]).stdout
    assert said.startswith(f"run {run.key}: energy, inverse, anm_orthogonal, 1 seeds, 2000 steps\n\n")
    assert re.search(r"(healthy|\d+ found): \d+ signatures examined, \d+ could not be \(missing columns ", said)
    refused = anm_nb("doctor", tmp_path / "runs" / "nowhere")
    assert (refused.exit_code, refused.stdout, "unknown run 'nowhere'" in refused.stderr) == (2, "", True)


def test_an_installed_copy_says_that_it_needs_a_clone(tmp_path):
    shutil.copytree(project_root() / "anm_nb", tmp_path / "site" / "anm_nb")
    environment = {name: value for name, value in os.environ.items() if name != "ANM_NB_OUTPUTS"}
    options = {"env": environment | {"PYTHONPATH": str(tmp_path / "site")}, "capture_output": True, "text": True}
    program = [sys.executable, "-P", "-m", "anm_nb.cli"]
    ran = subprocess.run([*program, "sweep", "hrm"], cwd=tmp_path, check=False, **options)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    for said in ("notebooks, params and kept results", "Clone it", "pip install -e .", str(tmp_path)):
        assert said in ran.stderr
