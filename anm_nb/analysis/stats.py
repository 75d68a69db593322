"""Statistics across seeds as pure functions on score arrays; scipy underneath."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

CONFIDENCE = 0.95
POWER = 0.80
SPREAD_QUANTILES = 4000


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
    if spread == 0:  # the t statistic is 0/0 or infinite; all pairs agree exactly
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


def detectable_effect(pairs: int, power: float = POWER, alpha: float = 1 - CONFIDENCE) -> float:
    """The smallest mean difference, in standard deviations of the differences, that a two-sided paired t-test finds.

    Solves power = P(|T| > t_crit) for T noncentral t with pairs − 1 degrees of freedom (Cohen 1988, chapter 2).
    Raises `ValueError` with fewer than two pairs.
    """
    if pairs < 2:
        raise ValueError(f"pairs = {pairs}: a paired t-test needs at least 2")
    freedom, root = pairs - 1, pairs**0.5
    # P(|T| > c) is averaged over the sample's spread, whose quantiles are known; scipy's own distribution function of
    # the noncentral t gives NaN for few pairs and large effects.
    quantiles = (np.arange(SPREAD_QUANTILES) + 0.5) / SPREAD_QUANTILES
    spread = np.sqrt(stats.chi2.ppf(quantiles, freedom) / freedom)
    bound = stats.t.ppf(1 - alpha / 2, freedom) * spread

    def missing_power(effect: float) -> float:
        found = stats.norm.sf(bound - effect * root) + stats.norm.cdf(-bound - effect * root)
        return float(found.mean() - power)

    largest = 1.0
    while missing_power(largest) < 0:
        largest *= 2
    return float(optimize.brentq(missing_power, 0.0, largest))
