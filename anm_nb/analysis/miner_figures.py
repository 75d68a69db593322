"""Figures of the miner's descent and of its outcome (ANM checklist, sections B and H): tables in, Figure out.

The tables are those of `anm_nb.studies.miner_study.MinerStudy`. Colours are methods; where two energies are shown, the
trained network's lines are solid and those of the optimal energy E* dashed. Lines are means over seeds, bands and bars
their 95 % t-intervals. Every function raises `ParameterError` for a table without rows or a column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from anm_nb.analysis.figures import OTHER_COLOURS, colours, house_style, label, new_figure, require_columns
from anm_nb.analysis.stats import mean_interval

LINES: Mapping[str, Any] = {"trained": "-", "optimal": (0, (3, 2))}
ENERGY_LABELS = {"trained": "trained network", "optimal": "optimal energy E*"}
RULE_STYLES: Mapping[str, Mapping[str, Any]] = {  # rules are no methods: line styles and spare colours of their own
    "fixed": {"color": OTHER_COLOURS[2], "linestyle": (0, (1, 1.2)), "label": "fixed", "zorder": 3},
    "armijo": {"color": OTHER_COLOURS[0], "label": "Armijo"},
    "barzilai_borwein": {"color": OTHER_COLOURS[1], "linestyle": (0, (5, 1.5)), "label": "Barzilai–Borwein"},
}
FACTORS = {
    "inner_steps": "inner steps of the miner",
    "ema_decay": "EMA decay",
    "lr_divisor": "learning rate divided by",
}
OUTCOMES = {
    "mse": "held-out MSE",
    "dev_margin": "held-out margin,\nnats",
    "dev_oscillation": "oscillation of it",
    "oscillation": "oscillation of the\nbatch's own margin",
}
REFERENCES = {"mse": "mse_trivial", "dev_margin": "dev_margin_optimal"}


def inner_paths(paths: pd.DataFrame) -> Figure:
    """Energy left, gradient mapping and hardness against evaluations of the energy (section B).

    Columns energy, method, seed, evaluations, energy_left, gm_norm and p_hard.
    """
    titles = {
        "energy_left": "energy left\n(1 at the start, 0 at the end)",
        "gm_norm": "gradient mapping norm\nin units of ‖y⁺‖ (log scale)",
        "p_hard": "share of points with an energy\nbelow the truth's",
    }
    require_columns(paths, "energy", "method", "seed", "evaluations", *titles)
    with house_style():
        figure, panels = new_figure(1, 3, 2.5)
        for axes, (column, title) in zip(panels, titles.items(), strict=True):
            _by_energy(axes, paths, "evaluations", column)
            axes.set(title=title, xlabel="evaluations of the energy")
        panels[1].set_yscale("log")
        panels[1].set_ylim(bottom=max(1e-4, panels[1].get_ylim()[0]))
        for axes in (panels[0], panels[2]):
            axes.set_ylim(-0.03, 1.03)
        _legend(figure, paths)
    return figure


def noise_walk(paths: pd.DataFrame, mined: pd.DataFrame) -> Figure:
    """Where mining leads: the cosine with −ε and the illegitimate share on the way, and the latter by noise level.

    `paths` as for `inner_paths`, with columns cosine and illegitimate; `mined` has a row per example, with columns
    energy, method, seed, level and illegitimate.
    """
    require_columns(paths, "energy", "method", "seed", "evaluations", "cosine", "illegitimate")
    require_columns(mined, "energy", "method", "seed", "level", "illegitimate")
    by_level = mined.groupby(["energy", "method", "seed", "level"], sort=False)["illegitimate"].mean().reset_index()
    with house_style():
        figure, (walk, share, levels) = new_figure(1, 3, 2.5)
        _by_energy(walk, paths, "evaluations", "cosine")
        _by_energy(share, paths, "evaluations", "illegitimate")
        _by_energy(levels, by_level, "level", "illegitimate", marker=".")
        walk.set(title="cosine of y − y⁺ and −ε\non the way", xlabel="evaluations of the energy")
        share.set(title="illegitimate share (m* < 0)\non the way", xlabel="evaluations of the energy")
        levels.set(title="illegitimate share of what\nwas mined, by noise level", xlabel="noise level k")
        levels.xaxis.set_major_locator(FixedLocator(sorted(mined["level"].unique())))
        for axes in (walk, share, levels):
            axes.set_ylim(-0.05, 1.05)
        _legend(figure, paths)
    return figure


def step_sizes(swept: pd.DataFrame) -> Figure:
    """Backtracks, hits of their limit and the energy lost against the length of the first trial step (section B.1).

    Columns energy, method, seed, step_size, miner_backtracks, miner_limit_hits and drop.
    """
    titles = {
        "miner_backtracks": "backtracks of an example",
        "miner_limit_hits": "share that hit the\nlimit of backtracks",
        "drop": "energy lost, nats",
    }
    return _swept(swept, "step_size", titles, "length of the first step / ‖y⁺‖", log=True)


def inner_steps(swept: pd.DataFrame) -> Figure:
    """What more inner steps do to the mined negatives (section H).

    Columns energy, method, seed, steps, drop, p_hard, illegitimate and wrongness.
    """
    titles = {
        "drop": "energy lost, nats",
        "p_hard": "share with an energy\nbelow the truth's",
        "illegitimate": "illegitimate share\n(m* < 0)",
        "wrongness": "‖y⁻ − y⁺‖/‖y⁺‖",
    }
    return _swept(swept, "steps", titles, "inner steps")


def rule_comparison(rules: pd.DataFrame) -> Figure:
    """Energy left against evaluations for each step-size rule: a row of panels a method, a column a first step.

    Columns method, seed, step_size, rule, evaluations and energy_left.
    """
    require_columns(rules, "method", "seed", "step_size", "rule", "evaluations", "energy_left")
    methods, lengths = list(rules["method"].unique()), sorted(rules["step_size"].unique())
    with house_style():
        figure, grid = new_figure(
            len(methods), len(lengths), 0.8 + 1.55 * len(methods), sharex=True, sharey=True, squeeze=False
        )
        for row, method in zip(grid, methods, strict=True):
            for axes, length in zip(row, lengths, strict=True):
                rows = rules[(rules["method"] == method) & (rules["step_size"] == length)]
                for rule, style in RULE_STYLES.items():
                    _band(axes, rows[rows["rule"] == rule], "evaluations", "energy_left", floor=1e-4, **style)
                axes.set_yscale("log")
                axes.set_ylim(1e-4, 2)
            row[0].set_ylabel(f"{label(method)}\nenergy left (log scale)")
        for axes, length in zip(grid[0], lengths, strict=True):
            axes.set_title(f"first step {length:g}·‖y⁺‖")
        for axes in grid[-1]:
            axes.set_xlabel("evaluations of the energy")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(RULE_STYLES))
    return figure


def training_outcomes(trained: pd.DataFrame) -> Figure:
    """Outcome of the short trainings (section H): a row a measure, a column for what was varied, baselines as lines.

    Columns factor, value, method, seed and those of `REFERENCES` and `OUTCOMES`. Dots are seeds.
    """
    require_columns(trained, "factor", "value", "method", "seed", *REFERENCES.values(), *OUTCOMES)
    with house_style():
        figure, grid = new_figure(len(OUTCOMES), len(FACTORS), 1.0 + 1.15 * len(OUTCOMES), sharex="col", sharey="row")
        for row, (column, title) in zip(grid, OUTCOMES.items(), strict=True):
            for axes, factor in zip(row, FACTORS, strict=True):
                _outcome(axes, trained, factor, column)
            row[0].set_ylabel(title)
        grid[0, 0].set_ylim(bottom=0)
        for axes, title in zip(grid[-1], FACTORS.values(), strict=True):
            axes.set_xlabel(title)
        methods = list(trained["method"].unique())
        handles = [Line2D([], [], label=label(method), **_baseline_style(method)) for method in methods]
        dotted: dict[str, Any] = {"color": "black", "linewidth": 0.8, "linestyle": (0, (1, 1))}
        reference = Line2D([], [], label="best trivial MSE; margin of a perfect score", **dotted)
        figure.legend(handles=[*handles, reference], loc="outside lower center", ncols=4)
    return figure


def _outcome(axes: Axes, trained: pd.DataFrame, factor: str, column: str) -> None:
    """One measure against the values of one factor, at even distances, and the baselines' intervals."""
    rows = trained[trained["factor"] == factor]
    values = sorted(rows["value"].unique())
    for method in rows["method"].unique():
        colour = colours([method])[method]
        for place, value in enumerate(values):
            scores = rows.loc[rows["value"] == value, column].dropna()
            mean, low, high = mean_interval(scores)
            axes.plot(np.full(len(scores), place), scores, "o", color=colour, alpha=0.4, markersize=2.5)
            axes.plot([place] * 2, [low, high], color=colour, linewidth=1.6)
            axes.plot(place, mean, "D", color=colour, markersize=3.5)
    for method, of_method in trained[trained["value"].isna()].groupby("method", sort=False):
        if of_method[column].notna().any():
            axes.axhline(of_method[column].mean(), linewidth=1, **_baseline_style(str(method)))
    if column in REFERENCES:
        axes.axhline(trained[REFERENCES[column]].mean(), color="black", linewidth=0.8, linestyle=(0, (1, 1)))
    axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    axes.set_xlim(-0.5, len(values) - 0.5)


