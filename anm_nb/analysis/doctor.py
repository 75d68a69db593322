"""A doctor that reads the metrics of one run and says what is wrong and what to change (ANM checklist, section K)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from anm_nb.analysis.findings import Finding
from anm_nb.analysis.prescription import changed, prescribed
from anm_nb.analysis.signatures import SIGNATURES
from anm_nb.config import ParameterError

__all__ = ["Finding", "apply", "examine", "report", "summary", "unexamined"]


def examine(frame: pd.DataFrame, parameters: Mapping[str, Any] | None = None) -> list[Finding]:
    """Findings over the tidy metrics of one run, most important first; none for a healthy one.

    `frame` has a row for each step, or (seed, step), and any of the columns that `Recorder` or `run.metrics` brings.
    With the run's `parameters` (a config as plain data, such as `run.settings`) changes are computed from present
    values, and leave out what those parameters do not have. Raises `ParameterError` when (seed, step) is not unique,
    as in the metrics of several runs.
    """
    metrics = _prepared(frame)
    findings = (signature.judge(metrics) for signature in SIGNATURES)
    return [replace(found, change=prescribed(found.change, parameters)) for found in findings if found is not None]


def unexamined(frame: pd.DataFrame) -> dict[str, list[str]]:
    """The signatures that these metrics do not allow to judge, each with the columns that would."""
    lacking = {signature.name: signature.lacking(frame) for signature in SIGNATURES}
    return {name: sorted(columns) for name, columns in lacking.items() if columns}


def summary(findings: Sequence[Finding], frame: pd.DataFrame) -> str:
    """Healthy, or how much was found, or not judged: with what could not be examined and the columns missing for it."""
    missing = unexamined(frame)
    lacking = ", ".join(dict.fromkeys(column for columns in missing.values() for column in columns))
    rest = f", {len(missing)} could not be (missing columns {lacking})" if missing else ""
    if len(missing) == len(SIGNATURES):
        return f"not judged: none of {len(SIGNATURES)} signatures could be examined (missing columns {lacking})"
    judged = len(SIGNATURES) - len(missing)
    return f"{f'{len(findings)} found' if findings else 'healthy'}: {judged} signatures examined{rest}"


def report(findings: Iterable[Finding]) -> pd.DataFrame:
    """Findings as rows, in their order."""
    columns = ["signature", "section", "confidence", "evidence", "remedy", "change"]
    rows = [(f.signature, f.section, f.confidence, f.evidence, f.remedy, dict(f.change)) for f in findings]
    return pd.DataFrame(rows, columns=columns).set_index("signature")


def apply(findings: Iterable[Finding], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with every finding's change made; of two changes to one parameter, the first finding's counts."""
    changes: dict[str, Any] = {}
    for finding in findings:
        changes = {**prescribed(finding.change, parameters), **changes}
    return changed(parameters, changes)


def _prepared(frame: pd.DataFrame) -> pd.DataFrame:
    """Sorted rows with columns seed, step, and progress: the share of its seed's steps, in [0, 1]."""
    metrics = frame.reset_index(drop=True)
    metrics = metrics if "seed" in metrics else metrics.assign(seed=0)
    metrics = metrics if "step" in metrics else metrics.assign(step=metrics.groupby("seed").cumcount())
    twice = metrics[metrics.duplicated(["seed", "step"])]
    if len(twice):
        seed, step = twice.iloc[0][["seed", "step"]]
        raise ParameterError(
            f"seed {seed:g} has step {step:g} more than once: examine the metrics of one run at a time"
        )
    metrics = metrics.sort_values(["seed", "step"], ignore_index=True)
    last = metrics.groupby("seed")["step"].transform("max").clip(lower=1)
    return metrics.assign(progress=metrics["step"] / last)
