"""Figures of single notebooks, on their way into these; what several draw with is in `plots`."""

from __future__ import annotations

import numpy as np
import pandas as pd
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
    "colours",
    "curves",
    "house_style",
    "interval_line",
    "label",
    "learning_curves",
    "legend_below",
    "new_figure",
    "points",
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
