"""Figures of single notebooks, on their way into these; what several draw with is in `plots`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

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
    "curves",
    "interval_line",
    "learning_curves",
    "legend_below",
]


def require_columns(table: pd.DataFrame, *columns: str) -> None:
    """Raises `ParameterError` for a table that lacks one of the columns, or has no rows to draw."""
    missing = [column for column in columns if column not in table]
    if missing:
        raise ParameterError(f"table without {', '.join(missing)}; it needs the columns {', '.join(columns)}")
    if table.empty:
        raise ParameterError("table without rows: there is nothing to draw")


def contrastive_loss_shape(margin: np.ndarray, loss: np.ndarray, by_pos: np.ndarray, by_neg: np.ndarray) -> Figure:
    """The contrastive loss and its gradients by both energies: measured as dots, closed forms as lines."""
    softplus, sigmoid = np.logaddexp(0, -margin), np.exp(-np.logaddexp(0, margin))
    with house_style():
        figure, (left, right) = new_figure(1, 2, 2.2, sharex=True)
        left.plot(margin, softplus, color=PALETTE["stock"], label="log(1 + e⁻ᵐ)")
        left.plot(margin, loss, ".", color="black", markersize=3, label="computed")
        right.plot(margin, sigmoid, color=PALETTE["anm_orthogonal"], label="by E⁺: σ(−m)")
        right.plot(margin, -sigmoid, color=PALETTE["anm"], label="by E⁻: −σ(−m)")
        right.plot(
            np.tile(margin, 2), np.concatenate([by_pos, by_neg]), ".", color="black", markersize=3, label="autograd"
        )
        left.set(xlabel="margin E⁻ − E⁺, nats", ylabel="contrastive loss, nats")
        right.set(xlabel="margin E⁻ − E⁺, nats", ylabel="gradient of the loss")
        left.legend()
        right.legend()
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
