"""Notebooks run as papermill runs them, from anywhere, once for each parameter set, and refuse what cannot be meant."""

import ast
import io
import json
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import nbformat
import pytest
import yaml

from anm_nb.cases import check_of
from anm_nb.config import ParameterError

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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_asks_a_question_and_ends_with_its_verdicts(path):
    cells = nbformat.read(path, as_version=4).cells
    title = cells[0].source.splitlines()[0]
    assert cells[0].cell_type == "markdown"
    assert re.fullmatch(r"# .*\?", title)
    last = [cell for cell in code_cells(path) if "study.keep" not in cell.source][-1].source
    assert re.search(r"verdicts\(|judge\w*\(|controls\(|headlines\(|show\(", last)


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
def test_a_notebook_answers_first_then_sets_and_checks_its_parameters(path):
    cells = code_cells(path)
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
        ("10_anm_vs_corruption", {"strategies": ["anm", "anm"]}, "each may appear once"),
        ("10_anm_vs_corruption", {"task": "sudoku", "size": 9}, "task = 'sudoku': this comparison is of mean squared"),
        ("11_anm_within_run", {"miners": ["stock"]}, "need two different kinds"),
        ("11_anm_within_run", {"baseline": "stok"}, "baseline: unknown negative strategy 'stok' (did you"),
        ("11_anm_within_run", {"batch": 1}, "leaves one kind without a row"),
        ("12_miner_convergence", {"batches": [64, 64]}, "batches = [64, 64]: each may appear once"),
        ("12_miner_convergence", {"ema_decays": [1.0]}, "ema_decays.0 = 1.0: should be less than 1"),
        ("12_miner_convergence", {"strategy": "anm_ortogonal"}, "did you mean 'anm_orthogonal'"),
        ("21_hrm_iterations", {"values": [3, 3]}, "values = [3, 3]: each may appear once"),
        ("21_hrm_iterations", {"values": [3, 10**6]}, "values.1 = 1000000: should be less"),
        ("21_hrm_iterations", {"values": [2, 4]}, "values = [2, 4]: max_inner_iters = 3 has to be among them"),
        ("22_hrm_period", {"values": [2, 4]}, "hrm_period = 4: with max_inner_iters = 3 the slow state"),
        ("23_hrm_entropy", {"values": [1e-3, 1e7]}, "values.1 = 10000000.0: should be less"),
        ("24_hrm_temperature", {"task": "inverse"}, "task = 'inverse': the ranking family needs a task whose answer"),
        ("20_hrm_vs_baseline", {"width": 30}, "n_heads = 4: has to divide width = 30"),
        ("02_kendall_forensics", {"max_iner_iters": 3}, "did you mean 'max_inner_iters'?"),
        ("01_reference_scores", {"problems": 10**9}, "problems = 1000000000: should be less"),
        ("01_reference_scores", {"task_options": {"sudoku": {"sze": 9}}}, "task_options.sudoku: "),
        ("03_cost_and_scaling", {"sides": [1, 2, 90_000]}, "sides: width = 128, size = 90000, batch = 128: needs at"),
        ("10_anm_vs_corruption", {"seeds": [2**64]}, "seeds.0 = 18446744073709551616: should be less"),
        ("10_anm_vs_corruption", {"strategies": ["stok"]}, "strategies.0: unknown negative strategy 'stok' (did you"),
        ("10_anm_vs_corruption", {"strategies": [{"name": "anm", "steps": 10**9}]}, "strategies.0: miner: steps = 10"),
        ("10_anm_vs_corruption", {"records": 10**10}, "records = 10000000000: should be less"),
        ("10_anm_vs_corruption", {"size": 40_000}, "size = 40000, batch = 128, dev_examples = 128: needs at least"),
        ("12_miner_convergence", {"batches": [64, 10**9]}, "batches: batch = 1000000000, size = 4: needs at least"),
        ("12_miner_convergence", {"lr_divisors": [1e-3]}, "lr_divisors: lr = 2.0: should be less"),
        ("14_discrete_feasibility", {"strategies": ["stock"]}, "strategies = ['stock']: one has to mine relaxed"),
        ("14_discrete_feasibility", {"per_task": {"sudoku": {"width": 90_000}}}, "per_task.sudoku: width = 90000"),
        ("14_discrete_feasibility", {"tasks": ["sudoko"]}, "did you mean 'sudoku'"),
        ("15_ired_table", {"test_inner_steps": []}, "test_inner_steps = []: needs at least 1 item"),
        ("15_ired_table", {"test_inner_steps": [10**9]}, "test_inner_steps.0 = 1000000000: should be less"),
        ("15_ired_table", {"per_task": {"adition": {}}}, "per_task.adition.[key]: unknown task 'adition' (did you"),
        ("16_anm_verdict", {"test_examples": 10**9}, "test_examples = 1000000000, size = 3: needs at least"),
        ("17_search_or_model", {"strategies": ["stok"]}, "strategies.0: unknown negative strategy 'stok' (did you"),
        ("17_search_or_model", {"matrix_size": 90_000}, "matrix_size: width = 64, size = 90000, batch = 128: needs"),
        ("17_search_or_model", {"matrix_task": "inverze"}, "matrix_task: unknown task 'inverze' (did you mean 'inv"),
        ("20_hrm_vs_baseline", {"threads": 10**10}, "threads = 10000000000: should be less"),
        ("20_hrm_vs_baseline", {"controller_lr": 1e4}, "controller_lr = 10000.0: should be less"),
        ("20_hrm_vs_baseline", {"entropy_weight": 1e6}, "entropy_weight = 1000000.0: should be less"),
        ("25_where_iteration_helps", {"chain_lengths": [10**6]}, "chain_lengths.0 = 1000000: should be less"),
        ("25_where_iteration_helps", {"chain_lengths": [7]}, "chain_lengths: chain_length = 7: with 2 of 8 items"),
        ("25_where_iteration_helps", {"test_lengths": [8, 201]}, "test_lengths: size = 201: there are only 200"),
        ("25_where_iteration_helps", {"train_sizes": [100]}, "train_sizes: 100 does not divide train_samples = 256"),
        ("25_where_iteration_helps", {"patiences": []}, "patiences = []: needs at least 1 item"),
        ("25_where_iteration_helps", {"wrong_rates": [1.0]}, "wrong_rates.0 = 1.0: should be less than 1"),
        ("25_where_iteration_helps", {"max_inner_iters": 1, "hrm_period": 1}, "max_inner_iters = 1: comparators are"),
        ("25_where_iteration_helps", {"code_width": 4}, "code_width = 4"),
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


