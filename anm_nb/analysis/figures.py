"""Figures of single notebooks, on their way into these; what several draw with is in `plots`."""

from __future__ import annotations

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
