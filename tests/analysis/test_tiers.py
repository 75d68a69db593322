"""The document's tiers, judged in the space they were measured in, and the power behind a verdict."""

import math

import numpy as np
import pytest

from anm_nb.analysis.tiers import TIERS, evaluate_tiers
from anm_nb.config import ParameterError

SPREAD = np.array([-0.004, -0.002, 0.0, 0.002, 0.004])


def test_the_tiers_are_the_documents():
    assert [tuple(tier) for tier in TIERS] == [
        ("minimum", 0.15, 0.20, 0.20),
        ("target", 0.18, 0.25, 0.35),
        ("stretch", 0.20, 0.30, 0.50),
    ]


def test_every_condition_of_a_tier_counts():
    report = evaluate_tiers(0.20 + SPREAD, 0.28 + SPREAD, "all pairs", ceiling=0.5)
    table = report.table.set_index("tier")
    assert table["reached"].to_dict() == {"minimum": True, "target": True, "stretch": False}
    assert table["hrm_reached"].to_dict() == {"minimum": True, "target": True, "stretch": False}
    assert table["gain_reached"].to_dict() == {"minimum": True, "target": True, "stretch": False}
    assert table["reachable"].all()
    assert report.headroom


def test_a_high_score_without_a_gain_is_no_success():
    table = evaluate_tiers(0.40 + SPREAD, 0.40 + SPREAD, "all pairs", ceiling=0.5).table
    assert table["baseline_reached"].all()
    assert table["hrm_reached"].all()
    assert not table["reached"].any()


def test_two_models_at_the_ceiling_leave_no_headroom_whatever_their_difference():
    baseline, hrm = [0.9991, 0.9995, 0.9993, 0.9996, 0.9994], [0.9998, 0.9999, 0.9999, 0.9998, 0.9999]
    report = evaluate_tiers(baseline, hrm, "observed pairs", ceiling=1.0)
    assert report.difference.p_value < 0.05
    assert not report.headroom
    assert report.verdict.startswith("no headroom: both models sit at the ceiling")
    assert "would be found with 80 % power" in report.verdict
    assert not report.table["reachable"].any()  # not even a perfect ranking is 20 % better than the baseline
    assert "measured in: observed pairs" in str(report)
    assert "out of reach even at the ceiling" in str(report)
    assert set(report.table["measured_in"]) == {"observed pairs"}


def test_one_model_below_the_ceiling_leaves_headroom():
    report = evaluate_tiers(0.80 + SPREAD, np.full(5, 1.0), "observed pairs", ceiling=1.0)
    assert report.headroom
    assert report.verdict.startswith("HRM is better by +0.200")
    worse = evaluate_tiers(np.full(5, 1.0), 0.80 + SPREAD, "observed pairs", ceiling=1.0)
    assert worse.verdict.startswith("HRM is worse by -0.200")


def test_a_wide_interval_alone_is_no_ceiling():
    report = evaluate_tiers([0.7, 0.99, 0.8], [0.75, 0.99, 0.9], "observed pairs", ceiling=1.0)
    assert report.baseline[2] > 1.0
    assert report.headroom
    assert report.verdict.startswith("no difference shown")


def test_a_difference_within_the_noise_is_not_shown():
    noise = np.array([0.02, -0.02, 0.03, -0.03, 0.01])
    report = evaluate_tiers(0.30 + SPREAD, 0.30 + noise, "all pairs", ceiling=0.5)
    assert report.difference.p_value > 0.05
    assert report.verdict.startswith("no difference shown")


def test_one_seed_is_only_a_number():
    report = evaluate_tiers([0.3], [0.4], "index space", ceiling=0.5)
    assert math.isnan(report.difference.p_value)
    assert math.isnan(report.difference.detectable)
    assert report.verdict == "one seed shows no difference, only a number"


def test_seeds_that_do_not_differ():
    same = evaluate_tiers([0.3, 0.3], [0.3, 0.3], "all pairs", ceiling=0.5)
    assert same.verdict.startswith("no difference shown: +0.000")
    shifted = evaluate_tiers([0.25, 0.25], [0.5, 0.5], "all pairs", ceiling=0.6)
    assert shifted.verdict.startswith("HRM is better by +0.250")


@pytest.mark.parametrize(("baseline", "hrm"), [([0.1, 0.2], [0.1]), ([], []), ([[0.1]], [[0.1]])])
def test_unpaired_seeds_are_refused(baseline, hrm):
    with pytest.raises(ParameterError, match="one τ for each seed"):
        evaluate_tiers(baseline, hrm, "all pairs", ceiling=0.5)
