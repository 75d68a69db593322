"""Diagnose a run from its metrics and propose changes (ANM checklist, section K).

A signature is found if one of its signs holds, averaged over seeds, in at least half of the judged rows. These have all
columns of the sign and, by default, come after the first 20 % of the steps, which depend more on initial weights than
on settings. Confidence is high if the sign holds in 90 % of the judged rows, medium from 70 %, else low, and one grade
lower with fewer than 10 rows. A sign that must never occur is found, with high confidence, if any row shows it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import pandas as pd

from anm_nb.analysis.tables import rounded
from anm_nb.config import ParameterError, read_yaml

EARLY, LATE = 0.2, 0.5  # shares of the steps; section J calls the first 20 % early
FOUND, MEDIUM, HIGH = 0.5, 0.7, 0.9  # shares of judged rows
FEW_ROWS = 10  # nine rows cannot distinguish 90 % from all
LARGEST_FACTOR = 1000.0  # for one change of a weight; if more seems needed, the weight is not the cause
OWN = "the task's own"  # in `signatures.yaml`: the default of the task


class Sign:
    """A condition on the metrics that reveals a signature; `signatures.yaml` explains the fields."""

    def __init__(self, shows: str, needs: Sequence[str] = (), start: float = EARLY, never: bool = False) -> None:
        self.shows, self.start, self.never = shows, start, never
        self.columns = list(dict.fromkeys(needs or re.findall(r"[a-z]\w+(?!\w|\()", shows)))  # no functions
        self.recorded = {name.removesuffix("_rise").removesuffix("_growth") for name in self.columns}


class Signature:
    """A name and an entry of `signatures.yaml`."""

    def __init__(self, name: str, entry: Mapping[str, Any]) -> None:
        self.name, self.section, self.remedy = name, entry["section"], entry["remedy"]
        self.signs = [Sign(sign) if isinstance(sign, str) else Sign(**sign) for sign in entry["signs"]]
        self.change, self.also, self.unless = entry.get("change", {}), entry.get("also", []), entry.get("unless", [])


SIGNATURES = [Signature(*item) for item in read_yaml(Path(__file__).with_name("signatures.yaml")).items()]


@dataclass(frozen=True)
class Finding:
    """A failure signature found in a run.

    `evidence` names columns, steps and values. `remedy` is the checklist's advice. `change` maps dotted parameter names
    to new values, or to text such as "present × 0.5" if the present value is unknown; it is empty if no parameter
    helps. `section` refers to the ANM checklist or to the project's additions to it.
    """

    signature: str
    evidence: str
    remedy: str
    change: Mapping[str, Any]
    confidence: str  # low, medium or high
    section: str

    def __str__(self) -> str:
        head = f"{self.signature.upper()} (section {self.section}, confidence {self.confidence})"
        changes = ", ".join(f"{name} = {value}" for name, value in self.change.items())
        parts = {"evidence": self.evidence, "remedy": self.remedy, "change": changes}
        return "\n".join([head, *(f"  {name}: {text}" for name, text in parts.items() if text)])


def examine(frame: pd.DataFrame, parameters: Mapping[str, Any] | None = None) -> list[Finding]:
    """Return the findings for one run's tidy metrics, most important first; a healthy run has none.

    `frame` has one row per step or per (seed, step), and any of the columns of `Recorder` or `run.metrics`. Given the
    run's `parameters` (a config as plain data, such as `run.settings`), changes are computed from the present values,
    and changes to fields missing there are omitted. Raises `ParameterError` for a repeated (seed, step), as in the
    metrics of several runs.
    """
    metrics, findings = _prepared(frame), dict[str, Finding]()
    present = None if parameters is None else pd.json_normalize(dict(parameters)).to_dict("records")[0]
    for signature in SIGNATURES:
        if not findings.keys() & set(signature.unless) and (found := _finding(signature, metrics, present)):
            findings[signature.name] = found
    return list(findings.values())


def unexamined(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Map each signature that these metrics cannot reveal to the missing columns, the fewest that would suffice."""
    present = set(frame.columns[frame.notna().any()])
    lacking = {each.name: min((sign.recorded - present for sign in each.signs), key=len) for each in SIGNATURES}
    return {name: sorted(columns) for name, columns in lacking.items() if columns}


def summary(findings: Sequence[Finding], frame: pd.DataFrame) -> str:
    """Say in one line how many signatures were found, examined and not examined, and for want of which columns."""
    missing = unexamined(frame)
    judged = len(SIGNATURES) - len(missing)
    columns = ", ".join(dict.fromkeys(name for names in missing.values() for name in names))
    if not judged:
        return f"not judged: none of {len(SIGNATURES)} signatures could be examined (missing columns {columns})"
    verdict = f"{len(findings)} found" if findings else "healthy"
    rest = f", {len(missing)} could not be (missing columns {columns})" if missing else ""
    return f"{verdict}: {judged} signatures examined{rest}"


