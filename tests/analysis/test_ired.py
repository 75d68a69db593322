"""Tables, verdicts and figures of the reference scores and of base IRED, on tables whose answers are known by hand."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest

from anm_nb.analysis import ired, ired_figures
from anm_nb.analysis import reference_scores as referred

KINDS = {"copying": "trivial", "zero": "trivial", "solver": "classical", "floor": "ceiling"}
# (task, split) → the value of each reference; lowrank's is an error, connectivity's an accuracy
VALUES = {
    ("lowrank", "same"): {"zero": 0.4, "copying": 0.2, "solver": 0.1, "floor": 0.05},
    ("lowrank", "harder"): {"zero": 4.0, "copying": 2.0, "solver": 1.0, "floor": 0.05},
    ("connectivity", "same"): {"zero": 0.5, "copying": 0.6, "solver": 1.0, "floor": 1.0},
    ("connectivity", "harder"): {"zero": 0.5, "copying": 0.6, "solver": 1.0, "floor": 1.0},
}
METRIC = {"lowrank": "mse", "connectivity": "balanced_accuracy"}
SEEDS = (0, 1, 2)
OURS = {"lowrank": (0.1, 0.12, 0.08), "connectivity": (0.9, 0.8, 0.7)}


@pytest.fixture
def references():
    rows = [
        (task, split, seed, name, KINDS[name], METRIC[task], value + 0.001 * (seed - 1) * (name == "copying"))
        for (task, split), values in VALUES.items()
        for name, value in values.items()
        for seed in SEEDS
    ]
    table = pd.DataFrame(rows, columns=["task", "split", "seed", "name", "kind", "metric", "value"])
    other = table[table["task"] == "connectivity"].assign(metric="accuracy", value=0.77)  # not the task's own metric
    return pd.concat([table, other], ignore_index=True).assign(low=np.nan, high=np.nan)


@pytest.fixture
def metrics():
    """Two runs as the store keeps them: test scores in the last row of each seed alone, under names of their own."""
    rows = []
    for task, seed in itertools.product(METRIC, SEEDS):
        rows.append({"method": task, "seed": seed, "step": 0, METRIC[task]: 0.0})
        last = {"method": task, "seed": seed, "step": 10, METRIC[task]: 0.0}
        for split, ours in (("same", OURS[task][seed]), ("harder", VALUES[task, "harder"]["copying"])):
            last |= {f"{split}/{METRIC[task]}/{name}": value for name, value in VALUES[task, split].items()}
            last |= {f"{split}/{METRIC[task]}/{who}": ours for who in ("model", "steps=5", "steps=20")}
            last[f"{split}/accuracy/model"] = 0.123
        rows.append(last)
    return pd.DataFrame(rows)


@pytest.fixture
def scores(metrics):
    return ired.final_test(metrics)


def test_a_final_test_is_read_back_as_it_was_written(scores):
    ours = scores[(scores["predictor"] == "model") & (scores["split"] == "same")]
    for task in METRIC:
        own = ours[(ours["task"] == task) & (ours["metric"] == METRIC[task])].sort_values("seed")
        assert tuple(own["score"]) == OURS[task]
    assert len(scores) == 2 * 3 * 2 * (4 + 3 + 1)


def test_the_best_trivial_reference_is_the_one_nearest_the_ceiling(references):
    for problems in VALUES:
        known = referred.references_of(references, *problems)
        assert known.best("trivial") == "copying"
        assert known.best("classical") == "solver"
        assert known.ceiling == pytest.approx(VALUES[problems]["floor"])


def test_skill_is_one_minus_the_ratio_for_an_error_and_the_way_to_the_ceiling_for_an_accuracy(scores, references):
    rows = ired.with_skill(scores, references)
    ours = rows[(rows["predictor"] == "model") & (rows["split"] == "same")].sort_values(["task", "seed"])
    by_task = ours.groupby("task")["skill"].apply(list)
    assert by_task["lowrank"] == pytest.approx([1 - score / 0.2 for score in OURS["lowrank"]])
    assert by_task["connectivity"] == pytest.approx([(score - 0.6) / 0.4 for score in OURS["connectivity"]])


def test_the_table_has_every_reference_beside_ours_and_the_published_score(scores, references):
    table = ired.ired_table(scores, references)
    row = table.loc[("lowrank", "same")]
    assert (row["trivial"], row["classical"], row["ceiling"]) == pytest.approx((0.2, 0.1, 0.05))
    assert row["base IRED"] == pytest.approx(0.1)
    assert row["low"] < 0.1 < row["high"]
    assert row["published"] == 0.0174
    assert np.isnan(table.loc[("connectivity", "same"), "published"])
    text = ired.shown(table)
    assert text.loc[("lowrank", "same"), "best trivial"] == "0.200 (copying)"
    assert text.loc[("connectivity", "same"), "published IRED, 20×20"] == "–"
    assert re.fullmatch(r"0\.100 \[0\.0503, 0\.150\]", text.loc[("lowrank", "same"), "base IRED here [95 %]"])


def test_verdicts_know_which_way_is_better(scores, references):
    verdicts = {verdict.claim: verdict for verdict in ired.ired_verdicts(scores, references)}
    for task, sign in (("lowrank", -1), ("connectivity", 1)):
        verdict = verdicts[f"base IRED beats every trivial reference on {task}, same problems"]
        assert verdict.state == ("supported" if task == "lowrank" else "undecided")
        gain = np.mean(OURS[task]) - VALUES[task, "same"]["copying"]
        assert verdict.estimate == pytest.approx(-abs(gain))
        assert np.sign(gain) == sign
        # on harder problems it scores what copying scores, to the digit
        assert verdicts[f"base IRED beats every trivial reference on {task}, harder problems"].estimate == 0


def test_a_worse_energy_is_refuted(metrics, references):
    column = "same/mse/model"
    metrics.loc[metrics[column].notna(), column] = [0.31, 0.32, 0.33]
    (verdict,) = (
        verdict
        for verdict in ired.ired_verdicts(ired.final_test(metrics), references, ["same"])
        if "lowrank" in verdict.claim
    )
    assert verdict.state == "refuted"


def test_steps_are_numbers_and_their_verdict_compares_the_most_with_the_fewest(metrics, references):
    column = "same/mse/steps=20"
    metrics.loc[metrics[column].notna(), column] = [0.05, 0.06, 0.04]
    scores = ired.final_test(metrics)
    steps = ired.by_inner_steps(scores, references)
    assert set(steps["steps"]) == {5, 20}
    (verdict, *_) = ired.step_verdicts(scores, references)
    assert verdict.claim.startswith("20 descent steps a level answer better than 5 on lowrank, same")
    assert verdict.state == "supported"
    assert verdict.estimate == pytest.approx(0.05 / 0.2 - 0.1 / 0.2)  # the fewest minus the most


# the references alone


def test_reference_text_has_one_row_a_reference_and_its_skill(references):
    text = referred.reference_text(references)
    assert list(text.xs("lowrank").index.get_level_values("predictor")) == ["zero", "copying", "solver", "floor"]
    assert text.loc[("lowrank", "MSE", "copying"), "skill, same"] == "0.00"
    assert text.loc[("lowrank", "MSE", "solver"), "skill, same"] == "0.50"
    assert text.loc[("lowrank", "MSE", "solver"), "same"] == "0.100"
    assert "[" in text.loc[("lowrank", "MSE", "copying"), "same"]


def test_the_published_score_that_copies_is_called_so():
    """IRED's 0.0174 against copying that scores 0.0175 on every seed, and against one that scores far more."""
    names = {"copy the observed": "trivial", "soft-impute": "classical", "noise floor": "ceiling"}
    for copying, state in ((0.0175, "refuted"), (0.05, "supported")):
        values = {"copy the observed": copying, "soft-impute": 0.0162, "noise floor": 0.005}
        scale = {"same": 1, "harder": 12}
        rows = [
            ("lowrank", split, seed, name, kind, "mse", values[name] * (1 + 0.001 * seed) * scale[split])
            for split, seed, (name, kind) in itertools.product(scale, SEEDS, names.items())
        ]
        table = pd.DataFrame(rows, columns=["task", "split", "seed", "name", "kind", "metric", "value"])
        verdicts = referred.reference_verdicts(table)
        assert verdicts[0].claim.startswith("the published score on lowrank, same problems")
        assert verdicts[0].state == state
        skill = referred.published_skill(table).loc[("lowrank", "same"), "skill of the published score"]
        assert float(skill) == pytest.approx(1 - 0.0174 / (copying * 1.001), abs=0.006)


