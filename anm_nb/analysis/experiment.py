"""Experiments: runs that differ in method and seeds alone, with final scores and what these have to be read against."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from anm_nb.analysis.grouping import (
    NO_NEGATIVES,
    ONE_PASS,
    Family,
    Settings,
    comparable,
    experiment_names,
    family_of,
    method_names,
    method_of,
)
from anm_nb.analysis.ranking import SPACES
from anm_nb.analysis.reference_scores import METRIC_LABELS
from anm_nb.tasks import get_task, task_class
from anm_nb.tasks.base import Task
from anm_nb.training.seeds import generator

BASELINES: dict[Family, tuple[str, ...]] = {"energy": (NO_NEGATIVES, "stock"), "ranking": (ONE_PASS,)}
REFERENCE_PROBLEMS = 300


class Finished(NamedTuple):
    """What is read of one finished run; `method` is what it is called, None where nobody has named it."""

    method: str | None
    settings: Settings
    metrics: pd.DataFrame
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class Experiment:
    """Comparable runs by method; of each method all seeds there are.

    `scores` are [seeds × methods] by metric, the task's own first, on test problems or, where a run was given none, on
    dev ones (`measured_on`). `references` has the columns name, kind, metric, value. `baseline` is the method that
    the others are compared with, None where there is none.
    """

    name: str
    settings: dict[str, Settings]
    provenance: dict[str, Mapping[str, Any]]
    scores: dict[str, pd.DataFrame]
    references: pd.DataFrame
    measured_on: Literal["test", "dev"]
    compared_with: str | None = None

    @property
    def common(self) -> Settings:
        """The settings of its first run, for what all of them share."""
        return next(iter(self.settings.values()))

    @property
    def family(self) -> Family:
        """energy or ranking."""
        return family_of(self.common)

    @property
    def baseline(self) -> str | None:
        """The method that the others are compared with; None where there is none."""
        return self.compared_with or next(filter(None, map(self.of_kind, BASELINES[self.family])), None)

    def of_kind(self, kind: str) -> str | None:
        """The method of a kind (`grouping.method_of`): the one that is called just so, else the first; None without."""
        methods = [method for method, settings in self.settings.items() if method_of(settings) == kind]
        return kind if kind in methods else next(iter(methods), None)

    @property
    def metrics(self) -> list[str]:
        """What is read of its scores: the task's own metric and, of rankings, τ over all pairs."""
        own = next(iter(self.scores))
        return [own, *(metric for metric in self.scores if metric == SPACES["all pairs"] != own)]

    def known(self, metric: str, kind: str) -> tuple[str, float]:
        """Name and value of the best reference of a kind; ("–", NaN) where there is none."""
        rows = self.references[(self.references["metric"] == metric) & (self.references["kind"] == kind)]
        if rows.empty:
            return "–", float("nan")
        means = rows.groupby("name", sort=False)["value"].mean()
        best = int(means.argmax() if grows(metric) else means.argmin())
        return str(means.index[best]), float(means.iloc[best])


def grows(metric: str) -> bool:
    """Whether more of a task's own metric is better: of everything but errors."""
    return metric != "mse"


def metric_text(metric: str) -> str:
    """A metric as tables and axes name it."""
    return METRIC_LABELS.get(metric, metric.replace("tau_index", "τ, index space").replace("_", " "))


def experiments_of(
    runs: Sequence[Finished], names: Sequence[str], references: Mapping[str, pd.DataFrame] | None = None
) -> list[Experiment]:
    """Runs, oldest first, as experiments, in the order in which their names occur; of one name the largest first.

    `names` is what the experiment of each run is called; experiments of one name are told apart by what differs.
    `references` are kept ones by that name: they hold for the largest of these; what is not known is measured anew, on
    300 problems. Of several runs of one config the newest has the word on a seed. Raises `ParameterError` for a config
    of no family, or an unknown task.
    """
    groups: dict[tuple[str, str], list[Finished]] = {}
    for name, run in zip(names, runs, strict=True):
        groups.setdefault((name, comparable(run.settings)), []).append(run)
    # the largest first, as the others of its name are named by how they differ from it
    order = sorted(groups, key=lambda key: (list(names).index(key[0]), -len(groups[key])))
    titles = experiment_names([key[0] for key in order], [groups[key][0].settings for key in order])
    made, kept = [], dict(references or {})
    for key, title in zip(order, titles, strict=True):
        made.append(_experiment(title, groups[key], kept.pop(key[0], None)))
    return made


