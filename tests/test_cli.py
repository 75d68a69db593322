"""What a person types, and what they are told."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from stored_files import write_manifest
from typer.testing import CliRunner

from anm_nb.cli import app
from anm_nb.energy.train import EnergyConfig
from anm_nb.sweep.outcomes import Outcome, read_outcomes


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
    monkeypatch.setattr("anm_nb.files.project_root", lambda: tmp_path)
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

    def run_cases(cases, jobs, *_):
        yield from (Outcome(case.name, "done", float(jobs), 64.0) for case in cases)

    monkeypatch.setattr("anm_nb.sweep.workers.run_cases", run_cases)


def test_demo_of_one_notebook_keeps_what_the_others_left(project, instant):
    out = project / "elsewhere"
    assert anm_nb("demo", "--out", str(out), "--jobs", "1").exit_code == 0
    assert anm_nb("demo", "--out", str(out), "--jobs", "7", "--only", "10_fails").exit_code == 0
    seconds = {outcome.name: outcome.seconds for outcome in read_outcomes(out)[0]}
    assert seconds == {"00_fine": 1.0, "10_fails": 7.0}


def test_demo_of_all_forgets_notebooks_that_are_gone(project, instant):
    anm_nb("demo")
    (project / "notebooks" / "10_fails.ipynb").unlink()
    anm_nb("demo")
    assert [outcome.name for outcome in read_outcomes(project / "outputs" / "quick")[0]] == ["00_fine"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "10_fial"], "unknown notebook '10_fial' (did you mean '10_fails'?); known: 00_fine, 10_fails"),
        (["--only", "draft"], "unknown notebook 'draft'"),
        (["--out", "{project}/notebooks"], "holds the notebooks themselves"),
        (["--jobs", "0"], "'--jobs'"),
    ],
)
def test_demo_refuses_before_it_runs_anything(project, monkeypatch, arguments, said):
    monkeypatch.setattr("anm_nb.sweep.workers.run_cases", lambda *_: pytest.fail("ran"))
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
    (project / "notebooks" / "outcomes.json").write_text("[{")
    result = anm_nb("index", str(project / "notebooks"))
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert f"{project / 'notebooks' / 'outcomes.json'} cannot be read" in result.stderr


@pytest.mark.parametrize("module", ["anm_nb", "anm_nb.cli"])
def test_importing_loads_nothing_heavy(module):
    heavy = "{'torch', 'matplotlib', 'pandas', 'numpy', 'nbformat', 'nbconvert', 'joblib', 'pydantic', 'jinja2'}"
    program = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


# the doctor

SMALL = {"size": 2, "width": 8, "batch": 8, "steps": 20, "records": 3, "dev_examples": 4, "seeds": [0]}
ILL = {"illegitimate_fraction": 0.9, "grad_share_contrast": 0.4, "margin_mean": 0.1}


def store_run(root: Path, key: str, config: EnergyConfig, columns: dict[str, float]) -> None:
    """A finished run as the store keeps it, with the same metrics at every step."""
    folder = root / "runs" / key
    folder.mkdir(parents=True)
    settings = {"class": "anm_nb.energy.train:EnergyConfig", "config": config.model_dump(mode="json")}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "provenance.json").write_text("{}")
    pd.DataFrame({"seed": 0, "step": range(21)}).assign(**columns).to_parquet(folder / "metrics.parquet")
    write_manifest(folder, task=config.task, method=config.method)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Three runs: ill, healthy, and without negatives."""
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    configs = [EnergyConfig(**SMALL, negatives=name, contrastive_weight=0.5) for name in ("anm", "stock", "none")]
    columns = [ILL, ILL | {"illegitimate_fraction": 0.0}, {"loss_mse": 0.5}]
    for key, config, values in zip(("aaaa", "aabb", "cccc"), configs, columns, strict=True):
        store_run(tmp_path, key, config, values)
    return tmp_path


