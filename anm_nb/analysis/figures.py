"""Figures of single notebooks, on their way into these; what several draw with is in `plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from anm_nb.analysis.plots import curves, interval_line, learning_curves, legend_below
from anm_nb.analysis.style import (
    LABELS,
    LINE_STYLES,
    OTHER_COLOURS,
    PALETTE,
    STYLE,
    TEXT_SIZES,
    PaperFigure,
    colours,
    house_style,
    label,
    new_figure,
    points,
)
from anm_nb.config import ParameterError

__all__ = [
    "LABELS",
    "LINE_STYLES",
    "OTHER_COLOURS",
    "PALETTE",
    "STYLE",
    "TEXT_SIZES",
    "PaperFigure",
    "interval_line",
    "learning_curves",
]


def require_columns(table: pd.DataFrame, *columns: str) -> None:
    """Raises `ParameterError` for a table that lacks one of the columns, or has no rows to draw."""
    missing = [column for column in columns if column not in table]
    if missing:
        raise ParameterError(f"table without {', '.join(missing)}; it needs the columns {', '.join(columns)}")
    if table.empty:
        raise ParameterError("table without rows: there is nothing to draw")


CHECKLIST_PANELS = {
    "p_hard": "share of negatives\nbelow the positive (A)",
    "illegitimate_fraction": "illegitimate share\n(optimal margin < 0)",
    "margin_mean": "mean margin E⁻ − E⁺ (A)",
    "loss_con": "contrastive loss, nats (A)",
    "grad_share_contrast": "gradient share r of the\ncontrastive loss (D)",
    "dev_p_hard": "held-out pairs ordered\nwrongly (H, J)",
}


def checklist_panels(metrics: pd.DataFrame, panels: Mapping[str, str] = CHECKLIST_PANELS) -> Figure:
    """Instruments of the checklist against the step, one panel each; method colours throughout."""
    with house_style():
        figure, grid = new_figure(2, 3, 3.6, sharex=True)
        for axes, (column, title) in zip(grid.flat, panels.items(), strict=True):
            curves(axes, metrics, column)
            axes.set_title(title)
            if column in ("p_hard", "illegitimate_fraction", "grad_share_contrast"):
                axes.set_ylim(-0.03, 1.03)
            if column == "grad_share_contrast":
                axes.axhspan(0.3, 0.7, color="black", alpha=0.06, linewidth=0)
                axes.text(
                    0.98, 0.68, "target band", transform=axes.transAxes, ha="right", va="top", fontsize=points(6.5)
                )
            if column == "margin_mean":
                axes.set_yscale("symlog", linthresh=1)
                axes.yaxis.set_minor_formatter(NullFormatter())
                axes.axhline(0, color="black", linewidth=0.6)
        for axes in grid[0]:
            axes.set_xlabel("")
        legend_below(figure, grid[1, 2], at_most=5)
    return figure


def energy_trends(metrics: pd.DataFrame) -> Figure:
    """E⁺ and E⁻ against the step, a panel for each method: do they part, or rise together (checklist, section K)?"""
    contrasted = metrics.dropna(subset=["e_neg"]) if "e_neg" in metrics else metrics.iloc[:0]
    methods = list(contrasted["method"].unique())
    with house_style():
        figure, panels = new_figure(1, max(1, len(methods)), 1.9, sharey=True, sharex=True)
        if not methods:
            panels[0].set_axis_off()
            panels[0].text(0.5, 0.5, "no method here has negatives", ha="center")
            return figure
        for axes, method in zip(panels, methods, strict=True):
            rows = contrasted[contrasted["method"] == method]
            for column, style, name in (("e_neg", "-", "E⁻ negative"), ("e_pos", (0, (3, 2)), "E⁺ positive")):
                mean = rows.groupby("step")[column].mean()
                axes.plot(mean.index, mean, linestyle=style, color=colours(methods)[method], label=name)
            axes.set(title=label(method), xlabel="training step", yscale="symlog")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        panels[0].set_ylabel("mean energy (symlog)")
        panels[0].legend(loc="best")
    return figure


def margin_histograms(margins: Mapping[str, np.ndarray], steps: Sequence[int]) -> Figure:
    """Histograms of margins, a row for each method and a column for each of up to four recorded steps (checklist A).

    `margins[method]` is [records, examples], all seeds pooled, NaN where a batch was short; margins beyond ±`reach` sit
    in the outermost bars.
    """
    shown = np.unique(np.linspace(0, len(steps) - 1, min(4, len(steps))).round().astype(int))
    with house_style():
        figure, grid = new_figure(
            len(margins), len(shown), 1.0 + 0.85 * len(margins), sharex=True, sharey="row", squeeze=False
        )
        pooled = np.concatenate([values[shown].ravel() for values in margins.values()])
        reach = float(np.nanquantile(np.abs(pooled), 0.9))
        bins = np.linspace(-reach, reach, 41)
        for row, (method, values) in zip(grid, margins.items(), strict=True):
            colour = colours(list(margins))[method]
            for axes, record in zip(row, shown, strict=True):
                present = values[record][np.isfinite(values[record])]
                axes.hist(np.clip(present, -reach, reach), bins, color=colour, density=True)
                axes.axvline(0, color="black", linewidth=0.6)
                for quartile in np.quantile(present, [0.25, 0.5, 0.75]):
                    axes.axvline(np.clip(quartile, -reach, reach), color="black", linewidth=0.7, ymin=0.86)
                axes.set_yticks([])
            row[0].set_ylabel(label(method), rotation=0, ha="right", va="center")
        for axes, record in zip(grid[0], shown, strict=True):
            axes.set_title(f"step {steps[record]}")
        figure.supxlabel("margin E⁻ − E⁺ of the batch's own negatives (ticks above: quartiles)", fontsize=points(8))
    return figure


def score_summary(scores: pd.DataFrame, table: pd.DataFrame, metric: str = "mse", unit: str = "held-out MSE") -> Figure:
    """Final scores: every seed as a dot, mean and 95 % interval, with the trivial references as lines."""
    methods = list(scores.columns)
    measured = table[table["kind"] == "measured"]
    with house_style():
        figure, (axes,) = new_figure(1, 1, 0.9 + 0.28 * len(methods))
        for height, method in enumerate(methods):
            row, colour = measured.loc[method], colours(methods)[method]
            axes.plot(scores[method], np.full(len(scores), height), "o", color=colour, alpha=0.45, markersize=3.5)
            axes.plot([row["low"], row["high"]], [height] * 2, color=colour, linewidth=2)
            axes.plot(row[metric], height, "D", color=colour, markersize=5)
        axes.set_yticks(range(len(methods)), [label(method) for method in methods])
        axes.invert_yaxis()
        for name, value in table.loc[table["kind"] == "trivial", metric].items():
            axes.axvline(value, color="black", linewidth=0.7, linestyle=(0, (4, 3)))
            axes.annotate(
                str(name),
                (value, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=points(7),
            )
        axes.set(xscale="log", xlabel=f"{unit} (log scale; dots: seeds, diamond and bar: mean and 95 % interval)")
        sns.despine(figure, left=True)
        axes.tick_params(axis="y", length=0)
    return figure
