"""The ten tasks of docs/tasks.md, each run as it stands there with smaller numbers."""

import json
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from notebook_cells import names_of
from test_docs import JUDGING, PAGES, SNIPPETS, TINY, run_notebook, values_of

from anm_nb import store
from anm_nb.cases import Outcome, open_sweep, verdicts_in
from anm_nb.files import project_root
from anm_nb.sweep import write_table

TASKS = dict(enumerate(re.split(r"^## \d+\. ", PAGES["tasks.md"], flags=re.MULTILINE)))


def block(number: int, language: str = "python") -> str:
    """The one block of a task."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", TASKS[number], re.DOTALL)
    return found


def of(number: int, *replaced: tuple[str, str]) -> str:
    """A task's Python with other texts, each of which it has to have."""
    source = block(number)
    for text, other in replaced:
        assert text in source
        source = source.replace(text, other)
    return source


@pytest.fixture
def models(tmp_path, monkeypatch):
    """The models that come with the project, in a store of their own: keys by task and method."""
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(project_root() / "outputs" / "reference" / "models", store.store_root())
    return {(run.summary["task"], run.summary["method"]): run.key for run in store.scan()[0]}


def run_it(source: str) -> None:
    exec(compile(source, "tasks.md", "exec"), {"__name__": "docs"})


def test_there_are_ten_of_at_most_12_lines_besides_their_headings():
    assert sorted(TASKS) == list(range(11))
    for task in list(TASKS.values())[1:]:
        lines = [line for line in task.splitlines()[1:] if line and not line.startswith("```")]
        assert len(lines) <= 12, task.splitlines()[0]


def test_1_three_values_of_an_option_are_judged(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    values = values_of(TINY + block(1))
    names = names_of("10_anm_vs_corruption", "settings", "runs", *JUDGING, given={"pd": pd}, **values)
    claims = set(names["verdicts"](names["metrics"], names["references"]).table["claim"])
    assert {f"lower final error: anm, eps {eps} than stock" for eps in (0.5, 1.0, 2.0)} <= claims


def test_2_a_sweep_ends_in_one_table_and_one_figure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))
    (tmp_path / "sizes.yaml").write_text(block(2, "yaml"))
    cases = open_sweep(tmp_path / "sizes.yaml")
    outcomes, folder = {}, cases[0].output.parent
    assert folder == tmp_path / "outputs" / "sizes"
    folder.mkdir(parents=True)
    for case in cases:
        assert case.values["steps"] == 400
        verdict = {"claim": "lower final error: anm_orthogonal than stock", "estimate": -0.1, "low": -0.2, "high": 0.0}
        outcomes[case.name] = Outcome(case.name, 1.0, verdicts=[verdict | {"verdict": "supported"}])
    write_table(cases, outcomes, folder)
    run_it(block(2))
    assert (folder / "mse.pdf").stat().st_size > 1000
    assert pd.read_parquet(folder / "table.parquet")["size"].tolist() == [3, 4, 5]


def test_3_a_strategy_of_ones_own_is_judged_on_a_task_and_with_a_network_of_ones_own(tmp_path):
    assert all(snippet.count("\n") < 40 for snippet in SNIPPETS.values())
    values = TINY + block(3) + 'task = "square"\nnetwork = "distance"\n'
    executed = run_notebook("\n\n".join(SNIPPETS.values()), values, tmp_path, seeds="[0,1]", steps="5")
    claims = {row["claim"] for row in verdicts_in(executed)}
    assert {f"lower final error: other_answer than {each}" for each in ("none", "stock")} <= claims
    (table,) = [cell.outputs[0].data["text/plain"] for cell in executed.cells if cell.id == "scores"]
    assert "exact solution" in table


def test_4_puzzles_of_ones_own_are_solved(models, capsys):
    run_it(of(4, ("3fa9", models["sudoku", "none"])))
    assert '"board_accuracy": ' in capsys.readouterr().out.replace("'", '"')


def test_5_a_figure_of_own_runs_is_as_wide_as_the_page(models, tmp_path):
    keys = (("3fa9", models["inverse", "stock"]), ("81c0", models["inverse", "anm_orthogonal"][:9]))
    subprocess.run([sys.executable, "-c", of(5, *keys)], check=True, cwd=tmp_path)
    (box,) = re.findall(rb"/MediaBox \[ ?0 0 ([\d.]+) [\d.]+ ?\]", (tmp_path / "curves.pdf").read_bytes())
    assert float(box) / 72 == pytest.approx(5.5, abs=0.01)


def test_6_more_steps_go_on_from_a_finished_run(models, capsys):
    run_it(of(6, ("steps=400", "width=8, dev_examples=8, steps=4"), ("=100", "=2"), ('"steps": 800', '"steps": 8')))
    assert capsys.readouterr().out == "True\n"


def test_7_weights_take_three_lines(models, capsys):
    run_it(of(7, ("3fa9", models["sudoku", "none"])))
    assert len([line for line in block(7).splitlines() if line]) == 3
    assert "seed0.averaged." in capsys.readouterr().out


def test_8_a_heatmap_of_one_example_is_a_pdf(models, tmp_path):
    (key,) = [key for (task, _), key in models.items() if task == "hinted_sort"]
    run_it(of(8, ("3fa9", key)))
    assert (tmp_path / "alphas.pdf").read_bytes().startswith(b"%PDF")


def test_9_two_runs_are_compared(models, tmp_path):
    run_it(of(9, ("3fa9", models["inverse", "stock"]), ("81c0", models["inverse", "anm_orthogonal"])))
    assert (tmp_path / "both.pdf").read_bytes().startswith(b"%PDF")


def test_10_every_question_of_the_table_is_its_notebooks_and_has_an_answer():
    for name, question in re.findall(r"^\| \[(\w+)\]\([^)]+\) \| (.*?) \|", PAGES["README.md"], re.MULTILINE):
        cells = json.loads((project_root() / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        assert "".join(cells[0]["source"]).splitlines()[0] == f"# {question}"
        assert f"../notebooks/{name}.ipynb" in PAGES["results.md"], name
