"""The HRM document's success tiers on measured τ: what was reached, measured in which space, and what could be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from anm_nb.analysis.stats import POWER, PairedDifference, mean_interval, paired_difference
from anm_nb.config import ParameterError

Space = Literal["observed pairs", "all pairs", "index space"]

# A model sits at the ceiling when its interval reaches to within the first of these, as a few hundred arrays resolve no
# less, and its mean to within the second: an interval that is only wide leaves the question open.
AT_CEILING = 0.005
NEAR_CEILING = 0.02


class Tier(NamedTuple):
    """A tier of the document ("Success Criteria"): what both τ and the relative gain have to exceed."""

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
    model at the ceiling would reach it beside this baseline), measured_in.
    """

    table: pd.DataFrame
    space: Space
    ceiling: float
    baseline: tuple[float, float, float]  # mean τ over seeds, and its 95 % interval
    hrm: tuple[float, float, float]
    difference: PairedDifference  # hrm − baseline, paired by seed
    headroom: bool  # whether either model stays below the ceiling
    verdict: str

    def __str__(self) -> str:
        lines = [f"measured in: {self.space} (ceiling {self.ceiling:.3f}), {self.difference.pairs} paired seeds"]
        for tier, reached, reachable in self.table[["tier", "reached", "reachable"]].to_numpy():
            unreachable = "" if reachable else "; out of reach even at the ceiling"
            lines.append(f"  {tier}: {'reached' if reached else 'not reached'}{unreachable}")
        return "\n".join([*lines, f"verdict: {self.verdict}"])


def evaluate_tiers(baseline: ArrayLike, hrm: ArrayLike, space: Space, ceiling: float) -> TierReport:
    """Judge τ [seeds] of the baseline and of the HRM model, paired by seed, against the document's tiers.

    `ceiling` is the best possible τ in `space`. Raises `ParameterError` for arrays that are not of one length.
    """
    first, second = np.asarray(baseline, dtype=float), np.asarray(hrm, dtype=float)
    if first.ndim != 1 or first.shape != second.shape or len(first) == 0:
        raise ParameterError(f"baseline {first.shape} and hrm {second.shape}: one τ for each seed, the same seeds")
    theirs, ours = mean_interval(first), mean_interval(second)
    difference = paired_difference(second, first)
    headroom = not (at_ceiling(theirs, ceiling) and at_ceiling(ours, ceiling))
    return TierReport(
        table=_table(theirs[0], ours[0], space, ceiling),
        space=space,
        ceiling=ceiling,
        baseline=theirs,
        hrm=ours,
        difference=difference,
        headroom=headroom,
        verdict=_verdict(difference, headroom, ceiling - theirs[0]),
    )


def at_ceiling(interval: tuple[float, float, float], ceiling: float) -> bool:
    """Whether a mean comes within `NEAR_CEILING`, and its interval (it, where there is a single seed) `AT_CEILING`."""
    mean, _, high = interval
    return mean >= ceiling - NEAR_CEILING and (mean if math.isnan(high) else high) >= ceiling - AT_CEILING


def _table(baseline: float, hrm: float, space: Space, ceiling: float) -> pd.DataFrame:
    rows = []
    for tier in TIERS:
        wanted = baseline * (1 + tier.gain)
        reached = (baseline > tier.baseline, hrm > tier.hrm, baseline > 0 and hrm >= wanted)
        reachable = ceiling > tier.hrm and ceiling >= wanted
        rows.append((tier.name, *reached, all(reached), reachable, space))
    columns = ["tier", "baseline_reached", "hrm_reached", "gain_reached", "reached", "reachable", "measured_in"]
    return pd.DataFrame(rows, columns=columns)


def _verdict(difference: PairedDifference, headroom: bool, room: float) -> str:
    if difference.pairs < 2:
        return "one seed shows no difference, only a number"
    power = f"a difference of {difference.detectable:.3f} would be found with {100 * POWER:.0f} % power"
    interval = f"[{difference.low:+z.3f}, {difference.high:+z.3f}]"
    if not headroom:
        return f"no headroom: both models sit at the ceiling, and at most {max(room, 0):.3f} is left to gain; {power}"
    if difference.low > 0:
        return f"HRM is better by {difference.estimate:+z.3f} {interval}; {power}"
    if difference.high < 0:
        return f"HRM is worse by {difference.estimate:+z.3f} {interval}; {power}"
    return f"no difference shown: {difference.estimate:+z.3f} {interval}; {power}"
