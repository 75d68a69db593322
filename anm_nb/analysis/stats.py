"""Statistics across seeds as pure functions on score arrays; scipy underneath."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from anm_nb.config import ParameterError

CONFIDENCE = 0.95
ALPHA = 0.05
POWER = 0.80
RESOLUTION = 2.0**-40  # of the largest score: differences nearer than this differ by rounding alone
NAN = float("nan")


class Interval(NamedTuple):
    """A statistic and its two-sided 95 % interval; low and high are NaN where too few values give none."""

    estimate: float
    low: float
    high: float


class PairedDifference(NamedTuple):
    """The mean of paired differences, its 95 % t-interval and two-sided p-value, NaN with fewer than two pairs."""

    estimate: float
    low: float
    high: float
    p_value: float
    pairs: int


def finite_pairs(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Both sides [2, pairs], float64, without the pairs that lack a finite value; `second` may be one number for all.

    Raises `ParameterError` for arrays that cannot be paired.
    """
    one, other = np.asarray(first, float), np.asarray(second, float)
    if one.ndim != 1 or other.shape not in ((), one.shape):
        raise ParameterError(f"shapes {one.shape} and {other.shape}: pairs are two lists of one length")
    pairs = np.stack(np.broadcast_arrays(one, other))
    return pairs[:, np.isfinite(pairs).all(axis=0)]


def mean_interval(values: ArrayLike) -> Interval:
    """Mean and 95 % t-interval over seeds, NaNs left out; the interval is NaN with fewer than two values."""
    return Interval(*paired_difference(values, 0.0)[:3])


def bounded_interval(values: ArrayLike, lowest: float = 0.0, highest: float = 1.0) -> Interval:
    """Mean of a bounded score and its 95 % interval within the bounds, NaNs left out.

    The t-interval of the mean's logit by the delta method, carried back: for few seeds near a bound it covers 93 to
    95 % where the plain t-interval covers 88 to 92 % and passes the bound (Beta-distributed scores, 3 to 20 seeds). It
    has no width where all seeds agree: their spread then says nothing. Raises `ParameterError` for a score outside.
    """
    given, width = np.asarray(values, float), highest - lowest
    for score in given[(given < lowest - 1e-9 * width) | (given > highest + 1e-9 * width)]:
        raise ParameterError(f"score {score}: must lie between {lowest} and {highest}")
    mean, low, high = mean_interval(given)
    if not low < high:
        return Interval(mean, low, high)
    share = (mean - lowest) / width
    half = (high - low) / 2 / width / (share * (1 - share))
    return Interval(mean, *(float(lowest + width * special.expit(special.logit(share) + h)) for h in (-half, half)))


def paired_difference(first: ArrayLike, second: ArrayLike) -> PairedDifference:
    """first − second, pair by pair (one pair a seed); pairs with a NaN are left out.

    Raises `ParameterError` for arrays that cannot be paired.
    """
    differences = np.subtract(*finite_pairs(first, second))
    n = len(differences)
    estimate = float(differences.mean()) if n else NAN
    if n < 2:
        return PairedDifference(estimate, NAN, NAN, NAN, n)
    if np.ptp(differences) == 0:  # the t statistic is 0/0 or infinite, and the spread itself may be one of rounding
        return PairedDifference(estimate, estimate, estimate, float(estimate == 0), n)
    test = stats.ttest_1samp(differences, 0.0)
    low, high = test.confidence_interval(CONFIDENCE)
    return PairedDifference(estimate, float(low), float(high), float(test.pvalue), n)


