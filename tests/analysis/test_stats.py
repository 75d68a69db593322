"""Intervals have 95 % coverage, results agree with other implementations, and the detectable effect has 80 % power."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from notebook_cells import names_of
from scipy import stats as scipy_stats

from anm_nb.analysis.stats import (
    bounded_interval,
    detectable_difference,
    detectable_effect,
    equivalence,
    holm,
    mean_interval,
    paired_difference,
    proportion_interval,
    ratio_interval,
)
from anm_nb.config import ParameterError

proportion_difference = names_of("26_take_off", "shares", given={"np": np, "proportion_interval": proportion_interval})[
    "proportion_difference"
]
rank_correlation = names_of("26_take_off", "rank-correlation", given={"np": np, "scipy_stats": scipy_stats})[
    "rank_correlation"
]


@pytest.mark.parametrize(("first", "second", "pairs"), [([], [], 0), ([math.nan], [1.0], 0), ([3.0], [1.0], 1)])
def test_fewer_than_two_pairs_have_no_interval(first, second, pairs):
    found = paired_difference(first, second)
    assert found.pairs == pairs
    rest = (found.low, found.high, found.p_value, equivalence(first, second, 1.0))
    assert np.isnan([*rest, *detectable_difference(first, second), *ratio_interval(first, second)[1:]]).all()


def test_pairs_that_agree_exactly_have_an_interval_of_no_width():
    second = np.array([1.0, 2.0, 3.5])
    assert paired_difference(second + 0.5, second)[:4] == (0.5, 0.5, 0.5, 0.0)
    assert paired_difference(second, second)[:4] == (0.0, 0.0, 0.0, 1.0)
    assert bounded_interval([1.0, 1.0, 1.0]) == (1.0, 1.0, 1.0)


def test_unusable_arguments_raise():
    with pytest.raises(ParameterError, match=r"shapes \(3,\) and \(2,\): pairs need two lists of the same length"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(ParameterError, match=r"score 1\.2: must lie between 0"):
        bounded_interval([1.2, 0.5])
    with pytest.raises(ParameterError, match="margin = 0: must be above 0"):
        equivalence([1.0, 2.0], [1.0, 2.0], 0)


# Coverage by simulation: 95 % intervals contain the true value in 93 to 97 % of experiments


def ratios(g, seeds):
    shared = g.normal(0, 0.3, seeds)
    return 2 + shared + g.normal(0, 0.3, seeds), 4 + shared + g.normal(0, 0.3, seeds)


def correlated(g, correlation):
    first, noise = g.normal(size=(2, 20))
    return first, correlation * first + (1 - correlation**2) ** 0.5 * noise


COVERING = {
    "mean of 10": (mean_interval, 0.7, lambda g: [g.normal(0.7, 2.0, 10)]),
    "bounded 3": (bounded_interval, 2 / 4, lambda g: [g.beta(2, 2, 3)]),
    "bounded 5": (bounded_interval, 20 / 22, lambda g: [g.beta(20, 2, 5)]),
    "ratio of 10": (ratio_interval, 0.5, lambda g: ratios(g, 10)),
    "rank correlation": (
        rank_correlation,
        6 / np.pi * np.arcsin(0.45),
        lambda g: correlated(g, 0.9),
    ),  # of normal pairs
    "detectable": (
        lambda d: detectable_difference(d, 0.0, 0.05 / 7),
        2.0 * detectable_effect(10, alpha=0.05 / 7),
        lambda g: [g.normal(1, 2, 10)],
    ),
}


@pytest.mark.parametrize("name", COVERING)
def test_intervals_cover(name):
    interval, truth, draw = COVERING[name]
    source = np.random.default_rng(3)
    ends = np.array([interval(*draw(source))[1:] for _ in range(2000)])
    assert 0.93 < np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])) < 0.97


def test_a_bounded_interval_lies_within_its_bounds_and_a_ratio_agrees_with_the_paired_test():
    _, low, high = bounded_interval([0.99, 0.999, 0.97])
    assert 0 < low < high < 1 < mean_interval([0.99, 0.999, 0.97]).high
    first, second = ratios(np.random.default_rng(4), 10)
    scaled = second * first.mean() / second.mean() * 1.1
    _, low, high = ratio_interval(first, scaled)
    assert (low <= 1 <= high) == (paired_difference(first, scaled).p_value >= 0.05)
    assert np.isnan(ratio_interval([0.5, 0.6, 0.7], [-0.1, 0.1, 0.05])[1:]).all()


@pytest.mark.parametrize(("trials", "chance"), [(10, 0.5)])
def test_intervals_of_proportions_and_of_their_differences_cover(trials, chance):
    """With few trials, coverage jumps with the probability, so it is averaged over probabilities near the given one."""
    source = np.random.default_rng(trials)
    exact = {count: proportion_interval(count, trials) for count in range(trials + 1)}
    chances = chance + source.uniform(-0.08, 0.08, 20_000)
    counts = source.binomial(trials, chances)
    hits = [exact[n].low <= p <= exact[n].high for n, p in zip(counts, chances, strict=True)]
    assert 0.93 < np.mean(hits) < 0.97
    other = source.binomial(trials, chances - 0.2)
    gap = cache(lambda n, m: proportion_difference((n, trials), (m, trials)))
    hits = [gap(n, m)[1] <= 0.2 <= gap(n, m)[2] for n, m in zip(counts, other, strict=True)]
    assert 0.93 < np.mean(hits) < 0.97


# Power by simulation


@pytest.mark.parametrize(("claims", "pairs"), [(1, 3), (6, 5), (12, 10)])
def test_after_holms_correction_the_detectable_effect_is_found_by_80_percent(claims, pairs):
    """Only one claim has an effect, the one detectable at α/m, so the first step of Holm's method decides on it."""
    source = np.random.default_rng(pairs)
    differences = source.normal(0.0, 1.0, (4000, claims, pairs))
    differences[:, 0] += detectable_effect(pairs, alpha=0.05 / claims)
    p_values = scipy_stats.ttest_1samp(differences, 0.0, axis=2).pvalue
    found = np.mean([holm(each)[0] < 0.05 for each in p_values])
    assert found == pytest.approx(0.80, abs=0.03)


