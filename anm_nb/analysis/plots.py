"""The plots that at least two notebooks use: tables in, Figure out."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anm_nb.analysis.publication import FIGURES, write
from anm_nb.analysis.style import LINE_STYLES, PALETTE, colours, house_style, label, new_figure, points
from anm_nb.analysis.tables import score_interval
from anm_nb.config import ParameterError


def legend_below(figure: Figure, axes: Axes, at_most: int) -> None:
    """Name a panel's methods beneath all panels, in as many columns, up to `at_most`, as the width has room for."""
    handles, names = axes.get_legend_handles_labels()
    renderer = FigureCanvasAgg(figure).get_renderer()
    even = [-(-len(names) // rows) for rows in range(2, len(names) + 1)]
    for columns in [at_most, *(count for count in even if count < at_most)]:
        legend = figure.legend(handles, names, loc="outside lower center", ncols=columns)
        if columns == 1 or legend.get_window_extent(renderer).width <= figure.bbox.width:
            return
        legend.remove()


def interval_line(axes: Axes, rows: pd.DataFrame, x: str, y: str, method: str, colour: str, dots: bool = False) -> None:
    """Mean of y over seeds against x with its 95 % interval, for one method: a band, or a bar where x has one value.

    `rows` holds one row for each seed and x; those without y are left out, and nothing is drawn where none is left.
    `dots` marks the means where there are fewer than 20.
    """
    bands = rows.dropna(subset=[y]).groupby(x)[y].apply(score_interval, metric=y)
    if bands.empty:
        return
    mean, low, high = np.array(bands.tolist()).T
    style: dict[str, Any] = {"color": colour, "label": label(method)}
    if len(bands) == 1:
        axes.errorbar(bands.index, mean, [mean - low, high - mean], fmt="o", markersize=4, capsize=2, **style)
        return
    marker = "." if dots and len(bands) < 20 else None
    axes.plot(bands.index, mean, marker=marker, **style, **LINE_STYLES.get(method, {}))
    axes.fill_between(bands.index, low, high, color=colour, alpha=0.18, linewidth=0)


def curves(axes: Axes, metrics: pd.DataFrame, column: str) -> None:
    """Mean over seeds of a column against the step, with its 95 % interval as a band, for each method."""
    if column not in metrics:  # no method of these has it
        return
    for method, colour in colours(list(metrics["method"].unique())).items():
        interval_line(axes, metrics[metrics["method"] == method], "step", column, method, colour)
    axes.set_xlabel("training step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


SAME_LINE = 1.05  # on axes of several decades


def learning_curves(
    metrics: pd.DataFrame, references: pd.DataFrame, column: str = "mse", unit: str = "held-out MSE"
) -> Figure:
    """The task's score against the step, over the first 20 % and all of training, beside its trivial references."""
    with house_style():
        figure, (early, whole) = new_figure(1, 2, 2.5, sharey=True)
        for axes in (early, whole):
            curves(axes, metrics, column)
            axes.set_yscale("log")
        last = metrics["step"].max()
        early.set(title="first 20 % of steps", ylabel=f"{unit} (log scale)", xlim=(0, last / 5))
        whole.set(title="all of training", xlim=(0, last))
        for name, value in _lines(references[references["kind"] == "trivial"]):
            for axes in (early, whole):
                axes.axhline(value, color="black", linewidth=0.7, linestyle=(0, (4, 3)))
            whole.annotate(
                name,
                (1, value),
                xycoords=("axes fraction", "data"),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=points(7),
            )
        legend_below(figure, whole, at_most=5)
    return figure


def _lines(references: pd.DataFrame) -> list[tuple[str, float]]:
    """Names and values of references; those too near to each other to be told apart make one line with all names."""
    lines: list[tuple[str, float]] = []
    for name, value in references.sort_values("value")[["name", "value"]].itertuples(index=False):
        if lines and value < SAME_LINE * lines[-1][1]:
            lines[-1] = (f"{lines[-1][0]},\n{name}", lines[-1][1])
        else:
            lines.append((name, value))
    return lines


def seed_strips(
    scores: pd.DataFrame, references: pd.DataFrame, metric: str = "mse", unit: str = "held-out MSE", scale: str = "log"
) -> Figure:
    """Final scores [seeds × methods]: every seed as a dot, mean and 95 % interval, references as lines.

    `references` has the columns name, kind, metric, value; trivial, classical and reachable-ceiling ones are drawn.
    """
    styles = {"trivial": (0, (4, 3)), "classical": (0, (1, 1.5)), "ceiling": "-"}
    with house_style():
        figure, (axes,) = new_figure(1, 1, 0.9 + 0.28 * scores.shape[1])
        for height, (method, colour) in enumerate(colours(list(map(str, scores))).items()):
            mean, low, high = score_interval(scores[method], metric)
            axes.plot(scores[method], np.full(len(scores), height), "o", color=colour, alpha=0.45, markersize=3.5)
            axes.plot([low, high], [height] * 2, color=colour, linewidth=2)
            axes.plot(mean, height, "D", color=colour, markersize=5)
        axes.set_yticks(range(scores.shape[1]), [label(str(method)) for method in scores])
        axes.invert_yaxis()
        shown = references[(references["metric"] == metric) & references["kind"].isin(styles)]
        if scale == "log":
            shown = shown[shown["value"] > 0]
        for kind, rows in shown.groupby("kind", sort=False):
            for name, value in _lines(rows):
                axes.axvline(value, color="black", linewidth=0.7, linestyle=styles[str(kind)])
                axes.annotate(
                    name,
                    (value, 1),
                    xycoords=("data", "axes fraction"),
                    xytext=(0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=points(7),
                )
        scale_said = f"{scale} scale; " if scale != "linear" else ""
        axes.set(xscale=scale, xlabel=f"{unit} ({scale_said}dots: seeds, diamond and bar: mean and 95 % interval)")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return figure


def forest(rows: pd.DataFrame, unit: str, groups: str | None = None) -> Figure:
    """Differences with their intervals, one row each, from the columns name, estimate, low, high and maybe method.

    `groups` is a column by which rows are set apart with a heading; zero, no difference, is a line.
    """
    blocks = [("", rows)] if groups is None else list(rows.groupby(groups, sort=False))
    lines = len(rows) + (len(blocks) if groups else 0)
    with house_style():
        figure, (axes,) = new_figure(1, 1, 0.7 + 0.2 * lines)
        ticks: list[tuple[int, str]] = []
        height = 0
        for title, block in blocks:
            if groups:
                axes.text(0, height, f" {title}", transform=axes.get_yaxis_transform(), va="center", weight="bold")
                height += 1
            for row in block.to_dict("records"):
                colour = PALETTE.get(row.get("method", ""), "#333333")
                axes.plot([row["low"], row["high"]], [height] * 2, color=colour, linewidth=2)
                axes.plot(row["estimate"], height, "D", color=colour, markersize=4)
                ticks.append((height, str(row["name"])))
                height += 1
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set_yticks([place for place, _ in ticks], [name for _, name in ticks])
        axes.set(ylim=(height - 0.5, -0.5), xlabel=unit)
    return figure


def publish(
    figure: Figure, name: str, width: Literal["column", "text"] = "text", table: pd.DataFrame | None = None
) -> Figure:
    """Mark a figure, and the table beside it, for papers: `anm-nb figures` writes it by this name; returns the figure.

    `width` is that of one "column" or of the "text". Raises `ParameterError` for another width, and for a name that is
    no plain file name.
    """
    if width not in ("column", "text"):
        raise ParameterError(f"width = {width!r}: 'column' or 'text'")
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name, re.ASCII):
        raise ParameterError(f"name = {name!r}: letters, digits, _ and - only, as it names files")
    if folder := os.environ.get(FIGURES):
        write(figure, name, width, table, Path(folder))
    return figure
