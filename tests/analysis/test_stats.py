"""Intervals cover, tests agree with scipy's, and the detectable effect is the one that 80 % of experiments find."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats

from anm_nb.analysis import stats
from anm_nb.analysis.stats import (
    detectable_effect,
    detection_power,
    holm,
    mean_interval,
    paired_difference,
    paired_tests,
)
from anm_nb.config import ParameterError

SCORES = st.integers(2, 12).flatmap(
    lambda n: arrays(float, (2, n), elements=st.floats(-100, 100).map(lambda x: round(x, 3)))
)


@given(SCORES)
def test_paired_difference_is_scipys_paired_t_test(scores):
    first, second = scores
    ours = paired_difference(first, second)
    assert ours.pairs == len(first)
    assert ours.estimate == pytest.approx(first.mean() - second.mean(), abs=1e-9)
    if np.ptp(first - second) < 1e-6:  # the pairs agree: scipy's statistic is 0/0
        return
    theirs = scipy_stats.ttest_rel(first, second)
    interval = theirs.confidence_interval(0.95)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9, abs=1e-300)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-12)
    assert (ours.p_value < 0.05) == (not ours.low <= 0 <= ours.high)
    swapped = paired_difference(second, first)
    assert (swapped.low, swapped.high) == pytest.approx((-ours.high, -ours.low), rel=1e-9, abs=1e-12)


@settings(max_examples=40)
@given(SCORES, st.data())
def test_a_seed_missing_on_either_side_is_left_out_on_both(scores, data):
    first, second = scores.copy()
    n = len(first)
    missing = data.draw(st.lists(st.tuples(st.integers(0, 1), st.integers(0, n - 1)), min_size=1, max_size=n))
    for side, seed in missing:
        (first, second)[side][seed] = math.nan
    kept = np.isfinite(first) & np.isfinite(second)
    assert repr(paired_difference(first, second)) == repr(paired_difference(first[kept], second[kept]))


@pytest.mark.parametrize(("first", "second", "pairs"), [([], [], 0), ([math.nan], [1.0], 0), ([3.0], [1.0], 1)])
def test_fewer_than_two_pairs_have_no_interval(first, second, pairs):
    difference = paired_difference(first, second)
    assert difference.pairs == pairs
    assert difference.estimate == 2.0 if pairs else math.isnan(difference.estimate)
    for value in (difference.low, difference.high, difference.p_value, difference.detectable):
        assert math.isnan(value)


@pytest.mark.parametrize(("gap", "p_value"), [(0.0, 1.0), (0.5, 0.0)])
def test_pairs_that_agree_exactly_have_an_interval_of_no_width(gap, p_value):
    second = np.array([1.0, 2.0, 3.5])
    difference = paired_difference(second + gap, second)
    assert (difference.estimate, difference.low, difference.high) == (gap, gap, gap)
    assert (difference.p_value, difference.detectable, difference.pairs) == (p_value, 0.0, 3)


@pytest.mark.parametrize("second", [[1.0, 2.0], [[1.0], [2.0], [3.0]]])
def test_seeds_that_cannot_be_paired_are_refused(second):
    with pytest.raises(ParameterError, match=r"shapes \(3,\) and .*: pairs are two lists of one length"):
        paired_difference([1.0, 2.0, 3.0], second)


@pytest.mark.parametrize("pairs", [2, 3, 5, 20])
def test_the_detectable_effect_is_found_by_80_percent_of_experiments(pairs):
    draws = 40_000
    source = np.random.default_rng(pairs)
    differences = source.normal(detectable_effect(pairs), 1.0, (draws, pairs))
    found = scipy_stats.ttest_1samp(differences, 0.0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.80, abs=0.01)


@pytest.mark.parametrize(("power", "alpha"), [(0.8, 0.05), (0.9, 0.01), (0.5, 0.1)])
def test_the_detectable_effect_of_many_pairs_is_the_normal_one(power, alpha):
    normal = scipy_stats.norm.ppf(1 - alpha / 2) + scipy_stats.norm.ppf(power)
    assert detectable_effect(1000, power, alpha) == pytest.approx(normal / 1000**0.5, rel=3e-3)


def test_the_detectable_effect_falls_with_pairs_and_rises_with_power():
    by_pairs = [detectable_effect(pairs) for pairs in (2, 3, 4, 6, 10, 30)]
    assert by_pairs == sorted(by_pairs, reverse=True)
    by_power = [detectable_effect(5, power) for power in (0.1, 0.5, 0.8, 0.99)]
    assert by_power == sorted(by_power)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1,), "pairs = 1: a paired t-test needs at least 2"),
        ((5, 0.8, 1.0), "alpha = 1.0: must lie between 0 and 1"),
        ((5, 0.05, 0.1), "power = 0.05: must lie between alpha = 0.1 and 1"),
        ((5, 1.0), "power = 1.0: must lie between alpha = 0.05.* and 1"),
    ],
)
def test_a_power_that_no_effect_has_is_refused(arguments, message):
    with pytest.raises(ParameterError, match=message):
        detectable_effect(*arguments)


@settings(max_examples=25)
@given(st.integers(2, 40), st.floats(0.001, 0.2), st.floats(0.25, 0.99))
def test_power_is_alpha_without_an_effect_and_as_wanted_at_the_detectable_one(pairs, alpha, power):
    assert detection_power(0.0, pairs, alpha) == pytest.approx(alpha)
    effect = detectable_effect(pairs, power, alpha)
    assert detection_power(effect, pairs, alpha) == pytest.approx(power)
    assert detection_power(-effect, pairs, alpha) == detection_power(effect, pairs, alpha)


@given(SCORES, st.sampled_from([1e-6, 3.0, 1e4]))
def test_what_is_detectable_has_the_unit_of_the_scores(scores, factor):
    first, second = scores
    one, scaled = paired_difference(first, second), paired_difference(factor * first, factor * second)
    assert scaled.detectable == pytest.approx(factor * one.detectable, rel=1e-6, abs=1e-9 * factor)
    assert one.detectable == pytest.approx(detectable_effect(len(first)) * np.std(first - second, ddof=1), abs=1e-9)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_the_interval_of_a_mean_covers_it_95_times_in_100(seeds, monkeypatch):
    monkeypatch.setattr(stats, "detectable_effect", lambda pairs: 1.0)  # plays no part here, and takes time
    source = np.random.default_rng(seeds)
    draws = 2000
    covered = 0
    for values in source.normal(0.7, 2.0, (draws, seeds)):
        mean, low, high = mean_interval(values)
        assert low <= mean <= high
        covered += low <= 0.7 <= high
    assert covered / draws == pytest.approx(0.95, abs=0.015)


def test_the_interval_of_a_mean_leaves_out_missing_seeds():
    assert mean_interval([1.0, math.nan, 2.0, 3.0]) == mean_interval([1.0, 2.0, 3.0])
    assert mean_interval([2.0])[0] == 2.0
    assert math.isnan(mean_interval([2.0])[1])
    assert mean_interval([2.0, 2.0]) == (2.0, 2.0, 2.0)


# The tests side by side

FEW_TENTHS = st.integers(2, 7).flatmap(lambda n: arrays(int, (2, n), elements=st.integers(-4, 4)))


def side_by_side(first, second, **named):
    return paired_tests(first, second, generator=np.random.default_rng(0), **named)


def share_as_extreme(numbers):
    """The share of all 2ⁿ sign flips of whole numbers whose sum is as far from zero as the one there is."""
    signs = np.array(list(itertools.product([-1, 1], repeat=len(numbers))))
    return np.mean(np.abs(signs @ numbers) >= abs(np.sum(numbers)))


@settings(max_examples=40)
@given(FEW_TENTHS)
def test_permutation_and_rank_tests_are_enumerations_also_of_ties_and_zeros(tenths):
    """Scores are tenths, whose differences agree only up to rounding; the reference counts in whole numbers."""
    found = side_by_side(*(tenths / 10))
    differences = tenths[0] - tenths[1]
    doubled_ranks = np.rint(2 * scipy_stats.rankdata(np.abs(differences))).astype(int)
    assert found.sign_flip == pytest.approx(share_as_extreme(differences))
    assert found.wilcoxon == pytest.approx(share_as_extreme(np.sign(differences) * doubled_ranks))
    assert found.t == paired_difference(*(tenths / 10)).p_value
    assert found.pairs == len(differences)


def test_many_flips_are_drawn_and_many_ranks_have_their_exact_distribution():
    first, second = np.random.default_rng(3).normal([[0.4], [0.0]], 1.0, (2, 16))
    differences = first - second
    found = side_by_side(first, second)
    assert found.sign_flip == pytest.approx(share_as_extreme(differences), abs=0.02)
    assert found.sign_flip != share_as_extreme(differences)
    ranks = scipy_stats.rankdata(np.abs(differences))
    assert found.wilcoxon == pytest.approx(share_as_extreme(np.sign(differences) * ranks))
    assert side_by_side(first, second) == found


@settings(max_examples=25)
@given(FEW_TENTHS, st.randoms(use_true_random=False), st.sampled_from([1e-6, 0.25, 3.0, 1e5]))
def test_the_tests_know_no_order_no_side_and_no_unit(tenths, shuffler, factor):
    first, second = tenths / 10
    found = side_by_side(first, second)
    order = list(range(len(first)))
    shuffler.shuffle(order)
    others = [
        side_by_side(second, first),
        side_by_side(first[order], second[order]),
        side_by_side(factor * first, factor * second),
    ]
    for other in others:
        assert (other.wilcoxon, other.sign_flip) == (found.wilcoxon, found.sign_flip)
        if np.ptp(tenths[0] - tenths[1]):  # equal differences have a spread of rounding alone
            assert other.t == pytest.approx(found.t)


@pytest.mark.parametrize("pairs", [2, 5, 6])
def test_few_pairs_that_all_agree_in_sign_have_the_smallest_p_value_there_is(pairs):
    found = side_by_side(np.arange(1.0, pairs + 1), 0.0)
    assert found.wilcoxon == found.sign_flip == 2.0 ** (1 - pairs)
    assert (found.sign_flip < 0.05) == (pairs >= 6)


def test_pairs_without_a_difference_reject_nothing_and_missing_ones_count_for_nothing():
    assert side_by_side([0.0, 0.0], 0.0) == stats.PairedTests(1.0, 1.0, 1.0, 2)
    assert side_by_side([0.1 + 0.2] * 20, [0.3] * 20) == stats.PairedTests(1.0, 1.0, 1.0, 20)
    with_gaps = side_by_side([1.0, math.nan, 2.5, 4.0, 1.5], [0.5, 1.0, 3.0, math.nan, 0.0])
    assert with_gaps == side_by_side([1.0, 2.5, 1.5], [0.5, 3.0, 0.0])
    few = side_by_side([1.0, math.nan], [0.0, 1.0])
    assert few.pairs == 1
    assert np.isnan([few.t, few.wilcoxon, few.sign_flip]).all()
    with pytest.raises(ParameterError, match="resamples = 0: at least 1 is needed"):
        side_by_side([1.0, 2.0], [0.0, 0.0], resamples=0)


def test_where_nothing_is_there_each_test_errs_as_often_as_its_p_values_allow():
    """With 7 pairs the p-values below 0.05 are those of 6 in 128 flips, of differences as of ranks."""
    draws = 2000
    source = np.random.default_rng(7)
    found = [paired_tests(row, 0.0, generator=source) for row in source.normal(0.0, 3.0, (draws, 7))]
    wrong = {name: np.mean([getattr(each, name) < 0.05 for each in found]) for name in ("t", "wilcoxon", "sign_flip")}
    assert wrong == pytest.approx({"t": 0.05, "wilcoxon": 6 / 128, "sign_flip": 6 / 128}, abs=0.012)


# Holm's correction


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    """Closed testing (Marcus, Peritz & Gabriel 1976): the largest Bonferroni p of all the subsets a test belongs to."""
    tests = range(len(p_values))
    subsets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(tests, size)]
    adjusted = [max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in subsets if i in s) for i in tests]
    np.testing.assert_allclose(holm(p_values), adjusted)


def test_holm_leaves_out_what_was_not_tested():
    np.testing.assert_allclose(holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
