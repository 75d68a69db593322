"""What any score has to be read against: tables and verdicts over `anm_nb.tasks.base.reference_scores`.

`references` holds its rows throughout: task, split, seed, name, kind, metric, value, low, high.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from anm_nb.analysis.published import IRED_MSE
from anm_nb.analysis.stats import mean_interval
from anm_nb.analysis.tables import rounded, skill
from anm_nb.analysis.verdicts import Verdict, judge, judge_band
from anm_nb.tasks import task_class

METRIC_LABELS = {"mse": "MSE", "tau_obs": "τ, observed pairs", "tau_all": "τ, all pairs"}


def metric_label(task: str) -> str:
    """A task's own metric as tables and axes name it."""
    metric = task_class(task).metric
    return METRIC_LABELS.get(metric, metric.replace("_", " "))


def native(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows in each task's own metric."""
    return scores[scores["metric"] == scores["task"].map(lambda task: task_class(task).metric)]


@dataclass(frozen=True)
class Known:
    """One task's references on one kind of problems, in its own metric: kinds and mean values over seeds, by name."""

    kinds: dict[str, str]
    values: dict[str, float]

    @property
    def ceiling(self) -> float:
        """The best possible score."""
        return next(self.values[name] for name, kind in self.kinds.items() if kind == "ceiling")

    def best(self, kind: str) -> str:
        """The name of the reference of a kind that lies nearest the ceiling."""
        names = [name for name, own in self.kinds.items() if own == kind]
        return min(names, key=lambda name: abs(self.values[name] - self.ceiling))


def references_of(references: pd.DataFrame, task: str, split: str) -> Known:
    """One task's references on one kind of problems."""
    own = native(references)
    own = own[(own["task"] == task) & (own["split"] == split)]
    values = own.groupby("name", sort=False)["value"].mean()
    kinds = own.drop_duplicates("name")
    by_name = {str(name): float(value) for name, value in values.items()}
    return Known(dict(zip(kinds["name"], kinds["kind"], strict=True)), by_name)


def reference_text(references: pd.DataFrame) -> pd.DataFrame:
    """Every reference as text to read: mean and 95 % interval over seeds for both kinds of problems, and skill."""
    rows = []
    for task in references["task"].unique():
        splits = {split: references_of(references, task, split) for split in ("same", "harder")}
        for name, kind in splits["same"].kinds.items():
            row = {"task": task, "metric": metric_label(task), "predictor": name, "kind": kind}
            for split, known in splits.items():
                own = _values(references, task, split, name)
                mean, low, high = mean_interval(own)
                exact = low == high or not len(own) > 1
                row[split] = rounded(mean) if exact else f"{rounded(mean)} [{rounded(low)}, {rounded(high)}]"
                trivial = known.values[known.best("trivial")]
                row[f"skill, {split}"] = f"{float(skill(mean, trivial, known.ceiling)):z.2f}"
            rows.append(row)
    return pd.DataFrame(rows).set_index(["task", "metric", "predictor"])


def published_skill(references: pd.DataFrame) -> pd.DataFrame:
    """IRED's published MSEs beside the best trivial and the classical one, with the skill they amount to.

    The published scores are for 20×20, so the references have to be for that size too.
    """
    rows = []
    for (task, split), score in IRED_MSE.items():
        if task not in set(references["task"]):
            continue
        known = references_of(references, task, split)
        trivial, classical = known.best("trivial"), known.best("classical")
        of_published = skill(score, known.values[trivial], known.ceiling)
        rows.append(
            {
                "task": task,
                "problems": split,
                "published IRED": f"{score:.4f}",
                "best trivial": f"{rounded(known.values[trivial])} ({trivial})",
                "classical": f"{rounded(known.values[classical])} ({classical})",
                "skill of the published score": f"{float(of_published):z.2f}",
            }
        )
    return pd.DataFrame(rows).set_index(["task", "problems"])


def reference_verdicts(references: pd.DataFrame) -> list[Verdict]:
    """What the references alone say about the published scores at 20×20, paired by seed."""
    verdicts = []
    present = set(references["task"])
    for (task, split), score in IRED_MSE.items():
        if task not in present:
            continue
        known = references_of(references, task, split)
        trivial = known.best("trivial")
        values = _values(references, task, split, trivial)
        skills = skill(np.full(len(values), score), values, 0.0)
        verdicts.append(
            judge_band(
                f"the published score on {task}, {split} problems, is more than a trivial predictor's: skill above 0.1",
                skills,
                low=0.1,
                high=1.0,
                unit=f"skill against '{trivial}'",
            )
        )
    for split in ("same", "harder") if "lowrank" in present else ():
        verdicts.append(
            judge(
                f"a classical method is better than copying on lowrank, {split} problems",
                lower=_values(references, "lowrank", split, "soft-impute"),
                higher=_values(references, "lowrank", split, "copy the observed"),
                names=("soft-impute", "copying"),
                unit="MSE",
            )
        )
    return verdicts


def _values(references: pd.DataFrame, task: str, split: str, name: str) -> np.ndarray:
    """One reference's value for each seed."""
    own = native(references)
    own = own[(own["task"] == task) & (own["split"] == split) & (own["name"] == name)]
    return own.sort_values("seed")["value"].to_numpy()
