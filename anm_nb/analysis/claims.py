"""Claims are rows: what is compared with what, by which measure; one function judges them, with one rule for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
    survival_median,
)
from anm_nb.analysis.tables import at_step, best_reference, early_area, final, first_better, rounded, steps_to
from anm_nb.config import ParameterError, unknown_name

LEAST_SEEDS = 3  # fewer never decide anything
STEPS_TO = "steps to "
REDUCTIONS = ("final", "early area", "area from trivial", "steps to THRESHOLD", "a step")

State = Literal["supported", "refuted", "equivalent", "undecided", "not trained long enough", "not measured"]


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
    frame: pd.DataFrame,
    metric: str,
    reduction: str | int,
    *,
    trivial: float | None = None,
    larger_is_better: bool = False,
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
    if reduction == "final":
        return final(rows, metric)
    if reduction == "early area":
        return early_area(rows, metric)
    if reduction == "area from trivial":
        if trivial is None:
            raise ParameterError("reduction 'area from trivial': judge needs trivial or references for it")
        start = first_better(rows, metric, trivial, larger_is_better)
        return early_area(rows, metric, start=start) if start is not None else final(rows, metric) * np.nan
    if isinstance(reduction, int):
        return at_step(rows, metric, reduction)
    if reduction.startswith(STEPS_TO):
        return steps_to(rows, metric, _threshold(reduction), larger_is_better).clip(upper=_followed(rows))
    raise ParameterError(unknown_name("reduction", reduction, REDUCTIONS))


def _threshold(reduction: str) -> float:
    try:
        return float(reduction.removeprefix(STEPS_TO))
    except ValueError:
        raise ParameterError(f"reduction {reduction!r}: what follows 'steps to' is a number") from None


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
    references = pd.DataFrame(columns=["name", "kind", "metric", "value"]) if references is None else references
    level = ALPHA / max(1, sum(claim.primary for claim in claims))
    rows, untrained = [], []
    for claim in claims:
        judged_by = score or claim.metric
        least = _trivial(references, judged_by, trivial, larger_is_better)
        own = least if judged_by == claim.metric else _trivial(references, claim.metric, None, larger_is_better)
        best = best_reference(references, claim.metric, ("classical", "ceiling"), larger_is_better)
        rows.append(_measured(claim, frame, level if claim.primary else ALPHA, own, best, larger_is_better))
        untrained.append(not _beats(claim, frame, judged_by, least, larger_is_better))
    primary = np.array([claim.primary for claim in claims], bool)
    for p in ("p", "p_equivalent"):
        corrected = holm([row[p] if of else np.nan for row, of in zip(rows, primary, strict=True)])
        for row, value in zip(rows, corrected, strict=True):
            row[f"{p}_holm"] = float(value)
    for claim, row, short in zip(claims, rows, untrained, strict=True):
        there = set(claim.methods) <= set(frame["method"]) and claim.metric in frame
        row["verdict"] = "not trained long enough" if short and there else _state(claim, row)
        if row["verdict"] == "undecided":
            row["measured"] += f"; {_power_text(row)}"
    return Verdicts(pd.DataFrame(rows))


def _trivial(references: pd.DataFrame, metric: str, given: float | None, larger_is_better: bool) -> float | None:
    """The best trivial score, None where none is known."""
    listed = best_reference(references, metric, ("trivial",), larger_is_better)
    return given if given is not None or np.isnan(listed) else listed


def _measured(
    claim: Claim,
    frame: pd.DataFrame,
    alpha: float,
    trivial: float | None,
    reachable: float,
    larger_is_better: bool,
) -> dict[str, Any]:
    here = frame[frame["method"].isin(claim.methods)]
    lower, higher = _sides(claim, here, trivial, larger_is_better)
    found, power = paired_difference(lower, higher), detectable_difference(lower, higher, alpha)
    paired = np.isfinite(lower - higher)
    means = [float(each[paired].mean()) if paired.any() else np.nan for each in (lower, higher)]
    gap, unit, scale = [found.estimate, found.low, found.high], claim.unit, 1.0
    if claim.ratio:
        scale = 100 / abs(means[1]) if means[1] else np.nan
        gap, unit = [100 * (end - 1) for end in ratio_interval(lower, higher)], "%"
    comparator = means[0] if larger_is_better else means[1]
    left = abs(comparator - reachable) if claim.reduction == "final" else np.nan
    margin = claim.margin and claim.margin / (100 if claim.ratio else 1)
    said = [
        *_said(claim, here, means, larger_is_better),
        _with_unit(f"difference {_interval_text(*gap)}", unit),
    ]
    return {
        "claim": claim.claim,
        "verdict": "",
        "measured": f"{'; '.join(said)}, {found.pairs} seed{'s' * (found.pairs != 1)}",
        "metric": claim.metric,
        "reduction": str(claim.reduction),
        "section": claim.section,
        "expects": claim.expects,
        "primary": claim.primary,
        "unit": unit,
        **dict(zip(("estimate", "low", "high"), gap, strict=True)),
        "margin": claim.margin,
        "p": found.p_value,
        "p_equivalent": equivalence(lower, higher, margin, relative=claim.ratio) if margin else np.nan,
        **dict(zip(("detectable", "detectable_low", "detectable_high"), (scale * of for of in power), strict=True)),
        "alpha": alpha,
        "headroom": found.estimate / left if left > 0 else np.nan,
        "seeds": found.pairs,
    }


def _sides(
    claim: Claim, rows: pd.DataFrame, trivial: float | None, larger_is_better: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The values of both sides by seed, paired; a number stands beside every seed. Empty where one is not measured."""
    if claim.metric not in rows or not set(claim.methods) <= set(rows.dropna(subset=[claim.metric])["method"]):
        return np.empty(0), np.empty(0)
    last = claim.reduction if claim.higher_reduction is None else claim.higher_reduction
    options: dict[str, Any] = {"trivial": trivial, "larger_is_better": larger_is_better}
    both = pd.DataFrame(
        {
            side: reduced(rows, claim.metric, by, **options)[of] if isinstance(of, str) else float(of)
            for side, of, by in (("lower", claim.lower, claim.reduction), ("higher", claim.higher, last))
        }
    )
    return both["lower"].to_numpy(float), both["higher"].to_numpy(float)


