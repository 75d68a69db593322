"""Figures of discrete negatives and of what is learnt from them (ANM checklist, section G): tables in, Figure out.

The tables are those of `anm_nb.studies.discrete_study.DiscreteStudy`, a row of panels for each task. Lines are means
over seeds, bands and bars their 95 % t-intervals. Every function raises `ParameterError` for a table without rows or a
column.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anm_nb.analysis.discrete_verdicts import metric_label, scores_of
from anm_nb.analysis.figures import colours, house_style, interval_line, label, new_figure, require_columns
from anm_nb.analysis.stats import mean_interval
from anm_nb.analysis.style import points
from anm_nb.energy.constraints import ENTROPY_BAND
from anm_nb.studies.discrete_study import HELD_OUT, UNDENOISED

BY_LEVEL = {
    "illegitimate": "illegitimate share\n(m* < 0)",
    "decisions_changed": "decisions that differ\nfrom the truth",
    "violation_rate": "share of rules that the\nnegative breaks",
}
KIND_LABELS = {
    HELD_OUT: "held-out pairs\n(random, ⊥ ε)",
    "stock": "stock",
    "anm_simplex": "mined",
    "anm_simplex_legitimate": "mined,\nlegitimate",
}


def entropies(metrics: pd.DataFrame, negatives: pd.DataFrame) -> Figure:
    """Entropy of the mined points, as a share of the largest possible one, with the document's middle band shaded.

    Left, against the step, as recorded while training: `metrics`, columns task, method, seed, step and
    relative_entropy. Then its histogram over the held-out pairs of `negatives`, at the first and at the last step.
    """
    for table in (metrics, negatives):
        require_columns(table, "task", "method", "seed", "step", "relative_entropy")
    tasks = list(metrics["task"].unique())
    bins = np.linspace(0, 1, 26)
    with house_style():
        figure, grid = new_figure(len(tasks), 3, 0.9 + 1.35 * len(tasks), squeeze=False, sharex="col")
        for (trend, *histograms), task in zip(grid, tasks, strict=True):
            rows = metrics[metrics["task"] == task].dropna(subset=["relative_entropy"])
            for method, colour in _mined(metrics).items():
                interval_line(trend, rows[rows["method"] == method], "step", "relative_entropy", method, colour)
            trend.axhspan(*ENTROPY_BAND, color="black", alpha=0.06, linewidth=0)
            trend.set(ylim=(-0.02, 1.02), ylabel=f"{task}\nentropy / largest")
            pairs = negatives[negatives["task"] == task]
            for axes, step in zip(histograms, (pairs["step"].min(), pairs["step"].max()), strict=True):
                now = pairs[pairs["step"] == step]
                for method, colour in _mined(metrics).items():
                    values = now.loc[now["method"] == method, "relative_entropy"].dropna()
                    weights = np.full(len(values), 1 / max(1, len(values)))
                    axes.hist(values, bins, weights=weights, histtype="step", color=colour, linewidth=1.3)
                axes.axvspan(*ENTROPY_BAND, color="black", alpha=0.06, linewidth=0)
                axes.set(xlim=(0, 1))
            histograms[0].set_ylabel("share of pairs")
        _title_columns(grid, ["while training", "held-out, before the first step", "held-out, at the end"])
        _label_below(grid, ["training step", "entropy / largest", "entropy / largest"])
        _legend_below(figure, grid[0, 0])
    return figure


def negatives_by_level(negatives: pd.DataFrame) -> Figure:
    """What the negatives of each strategy are, by noise level, at the last step: legitimacy, decisions, rules broken.

    Columns task, method, seed, step, level, and those of `BY_LEVEL`, a row per pair.
    """
    require_columns(negatives, "task", "method", "seed", "step", "level", *BY_LEVEL)
    last = negatives[negatives["step"] == negatives.groupby("task")["step"].transform("max")]
    means = last.groupby(["task", "method", "seed", "level"], sort=False)[list(BY_LEVEL)].mean().reset_index()
    tasks = list(means["task"].unique())
    with house_style():
        figure, grid = new_figure(len(tasks), len(BY_LEVEL), 0.9 + 1.35 * len(tasks), squeeze=False, sharex=True)
        for row, task in zip(grid, tasks, strict=True):
            for axes, column in zip(row, BY_LEVEL, strict=True):
                _lines(axes, means[means["task"] == task], "level", column)
                axes.set_ylim(bottom=-0.02 if column != "decisions_changed" else 0)
            row[0].set(ylim=(-0.03, 1.03), ylabel=task)
        _title_columns(grid, list(BY_LEVEL.values()))
        _label_below(grid, ["noise level k"] * len(BY_LEVEL))
        _legend_below(figure, grid[0, 0])
    return figure


def violations(denoised: pd.DataFrame, sampled: pd.DataFrame, levels: Sequence[int]) -> Figure:
    """Constraint-violation rate of held-out answers against the step: one-step estimates at noise levels, and samples.

    Columns task, method, seed, step and violation_rate, and for `denoised` level. The dashed line is the noised answer
    read as it is: what an energy without a gradient would score.
    """
    require_columns(denoised, "task", "method", "seed", "step", "level", "violation_rate")
    require_columns(sampled, "task", "method", "seed", "step", "violation_rate")
    tasks = list(sampled["task"].unique())
    with house_style():
        figure, grid = new_figure(
            len(tasks), len(levels) + 1, 0.9 + 1.4 * len(tasks), squeeze=False, sharex="row", sharey="row"
        )
        for row, task in zip(grid, tasks, strict=True):
            tables = [denoised[(denoised["task"] == task) & (denoised["level"] == level)] for level in levels]
            for axes, rows in zip(row, [*tables, sampled[sampled["task"] == task]], strict=True):
                _lines(axes, rows[rows["method"] != UNDENOISED], "step", "violation_rate")
                idle = rows[rows["method"] == UNDENOISED].groupby("step")["violation_rate"].mean()
                axes.plot(idle.index, idle, color="black", linewidth=0.8, linestyle=(0, (4, 3)), label="noised answer")
                axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            row[0].set(ylabel=f"{task}\nviolation rate")
            row[0].set_ylim(bottom=-0.02)
        _title_columns(grid, [*(f"x̂₀ from level {level}" for level in levels), "sampler's answer"])
        _label_below(grid, ["training step"] * (len(levels) + 1))
        _legend_below(figure, grid[0, 0])
    return figure


def wrong_orders(orders: pd.DataFrame) -> Figure:
    """How often each trained energy puts a legitimate negative below its truth, for each kind of negative.

    Columns task, method, seed, kind and wrong, a row for each seed. One panel a task; 0 is a perfect energy.
    """
    require_columns(orders, "task", "method", "seed", "kind", "wrong")
    tasks, kinds, methods = (list(orders[column].unique()) for column in ("task", "kind", "method"))
    with house_style():
        figure, panels = new_figure(1, len(tasks), 2.6, sharey=True)
        for axes, task in zip(panels, tasks, strict=True):
            for index, (method, colour) in enumerate(colours(methods).items()):
                rows = orders[(orders["task"] == task) & (orders["method"] == method)]
                by_kind = [mean_interval(rows.loc[rows["kind"] == kind, "wrong"]) for kind in kinds]
                mean, low, high = np.array(by_kind).T
                place = np.arange(len(kinds)) + 0.16 * (index - (len(methods) - 1) / 2)
                bars = [mean - low, high - mean]
                axes.errorbar(
                    place,
                    mean,
                    bars,
                    fmt="o",
                    markersize=3.5,
                    capsize=2,
                    color=colour,
                    label=f"trained: {label(method)}",
                )
            axes.set_xticks(range(len(kinds)), [KIND_LABELS.get(kind, kind) for kind in kinds])
            axes.set(title=task, ylim=(-0.08, 1.1), xlim=(-0.5, len(kinds) - 0.5))
        panels[0].set_ylabel("share with E⁻ < E⁺")
        _legend_below(figure, panels[0])
    return figure


def score_curves(metrics: pd.DataFrame, references: pd.DataFrame) -> Figure:
    """Each task's own scores against the step, a panel for each of them, beside trivial and classical references.

    `metrics` has columns task, method, seed, step and the scores (`scores_of`); `references` task, name, kind, metric
    and value.
    """
    require_columns(metrics, "task", "method", "seed", "step")
    require_columns(references, "task", "name", "kind", "metric", "value")
    shown = [(task, column) for task in metrics["task"].unique() for column in scores_of(task)]
    with house_style():
        figure, panels = new_figure(1, len(shown), 2.6)
        for axes, (task, column) in zip(panels, shown, strict=True):
            _lines(axes, metrics[metrics["task"] == task], "step", column)
            own = references[(references["task"] == task) & (references["metric"] == column)]
            values = own[own["kind"] != "ceiling"].groupby("name", sort=False)["value"].mean()
            for value in values.unique():
                names = ",\n".join(values.index[values == value])
                axes.axhline(value, color="black", linewidth=0.7, linestyle=(0, (4, 3)))
                above = value < 0.1
                axes.annotate(
                    names, (0.03, value), xycoords=("axes fraction", "data"), xytext=(0, 2 if above else -2),
                    textcoords="offset points", ha="left", va="bottom" if above else "top", fontsize=points(6.5),
                )  # fmt: skip
            axes.set(title=f"{task}\n{metric_label(column)}", xlabel="training step", ylim=(-0.03, 1.05))
        _legend_below(figure, panels[0])
    return figure


def _mined(metrics: pd.DataFrame) -> dict[str, str]:
    """The colours of the methods that mine relaxed points."""
    every = colours(list(metrics["method"].unique()))
    with_entropy = set(metrics.dropna(subset=["relative_entropy"])["method"])
    return {method: colour for method, colour in every.items() if method in with_entropy}


def _lines(axes: Axes, rows: pd.DataFrame, x: str, y: str) -> None:
    """An `interval_line` for each method."""
    for method, colour in colours(list(rows["method"].unique())).items():
        interval_line(axes, rows[rows["method"] == method], x, y, method, colour)


def _title_columns(grid: np.ndarray, titles: Sequence[str]) -> None:
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)


def _label_below(grid: np.ndarray, labels: Sequence[str]) -> None:
    for axes, text in zip(grid[-1], labels, strict=True):
        axes.set_xlabel(text)


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=max(1, min(4, len(names))))
