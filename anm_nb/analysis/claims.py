"""Claims are rows: what is compared with what, by which measure; one function judges them, with one rule for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from anm_nb.analysis import VERDICT_MIME
from anm_nb.analysis.stats import holm, paired_difference
from anm_nb.analysis.tables import at_step, early_area, final, rounded
from anm_nb.config import ParameterError, unknown_name

LEAST_SEEDS = 3  # fewer never decide anything
ALPHA = 0.05

State = Literal["supported", "refuted", "equivalent", "undecided", "not trained long enough", "not measured"]


@dataclass(frozen=True)
class Claim:
    """One claim: `lower` < `higher` in a metric, each a method of the frame or a number.

    `reduction` makes one value a seed: "final", "early area" (mean over the first 20 % of the steps) or a step.
    `margin` states, in the metric's unit and before the runs, within which a difference counts as none. Primary claims
    are corrected by Holm's method together; all others are descriptive.
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


@dataclass(frozen=True)
class Verdicts:
    """Judged claims, `table` one row each; shown as a table, and kept in a notebook's output for collection."""

    table: pd.DataFrame

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        rows = self.table.astype(object).where(self.table.notna(), None).to_dict("records")
        shown = self.table[["claim", "verdict", "measured", "section", "expects"]].set_index("claim")
        with pd.option_context("display.max_colwidth", None, "display.width", 200):
            return {"text/plain": shown.to_string(), "text/html": shown.to_html(), VERDICT_MIME: {"verdicts": rows}}


def reduced(frame: pd.DataFrame, metric: str, reduction: str | int) -> pd.DataFrame:
    """One value for each seed (rows) and method (columns) of a tidy frame with method, seed and maybe step.

    Without a step column a method has one row a seed. Raises `ParameterError` for a column or reduction that is not.
    """
    if metric not in frame:
        raise ParameterError(unknown_name("metric", metric, map(str, frame.columns)))
    rows = frame.dropna(subset=[metric])
    if "step" not in rows:
        return rows.pivot(index="seed", columns="method", values=metric)
    if reduction == "final":
        return final(rows, metric)
    if reduction == "early area":
        return early_area(rows, metric)
    if isinstance(reduction, int):
        return at_step(rows, metric, reduction)
    raise ParameterError(unknown_name("reduction", str(reduction), ["final", "early area", "a step"]))


def judge(
    claims: Sequence[Claim],
    frame: pd.DataFrame,
    *,
    trivial: float | None = None,
    score: str | None = None,
    larger_is_better: bool = False,
) -> Verdicts:
    """Judge claims on a tidy frame (`reduced`), a seed a pair.

    Supported or refuted where the paired 95 % interval of lower − higher lies on one side of zero, and for primary
    claims the p-value corrected by Holm's method is below 0.05; equivalent where two one-sided tests place it within
    ± margin; all with at least 3 seeds. With `trivial`, the best score that needs no learning, a claim about methods
    none of which has a better final `score` (default: the claim's metric) is "not trained long enough".
    """
    rows = [_measured(claim, frame) for claim in claims]
    corrected = holm([row["p"] if claim.primary else np.nan for claim, row in zip(claims, rows, strict=True)])
    for claim, row, p_holm in zip(claims, rows, corrected, strict=True):
        row["p_holm"] = float(p_holm)
        untrained = trivial is not None and not _beats(claim, frame, trivial, score or claim.metric, larger_is_better)
        row["verdict"] = "not trained long enough" if untrained and row["seeds"] else _state(claim, row)
    return Verdicts(pd.DataFrame(rows))


def _measured(claim: Claim, frame: pd.DataFrame) -> dict[str, Any]:
    values = reduced(frame, claim.metric, claim.reduction) if claim.metric in frame else pd.DataFrame()

    def side(of: str | float) -> np.ndarray:
        if isinstance(of, str):
            return values[of].to_numpy(float) if of in values else np.full(len(values), np.nan)
        return np.full(len(values), float(of))

    lower, higher = side(claim.lower), side(claim.higher)
    found = paired_difference(lower, higher)
    both = np.isfinite(lower - higher)
    names = [of if isinstance(of, str) else rounded(of) for of in (claim.lower, claim.higher)]
    means = [float(each[both].mean()) if both.any() else np.nan for each in (lower, higher)]
    unit = f" {claim.unit}" if claim.unit else ""
    gap = f"{rounded(found.estimate)} [{rounded(found.low)}, {rounded(found.high)}]"
    said = " against ".join(f"{name} {rounded(mean)}" for name, mean in zip(names, means, strict=True))
    return {
        "claim": claim.claim,
        "verdict": "",
        "measured": f"{said}{unit}; difference {gap}, {found.pairs} seed{'s' * (found.pairs != 1)}",
        "metric": claim.metric,
        "reduction": str(claim.reduction),
        "section": claim.section,
        "expects": claim.expects,
        "primary": claim.primary,
        "estimate": found.estimate,
        "low": found.low,
        "high": found.high,
        "p": found.p_value,
        "detectable": found.detectable,
        "seeds": found.pairs,
    }


def _beats(claim: Claim, frame: pd.DataFrame, trivial: float, score: str, larger_is_better: bool) -> bool:
    """Whether one of the claim's methods ends with a better mean score than the trivial one."""
    means = reduced(frame, score, "final").mean() if score in frame else pd.Series(dtype=float)
    named = [means[of] for of in (claim.lower, claim.higher) if isinstance(of, str) and of in means]
    return not named or any(mean > trivial if larger_is_better else mean < trivial for mean in named)


def _state(claim: Claim, row: dict[str, Any]) -> State:
    if row["seeds"] == 0:
        return "not measured"
    if row["seeds"] < LEAST_SEEDS:
        return "undecided"
    if claim.margin is not None and -claim.margin < row["low"] and row["high"] < claim.margin:
        return "equivalent"
    clear = row["low"] * row["high"] > 0 and (not claim.primary or row["p_holm"] < ALPHA)
    return ("supported" if row["estimate"] < 0 else "refuted") if clear else "undecided"