def test_the_page_of_results_is_what_answer_cells_show(project):
    refused = anm_nb("index")
    assert (refused.exit_code, "shows an answer: a code cell tagged 'answer'" in refused.stderr) == (2, True)
    shown = [
        {"image/png": base64.b64encode(b"png").decode(), "text/plain": "x"},
        {"text/markdown": "**Better** by 21 % [16, 27].", "text/plain": "x"},
        {"text/html": "<table><tr><td>1</td></tr></table><script>x</script>", "text/plain": "x"},
    ]
    answer = new_code_cell("answer()", outputs=[new_output("display_data", data) for data in shown])
    answer.metadata["tags"] = ["answer", "gallery"]
    other = new_code_cell("x", outputs=[new_output("display_data", {"text/markdown": "not the answer"})])
    notebook = new_notebook(cells=[new_markdown_cell("# Does *it* help?"), answer, other])
    nbformat.write(notebook, project / "notebooks" / "10_fails.ipynb")
    page = project / "docs" / "results.md"
    (project / "docs" / "results").mkdir(parents=True)
    (project / "docs" / "results" / "gone.png").touch()
    result = anm_nb("index")
    assert (result.exit_code, result.stdout) == (0, f"{page}\n")
    text = page.read_text(encoding="utf-8")
    parts = ["### [Does it help?](../notebooks/10_fails.ipynb)", shown[1]["text/markdown"]]
    parts += ["<table><tbody><tr><td>1</td></tr></tbody></table>", "![Does it help?](results/10_fails.png)"]
    assert [text.find(part) for part in parts] == sorted(text.find(part) for part in parts)
    assert -1 not in [text.find(part) for part in parts]
    assert not re.search("00_fine|not the answer|script", text)
    assert {path.name: path.read_bytes() for path in (page.parent / "results").iterdir()} == {"10_fails.png": b"png"}
    assert anm_nb("index").exit_code == 0
    assert page.read_text(encoding="utf-8") == text


def flowing(text: str) -> str:
    return " ".join(text.split())


def test_the_doctor_says_what_it_found_with_its_evidence_and_what_to_change(store):
    result = anm_nb("doctor", "aaaa")
    assert result.exit_code == 0, result.output
    said = flowing(result.stdout)
    assert "run aaaa: energy, inverse, anm, 1 seed, 20 steps" in said
    assert "mostly illegitimate negatives" in said
    assert "confidence high" in said
    assert "illegitimate_fraction 0.90" in said
    assert "change negatives.orthogonal_to_noise = True" in said
    assert "1 found: 4 signatures examined, 11 could not be (missing columns" in said
    assert not list(store.glob("*.yaml"))


def test_the_doctor_tells_healthy_from_not_judged(store):
    assert "healthy: 4 signatures examined, 11 could not be (missing columns" in flowing(anm_nb("doctor", "aab").stdout)
    result = anm_nb("doctor", str(store / "runs" / "cccc"))
    assert result.exit_code == 0
    assert "not judged: none of 15 signatures could be examined" in flowing(result.stdout)
    assert "healthy" not in result.stdout


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("aa", "'aa' begins 2 keys: aaaa (energy, inverse, anm), aabb (energy, inverse, stock)"),
        ("aacb", "unknown run 'aacb' in {store}/runs (3 runs); nearest: aabb (energy, inverse, stock), aaaa"),
        ("", "unknown run ''"),
        ("{store}/runs/nowhere", "unknown run 'nowhere'"),
    ],
)
def test_the_doctor_refuses_a_run_that_is_not_one(store, asked, said):
    result = anm_nb("doctor", asked.format(store=store))
    assert result.exit_code == 2
    assert said.format(store=store) in flowing(result.stderr)


def test_the_doctor_of_an_empty_store_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    result = anm_nb("doctor", "aaaa")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"no finished runs in {tmp_path / 'runs'}; train some: anm-nb demo" in result.stderr
