"""The document's success tiers on measured runs: what was reached, measured in which space, and what could be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, stats

from anm_nb.parameters import ParameterError

Space = Literal["observed pairs", "all pairs", "index space"]

# A model whose interval reaches to within this of the ceiling sits at it: τ of a few hundred arrays says no more.
AT_CEILING = 0.005


class Tier(NamedTuple):
    """A tier of the document ("Success Criteria"): what τ and which relative gain have to exceed."""

    name: str
    baseline: float
    hrm: float
    gain: float


TIERS = (
    Tier("minimum", 0.15, 0.20, 0.20),
    Tier("target", 0.18, 0.25, 0.35),
    Tier("stretch", 0.20, 0.30, 0.50),
)


@dataclass(frozen=True)
class TierReport:
    """The tiers, one row each, and what the same runs say about a difference between the two models.

    Columns of `table`: tier, baseline_reached, hrm_reached, gain_reached, reached (all three), reachable (whether a
    model at the ceiling would reach it), measured_in.
    """

    table: pd.DataFrame
    space: Space
    ceiling: float
    seeds: int
    baseline: tuple[float, float, float]  # mean, and its interval over seeds
    hrm: tuple[float, float, float]
    difference: tuple[float, float, float]  # hrm − baseline, paired by seed
    p_value: float  # two-sided paired t test; NaN with fewer than two seeds
    detectable: float  # smallest true difference that this design would find with the power asked for
    headroom: bool
    verdict: str

    def __str__(self) -> str:
        lines = [f"measured in: {self.space} (ceiling {self.ceiling:.3f}), {self.seeds} paired seeds"]
        for row in self.table.itertuples():
            unreachable = "" if row.reachable else "; out of reach even at the ceiling"
            lines.append(f"  {row.tier}: {'reached' if row.reached else 'not reached'}{unreachable}")
        return "\n".join([*lines, f"verdict: {self.verdict}"])


def evaluate_tiers(
    baseline: ArrayLike,
    hrm: ArrayLike,
    space: Space,
    ceiling: float,
    *,
    confidence: float = 0.95,
    power: float = 0.8,
) -> TierReport:
    """Judge τ [seeds] of the baseline and of the HRM model, paired by seed, against the document's tiers.

    `ceiling` is the best possible τ in `space`. Intervals are t intervals over seeds at `confidence`. Raises
    `ParameterError` for arrays that are not of one length.
    """
    first, second = np.asarray(baseline, dtype=float), np.asarray(hrm, dtype=float)
    if first.ndim != 1 or first.shape != second.shape or len(first) == 0:
        raise ParameterError(f"baseline {first.shape} and hrm {second.shape}: one τ for each seed, the same seeds")
    ours, theirs = mean_interval(second, confidence), mean_interval(first, confidence)
    difference = second - first
    detectable = detectable_difference(difference, 1 - confidence, power)
    headroom = not (reaches(ours, ceiling) and reaches(theirs, ceiling))
    interval = mean_interval(difference, confidence)
    return TierReport(
        table=_table(theirs[0], ours[0], space, ceiling),
        space=space,
        ceiling=ceiling,
        seeds=len(first),
        baseline=theirs,
        hrm=ours,
        difference=interval,
        p_value=_paired_p(difference),
        detectable=detectable,
        headroom=headroom,
        verdict=_verdict(interval, detectable, headroom, ceiling - theirs[0], power),
    )


def mean_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of values [seeds] and its t interval; an infinite one for a single seed."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, -math.inf, math.inf
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return mean, mean - half, mean + half


def reaches(interval: tuple[float, float, float], ceiling: float) -> bool:
    """Whether a (mean, low, high) sits at the ceiling: the interval, or a single seed, comes within `AT_CEILING`."""
    mean, _, high = interval
    return (high if math.isfinite(high) else mean) >= ceiling - AT_CEILING


def detectable_difference(differences: np.ndarray, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true mean difference that a two-sided paired t test finds with this power, at the measured spread.

    In the unit of τ; NaN with fewer than two seeds, 0 where the seeds do not differ at all.
    """
    n = len(differences)
    if n < 2:
        return math.nan
    spread = float(np.std(differences, ddof=1))
    critical = float(stats.t.ppf(1 - alpha / 2, n - 1))

    def missing_power(shift: float) -> float:
        found = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
        return float(found) - power

    shift = optimize.brentq(missing_power, 0.0, 20.0 * critical)
    return float(shift) * spread / math.sqrt(n)


def _table(baseline: float, hrm: float, space: Space, ceiling: float) -> pd.DataFrame:
    rows = []
    for tier in TIERS:
        reached = (
            baseline > tier.baseline,
            hrm > tier.hrm,
            baseline > 0 and hrm >= baseline * (1 + tier.gain),
        )
        reachable = ceiling > tier.hrm and ceiling >= baseline * (1 + tier.gain)
        rows.append((tier.name, *reached, all(reached), reachable, space))
    columns = ["tier", "baseline_reached", "hrm_reached", "gain_reached", "reached", "reachable", "measured_in"]
    return pd.DataFrame(rows, columns=columns)


def _paired_p(differences: np.ndarray) -> float:
    """p of a paired t test; 1 where no seed differs, 0 where all differ by exactly the same."""
    if len(differences) < 2:
        return math.nan
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _verdict(
    difference: tuple[float, float, float], detectable: float, headroom: bool, room: float, power: float
) -> str:
    mean, low, high = difference
    sensitivity = f"a difference of {detectable:.4f} would be found with power {power:.0%}"
    if not math.isfinite(low):
        return "one seed shows no difference, only a number"
    if not headroom:
        return f"no headroom: both models sit at the ceiling; at most {max(room, 0):.4f} is left to gain; {sensitivity}"
    if low > 0:
        return f"HRM is better by {mean:.4f} [{low:.4f}, {high:.4f}]; {sensitivity}"
    if high < 0:
        return f"HRM is worse by {-mean:.4f} [{-high:.4f}, {-low:.4f}]; {sensitivity}"
    return f"no difference shown: {mean:+.4f} [{low:.4f}, {high:.4f}]; {sensitivity}"
