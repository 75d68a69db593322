"""Tables, verdicts and a figure of reference scores, on tables whose answers are known by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest

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


def test_the_best_trivial_reference_is_the_one_nearest_the_ceiling(references):
    for problems in VALUES:
        known = referred.references_of(references, *problems)
        assert known.best("trivial") == "copying"
        assert known.best("classical") == "solver"
        assert known.ceiling == pytest.approx(VALUES[problems]["floor"])


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


def test_reference_panels_name_every_reference_and_the_published_score(references):
    figure = referred.reference_panels(references)
    lowrank, connectivity = figure.axes[:2]
    names = ["zero", "copying", "solver", "floor"]
    assert [text.get_text() for text in lowrank.get_yticklabels()] == [*names, "published IRED"]
    assert [text.get_text() for text in connectivity.get_yticklabels()] == names
    assert lowrank.get_xscale() == "log"
    assert connectivity.get_xlabel() == "balanced accuracy"
    points = [(line.get_xdata(), line.get_ydata()) for line in lowrank.lines]
    drawn = {(round(float(x[0]), 4), int(y[0])) for x, y in points if len(x)}
    assert {(0.4, 0), (4.0, 0), (0.2, 1), (0.0174, 4), (0.2054, 4)} <= drawn
