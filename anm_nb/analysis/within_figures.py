"""Figures of the within-run comparison (ANM checklist, section F): tables of effects in, Figure out.

Tables are those of `anm_nb.analysis.within_run.effects`, by the name of the comparison's mined kind. Lines are means
over seeds, bands their 95 % t-intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from anm_nb.analysis.figures import colours, house_style, label, new_figure
from anm_nb.analysis.stats import mean_interval
from anm_nb.analysis.within_run import MIXED, NO_NEGATIVES, beyond

BEFORE = {"margin": "margin before the update\nE⁻ − E⁺, nats", "illegitimate_fraction": "illegitimate share\n(m* < 0)"}
ON_PAIRS = {"delta_margin": "Δm, nats", "delta_loss_con": "ΔL, nats"}
ELSEWHERE = {
    "update_norm": "length of the update\n‖Δθ‖",
    "delta_dev_margin": "Δ held-out margin, nats",
    "dev_per_norm": "the same per unit\nof length",
    "delta_loss_mse": "Δ denoising loss",
}


def before_the_update(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Margins and legitimacy of both kinds of pairs before each update; a column for each comparison."""
    with house_style():
        figure, grid = new_figure(len(BEFORE), len(tables), 3.4, sharex=True, sharey="row", squeeze=False)
        for column, (miner, table) in enumerate(tables.items()):
            shown = table[table["update"] == MIXED]
            for axes, name in zip(grid[:, column], BEFORE, strict=True):
                _curves(axes, shown, name, by="pairs")
            grid[0, column].set_title(f"batches half {label(miner)}")
            grid[0, column].set_yscale("symlog", linthresh=1)
            grid[0, column].yaxis.set_minor_formatter(NullFormatter())
            grid[1, column].set(ylim=(-0.03, 1.03), xlabel="training step")
        for axes, title in zip(grid[:, 0], BEFORE.values(), strict=True):
            axes.set_ylabel(title)
        _legend(figure, grid)
    return figure


def on_the_pairs(table: pd.DataFrame, beyond_denoising: bool = False) -> Figure:
    """Δm and ΔL of the pairs of each kind (colours) by each update (columns) from the same weights.

    `beyond_denoising` takes away what the update with denoising alone does to the same pairs.
    """
    shown = beyond(table, NO_NEGATIVES, ON_PAIRS) if beyond_denoising else table
    updates = list(shown["update"].unique())
    with house_style():
        figure, grid = new_figure(len(ON_PAIRS), len(updates), 3.4, sharex=True, sharey="row")
        for row, (name, title) in zip(grid, ON_PAIRS.items(), strict=True):
            for axes, update in zip(row, updates, strict=True):
                axes.axhline(0, color="black", linewidth=0.6)
                _curves(axes, shown[shown["update"] == update], name, by="pairs")
            row[0].set_ylabel(f"{title}, beyond\ndenoising alone" if beyond_denoising else title)
        for axes, update in zip(grid[0], updates, strict=True):
            axes.set_title(_update(update))
        for axes in grid[-1]:
            axes.set_xlabel("training step")
        _legend(figure, grid)
    return figure


def elsewhere(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Each update's length, and what it does to held-out margins and the denoising loss; a row for each comparison."""
    with house_style():
        figure, grid = new_figure(len(tables), len(ELSEWHERE), 0.5 + 1.6 * len(tables), sharex=True, squeeze=False)
        for row, (miner, table) in zip(grid, tables.items(), strict=True):
            shown = table[table["pairs"] == miner]  # what is not of pairs is the same for both kinds
            shown = shown.assign(dev_per_norm=shown["delta_dev_margin"] / shown["update_norm"])
            for axes, name in zip(row, ELSEWHERE, strict=True):
                if name != "update_norm":
                    axes.axhline(0, color="black", linewidth=0.6)
                _curves(axes, shown, name, by="update")
            row[0].set_ylabel(f"{label(miner)}\nagainst {label(_other(table, miner))}")
        for axes, title in zip(grid[0], ELSEWHERE.values(), strict=True):
            axes.set_title(title)
        for axes in grid[-1]:
            axes.set_xlabel("training step")
        _legend(figure, grid)
    return figure


def _curves(axes: Axes, table: pd.DataFrame, column: str, by: str) -> None:
    """Mean and interval over seeds against the step, a line for each value of `by`."""
    kinds = list(table[by].unique())
    for kind, colour in colours(kinds).items():
        values = table[table[by] == kind].groupby("step")[column].apply(mean_interval)
        mean, low, high = np.array(values.tolist()).T
        dashed: dict[str, Any] = {"linestyle": (0, (4, 1.5)), "zorder": 3} if kind == NO_NEGATIVES else {}
        axes.plot(values.index, mean, color=colour, label=label(kind) if by == "pairs" else _update(kind), **dashed)
        axes.fill_between(values.index, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _update(update: str) -> str:
    """An update's name as figures show it."""
    return {MIXED: "mixed update", NO_NEGATIVES: "denoising alone"}.get(update, f"{label(update)} alone")


def _other(table: pd.DataFrame, miner: str) -> str:
    return next(kind for kind in table["pairs"].unique() if kind != miner)


def _legend(figure: Figure, grid: np.ndarray) -> None:
    """One legend for all panels, each entry once."""
    entries = {
        name: handle for axes in grid.flat for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4 if len(entries) <= 4 else 3)
