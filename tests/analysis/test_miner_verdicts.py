"""Each expectation of sections B and H is judged by its own numbers: supported where they hold, refuted where not."""

import itertools

import numpy as np
import pandas as pd
import pytest

from anm_nb.analysis.miner_verdicts import (
    descent_verdicts,
    legitimacy_verdicts,
    step_size_verdicts,
    training_verdicts,
)

SEEDS = range(4)
METHODS = ("anm", "anm_orthogonal")


def rows(**keys):
    return pd.DataFrame(itertools.product(*keys.values(), SEEDS), columns=[*keys, "seed"])


def spread(table):
    """A small difference from seed to seed."""
    return 1 + 0.01 * np.sin(table["seed"] + 1.0)


def armijo(violations=0):
    return rows(rule=["armijo"], method=METHODS).assign(violations=violations)


def paths(last=1e-5, cosine=0.9):
    table = rows(energy=["trained", "optimal"], method=METHODS, evaluations=[1, 2])
    end = table["evaluations"] == 2
    return table.assign(gm_norm=np.where(end, last, 0.5) * spread(table), cosine=np.where(end, cosine, 0.0))


def mined(hard_free=0.0, hard_orthogonal=0.0, illegitimate=0.1, orthogonal=0.0, residual=0.0, gm=1e-6, close=0.0):
    table = rows(energy=["trained", "optimal"], method=METHODS, example=range(2))
    free = table["method"] == "anm"
    return table.assign(
        p_hard=np.where(free, hard_free, hard_orthogonal),
        illegitimate=np.where(free, illegitimate, orthogonal),
        feasibility_residual=residual,
        gm_norm=gm * spread(table),
        too_close=close,
    )


def by_step_size(short=0.0, long=0.4):
    table = rows(method=METHODS, step_size=[0.1, 10.0])
    return table.assign(miner_limit_hits=np.where(table["step_size"] < 1, short, long) * spread(table))


def rules(**left):
    values = {"fixed": 0.5, "armijo": 0.3, "barzilai_borwein": 0.1} | left
    table = rows(method=METHODS, step_size=[0.1], rule=list(values), evaluations=[1, 2])
    return table.assign(energy_left=table["rule"].map(values) * spread(table))


WISHED = {
    ("inner_steps", 2.0): {},
    ("inner_steps", 3.0): {"dev_margin": 1.0},
    ("inner_steps", 8.0): {"mse": 2.0, "oscillation": 2.0},
    ("ema_decay", 0.0): {"oscillation": 2.0},
    ("ema_decay", 0.9): {},
    ("lr_divisor", 1.0): {"oscillation": 2.0},
    ("lr_divisor", 2.0): {},
    ("none", np.nan): {"dev_margin": 0.2},
    ("stock", np.nan): {"dev_margin": 0.3},
}


def trained(wished=True, seeds=SEEDS):
    parts = []
    for (factor, value), changes in WISHED.items():
        values = {"mse": 1.0, "dev_margin": 0.5, "oscillation": 1.0, "dev_margin_optimal": 2.0} | changes
        method = factor if np.isnan(value) else "anm_orthogonal"
        parts += [{"factor": factor, "value": value, "method": method, "seed": seed} | values for seed in seeds]
    table = pd.DataFrame(parts)
    sign = 1 if wished else -1
    measures = ["mse", "dev_margin", "oscillation", "dev_margin_optimal"]
    return table.assign(**{name: sign * table[name] * spread(table) for name in measures})


def states(verdicts):
    return [verdict.state for verdict in verdicts]


def test_where_every_expectation_holds_every_claim_is_supported():
    assert set(states(descent_verdicts(armijo(), paths(), mined()))) == {"supported"}
    assert set(states(legitimacy_verdicts(paths(), mined()))) == {"supported"}
    assert set(states(step_size_verdicts(by_step_size(), rules()))) == {"supported"}
    assert set(states(training_verdicts(trained()))) == {"supported"}
    assert len(training_verdicts(trained())) == 7


DESCENT = {
    "no accepted step": (armijo(1), paths(), mined()),
    "falls along": (armijo(), paths(last=0.9), mined()),
    "ends stationary": (armijo(), paths(), mined(gm=0.1)),
    "from its set": (armijo(), paths(), mined(residual=0.1)),
    "keeps its distance": (armijo(), paths(), mined(close=0.3)),
}


@pytest.mark.parametrize("claim", DESCENT)
def test_a_violation_of_the_descent_refutes_its_claim_alone(claim):
    for verdict in descent_verdicts(*DESCENT[claim]):
        assert verdict.state == ("refuted" if claim in verdict.claim else "supported"), verdict.claim


LEGITIMACY = {
    "finds few hard": (paths(), mined(hard_free=1.0)),
    "finds no hard": (paths(), mined(hard_orthogonal=0.2)),
    "walks along": (paths(cosine=0.1), mined()),
    "most negatives": (paths(), mined(illegitimate=0.9)),
    "no negative of": (paths(), mined(orthogonal=0.3)),
}


@pytest.mark.parametrize("claim", LEGITIMACY)
def test_a_violation_of_legitimacy_refutes_its_claim_alone(claim):
    for verdict in legitimacy_verdicts(*LEGITIMACY[claim]):
        assert verdict.state == ("refuted" if claim in verdict.claim else "supported"), verdict.claim


@pytest.mark.parametrize(
    ("tables", "claim"),
    [
        ((by_step_size(0.4, 0.0), rules()), "a first step of 0.1"),
        ((by_step_size(), rules(fixed=0.2)), "Armijo leaves"),
        ((by_step_size(), rules(barzilai_borwein=0.4)), "Barzilai–Borwein leaves"),
    ],
)
def test_a_rule_or_step_that_does_worse_refutes_its_claim_alone(tables, claim):
    for verdict in step_size_verdicts(*tables):
        assert verdict.state == ("refuted" if verdict.claim.startswith(claim) else "supported"), verdict.claim


def test_trainings_that_go_the_other_way_refute_every_claim_and_two_seeds_none():
    assert set(states(training_verdicts(trained(wished=False)))) == {"refuted"}
    assert set(states(training_verdicts(trained(seeds=range(2))))) == {"undecided"}


def test_where_one_value_alone_was_trained_there_is_nothing_to_compare():
    table = trained()
    one = table[table["value"].isna() | table["value"].isin([3.0, 0.9, 1.0])]
    assert len(training_verdicts(one)) == 3  # held-out margins alone


def test_what_cannot_hold_points_at_the_derivation():
    verdicts = legitimacy_verdicts(paths(), mined()) + descent_verdicts(armijo(), paths(), mined())
    pointing = [v.claim for v in verdicts if v.expected and "see the derivation" in v.expected]
    assert pointing == [
        "ANM as written finds few hard negatives on a perfect energy",
        "on a perfect energy every negative of ANM ⊥ ε keeps its distance δ from the truth",
    ]
    assert any("see the derivation" in (v.expected or "") for v in training_verdicts(trained()))