def ratio_interval(first: ArrayLike, second: ArrayLike) -> Interval:
    """mean(first)/mean(second) over pairs and its 95 % interval by Fieller's theorem (1954); pairs with a NaN left out.

    The interval holds every ratio r that a paired t-test of first − r·second does not reject. NaN with fewer than two
    pairs, and where the mean of `second` cannot be told from zero, as the ratios then are not an interval.
    """
    pairs = finite_pairs(first, second)
    n = pairs.shape[1]
    above, below = pairs.mean(axis=1) if n else (NAN, NAN)
    estimate = float(above / below) if below else NAN
    if n < 2:
        return Interval(estimate, NAN, NAN)
    t = special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)
    var_above, covariance, _, var_below = (t**2 / n * np.cov(pairs)).ravel()
    square = below**2 - var_below  # of square·r² − 2·middle·r + constant ≤ 0
    middle, constant = above * below - covariance, above**2 - var_above
    if square <= 0:
        return Interval(estimate, NAN, NAN)
    reach = np.sqrt(max(middle**2 - square * constant, 0.0)) / square
    return Interval(estimate, float(middle / square - reach), float(middle / square + reach))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Adjusted p-values of several tests by Holm's step-down method (1979), in their order; NaN stays NaN.

    The i-th smallest of m is multiplied by m − i + 1, and never falls below one before it or exceeds 1: rejecting those
    below α keeps the chance of any false rejection below α.
    """
    adjusted = np.array(p_values, float)
    ascending = np.argsort(adjusted, kind="stable")[: np.isfinite(adjusted).sum()]
    factors = np.arange(len(ascending), 0, -1)
    adjusted[ascending] = np.minimum(np.maximum.accumulate(adjusted[ascending] * factors), 1.0)
    return adjusted


def equivalence(first: ArrayLike, second: ArrayLike, margin: float, *, relative: bool = False) -> float:
    """p-value that first − second, paired, lies within ± margin: two one-sided t-tests (Schuirmann 1987).

    With `relative` the margin is a share of the mean of `second`: first − (1 ± margin)·second is tested. NaN with fewer
    than two pairs. Raises `ParameterError` for a margin that is not positive.
    """
    if not margin > 0:
        raise ParameterError(f"margin = {margin}: must be above 0")
    one, other = finite_pairs(first, second)
    if len(one) < 2:
        return NAN
    reach = margin * (other * np.sign(other.mean()) if relative else 1.0)

    def one_sided(values: np.ndarray) -> float:  # that the mean is positive
        if np.ptp(values) <= RESOLUTION * np.abs(values).max():
            return float(values.mean() <= 0)
        return float(stats.ttest_1samp(values, 0.0, alternative="greater").pvalue)

    return max(one_sided(one - other + reach), one_sided(other - one + reach))


def detection_power(effect: float, pairs: int, alpha: float = ALPHA) -> float:
    """The chance that a two-sided paired t-test at `alpha` finds a mean difference of `effect` standard deviations.

    P(|T| > t_crit) for T noncentral t with pairs − 1 degrees of freedom (Cohen 1988, chapter 2), of either sign.
    """
    if effect == 0:  # scipy's noncentral F is wrong where nothing is noncentral
        return alpha
    critical = stats.t.ppf(1 - alpha / 2, pairs - 1)
    # T² is noncentral F with one degree of freedom; scipy's noncentral t gives NaN for few pairs and large effects
    return float(stats.ncf.sf(critical**2, 1, pairs - 1, pairs * effect**2))


@cache
def detectable_effect(pairs: int, power: float = POWER, alpha: float = ALPHA) -> float:
    """The smallest mean difference, in standard deviations of the differences, that a two-sided paired t-test finds."""
    largest = 1.0
    while detection_power(largest, pairs, alpha) < power:
        largest *= 2
    return float(optimize.brentq(lambda effect: detection_power(effect, pairs, alpha) - power, 0.0, largest))


def detectable_difference(first: ArrayLike, second: ArrayLike, alpha: float = ALPHA) -> Interval:
    """The smallest true mean of first − second that a paired t-test at `alpha` finds with 80 % power, in their unit.

    The interval is that of the standard deviation which it rests on (χ², 95 %). With m tests corrected by Holm's method
    the first to be rejected has to pass α/m: `alpha` = 0.05/m never promises too much. NaN with fewer than two pairs.
    """
    differences = np.subtract(*finite_pairs(first, second))
    n = len(differences)
    if n < 2:
        return Interval(NAN, NAN, NAN)
    effect = detectable_effect(n, POWER, alpha) * float(differences.std(ddof=1))
    low, high = effect * np.sqrt((n - 1) / stats.chi2.ppf([(1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2], n - 1))
    return Interval(effect, float(low), float(high))


def proportion_interval(successes: int, trials: int) -> Interval:
    """A proportion and its 95 % interval by Wilson's score method (1927); all NaN without trials."""
    if not trials:
        return Interval(NAN, NAN, NAN)
    return Interval(successes / trials, *stats.binomtest(successes, trials).proportion_ci(CONFIDENCE, "wilson"))
