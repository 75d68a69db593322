"""The cases of a sweep file, its refusals, and the check by a notebook's own settings cell."""

from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from anm_nb.cases import check_of, open_sweep
from anm_nb.config import ParameterError

ROOT = Path(__file__).resolve().parents[2]
# The HRM document's grid, experiments 2 to 5.
DOCUMENT = {
    "hrm_iterations": ("max_inner_iters", [6, 8, 12, 16]),
    "hrm_period": ("hrm_period", [3, 4, 6]),
    "hrm_entropy": ("entropy_weight", [0.0005, 0.001, 0.002]),
    "hrm_temperature": ("temperature", [1.5, 2.0, 2.5]),
}


opened = cache(open_sweep)


def given_of(path: Path, profile: str | None = None) -> list[dict]:
    return [dict(case.parameters) for case in open_sweep(path, profile)]


# the cases of a file


def test_a_grid_is_the_product_in_order_then_come_cases_and_without_both_there_is_one(trivial):
    path = trivial.write(base={"pause": 1.5}, grid={"n": [2, 1], "x": [0.1, 0.2]}, cases=[{"n": 9}])
    assert given_of(path) == [
        {"pause": 1.5, "n": 2, "x": 0.1}, {"pause": 1.5, "n": 2, "x": 0.2},
        {"pause": 1.5, "n": 1, "x": 0.1}, {"pause": 1.5, "n": 1, "x": 0.2},
        {"pause": 1.5, "n": 9},
    ]  # fmt: skip
    assert open_sweep(path)[4].values == {"n": 9, "x": 0.5, "pause": 1.5}
    (only,) = open_sweep(trivial.write())
    assert (only.parameters, only.name) == ({}, "square")


def test_a_case_overrides_the_base_the_base_the_profile_and_each_profile_has_a_folder(trivial, monkeypatch):
    monkeypatch.setattr("anm_nb.files.project_root", lambda: trivial.folder)
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(trivial.folder / "o"))
    for profile, values in {"quick": "n: 5\nx: 5e-1\npause: 5.0\n", "paper": "n: 7\n"}.items():
        path = trivial.folder / "params" / profile / "square.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(values)
    path = trivial.write(profile="quick", base={"pause": 4.0}, cases=[{"pause": 3.0}])
    assert given_of(path) == [{"n": 5, "x": 0.5, "pause": 3.0}]
    assert given_of(path, "paper") == [{"n": 7, "pause": 3.0}]
    assert open_sweep(path)[0].output.parent == trivial.folder / "o" / "trivial"
    assert open_sweep(path, "paper")[0].output.parent == trivial.folder / "o" / "trivial-paper"
    with pytest.raises(ParameterError, match=r"unknown profile 'papr' \(did you mean 'paper'\?\)"):
        open_sweep(path, "papr")


def test_a_union_has_the_distinct_cases_of_its_files_and_its_base_overrides_theirs(trivial):
    trivial.write("a", base={"x": 0.1, "pause": 0.2}, grid={"n": [1, 2]}, cases=[{"n": 2}])
    trivial.write("b", base={"n": 5}, cases=[{"pause": 0.3}, {"n": 1}])
    both = trivial.write("both", union=["a.yaml", "b.yaml"], base={"x": 0.9, "n": 7, "pause": 0.0})
    assert given_of(both) == [
        {"x": 0.9, "n": 1, "pause": 0.0}, {"x": 0.9, "n": 2, "pause": 0.0}, {"x": 0.9, "n": 7, "pause": 0.3},
    ]  # fmt: skip


# refusals


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"grid": {"m": [1]}}, "trivial.yaml: unknown parameter 'm'"),
        ({"gird": {"n": [1]}}, "trivial.yaml: unknown parameter 'gird' (did you mean 'grid'?)"),
        ({"notebook": "20_hrm_vs_basline"}, "unknown notebook '20_hrm_vs_basline' (did you mean '20_hrm_vs_baseline'"),
        (
            {"union": ["trivial.yaml"], "profile": "mid"},
            "unknown parameter 'profile'; known: base, union",
        ),
        ({"union": ["missing.yaml"]}, "missing.yaml cannot be read"),
    ],
    ids=str,
)
def test_refusals_name_the_file_the_value_and_what_is_allowed(trivial, content, said):
    trivial.write("union", union=["trivial.yaml"])
    with pytest.raises(ParameterError) as refused:
        open_sweep(trivial.write(**content))
    assert said in str(refused.value)


