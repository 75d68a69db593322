"""Each expectation of the landscape is judged by its own numbers, of its own direction and level."""

import itertools

import numpy as np
import pandas as pd
import pytest

from anm_nb.analysis import landscape_checklist
from anm_nb.analysis.landscape_checklist import all_verdicts, headline_verdicts, states_by_level
from anm_nb.config import ParameterError
from anm_nb.studies.landscape_study import DIRECTIONS

STEPS = [0, 20, 100]
GOOD = {  # what the document expects of mining, at those steps
    "barrier": [0.1, 9.0, 2.0],
    "curvature_per_length": [0.2, 9.0, 1.6],
    "dir_derivative": [-0.5, 9.0, 0.1],
}
BASELINE = {
    "barrier": [0.1, 9.0, 1.0],
    "curvature_per_length": [0.2, 9.0, 1.0],
    "dir_derivative": [-0.5, 9.0, -1.0],
}
OPTIMAL = {"barrier": [3.0] * 3, "curvature_per_length": [1.7] * 3, "dir_derivative": [0.0] * 3}
METHODS = {"none": BASELINE, "stock": BASELINE, "anm": GOOD, "anm_orthogonal": GOOD, "optimal": OPTIMAL}


def table(methods=METHODS, seeds=4, levels=(3,)):
    """Numbers of the given methods, alike in every direction and level, with a small difference from seed to seed."""
    rows = []
    for method, seed, level, direction in itertools.product(methods, range(seeds), levels, DIRECTIONS):
        factor = 1 + 0.01 * np.random.default_rng([len(method), seed]).standard_normal()
        for index, step in enumerate(STEPS):
            values = {name: factor * curve[index] for name, curve in methods[method].items()}
            place = {"method": method, "seed": seed, "step": step, "direction": direction, "level": level}
            rows.append(place | values)
    return pd.DataFrame(rows)


def states(numbers):
    return {verdict.claim: verdict.state for verdict in all_verdicts(numbers)}


def test_where_every_expectation_holds_every_claim_is_supported():
    found = states(table())
    assert len(found) == 2 * (4 + 2 + 6) + 2
    assert set(found.values()) == {"supported"}


# The column, the direction and the step that decide each claim of anm, and a value that contradicts it.
VIOLATIONS = {
    "barrier_growth": ("barrier", "mined", 0, 5.0),
    "curvature_growth": ("curvature_per_length", "mined", 0, 5.0),
    "slope_growth": ("dir_derivative", "mined", 0, 5.0),
    "higher_barrier": ("barrier", "held_out", 100, 0.5),
    "nearer_curvature": ("curvature_per_length", "held_out", 100, 0.4),
    "nearer_minimum": ("dir_derivative", "mined_orthogonal", 100, -5.0),
}


@pytest.mark.parametrize("claim", VIOLATIONS)
def test_where_an_expectation_is_violated_its_claim_alone_is_refuted(claim):
    column, direction, step, value = VIOLATIONS[claim]
    numbers = table()
    changed = (numbers["method"] == "anm") & (numbers["direction"] == direction) & (numbers["step"] == step)
    numbers.loc[changed, column] = value
    refuted = {claim for claim, state in states(numbers).items() if state == "refuted"}
    arguments = [("anm", direction)] if "growth" in claim else [("anm", "stock"), ("anm", "none")]
    assert refuted == {getattr(landscape_checklist, claim)(numbers, *each).claim for each in arguments}


def test_a_slope_that_ends_below_zero_has_not_reached_it():
    numbers = table()
    numbers.loc[(numbers["method"] == "anm") & (numbers["step"] == 100), "dir_derivative"] = -0.2
    assert landscape_checklist.slope_sign(numbers, "anm", "mined").state == "refuted"
    assert landscape_checklist.slope_growth(numbers, "anm", "mined").state == "supported"


def test_steeper_than_a_perfect_denoiser_is_no_better():
    """Twice too much is as far away as nothing at all: the document's 'higher' knows no limit, the reference does."""
    numbers = table()
    numbers.loc[(numbers["method"] == "anm") & (numbers["step"] == 100), "curvature_per_length"] = 3.4
    assert landscape_checklist.nearer_curvature(numbers, "anm", "stock").state == "refuted"
    assert landscape_checklist.curvature_growth(numbers, "anm", "held_out").state == "supported"


def test_a_flat_energy_has_a_gentle_slope_and_gains_nothing_by_it():
    numbers = table()
    flat = (numbers["method"] == "anm") & (numbers["direction"] == "mined_orthogonal") & (numbers["step"] == 100)
    numbers.loc[flat, "dir_derivative"], numbers.loc[flat, "curvature_per_length"] = -0.2, 0.1
    verdict = landscape_checklist.nearer_minimum(numbers, "anm", "stock")
    assert verdict.state == "refuted"
    assert verdict.estimate == pytest.approx(2 - 1)


def test_a_mined_method_is_judged_along_what_its_own_miner_finds():
    numbers = table()
    numbers.loc[(numbers["direction"] == "mined_orthogonal") & (numbers["step"] == 0), "barrier"] = 5.0
    growth = {
        v.claim: v.state for v in headline_verdicts(numbers) if "at the start" in v.claim and "barrier" in v.claim
    }
    assert [state for claim, state in growth.items() if "of anm " in claim] == ["supported"]
    assert [state for claim, state in growth.items() if "of anm_orthogonal " in claim] == ["refuted"]


def test_what_the_seeds_cannot_tell_is_undecided():
    assert set(states(table(seeds=2)).values()) == {"undecided"}
    numbers = table()
    numbers["barrier"] += 5 * numbers["seed"] * (numbers["method"] == "anm") - 4 * (numbers["method"] == "anm")
    assert landscape_checklist.higher_barrier(numbers, "anm", "stock").state == "undecided"


def test_the_headlines_are_the_document_s_claims_and_the_control():
    numbers = table()
    headlines = headline_verdicts(numbers)
    assert len(headlines) == 2 * (3 + 2) + 1
    assert {verdict.claim for verdict in headlines} <= set(states(numbers))
    assert all("section" in verdict.expected for verdict in headlines[:-1])
    assert "none" in headlines[-1].claim
    assert headlines[-1].expected is None


@pytest.mark.parametrize(
    ("methods", "claims"), [(["none"], 2), (["anm"], 6), (["anm", "stock"], 9), (["anm", "none"], 11), (["stock"], 0)]
)
def test_claims_about_methods_that_are_missing_are_not_made(methods, claims):
    numbers = table({name: METHODS[name] for name in [*methods, "optimal"]})
    assert len(states(numbers)) == claims
    assert len(headline_verdicts(numbers)) <= claims


def test_every_level_is_judged_by_its_own_rows():
    numbers = table(levels=(0, 6))
    numbers.loc[(numbers["level"] == 6) & (numbers["method"] == "anm") & (numbers["step"] == 100), "barrier"] = 0.01
    found = states_by_level(numbers)
    assert list(found.columns) == ["k = 0", "k = 6"]
    assert set(found["k = 0"]) == {"supported"}
    assert set(found.index[found["k = 6"] == "refuted"]) == {
        "the barrier of anm towards negatives mined against it is higher at the end than at the start",
        "the barrier of anm towards held-out negatives is higher at the end than at the start",
        "anm ends with higher barriers towards held-out negatives than stock",
        "anm ends with higher barriers towards held-out negatives than none",
    }
    for judged in (all_verdicts, headline_verdicts):
        with pytest.raises(ParameterError, match=r"numbers of the levels \[0, 6\]: verdicts are about one level"):
            judged(numbers)
