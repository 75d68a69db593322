"""Notebooks run as papermill runs them, from anywhere, once for each parameter set, and refuse what cannot be meant."""

import ast
import io
import re
import tokenize
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from notebook_cells import names_of

from anm_nb.analysis.doctor import SIGNATURES
from anm_nb.cases import check_of
from anm_nb.config import ParameterError
from anm_nb.energy.train import EnergyConfig

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = sorted(path for path in (ROOT / "params").glob("*/*.yaml") if path.parent.name != "sweeps")


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def tagged(path: Path, tag: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in code_cells(path) if tag in cell.metadata.get("tags", [])]


def parameter_cell(path: Path) -> nbformat.NotebookNode:
    (cell,) = tagged(path, "parameters")
    return cell


def literals(source: str) -> dict[str, object]:
    """The values of a cell of assignments of literals; anything else in it is an error."""
    values = {}
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        (target,) = statement.targets
        values[target.id] = ast.literal_eval(statement.value)
    return values


# as they are written


TEXTS = [path for path in NOTEBOOKS if not path.name.startswith("4")]  # all but explorers


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_the_answer_is_on_the_first_screen(path):
    cells = code_cells(path)
    answer = next(place for place, cell in enumerate(cells) if "answer" in cell.metadata.get("tags", []))
    for cell in cells[: answer + 1]:  # the code above it and its own are folded
        assert cell.metadata.jupyter.source_hidden, cell.id


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_a_cell_is_read_at_one_glance(path):
    for cell in code_cells(path):
        lines = cell.source.splitlines()
        assert len(lines) <= 40, lines[0]
        assert max(map(len, lines)) <= 100, max(lines, key=len)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_asks_answers_sets_and_checks_its_parameters_and_judges(path):
    assert re.match(r"# .*\?\n", nbformat.read(path, as_version=4).cells[0].source + "\n")
    cells = code_cells(path)
    last = [cell for cell in cells if "study.keep" not in cell.source][-1].source
    assert re.search(r"verdicts\(|judge\w*\(|controls\(|headlines\(|show\(", last)
    place = cells.index(parameter_cell(path))  # above it the answer, and what it is drawn and judged by
    answer, parameters, settings = cells[place - 1 : place + 2]
    assert "answer" in answer.metadata.tags
    assert parameters.source == parameter_cell(path).source
    assert "settings" in settings.metadata.tags
    assert "study = Study.from_notebook()" in settings.source
    values = literals(parameters.source)
    assert set(check_of(path)(values)) >= set(values)


@pytest.mark.parametrize(
    ("notebook", "given", "message"),
    [
        ("10_anm_vs_corruption", {"task": "sudoku", "size": 9}, "task = 'sudoku': this comparison is of mean squared"),
        ("11_anm_within_run", {"miners": ["stock"]}, "need two different kinds"),
        ("11_anm_within_run", {"batch": 1}, "leaves one kind without a row"),
        ("21_hrm_iterations", {"values": [2, 4]}, "values = [2, 4]: max_inner_iters = 3 must be among them"),
        ("22_hrm_period", {"values": [2, 4]}, "hrm_period = 4: with max_inner_iters = 3 the slow state"),
        ("24_hrm_temperature", {"task": "inverse"}, "task = 'inverse': the ranking family needs a task whose answer"),
        ("20_hrm_vs_baseline", {"width": 30}, "n_heads = 4: must divide width = 30"),
        ("01_reference_scores", {"task_options": {"sudoku": {"sze": 9}}}, "task_options.sudoku: "),
        ("03_cost_and_scaling", {"sides": [1, 2, 90_000]}, "sides: size = 90000: should be less than or equal to 1000"),
        ("10_anm_vs_corruption", {"strategies": [{"name": "anm", "steps": 10**9}]}, "strategies.0: miner: steps = 10"),
        ("12_miner_convergence", {"batches": [64, 10**9]}, "batches.1 = 1000000000: should be less than or equal"),
        ("14_discrete_feasibility", {"strategies": ["stock"]}, "strategies = ['stock']: one has to mine relaxed"),
        ("14_discrete_feasibility", {"per_task": {"sudoku": {"width": 90_000}}}, "per_task.sudoku: width = 90000"),
        ("15_ired_table", {"per_task": {"adition": {}}}, "per_task.adition.[key]: unknown task 'adition' (did you"),
        ("17_search_or_model", {"matrix_size": 90_000}, "matrix_size = 90000: should be less than or equal to 1000"),
        ("25_where_iteration_helps", {"chain_lengths": [7]}, "chain_lengths: chain_length = 7: with 2 of 8 items"),
        ("25_where_iteration_helps", {"test_lengths": [8, 201]}, "test_lengths: size = 201: there are only 200"),
        ("25_where_iteration_helps", {"train_sizes": [100]}, "train_sizes: 100 does not divide train_samples = 64"),
        ("25_where_iteration_helps", {"max_inner_iters": 1, "hrm_period": 1}, "max_inner_iters = 1: comparators need"),
    ],
)
def test_a_settings_cell_refuses_what_would_fail_after_training(notebook, given, message):
    with pytest.raises(ParameterError) as refusal:
        check_of(ROOT / "notebooks" / f"{notebook}.ipynb")(given)
    assert message in str(refusal.value)
    assert len(str(refusal.value)) < 800  # which all names of a config take


