"""Bootstrap intervals of scores, over pairs of seeds or over runs × tasks; scipy underneath.

A plain bootstrap interval of few values is too short twice over: resamples of n values vary by √((n − 1)/n) too little,
and its quantiles are those of the normal rather than of Student's t. Both are mended by Hesterberg's expansion (2015,
"What teachers should know about the bootstrap"): the 2.5 % and 97.5 % points give way to those at Φ(∓√(n/(n − 1)) t),
t leaving out 2.5 % with n − 1 degrees of freedom. For several samples, n and n − 1 are summed over them here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from anm_nb.analysis.stats import CONFIDENCE, Interval, finite_pairs
from anm_nb.config import ParameterError, unknown_name

RESAMPLES = 9999
BATCH = 1000  # resamples held in memory at once

Method = Literal["BCa", "percentile"]


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    *,
    generator: np.random.Generator,
    statistic: Callable[..., Any] = np.mean,
    method: Method = "BCa",
    resamples: int = RESAMPLES,
) -> Interval:
    """A statistic of first − second [pairs], pair by pair, with its expanded 95 % bootstrap interval.

    Pairs with a NaN are left out; `second` may be one number. `statistic` reduces an `axis`, as np.mean, np.median and
    `interquartile_mean` do. BCa corrects a percentile interval for bias and skewness (Efron 1987); it is NaN where all
    resamples lie on one side of the estimate. The interval is NaN with fewer than two pairs, and has no width where all
    resamples agree. Raises `ParameterError` for arrays that cannot be paired, an unknown method or no resamples.

    Measured coverage of a mean, percentile / BCa, in % of 4000 or more experiments: normal differences,
    4 pairs 88.5 / 88.3, 5 pairs 91.9 / 91.5, 10 pairs 95.0 / 94.5, 30 pairs 95.0 / 95.1 (not expanded: 5 pairs 83, 10
    pairs 89.5); lognormal ones (σ = 1), 5 pairs 80.1 / 80.8, 10 pairs 86.2 / 89.1, 30 pairs 89.0 / 90.2. With
    fewer than 10 pairs prefer the t-interval of `paired_difference` (normal 95, lognormal 82 for 5 pairs).
    """
    one, other = finite_pairs(first, second)
    return _bootstrap([one - other], statistic, generator, method, resamples)


def interquartile_mean(values: ArrayLike, axis: int = -1) -> Any:
    """The mean of the middle half along an axis: ⌊n/4⌋ values are left out at either end; float64."""
    return stats.trim_mean(np.asarray(values, float), 0.25, axis)


def interquartile_mean_interval(
    scores: ArrayLike, *, generator: np.random.Generator, method: Method = "percentile", resamples: int = RESAMPLES
) -> Interval:
    """The interquartile mean of all scores [runs, tasks] and its expanded 95 % interval by a stratified bootstrap.

    As in Agarwal et al. (2021, "Deep RL at the edge of the statistical precipice") scores of all tasks, on one scale,
    are pooled, and runs are drawn anew within each task; so the interval is about other runs, not other tasks. NaNs are
    left out. The interval is NaN where a task has one run. Raises `ParameterError` for scores of another shape, a task
    without runs, an unknown method or no resamples.

    Measured coverage on five tasks of normal scores, in % of 2000 experiments: 3 runs 91.9, 5 runs 94.2, 10 runs 94.5.
    """

    def pooled(*tasks: np.ndarray, axis: int) -> Any:
        return interquartile_mean(np.concatenate(tasks, axis), axis)

    return _bootstrap(_runs_by_task(scores), pooled, generator, method, resamples)


def probability_of_improvement(
    first: ArrayLike,
    second: ArrayLike,
    *,
    generator: np.random.Generator,
    method: Method = "percentile",
    resamples: int = RESAMPLES,
) -> Interval:
    """The chance that a run of `first` [runs, tasks] scores higher than one of `second` [other runs, tasks].

    As in Agarwal et al. (2021): the share of pairs of runs of one task in which the first is higher, ties counted 1/2
    (Mann and Whitney's U over its maximum), averaged over tasks, with the expanded 95 % interval of a bootstrap that
    draws runs anew within each task and side. Runs are not paired by seed. For errors, hand over the two the other way
    round. NaNs are left out. Where every run of one side is higher, so is every resample: the interval then has no
    width, and says nothing of what more runs would show. Raises `ParameterError` as `interquartile_mean_interval` does,
    and for different numbers of tasks.

    Measured coverage on five tasks of normal scores, in % of 2000 experiments, at chances of 0.50 / 0.76: 3 runs a side
    96.2 / 95.7, 5 runs 96.0 / 96.3, 10 runs 96.0 / 96.0.
    """
    ours, theirs = _runs_by_task(first), _runs_by_task(second)
    if len(ours) != len(theirs):
        raise ParameterError(f"{len(ours)} and {len(theirs)} tasks: both need one column for each task, in one order")

    def mean_over_tasks(*runs: np.ndarray, axis: int) -> Any:
        sides = zip(runs[: len(ours)], runs[len(ours) :], strict=True)
        return np.mean([_share_of_wins(one, other) for one, other in sides], axis=0)

    return _bootstrap([*ours, *theirs], mean_over_tasks, generator, method, resamples)


def _share_of_wins(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The share of pairs (last axes) in which first is higher, ties counted 1/2."""
    one, other = first[..., :, None], second[..., None, :]
    wins = np.count_nonzero(one > other, axis=(-2, -1)) + np.count_nonzero(one >= other, axis=(-2, -1))
    return wins / (2 * first.shape[-1] * second.shape[-1])


def _runs_by_task(scores: ArrayLike) -> list[np.ndarray]:
    """The finite scores of each column."""
    table = np.asarray(scores, float)
    if table.ndim != 2 or not table.size:
        raise ParameterError(f"scores of shape {table.shape}: must be [runs, tasks], at least one of each")
    columns = [column[np.isfinite(column)] for column in table.T]
    for task, column in enumerate(columns):
        if not len(column):
            raise ParameterError(f"scores: column {task} has no finite value; leave out a task without runs")
    return columns


def _bootstrap(
    samples: Sequence[np.ndarray],
    statistic: Callable[..., Any],
    generator: np.random.Generator,
    method: Method,
    resamples: int,
) -> Interval:
    """A statistic of independent samples, each drawn anew on its own, and its expanded interval."""
    if method not in get_args(Method):
        raise ParameterError(unknown_name("method", method, get_args(Method)))
    if resamples < 1:
        raise ParameterError(f"resamples = {resamples}: at least 1 is needed")
    sizes = [len(sample) for sample in samples]
    estimate = float(statistic(*samples, axis=-1)) if all(sizes) else float("nan")
    if min(sizes) < 2:
        return Interval(estimate, float("nan"), float("nan"))
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # what it warns of is in the docstrings
        found = stats.bootstrap(
            samples,
            statistic,
            n_resamples=resamples,
            batch=BATCH,
            vectorized=True,
            confidence_level=_expanded_confidence(sizes),
            method=method,
            rng=generator,
        )
    if np.ptp(found.bootstrap_distribution) == 0:
        return Interval(estimate, estimate, estimate)
    return Interval(estimate, float(found.confidence_interval.low), float(found.confidence_interval.high))


def _expanded_confidence(sizes: Sequence[int]) -> float:
    values, freedom = sum(sizes), sum(sizes) - len(sizes)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * (values / freedom) ** 0.5
    return float(1 - 2 * stats.norm.sf(quantile))
