"""Statistics over training seeds as pure functions on arrays of scores, built on scipy.

Seeds are assumed independent. A 95 % interval contains the true value in 95 % of repeated experiments with new seeds.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from anm_nb.config import ParameterError

CONFIDENCE = 0.95
ALPHA = 0.05
POWER = 0.80
RESOLUTION = 2.0**-40  # relative to the largest score: smaller differences are rounding errors


class Interval(NamedTuple):
    """An estimate and its two-sided 95 % confidence interval; low and high are NaN if there are too few values."""

    estimate: float
    low: float
    high: float


class PairedDifference(NamedTuple):
    """A mean paired difference with its 95 % t-interval and two-sided p-value, which are NaN below two pairs."""

    estimate: float
    low: float
    high: float
    p_value: float
    pairs: int


def finite_pairs(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """The finite pairs, float64 [2, pairs]; `second` may be one number. `ParameterError` for other shapes."""
    one, other = np.asarray(first, float), np.asarray(second, float)
    if one.ndim != 1 or other.shape not in ((), one.shape):
        raise ParameterError(f"shapes {one.shape} and {other.shape}: pairs need two lists of the same length")
    pairs = np.stack(np.broadcast_arrays(one, other))
    return pairs[:, np.isfinite(pairs).all(axis=0)]


def mean_interval(values: ArrayLike) -> Interval:
    """Mean over seeds and its 95 % t-interval, assuming roughly normal values. NaNs are left out; NaN below two."""
    return Interval(*paired_difference(values, 0.0)[:3])


def bounded_interval(values: ArrayLike, lowest: float = 0.0, highest: float = 1.0) -> Interval:
    """Mean over seeds of a bounded score and its 95 % interval, which stays within the bounds; NaNs are left out.

    It is the t-interval for the logit of the mean (delta method), transformed back. With few seeds near a bound it
    covers 93 to 95 %; the plain t-interval covers 88 to 92 % and crosses the bound (simulated: Beta-distributed scores,
    3 to 20 seeds). If all seeds agree it has no width, which is no sign of precision. `ParameterError` outside bounds.
    """
    scores, width = np.asarray(values, float), highest - lowest
    for score in scores[(scores < lowest - 1e-9 * width) | (scores > highest + 1e-9 * width)]:
        raise ParameterError(f"score {score}: must lie between {lowest} and {highest}")
    mean, low, high = mean_interval(scores)
    if not low < high:
        return Interval(mean, low, high)
    share = (mean - lowest) / width
    half = (high - low) / 2 / width / (share * (1 - share))
    return Interval(mean, *(float(lowest + width * special.expit(special.logit(share) + h)) for h in (-half, half)))


def paired_difference(first: ArrayLike, second: ArrayLike) -> PairedDifference:
    """Mean of first − second over pairs (one per seed), 95 % t-interval and p-value of the two-sided paired t-test.

    Assumes roughly normal differences. Pairs with a NaN are left out. `ParameterError` if the lengths differ.
    """
    differences = np.subtract(*finite_pairs(first, second))
    n = len(differences)
    estimate = float(differences.mean()) if n else np.nan
    if n < 2:
        return PairedDifference(estimate, np.nan, np.nan, np.nan, n)
    if np.ptp(differences) == 0:  # then t is 0/0 or infinite, or its denominator is rounding error
        return PairedDifference(estimate, estimate, estimate, float(estimate == 0), n)
    test = stats.ttest_1samp(differences, 0.0)
    low, high = test.confidence_interval(CONFIDENCE)
    return PairedDifference(estimate, float(low), float(high), float(test.pvalue), n)


def ratio_interval(first: ArrayLike, second: ArrayLike) -> Interval:
    """mean(first)/mean(second) over pairs and its 95 % interval by Fieller's theorem (1954); NaN pairs are left out.

    It holds every ratio r that a two-sided paired t-test of first − r·second does not reject at 5 %, assuming normal
    pairs. NaN below two pairs, or if the test does not reject a mean of 0 for `second`: the interval is then unbounded.
    """
    pairs = finite_pairs(first, second)
    n = pairs.shape[1]
    above, below = pairs.mean(axis=1) if n else (np.nan, np.nan)
    estimate = float(above / below) if below else np.nan
    if n < 2:
        return Interval(estimate, np.nan, np.nan)
    t = special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)
    var_above, covariance, _, var_below = (t**2 / n * np.cov(pairs)).ravel()
    square = below**2 - var_below  # the interval solves square·r² − 2·middle·r + constant ≤ 0
    middle, constant = above * below - covariance, above**2 - var_above
    if square <= 0:
        return Interval(estimate, np.nan, np.nan)
    reach = np.sqrt(max(middle**2 - square * constant, 0.0)) / square
    return Interval(estimate, float(middle / square - reach), float(middle / square + reach))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Adjust the p-values of several tests by Holm's step-down method (1979), keeping their order; NaN stays NaN.

    The i-th smallest of m is multiplied by m − i + 1; it is at least the adjusted value before it, and at most 1.
    Rejecting values below α bounds the probability of any false rejection by α, for any dependence between the tests.
    """
    adjusted = np.array(p_values, float)
    ascending = np.argsort(adjusted, kind="stable")[: np.isfinite(adjusted).sum()]
    factors = np.arange(len(ascending), 0, -1)
    adjusted[ascending] = np.minimum(np.maximum.accumulate(adjusted[ascending] * factors), 1.0)
    return adjusted


