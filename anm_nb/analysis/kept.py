"""Results kept with the project: `outputs/reference/<name>/`, each with where it came from."""

from __future__ import annotations

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
    """One kept result: metrics of several methods, the task's reference scores, and provenance of every run."""

    path: Path

    def table(self, name: str) -> pd.DataFrame:
        """A table kept with it by name. Raises `ParameterError` naming the nearest one that there is."""
        path = self.path / f"{name}.parquet"
        if not path.exists():
            raise ParameterError(unknown_name("table", name, [each.stem for each in self.path.glob("*.parquet")]))
        return pd.read_parquet(path)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Tidy metrics with a `method` column."""
        return self.table("metrics")

    @cached_property
    def references(self) -> pd.DataFrame:
        """Trivial, classical and best-possible scores of the task."""
        return self.table("reference_scores")

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """For each method: run key, config, versions, commit, machine."""
        return json.loads((self.path / "provenance.json").read_text("utf-8"))

    @property
    def scope(self) -> str:
        """Task, size, length, seeds and day of the runs, in a phrase to end a claim with."""
        return self.scope_of(next(iter(self.provenance)))

    def scope_of(self, method: str) -> str:
        """The same, task, size and length being those of one method's run."""
        config = self.provenance[method]["config"]
        length = f"{config['steps']:,} steps" if "steps" in config else f"{config['epochs']} epochs"
        seeds = self.metrics.groupby("method")["seed"].nunique().min()
        day = max(of["provenance"]["finished"] for of in self.provenance.values())[:10]
        return f"{config['task']}, size {config['size']}, {length}, {seeds} seeds, {day}"


def kept_root() -> Path:
    """The tracked folder of kept results."""
    return project_root() / "outputs" / "reference"


def names() -> list[str]:
    """The names of all kept results."""
    return [path.parent.name for path in sorted(kept_root().glob("[!.]*/provenance.json"))]


def load(name: str) -> Kept:
    """A kept result by name. Raises `ParameterError` naming the nearest one that exists."""
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
    """Store the runs' metrics and provenance, and other tables by name, as a kept result.

    What was kept under that name before stays until all of it is written; with `add`, its runs of other methods too.
    """
    metrics, provenance = collect(runs), {}
    if add and name in names():
        before = load(name)
        provenance = before.provenance
        metrics = pd.concat([before.metrics[~before.metrics["method"].isin(runs)], metrics], ignore_index=True)
    provenance |= {
        method: {"key": run.key, "config": run.settings, "provenance": run.provenance} for method, run in runs.items()
    }
    path = kept_root() / name
    shutil.rmtree(new := kept_root() / f".{name}", ignore_errors=True)
    new.mkdir(parents=True)
    for title, table in {"metrics": metrics, "reference_scores": references, **(tables or {})}.items():
        table.to_parquet(new / f"{title}.parquet")
    document = json.dumps(provenance, indent=1, sort_keys=True, ensure_ascii=False)
    document = re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), document)  # a list a line
    (new / "provenance.json").write_text(document + "\n", encoding="utf-8")
    shutil.rmtree(aside := kept_root() / f".{name}.before", ignore_errors=True)
    if path.exists():
        path.rename(aside)  # so that whoever stops this in between finds it
    new.rename(path)
    shutil.rmtree(aside, ignore_errors=True)
    return Kept(path)
