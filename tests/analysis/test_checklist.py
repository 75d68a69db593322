"""Each expectation of the ANM checklist is judged by its own numbers: supported where they hold, refuted where not."""

import math

import numpy as np
import pandas as pd
import pytest

from anm_nb.analysis import checklist
from anm_nb.analysis.checklist import all_verdicts, headline_verdicts

STEPS = [0, 10, 20, 30, 100]  # 30 lies beyond the first 20 %
GOOD = {  # what the document expects of mining, at those steps
    "mse": [5.0, 2.0, 1.0, 1e6, 0.2],
    "dev_p_hard": [0.5, 0.4, 0.3, 1e6, 0.05],
    "dev_margin_mean": [0.0, 0.1, 0.3, -1e6, 3.0],
    "p_hard": [0.9, 0.8, 0.7, 1e6, 0.1],
    "margin_mean": [-0.1, 0.1, 0.3, 1e6, 4.0],
    "loss_con": [0.9, 0.5, 0.3, 1e6, 0.1],
    "grad_share_contrast": [0.6, 0.5, 0.4, 1e6, 0.0],
    "illegitimate_fraction": [0.9, 0.9, 0.9, 1e6, 0.1],
}
BASELINE = GOOD | {
    "mse": [5.0, 4.0, 3.0, -1e6, 1.0],
    "dev_p_hard": [0.5, 0.5, 0.4, -1e6, 0.3],
    "dev_margin_mean": [0.0, 0.1, 0.2, 1e6, 1.0],
    "loss_con": [0.7, 0.65, 0.6, -1e6, 0.5],
}
UNCONTRASTED = ("mse", "dev_p_hard", "dev_margin_mean")
PLAIN = {name: values if name in UNCONTRASTED else [math.nan] * 5 for name, values in BASELINE.items()}


def table(seeds=4, **methods):
    """Metrics of the given methods: their curves, with a small difference from seed to seed."""
    rows = []
    for method, curves in methods.items():
        source = np.random.default_rng(len(method))
        for seed in range(seeds):
            factor = 1 + 0.01 * source.standard_normal()
            for index, step in enumerate(STEPS):
                values = {name: factor * values[index] for name, values in curves.items()}
                rows.append({"method": method, "seed": seed, "step": step} | values)
    return pd.DataFrame(rows)


def states(metrics):
    return {verdict.claim: verdict.state for verdict in all_verdicts(metrics)}


def test_where_every_expectation_holds_every_claim_is_supported():
    found = states(table(anm=GOOD, stock=BASELINE, none=PLAIN))
    assert set(found.values()) == {"supported"}
    assert len(found) == 13  # four against each baseline, the loss against stock, four of its own
    both = states(table(anm=GOOD, anm_orthogonal=GOOD, stock=BASELINE, none=PLAIN))
    assert len(both) == 26
    assert set(both.values()) == {"supported"}


# The column and the step that decide each claim, and a value that contradicts it.
VIOLATIONS = {
    "final_score": ("mse", {100: 3.0}),
    "early_learning": ("mse", {0: 50.0}),
    "held_out_order": ("dev_p_hard", {100: 0.6}),
    "held_out_margin": ("dev_margin_mean", {100: 0.5}),
    "loss_tightening": ("loss_con", {20: 0.88}),
    "hardness_drop": ("p_hard", {100: 0.99}),
    "margin_growth": ("margin_mean", {100: -4.0}),
    "gradient_share": ("grad_share_contrast", {0: 0.99, 10: 0.95, 20: 0.9}),
    "legitimacy": ("illegitimate_fraction", {100: 0.9}),
}


