"""Figures of the verdict on mined negatives: tables of `anm_nb.analysis.anm_verdict` in, Figure out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from anm_nb.analysis.anm_verdict import COMPARED, TRAINING_LABELS, compared_label
from anm_nb.analysis.figures import PALETTE, house_style, new_figure
from anm_nb.analysis.style import points

FAMILY_LABELS = {"none": "no negatives", "stock": "stock", "anm": "mined"}
FILLED = {"unlimited": True, "fixed": False}


def forest(comparisons: pd.DataFrame) -> Figure:
    """Every comparison with its 95 % interval, a panel a task; left of zero the mined negatives are better.

    Colours are the comparators'; filled with fresh problems, open with a fixed set. The axis is linear near zero and
    logarithmic beyond ±10 %, as some differences are of hundreds of per cent.
    """
    tasks = list(comparisons["task"].unique())
    rows = [compared_label(*names) for names in COMPARED]
    with house_style():
        figure, panels = new_figure(1, len(tasks), 2.9, sharey=True)
        for axes, task in zip(panels, tasks, strict=True):
            _forest_panel(axes, comparisons[comparisons["task"] == task], rows)
            axes.set_title(task)
        panels[0].set_yticks(range(len(rows)), rows)
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        for training, filled in FILLED.items():
            face = "black" if filled else "white"
            style = {"color": "black", "markerfacecolor": face, "markersize": 4}
            panels[0].plot([], [], "o", label=TRAINING_LABELS[training], **style)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        figure.supxlabel(
            "difference of test error, % of the comparator's (95 % interval; below zero: mining is better)",
            size=points(8),
        )
    return figure


def _forest_panel(axes: Axes, comparisons: pd.DataFrame, rows: list[str]) -> None:
    for row in comparisons.to_dict("records"):
        filled = FILLED[row["training"]]
        height = rows.index(compared_label(row["equal"], row["method"], row["against"])) + (-0.15 if filled else 0.15)
        colour = PALETTE[row["against"].split("_")[0]]
        middle = row["difference"]
        reach = [[middle - row["low"]], [row["high"] - middle]]
        face = colour if filled else "white"
        axes.errorbar(middle, height, xerr=reach, fmt="o", color=colour, markerfacecolor=face, markersize=4)
    axes.axvline(0, color="black", linewidth=0.7)
    axes.set_xscale("symlog", linthresh=10)
    bound = 1.2 * max(10.0, float(np.nanmax(np.abs(comparisons[["low", "high"]].to_numpy()))))
    axes.set_xlim(-bound, bound)
    powers = 10 ** np.arange(1, np.ceil(np.log10(bound)))
    shown = powers[:: max(1, len(powers) - 1)]  # at most two a side find room
    axes.set_xticks([*-shown[::-1], 0, *shown])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+.0f}" if value else "0")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelsize=points(6.5))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", linewidth=0.3, color="#dddddd")


def tuning_strip(tuning: pd.DataFrame) -> Figure:
    """Dev error of every candidate with fresh problems, by family: the sifting seed alone, and the best few's means.

    Dots: candidates on the first tuning seed. Diamonds: means over all tuning seeds of those that went on.
    """
    tuning = tuning[(tuning["training"] == "unlimited") & np.isfinite(tuning["dev_error"])]
    tasks = list(tuning["task"].unique())
    families = list(dict.fromkeys(tuning["family"]))
    with house_style():
        figure, panels = new_figure(1, len(tasks), 1.9, sharey=True)
        for axes, task in zip(panels, tasks, strict=True):
            for height, family in enumerate(families):
                _tuning_row(axes, tuning[(tuning["task"] == task) & (tuning["family"] == family)], height, family)
            axes.set(xscale="log", title=task, xlabel="dev error (log scale)")
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_locator(NullLocator())
        panels[0].set_yticks(range(len(families)), [FAMILY_LABELS[family] for family in families])
        panels[0].set_ylim(len(families) - 0.5, -0.5)
    return figure


def _tuning_row(axes: Axes, rows: pd.DataFrame, height: int, family: str) -> None:
    first = rows[rows["seed"] == rows["seed"].iloc[0]]
    colour = PALETTE[family]
    axes.plot(first["dev_error"], np.full(len(first), height), "o", color=colour, alpha=0.45, markersize=3.5)
    by_candidate = rows.groupby("candidate")["dev_error"]
    means = by_candidate.mean()[by_candidate.count() == rows["seed"].nunique()]
    axes.plot(means, np.full(len(means), height + 0.22), "D", color=colour, markersize=4)
    axes.grid(axis="y", linewidth=0.3, color="#dddddd")
