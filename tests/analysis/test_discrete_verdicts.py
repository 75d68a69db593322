"""Each expectation of discrete negatives is judged by its own numbers, task by task."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from anm_nb.analysis import discrete_verdicts
from anm_nb.analysis.discrete_verdicts import (
    DiscreteTables,
    all_verdicts,
    compliance_table,
    headline_verdicts,
    scores_of,
)

STEPS = [0, 10, 100]
METHODS = ["none", "stock", "anm_simplex", "anm_simplex_legitimate"]
MINERS = METHODS[2:]
SCORE = {"sudoku": "cell_accuracy", "connectivity": "balanced_accuracy"}


def jitter(*key):
    return 1 + 0.01 * np.random.default_rng(list(key)).standard_normal()


def tables(methods=METHODS, seeds=4):
    """What the document expects, alike for both tasks, with a small difference from seed to seed."""
    metrics, negatives, denoised, sampled, orders, references = ([] for _ in range(6))
    for task, method, seed in itertools.product(SCORE, methods, range(seeds)):
        mined, factor = method in MINERS, jitter(len(method), seed)
        here = {"task": task, "method": method, "seed": seed}
        for index, step in enumerate(STEPS):
            now = here | {"step": step}
            entropy = {"relative_entropy": 0.4 * factor if mined else np.nan}
            score = [0.3, 0.3, 0.7 if mined else 0.5][index] * factor
            metrics.append(now | entropy | {name: score if SCORE[task] == name else np.nan for name in SCORE.values()})
            rate = [0.8, 0.7, 0.2 if mined else 0.4][index] * factor
            sampled.append(now | {"violation_rate": rate})
            denoised += [now | {"level": level, "violation_rate": rate * (level + 1) / 2} for level in (0, 1)]
            pair = {"level": 0, "clue_error": 0.0, "invalid_mass": 0.0 if mined else np.nan, "excluded_mass": 0.1}
            pair |= {"illegitimate": 0.2 * factor, "decisions_changed": 1.0}
            negatives.append(now | entropy | pair)
        orders.append(here | {"kind": "held_out", "wrong": (0.1 if mined else 0.2) * factor})
        orders.append(here | {"kind": "stock", "wrong": 9.0})
    for task, seed, (name, value) in itertools.product(SCORE, range(seeds), {"dull": 0.1, "dullest": 0.05}.items()):
        references.append(
            {"task": task, "seed": seed, "name": name, "kind": "trivial", "metric": SCORE[task], "value": value}
        )
    return DiscreteTables(*map(pd.DataFrame, (metrics, negatives, denoised, sampled, orders, references)))


def states(given, task="sudoku"):
    return {verdict.claim: verdict.state for verdict in all_verdicts(given, task)}


def where(table, **place):
    chosen = pd.Series(True, table.index)
    for column, value in place.items():
        chosen &= table[column] == value
    return chosen


@pytest.mark.parametrize("task", SCORE)
def test_where_every_expectation_holds_every_claim_is_supported(task):
    found = states(tables(), task)
    assert len(found) == 2 * (5 + 3) + 2 + 4
    assert set(found.values()) == {"supported"}
    assert all(claim.startswith(f"{task}: ") for claim in found)


# The table, the rows and the value that contradict each claim about a miner, and what else cannot hold then.
VIOLATIONS = {
    "entropy_band": ("metrics", {"step": 0}, "relative_entropy", -0.5, []),
    "mask_compliance": ("negatives", {"step": 10}, "invalid_mass", 0.01, []),
    "violations_fall": ("denoised", {"step": 0}, "violation_rate", 0.01, []),
    "samples_break_fewer": ("sampled", {"step": 0}, "violation_rate", 0.01, []),
    "fewer_violations": ("denoised", {"step": 100}, "violation_rate", 0.5, []),
    "better_order": ("orders", {"kind": "held_out"}, "wrong", 0.4, []),
    "legitimacy": ("negatives", {"step": 100}, "illegitimate", 0.9, []),
    "better_score": ("metrics", {"step": 100}, "cell_accuracy", 0.2, []),
    "beyond_trivial": ("metrics", {"step": 100}, "cell_accuracy", 0.07, ["better_score"]),
}


@pytest.mark.parametrize("claim", VIOLATIONS)
def test_where_an_expectation_is_violated_its_claim_alone_is_refuted(claim):
    name, place, column, value, others = VIOLATIONS[claim]
    given = tables()
    table = getattr(given, name).copy()
    table.loc[where(table, task="sudoku", method="anm_simplex", **place), column] = value
    given = replace(given, **{name: table})
    refuted = {claim for claim, state in states(given).items() if state == "refuted"}
    own = given.of("sudoku")
    expected = {getattr(discrete_verdicts, each)(own, "sudoku", "anm_simplex").claim for each in (claim, *others)}
    assert refuted == expected
    assert set(states(given, "connectivity").values()) == {"supported"}


def test_a_clue_that_moves_breaks_compliance_as_invalid_mass_does():
    given = tables()
    negatives = given.negatives.copy()
    negatives.loc[where(negatives, task="sudoku", method="anm_simplex", step=10), "clue_error"] = 0.5
    verdict = discrete_verdicts.mask_compliance(replace(given, negatives=negatives).of("sudoku"), "sudoku", MINERS[0])
    assert verdict.state == "refuted"
    assert verdict.estimate == pytest.approx(0.5)


def test_an_entropy_is_judged_early_and_a_uniform_one_is_no_middle():
    given = tables()
    metrics = given.metrics.copy()
    mined = metrics["method"] == "anm_simplex"
    metrics.loc[mined & (metrics["step"] == 100), "relative_entropy"] = 0.0  # late: no matter
    assert set(states(replace(given, metrics=metrics)).values()) == {"supported"}
    metrics.loc[mined & (metrics["step"] < 100), "relative_entropy"] = 0.99
    assert discrete_verdicts.entropy_band(
        replace(given, metrics=metrics).of("sudoku"), "sudoku", "anm_simplex"
    ).state == ("refuted")


def test_the_best_trivial_reference_is_the_one_to_beat():
    given = tables()
    verdict = discrete_verdicts.beyond_trivial(given.of("sudoku"), "sudoku", "stock")
    assert "'dull'" in verdict.claim
    references = given.references.copy()
    references.loc[references["name"] == "dullest", "value"] = 0.6
    verdict = discrete_verdicts.beyond_trivial(replace(given, references=references).of("sudoku"), "sudoku", "stock")
    assert "'dullest'" in verdict.claim
    assert verdict.state == "refuted"


def test_what_the_seeds_cannot_tell_is_undecided():
    assert set(states(tables(seeds=2)).values()) == {"undecided"}


def test_the_headlines_are_the_document_s_claims():
    headlines = headline_verdicts(tables(), "connectivity")
    assert len(headlines) == 2 * 5
    assert sum("section G" in (verdict.expected or "") for verdict in headlines) == 2 * 3
    assert sum("section J" in (verdict.expected or "") for verdict in headlines) == 2


def test_the_controls_carry_no_expectation():
    controls = [v for v in all_verdicts(tables(), "sudoku") if "no negatives" in v.claim or "with stock" in v.claim]
    assert len(controls) >= 2
    assert all(v.expected is None for v in controls if "x̂₀" in v.claim and "than at the start" in v.claim)


@pytest.mark.parametrize(
    ("methods", "claims"), [(["none"], 2), (["stock"], 2), (["anm_simplex"], 6), (["stock", "anm_simplex"], 8 + 1 + 2)]
)
def test_claims_about_methods_that_are_missing_are_not_made(methods, claims):
    assert len(states(tables(methods))) == claims


def test_compliance_is_the_worst_pair_and_the_mean_of_what_is_excluded():
    negatives = tables().negatives
    rows = where(negatives, task="sudoku", method="anm_simplex")
    negatives.loc[rows & (negatives["seed"] == 1), ["clue_error", "invalid_mass"]] = [0.25, 0.5]
    negatives.loc[rows & (negatives["seed"] == 0), "excluded_mass"] = 0.5
    negatives.loc[rows & (negatives["step"] == 10), "decisions_changed"] = 0.0
    row = compliance_table(negatives).loc["sudoku", "anm_simplex"]
    assert row.tolist() == pytest.approx([0.25, 0.5, 0.2, 1 / 3])
    assert np.isnan(compliance_table(negatives).loc[("sudoku", "stock"), "invalid_mass"])


def test_boards_are_shown_and_judged_by_their_cells():
    assert scores_of("sudoku") == ("cell_accuracy", "board_accuracy")
    assert scores_of("connectivity") == ("balanced_accuracy",)
