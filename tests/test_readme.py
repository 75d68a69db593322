"""README is short, its numbers are those of kept results, and its experiment runs."""

import re

import numpy as np
from notebook_cells import names_of

from anm_nb.analysis import kept, ranking
from anm_nb.analysis.stats import mean_interval, paired_difference, proportion_interval, ratio_interval
from anm_nb.analysis.tables import final
from anm_nb.files import project_root

README = (project_root() / "README.md").read_text(encoding="utf-8")
ANSWERS = README.split("<!-- begin: answers -->\n")[1].split("<!-- end: answers -->")[0]
MINING, ITERATION = (" ".join(answer.split()) for answer in ANSWERS.split("\n\n"))
NUMBER = re.compile(r"[+−]\d\S*(?: %)? \[[^]]+\]")


def written(estimate, low, high, digits, unit=""):
    text = f"{estimate:+z.{digits}f}{unit} [{low:+z.{digits}f}, {high:+z.{digits}f}]"
    return text.replace("-", "−")


def percent(first, second, digits):
    return written(*(100 * (ratio - 1) for ratio in ratio_interval(first, second)), digits, " %")


def gain(scores, first, second):
    found = paired_difference(scores[first], scores[second])
    return written(found.estimate, found.low, found.high, 3)


def test_it_is_at_most_10_kb_and_answers_in_15_lines():
    assert len(README.encode()) <= 10_000
    assert len([line for line in ANSWERS.splitlines() if line]) <= 15
    assert max(map(len, ANSWERS.splitlines())) <= 126


def test_its_numbers_on_mining_are_those_of_kept_runs():
    untuned = kept.load("10_anm_vs_corruption")
    errors = final(untuned.metrics, "mse")
    assert untuned.scope.startswith("inverse, size 5, 2,000 steps, 10 seeds")
    study = kept.load("16_anm_verdict")
    assert study.scope.startswith("inverse, size 5, 2,000 steps, 12 seeds")
    tuned = final(study.metrics, "test_same")
    rivals = ("stock", "none", "stock, more steps", "none, more steps")
    assert NUMBER.findall(MINING) == [
        *(percent(tuned["anm_orthogonal"], tuned[rival], 0) for rival in rivals),
        percent(errors["anm"], errors["stock"], 0),
    ]


def test_what_it_says_of_search_and_model_is_that_of_kept_runs():
    result = kept.load("17_search_or_model")
    assert result.scope_of("none").startswith("sudoku, size 4, 500 steps, 10 seeds")
    harder = result.table("blame").query("split == 'harder'")
    plain = harder.query("method == 'none'").pivot(index="seed", columns="search", values="solved")
    for search in ("published sampler", "beam of 4"):
        mean, low, high = (f"{100 * value:.0f}" for value in mean_interval(plain[search]))
        assert f"{mean} % [{low}, {high}]" in MINING
    wrong = harder.groupby("method")[["search error", "model error"]].sum()
    share = wrong["model error"] / wrong.sum(axis=1)
    with_mrncl = f"{100 * share.pop('mrncl'):.0f} % with MRNCL's negatives"
    assert f"no failure is a known model error ({with_mrncl})" in MINING
    assert set(share) == {0.0}
    cost = result.table("curves").groupby("search")["cost"].max()
    assert cost["beam of 4"] <= cost["published sampler"]


def test_what_it_says_of_connectivity_is_that_of_kept_runs():
    result = kept.load("17_search_or_model_connectivity")
    assert result.scope_of("none").startswith("connectivity, size 6, 500 steps, 10 seeds")
    table = result.table("blame")
    wrong = table[["search error", "model error"]].sum()
    solved = table.query("search == 'published sampler'").pivot(index="seed", columns="method", values="solved")
    mined, plain = (
        "{} % [{}, {}]".format(*(f"{100 * value:.0f}" for value in mean_interval(solved[method])))
        for method in ("anm_simplex_legitimate", "none")
    )
    share = f"{100 * wrong['model error'] / wrong.sum():.0f} %"
    assert f"{share} of failures are model errors" in MINING
    assert f"legitimate mining solves {mined}, no negatives {plain}" in MINING
    assert paired_difference(solved["anm_simplex_legitimate"], solved["none"]).low > 0