def _said(claim: Claim, rows: pd.DataFrame, means: Sequence[float], larger_is_better: bool) -> list[str]:
    """The two sides in words: their means, and of steps to a threshold also the medians with the seeds that never."""
    names = [of if isinstance(of, str) else "" for of in (claim.lower, claim.higher)]
    sides = " against ".join(f"{name} {rounded(mean)}".strip() for name, mean in zip(names, means, strict=True))
    if not str(claim.reduction).startswith(STEPS_TO) or np.isnan(means[0]):
        return [_with_unit(sides, claim.unit)]
    measured = rows.dropna(subset=[claim.metric])
    end = _followed(measured)
    reached = steps_to(measured, claim.metric, _threshold(str(claim.reduction)), larger_is_better)
    times = reached.where(reached.le(end) | reached.isna(), np.inf)
    medians = []
    for method, of in times[claim.methods].items():
        median = _interval_text(*survival_median(of, end)).replace("inf", "never")
        medians.append(f"{method} {median}, {int(np.isinf(of).sum())} of {of.count()} seeds never did")
    return [f"median steps {'; '.join(medians)}", f"mean steps up to {rounded(end)}: {sides}"]


def _with_unit(text: str, unit: str) -> str:
    return f"{text} {unit}" if unit else text


def _beats(claim: Claim, frame: pd.DataFrame, score: str, trivial: float | None, larger_is_better: bool) -> bool:
    """Whether one of the claim's methods ends with a better mean score than the trivial one."""
    if trivial is None or score not in frame:
        return True
    means = reduced(frame[frame["method"].isin(claim.methods)], score, "final").mean()
    return not len(means) or bool((means > trivial if larger_is_better else means < trivial).any())


def _state(claim: Claim, row: Mapping[str, Any]) -> State:
    if row["seeds"] == 0:
        return "not measured"
    if row["seeds"] < LEAST_SEEDS:
        return "undecided"
    if row["p_equivalent_holm" if claim.primary else "p_equivalent"] < ALPHA:
        return "equivalent"
    clear = row["p"] < ALPHA and (not claim.primary or row["p_holm"] < ALPHA)
    return ("supported" if row["estimate"] < 0 else "refuted") if clear else "undecided"


def _power_text(row: Mapping[str, Any]) -> str:
    """What this many seeds would have found."""
    if row["seeds"] < LEAST_SEEDS:
        return f"at least {LEAST_SEEDS} seeds are needed"
    if not row["detectable"] > 0:
        return "all seeds have the same difference, so their spread does not say what could be found"
    least = _with_unit(rounded(row["detectable"], 2), row["unit"])
    span = f"{rounded(row['detectable_low'], 2)} to {rounded(row['detectable_high'], 2)}"
    level = "" if row["alpha"] == ALPHA else f", corrected for {round(ALPHA / row['alpha'])} claims"
    return f"a true difference of {least} ({span}) would have been found with 80 % power{level}"


def _interval_text(estimate: float, low: float, high: float) -> str:
    return f"{rounded(estimate)} [{rounded(low)}, {rounded(high)}]"
