"""Statistics across seeds as pure functions on score arrays; scipy underneath."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

CONFIDENCE = 0.95
POWER = 0.80


@dataclass(frozen=True)
class PairedDifference:
    """The mean of paired differences: its two-sided 95 % t-interval, p-value, and the smallest detectable difference.

    `detectable` is the true mean difference that a paired t-test with these seeds and this spread would find with 80 %
    power. Interval, p-value and detectable are NaN with fewer than two pairs.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    detectable: float
    pairs: int


def mean_interval(values: ArrayLike) -> tuple[float, float, float]:
    """Mean and 95 % t-interval over seeds, NaNs left out; the interval is NaN with fewer than two values."""
    difference = paired_difference(values, 0.0)
    return difference.estimate, difference.low, difference.high


def paired_difference(first: ArrayLike, second: ArrayLike) -> PairedDifference:
    """first − second, pair by pair (one pair a seed); pairs with a NaN are left out."""
    differences = np.subtract(np.asarray(first, float), np.asarray(second, float))
    differences = differences[np.isfinite(differences)]
    n = len(differences)
    estimate = float(differences.mean()) if n else float("nan")
    if n < 2:
        unknown = float("nan")
        return PairedDifference(estimate, unknown, unknown, unknown, unknown, n)
    spread = float(differences.std(ddof=1))
    if np.ptp(differences) == 0:  # the t statistic is 0/0 or infinite, and the spread itself may be one of rounding
        return PairedDifference(estimate, estimate, estimate, float(estimate == 0), 0.0, n)
    test = stats.ttest_1samp(differences, 0.0)
    interval = test.confidence_interval(CONFIDENCE)
    return PairedDifference(
        estimate,
        float(interval.low),
        float(interval.high),
        float(test.pvalue),
        detectable_effect(n) * spread,
        n,
    )


def ratio_interval(first: ArrayLike, second: ArrayLike) -> tuple[float, float, float]:
    """mean(first)/mean(second) over pairs and its 95 % interval by Fieller's theorem (1954); pairs with a NaN left out.

    The interval holds every ratio r that a paired t-test of first − r·second does not reject, so that r = 1 lies in it
    exactly where zero lies in the interval of the paired difference. NaN with fewer than two pairs, and where the mean
    of `second` cannot be told from zero, as the ratios then are not an interval.
    """
    pairs = np.stack([np.asarray(first, float), np.asarray(second, float)])
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    n, unknown = pairs.shape[1], float("nan")
    above, below = pairs.mean(axis=1) if n else (unknown, unknown)
    if n < 2:
        return float(above / below), unknown, unknown
    var_above, covariance, _, var_below = (stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) ** 2 / n * np.cov(pairs)).ravel()
    square = below**2 - var_below  # of square·r² − 2·middle·r + constant ≤ 0
    middle, constant = above * below - covariance, above**2 - var_above
    if square <= 0:
        return float(above / below), unknown, unknown
    reach = np.sqrt(max(middle**2 - square * constant, 0.0)) / square
    return float(above / below), float(middle / square - reach), float(middle / square + reach)


@cache
def detectable_effect(pairs: int, power: float = POWER, alpha: float = 1 - CONFIDENCE) -> float:
    """The smallest mean difference, in standard deviations of the differences, that a two-sided paired t-test finds.

    Solves power = P(|T| > t_crit) for T noncentral t with pairs − 1 degrees of freedom (Cohen 1988, chapter 2).
    Raises `ValueError` with fewer than two pairs.
    """
    if pairs < 2:
        raise ValueError(f"pairs = {pairs}: a paired t-test needs at least 2")
    critical = stats.t.ppf(1 - alpha / 2, pairs - 1)

    def missing_power(effect: float) -> float:
        # T² is noncentral F with one degree of freedom; scipy's noncentral t gives NaN for few pairs and large effects
        return float(stats.ncf.sf(critical**2, 1, pairs - 1, pairs * effect**2) - power)

    largest = 1.0
    while missing_power(largest) < 0:
        largest *= 2
    return float(optimize.brentq(missing_power, 0.0, largest))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Adjusted p-values of several tests by Holm's step-down method (1979), in their order; NaN stays NaN.

    The i-th smallest of m is multiplied by m − i + 1, and never falls below one before it or exceeds 1: rejecting those
    below α keeps the chance of any false rejection below α.
    """
    given = np.asarray(p_values, float)
    tested = np.flatnonzero(np.isfinite(given))
    ascending = tested[np.argsort(given[tested], kind="stable")]
    factors = np.arange(len(ascending), 0, -1)
    adjusted = np.full(given.shape, np.nan)
    adjusted[ascending] = np.minimum(np.maximum.accumulate(given[ascending] * factors), 1.0)
    return adjusted
