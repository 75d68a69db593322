"""A doctor that reads the metrics of one run and says what is wrong and what to change (ANM checklist, section K).

Confidence is high where a signature (`signatures`) shows in 90 % of the rows judged, medium from 70 %, else low, and
one less with fewer than 10 rows; what must never happen is of high confidence wherever it is seen.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from anm_nb.analysis.signatures import EARLY, LARGEST_FACTOR, LATE, SIGNATURES, Signature, Times, ToShare
from anm_nb.analysis.tables import rounded
from anm_nb.config import ParameterError
from anm_nb.energy.negatives import get_negatives
from anm_nb.tasks import task_class

Confidence = Literal["low", "medium", "high"]
MEDIUM, HIGH = 0.7, 0.9  # shares of judged rows
FEW_ROWS = 10  # a record of nine rows cannot tell 90 % from all
MIXED = ("first", "second")  # parts of the strategy `mixed`


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


def examine(frame: pd.DataFrame, parameters: Mapping[str, Any] | None = None) -> list[Finding]:
    """Findings over the tidy metrics of one run, most important first; none for a healthy one.

    `frame` has a row for each step, or (seed, step), and any of the columns that `Recorder` or `run.metrics` brings.
    With the run's `parameters` (a config as plain data, such as `run.settings`) changes are computed from present
    values, and leave out what those parameters do not have. Raises `ParameterError` when (seed, step) is not unique,
    as in the metrics of several runs.
    """
    metrics = _prepared(frame)
    findings: dict[str, Finding] = {}
    for signature in SIGNATURES:
        found = None if findings.keys() & set(signature.unless) else _finding(signature, metrics)
        if found is not None:
            findings[signature.name] = found
    return [_for_run(finding, parameters) for finding in findings.values()]


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


def apply(findings: Iterable[Finding], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with every finding's change made; of two changes to one parameter, the first finding's counts."""
    changes: dict[str, Any] = {}
    for finding in findings:
        changes = {**_for_run(finding, parameters).change, **changes}
    result = in_full(parameters) if any("." in name for name in changes) else copy.deepcopy(dict(parameters))
    for name, value in changes.items():
        *path, last = name.split(".")
        _present(path, result)[last] = value
    return result


def _for_run(finding: Finding, parameters: Mapping[str, Any] | None) -> Finding:
    """The finding with its change as values for these parameters; what they lack, or have so already, is left out."""
    if parameters is None:
        return finding
    given, values = in_full(parameters), {}
    for name, value in finding.change.items():
        of, *option = name.split(".")
        mixed = of == "negatives" and _present(["negatives", "name"], given) == "mixed" and option[0] not in MIXED
        for path in [[of, part, *option] for part in MIXED] if mixed else [[of, *option]]:
            present = _present(path, given)
            own = in_full({**given, name: None}).get(name) if value is None else value
            new = own.of(present) if isinstance(own, Times) and present is not None else own
            if present is not None and new != present:
                values[".".join(path)] = new
    return replace(finding, change=values)


def in_full(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with a strategy given by name as its options, and a weight left to the task as the task's."""
    given = copy.deepcopy(dict(parameters))
    strategy = given.get("negatives")
    if isinstance(strategy, str) and strategy != "none":
        named = get_negatives(strategy)
        given["negatives"] = {"name": strategy, **(named.model_dump(mode="json") if named else {})}
    if given.get("contrastive_weight", 0) is None and "task" in given:
        with suppress(ParameterError):  # a user's task, not registered here
            given["contrastive_weight"] = getattr(task_class(given["task"]), "contrastive_weight", None)
    return given


def _present(path: Sequence[str], given: Mapping[str, Any]) -> Any:
    """The value at a path; None where it leads nowhere."""
    value: Any = given
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _finding(signature: Signature, metrics: pd.DataFrame) -> Finding | None:
    """What a signature's surest sign, the one that shows in the largest share of rows, makes of a run."""
    seen = [(found, sign) for sign in signature.signs if (found := sign.found(metrics)) is not None]
    if not seen:
        return None
    (share, judged, rows), sign = max(seen, key=lambda one: one[0][0])
    told = [*(sign.told or sign.needs).split(), *(column for column in signature.also.split() if column in rows)]
    values = ", ".join(f"{name} {rounded(float(rows[name].median()), 2)}" for name in dict.fromkeys(told))
    where = f"steps {rows['step'].min():g} to {rows['step'].max():g}"
    seeds = f"{rows['seed'].nunique()} of {metrics['seed'].nunique()} seeds"
    evidence = f"{values} (medians of the {len(rows)} of {judged} judged rows that show it, {where}, {seeds})"
    grades: tuple[Confidence, ...] = ("low", "medium", "high")
    grade = 2 if sign.never else (share >= MEDIUM) + (share >= HIGH) - (judged < FEW_ROWS)
    change = {name: _factor(to, rows) if isinstance(to, ToShare) else to for name, to in signature.change.items()}
    return Finding(signature.name, evidence, signature.remedy, change, grades[max(0, grade)], signature.section)


def _factor(to: ToShare, rows: pd.DataFrame) -> Times:
    """The factor on a weight that brings the gradient share that these rows have in the median to another."""
    present = float(rows["grad_share_contrast"].median())
    wanted = to.share / (1 - to.share) * (1 - present) / max(present, 1e-12)
    return Times(float(f"{min(max(wanted, 1 / LARGEST_FACTOR), to.at_most):.1e}"))


def _prepared(frame: pd.DataFrame) -> pd.DataFrame:
    """Sorted rows with columns seed, step, progress (the share of its seed's steps) and what signs compare with."""
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
    progress = metrics["step"] / metrics.groupby("seed")["step"].transform("max").clip(lower=1)
    metrics = metrics.assign(progress=progress)

    def usual(column: str, rows: pd.Series) -> pd.Series:
        return metrics["seed"].map(metrics[rows].groupby("seed")[column].median())

    if "margin_mean" in metrics:
        metrics["margin_growth"] = metrics["margin_mean"] - metrics.groupby("seed")["margin_mean"].transform("first")
    if "wrongness" in metrics:
        metrics["wrongness_growth"] = metrics["wrongness"] / usual("wrongness", progress <= EARLY)
    for column in {"e_pos", "e_neg", "loss_mse"} & set(metrics):
        metrics[f"{column}_rise"] = metrics[column] - usual(column, progress.between(EARLY, LATE))
    return metrics
