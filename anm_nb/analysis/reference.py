"""Curated results kept with the project: `outputs/reference/<name>/`, each with where it came from.

docs/results.md, notebooks and figures quote these by reading them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from anm_nb.analysis import figures
from anm_nb.analysis.tables import collect, final, rounded, score_table
from anm_nb.analysis.verdicts import judge
from anm_nb.config import ParameterError, unknown_name
from anm_nb.files import project_root, whole_folder
from anm_nb.store import Run


def reference_root() -> Path:
    """The tracked folder of reference results."""
    return project_root() / "outputs" / "reference"


@dataclass(frozen=True)
class KeptRun:
    """What is kept of a run: all that a table of several is made of."""

    key: str
    settings: dict[str, Any]
    provenance: dict[str, Any]
    metrics: pd.DataFrame


@dataclass(frozen=True)
class Reference:
    """One kept result: metrics of several methods, the task's reference scores, and provenance of every run."""

    path: Path

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Tidy metrics with a `method` column."""
        return pd.read_parquet(self.path / "metrics.parquet")

    @cached_property
    def references(self) -> pd.DataFrame:
        """Trivial, classical and best-possible scores of the task."""
        return pd.read_parquet(self.path / "reference_scores.parquet")

    def table(self, name: str) -> pd.DataFrame:
        """Another table kept with it by name. Raises `ParameterError` naming the nearest one that there is."""
        path = self.path / f"{name}.parquet"
        if not path.exists():
            raise ParameterError(unknown_name("table", name, [each.stem for each in self.path.glob("*.parquet")]))
        return pd.read_parquet(path)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """For each method: run key, config, versions, commit, machine."""
        return json.loads((self.path / "provenance.json").read_text())

    @cached_property
    def runs(self) -> dict[str, KeptRun]:
        """What is kept of each method's run."""
        rows = {method: own.drop(columns="method") for method, own in self.metrics.groupby("method")}
        return {
            method: KeptRun(of["key"], of["config"], of["provenance"], rows[method])
            for method, of in self.provenance.items()
        }


def load_reference(name: str) -> Reference:
    """A kept result by name. Raises `ParameterError` naming the nearest one that exists."""
    path = reference_root() / name
    if not (path / "provenance.json").exists():
        known = [kept.path.name for kept in references_in(reference_root())]
        raise ParameterError(unknown_name("reference result", name, known))
    return Reference(path)


def references_in(root: Path) -> list[Reference]:
    """All kept results of a folder by name; a name that begins with a dot is of one that is not in its place."""
    return [Reference(path.parent) for path in sorted(root.glob("[!.]*/provenance.json"))]


def keep_reference(
    name: str,
    runs: Mapping[str, Run | KeptRun],
    references: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> Reference:
    """Store the runs' metrics and provenance, and other tables by name, as a kept result.

    What was kept under that name before stays until all of it is written.
    """
    path = reference_root() / name
    given = {"metrics": collect(runs), "reference_scores": references, **(tables or {})}
    provenance = {
        method: {"key": run.key, "config": run.settings, "provenance": run.provenance} for method, run in runs.items()
    }
    with whole_folder(path) as folder:
        for table, rows in given.items():
            rows.to_parquet(folder / f"{table}.parquet")
        (folder / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n")
        DISPLAYS[name].figure(Reference(folder)).savefig(folder / "figure.png", dpi=160)
    return Reference(path)


def quote(kept: Reference, page: Path) -> None:
    """Write a kept result's summary into a Markdown page, between the two comments that name it."""
    write_between(page, kept.path.name, summary(kept))


def write_between(page: Path, name: str, text: str) -> None:
    """Put text into a Markdown page's place of that name. Raises `ParameterError` where it has no such place."""
    before, after = place_in(page, name)
    page.write_text(f"{before}\n{text}\n{after}", encoding="utf-8")


def place_in(page: Path, name: str) -> tuple[str, str]:
    """A page's text up to and from the place of a kept result. Raises `ParameterError` where it has no such place."""
    begin, end = (f"<!-- {word}: {name} -->" for word in ("begin", "end"))
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        raise ParameterError(f"{page.name} has no place for the result: it needs the lines '{begin}' and '{end}'")
    return before + begin, end + after


def summary(kept: Reference) -> str:
    """A kept result as a Markdown table."""
    return DISPLAYS[kept.path.name].summary(kept)


def mse_summary(kept: Reference, metric: str = "mse") -> str:
    """Every method beside the task's references, and its paired difference from `stock`."""
    scores = final(kept.metrics, metric)[list(kept.provenance)]
    table = score_table(scores, kept.references, metric)
    lines = [
        "| predictor | kind | held-out MSE [95 %] | skill | against `stock`, same seeds |",
        "|---|---|---|---|---|",
    ]
    for name, row in table.iterrows():
        interval = f" [{rounded(row['low'])}, {rounded(row['high'])}]" if row["kind"] == "measured" else ""
        against = _against(scores, str(name), "stock") if row["kind"] == "measured" and name != "stock" else ""
        shown = f"`{name}`" if row["kind"] == "measured" else name
        lines.append(
            f"| {shown} | {row['kind']} | {rounded(row[metric])}{interval} | {rounded(row['skill'], 2)} | {against} |"
        )
    return "\n".join(lines)


def _against(scores: pd.DataFrame, method: str, baseline: str) -> str:
    """The paired difference from the baseline in per cent of its mean, and which way it is decided."""
    verdict = judge("", lower=scores[method], higher=scores[baseline], names=(method, baseline))
    percent = [100 * value / scores[baseline].mean() for value in (verdict.estimate, *verdict.interval)]
    decided = {"supported": "better", "refuted": "worse", "undecided": "undecided"}[verdict.state]
    return f"{percent[0]:+.1f} % [{percent[1]:+.1f}, {percent[2]:+.1f}]: {decided}"


def mse_figure(kept: Reference) -> Figure:
    """Every method's held-out error against the training step."""
    return figures.learning_curves(kept.metrics, kept.references)


@dataclass(frozen=True)
class Display:
    """How a kept result is shown, by a figure and Markdown tables, and what else is made of its runs to be kept."""

    figure: Callable[[Reference], Figure]
    summary: Callable[[Reference], str]
    tables: Callable[[Any, Mapping[str, Run]], dict[str, pd.DataFrame]] | None = None  # of the settings and all runs


DISPLAYS = {
    "10_anm_vs_corruption": Display(mse_figure, mse_summary),
}