def equivalence(first: ArrayLike, second: ArrayLike, margin: float, *, relative: bool = False) -> float:
    """p-value for a mean of first − second within ± margin, by two one-sided paired t-tests (TOST, Schuirmann 1987).

    The null hypothesis is a mean outside ± margin; assumes normal differences. With `relative`, the margin is a share
    of the mean of `second`: first − (1 ± margin)·second is tested. NaN below two pairs. `ParameterError` if margin ≤ 0.
    """
    if not margin > 0:
        raise ParameterError(f"margin = {margin}: must be above 0")
    one, other = finite_pairs(first, second)
    if len(one) < 2:
        return np.nan
    reach = margin * (other * np.sign(other.mean()) if relative else 1.0)

    def p_positive(values: np.ndarray) -> float:  # one-sided: small if the mean is positive
        if np.ptp(values) <= RESOLUTION * np.abs(values).max():
            return float(values.mean() <= 0)
        return float(stats.ttest_1samp(values, 0.0, alternative="greater").pvalue)

    return max(p_positive(one - other + reach), p_positive(other - one + reach))


def detection_power(effect: float, pairs: int, alpha: float = ALPHA) -> float:
    """Power of a two-sided paired t-test for a true mean of `effect` standard deviations (Cohen 1988, chapter 2).

    It is P(|T| > t_crit) with pairs − 1 degrees of freedom and noncentrality effect·√pairs, for either sign of T.
    """
    if effect == 0:  # scipy's noncentral F is wrong at noncentrality 0
        return alpha
    critical = stats.t.ppf(1 - alpha / 2, pairs - 1)
    # T² is noncentral F(1, pairs − 1); scipy's noncentral t gives NaN for few pairs and large effects
    return float(stats.ncf.sf(critical**2, 1, pairs - 1, pairs * effect**2))


@cache
def detectable_effect(pairs: int, alpha: float = ALPHA) -> float:
    """The mean difference, in standard deviations, that a two-sided paired t-test at `alpha` finds with 80 % power."""
    largest = 1.0
    while detection_power(largest, pairs, alpha) < POWER:
        largest *= 2
    return float(optimize.brentq(lambda effect: detection_power(effect, pairs, alpha) - POWER, 0.0, largest))


def detectable_difference(first: ArrayLike, second: ArrayLike, alpha: float = ALPHA) -> Interval:
    """The true mean of first − second that a two-sided paired t-test at `alpha` would find with 80 % power.

    It is `detectable_effect` times the observed standard deviation; the interval reflects that deviation's own (χ²,
    normal differences). For m tests under Holm's method, use `alpha` = 0.05/m: the first rejection must pass it, so the
    result never promises too much. NaN with fewer than two pairs.
    """
    differences = np.subtract(*finite_pairs(first, second))
    n = len(differences)
    if n < 2:
        return Interval(np.nan, np.nan, np.nan)
    effect = detectable_effect(n, alpha) * float(differences.std(ddof=1))
    low, high = effect * np.sqrt((n - 1) / stats.chi2.ppf([(1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2], n - 1))
    return Interval(effect, float(low), float(high))


def proportion_interval(successes: int, trials: int) -> Interval:
    """Proportion of independent successes and its 95 % interval by Wilson's score method (1927); NaN without trials."""
    if not trials:
        return Interval(np.nan, np.nan, np.nan)
    return Interval(successes / trials, *stats.binomtest(successes, trials).proportion_ci(CONFIDENCE, "wilson"))
