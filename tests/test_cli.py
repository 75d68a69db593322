"""What a person types, and what they are told."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from typer.testing import CliRunner

from anm_nb import sweep
from anm_nb.cli import app


def write_notebook(path: Path, source: str) -> None:
    cells = [new_markdown_cell("# Does it work?"), new_code_cell("n = 1", metadata={"tags": ["parameters"]})]
    nbformat.write(new_notebook(cells=[*cells, new_code_cell(source)]), path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of two notebooks, the second of which fails."""
    (tmp_path / "notebooks").mkdir()
    write_notebook(tmp_path / "notebooks" / "00_fine.ipynb", "print('n is', n)")
    write_notebook(tmp_path / "notebooks" / "10_fails.ipynb", "raise ValueError('no luck')")
    write_notebook(tmp_path / "notebooks" / "draft.ipynb", "raise ValueError('not numbered')")
    monkeypatch.setattr("anm_nb.runs.project_root", lambda: tmp_path)
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path


def anm_nb(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_demo_runs_every_numbered_notebook_and_names_the_one_that_failed(project):
    params = project / "params" / "quick" / "00_fine.yaml"
    params.parent.mkdir(parents=True)
    params.write_text("n: 5\n")
    result = anm_nb("demo")
    out = project / "outputs" / "quick"
    assert result.exit_code == 1
    assert result.stderr == "anm-nb: 1 of 2 notebooks failed: 10_fails\n"
    assert "ValueError: no luck" in result.stdout
    assert f"Gallery: {out / 'index.html'}" in result.stdout
    assert "n is 5" in (out / "00_fine.ipynb").read_text()
    assert [row["status"] for row in json.loads((out / "outcomes.json").read_text())] == ["done", "failed"]
    assert "ValueError: no luck" in (out / "index.html").read_text(encoding="utf-8")


@pytest.fixture
def instant(monkeypatch):
    """Notebooks that all succeed at once."""

    def run_cases(cases, jobs, on_start, on_done):
        outcomes = [sweep.Outcome(case.name, "done", float(jobs), 64.0) for case in cases]
        for case, outcome in zip(cases, outcomes, strict=True):
            on_start(case)
            on_done(outcome)
        return outcomes

    monkeypatch.setattr(sweep, "run_cases", run_cases)


def test_demo_of_one_notebook_keeps_what_the_others_left(project, instant):
    out = project / "elsewhere"
    assert anm_nb("demo", "--out", str(out), "--jobs", "1").exit_code == 0
    assert anm_nb("demo", "--out", str(out), "--jobs", "7", "--only", "10_fails").exit_code == 0
    seconds = {outcome.name: outcome.seconds for outcome in sweep.read_outcomes(out)}
    assert seconds == {"00_fine": 1.0, "10_fails": 7.0}


def test_demo_of_all_forgets_notebooks_that_are_gone(project, instant):
    anm_nb("demo")
    (project / "notebooks" / "10_fails.ipynb").unlink()
    anm_nb("demo")
    assert [outcome.name for outcome in sweep.read_outcomes(project / "outputs" / "quick")] == ["00_fine"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "10_fial"], "unknown notebook '10_fial' (did you mean '10_fails'?); known: 00_fine, 10_fails"),
        (["--only", "draft"], "unknown notebook 'draft'"),
        (["--out", "{project}/notebooks"], "holds the notebooks themselves"),
        (["--jobs", "0"], "anm-nb: --jobs 0: at least 1"),
    ],
)
def test_demo_refuses_before_it_runs_anything(project, monkeypatch, arguments, said):
    monkeypatch.setattr(sweep, "run_cases", lambda *_: pytest.fail("ran"))
    result = anm_nb("demo", *(argument.format(project=project) for argument in arguments))
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_demo_without_notebooks_says_where_it_looked(project):
    for path in (project / "notebooks").iterdir():
        path.unlink()
    result = anm_nb("demo")
    assert result.exit_code == 2
    assert str(project / "notebooks") in result.stderr


def test_index_builds_the_page_anew_or_says_that_there_is_nothing(project):
    result = anm_nb("index", str(project / "notebooks"))
    assert (result.exit_code, Path(result.stdout.strip()).name) == (0, "index.html")
    result = anm_nb("index", str(project / "nowhere"))
    assert (result.exit_code, result.stderr) == (2, f"anm-nb: no executed notebooks in {project / 'nowhere'}\n")


@pytest.mark.parametrize("module", ["anm_nb", "anm_nb.cli"])
def test_importing_loads_nothing_heavy(module):
    heavy = "{'torch', 'matplotlib', 'pandas', 'numpy', 'nbformat', 'nbconvert', 'joblib', 'pydantic', 'jinja2'}"
    program = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["10_anm_vs_corrupton"], "(did you mean '10_anm_vs_corruption'?)"),
        (["10_anm_vs_corruption", "--profile", "medium"], "unknown profile 'medium'"),
        (["02_kendall_forensics", "--run", "publishd"], "unknown run 'publishd' (did you mean 'published'?)"),
    ],
)
def test_reference_refuses_what_it_cannot_keep(arguments, message):
    refused = CliRunner().invoke(app, ["reference", *arguments])
    assert refused.exit_code == 2
    assert message in refused.output