def _experiment(name: str, runs: Sequence[Finished], references: pd.DataFrame | None) -> Experiment:
    by_method = _by_method(runs)
    newest = {method: several[-1] for method, several in by_method.items()}
    common = runs[0].settings
    metric = task_class(common["task"]).metric
    tested = all(test_columns(run.metrics, metric) for run in runs)
    scores: dict[str, dict[str, pd.Series]] = {}
    for method, several in by_method.items():
        for run in several:
            for column, of in (test_columns(run.metrics, metric) if tested else {metric: metric}).items():
                own, of_older = last_by_seed(run.metrics, column), scores.setdefault(of, {}).get(method)
                scores[of][method] = own if of_older is None else own.combine_first(of_older)
    return Experiment(
        name=name,
        settings={method: run.settings for method, run in newest.items()},
        provenance={method: run.provenance for method, run in newest.items()},
        scores={of: pd.DataFrame(columns) for of, columns in scores.items()},
        references=measured_references(common) if references is None else references,
        measured_on="test" if tested else "dev",
    )


def _by_method(runs: Sequence[Finished]) -> dict[str, list[Finished]]:
    """Runs by the name of their method; those that differ in their seeds alone are of one."""
    alike: dict[str, list[Finished]] = {}
    for run in runs:
        without_seeds = {name: value for name, value in run.settings.items() if name != "seeds"}
        alike.setdefault(f"{run.method} {sorted(without_seeds.items())}", []).append(run)
    given = [several[0].method for several in alike.values()]
    made = method_names([several[0].settings for several in alike.values()])
    # a name such as "weight-tied, mask_rate = 0.5" says what the experiment's name says already
    endings = {method.partition(", ")[2] for method in given if method is not None}
    shared = f", {endings.pop()}" if len(endings) == 1 else ""
    names = [method.removesuffix(shared) if method else own for method, own in zip(given, made, strict=True)]
    return dict(zip(names, alike.values(), strict=True))


def test_columns(metrics: pd.DataFrame, metric: str) -> dict[str, str]:
    """What each column of the final test holds, the task's own metric first; empty where a run had no such test."""
    columns = {f"same/{metric}/model": metric} | {f"test_{of}": of for of in (metric, *reversed(SPACES.values()))}
    return {column: of for column, of in columns.items() if column in metrics and metrics[column].notna().any()}


def last_by_seed(metrics: pd.DataFrame, column: str) -> pd.Series:
    """The last value that each seed has of a column."""
    rows = metrics.dropna(subset=[column]).sort_values("step", kind="stable")
    return rows.groupby("seed")[column].last()


def task_of(settings: Settings) -> Task:
    """The task of a config. Raises `ParameterError` where there is none of that name, or not with these options."""
    return get_task(settings["task"], **_task_options(settings))


def _task_options(settings: Settings) -> dict[str, Any]:
    fields = {name: settings[name] for name in ("size", "mask_rate", "encoding") if name in settings}
    return fields | dict(settings.get("task_options", {}))


def measured_references(settings: Settings) -> pd.DataFrame:
    """The references of a config's task on 300 problems like those it was trained for."""
    return _measured_references(settings["task"], json.dumps(_task_options(settings)))


@lru_cache
def _measured_references(task: str, options: str) -> pd.DataFrame:
    made = get_task(task, **json.loads(options))
    return made.reference_scores(REFERENCE_PROBLEMS, generator=generator(0, "references"))


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same seeds: `first` and `second` are [seeds], NaN where a seed is missing.

    `part` says what a difference would be due to. `more_is_better` is the metric's direction, and `ceiling` its best
    possible value where that is known, else NaN.
    """

    experiment: str
    metric: str
    method: str
    against: str
    first: np.ndarray
    second: np.ndarray
    more_is_better: bool
    ceiling: float = float("nan")
    part: str = ""

    @property
    def pairs(self) -> int:
        """The seeds that both have."""
        return int(np.isfinite(self.first - self.second).sum())


def compared(experiment: Experiment, metric: str, method: str, against: str, part: str = "") -> Comparison:
    """Two methods of an experiment, paired by seed. Raises `KeyError` for a method that it has not."""
    scores = experiment.scores[metric]
    _, ceiling = experiment.known(metric, "ceiling")
    first, second = scores[method].to_numpy(float), scores[against].to_numpy(float)
    return Comparison(experiment.name, metric, method, against, first, second, grows(metric), ceiling, part)
