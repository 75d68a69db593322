"""Figures that notebooks 20 to 24 share: τ against epoch or iteration, routing against the epoch, and α."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anm_nb.analysis.plots import interval_line, legend_below
from anm_nb.analysis.ranking import BANDS, SPACES, ceiling_of, probe
from anm_nb.analysis.style import PALETTE, colours, house_style, label, new_figure, points
from anm_nb.store import Run

TITLES = {metric: space for space, metric in SPACES.items()}
ROUTING_TITLES = {
    "entropy": "mean routing entropy, nats",
    "herfindahl": "Herfindahl index Σα²",
    "max_alpha": "largest α, mean over tokens",
}


def shades(methods: Sequence[str]) -> dict[str, str]:
    """House colours for named models; for the values of a sweep, shades from light to dark in their order."""
    if set(methods) <= set(PALETTE):
        return colours(methods)
    values = [method for method in methods if method not in PALETTE]
    ramp = mpl.colormaps["YlOrBr"](np.linspace(0.35, 0.95, len(values)))
    return {**colours([m for m in methods if m in PALETTE]), **dict(zip(values, map(to_hex, ramp), strict=True))}


def reference_line(axes: Axes, value: float, text: str) -> None:
    """A dashed line at a value, named at its right end."""
    axes.axhline(value, color="black", linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (0, 2), "textcoords": "offset points"}
    axes.annotate(text, (1, value), ha="right", va="bottom", fontsize=points(6.5), **place)


def tau_lines(table: pd.DataFrame, references: pd.DataFrame, x: str, unit: str) -> Figure:
    """τ over observed and over all pairs against x (a column, named `unit`) for each method, beside the ceilings.

    Means over seeds with 95 % intervals, on axes scaled to the means.
    """
    methods = list(table["method"].unique())
    with house_style():
        figure, panels = new_figure(1, 2, 2.6)
        for axes, metric in zip(panels, ("tau_obs", "tau_all"), strict=True):
            for method, colour in shades(methods).items():
                interval_line(axes, table[table["method"] == method], x, metric, method, colour, dots=True)
            ceiling = ceiling_of(references, metric)
            reference_line(axes, ceiling, "ceiling")
            # intervals of few seeds would squeeze the curves, and a model at the ceiling would fill the axis
            lowest = min(float(table.groupby(["method", x])[metric].mean().min()), 0.7 * ceiling)
            axes.set(title=TITLES[metric], xlabel=unit)
            axes.set_ylim(lowest - 0.02, ceiling + 0.15 * (ceiling - lowest) + 0.02)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panels[0].set_ylabel("Kendall τ")
        legend_below(figure, panels[0], at_most=min(len(methods), 3))
    return figure


def routing_curves(metrics: pd.DataFrame, n_heads: int) -> Figure:
    """Routing entropy, Herfindahl index and largest α over epochs; the document's healthy bands are shaded.

    The dotted line is uniform routing over the heads.
    """
    routed = [method for method in metrics["method"].unique() if "baseline" not in method]
    uniform = {"entropy": np.log(n_heads), "herfindahl": 1 / n_heads, "max_alpha": 1 / n_heads}
    with house_style():
        figure, panels = new_figure(1, 3, 2.4)
        for axes, (quantity, title) in zip(panels, ROUTING_TITLES.items(), strict=True):
            low, high = BANDS[quantity]
            axes.axhspan(max(low, 0.0), high, color="black", alpha=0.06, linewidth=0)
            axes.axhline(uniform[quantity], color="black", linewidth=0.8, linestyle=":")
            away = "bottom" if quantity == "entropy" else "top"  # of the curves: uniform routing is one of the extremes
            place = axes.get_yaxis_transform()
            axes.text(0.02, uniform[quantity], "uniform", transform=place, fontsize=points(6.5), va=away)
            for method, colour in shades(routed).items():
                interval_line(axes, metrics[metrics["method"] == method], "epoch", quantity, method, colour, dots=True)
            axes.set(title=title, xlabel="epochs trained", ylim=(0, 2.1 if quantity == "entropy" else 1.0))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        place = panels[0].get_yaxis_transform()
        panels[0].text(0.98, 1.95, "healthy band", transform=place, ha="right", va="top", fontsize=points(6.5))
        legend_below(figure, panels[0], at_most=min(len(routed), 4))
    return figure


def routing_heatmaps(runs: Mapping[str, Run], at_most: int = 4) -> Figure:
    """α of one dev problem, a row of panels for each model: items × heads, after up to `at_most` of its iterations.

    Items are in true order, the visible ones above the white line; the colour scale is the same everywhere.
    """
    probes = {method: probe(run) for method, run in runs.items()}
    top = max(float(alphas.max()) for alphas, _, _ in probes.values())
    shown = min(at_most, max(len(alphas) for alphas, _, _ in probes.values()))
    with house_style():
        figure, grid = new_figure(len(probes), shown, 0.5 + 1.6 * len(probes), squeeze=False)
        for row, (method, (alphas, _, known)) in zip(grid, probes.items(), strict=True):
            chosen = np.unique(np.linspace(0, len(alphas) - 1, shown).round().astype(int))
            for axes in row[len(chosen) :]:
                axes.set_axis_off()
            for axes, iteration in zip(row, chosen, strict=False):
                picture = axes.imshow(alphas[iteration], aspect="auto", cmap="cividis", vmin=0, vmax=top)
                axes.axhline(known.sum() - 0.5, color="white", linewidth=1)
                axes.set_title(f"iteration {iteration + 1}")
                axes.set_xticks(range(alphas.shape[2]), [str(head + 1) for head in range(alphas.shape[2])])
                axes.set_yticks([])
            row[0].set_ylabel(f"{label(method)}\nhidden | visible items", fontsize=points(7))
        for axes in grid[-1]:
            axes.set_xlabel("head")
        figure.colorbar(picture, ax=grid[:, -1], label="routing weight α", fraction=0.08)
    return figure
