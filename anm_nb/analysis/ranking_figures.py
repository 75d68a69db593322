"""Figures of the ranking family: tables in, Figure out, in the house style of `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anm_nb.analysis.figures import PALETTE, colours, house_style, interval_line, label, legend_below, new_figure
from anm_nb.analysis.ranking_tables import BANDS, SPACES, Probe
from anm_nb.analysis.stats import mean_interval
from anm_nb.analysis.style import NOTEBOOK, figure_width, points
from anm_nb.analysis.tiers import Space

DASHED = (0, (4, 3))
TAU_TITLES: dict[str, Space] = {"tau_obs": "observed pairs", "tau_all": "all pairs", "tau_index": "index space"}


def shades(methods: Sequence[str]) -> dict[str, str]:
    """House colours for named models; for the values of a sweep, shades from light to dark in their order."""
    if set(methods) <= set(PALETTE):
        return colours(methods)
    values = [method for method in methods if method not in PALETTE]
    ramp = mpl.colormaps["YlOrBr"](np.linspace(0.35, 0.95, len(values)))
    return {**colours([m for m in methods if m in PALETTE]), **dict(zip(values, map(to_hex, ramp), strict=True))}


def _reference_line(axes: Axes, value: float, text: str) -> None:
    axes.axhline(value, color="black", linewidth=0.7, linestyle=DASHED, zorder=1)
    axes.annotate(
        text,
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=points(6.5),
    )


def _reference_lines(axes: Axes, references: pd.DataFrame, metric: str) -> None:
    """The ceiling of a metric and its best trivial score."""
    rows = references[references["metric"] == metric]
    for ceiling in rows.loc[rows["kind"] == "ceiling", "value"]:
        _reference_line(axes, float(ceiling), "ceiling")
    trivial = rows[rows["kind"] == "trivial"]
    best = trivial.iloc[int(trivial["value"].argmax())]
    _reference_line(axes, float(best["value"]), str(best["name"]))


def tau_waterfall(spaces: pd.DataFrame, references: pd.DataFrame) -> Figure:
    """τ of the same predictions in three spaces: mean, 95 % interval and seeds, a colour for each model.

    The line over each space is its exact ceiling; in index space, where none is known, what the best ranking scores.
    """
    methods = list(spaces["method"].unique())
    with house_style():
        figure, ((axes,),) = new_figure(1, 1, 2.9, squeeze=False)
        for place, (space, metric) in enumerate(SPACES.items()):
            known = references[references["metric"] == metric].set_index("kind")["value"]
            exact = "ceiling" in known.index
            line = float(known["ceiling" if exact else "classical"])
            axes.plot([place - 0.3, place + 0.52], [line, line], color="black", linewidth=0.8, linestyle=DASHED)
            text = f"ceiling {line:.2f}" if exact else f"best ranking {line:.2f}"
            if figure_width() < NOTEBOOK.width / 2:  # no room for a line between the bars of a column
                text = text.replace(" ", "\n")
            axes.text(place + 0.25, line + 0.01, text, fontsize=points(7), va="bottom")
            for index, method in enumerate(methods):
                taus = spaces.loc[(spaces["space"] == space) & (spaces["method"] == method), "tau"]
                x = place + 0.16 * (index - (len(methods) - 1) / 2)
                mean, low, high = mean_interval(taus)
                colour = colours(methods)[method]
                axes.bar(x, mean, 0.13, color=colour, alpha=0.75, label=label(method) if place == 0 else None)
                axes.plot([x, x], [low, high], color="black", linewidth=0.9)
                axes.plot(np.full(len(taus), x), taus, "o", color="white", markeredgecolor="black", markersize=3)
        axes.set_xticks(
            range(len(SPACES)), ["index space\n(as published)", "ranks, all pairs", "ranks, observed pairs"]
        )
        axes.set(ylabel="Kendall τ on test", ylim=(min(0.0, float(spaces["tau"].min())), 1.12))
        legend_below(figure, axes, at_most=len(methods))
    return figure


def tau_against_iteration(by_iteration: pd.DataFrame, references: pd.DataFrame) -> Figure:
    """τ on test of the ranking after each iteration, over observed and over all pairs, beside the ceilings."""
    methods = list(by_iteration["method"].unique())
    with house_style():
        figure, (row,) = new_figure(1, 2, 2.6, squeeze=False)
        for axes, metric in zip(row, ("tau_obs", "tau_all"), strict=True):
            for method, colour in shades(methods).items():
                rows = by_iteration[by_iteration["method"] == method]
                interval_line(axes, rows, "iteration", metric, method, colour, dots=True)
            kinds = references[references["metric"] == metric].set_index("kind")["value"]
            ceiling = float(kinds["ceiling"])
            _reference_line(axes, ceiling, "ceiling")
            # by the means: intervals of few seeds would squeeze the curves, a model at the ceiling would fill the axis
            lowest = min(float(by_iteration.groupby(["method", "iteration"])[metric].mean().min()), 0.7 * ceiling)
            axes.set(title=TAU_TITLES[metric], xlabel="iteration (1 = first)")
            axes.set_ylim(lowest - 0.02, ceiling + 0.15 * (ceiling - lowest) + 0.02)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        row[0].set_ylabel("Kendall τ on test")
        legend_below(figure, row[0], at_most=min(len(methods), 3))
    return figure


def tau_curves(metrics: pd.DataFrame, references: pd.DataFrame) -> Figure:
    """τ on dev against the epoch, over observed and over all pairs, beside ceiling and best trivial score."""
    methods = list(metrics["method"].unique())
    with house_style():
        figure, (row,) = new_figure(1, 2, 2.6, sharey=True, squeeze=False)
        for axes, metric in zip(row, ("tau_obs", "tau_all"), strict=True):
            for method, colour in shades(methods).items():
                interval_line(axes, metrics[metrics["method"] == method], "epoch", metric, method, colour, dots=True)
            _reference_lines(axes, references, metric)
            axes.set(title=TAU_TITLES[metric], xlabel="epochs trained")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        row[0].set(ylabel="Kendall τ on dev", ylim=(-0.15, 1.12))
        legend_below(figure, row[0], at_most=min(len(methods), 3))
    return figure


ROUTING_TITLES = {
    "entropy": "mean routing entropy, nats",
    "herfindahl": "Herfindahl index Σα²",
    "max_alpha": "largest α, mean over tokens",
}


def routing_curves(metrics: pd.DataFrame, n_heads: int) -> Figure:
    """Routing entropy, Herfindahl index and largest α over epochs; the document's healthy bands are shaded.

    The dotted line is uniform routing over the heads.
    """
    routed = [method for method in metrics["method"].unique() if "baseline" not in method]
    uniform = {"entropy": np.log(n_heads), "herfindahl": 1 / n_heads, "max_alpha": 1 / n_heads}
    with house_style():
        figure, (row,) = new_figure(1, 3, 2.4, squeeze=False)
        for axes, (quantity, title) in zip(row, ROUTING_TITLES.items(), strict=True):
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
        place = row[0].get_yaxis_transform()
        row[0].text(0.98, 1.95, "healthy band", transform=place, ha="right", va="top", fontsize=points(6.5))
        legend_below(figure, row[0], at_most=min(len(routed), 4))
    return figure


def routing_heatmaps(probes: Mapping[str, Probe], at_most: int = 4) -> Figure:
    """α of one dev problem, a row of panels for each model: items × heads, after up to `at_most` of its iterations.

    Items are in true order, the visible ones above the white line; the colour scale is the same everywhere.
    """
    top = max(float(each.alphas.max()) for each in probes.values())
    shown = min(at_most, max(len(each.alphas) for each in probes.values()))
    with house_style():
        figure, grid = new_figure(len(probes), shown, 0.5 + 1.6 * len(probes), squeeze=False)
        for row, (method, each) in zip(grid, probes.items(), strict=True):
            chosen = np.unique(np.linspace(0, len(each.alphas) - 1, shown).round().astype(int))
            for axes in row[len(chosen) :]:
                axes.set_axis_off()
            for axes, iteration in zip(row, chosen, strict=False):
                picture = axes.imshow(each.alphas[iteration], aspect="auto", cmap="cividis", vmin=0, vmax=top)
                axes.axhline(each.known.sum() - 0.5, color="white", linewidth=1)
                axes.set_title(f"iteration {iteration + 1}")
                axes.set_xticks(range(each.alphas.shape[2]), [str(h + 1) for h in range(each.alphas.shape[2])])
                axes.set_yticks([])
            row[0].set_ylabel(f"{label(method)}\nhidden | visible items", fontsize=points(7))
        for axes in grid[-1]:
            axes.set_xlabel("head")
        figure.colorbar(picture, ax=grid[:, -1], label="routing weight α", fraction=0.08)
    return figure


def fix_effect_intervals(effects: pd.DataFrame) -> Figure:
    """What each fix does to τ on test, added alone and removed alone: mean paired difference and its 95 % interval."""
    fixes = list(effects["fix"].unique())
    marks = {"tau_obs": ("o", PALETTE["baseline"], -0.13), "tau_all": ("s", PALETTE["hrm"], 0.13)}
    titles = {"added": "added alone to the published set-up", "removed": "in the full set-up: with it − without it"}
    with house_style():
        figure, (row,) = new_figure(1, 2, 0.9 + 0.3 * len(fixes), sharey=True, sharex=True, squeeze=False)
        for axes, (how, title) in zip(row, titles.items(), strict=True):
            axes.axvline(0, color="black", linewidth=0.7)
            for metric, (marker, colour, shift) in marks.items():
                rows = effects[(effects["how"] == how) & (effects["metric"] == metric)].set_index("fix").loc[fixes]
                y = np.arange(len(fixes)) + shift
                axes.hlines(y, rows["low"], rows["high"], color=colour, linewidth=1.6)
                axes.plot(rows["estimate"], y, marker, color=colour, markersize=4, label=TAU_TITLES[metric])
            axes.set(title=title, xlabel="change of Kendall τ on test")
        row[0].set_yticks(range(len(fixes)), fixes)
        row[0].invert_yaxis()
        legend_below(figure, row[0], at_most=2)
    return figure