def _baseline_style(method: str) -> dict[str, Any]:
    """Dashed and on top for `none`, as in the other figures: what all are measured against is never hidden."""
    dashes: dict[str, Any] = {"linestyle": (0, (4, 1.5)), "zorder": 3} if method == "none" else {}
    return {"color": colours([method])[method]} | dashes


def _swept(table: pd.DataFrame, x: str, titles: Mapping[str, str], name: str, log: bool = False) -> Figure:
    """A panel for each column against the value of the option swept over."""
    require_columns(table, "energy", "method", "seed", x, *titles)
    with house_style():
        figure, panels = new_figure(1, len(titles), 2.3)
        for axes, (column, title) in zip(panels, titles.items(), strict=True):
            _by_energy(axes, table, x, column, marker=".")
            axes.set(title=title, xlabel=name)
            if log:
                axes.set_xscale("log")
            else:
                axes.xaxis.set_major_locator(FixedLocator(sorted(table[x].unique())))
                axes.xaxis.set_minor_locator(NullLocator())
            if column in ("p_hard", "illegitimate"):
                axes.set_ylim(-0.05, 1.05)
            else:
                axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _by_energy(axes: Axes, table: pd.DataFrame, x: str, y: str, **style: Any) -> None:
    """Mean and interval over seeds of y against x for each method and energy."""
    for method, colour in colours(list(table["method"].unique())).items():
        for energy in table["energy"].unique():
            rows = table[(table["method"] == method) & (table["energy"] == energy)]
            line = {"color": colour, "linestyle": LINES[energy], "label": label(method)} | style
            _band(axes, rows, x, y, **line)


def _band(axes: Axes, rows: pd.DataFrame, x: str, y: str, floor: float | None = None, **style: Any) -> None:
    """Mean over seeds of y against x with its 95 % t-interval; nothing below `floor`, as a log scale needs."""
    intervals = rows.dropna(subset=[y]).groupby(x)[y].apply(mean_interval)
    if intervals.empty:
        return
    mean, low, high = np.array(intervals.tolist()).T
    if floor is not None:
        mean, low, high = (np.maximum(values, floor) for values in (mean, low, high))
    axes.plot(intervals.index, mean, **style)
    axes.fill_between(intervals.index, low, high, color=style["color"], alpha=0.18, linewidth=0)


def _legend(figure: Figure, table: pd.DataFrame) -> None:
    """Methods by colour, energies by line style."""
    methods = list(table["method"].unique())
    handles = [Line2D([], [], color=colours(methods)[method], label=label(method)) for method in methods]
    handles += [
        Line2D([], [], color="black", linestyle=LINES[energy], label=ENERGY_LABELS[energy])
        for energy in table["energy"].unique()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
