"""Tables equal hand calculations."""

import math

import pandas as pd
import pytest

from anm_nb.analysis.stats import mean_interval
from anm_nb.analysis.tables import (
    best_reference,
    early_area,
    final,
    score_interval,
    score_table,
)


def curves():
    """Two methods, two seeds, steps 0, 5, 20, 100: mse = method's level + seed + step/100; shuffled rows."""
    rows = [
        {"method": method, "seed": seed, "step": step, "mse": level + seed + step / 100}
        for method, level in (("stock", 1.0), ("anm", 5.0))
        for seed in (0, 1)
        for step in (0, 5, 20, 100)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_final_has_a_row_a_seed_and_a_column_a_method():
    scores = final(curves(), "mse")
    assert scores.index.tolist() == [0, 1]
    assert scores["stock"].tolist() == [2.0, 3.0]
    assert scores["anm"].tolist() == [6.0, 7.0]
    scores = final(curves().query("not (method == 'anm' and seed == 0)"), "mse")
    assert math.isnan(scores.loc[0, "anm"])  # missing, not shifted
    assert scores.loc[1, "anm"] == 7.0


def test_early_area_weighs_by_steps_and_not_by_records():
    """Denser records of the high part of a curve do not raise its area."""
    rows = [{"method": "a", "seed": 0, "step": step, "mse": 1.0 if step < 4 else 0.0} for step in (0, 1, 2, 3, 4, 10)]
    rows.append({"method": "a", "seed": 0, "step": 50, "mse": 9.0})
    assert early_area(pd.DataFrame(rows), "mse").loc[0, "a"] == pytest.approx(3.5 / 10)


REFERENCES = pd.DataFrame(
    {
        "name": ["zero", "mean target", "exact solution", "zero"],
        "kind": ["trivial", "trivial", "classical", "trivial"],
        "metric": ["mse", "mse", "mse", "accuracy"],
        "value": [0.5, 0.25, 0.0, 0.1],
    }
)


def test_scores_stand_beside_their_references():
    scores = pd.DataFrame({"stock": [0.2, 0.3, 0.25], "anm": [0.1, math.nan, 0.2]})
    table = score_table(scores, REFERENCES)
    assert table.index.tolist() == ["zero", "mean target", "exact solution", "stock", "anm"]
    assert table["kind"].tolist() == ["trivial", "trivial", "classical", "measured", "measured"]
    assert table.loc["stock", "mse"] == pytest.approx(0.25)
    assert (table.loc["stock", "low"], table.loc["stock", "high"]) == pytest.approx(mean_interval(scores["stock"])[1:])
    assert table["seeds"].iloc[-2:].tolist() == [3, 2]
    # skill: 0 is the best trivial score, 1 is perfect, below 0 is worse than not learning
    assert table["skill"].tolist() == pytest.approx([-1.0, 0.0, 1.0, 0.0, 0.4])
    assert table.loc["zero":"exact solution", ["low", "high"]].isna().all(axis=None)  # these references have none


def test_intervals_of_scores_respect_the_bounds_of_the_metric():
    near_one = [0.99, 0.999, 0.97]
    assert mean_interval(near_one).high > 1
    for metric in ("tau_all", "balanced_accuracy", "violation_rate", "illegitimate_fraction"):
        assert score_interval(near_one, metric).high < 1
    assert score_interval(near_one, "mse") == mean_interval(near_one)
    assert score_interval([0.5, 1.5, 0.7], "my_rate") == mean_interval([0.5, 1.5, 0.7])  # a user's metric, unbounded


def test_an_unreachable_bound_is_not_a_ceiling():
    references = pd.DataFrame(
        {
            "name": ["copy", "solver", "noise floor"],
            "kind": ["trivial", "classical", "ceiling"],
            "metric": "mse",
            "value": [0.05, 0.04, 0.005],
        }
    )
    assert best_reference(references, "mse", ("classical", "ceiling")) == 0.04
    assert math.isnan(best_reference(references, "tau_all", ("classical",)))
    shown = score_table(pd.DataFrame({"model": [0.03, 0.02]}), references)
    assert shown.loc["noise floor", "kind"] == "unreachable"
    assert shown.loc["model", "skill"] == pytest.approx(0.5)