# the project's own sweeps


@pytest.mark.parametrize(("name", "count"), [("anm_vs_corruption", 5), ("hrm", 18)])
def test_the_project_s_sweeps_are_valid_at_the_quick_profile_too(name, count):
    for cases in (opened(name), open_sweep(name, "quick")):
        assert len({case.name for case in cases}) == len(cases)
    assert len(opened(name)) == count


@pytest.mark.parametrize(("name", "swept"), DOCUMENT.items())
def test_each_experiment_varies_what_the_document_says_at_its_fixed_values(name, swept):
    """One case per value, and a last one that compares them all."""
    field, values = swept
    *single, whole = opened(name)
    fixed = {"max_inner_iters": 12, "hrm_period": 4, "size": 20, "mask_rate": 0.5, "epochs": 100}
    fixed |= {"seeds": [1, 2, 3, 4, 5]}
    assert [case.values[field] for case in single] == values
    assert whole.values["values"] == values
    for case in (*single, whole):
        rest = {name: value for name, value in fixed.items() if name != field}
        assert {name: case.values[name] for name in rest} == rest


@pytest.mark.parametrize(
    ("name", "changed"),
    [("hrm", {}), ("hrm_hinted", {"task": "hinted_sort"}), ("hrm_ceiling", {"stop_at_score": 0.99})],
)
def test_the_unions_are_the_five_experiments_and_differ_in_nothing_else(name, changed):
    five = [case for each in ("hrm_vs_baseline", *DOCUMENT) for case in opened(each)]
    assert [dict(case.values) | changed for case in five] == [dict(case.values) for case in opened(name)]


# the settings cell

PARAMETERS = "epochs = 2  # 1 …\nsize = 2**3\nlabel = 'a'\n_aside = 1"
SETTINGS = """
from typing import ClassVar
from anm_nb.config import Epochs, ParameterError, Parameters, Size
import beside

class Study(Parameters):
    family: ClassVar[str] = "own"
    epochs: Epochs
    size: Size = 5
    label: str = ""
    extra: "Size" = 3

study = Study.from_notebook()
if study.epochs * study.size > beside.MOST:
    raise ParameterError(f"epochs = {study.epochs}: at most {beside.MOST} epochs·size")
inverse = 1 / (study.size - 1)
"""


def write(folder, *, settings=SETTINGS, parameters=PARAMETERS):
    tagged = {"parameters": parameters, "settings": settings}
    cells = [new_code_cell(source, metadata={"tags": [tag]}) for tag, source in tagged.items()]
    cells.append(new_code_cell("raise RuntimeError('a check runs no further cell')"))
    (folder / "beside.py").write_text("MOST = 100\n")
    path = folder / "10_own.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_a_case_overrides_the_parameter_cell_which_overrides_the_class(tmp_path):
    check = check_of(write(tmp_path))
    assert check({}) == {"epochs": 2, "size": 8, "label": "a", "extra": 3}
    assert check({"epochs": 5, "extra": 4}) == {"epochs": 5, "size": 8, "label": "a", "extra": 4}
    assert check({}) == {"epochs": 2, "size": 8, "label": "a", "extra": 3}  # no state is left from the previous case


@pytest.mark.parametrize(
    ("values", "changed", "said"),
    [
        ({"epoch": 3}, {}, r"unknown parameter 'epoch' \(did you mean 'epochs'\?\); known: epochs, extra, label, size"),
        ({"epochs": 99}, {}, r"^epochs = 99: at most 100 epochs·size$"),
        ({}, {"settings": "class Study(:"}, r"10_own.ipynb, settings: SyntaxError: invalid syntax"),
        ({"y": 1}, {"settings": "x = 1"}, r"unknown parameter 'y'; known: epochs, label, size"),
    ],
)
def test_refusals_of_the_cells_are_passed_on_and_another_error_names_the_notebook(tmp_path, values, changed, said):
    with pytest.raises(ParameterError, match=said):
        check_of(write(tmp_path, **changed))(values)
