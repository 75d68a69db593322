"""Kept results: tables under version control in `outputs/reference/<name>/`, each with its provenance."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from anm_nb.analysis.tables import collect
from anm_nb.config import ParameterError, unknown_name
from anm_nb.files import KEPT, note_use, project_root
from anm_nb.store import Run


@dataclass(frozen=True)
class Kept:
    """One kept result: metrics of several methods, reference scores of the task, and the provenance of every run."""

    path: Path

    def table(self, name: str) -> pd.DataFrame:
        """Read one of its tables. Raises `ParameterError` with the nearest name if there is no such table."""
        path = self.path / f"{name}.parquet"
        if not path.exists():
            raise ParameterError(unknown_name("table", name, [file.stem for file in self.path.glob("*.parquet")]))
        return pd.read_parquet(path)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Tidy metrics of all runs, with a `method` column."""
        return self.table("metrics")

    @cached_property
    def references(self) -> pd.DataFrame:
        """Trivial, classical and best-possible scores of the task."""
        return self.table("reference_scores")

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Per method: the run's key, config, versions, commit and machine."""
        return json.loads((self.path / "provenance.json").read_text("utf-8"))

    @property
    def scope(self) -> str:
        """Task, size, training length, seeds and date of the runs, as a phrase to end a claim with."""
        return self.scope_of(next(iter(self.provenance)))

    def scope_of(self, method: str) -> str:
        """`scope` with the task, size and length of one method's run; `scope` takes those of the first method."""
        config = self.provenance[method]["config"]
        length = f"{config['steps']:,} steps" if "steps" in config else f"{config['epochs']} epochs"
        seeds = self.metrics.groupby("method")["seed"].nunique().min()
        day = max(run["provenance"]["finished"] for run in self.provenance.values())[:10]
        return f"{config['task']}, size {config['size']}, {length}, {seeds} seeds, {day}"


def kept_root() -> Path:
    """The folder of kept results, which git tracks."""
    return project_root() / "outputs" / "reference"


def names() -> list[str]:
    """The names of all kept results."""
    return [path.parent.name for path in sorted(kept_root().glob("[!.]*/provenance.json"))]


def load(name: str) -> Kept:
    """Load a kept result. Raises `ParameterError` with the nearest name if there is no such result."""
    if name not in names():
        raise ParameterError(unknown_name("kept result", name, names()))
    note_use(f"{KEPT}{name}")
    return Kept(kept_root() / name)


def keep(
    name: str,
    runs: Mapping[str, Run],
    references: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame] | None = None,
    *,
    add: bool = False,
) -> Kept:
    """Store the runs' metrics and provenance, reference scores and further named tables as a kept result.

    An earlier result of this name is replaced only once everything is written. With `add`, the new result includes
    those of its runs whose methods are not among `runs`.
    """
    metrics, provenance = collect(runs), {}
    if add and name in names():
        before = load(name)
        provenance = before.provenance
        metrics = pd.concat([before.metrics[~before.metrics["method"].isin(runs)], metrics], ignore_index=True)
    for method, run in runs.items():
        provenance[method] = {"key": run.key, "config": run.settings, "provenance": run.provenance}
    path = kept_root() / name
    shutil.rmtree(new := kept_root() / f".{name}", ignore_errors=True)
    new.mkdir(parents=True)
    for title, table in {"metrics": metrics, "reference_scores": references, **(tables or {})}.items():
        table.to_parquet(new / f"{title}.parquet")
    document = json.dumps(provenance, indent=1, sort_keys=True, ensure_ascii=False)
    document = re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), document)  # each list on one line
    (new / "provenance.json").write_text(document + "\n", encoding="utf-8")
    shutil.rmtree(aside := kept_root() / f".{name}.before", ignore_errors=True)
    if path.exists():
        path.rename(aside)  # so that it survives an interruption before the next line
    new.rename(path)
    shutil.rmtree(aside, ignore_errors=True)
    return Kept(path)
