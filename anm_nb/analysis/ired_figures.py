"""Figures of the reference scores and of base IRED's table: tables in, Figure out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from anm_nb.analysis.figures import PALETTE, house_style, new_figure
from anm_nb.analysis.published import IRED_MSE
from anm_nb.analysis.reference_scores import metric_label, references_of
from anm_nb.analysis.stats import mean_interval
from anm_nb.tasks import task_class

KIND_COLOURS = {"trivial": "#6e6e6e", "classical": "#cc79a7", "ceiling": "#000000", "published": PALETTE["stock"]}
SPLIT_MARKERS = {"same": {"marker": "o"}, "harder": {"marker": "o", "markerfacecolor": "white"}}


def reference_panels(references: pd.DataFrame) -> Figure:
    """Every task's references, a panel each: problems as trained on filled, harder ones open; the published beside."""
    tasks = list(references["task"].unique())
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    with house_style():
        figure, grid = new_figure(rows, columns, 0.5 + 1.45 * rows, squeeze=False)
        for axes, task in zip(grid.flat, tasks, strict=False):
            _reference_panel(axes, references, task)
        for axes in grid.flat[len(tasks) :]:
            axes.set_axis_off()
        for split, marker in SPLIT_MARKERS.items():
            label = {"same": "problems as in training", "harder": "harder problems"}[split]
            grid[0, 0].plot([], [], linestyle="none", color="black", markersize=4, label=label, **marker)
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _reference_panel(axes: Axes, references: pd.DataFrame, task: str) -> None:
    """One task's references from top to bottom, trivial ones first."""
    by_split = {split: references_of(references, task, split) for split in SPLIT_MARKERS}
    order = list(by_split["same"].index)
    is_error = task_class(task).metric == "mse"
    for split, known in by_split.items():
        for height, name in enumerate(order):
            value, colour = known.loc[name, "value"], KIND_COLOURS[known.loc[name, "kind"]]
            if not (is_error and value < 1e-6):  # an exact method has no place on a logarithmic axis
                axes.plot(value, height, color=colour, markersize=4, **SPLIT_MARKERS[split])
        if (task, split) in IRED_MSE:
            axes.plot(IRED_MSE[task, split], len(order), color=KIND_COLOURS["published"], markersize=4, **SPLIT_MARKERS[split])
    exact = [name for name in order if is_error and by_split["same"].loc[name, "value"] < 1e-6]
    for name in exact:
        axes.text(0.02, order.index(name), "0 (exact)", transform=axes.get_yaxis_transform(), va="center", fontsize=6.5)
    names = [*order, "published IRED"] if any((task, split) in IRED_MSE for split in SPLIT_MARKERS) else order
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelsize=6.5)
    axes.grid(axis="y", linewidth=0.3, color="#dddddd")
    axes.set(title=task, xlabel=f"{metric_label(task)}{' (log scale)' if is_error else ''}")
    if is_error:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())


def skill_by_steps(by_steps: pd.DataFrame, classical: pd.DataFrame) -> Figure:
    """Skill against the sampler's descent steps a level, a panel for each task; means over seeds with 95 % bands.

    `by_steps` is `ired.by_inner_steps`; `classical` holds the best classical skill by task and split.
    """
    tasks = list(by_steps["task"].unique())
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    with house_style():
        figure, grid = new_figure(rows, columns, 0.6 + 1.5 * rows, squeeze=False, sharex=True)
        for axes, task in zip(grid.flat, tasks, strict=False):
            for split, style in (("same", "-"), ("harder", (0, (3, 1.5)))):
                part = by_steps[(by_steps["task"] == task) & (by_steps["split"] == split)]
                bands = part.groupby("steps")["skill"].apply(mean_interval)
                mean, low, high = np.array(bands.tolist()).T
                axes.plot(bands.index, mean, linestyle=style, marker="o", markersize=2.5, color=PALETTE["stock"])
                axes.fill_between(bands.index, low, high, color=PALETTE["stock"], alpha=0.15, linewidth=0)
                axes.axhline(classical.loc[(task, split)], color=KIND_COLOURS["classical"], linestyle=style, linewidth=0.8)
            axes.axhline(0, color=KIND_COLOURS["trivial"], linewidth=0.8)
            steps = sorted(by_steps["steps"].unique())
            axes.set(title=task, xscale="log", xticks=steps, xticklabels=[str(step) for step in steps])
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.minorticks_off()
        for axes in grid.flat[len(tasks) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel("skill")
        figure.supxlabel("descent steps at each noise level (log scale)", fontsize=8)
    return figure
