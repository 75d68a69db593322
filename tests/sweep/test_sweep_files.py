"""Which cases a sweep file means, and what it may not say."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from trivial_sweep import write_notebook

from anm_nb.config import ParameterError
from anm_nb.sweep.cases import LONGEST, Case, case_names, differing, open_sweep, plan
from anm_nb.sweep.notebook import code_digest

ROOT = Path(__file__).resolve().parents[2]
SWEEPS = sorted(set((ROOT / "params" / "sweeps").glob("*.yaml")) - {ROOT / "params" / "sweeps" / "gpu.yaml"})
# The HRM document's grid, experiments 2 to 5.
DOCUMENT = {
    "hrm_iterations": ("max_inner_iters", [6, 8, 12, 16]),
    "hrm_period": ("hrm_period", [3, 4, 6]),
    "hrm_entropy": ("entropy_weight", [0.0005, 0.001, 0.002]),
    "hrm_temperature": ("temperature", [1.5, 2.0, 2.5]),
}


def given_of(path: Path, **options) -> list[dict]:
    return [dict(case.parameters) for case in plan(path, **options).cases]


# what a file means


def test_a_grid_is_the_product_in_order_and_cases_follow_it(trivial):
    path = trivial.write(base={"pause": 1.5}, grid={"n": [2, 1], "x": [0.1, 0.2]}, cases=[{"n": 9}])
    assert given_of(path) == [
        {"pause": 1.5, "n": 2, "x": 0.1}, {"pause": 1.5, "n": 2, "x": 0.2},
        {"pause": 1.5, "n": 1, "x": 0.1}, {"pause": 1.5, "n": 1, "x": 0.2},
        {"pause": 1.5, "n": 9},
    ]  # fmt: skip
    assert plan(path).cases[4].values == {"n": 9, "x": 0.5, "pause": 1.5}


def test_without_grid_or_cases_there_is_one_case(trivial):
    assert given_of(trivial.write()) == [{}]
    assert case_names(plan(trivial.write()).cases) == ["square"]


@pytest.fixture
def profiles(trivial, monkeypatch):
    monkeypatch.setattr("anm_nb.files.project_root", lambda: trivial.folder)
    for profile, values in {"quick": "n: 5\nx: 5.0\npause: 5.0\n", "paper": "n: 7\n"}.items():
        path = trivial.folder / "params" / profile / "square.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(values)
    return trivial


def test_a_case_goes_over_the_base_and_the_base_over_the_profile(profiles):
    path = profiles.write(profile="quick", base={"x": 4.0, "pause": 4.0}, cases=[{"pause": 3.0}])
    assert given_of(path) == [{"n": 5, "x": 4.0, "pause": 3.0}]
    assert given_of(path, profile="paper") == [{"n": 7, "x": 4.0, "pause": 3.0}]


def test_another_profile_has_a_folder_of_its_own(profiles, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(profiles.folder / "o"))
    path = profiles.write(profile="quick")
    assert open_sweep(str(path)).folder == profiles.folder / "o" / "trivial"
    assert open_sweep(str(path), "paper").folder == profiles.folder / "o" / "trivial-paper"


def test_seeds_go_to_every_case_together(trivial):
    write_notebook(trivial.notebook, "n = 1\nseeds = [0]", "pass")
    path = trivial.write(seeds=[3, 4], grid={"n": [1, 2]})
    assert given_of(path) == [{"seeds": [3, 4], "n": 1}, {"seeds": [3, 4], "n": 2}]
    spread = trivial.write(grid={"seeds": [[0], [1]]})
    assert case_names(plan(spread).cases) == ["seeds=0", "seeds=1"]


def test_cases_that_are_the_same_run_once_and_are_counted(trivial):
    first = trivial.write("a", grid={"n": [1, 2]}, cases=[{"n": 2}, {"n": 1, "x": 0.5}])
    assert (given_of(first), plan(first).folded) == ([{"n": 1}, {"n": 2}], 2)
    trivial.write("b", grid={"n": [2, 3]})
    both = plan(trivial.write("both", union=["a.yaml", "b.yaml"]))
    assert ([case.values["n"] for case in both.cases], both.folded) == ([1, 2, 3], 3)


def test_the_base_of_a_union_is_over_that_of_each_file_and_under_what_varies(trivial):
    trivial.write("a", base={"x": 0.1, "pause": 0.2}, grid={"n": [1]})
    trivial.write("b", base={"n": 5}, cases=[{"pause": 0.3}])
    both = trivial.write("both", union=["a.yaml", "b.yaml"], base={"x": 0.9, "n": 7, "pause": 0.0})
    assert given_of(both) == [{"x": 0.9, "n": 1, "pause": 0.0}, {"x": 0.9, "n": 7, "pause": 0.3}]


def test_a_whole_number_is_the_same_as_its_float_where_the_settings_say_so(tmp_path):
    path = tmp_path / "same.yaml"
    path.write_text(yaml.safe_dump({"notebook": "20_hrm_vs_baseline", "cases": [{"temperature": 2}, {}]}))
    assert (len(plan(path).cases), plan(path).folded) == (1, 1)


# what a file may not say


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"grdi": {"n": [1]}}, "trivial.yaml: unknown parameter 'grdi' (did you mean 'grid'?)"),
        ({"base": {"pauze": 1.0}}, "trivial.yaml: unknown parameter 'pauze' (did you mean 'pause'?); known: n, pause"),
        ({"grid": {"n": [1, 2.5]}}, "n = 2.5: should be of type int, as 1 is (in 1 of 2 cases; the first: n = 2.5)"),
        ({"grid": {"n": [1, "2"]}}, "n = '2': should be of type int"),
        ({"grid": {"n": []}}, "grid.n = []: needs at least 1 item"),
        ({"grid": {}}, "grid = {}: needs at least 1 item"),
        ({"cases": []}, "cases = []: needs at least 1 item"),
        ({"grid": {"x": [1.0, 2.0, 1.0]}}, "grid.x = [1.0, 2.0, 1.0]: 1.0 appears more than once"),
        ({"grid": {"n": 3}}, "grid.n = 3: should be a valid list"),
        ({"seeds": [-1]}, "seeds.0 = -1: should be greater than or equal to 0"),
        (
            {"notebook": "20_hrm_vs_basline"},
            "unknown notebook '20_hrm_vs_basline' (did you mean '20_hrm_vs_baseline'?)",
        ),
        ({"notebook": "cube.ipynb"}, "notebook = 'cube.ipynb'"),
        ({"notebook": None}, "needs a notebook, or a union"),
        ({"notebook": "20_hrm_vs_baseline", "profile": "papr"}, "unknown profile 'papr' (did you mean 'paper'?)"),
        ({"union": ["a.yaml"], "seeds": [1]}, "only base may stand beside union; move seeds into"),
        ({"seeds": [2**64]}, "seeds.0 = 18446744073709551616: should be less than or equal to 4294967295"),
        ({"grid": {"n": list(range(4000)), "x": [0.1, 0.2, 0.3]}}, "grid: 12,000 cases; at most 10,000 in one sweep"),
        ({"grid": {name: list(range(1000)) for name in "abc"}}, "grid: 1,000,000,000 cases; at most 10,000"),
        ({"union": ["missing.yaml"]}, "missing.yaml cannot be read"),
        ({"union": ["union.yaml"]}, "union.yaml: a union of unions"),
        ({"grid": {"x": [yaml.safe_load("2020-01-01")]}}, "is no number, text, list or mapping"),
    ],
    ids=str,
)
def test_refusals_name_the_file_the_value_and_what_is_allowed(trivial, content, said):
    trivial.write("union", union=["trivial.yaml"])
    with pytest.raises(ParameterError) as refused:
        plan(trivial.write(**content))
    assert said in str(refused.value)


def test_all_problems_are_told_at_once_and_each_once(trivial):
    path = trivial.write(base={"y": 1}, grid={"n": ["a", 1, "b"], "x": [0.1, 0.2]})
    with pytest.raises(ParameterError) as refused:
        plan(path)
    lines = str(refused.value).splitlines()
    assert [line.split(":")[1].split("=")[0].strip() for line in lines] == ["unknown parameter 'y'; known", "n", "n"]
    assert "2 of 6 cases" in lines[1]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"max_inner_iters": 0}, "max_inner_iters = 0: should be greater than 0"),
        ({"hrm_perod": 2}, "unknown parameter 'hrm_perod' (did you mean 'hrm_period'?)"),
        ({"entropy_weight": "much"}, "entropy_weight = 'much': should be a valid number"),
        ({"width": 30}, "width"),
    ],
)
def test_a_notebook_s_own_settings_judge_its_cases(tmp_path, values, said):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({"notebook": "20_hrm_vs_baseline", "cases": [{}, values]}))
    with pytest.raises(ParameterError, match=r"bad\.yaml") as refused:
        plan(path)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "text", ["- a\n- b\n", "notebook: [", "", "notebook: a\nnotebook: b\n", "grid:\n\tn: [1]\n", "notebook: caf\xe9"]
)
def test_what_is_no_yaml_mapping_is_one_line_that_names_the_file(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ParameterError, match=r"^.*bad\.yaml.*$"):
        plan(path)


def test_numbers_of_sweep_files_and_profiles_may_be_in_scientific_notation(trivial):
    path = trivial.folder / "trivial.yaml"
    path.write_text(f"notebook: {trivial.notebook.name}\nbase: {{x: 1e-3}}\n")
    assert [case.values["x"] for case in plan(path).cases] == [1e-3]


def test_an_unknown_sweep_is_named_with_the_nearest():
    with pytest.raises(ParameterError, match=r"unknown sweep file 'hrm_perod' \(did you mean 'hrm_period'\?\)"):
        open_sweep("hrm_perod")


# the project's own


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
@pytest.mark.parametrize("profile", [None, "quick"])
def test_the_project_s_sweeps_are_valid_at_their_profile_and_at_the_quick_one(path, profile):
    cases = plan(path, profile).cases
    assert cases
    assert len(set(case_names(cases))) == len(cases)


@pytest.mark.parametrize(("name", "swept"), DOCUMENT.items())
def test_each_experiment_varies_what_the_document_says_at_its_fixed_values(name, swept):
    """One case for each value, and a last one that compares them all."""
    field, values = swept
    *single, whole = plan(ROOT / "params" / "sweeps" / f"{name}.yaml").cases
    fixed = {
        "max_inner_iters": 12,
        "hrm_period": 4,
        "size": 20,
        "mask_rate": 0.5,
        "epochs": 100,
        "seeds": [1, 2, 3, 4, 5],
    }
    assert [case.values[field] for case in single] == values
    assert whole.values["values"] == values
    for case in (*single, whole):
        rest = {name: value for name, value in fixed.items() if name != field}
        assert {name: case.values[name] for name in rest} == rest


def test_the_union_is_the_five_experiments():
    folder = ROOT / "params" / "sweeps"
    five = [case for name in ("hrm_vs_baseline", *DOCUMENT) for case in plan(folder / f"{name}.yaml").cases]
    assert list(plan(folder / "hrm.yaml").cases) == five


@pytest.mark.parametrize(
    ("name", "changed"), [("hrm_hinted", ("task", "hinted_sort")), ("hrm_ceiling", ("stop_at_score", 0.99))]
)
def test_the_five_experiments_on_another_task_or_to_the_ceiling_differ_in_nothing_else(name, changed):
    plain, other = (plan(ROOT / "params" / "sweeps" / f"{each}.yaml").cases for each in ("hrm", name))
    assert [dict(case.values) | dict([changed]) for case in plain] == [dict(case.values) for case in other]


# names and digests

VALUES = st.one_of(st.integers(), st.floats(allow_nan=False), st.text(max_size=200), st.lists(st.text(max_size=80)))


@given(values=st.lists(VALUES, min_size=1, max_size=12, unique_by=json.dumps))
def test_names_are_distinct_short_and_good_for_any_file_system(values):
    cases = [Case(Path("a.ipynb"), Path(), values={"p": value, "same": 1}) for value in values]
    names = case_names(cases)
    assert len({name.casefold() for name in names}) == len(values)
    assert all(0 < len(name) <= LONGEST and not set(name) & set('/\\:*?"<>| \n\0') for name in names)


def test_a_name_says_what_differs_and_no_more():
    notebooks = Path("10_a.ipynb"), Path("20_b.ipynb")
    settings = [{"n": 1, "x": 1e-5, "s": [1, 2], "same": 0}, {"n": 2, "x": 1e-5, "s": ["a/b"], "same": 0}]
    cases = [Case(notebooks[0], Path(), values=values) for values in settings]
    assert differing(cases) == ["n", "s"]
    assert case_names(cases) == ["n=1,s=1-2", "n=2,s=a_b"]
    cases.append(Case(notebooks[1], Path(), values={"n": 7}))
    assert case_names(cases) == ["10_a,n=1,s=1-2", "10_a,n=2,s=a_b", "20_b"]


def test_a_digest_covers_parameters_and_code_but_no_outputs(trivial):
    def digest(n: int) -> str:
        return open_sweep(str(trivial.write(cases=[{"n": n}])), folder=trivial.out).cases[0].digest

    first, code = digest(2), code_digest(trivial.notebook)
    assert digest(3) != first
    executed = json.loads(trivial.notebook.read_text())
    executed["cells"][1] |= {
        "outputs": [{"output_type": "stream", "name": "stdout", "text": "!"}],
        "execution_count": 3,
    }
    trivial.notebook.write_text(json.dumps(executed))
    assert (digest(2), code_digest(trivial.notebook)) == (first, code)
    executed["cells"][2]["source"] = "changed = True"
    trivial.notebook.write_text(json.dumps(executed))
    assert digest(2) != first