# figures


def test_reference_panels_name_every_reference_and_the_published_score(references):
    figure = ired_figures.reference_panels(references)
    lowrank, connectivity = figure.axes[:2]
    names = ["zero", "copying", "solver", "floor"]
    assert [text.get_text() for text in lowrank.get_yticklabels()] == [*names, "published IRED"]
    assert [text.get_text() for text in connectivity.get_yticklabels()] == names
    assert lowrank.get_xscale() == "log"
    assert connectivity.get_xlabel() == "balanced accuracy"
    points = [(line.get_xdata(), line.get_ydata()) for line in lowrank.lines]
    drawn = {(round(float(x[0]), 4), int(y[0])) for x, y in points if len(x)}
    assert {(0.4, 0), (4.0, 0), (0.2, 1), (0.0174, 4), (0.2054, 4)} <= drawn


def test_skill_by_steps_has_a_panel_a_task_and_both_kinds_of_problems(scores, references):
    steps, classical = ired.by_inner_steps(scores, references), ired.classical_skill(scores, references)
    assert classical["lowrank", "same"] == pytest.approx(0.5)
    figure = ired_figures.skill_by_steps(steps, classical)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title for title in titles if title] == ["lowrank", "connectivity"]
    solid = next(line for line in figure.axes[0].lines if list(line.get_xdata()) == [5, 20])
    assert list(solid.get_ydata()) == pytest.approx([0.5, 0.5])
    figure.canvas.draw()
