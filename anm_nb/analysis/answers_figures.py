"""Figures of the answers over all experiments: tables of `overview.differences` in, Figure out."""

from __future__ import annotations

from textwrap import fill

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, SymmetricalLogLocator

from anm_nb.analysis import anm_verdict
from anm_nb.analysis.anm_verdict_figures import forest
from anm_nb.analysis.answers import mining_comparisons
from anm_nb.analysis.collecting import Collection
from anm_nb.analysis.experiment import metric_text
from anm_nb.analysis.figures import colours, house_style, label, new_figure
from anm_nb.analysis.overview import differences
from anm_nb.analysis.style import points

NAME_WIDTH, TITLE_WIDTH = 36, 14  # characters of a row's name, and of a panel's, in one line
LINEAR_TO = 10  # %; beyond, differences go into the thousands
ROOM_COLOUR = "#e8e8e8"
NOTHING = "no runs of this kind"


def mining_figure(collection: Collection) -> Figure:
    """The effect of mining: `forest` of the kept study, where it is read; else of every mined run."""
    if collection.study:
        return forest(anm_verdict.comparisons(collection.study.confirmed))
    effects = differences(mining_comparisons(collection.experiments))
    return effect_panels(effects, "difference of the error, %", "left of zero: mining is better", LINEAR_TO)


def effect_panels(effects: pd.DataFrame, unit: str, better: str, linear_to: float | None = None) -> Figure:
    """Paired differences with 95 % intervals: a row for each experiment and metric, a panel for each `part`.

    Grey is the room up to the best possible value, beyond which no difference can lie; hollow where both methods sit at
    the ceiling. `unit` and `better` (which side is the better one) say what the axes hold; beyond ±`linear_to` they are
    logarithmic. Variants of a method share its colour.
    """
    if effects.empty:
        return _empty()
    rows = list(effects[["experiment", "metric"]].drop_duplicates().itertuples(index=False, name=None))
    parts = list(effects["part"].unique())
    kinds = effects["method"].str.partition(", ")[0]
    colour_of = colours(list(kinds.unique()))
    names = _row_names(rows)
    height = 0.12 * max(name.count("\n") + 1 for name in names) + 0.1
    with house_style():
        figure, panels = new_figure(1, len(parts), 1.0 + height * len(rows), sharex=True, sharey=True)
        for axes, part in zip(panels, parts, strict=True):
            chosen = effects["part"] == part
            _panel(axes, effects[chosen].assign(colour=kinds[chosen].map(colour_of)), rows)
            axes.set_title(fill(str(part), TITLE_WIDTH))
        if linear_to is not None:
            panels[0].set_xscale("symlog", linthresh=linear_to)
            panels[0].xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear_to))
        panels[0].set_yticks(range(len(rows)), names, fontsize=points(6.5))
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        figure.supxlabel(f"{unit} ({better}; 95 % interval over seeds)", size=8)
        handles = [axes.plot([], [], "o", color=colour, label=label(method))[0] for method, colour in colour_of.items()]
        room = [Patch(color=ROOM_COLOUR, label="left to gain")] if effects["room"].notna().any() else []
        figure.legend(handles=[*handles, *room], loc="outside upper center", ncols=4)
    return figure


def _row_names(rows: list[tuple[str, str]]) -> list[str]:
    """Experiments, and in lines below them what sets each apart and, where there are several, the metric."""
    several = len({metric for _, metric in rows}) > 1
    names = []
    for name, metric in rows:
        first, _, rest = name.partition(", ")
        below = [part for part in (rest, metric_text(metric) if several else "") if part]
        names.append("\n".join([fill(first, NAME_WIDTH), *([fill("; ".join(below), NAME_WIDTH)] if below else [])]))
    return names


def _panel(axes: Axes, effects: pd.DataFrame, rows: list[tuple[str, str]]) -> None:
    axes.axvline(0, color="black", linewidth=0.7)
    for place, several in effects.groupby([effects["experiment"], effects["metric"]], sort=False):
        height, count = rows.index(place), len(several)  # type: ignore[arg-type]
        for index, row in enumerate(several.to_dict("records")):
            if row["room"] == row["room"]:
                axes.barh(height, row["room"], 0.7, color=ROOM_COLOUR, zorder=0)
            middle, colour = row["difference"], row["colour"]
            reach = [[middle - row["low"]], [row["high"] - middle]]
            face = "white" if row["decided"] == "no headroom" else colour
            at = height + 0.6 * ((index + 0.5) / count - 0.5)
            axes.errorbar(middle, at, xerr=reach, fmt="o", color=colour, markerfacecolor=face, markersize=4)
    axes.xaxis.set_major_locator(MaxNLocator(2))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", linewidth=0.3, color="#dddddd")


def _empty() -> Figure:
    with house_style():
        figure, (axes,) = new_figure(1, 1, 0.5)
        axes.set_axis_off()
        axes.text(0.5, 0.5, NOTHING, ha="center", va="center")
    return figure