def _prepared(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort the rows, and add progress (share of its seed's steps) and all columns that signs read, NaN if unknown."""
    metrics = frame.reset_index(drop=True)
    metrics = metrics if "seed" in metrics else metrics.assign(seed=0)
    metrics = metrics if "step" in metrics else metrics.assign(step=metrics.groupby("seed").cumcount())
    for seed, step in metrics[metrics.duplicated(["seed", "step"])][["seed", "step"]].itertuples(index=False):
        problem = f"seed {seed:g} has step {step:g} more than once"
        raise ParameterError(f"{problem}: examine the metrics of one run at a time")
    metrics = metrics.sort_values(["seed", "step"], ignore_index=True)
    read = {name for each in SIGNATURES for sign in each.signs for name in (*sign.recorded, *each.also)}
    metrics = metrics.reindex(columns=[*metrics, *sorted(read - set(metrics))])
    seeds, steps = metrics["seed"], metrics["step"]
    progress = steps / steps.groupby(seeds).transform("max").clip(lower=1)

    def typical(column: str, rows: pd.Series) -> pd.Series:
        """The median of a column over some rows of each seed, for all rows of that seed."""
        return seeds.map(metrics[rows].groupby("seed")[column].median())

    derived = {"progress": progress, "wrongness_growth": metrics["wrongness"] / typical("wrongness", progress <= EARLY)}
    derived["margin_mean_growth"] = metrics["margin_mean"] - metrics.groupby("seed")["margin_mean"].transform("first")
    for column in ("e_pos", "e_neg", "loss_mse"):
        derived[f"{column}_rise"] = metrics[column] - typical(column, progress.between(EARLY, LATE))
    # guessing costs ln 2; negatives mined against the network keep the loss somewhat above it
    mined = (metrics["miner_accepted"] > 0).any() or (metrics["mined_drop"] > 0).any()
    derived["coin"] = pd.Series((2 if mined else 1.05) * log(2), metrics.index)

    def misfit(loss: pd.Series) -> pd.Series:
        """The relative error of the weighted loss as a constant multiple of `loss`, for each seed."""
        weighted = metrics["loss_con_weighted"]
        weight = (weighted / loss).groupby(seeds).transform("median")
        return (weighted - weight * loss).abs() / weighted.abs().clip(lower=1e-12)

    # With swapped labels log(1 + e^m) = m + log(1 + e^−m) fits and log(1 + e^−m) does not; 1e-4 is far above the
    # relative rounding error of a loss in float32.
    swapped = (misfit(metrics["loss_con"] + metrics["margin_mean"]) < 1e-4) & (misfit(metrics["loss_con"]) > 1e-3)
    return metrics.assign(**derived, swapped=swapped)


def _finding(signature: Signature, metrics: pd.DataFrame, parameters: Mapping[Any, Any] | None) -> Finding | None:
    """The finding by the sign that holds in the largest share of its rows; None if no sign of the signature holds."""
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
    share, sign, rows, judged = max(seen, key=lambda found: found[0])
    medians = rows[list(dict.fromkeys([*sign.columns, *signature.also]))].median().dropna()
    values = ", ".join(f"{name} {rounded(value, 2)}" for name, value in medians.items())
    steps = f"steps {rows['step'].min():g} to {rows['step'].max():g}"
    seeds = f"{rows['seed'].nunique()} of {metrics['seed'].nunique()} seeds"
    evidence = f"{values} (medians of the {len(rows)} of {judged} judged rows that show it, {steps}, {seeds})"
    grade = 2 if sign.never else max(0, (share >= MEDIUM) + (share >= HIGH) - (judged < FEW_ROWS))
    changes = {name: _new_value(name, rule, rows, parameters) for name, rule in signature.change.items()}
    changes = {name: value for name, value in changes.items() if value is not None}
    confidence = ("low", "medium", "high")[grade]
    return Finding(signature.name, evidence, signature.remedy, changes, confidence, signature.section)


def _new_value(name: str, rule: Any, rows: pd.DataFrame, parameters: Mapping[Any, Any] | None) -> Any:
    """The proposed value of a parameter, to three digits; None if it does not exist or has that value already.

    `rule` is the value itself, or a mapping with a factor for the present one: `times`, or the factor that brings the
    contrastive loss's median share of the gradient to `share`. The result is text if the present value is unknown.
    """
    if parameters is not None and name not in parameters:
        return None
    present = parameters[name] if parameters is not None else None
    if isinstance(rule, Mapping):
        factor = rule.get("times", 1.0)
        if share := rule.get("share"):
            seen = float(rows["grad_share_contrast"].median())
            wanted = share / (1 - share) * (1 - seen) / max(seen, 1e-12)
            factor = float(f"{min(max(wanted, 1 / LARGEST_FACTOR), rule.get('at_most', LARGEST_FACTOR)):.1e}")
        if present is None:
            return f"present × {factor:g}"
        rule = max(1, round(factor * present)) if isinstance(present, int) else float(f"{factor * present:.3g}")
    unchanged = rule == present or (rule == OWN and present != 0)
    return None if parameters is not None and unchanged else rule
