"""README is short, its numbers are those of kept results, and its experiment runs."""

import re

import pandas as pd
import pytest

from anm_nb.analysis import kept, ranking
from anm_nb.analysis.stats import paired_difference
from anm_nb.analysis.tables import final
from anm_nb.files import project_root

README = (project_root() / "README.md").read_text(encoding="utf-8")
ANSWERS = README.split("<!-- begin: answers -->\n")[1].split("<!-- end: answers -->")[0]
MINING = {  # kept result, method, whom it is compared with, and the quoted difference in per cent of that one's error
    ("10_anm_vs_corruption", "anm", "stock"): "+216.6 % [+207.4, +225.9]",
    ("10_anm_vs_corruption", "anm_orthogonal", "stock"): "-21.5 % [-26.6, -16.3]",
    ("anm_verdict", "anm_tuned", "none_tuned"): "-6.4 % [-9.9, -3.0]",
    ("anm_verdict", "anm_tuned", "stock_tuned"): "-1.5 % [-4.4, +1.4]",
    ("anm_verdict", "anm_tuned", "stock_longer"): "+39 % [+35, +43]",
    ("anm_verdict", "anm_tuned", "none_longer"): "+158 % [+152, +163]",
}
ITERATION = {  # of notebook 25, by the share of hidden items: the model, or the two whose difference is quoted
    0.5: {
        "no iteration": "0.883 [0.857, 0.904]",
        "weight-tied": "0.983 [0.980, 0.986]",
        "deep untied": "0.976 [0.968, 0.982]",
        "HRM per token − weight-tied": "+0.003 [+0.000, +0.006]",
        "HRM per token − one timescale": "-0.002 [-0.006, +0.003]",
    },
    0.9: {
        "no iteration": "0.464 [0.387, 0.535]",
        "HRM per token": "0.727 [0.425, 0.883]",
        "weight-tied": "0.848 [0.826, 0.867]",
    },
}


def test_it_is_at_most_10_kb_and_answers_in_15_lines():
    assert len(README.encode()) <= 10_000
    assert len([line for line in ANSWERS.splitlines() if line]) <= 15
    assert max(map(len, ANSWERS.splitlines())) <= 125


def mining_errors(name: str) -> pd.DataFrame:
    """Final held-out errors on 5×5 inversion, a column for each method."""
    if name != "anm_verdict":
        return final(kept.load(name).metrics, "mse")
    rows = pd.read_parquet(kept.kept_root() / "anm_verdict.parquet")
    rows = rows[(rows["task"] == "inverse") & (rows["training"] == "unlimited")]
    return rows.pivot(index="seed", columns="method", values="same/mse/model")


@pytest.mark.parametrize("compared", MINING)
def test_its_answers_quote_kept_comparisons_of_mining(compared):
    name, method, baseline = compared
    errors, quoted = mining_errors(name), MINING[compared]
    difference = paired_difference(errors[method], errors[baseline])
    places = 1 if "." in quoted else 0
    percent = (100 * each / errors[baseline].mean() for each in (difference.estimate, difference.low, difference.high))
    estimate, low, high = (f"{each:+.{places}f}" for each in percent)
    assert f"{estimate} % [{low}, {high}]" == quoted
    assert quoted in " ".join(ANSWERS.split())


@pytest.mark.parametrize("rate", ITERATION)
def test_its_answers_quote_notebook_25(rate):
    result = kept.load("25_where_iteration_helps")
    if rate == 0.5:
        rows = result.table("test_iterations").query("iterations == trained")
    else:
        rows = result.table("mask_rates").query("mask_rate == @rate")
    scores = rows.pivot(index="seed", columns="model", values="tau_all")
    for name, quoted in ITERATION[rate].items():
        better, _, base = name.partition(" − ")
        if base:
            difference = paired_difference(scores[better], scores[base])
            found = f"{difference.estimate:+z.3f} [{difference.low:+z.3f}, {difference.high:+z.3f}]"
            assert max(abs(difference.low), abs(difference.high)) < ranking.MARGIN  # it is said to be equivalent
        else:
            found = ranking.interval_text(scores[better])
        assert found == quoted
        assert quoted in " ".join(ANSWERS.split())


def test_its_answers_have_no_number_with_an_interval_that_is_not_looked_up():
    intervals = re.findall(r"\S+(?: %)? \[[^]]+\](?!\()", " ".join(ANSWERS.split()))
    quoted = [*MINING.values(), *(each for of in ITERATION.values() for each in of.values())]
    assert sorted(each.lstrip("(") for each in intervals) == sorted(quoted)


def test_it_lists_every_notebook():
    listed = re.findall(r"^\| \[(\w+)\]\(notebooks/\1\.ipynb\) \|", README, re.MULTILINE)
    assert listed == sorted(path.stem for path in (project_root() / "notebooks").glob("[0-9]*.ipynb"))


def test_its_first_experiment_runs_with_fewer_steps(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    assert "steps=400" in example
    small = example.replace("steps=400", "steps=10, width=32, batch=64")
    exec(compile(small, "README.md", "exec"), {"__name__": "readme"})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in printed] == ["none", "stock", "anm_orthogonal"]
    assert all(0 < float(line[1]) < 10 and (tmp_path / "runs" / line[-1]).is_dir() for line in printed)
