"""Claims are rows: what is compared with what, by which measure; one function judges them, with one rule for all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from anm_nb.analysis import VERDICT_MIME
from anm_nb.analysis.stats import (
    ALPHA,
    detectable_difference,
    equivalence,
    holm,
    paired_difference,
    ratio_interval,
)
from anm_nb.analysis.tables import best_reference, early_area, final, rounded, steps_to
from anm_nb.config import ParameterError, unknown_name

LEAST_SEEDS = 3  # fewer never decide anything
STEPS_TO = "steps to "
UNTRAINED = "not trained long enough"
REDUCTIONS = ("final", "early area", "area from trivial", "steps to THRESHOLD", "a step")


@dataclass(frozen=True)
class Claim:
    """One claim: `lower` < `higher` in a metric, each a method of the frame or a number.

    `reduction` makes one value a seed: "final", "early area" (mean over the first 20 % of the steps), "area from
    trivial" (the same from the first record at which one of the two beats the trivial score), "steps to 0.05" (the
    first record that is at least as good), or a step. `margin` states, before the runs, within which a difference
    counts as none: in the metric's unit, or in per cent with `ratio`, which compares by ratio. Primary claims are
    corrected by Holm's method together; all others are descriptive. With `higher_reduction` the higher side is reduced
    in its own way: a method's last value against its early area, say.
    """

    claim: str
    metric: str
    lower: str | float
    higher: str | float
    reduction: str | int = "final"
    section: str = ""  # of the document
    expects: str = ""  # what the document expects
    unit: str = ""
    margin: float | None = None
    primary: bool = False
    ratio: bool = False  # lower/higher − 1 in per cent, with Fieller's interval
    higher_reduction: str | int | None = None

    @property
    def methods(self) -> list[str]:
        """Those of the two sides that are methods."""
        return [of for of in (self.lower, self.higher) if isinstance(of, str)]


@dataclass(frozen=True)
class Verdicts:
    """Judged claims, `table` one row each; shown as a table, and kept in a notebook's output for collection."""

    table: pd.DataFrame

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        finite = self.table.replace([np.inf, -np.inf], np.nan).astype(object)
        rows = finite.where(finite.notna(), None).to_dict("records")
        shown = self.table[["claim", "verdict", "measured", "section", "expects"]].set_index("claim")
        with pd.option_context("display.max_colwidth", None, "display.width", 200):
            return {"text/plain": shown.to_string(), "text/html": shown.to_html(), VERDICT_MIME: {"verdicts": rows}}


