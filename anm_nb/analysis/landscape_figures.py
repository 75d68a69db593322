"""Figures of the energy's shape around the truth (ANM checklist, section E): tables in, Figure out, in the house style.

The tables are those of `anm_nb.studies.landscape_study`, of several runs together; the perfect denoiser is the method
"optimal". Energies are in nats. Every function raises `ParameterError` for a table without rows or a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anm_nb.analysis.figures import (
    LINE_STYLES,
    PALETTE,
    colours,
    house_style,
    interval_line,
    label,
    new_figure,
    require_columns,
)
from anm_nb.config import ParameterError

TREND_TITLES = {
    "barrier": "barrier\nmax φ(t) − φ(0), nats",
    "curvature_per_length": "curvature at the truth\nuᵀ∇²E u, nats per unit² of ỹ",
    "dir_derivative": "slope towards the negative\n∇E·u, nats per unit of ỹ",
}


def line_scans(profiles: pd.DataFrame) -> Figure:
    """φ(t) − φ(0) on the way from the truth (t = 0) to the negative (t = 1), a panel for each noise level.

    Columns method, seed, level, t and value, which is φ(t) − φ(0). Lines are means over seeds, bands their 95 %
    t-intervals, and each panel has a scale of its own, as energies differ between levels by orders of magnitude.
    """
    require_columns(profiles, "method", "seed", "level", "t", "value")
    levels, methods = sorted(profiles["level"].unique()), list(profiles["method"].unique())
    with house_style():
        figure, panels = _small_multiples(len(levels), at_most=4, each=1.55)
        for axes, level in zip(panels, levels, strict=True):
            _mark_ends(axes, profiles)
            _intervals(axes, profiles[profiles["level"] == level], methods, "t", "value")
            axes.set_title(f"noise level k = {level}")
        _label_outer(panels, "t, place on the line", "φ(t) − φ(0), nats")
        _legend_below(figure, panels[0])
    return figure


def scans_over_training(profiles: pd.DataFrame) -> Figure:
    """φ(t) − φ(0) of each method as training goes on, from light (first step) to dark (last), a panel for each method.

    Columns method, seed, step, t and value, averaged over whatever else the rows differ in; hand over the rows of one
    noise level and one direction. Lines are means over seeds. The dotted line is the perfect denoiser's, "optimal".
    """
    require_columns(profiles, "method", "seed", "step", "t", "value")
    methods = [method for method in profiles["method"].unique() if method != "optimal"]
    steps = sorted(profiles["step"].unique())
    shades = mpl.colormaps["viridis_r"](np.linspace(0.1, 1, len(steps)))
    means = profiles.groupby(["method", "step", "t"])["value"].mean()
    with house_style():
        figure, panels = _small_multiples(len(methods), at_most=3, each=1.55, sharey=True)
        for axes, method in zip(panels, methods, strict=True):
            _mark_ends(axes, profiles)
            for step, shade in zip(steps, shades, strict=True):
                line = means[method, step]
                axes.plot(line.index, line, color=shade, label=f"step {step}")
            if "optimal" in means.index:
                line = means["optimal", steps[-1]]
                axes.plot(line.index, line, color=PALETTE["optimal"], label=label("optimal"), **LINE_STYLES["optimal"])
            axes.set_title(label(method))
        _label_outer(panels, "t, place on the line", "φ(t) − φ(0), nats")
        _legend_below(figure, panels[0])
    return figure


def landscape_trends(frame: pd.DataFrame) -> Figure:
    """Barrier, curvature and directional derivative against the training step: do they rise, as section E hopes?

    Columns method, seed, step, level, barrier, curvature_per_length and dir_derivative; a row of panels for each noise
    level, each panel with a scale of its own. Rows that differ in anything else (examples) are averaged within a seed
    first. Lines are means over seeds, bands their 95 % t-intervals.
    """
    require_columns(frame, "method", "seed", "step", "level", *TREND_TITLES)
    keys = ["level", "method", "seed", "step"]
    by_seed = frame.groupby(keys, sort=False)[list(TREND_TITLES)].mean().reset_index()
    methods, levels = list(frame["method"].unique()), sorted(frame["level"].unique())
    with house_style():
        figure, grid = new_figure(len(levels), 3, 0.85 + 1.65 * len(levels), squeeze=False, sharex=True)
        for row, level in zip(grid, levels, strict=True):
            for axes, column in zip(row, TREND_TITLES, strict=True):
                axes.axhline(0, color="black", linewidth=0.6)
                _intervals(axes, by_seed[by_seed["level"] == level], methods, "step", column)
                axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
                axes.yaxis.set_major_locator(MaxNLocator(4))
            if len(levels) > 1:
                row[0].set_ylabel(f"noise level k = {level}")
        for top, bottom, title in zip(grid[0], grid[-1], TREND_TITLES.values(), strict=True):
            top.set_title(title)
            bottom.set_xlabel("training step")
        _legend_below(figure, grid[0, 0])
    return figure


def plane_slices(slices: pd.DataFrame) -> Figure:
    """E − E(truth) over the plane of the mined (s) and a random direction (t), a panel for each method.

    Columns method, s, t and value, the energy, which is averaged over whatever else the rows differ in. All panels
    share one colour scale; the black line is at the truth's own energy. Raises `ParameterError` where a method has no
    row for the truth, s = t = 0.
    """
    require_columns(slices, "method", "s", "t", "value")
    methods = list(slices["method"].unique())
    rises = {method: _above_truth(slices, method) for method in methods}
    extremes = np.concatenate([rise.ravel() for _, _, rise in rises.values()])
    steps = MaxNLocator(24).tick_values(extremes.min(), extremes.max())
    with house_style():
        figure, panels = _small_multiples(len(methods), at_most=3, each=2.0, sharey=True)
        for axes, method in zip(panels, methods, strict=True):
            s, t, rise = rises[method]
            filled = axes.contourf(s, t, rise, levels=steps, cmap="cividis")
            if rise.min() < 0 < rise.max():
                axes.contour(s, t, rise, levels=[0.0], colors="black", linewidths=0.8)
            marks: dict[str, Any] = {"linestyle": "", "color": "white", "markeredgecolor": "black", "markersize": 6}
            axes.plot(0, 0, "o", label="truth", clip_on=False, **marks)
            axes.plot(1, 0, "X", label="negative", clip_on=False, **marks)
            axes.set(title=label(method), aspect="equal")
        _label_outer(panels, "s, mined direction\n(1 = distance of the negative)", "t, random direction")
        figure.set_layout_engine("compressed")  # made for panels of a fixed aspect
        figure.colorbar(filled, ax=list(panels), label="E − E(truth), nats", fraction=0.05)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _above_truth(slices: pd.DataFrame, method: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """s [S], t [T] and E − E(truth) [T, S] of one method."""
    rows = slices[slices["method"] == method]
    grid = rows.pivot_table(index="t", columns="s", values="value")
    s, t, energy = grid.columns.to_numpy(float), grid.index.to_numpy(float), grid.to_numpy(float)
    if 0 not in s or 0 not in t:
        raise ParameterError(f"slices of '{method}': no row has s = 0 and t = 0, where the truth lies")
    return s, t, energy - energy[t == 0, s == 0]


def _intervals(axes: Axes, rows: pd.DataFrame, methods: Sequence[str], x: str, y: str) -> None:
    """An `interval_line` for each method."""
    for method, colour in colours(methods).items():
        interval_line(axes, rows[rows["method"] == method], x, y, method, colour)


def _mark_ends(axes: Axes, profiles: pd.DataFrame) -> None:
    """Where truth and negative lie on the line, and the truth's own energy."""
    for place in (0, 1):
        axes.axvline(place, color="black", linewidth=0.6, linestyle=(0, (4, 3)))
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xticks([-0.5, 0, 0.5, 1, 1.5], ["−0.5", "0\ntruth", "0.5", "1\nnegative", "1.5"])
    axes.set_xlim(profiles["t"].min(), profiles["t"].max())
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _legend_below(figure: Figure, axes: Axes) -> None:
    """The legend of one panel for all, below them in rows of like length."""
    handles, names = axes.get_legend_handles_labels()
    rows = -(-len(names) // 5)
    figure.legend(handles, names, loc="outside lower center", ncols=-(-len(names) // rows) if rows else 1)


def _small_multiples(count: int, at_most: int, each: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """As many panels as asked for, in rows of at most so many, each so many inches high; what is left over is off."""
    rows = -(-count // at_most)
    columns = -(-count // rows)
    figure, grid = new_figure(rows, columns, 0.85 + each * rows, squeeze=False, **options)
    for spare in grid.flat[count:]:
        spare.set_axis_off()
    return figure, grid.flat[:count]


def _label_outer(panels: np.ndarray, x: str, y: str) -> None:
    """Labels along the left, and below every panel that has none beneath it."""
    columns = panels[0].get_gridspec().ncols
    for place, axes in enumerate(panels):
        if place % columns == 0:
            axes.set_ylabel(y)
        if place + columns >= len(panels):
            axes.set_xlabel(x)