def absurd(value: object) -> list[object]:
    """Values of the same kind that no notebook can use."""
    match value:
        case bool():
            return ["perhaps"]
        case int():
            return [10**18, -1, 0.5]
        case float():
            return [1e30, -1e30, float("nan")]
        case str():
            return ["zzz", "z" * 10**5]
        case [item, *_]:
            return [[], [absurd(item)[0]], [value[0]] * 10**5]
        case dict():
            return [{"zzz": {"zzz": 1}}, {"zzz": 1}]
        case _:
            return ["zzz", -(10**18)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_every_parameter_is_checked_before_any_training_and_named(path):
    check = check_of(path)
    for parameter, default in literals(parameter_cell(path).source).items():
        for value in absurd(default):
            with pytest.raises(ParameterError) as refusal:
                check({parameter: value})
            said = str(refusal.value)
            assert re.search(rf"\b{parameter}\b", said.split("; known")[0]), said
            assert len(said) < 1500


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_every_parameter_is_explained_beside_it(path):
    source = parameter_cell(path).source
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    commented = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    assert {statement.lineno for statement in ast.parse(source).body} <= commented


@pytest.mark.parametrize("path", PROFILES, ids=name)
def test_profiles_are_valid(path):
    check = check_of(ROOT / "notebooks" / f"{path.stem}.ipynb")
    values = check(yaml.safe_load(path.read_text(encoding="utf-8")))
    if path.parent.name == "quick":
        assert values == check({})  # `make demo` runs what the notebook's own defaults are


# What a person types behind papermill's -p, and what they are told.


TINY = {"levels": 3, "width": 4, "dev_examples": 2, "inner_steps": 1, "steps": 2, "batch": 4, "records": 3}
RUNS = {
    "anm": {"size": 2, "negatives": "anm"},
    "sudoku": {"task": "sudoku", "size": 9, "task_options": {"pool": 20}, "negatives": "stock"},
}


def test_every_section_has_lines_and_every_instrument_exists(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))  # for the pool of puzzles
    recorded = set()
    for name, run in RUNS.items():
        (tmp_path / name).mkdir()
        recorded |= set(EnergyConfig(**TINY, **run, seeds=(0,)).train(tmp_path / name).metrics)
    lines = names_of("30_analysis", "lines", "lines-f", given={"pd": pd})["lines"]
    assert set(lines["section"]) == {*"ABCDEFGHIJK", "legitimacy"}
    assert not lines.duplicated().any()
    findings = {signature.name for signature in SIGNATURES}
    for line in lines.itertuples():
        kind, _, name = line.instrument.partition(" ")
        notebook = nbformat.read(ROOT / "notebooks" / f"{line.notebook}.ipynb", as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        found = {
            "finding": name in findings,
            "column": name in recorded or any(f'"{name}"' in cell.source for cell in code),
            "figure": any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs),
        }
        assert found[kind], line
