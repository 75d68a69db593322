"""Bootstrap intervals cover what they should, and agree with enumerations and with the formulas written out."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from anm_nb.analysis.resampling import (
    interquartile_mean,
    interquartile_mean_interval,
    paired_bootstrap,
    probability_of_improvement,
)
from anm_nb.config import ParameterError

METHODS = ["percentile", "BCa"]
DIFFERENCES = arrays(float, st.integers(3, 10), elements=st.integers(-50, 50).map(float), unique=True)
RUNS_BY_TASK = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3)).flatmap(
    lambda sizes: st.tuples(
        *(arrays(float, (runs, sizes[2]), elements=st.integers(0, 6).map(float)) for runs in sizes[:2])
    )
)


def seeded(seed=0):
    return np.random.default_rng(seed)


def bootstrap(first, second=0.0, **named):
    return paired_bootstrap(first, second, generator=seeded(), **{"resamples": 400} | named)


# Pairs of seeds


def test_a_percentile_interval_is_the_quantiles_of_every_resample_there_is():
    values = np.array([0.3, -1.2, 2.5, 0.9, 1.4, 4.1])
    every_mean = np.mean(list(itertools.product(values, repeat=6)), axis=1)
    tail = stats.norm.cdf(-math.sqrt(6 / 5) * 2.5706)  # t of 5 degrees of freedom leaves out 2.5 % at 2.5706
    found = bootstrap(values, method="percentile", resamples=40_000)
    assert found.estimate == values.mean()
    assert np.mean(every_mean < found.low) == pytest.approx(tail, abs=0.001)
    assert np.mean(every_mean > found.high) == pytest.approx(tail, abs=0.001)


def test_bca_moves_the_quantiles_by_bias_and_skewness_as_efron_wrote_it():
    values = seeded(5).lognormal(size=12)
    means = stats.bootstrap((values,), np.mean, n_resamples=4000, batch=1000, rng=seeded()).bootstrap_distribution
    bias = stats.norm.ppf(np.mean(means < values.mean()))
    centred = values - values.mean()
    skewness = np.sum(centred**3) / (6 * np.sum(centred**2) ** 1.5)
    edges = np.array([-1, 1]) * math.sqrt(12 / 11) * 2.2010  # t of 11 degrees of freedom
    moved = stats.norm.cdf(bias + (bias + edges) / (1 - skewness * (bias + edges)))
    found = bootstrap(values, method="BCa", resamples=4000)
    assert (found.low, found.high) == pytest.approx(np.quantile(means, moved), rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
@given(DIFFERENCES)
@settings(max_examples=30)
def test_an_interval_turns_with_the_sign_and_scales_with_the_unit(method, differences):
    found = bootstrap(differences, method=method)
    turned = bootstrap(0 * differences, differences, method=method)
    assert (turned.low, turned.estimate, turned.high) == pytest.approx((-found.high, -found.estimate, -found.low))
    scaled = bootstrap(differences / 1024, method=method)  # exact: a mean that ties with another still does
    assert scaled == pytest.approx([value / 1024 for value in found])
    assert found.low < found.estimate < found.high


def test_any_statistic_with_an_axis_has_its_interval():
    values = seeded(1).normal(5.0, 1.0, 21)
    median = bootstrap(values, statistic=np.median)
    assert median.estimate == np.median(values)
    assert set(bootstrap(values, statistic=np.median, method="percentile")) <= set(values)
    middle = bootstrap(values, statistic=interquartile_mean)
    assert middle.estimate == pytest.approx(np.sort(values)[5:-5].mean())
    assert middle.low < middle.estimate < middle.high


@pytest.mark.parametrize("method", METHODS)
def test_missing_pairs_are_left_out_and_few_or_equal_ones_say_so(method):
    gaps = bootstrap([1.0, math.nan, 4.0, 2.0, 7.0], [0.0, 1.0, 1.0, math.nan, 2.0], method=method)
    assert gaps == bootstrap([1.0, 3.0, 5.0], method=method)
    single = bootstrap([3.0, math.nan], [1.0, 1.0], method=method)
    assert single.estimate == 2.0
    assert np.isnan([single.low, single.high, *bootstrap([], method=method)]).all()
    assert bootstrap([1.5, 2.5, 4.5], [1.0, 2.0, 4.0], method=method) == (0.5, 0.5, 0.5)


# Runs × tasks


@given(arrays(float, st.integers(1, 6).map(lambda n: 4 * n), elements=st.floats(-1e3, 1e3)))
def test_the_interquartile_mean_is_that_of_the_middle_half(values):
    quarter = len(values) // 4
    assert interquartile_mean(values) == pytest.approx(np.sort(values)[quarter:-quarter].mean(), abs=1e-9)
    outlier = values.copy()
    outlier[np.argmax(values)] = 1e9
    assert interquartile_mean(outlier) == pytest.approx(interquartile_mean(values), abs=1e-9)


def test_runs_are_drawn_anew_within_their_task():
    levels = np.array([[0.0, 10.0, 20.0, 90.0]])
    settled = interquartile_mean_interval(np.repeat(levels, 3, axis=0), generator=seeded(), resamples=200)
    assert settled == (15.0, 15.0, 15.0)  # drawn across tasks, resamples would differ
    noisy = interquartile_mean_interval(np.add(levels, [[-1], [0], [1]]), generator=seeded(), resamples=200)
    assert 14 <= noisy.low < noisy.estimate < noisy.high <= 16


@given(RUNS_BY_TASK)
@settings(max_examples=50)
def test_the_probability_of_improvement_is_mann_and_whitneys_and_knows_ranks_alone(sides):
    first, second = sides
    found = probability_of_improvement(first, second, generator=seeded(), resamples=50)
    u = stats.mannwhitneyu(first, second, axis=0).statistic
    assert found.estimate == pytest.approx(np.mean(u / (len(first) * len(second))))
    swapped = probability_of_improvement(second, first, generator=seeded(), resamples=50)
    assert found.estimate + swapped.estimate == pytest.approx(1.0)
    stretched = probability_of_improvement(np.exp(first), np.exp(second), generator=seeded(), resamples=50)
    assert repr(stretched) == repr(found)
    assert np.isnan(found.low) == (min(len(first), len(second)) < 2)


def test_runs_that_all_win_leave_no_width():
    first, second = seeded(2).uniform(size=(2, 4, 3))
    for method in METHODS:
        found = probability_of_improvement(first + 1, second, generator=seeded(), method=method, resamples=99)
        assert found == (1.0, 1.0, 1.0)


def test_missing_runs_are_left_out_of_their_task():
    scores = np.array([[1.0, 5.0], [2.0, 6.0], [3.0, math.nan]])
    found = interquartile_mean_interval(scores, generator=seeded(), resamples=99)
    assert found.estimate == np.mean([2.0, 3.0, 5.0])  # of 1 2 3 5 6
    assert found.low < found.estimate < found.high
    wins = probability_of_improvement(scores, [[1.5, 5.5]] * 2, generator=seeded(), resamples=99)
    assert wins.estimate == pytest.approx((2 / 3 + 1 / 2) / 2)


# Coverage


INTERVALS = {
    "percentile": lambda draws, source: paired_bootstrap(
        *draws[:, :, 0], generator=source, method="percentile", resamples=999
    ),
    "BCa": lambda draws, source: paired_bootstrap(*draws[:, :, 0], generator=source, method="BCa", resamples=999),
    "interquartile mean": lambda draws, source: interquartile_mean_interval(
        draws[0] - draws[1] + [-2, 0, 2], generator=source, resamples=499
    ),
    "probability of improvement": lambda draws, source: probability_of_improvement(
        *draws, generator=source, resamples=499
    ),
}


@pytest.mark.parametrize("name", INTERVALS)
def test_an_interval_of_normal_scores_covers_95_times_in_100(name):
    """Ten runs of three tasks on either side, differences centred on 1 and in the tasks −2, 0 and 2 about it."""
    source = seeded(10)
    truth = stats.norm.cdf(1 / math.sqrt(2)) if name == "probability of improvement" else 1.0
    covered = 0
    for draws in source.normal(size=(2000, 2, 10, 3)) + np.array([1.0, 0.0])[:, None, None]:
        _, low, high = INTERVALS[name](draws, source)
        covered += low <= truth <= high
    assert 0.93 <= covered / 2000 <= 0.97


# What is refused


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"method": "bca"}, "unknown method 'bca'.*known: BCa, percentile"),
        ({"method": "percentil"}, r"did you mean 'percentile'\?"),
        ({"resamples": 0}, "resamples = 0: at least 1 is needed"),
        ({"second": [1.0, 2.0]}, r"shapes \(3,\) and \(2,\)"),
    ],
)
def test_an_interval_that_cannot_be_computed_is_refused(named, message):
    with pytest.raises(ParameterError, match=message):
        bootstrap([1.0, 2.0, 3.0], **named)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, 2.0], r"scores of shape \(2,\): must be \[runs, tasks\]"),
        (np.empty((0, 3)), r"scores of shape \(0, 3\)"),
        ([[1.0, math.nan], [2.0, math.nan]], "column 1 has no finite value; leave out a task without runs"),
    ],
)
def test_scores_that_are_not_runs_by_tasks_are_refused(scores, message):
    with pytest.raises(ParameterError, match=message):
        interquartile_mean_interval(scores, generator=seeded())
    with pytest.raises(ParameterError, match=message):
        probability_of_improvement([[1.0, 2.0]], scores, generator=seeded())


def test_both_sides_need_the_same_tasks():
    with pytest.raises(ParameterError, match="1 and 2 tasks: both need one column for each task"):
        probability_of_improvement([[1.0]], [[1.0, 2.0]], generator=seeded())
