"""Claims as data: each compares two sides in one metric over seeds, and `judge` gives all of them their verdicts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from anm_nb.analysis import VERDICT_MIME, stats
from anm_nb.analysis.stats import ALPHA
from anm_nb.analysis.tables import best_reference, early_area, final, rounded, steps_to
from anm_nb.config import ParameterError, unknown_name

LEAST_SEEDS = 3  # with fewer seeds, a claim stays undecided
STEPS_TO = "steps to "
UNTRAINED = "not trained long enough"
REDUCTIONS = ("final", "early area", "area from trivial", "steps to THRESHOLD", "a step")


@dataclass(frozen=True)
class Claim:
    """The claim that `lower` < `higher` in a metric; each side is a method of the frame or a number.

    `reduction` gives each seed one value: "final" (the last record), "early area" (mean over the first 20 % of the
    steps), "area from trivial" (mean over 20 % of the steps from the first record at which one of the two methods beats
    the trivial score), "steps to 0.05" (the first record that is at least as good), or an integer (that step's record).
    """

    claim: str
    metric: str
    lower: str | float
    higher: str | float
    reduction: str | int = "final"
    section: str = ""  # of the document
    expects: str = ""  # what the document expects
    unit: str = ""
    margin: float | None = None  # fixed before the runs: smaller differences count as none; per cent with `ratio`
    primary: bool = False  # corrected by Holm's method together with the other primary claims; others are descriptive
    ratio: bool = False  # compare by lower/higher − 1 in per cent, with Fieller's interval
    higher_reduction: str | int | None = None  # for the higher side, to compare a final value with an early one, say

    @property
    def methods(self) -> list[str]:
        """The sides that are methods, not numbers."""
        return [side for side in (self.lower, self.higher) if isinstance(side, str)]


@dataclass(frozen=True)
class Verdicts:
    """Judged claims: a table with one row each, which a notebook's output also carries as JSON for collection."""

    table: pd.DataFrame

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        finite = self.table.replace([np.inf, -np.inf], np.nan).astype(object)
        rows = finite.where(finite.notna(), None).to_dict("records")
        shown = self.table[["claim", "verdict", "measured", "section", "expects"]].set_index("claim")
        with pd.option_context("display.max_colwidth", None, "display.width", 200):
            return {"text/plain": shown.to_string(), "text/html": shown.to_html(), VERDICT_MIME: {"verdicts": rows}}


def judge(
    claims: Sequence[Claim],
    frame: pd.DataFrame,
    *,
    references: pd.DataFrame | None = None,
    trivial: float | None = None,
    score: str | None = None,
    larger_is_better: bool = False,
) -> Verdicts:
    """Judge claims on a tidy frame with columns method, seed, perhaps step, and metrics; each seed is one pair.

    The verdict is the first of these that applies:
    - "not trained long enough": no method of the claim has a better mean final `score` (default: the claim's metric)
      than `trivial`, the best score without learning;
    - "not measured": there is no pair; "undecided": there are fewer than 3 pairs;
    - "equivalent": two one-sided tests at 5 % place lower − higher within ± margin;
    - "supported" or "refuted": the paired 95 % interval of lower − higher lies below or above zero;
    - "undecided".
    For primary claims, p-values corrected by Holm's method decide, separately for differences and for equivalence.

    `references` (columns name, kind, metric, value) supply the trivial score and the best reachable one. In the table,
    `headroom` is the difference as a fraction of the comparator's distance from the best reachable score; `detectable`
    is the true difference that would be found with 80 % power, at level 0.05/m for m primary claims, and its interval
    is that of the standard deviation.
    """
    level = ALPHA / max(1, sum(claim.primary for claim in claims))

    def best(metric: str, *kinds: str) -> float:
        if "trivial" in kinds and trivial is not None and metric == (score or metric):
            return trivial
        return np.nan if references is None else best_reference(references, metric, kinds, larger_is_better)

    rows = []
    for claim in claims:
        here = frame[frame["method"].isin(claim.methods)]
        ends = best(claim.metric, "trivial"), best(claim.metric, "classical", "ceiling")
        row = _measured(claim, here, level if claim.primary else ALPHA, *ends, larger_is_better)
        by, least = score or claim.metric, best(score or claim.metric, "trivial")
        if {by, claim.metric} <= {*here} and here["method"].nunique() == len({*claim.methods}):
            means = per_seed(here, by, "final").mean()
            better = means > least if larger_is_better else means < least
            row["verdict"] = "" if better.any() or means.empty or np.isnan(least) else UNTRAINED
        rows.append(row)
    table = pd.DataFrame(rows)
    primary = table["primary"]
    for name in ("p", "p_equivalent"):
        table[f"{name}_holm"] = stats.holm(table[name].where(primary))
    p, p_equivalent = (table[f"{name}_holm"].where(primary, table[name]) for name in ("p", "p_equivalent"))
    verdicts = {
        UNTRAINED: table["verdict"] == UNTRAINED,
        "not measured": table["seeds"] == 0,
        "undecided": table["seeds"] < LEAST_SEEDS,
        "equivalent": p_equivalent < ALPHA,
        "supported": (p < ALPHA) & (table["estimate"] < 0),
        "refuted": p < ALPHA,
    }
    table["verdict"] = np.select([*verdicts.values()], [*verdicts], "undecided")
    table["measured"] += [_power_text(row) for row in table.to_dict("records")]
    return Verdicts(table)


def per_seed(
    frame: pd.DataFrame, metric: str, reduction: str | int, trivial: float = np.nan, larger_is_better: bool = False
) -> pd.DataFrame:
    """One value for each seed (rows) and method (columns) of a tidy frame with method, seed and perhaps step.

    Without a step column, each method must have one row per seed. Steps to a threshold are capped at the last step to
    which all methods were followed, also for seeds that never reach it: their mean is a restricted mean time, and the
    difference of two such means needs no model. Raises `ParameterError` for an unknown metric or reduction.
    """
    if metric not in frame:
        raise ParameterError(unknown_name("metric", metric, map(str, frame.columns)))
    rows = frame.dropna(subset=[metric])
    if "step" not in rows:
        return rows.pivot(index="seed", columns="method", values=metric)
    if isinstance(reduction, int):
        return final(rows[rows["step"] == reduction], metric)
    if reduction == "final":
        return final(rows, metric)
    if reduction == "early area":
        return early_area(rows, metric)
    if reduction == "area from trivial":
        if np.isnan(trivial):
            raise ParameterError("reduction 'area from trivial': judge needs trivial or references for it")
        means = rows.groupby(["step", "method"])[metric].mean()
        better = means[means > trivial if larger_is_better else means < trivial]
        return early_area(rows, metric, float(better.index[0][0])) if len(better) else final(rows, metric) * np.nan
    if threshold := re.fullmatch(rf"{STEPS_TO}(-?\d*\.?\d+(?:e[-+]?\d+)?)", reduction):
        return steps_to(rows, metric, float(threshold[1]), larger_is_better).clip(upper=_last_common_step(rows))
    raise ParameterError(unknown_name("reduction", reduction, REDUCTIONS))


def _last_common_step(rows: pd.DataFrame) -> float:
    """The last step to which all methods were followed."""
    return float(rows.groupby("method")["step"].max().min())


def _measured(
    claim: Claim, here: pd.DataFrame, alpha: float, trivial: float, reachable: float, larger_is_better: bool
) -> dict[str, Any]:
    """A claim's row of the table before the verdict; `trivial` and `reachable` are the metric's best such scores."""
    lower = higher = np.empty(0)
    rows = here.dropna(subset=[claim.metric]) if claim.metric in here else here[:0]
    if {*claim.methods} <= {*rows["method"]}:
        second = claim.reduction if claim.higher_reduction is None else claim.higher_reduction
        sides = [
            per_seed(here, claim.metric, by, trivial, larger_is_better)[side] if isinstance(side, str) else side
            for side, by in ((claim.lower, claim.reduction), (claim.higher, second))
        ]
        by_seed = pd.DataFrame(dict(enumerate(sides)), dtype=float)
        lower, higher = by_seed[np.isfinite(by_seed).all(axis=1)].to_numpy().T
    found = stats.paired_difference(lower, higher)
    means = [float(values.mean()) if found.pairs else np.nan for values in (lower, higher)]
    difference: Sequence[float] = found[:3]
    unit, scale, margin = claim.unit, 1.0, claim.margin
    if claim.ratio:
        difference = [100 * (ratio - 1) for ratio in stats.ratio_interval(lower, higher)]
        unit, scale, margin = "%", 100 / abs(means[1]) if means[1] else np.nan, margin and margin / 100
    left = abs(means[0 if larger_is_better else 1] - reachable) if claim.reduction == "final" else np.nan
    last = _last_common_step(rows) if str(claim.reduction).startswith(STEPS_TO) else np.nan
    both = " against ".join(map(_side_text, (claim.lower, claim.higher), means, (lower, higher), (last, last)))
    measured = f"{both} {claim.unit}".strip()
    measured += "; difference {} [{}, {}] {}".format(*map(rounded, difference), unit).rstrip()
    measured += f", {found.pairs} seed{'s' * (found.pairs != 1)}"
    power = [scale * each for each in stats.detectable_difference(lower, higher, alpha)]
    return {
        "claim": claim.claim,
        "verdict": "",
        "measured": measured,
        "metric": claim.metric,
        "reduction": str(claim.reduction),
        **{name: getattr(claim, name) for name in ("section", "expects", "primary")},
        "unit": unit,
        **dict(zip(("estimate", "low", "high"), difference, strict=True)),
        "margin": claim.margin,
        "p": found.p_value,
        "p_equivalent": stats.equivalence(lower, higher, margin, relative=claim.ratio) if margin else np.nan,
        **dict(zip(("detectable", "detectable_low", "detectable_high"), power, strict=True)),
        "alpha": alpha,
        "headroom": found.estimate / left if left > 0 else np.nan,
        "seeds": found.pairs,
    }


def _side_text(side: str | float, mean: float, values: np.ndarray, last: float) -> str:
    """One side in words: its name, its mean and, for steps to a threshold, the seeds not there before the `last`."""
    text = f"{side} {rounded(mean)}" if isinstance(side, str) else rounded(mean)
    return text if np.isnan(last) else f"{text} ({(values >= last).sum()} of {len(values)} seeds not before the end)"


def _power_text(row: Mapping[Any, Any]) -> str:
    """For an undecided claim: the true difference that this many seeds would have found."""
    if row["verdict"] != "undecided":
        return ""
    if row["seeds"] < LEAST_SEEDS:
        return f"; at least {LEAST_SEEDS} seeds are needed"
    if not row["detectable"] > 0:
        return "; all seeds have the same difference, so their spread does not say what could be found"
    detectable, *interval = (rounded(row[name], 2) for name in ("detectable", "detectable_low", "detectable_high"))
    level = "" if row["alpha"] == ALPHA else f", corrected for {round(ALPHA / row['alpha'])} claims"
    found = f"{detectable} {row['unit']}".strip() + f" ({' to '.join(interval)})"
    return f"; a true difference of {found} would have been found with 80 % power{level}"
