"""A doctor that reads the metrics of one run and says what is wrong and what to change (ANM checklist, section K).

A signature's sign is found when it shows, on average over seeds, in at least half of the rows that have its columns,
after the first 20 % of the steps: before, a run tells more of its initial weights than of its settings. Confidence is
high where it shows in 90 % of the rows judged, medium from 70 %, else low, and one less with fewer than 10 rows. What
must never happen is found, with high confidence, wherever it is seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from anm_nb.analysis.tables import rounded
from anm_nb.config import ParameterError, read_yaml

EARLY, LATE = 0.2, 0.5  # shares of the steps; section J calls the first 20 % early
FOUND, MEDIUM, HIGH = 0.5, 0.7, 0.9  # shares of judged rows
FEW_ROWS = 10  # a record of nine rows cannot tell 90 % from all
LARGEST_FACTOR = 1000.0  # on a weight, at a time: a share beyond it has another cause than the weight
OWN = "the task's own"

Confidence = Literal["low", "medium", "high"]


class Sign:
    """One way in which a signature shows; `signatures.yaml` says what its fields mean."""

    def __init__(self, shows: str, needs: Sequence[str] = (), start: float = EARLY, never: bool = False) -> None:
        self.shows, self.start, self.never = shows, start, never
        self.columns = list(dict.fromkeys(needs or re.findall(r"[a-z]\w+(?!\w|\()", shows)))


class Signature:
    """A failure signature, as it stands in `signatures.yaml`."""

    def __init__(self, name: str, section: str, signs: Sequence[Any], remedy: str, **rest: Any) -> None:
        self.name, self.section, self.remedy = name, section, remedy
        self.signs = [Sign(sign) if isinstance(sign, str) else Sign(**sign) for sign in signs]
        self.change, self.also, self.unless = rest.get("change", {}), rest.get("also", []), rest.get("unless", [])


SIGNATURES = [Signature(name, **of) for name, of in read_yaml(Path(__file__).with_name("signatures.yaml")).items()]


@dataclass(frozen=True)
class Finding:
    """A failure signature seen in a run.

    `evidence` names columns, steps and values; `remedy` is the document's; `change` maps dotted names of parameters to
    values, or to "present × 0.5" where the present value is unknown; empty where no parameter can mend it. `section` is
    that of the ANM checklist, or of these notebooks' own additions to it.
    """

    signature: str
    evidence: str
    remedy: str
    change: Mapping[str, Any]
    confidence: Confidence
    section: str

    def __str__(self) -> str:
        head = f"{self.signature.upper()} (section {self.section}, confidence {self.confidence})"
        changes = ", ".join(f"{name} = {value}" for name, value in self.change.items())
        told = {"evidence": self.evidence, "remedy": self.remedy, "change": changes}
        return "\n".join([head, *(f"  {name}: {text}" for name, text in told.items() if text)])


def examine(frame: pd.DataFrame, parameters: Mapping[str, Any] | None = None) -> list[Finding]:
    """Findings over the tidy metrics of one run, most important first; none for a healthy one.

    `frame` has a row for each step, or (seed, step), and any of the columns that `Recorder` or `run.metrics` brings.
    With the run's `parameters` (a config as plain data, such as `run.settings`) changes are computed from present
    values, and leave out what those parameters do not have. Raises `ParameterError` when (seed, step) is not unique,
    as in the metrics of several runs.
    """
    metrics, findings = _prepared(frame), dict[str, Finding]()
    for signature in SIGNATURES:
        if not findings.keys() & set(signature.unless) and (found := _finding(signature, metrics, parameters)):
            findings[signature.name] = found
    return list(findings.values())


def unexamined(frame: pd.DataFrame) -> dict[str, list[str]]:
    """The signatures that these metrics do not allow to judge, each with the columns that would."""
    there = set(frame.columns[frame.notna().any()])
    lacking = {
        each.name: min(({*map(_source, sign.columns)} - there for sign in each.signs), key=len) for each in SIGNATURES
    }
    return {name: sorted(columns) for name, columns in lacking.items() if columns}


def summary(findings: Sequence[Finding], frame: pd.DataFrame) -> str:
    """Healthy, or how much was found, or not judged: with what could not be examined and the columns missing for it."""
    missing = unexamined(frame)
    columns = f"(missing columns {', '.join(dict.fromkeys(name for each in missing.values() for name in each))})"
    if not (judged := len(SIGNATURES) - len(missing)):
        return f"not judged: none of {len(SIGNATURES)} signatures could be examined {columns}"
    rest = f", {len(missing)} could not be {columns}" if missing else ""
    return f"{f'{len(findings)} found' if findings else 'healthy'}: {judged} signatures examined{rest}"


def _source(name: str) -> str:
    return name.removesuffix("_rise").removesuffix("_growth")


def _prepared(frame: pd.DataFrame) -> pd.DataFrame:
    """Sorted rows with seed, step, progress (the share of its seed's steps) and all that signs read, NaN if missing."""
    metrics = frame.reset_index(drop=True)
    metrics = metrics if "seed" in metrics else metrics.assign(seed=0)
    metrics = metrics if "step" in metrics else metrics.assign(step=metrics.groupby("seed").cumcount())
    for seed, step in metrics[metrics.duplicated(["seed", "step"])][["seed", "step"]].itertuples(index=False):
        raise ParameterError(
            f"seed {seed:g} has step {step:g} more than once: examine the metrics of one run at a time"
        )
    metrics = metrics.sort_values(["seed", "step"], ignore_index=True)
    read = {name for each in SIGNATURES for sign in each.signs for name in (*sign.columns, *each.also)}
    metrics = metrics.reindex(columns=[*metrics, *sorted({*map(_source, read)} - set(metrics))])
    progress = metrics["step"] / metrics.groupby("seed")["step"].transform("max").clip(lower=1)

    def usual(column: str, rows: pd.Series) -> pd.Series:
        return metrics["seed"].map(metrics[rows].groupby("seed")[column].median())

    made = {"progress": progress, "wrongness_growth": metrics["wrongness"] / usual("wrongness", progress <= EARLY)}
    made["margin_mean_growth"] = metrics["margin_mean"] - metrics.groupby("seed")["margin_mean"].transform("first")
    for column in ("e_pos", "e_neg", "loss_mse"):
        made[f"{column}_rise"] = metrics[column] - usual(column, progress.between(EARLY, LATE))
    # a tossed coin costs ln 2; negatives mined against the network keep the loss somewhat above it
    mined = (metrics["miner_accepted"] > 0).any() or (metrics["mined_drop"] > 0).any()
    made["coin"] = pd.Series((2 if mined else 1.05) * log(2), metrics.index)

    def misfit(loss: pd.Series) -> pd.Series:  # of the loss trained on with a multiple of this one
        given = metrics["loss_con_weighted"]
        weight = (given / loss).groupby(metrics["seed"]).transform("median")
        return (given - weight * loss).abs() / given.abs().clip(lower=1e-12)

    # log(1 + e^m) = m + log(1 + e^−m) fits and log(1 + e^−m) does not; float32 rounds a loss to far below 1e-4 of it
    swapped = (misfit(metrics["loss_con"] + metrics["margin_mean"]) < 1e-4) & (misfit(metrics["loss_con"]) > 1e-3)
    return metrics.assign(**made, swapped=swapped)


def _finding(signature: Signature, metrics: pd.DataFrame, parameters: Mapping[str, Any] | None) -> Finding | None:
    """What a signature's surest sign, the one that shows in the largest share of rows, makes of a run."""
    seen = []
    for sign in signature.signs:
        rows = metrics.dropna(subset=sign.columns)
        rows = rows if sign.never else rows[rows["progress"] > sign.start]
        if rows.empty:
            continue
        shown: Any = rows.eval(sign.shows)
        share = float(shown.groupby(rows["seed"]).mean().mean())
        if share >= FOUND or (sign.never and share):
            seen.append((share, sign, rows[shown], len(rows)))
    if not seen:
        return None
    share, sign, rows, judged = max(seen, key=lambda one: one[0])
    medians = rows[list(dict.fromkeys([*sign.columns, *signature.also]))].median().dropna()
    values = ", ".join(f"{name} {rounded(value, 2)}" for name, value in medians.items())
    where = f"steps {rows['step'].min():g} to {rows['step'].max():g}"
    seeds = f"{rows['seed'].nunique()} of {metrics['seed'].nunique()} seeds"
    evidence = f"{values} (medians of the {len(rows)} of {judged} judged rows that show it, {where}, {seeds})"
    grades: tuple[Confidence, ...] = ("low", "medium", "high")
    grade = 2 if sign.never else max(0, (share >= MEDIUM) + (share >= HIGH) - (judged < FEW_ROWS))
    change = {name: _changed(name, to, rows, parameters) for name, to in signature.change.items()}
    change = {name: to for name, to in change.items() if to is not None}
    return Finding(signature.name, evidence, signature.remedy, change, grades[grade], signature.section)


def _changed(name: str, to: Any, rows: pd.DataFrame, parameters: Mapping[str, Any] | None) -> Any:
    """The new value of a parameter, to three digits; None where there is none such, or it has that value already.

    Where `to` is a mapping, it asks for a factor: `times`, or what brings the contrastive loss's median share of the
    gradient to `share`; as text where the present value is unknown.
    """
    present: Any = parameters
    for part in name.split(".") if parameters is not None else ():
        if not isinstance(present, Mapping) or part not in present:
            return None
        present = present[part]
    if isinstance(to, Mapping):
        factor = to.get("times", 1.0)
        if share := to.get("share"):
            seen = float(rows["grad_share_contrast"].median())
            wanted = share / (1 - share) * (1 - seen) / max(seen, 1e-12)
            factor = float(f"{min(max(wanted, 1 / LARGEST_FACTOR), to.get('at_most', LARGEST_FACTOR)):.1e}")
        if present is None:
            return f"present × {factor:g}"
        to = max(1, round(factor * present)) if isinstance(present, int) else float(f"{factor * present:.3g}")
    known = parameters is not None
    return None if known and (to == present or (to == OWN and present != 0)) else to
