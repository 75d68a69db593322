"""Verdicts: a claim, what was measured, an interval across seeds, and supported, refuted or undecided."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from html import escape
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from anm_nb.analysis import VERDICT_MIME
from anm_nb.analysis.stats import PairedDifference, mean_interval, paired_difference
from anm_nb.analysis.tables import rounded

LEAST_SEEDS = 3  # fewer never decide anything

State = Literal["supported", "refuted", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """A judged claim: shown by a notebook as text, and kept with its output under `VERDICT_MIME` for collection."""

    claim: str
    measured: str
    state: State
    estimate: float
    interval: tuple[float, float]  # 95 %, across seeds
    p_value: float  # NaN for a band
    detectable: float  # smallest difference found with 80 % power; NaN for a band
    seeds: int
    unit: str = ""
    expected: str | None = None  # what the source document expects

    def __str__(self) -> str:
        lines = [f"{self.state.upper()}: {self.claim}", f"  measured: {self.measured}"]
        if self.power:
            lines.append(f"  {self.power}")
        if self.expected:
            lines.append(f"  the document expects: {self.expected}")
        return "\n".join(lines)

    @property
    def power(self) -> str | None:
        """For an undecided claim, what this many seeds could have found."""
        if self.state != "undecided":
            return None
        if self.seeds < LEAST_SEEDS:
            return f"{self.seeds} seed(s) decide nothing; at least {LEAST_SEEDS} are needed"
        if np.isnan(self.detectable):
            return "the interval reaches across the border of the band"
        if self.detectable == 0:
            return "every seed has the same difference, so their spread says nothing of what could be found"
        return f"a true difference of {rounded(self.detectable, 2)} would have been found with 80 % power"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/plain": str(self), "text/html": self._html(), VERDICT_MIME: self._json()}

    def _json(self) -> dict[str, Any]:
        return _json_safe(asdict(self) | {"power": self.power})

    def _html(self) -> str:
        lines = str(self).split("\n")[1:]
        detail = "<br>".join(escape(line.strip()) for line in lines)
        return f"<p><b>{self.state.upper()}</b>: {escape(self.claim)}<br><small>{detail}</small></p>"


def judge(
    claim: str,
    *,
    lower: ArrayLike,
    higher: ArrayLike,
    names: tuple[str, str],
    unit: str = "",
    expected: str | None = None,
    decimals: int | None = None,
) -> Verdict:
    """Judge the claim that `lower` < `higher`, both one value a seed, in the same order of seeds.

    Supported or refuted when the paired 95 % interval of lower − higher lies wholly on one side of zero, with at least
    3 seeds; undecided otherwise. `names` says what the two are. Numbers have `decimals` decimals, for scores of a known
    resolution, or else three significant digits.
    """
    difference = paired_difference(lower, higher)
    below, above = np.asarray(lower, float), np.asarray(higher, float)
    paired = np.isfinite(below - above)
    means = [float(values[paired].mean()) if paired.any() else np.nan for values in (below, above)]
    first, second = (_number_text(mean, decimals) for mean in means)
    gap = _interval_text(difference.estimate, difference.low, difference.high, decimals)
    measured = (
        f"{names[0]}: {first}, {names[1]}: {second}{f' {unit}' if unit else ''}; "
        f"first − second = {gap}, {_seed_count(difference.pairs)}"
    )
    side = "undecided" if not difference.low * difference.high > 0 else _sign_state(difference)
    return _verdict(claim, measured, side, difference, unit, expected)


def judge_band(
    claim: str,
    values: ArrayLike,
    *,
    low: float,
    high: float,
    unit: str = "",
    expected: str | None = None,
) -> Verdict:
    """Judge the claim that the mean of `values`, one a seed, lies in [low, high].

    Supported when the 95 % interval of the mean lies inside the band, refuted when it lies wholly outside.
    """
    difference = paired_difference(values, 0.0)
    mean, bottom, top = mean_interval(values)
    measured = f"mean {_interval_text(mean, bottom, top)}{f' {unit}' if unit else ''}, {_seed_count(difference.pairs)}"
    side: State = "undecided"
    if low <= bottom and top <= high:
        side = "supported"
    elif top < low or bottom > high:
        side = "refuted"
    return _verdict(
        claim, measured, side, replace(difference, p_value=float("nan"), detectable=float("nan")), unit, expected
    )


def verdict_table(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """Verdicts as rows: claim, state, what was measured, and what the source document expects."""
    rows = [(v.claim, v.state, v.measured, v.expected or "–") for v in verdicts]
    return pd.DataFrame(rows, columns=["claim", "verdict", "measured", "the document expects"]).set_index("claim")


def show(verdicts: Iterable[Verdict]) -> None:
    """Display verdicts as a notebook's outputs, one each."""
    from IPython.display import display

    for verdict in verdicts:
        display(verdict)


def _sign_state(difference: PairedDifference) -> State:
    return "supported" if difference.estimate < 0 else "refuted"


def _verdict(
    claim: str, measured: str, side: str, difference: PairedDifference, unit: str, expected: str | None
) -> Verdict:
    decided = side if difference.pairs >= LEAST_SEEDS else "undecided"
    return Verdict(
        claim=claim,
        measured=measured,
        state=decided,  # type: ignore[arg-type]
        estimate=difference.estimate,
        interval=(difference.low, difference.high),
        p_value=difference.p_value,
        detectable=difference.detectable,
        seeds=difference.pairs,
        unit=unit,
        expected=expected,
    )


def _interval_text(estimate: float, low: float, high: float, decimals: int | None = None) -> str:
    middle, bottom, top = (_number_text(value, decimals) for value in (estimate, low, high))
    return f"{middle} [{bottom}, {top}]"


def _number_text(value: float, decimals: int | None) -> str:
    return rounded(value) if decimals is None or np.isnan(value) else f"{value:z.{decimals}f}"


def _seed_count(pairs: int) -> str:
    return f"{pairs} seed" if pairs == 1 else f"{pairs} seeds"


def _json_safe(values: dict[str, Any]) -> dict[str, Any]:
    """NaN has no place in JSON; it becomes null."""

    def safe(value: Any) -> Any:
        if isinstance(value, float) and not np.isfinite(value):
            return None
        if isinstance(value, tuple):
            return None if any(safe(part) is None for part in value) else list(value)
        return value

    return {name: safe(value) for name, value in values.items()}
