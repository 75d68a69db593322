"""Figures of single notebooks, on their way into these; what several draw with is in `plots`."""

from __future__ import annotations

import pandas as pd

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
