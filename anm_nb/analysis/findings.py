"""What a failure signature is found by: rows of a run's metrics that show it, told as evidence with a remedy.

Every signature decides, row by row, whether it shows; rows lacking a column it needs are not judged. It is found in a
run when it shows, on average over seeds, in at least half of the rows judged. Those are the rows after the first 20 %
of the steps: before, a run tells more of its initial weights than of its settings. Only bugs are looked for in all.

Confidence: "high" from 90 % of the judged rows, "medium" from 70 %, else "low"; one less with fewer than 10 rows. What
must never happen, not even once, is "high" wherever it is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from anm_nb.analysis.tables import rounded

Confidence = Literal["low", "medium", "high"]
EARLY, LATE = 0.2, 0.5  # shares of the steps; section J calls the first 20 % early
FOUND, MEDIUM, HIGH = 0.5, 0.7, 0.9  # shares of judged rows
FEW_ROWS = 10  # a record of nine rows cannot tell 90 % from all


@dataclass(frozen=True)
class Finding:
    """A failure signature seen in a run.

    `evidence` names columns, steps and values; `remedy` is the document's; `change` maps dotted names of parameters to
    values (None: the task's own), or to a `Times` where the present value is unknown; empty where no parameter can mend
    it. `section` is that of the ANM checklist, or of these notebooks' own additions to it.
    """

    signature: str
    evidence: str
    remedy: str
    change: Mapping[str, Any]
    confidence: Confidence
    section: str

    def __str__(self) -> str:
        lines = [f"{self.signature.upper()} (section {self.section}, confidence {self.confidence})"]
        lines += [f"  evidence: {self.evidence}", f"  remedy: {self.remedy}"]
        return "\n".join(lines + ([f"  change: {self.changes}"] if self.changes else []))

    @property
    def changes(self) -> str:
        """The change in words."""
        said = {name: "the task's own" if value is None else value for name, value in self.change.items()}
        return ", ".join(f"{name} = {value}" for name, value in said.items())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": str(self)}


@dataclass(frozen=True)
class Seen:
    """Where a signature shows: its columns, the rows that show it, and how many were judged."""

    columns: list[str]
    rows: pd.DataFrame
    judged: int
    share: float  # of the judged rows, the mean over seeds
    seeds: tuple[int, int]  # that show it at all, and in the run
    never: bool

    def finding(
        self, signature: str, remedy: str, change: Mapping[str, Any], section: str, also: Iterable[str] = ()
    ) -> Finding:
        """The finding, its evidence told from the rows."""
        told = [*self.columns, *(column for column in also if column in self.rows)]
        values = ", ".join(f"{column} {self._value(column)}" for column in dict.fromkeys(told))
        steps = self.rows["step"]
        evidence = (
            f"{values} (medians of the {len(self.rows)} of {self.judged} judged rows that show it, "
            f"steps {steps.min():g} to {steps.max():g}, {self.seeds[0]} of {self.seeds[1]} seeds)"
        )
        return Finding(signature, evidence, remedy, change, self._confidence(), section)

    def _value(self, column: str) -> str:
        return rounded(float(self.rows[column].median()), 2)

    def _confidence(self) -> Confidence:
        if self.never:
            return "high"
        grade = (self.share >= MEDIUM) + (self.share >= HIGH) - (self.judged < FEW_ROWS)
        grades: tuple[Confidence, ...] = ("low", "medium", "high")
        return grades[max(0, grade)]


def find_rows(
    metrics: pd.DataFrame,
    columns: list[str],
    shows: Callable[[pd.DataFrame], pd.Series],
    *,
    start: float = EARLY,
    settled: bool = True,
    never: bool = False,
) -> Seen | None:
    """Judge the rows that have all columns; None where there are none, or too few show the signature.

    Rows up to the share `start` of the steps are left out, unless not `settled`; what may `never` happen is seen in any
    single row.
    """
    if not set(columns) <= set(metrics):
        return None
    rows = metrics.dropna(subset=columns)
    if settled and not never:
        rows = rows[rows["progress"] > start]
    if rows.empty:
        return None
    mask = shows(rows).astype(bool)
    share = float(mask.groupby(rows["seed"]).mean().mean())
    if not mask.any() or (share < FOUND and not never):
        return None
    seeds = rows.loc[mask, "seed"].nunique(), metrics["seed"].nunique()
    return Seen(columns, rows[mask], len(rows), share, seeds, never)