@pytest.mark.parametrize(("shift", "share", "tolerance", "times"), [(1.3, 0.05, 0.012, 2000), (0.0, 1, 0.1, 200)])
def test_equivalence_errs_in_5_of_100_at_the_margin(shift, share, tolerance, times):
    source = np.random.default_rng(9)
    p_values = [equivalence(source.normal(shift, 0.5, 10), 0.0, max(shift, 1.0)) for _ in range(times)]
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(share, abs=tolerance)


# Known answers


def test_results_agree_with_other_implementations():
    """Expected values are from statsmodels 0.14."""
    assert proportion_difference((7, 10), (2, 12))[1:] == pytest.approx((0.119680, 0.759768), abs=1e-6)
    assert rank_correlation([1, 2, 3, 4, 5], [2, 1, 4, 3, 5])[0] == pytest.approx(0.8)
    assert proportion_interval(7, 10) == pytest.approx((0.7, 0.396778, 0.892209), abs=1e-6)
    values = np.random.default_rng(0).normal(0.1, 1, 12)
    assert equivalence(values, 0.0, 1.0) == pytest.approx(0.000829010139)


def test_proportions_without_trials_and_with_successes_only():
    assert np.isnan(proportion_interval(0, 0)).all()
    assert proportion_interval(5, 5).high == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    """Closed testing (Marcus, Peritz & Gabriel 1976): the largest Bonferroni p-value of all subsets with the test."""
    tests = range(len(p_values))
    subsets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(tests, size)]
    adjusted = [max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in subsets if i in s) for i in tests]
    np.testing.assert_allclose(holm(p_values), adjusted)
    np.testing.assert_allclose(holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