def reduced(
    frame: pd.DataFrame, metric: str, reduction: str | int, trivial: float = np.nan, larger_is_better: bool = False
) -> pd.DataFrame:
    """One value for each seed (rows) and method (columns) of a tidy frame with method, seed and maybe step.

    Without a step column a method has one row a seed. Steps to a threshold that a seed never reached are the last step
    to which all methods were followed: their mean is a restricted mean time, and their difference needs no model.
    Raises `ParameterError` for a column or reduction that is not.
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
        return steps_to(rows, metric, float(threshold[1]), larger_is_better).clip(upper=_followed(rows))
    raise ParameterError(unknown_name("reduction", reduction, REDUCTIONS))


def _followed(rows: pd.DataFrame) -> float:
    """The last step that every method was followed to."""
    return float(rows.groupby("method")["step"].max().min())


def judge(
    claims: Sequence[Claim],
    frame: pd.DataFrame,
    *,
    references: pd.DataFrame | None = None,
    trivial: float | None = None,
    score: str | None = None,
    larger_is_better: bool = False,
) -> Verdicts:
    """Judge claims on a tidy frame (`reduced`), a seed a pair.

    Supported or refuted where the paired 95 % interval of lower − higher lies on one side of zero, and for primary
    claims the p-value corrected by Holm's method is below 0.05; equivalent where two one-sided tests at 5 % (for
    primary claims corrected among themselves) place it within ± margin; all with at least 3 seeds. With `trivial`, the
    best score that needs no learning, a claim about methods none of which has a better final `score` (default: the
    claim's metric) is "not trained long enough". `references` (name, kind, metric, value) give that score, and the best
    reachable one: `headroom` is the difference as a share of what the comparator leaves to gain. `detectable`, with the
    range that its standard deviation allows, is the difference found with 80 % power: at 0.05/m for m primary claims.
    """
    level = ALPHA / max(1, sum(claim.primary for claim in claims))

    def best(metric: str, *kinds: str) -> float:
        if "trivial" in kinds and trivial is not None and metric == (score or metric):
            return trivial
        return np.nan if references is None else best_reference(references, metric, kinds, larger_is_better)

    rows = []
    for claim in claims:
        here = frame[frame["method"].isin(claim.methods)]
        ends = (best(claim.metric, "trivial"), best(claim.metric, "classical", "ceiling"))
        row = _measured(claim, here, level if claim.primary else ALPHA, *ends, larger_is_better)
        by, least = score or claim.metric, best(score or claim.metric, "trivial")
        if by in here and claim.metric in here and here["method"].nunique() == len(set(claim.methods)):
            reached = reduced(here, by, "final").mean()
            better = reached > least if larger_is_better else reached < least
            row["verdict"] = "" if better.any() or reached.empty or np.isnan(least) else UNTRAINED
        rows.append(row)
    table = pd.DataFrame(rows)
    for p in ("p", "p_equivalent"):
        table[f"{p}_holm"] = holm(table[p].where(table["primary"]))
    table["verdict"] = [row["verdict"] or _state(row) for row in table.to_dict("records")]
    table["measured"] = [row["measured"] + _power_text(row) for row in table.to_dict("records")]
    return Verdicts(table)


def _measured(
    claim: Claim, here: pd.DataFrame, alpha: float, trivial: float, reachable: float, larger_is_better: bool
) -> dict[str, Any]:
    """A claim's row without its verdict; `trivial` and `reachable` are the best scores of these kinds."""
    lower = higher = np.empty(0)
    if claim.metric in here and set(claim.methods) <= set(here.dropna(subset=[claim.metric])["method"]):
        second = claim.reduction if claim.higher_reduction is None else claim.higher_reduction
        sides = [
            reduced(here, claim.metric, by, trivial, larger_is_better)[of] if isinstance(of, str) else of
            for of, by in ((claim.lower, claim.reduction), (claim.higher, second))
        ]
        by_seed = pd.DataFrame(dict(enumerate(sides)), dtype=float)
        lower, higher = by_seed[np.isfinite(by_seed).all(axis=1)].to_numpy().T
    found = paired_difference(lower, higher)
    means = [float(values.mean()) if found.pairs else np.nan for values in (lower, higher)]
    gap: Sequence[float] = found[:3]
    unit, scale, margin = claim.unit, 1.0, claim.margin
    if claim.ratio:
        scale, unit = 100 / abs(means[1]) if means[1] else np.nan, "%"
        gap, margin = [100 * (end - 1) for end in ratio_interval(lower, higher)], margin and margin / 100
    left = abs(means[0 if larger_is_better else 1] - reachable) if claim.reduction == "final" else np.nan
    last = _followed(here.dropna(subset=[claim.metric])) if str(claim.reduction).startswith(STEPS_TO) else np.nan
    texts = map(_side_text, (claim.lower, claim.higher), means, (lower, higher), (last, last))
    said = f"{' against '.join(texts)} {claim.unit}".strip()
    difference = "difference {} [{}, {}] ".format(*map(rounded, gap)) + unit
    power = [scale * each for each in detectable_difference(lower, higher, alpha)]
    return {
        "claim": claim.claim,
        "verdict": "",
        "measured": f"{said}; {difference.strip()}, {found.pairs} seed{'s' * (found.pairs != 1)}",
        "metric": claim.metric,
        "reduction": str(claim.reduction),
        **{name: getattr(claim, name) for name in ("section", "expects", "primary")},
        "unit": unit,
        **dict(zip(("estimate", "low", "high"), gap, strict=True)),
        "margin": claim.margin,
        "p": found.p_value,
        "p_equivalent": equivalence(lower, higher, margin, relative=claim.ratio) if margin else np.nan,
        **dict(zip(("detectable", "detectable_low", "detectable_high"), power, strict=True)),
        "alpha": alpha,
        "headroom": found.estimate / left if left > 0 else np.nan,
        "seeds": found.pairs,
    }


def _side_text(of: str | float, mean: float, values: np.ndarray, last: float) -> str:
    """One side in words: its name and mean, and of steps to a threshold how many seeds did not come there before."""
    text = f"{of} {rounded(mean)}" if isinstance(of, str) else rounded(mean)
    return text if np.isnan(last) else f"{text} ({(values >= last).sum()} of {len(values)} seeds not before the end)"


def _state(row: Mapping[Any, Any]) -> str:
    """The verdict on a row: supported, refuted, equivalent, undecided or not measured."""
    corrected = "_holm" * row["primary"]
    if row["seeds"] < LEAST_SEEDS:
        return "undecided" if row["seeds"] else "not measured"
    if row[f"p_equivalent{corrected}"] < ALPHA:
        return "equivalent"
    if not row[f"p{corrected}"] < ALPHA:
        return "undecided"
    return "supported" if row["estimate"] < 0 else "refuted"


def _power_text(row: Mapping[Any, Any]) -> str:
    """What this many seeds would have found, where they leave a claim undecided."""
    if row["verdict"] != "undecided":
        return ""
    if row["seeds"] < LEAST_SEEDS:
        return f"; at least {LEAST_SEEDS} seeds are needed"
    if not row["detectable"] > 0:
        return "; all seeds have the same difference, so their spread does not say what could be found"
    least, *span = (rounded(row[name], 2) for name in ("detectable", "detectable_low", "detectable_high"))
    level = "" if row["alpha"] == ALPHA else f", corrected for {round(ALPHA / row['alpha'])} claims"
    found = f"{least} {row['unit']}".strip() + f" ({' to '.join(span)})"
    return f"; a true difference of {found} would have been found with 80 % power{level}"