@pytest.mark.parametrize("claim", VIOLATIONS)
def test_where_an_expectation_is_violated_its_claim_alone_is_refuted(claim):
    column, changes = VIOLATIONS[claim]
    bad = GOOD | {column: [changes.get(step, value) for step, value in zip(STEPS, GOOD[column], strict=True)]}
    metrics = table(anm=bad, stock=BASELINE, none=PLAIN)
    judged = getattr(checklist, claim)
    against_both = [judged.__name__ for judged in checklist.AGAINST_A_BASELINE]
    against_baseline = claim in (*against_both, "loss_tightening")
    arguments = ("anm", "stock") if against_baseline else ("anm",)
    assert judged(metrics, *arguments).state == "refuted"
    refuted = {claim for claim, state in states(metrics).items() if state == "refuted"}
    assert judged(metrics, *arguments).claim in refuted
    assert len(refuted) == (2 if claim in against_both else 1)
    assert set(states(metrics).values()) == {"supported", "refuted"}


def test_what_the_seeds_cannot_tell_is_undecided():
    metrics = table(anm=GOOD, stock=BASELINE, none=PLAIN)
    same = table(anm=BASELINE, stock=BASELINE)
    assert checklist.final_score(same.assign(mse=same["mse"] + same["seed"] % 2), "anm", "stock").state == "undecided"
    assert set(states(metrics[metrics["seed"] < 2]).values()) == {"undecided"}


def test_a_few_illegitimate_negatives_are_still_mostly_legitimate_ones():
    """A share cannot be below 0; an interval that reaches there is no reason to doubt that it is below a half."""
    metrics = table(seeds=3, anm=GOOD)
    metrics.loc[metrics["step"] == 100, "illegitimate_fraction"] = [0.0, 0.01, 0.03]
    assert checklist.legitimacy(metrics, "anm").state == "supported"


def test_what_the_document_expects_is_told_where_it_expects_something():
    verdicts = all_verdicts(table(anm=GOOD, stock=BASELINE, none=PLAIN))
    expectations = {verdict.claim: verdict.expected for verdict in verdicts}
    for claim, expected in expectations.items():
        if "none" in claim or "legitimate" in claim:
            assert expected is None
        else:
            assert "section" in expected


@pytest.mark.parametrize(
    ("methods", "claims"),
    [
        ({}, 0),
        ({"none": PLAIN}, 0),
        ({"stock": BASELINE, "none": PLAIN, "mine_own": GOOD}, 0),
        ({"anm": GOOD}, 4),
        ({"anm": GOOD, "stock": BASELINE}, 9),
        ({"anm": GOOD, "none": PLAIN}, 8),
        ({"anm_orthogonal": GOOD, "random": BASELINE}, 4),
    ],
)
def test_claims_about_methods_that_are_missing_are_not_made(methods, claims):
    metrics = table(**methods) if methods else table(none=PLAIN).iloc[:0]
    assert len(states(metrics)) == claims
    assert set(states(metrics).values()) <= {"supported"}
    headlines = {verdict.claim for verdict in headline_verdicts(metrics)}
    assert headlines <= set(states(metrics))


def test_the_headlines_are_the_outcome_against_each_baseline_and_legitimacy():
    metrics = table(anm=GOOD, stock=BASELINE, none=PLAIN)
    headlines = headline_verdicts(metrics)
    assert [verdict.claim for verdict in headlines] == [
        checklist.final_score(metrics, "anm", "stock").claim,
        checklist.final_score(metrics, "anm", "none").claim,
        checklist.legitimacy(metrics, "anm").claim,
    ]


def test_a_seed_that_a_method_lacks_is_not_paired_with_another():
    metrics = table(anm=GOOD, stock=BASELINE)
    fewer = metrics[~((metrics["method"] == "anm") & (metrics["seed"] == 1))]
    verdict = checklist.final_score(fewer, "anm", "stock")
    assert verdict.seeds == 3
    scores = metrics[(metrics["step"] == 100) & (metrics["seed"] != 1)].pivot(
        index="seed", columns="method", values="mse"
    )
    assert verdict.estimate == pytest.approx(float((scores["anm"] - scores["stock"]).mean()))