# as papermill runs them

EXPERIMENT = ROOT / "notebooks" / "10_anm_vs_corruption.ipynb"
SMALL = {
    "steps": 12, "seeds": "[0,1,2]", "size": 2, "width": 8, "batch": 8, "dev_examples": 8, "records": 3,
    "strategies": "[none,anm]",
}  # fmt: skip


def papermill(
    notebook: Path, folder: Path, matplotlibrc: str = "", **parameters: object
) -> subprocess.CompletedProcess[str]:
    """Run by the command line, from a folder that has nothing to do with the project."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "papermill", str(notebook), "out.ipynb", "--no-progress-bar"]
    for parameter, value in parameters.items():
        command += ["-p", parameter, str(value)]
    env = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    env["ANM_NB_OUTPUTS"] = str(folder / "outputs")
    env["MATPLOTLIBRC"] = matplotlibrc
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def without_colour(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def stored_runs(folder: Path) -> dict[str, int]:
    """Every file of the run store with the time it was written."""
    store = folder / "outputs" / "runs"
    return {str(path.relative_to(store)): path.stat().st_mtime_ns for path in store.glob("[!.]*/*")}


def pictures(notebook: Path) -> list[str]:
    """All pictures of an executed notebook, in base64."""
    data = [output.get("data", {}) for cell in code_cells(notebook) for output in cell.outputs]
    return [each["image/png"] for each in data if "image/png" in each]


def test_the_same_command_twice_runs_anywhere_and_trains_once(tmp_path):
    first = papermill(EXPERIMENT, tmp_path, **SMALL)
    assert first.returncode == 0, first.stderr[-3000:]
    stored = stored_runs(tmp_path)
    assert len({path.split("/")[0] for path in stored}) == 2  # one run for each strategy
    drawn = pictures(tmp_path / "out.ipynb")
    assert len(drawn) >= 5
    again = papermill(EXPERIMENT, tmp_path, str(Path(__file__).with_name("hostile.matplotlibrc")), **SMALL)
    assert again.returncode == 0, again.stderr[-3000:]
    assert stored_runs(tmp_path) == stored
    assert pictures(tmp_path / "out.ipynb") == drawn  # whatever a person has set up for matplotlib
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out.ipynb", "outputs"]


def test_an_unknown_parameter_is_refused_before_any_training(tmp_path):
    answer = papermill(EXPERIMENT, tmp_path, **SMALL, stpes=50)
    assert answer.returncode != 0
    assert "ParameterError: unknown parameter 'stpes' (did you mean 'steps'?)" in without_colour(answer.stderr)
    assert not (tmp_path / "outputs").exists()
    ran = [cell for cell in code_cells(tmp_path / "out.ipynb") if cell.execution_count]
    assert "from_notebook" in ran[-1].source  # the check itself, and nothing after it


# What a person types behind -p, and what they are told.
REFUSALS = {
    "lr nan": "lr = nan: should be a finite number",
    "seeds []": "seeds = []: needs at least 1 item",
    "seeds [0,0]": "seeds = [0, 0]: each may appear once",
    "task invers": "unknown task 'invers' (did you mean 'inverse'?)",
    "steps -5": "steps = -5: should be greater than 0",
    "steps 1e2": "steps = 100.0: should be a valid integer",
    "width wide": "width = 'wide': should be a valid integer",
    "strategies [stok]": "strategies.0: unknown negative strategy 'stok' (did you mean 'stock'?)",
}
# Runs the cells that papermill would, from the parameters to the check, in one IPython for all; prints how each ended.
CHECK = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
from papermill.cli import _resolve_type
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
shell = InteractiveShell.instance()
for typed in json.loads(sys.argv[2]):
    parameter, value = typed.split(" ")
    notebook = parameterize_notebook(load_notebook_node(sys.argv[1]), {parameter: _resolve_type(value)})
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"][1:4]
    assert "from_notebook" in cells[2]
    results = [shell.run_cell(cell, store_history=True, silent=False) for cell in cells]
    print("ANSWER", json.dumps([f"{type(r.error_in_exec).__name__}: {r.error_in_exec}" for r in results]))
"""


def test_what_cannot_be_meant_is_refused_by_the_cell_after_the_parameters(tmp_path):
    command = [sys.executable, "-c", CHECK, str(EXPERIMENT), json.dumps(list(REFUSALS))]
    env = os.environ | {"ANM_NB_OUTPUTS": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")}
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    answers = [
        json.loads(line.removeprefix("ANSWER ")) for line in ran.stdout.splitlines() if line.startswith("ANSWER")
    ]
    assert len(answers) == len(REFUSALS)
    for (assigned, injected, checked), expected in zip(answers, REFUSALS.values(), strict=True):
        assert assigned == injected == "NoneType: None"
        assert checked.startswith(f"ParameterError: {expected}")
    assert not (tmp_path / "runs").exists()
