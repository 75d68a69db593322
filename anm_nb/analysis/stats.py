"""Statistics across seeds as pure functions on score arrays; scipy underneath."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from anm_nb.config import ParameterError

CONFIDENCE = 0.95
POWER = 0.80
RESAMPLES = 9999
RESOLUTION = 2.0**-40  # of the largest score: differences nearer than this differ by rounding alone


class Interval(NamedTuple):
    """A statistic and its two-sided 95 % interval; low and high are NaN where too few values give none."""

    estimate: float
    low: float
    high: float


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


@dataclass(frozen=True)
class PairedTests:
    """Two-sided p-values, by three tests, of paired differences being centred on zero.

    `t` is exact for normal differences; `wilcoxon` (signed ranks) and `sign_flip` (permutation of the mean) suppose
    only that differences are symmetric about zero if nothing is there. With n pairs these two are at least 2^(1−n), so
    fewer than 6 pairs never bring them below 0.05. All are NaN with fewer than two pairs.
    """

    t: float
    wilcoxon: float
    sign_flip: float
    pairs: int


def finite_pairs(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both sides [pairs], float64, in their order, without the pairs that lack a finite value.

    `second` may be one number for all pairs. Raises `ParameterError` for arrays that cannot be paired.
    """
    one, other = np.asarray(first, float), np.asarray(second, float)
    if one.ndim != 1 or other.shape not in ((), one.shape):
        raise ParameterError(f"shapes {one.shape} and {other.shape}: pairs are two lists of one length")
    kept = np.isfinite(one) & np.isfinite(other)
    return one[kept], np.broadcast_to(other, one.shape)[kept]


def mean_interval(values: ArrayLike) -> Interval:
    """Mean and 95 % t-interval over seeds, NaNs left out; the interval is NaN with fewer than two values."""
    difference = paired_difference(values, 0.0)
    return Interval(difference.estimate, difference.low, difference.high)


def paired_difference(first: ArrayLike, second: ArrayLike) -> PairedDifference:
    """first − second, pair by pair (one pair a seed); pairs with a NaN are left out.

    Raises `ParameterError` for arrays that cannot be paired.
    """
    differences = np.subtract(*finite_pairs(first, second))
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


def paired_tests(
    first: ArrayLike, second: ArrayLike, *, generator: np.random.Generator, resamples: int = RESAMPLES
) -> PairedTests:
    """Student's t, Wilcoxon's signed ranks and the sign-flip test of first − second, pair by pair (one pair a seed).

    Pairs with a NaN are left out. Differences of zero are ranked but have no sign (Pratt 1959). Sign flips are all
    tried where there are at most `resamples`, else as many are drawn. Wilcoxon's p-value is exact up to 50 pairs, or up
    to 13 where differences are zero or of equal size, else normal with a correction for ties. Raises `ParameterError`
    for arrays that cannot be paired or no resamples.
    """
    if resamples < 1:
        raise ParameterError(f"resamples = {resamples}: at least 1 is needed")
    one, other = finite_pairs(first, second)
    n = len(one)
    if n < 2:
        return PairedTests(float("nan"), float("nan"), float("nan"), n)
    # 0.9 − 0.8 and 0.3 − 0.2 are equal but for rounding; as whole numbers they, and their sums in any order, are equal.
    unit = RESOLUTION * (np.abs([one, other]).max() or 1.0)
    whole = np.round((one - other) / unit)
    if not whole.any():
        return PairedTests(1.0, 1.0, 1.0, n)
    flipped = stats.permutation_test(
        (whole,), np.sum, permutation_type="samples", n_resamples=resamples, rng=generator, vectorized=True
    )
    return PairedTests(
        paired_difference(one, other).p_value,
        float(stats.wilcoxon(whole, zero_method="pratt").pvalue),
        float(flipped.pvalue),
        n,
    )


def detection_power(effect: float, pairs: int, alpha: float = 1 - CONFIDENCE) -> float:
    """The chance that a two-sided paired t-test at `alpha` finds a mean difference of `effect` standard deviations.

    P(|T| > t_crit) for T noncentral t with pairs − 1 degrees of freedom (Cohen 1988, chapter 2), of either sign.
    Raises `ParameterError` with fewer than two pairs, or α outside (0, 1).
    """
    if pairs < 2:
        raise ParameterError(f"pairs = {pairs}: a paired t-test needs at least 2")
    if not 0 < alpha < 1:
        raise ParameterError(f"alpha = {alpha}: must lie between 0 and 1")
    if effect == 0:  # scipy's noncentral F is wrong where nothing is noncentral
        return alpha
    critical = stats.t.ppf(1 - alpha / 2, pairs - 1)
    # T² is noncentral F with one degree of freedom; scipy's noncentral t gives NaN for few pairs and large effects
    return float(stats.ncf.sf(critical**2, 1, pairs - 1, pairs * effect**2))


def ratio_interval(first: ArrayLike, second: ArrayLike) -> tuple[float, float, float]:
    """mean(first)/mean(second) over pairs and its 95 % interval by Fieller's theorem (1954); pairs with a NaN left out.

    The interval holds every ratio r that a paired t-test of first − r·second does not reject, so that r = 1 lies in it
    exactly where zero lies in the interval of the paired difference. NaN with fewer than two pairs, and where the mean
    of `second` cannot be told from zero, as the ratios then are not an interval.
    """
    pairs = np.stack(finite_pairs(first, second))
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

    Solves `detection_power` = power. Raises `ParameterError` as it does, or where power is not between α and 1.
    """
    if not detection_power(0.0, pairs, alpha) < power < 1:
        raise ParameterError(f"power = {power}: must lie between alpha = {alpha} and 1")
    largest = 1.0
    while detection_power(largest, pairs, alpha) < power:
        largest *= 2
    return float(optimize.brentq(lambda effect: detection_power(effect, pairs, alpha) - power, 0.0, largest))


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
