"""Curated results kept with the project: `outputs/reference/<name>/`, each with where it came from.

README, notebooks and figures quote these by reading them.
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

from anm_nb.analysis import figures, hrm_grid, ranking_figures
from anm_nb.analysis.ired import by_inner_steps, classical_skill, final_test, ired_table, shown
from anm_nb.analysis.ired_figures import skill_by_steps
from anm_nb.analysis.ranking_tables import SPACES, spaces_on_test
from anm_nb.analysis.stats import mean_interval
from anm_nb.analysis.tables import collect, final, rounded, score_table
from anm_nb.analysis.verdicts import judge
from anm_nb.parameters import ParameterError, unknown_name
from anm_nb.runs import Run, project_root


def reference_root() -> Path:
    """The tracked folder of reference results."""
    return project_root() / "outputs" / "reference"


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

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """For each method: run key, config, versions, commit, machine."""
        return json.loads((self.path / "provenance.json").read_text())


def load_reference(name: str) -> Reference:
    """A kept result by name. Raises `ParameterError` naming the nearest one that exists."""
    path = reference_root() / name
    if not (path / "provenance.json").exists():
        known = [entry.parent.name for entry in reference_root().glob("*/provenance.json")]
        raise ParameterError(unknown_name("reference result", name, known))
    return Reference(path)


def keep_reference(name: str, runs: Mapping[str, Run], references: pd.DataFrame) -> Reference:
    """Store the runs' metrics and provenance as a kept result; provenance comes last and makes it one."""
    path = reference_root() / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "provenance.json").unlink(missing_ok=True)
    collect(runs).to_parquet(path / "metrics.parquet")
    references.to_parquet(path / "reference_scores.parquet")
    kept = Reference(path)
    DISPLAYS[name].figure(kept.metrics, kept.references).savefig(path / "figure.png", dpi=160)
    provenance = {
        method: {"key": run.key, "config": run.settings, "provenance": run.provenance} for method, run in runs.items()
    }
    (path / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n")
    return kept


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


def ired_figure(metrics: pd.DataFrame, references: pd.DataFrame) -> Figure:
    """Base IRED's skill against the sampler's descent steps, on every task."""
    scores = final_test(metrics)
    return skill_by_steps(by_inner_steps(scores, references), classical_skill(scores, references))


def ired_summary(kept: Reference) -> str:
    """Base IRED's test scores on every task, beside the references and the published ones."""
    table = shown(ired_table(final_test(kept.metrics), kept.references)).reset_index()
    lines = [" | ".join(table.columns), " | ".join(["---"] * len(table.columns))]
    lines += [" | ".join(row) for row in table.astype(str).itertuples(index=False)]
    return "\n".join(f"| {line} |" for line in lines)


def tau_figure(metrics: pd.DataFrame, references: pd.DataFrame) -> Figure:
    """τ on test in each space, for every model."""
    return ranking_figures.tau_waterfall(spaces_on_test(metrics), references)


def tau_summary(kept: Reference) -> str:
    """τ on test of every model in each space, beside the references of the task."""
    lines = [f"| ranking | kind | {' | '.join(SPACES)} |", "|---|---|" + "---|" * len(SPACES)]
    known = kept.references.pivot(index=["name", "kind"], columns="metric", values="value")
    for row in known.reset_index().sort_values("kind", ascending=False).to_dict("records"):
        taus = [f"{row[metric]:z.2f}".replace("nan", "–") for metric in SPACES.values()]
        lines.append(f"| {row['name']} | {row['kind']} | {' | '.join(taus)} |")
    spaces = spaces_on_test(kept.metrics)
    for method in kept.provenance:
        cells = []
        for space in SPACES:
            of = spaces[(spaces["method"] == method) & (spaces["space"] == space)]
            mean, low, high = (f"{value:z.3f}" for value in mean_interval(of["tau"]))
            cells.append(f"{mean} [{low}, {high}]")
        lines.append(f"| `{method}` | measured | {' | '.join(cells)} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Display:
    """How a kept result is shown: a figure of its metrics and reference scores, and a Markdown table."""

    figure: Callable[[pd.DataFrame, pd.DataFrame], Figure]
    summary: Callable[[Reference], str]


DISPLAYS = {
    "02_kendall_forensics": Display(tau_figure, tau_summary),
    "10_anm_vs_corruption": Display(figures.learning_curves, mse_summary),
    "15_ired_table": Display(ired_figure, ired_summary),
    "20_hrm_vs_baseline": Display(tau_figure, tau_summary),
    "hrm_ceiling": Display(hrm_grid.grid_figure, hrm_grid.grid_summary),
    "hrm_hinted": Display(hrm_grid.grid_figure, hrm_grid.grid_summary),
}
