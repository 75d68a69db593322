"""Everything that was run, as experiments: out of the run store, or out of the results kept in `outputs/reference`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from anm_nb.analysis.anm_verdict import NAME as VERDICT
from anm_nb.analysis.anm_verdict import KeptVerdict
from anm_nb.analysis.experiment import Experiment, Finished, experiments_of, task_of
from anm_nb.analysis.grouping import family_of
from anm_nb.analysis.reference import Reference, reference_root, references_in
from anm_nb.config import ParameterError
from anm_nb.run import CorruptRun
from anm_nb.store import Run, partial_root, scan, store_root
from anm_nb.tasks import task_class

Source = Literal["reference", "store"]
EMPTY_STORE = (
    "No finished runs in {store}.\n"
    "To fill it run any notebook (make lab opens JupyterLab), all of them at their quick profile (make demo) or a "
    'sweep (anm-nb sweep hrm); then run this one again with source = "store".'
)
NOTHING_KEPT = "Nothing is kept in {kept} either; `anm-nb reference NAME` keeps the runs of a notebook."
VERDICT_BASELINE = "none_tuned"


@dataclass(frozen=True)
class Collection:
    """Experiments, where they were read, and what could not be: a reason by run. `message` is for whoever reads on."""

    experiments: list[Experiment]
    read_from: Source
    unreadable: dict[str, str] = field(default_factory=dict)
    message: str = ""

    @property
    def study(self) -> KeptVerdict | None:
        """The kept study of mined negatives, where it is what is read."""
        return kept_verdict() if self.read_from == "reference" else None

    @property
    def unreadable_table(self) -> pd.DataFrame:
        """What was not read, one row each, and why."""
        return pd.DataFrame({"why": self.unreadable}).rename_axis("not read")


def collect_experiments(source: Source) -> Collection:
    """Every experiment of a source. Where the store has no finished run a message says so, and what is kept is read."""
    if source == "reference":
        return _kept("")
    stored = stored_experiments()
    if stored.experiments:
        return stored
    kept = _kept(EMPTY_STORE.format(store=store_root()))
    return Collection(kept.experiments, "reference", stored.unreadable, kept.message)


def _kept(before: str) -> Collection:
    experiments = kept_experiments()
    follows = "What follows is of the results kept in {kept}." if experiments else NOTHING_KEPT
    said = [before, follows.format(kept="outputs/reference")] if before or not experiments else []
    return Collection(experiments, "reference", message="\n".join(line for line in said if line))


def stored_experiments() -> Collection:
    """The finished runs of the store, oldest first; of each its config, provenance and metrics are read, and checked.

    Unreadable are runs of which a byte has changed, of a task that is not known here or not with these options, or of a
    family that is not compared, and trainings that have not finished.
    """
    listed, broken = scan()
    unreadable = {path.name: reason for path, reason in broken.items()}
    runs: list[Finished] = []
    for each in listed:
        try:
            run = _finished(Run(each.path))
            family_of(run.settings)
            task_of(run.settings)
        except (CorruptRun, ParameterError) as error:
            unreadable[each.key] = str(error)
        else:
            runs.append(run)
    unreadable |= {name: "not finished: the training was interrupted, or is going on" for name in _unfinished(listed)}
    names = [f"{run.settings['task']} {run.settings['size']}" for run in runs]
    return Collection(experiments_of(runs, names), "store", unreadable)


def _finished(run: Run) -> Finished:
    return Finished(None, run.settings, run.metrics, {"key": run.key, **run.provenance})


def _unfinished(listed: Sequence[object]) -> list[str]:
    """Trainings that were begun and are not over, by key."""
    if not partial_root().is_dir():
        return []
    finished = {each.key for each in listed}  # type: ignore[attr-defined]
    with os.scandir(partial_root()) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and entry.name not in finished)


def kept_experiments() -> list[Experiment]:
    """The experiments of every kept result by name, and of the study of mined negatives, where it is kept."""
    found = []
    for kept in references_in(reference_root()):
        found += _of_reference(kept)
    verdict = kept_verdict()
    return [*found, *_of_verdict(verdict)] if verdict else found


def kept_verdict() -> KeptVerdict | None:
    """The study of mined negatives, where it is kept."""
    kept = KeptVerdict(reference_root())
    return kept if (kept.folder / f"{VERDICT}.json").exists() else None


def _of_reference(kept: Reference) -> list[Experiment]:
    runs = [
        Finished(
            method,
            document["config"],
            kept.metrics[kept.metrics["method"] == method],
            {"key": document["key"], **document["provenance"]},
        )
        for method, document in kept.provenance.items()
    ]
    tasks = [str(run.settings["task"]) for run in runs]
    several = len(set(tasks)) > 1
    names = [f"{kept.path.name}, {task}" if several else kept.path.name for task in tasks]
    known = kept.references
    if "split" in known:
        known = known[known["split"] == "same"]
    references = {
        name: known[known["task"] == task] if "task" in known else known
        for name, task in zip(names, tasks, strict=True)
    }
    return experiments_of(runs, names, references)


def _of_verdict(kept: KeptVerdict) -> list[Experiment]:
    """An experiment for each task and kind of training: tuned methods differ in more than makes runs comparable."""
    found = []
    for (task, training), rows in kept.confirmed.groupby(["task", "training"], sort=False):
        metric = task_class(str(task)).metric
        documents = {
            method: kept.provenance["runs"][f"{task}/{training}/{method}"] for method in rows["method"].unique()
        }
        kinds = kept.provenance["references"][task]
        values = {name: float(rows[f"same/{metric}/{name}"].mean()) for name in kinds}
        references = pd.DataFrame({"name": kinds.keys(), "kind": kinds.values(), "metric": metric})
        found.append(
            Experiment(
                name=f"{VERDICT}, {task}, {training}",
                settings={method: document["config"] for method, document in documents.items()},
                provenance={
                    method: {"key": document["key"], **document["provenance"]} for method, document in documents.items()
                },
                scores={
                    metric: rows.pivot(index="seed", columns="method", values=f"same/{metric}/model")[[*documents]]
                },
                references=references.assign(value=references["name"].map(values)),
                measured_on="test",
                compared_with=VERDICT_BASELINE if VERDICT_BASELINE in documents else None,
            )
        )
    return found