def test_its_numbers_on_iteration_are_those_of_kept_runs():
    result = kept.load("25_where_iteration_helps")
    assert result.scope.startswith("hinted_sort, size 20, 8 epochs, 5 seeds")
    assert {run["config"]["width"] for run in result.provenance.values()} == {64}
    trained = result.table("test_iterations").query("iterations == trained")
    half = trained.pivot(index="seed", columns="model", values="tau_all")
    pairs = [("weight-tied", "no iteration"), ("deep untied", "no iteration"), ("HRM per token", "weight-tied")]
    assert NUMBER.findall(ITERATION.split("with 75 % and 90 % hidden")[0]) == [gain(half, *pair) for pair in pairs]
    rates = result.table("mask_rates").pivot(index=["mask_rate", "seed"], columns="model", values="tau_all")
    for rate in (0.75, 0.9):
        found = paired_difference(*(rates.loc[rate, model] for model in ("HRM per token", "weight-tied")))
        assert found.low < -ranking.MARGIN < ranking.MARGIN < found.high
    found = paired_difference(*(half[model] for model in pairs[-1]))
    assert max(abs(found.low), abs(found.high)) < ranking.MARGIN == 0.01
    assert ranking.on_test(kept.load("hrm").metrics, "tau_obs").min(axis=None) > 0.999


def test_what_it_says_of_take_off_is_that_of_kept_runs():
    result = kept.load("26_take_off")
    assert result.scope_of("as it is").startswith("hinted_sort, size 20, 8 epochs, 160 seeds")
    config = result.provenance["as it is"]["config"]
    assert config["width"] == 32
    assert config["epochs"] * -(-config["train_samples"] // config["batch"]) == 504
    assert config["mask_rate"] == 0.9
    off = result.table("taken").pivot(index=["model", "seed"], columns="mask_rate", values="step") < np.inf
    counts = off[0.9].groupby("model").sum()
    intervals = {model: proportion_interval(int(count), 160) for model, count in counts.items()}
    shares = {
        model: f"{count} [{100 * intervals[model].low:.0f}, {100 * intervals[model].high:.0f} %]"
        for model, count in counts.items()
    }
    assert f"one pass takes off in {shares['no iteration']} of 160 seeds, one block repeated " in ITERATION
    assert f"in {shares['weight-tied']}, HRM in {shares['HRM per token']}." in ITERATION
    judged, again = result.table("judged").set_index("remedy"), result.table("again")
    assert list(judged.index[judged["helps"]]) == ["batch × 4"] == list(again["remedy"].unique()[1:])
    fresh = [(int(own.sum()), len(own)) for _, own in np.isfinite(again["step"]).groupby(again["remedy"], sort=False)]
    given = {"np": np, "proportion_interval": proportion_interval}
    difference = names_of("26_take_off", "shares", given=given)["proportion_difference"]
    found = judged.loc["batch × 4", ["estimate", "low", "high"]], difference(fresh[1], fresh[0])
    first, second = (written(*(100 * each for each in gap), 0) for gap in found)
    assert f"only fourfold batches help ({first} points)" in ITERATION
    assert f"on 160 fresh seeds undecided ({second} points)" in ITERATION
    assert fresh[0][1] == fresh[1][1] == 160
    assert found[1][1] < 0 < found[1][2] < 0.2


def test_it_lists_every_notebook():
    listed = re.findall(r"^\| \[(\w+)\]\(notebooks/\1\.ipynb\) \|", README, re.MULTILINE)
    assert listed == sorted(path.stem for path in (project_root() / "notebooks").glob("[0-9]*.ipynb"))


def test_its_first_experiment_runs_with_fewer_steps(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    assert "steps=400" in example
    tiny = example.replace("steps=400", "steps=3, records=3, width=16, batch=16, dev_examples=16")
    exec(compile(tiny, "README.md", "exec"), {"__name__": "readme"})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in printed] == ["none", "stock", "anm_orthogonal"]
    assert all(0 < float(line[1]) < 10 and (tmp_path / "runs" / line[-1]).is_dir() for line in printed)
