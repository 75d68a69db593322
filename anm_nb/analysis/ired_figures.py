"""Figures of the reference scores and of base IRED's table: tables in, Figure out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from anm_nb.analysis.figures import PALETTE, house_style, legend_below, new_figure
from anm_nb.analysis.published import IRED_MSE
from anm_nb.analysis.reference_scores import metric_label, references_of
from anm_nb.analysis.stats import mean_interval
from anm_nb.analysis.style import points
from anm_nb.tasks import task_class

KIND_COLOURS = {"trivial": "#6e6e6e", "classical": "#cc79a7", "ceiling": "#000000", "published": PALETTE["stock"]}
FILLED = {"same": True, "harder": False}
STEP_LINES = (
    ("base IRED", PALETTE["stock"], "-"),
    ("classical", KIND_COLOURS["classical"], "-"),
    ("best trivial", KIND_COLOURS["trivial"], "-"),
    ("harder problems", "black", (0, (3, 1.5))),
)
EXACT = 1e-6  # errors below are those of rounding


def reference_panels(references: pd.DataFrame) -> Figure:
    """Every task's references, a panel each: problems as trained on filled, harder ones open; the published beside."""
    tasks = list(references["task"].unique())
    with house_style():
        figure, panels = _panels(len(tasks))
        for axes, task in zip(panels, tasks, strict=True):
            _reference_panel(axes, references, task)
        for label, face in (("problems as in training", "black"), ("harder problems", "white")):
            panels[0].plot([], [], "o", color="black", markerfacecolor=face, markersize=4, label=label)
        legend_below(figure, panels[0], at_most=2)
    return figure


def _reference_panel(axes: Axes, references: pd.DataFrame, task: str) -> None:
    """One task's references from top to bottom, trivial ones first, and the published scores last."""
    splits = {split: references_of(references, task, split) for split in FILLED}
    kinds = dict(splits["same"].kinds)
    scores = {(name, split): known.values[name] for split, known in splits.items() for name in kinds}
    published = {("published IRED", split): IRED_MSE[task, split] for split in FILLED if (task, split) in IRED_MSE}
    kinds |= {name: "published" for name, _ in published}
    is_error = task_class(task).metric == "mse"
    for (name, split), score in (scores | published).items():
        height, colour = list(kinds).index(name), KIND_COLOURS[kinds[name]]
        if not is_error or score > EXACT:
            face = colour if FILLED[split] else "white"
            axes.plot(score, height, "o", color=colour, markerfacecolor=face, markersize=4)
        elif split == "same":  # an exact method has no place on a logarithmic axis
            axes.text(
                0.02, height, "0 (exact)", transform=axes.get_yaxis_transform(), va="center", fontsize=points(6.5)
            )
    axes.set_yticks(range(len(kinds)), [name.replace(", ", ",\n") for name in kinds])
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelsize=points(6.5))
    axes.grid(axis="y", linewidth=0.3, color="#dddddd")
    axes.set(title=task, xlabel=f"{metric_label(task)}{' (log scale)' if is_error else ''}")
    if is_error:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())


def skill_by_steps(by_steps: pd.DataFrame, classical: pd.Series) -> Figure:
    """Skill against the sampler's descent steps a level, a panel for each task; means over seeds with 95 % bands.

    `by_steps` is `ired.by_inner_steps`; `classical` holds the best classical skill by task and split.
    """
    tasks = list(by_steps["task"].unique())
    with house_style():
        figure, panels = _panels(len(tasks))
        for axes, task in zip(panels, tasks, strict=True):
            for split, style in (("same", "-"), ("harder", (0, (3, 1.5)))):
                part = by_steps[(by_steps["task"] == task) & (by_steps["split"] == split)]
                bands = part.groupby("steps")["skill"].apply(mean_interval)
                mean, low, high = np.array(bands.tolist()).T
                axes.plot(bands.index, mean, linestyle=style, marker="o", markersize=2.5, color=PALETTE["stock"])
                axes.fill_between(bands.index, low, high, color=PALETTE["stock"], alpha=0.15, linewidth=0)
                level = float(classical.loc[(task, split)])
                axes.axhline(level, color=KIND_COLOURS["classical"], linestyle=style, linewidth=0.8)
            axes.axhline(0, color=KIND_COLOURS["trivial"], linewidth=0.8)
            steps = sorted(by_steps["steps"].unique())
            axes.set(title=task, xscale="log", xticks=steps, xticklabels=[str(step) for step in steps])
            axes.minorticks_off()
            axes.set_xlabel("descent steps a level")
            axes.set_ylabel("skill")
        for label, colour, style in STEP_LINES:
            panels[0].plot([], [], color=colour, linestyle=style, label=label)
        legend_below(figure, panels[0], at_most=4)
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """An empty figure of so many panels, up to three in a row."""
    columns = min(3, count)
    rows = -(-count // columns)
    figure, grid = new_figure(rows, columns, 0.55 + 1.5 * rows, squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return figure, list(grid.flat[:count])
