"""The look of every figure: one palette, one style and the page widths of venues; figures that display themselves."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from anm_nb.config import read_yaml


class Venue(NamedTuple):
    """Column and text width in inches, font size of titles and axis labels in points, and the source of these numbers.

    Figure text is one or two points smaller than captions: the largest size at which three panels fit in a row.
    """

    column: float
    text: float
    points: float
    source: str


VENUE = "ANM_NB_VENUE"  # environment variable: the venue for which a notebook draws its figures
VENUES = {
    "icml": Venue(3.25, 6.75, 8, "ICML's instructions: two columns of 3.25 in, 0.25 in apart; captions of 9 pt"),
    "neurips": Venue(5.5, 5.5, 8, "NeurIPS's instructions: one column of 5.5 in; captions of 10 pt"),
    "thesis": Venue(6.0, 6.0, 9, "A4 (8.27 in) less margins of 1.13 in; captions of 10 pt, \\small of an 11 pt text"),
}
PAGE = VENUES.get(os.environ.get(VENUE, ""), VENUES["icml"])  # ICML's text is as wide as a notebook's figures
SCALE = PAGE.points / 8  # font size on the page relative to a notebook's 8 points
SMALLEST = 6.0  # points: smaller text is unreadable in print


def points(size: float) -> float:
    """The font size on the page of text that has `size` points in a notebook, at least `SMALLEST`."""
    return max(SCALE * size, SMALLEST)


# One colour and line style per method in all figures.
METHODS = read_yaml(Path(__file__).with_name("methods.yaml"))
PALETTE: dict[str, str] = {method: look["colour"] for method, look in METHODS.items()}
OTHER_COLOURS = ("#cc79a7", "#56b4e9", "#9970ab")  # for user-defined methods, in order of appearance
LINE_STYLES: dict[str, dict[str, Any]] = {
    method: {"linestyle": (0, tuple(look["dashes"]))} | ({"zorder": look["over"]} if "over" in look else {})
    for method, look in METHODS.items()
    if "dashes" in look
}
STYLE = mpl.rc_params_from_file(Path(__file__).with_name("house.mplstyle"), use_default_template=False)
STYLE |= {name: points(8) for name in ("font.size", "axes.titlesize", "axes.labelsize")}
STYLE |= {name: points(7.5) for name in ("legend.fontsize", "xtick.labelsize", "ytick.labelsize")}


def colours(methods: Sequence[str]) -> dict[str, str]:
    """The colour of each method. Swept values ("T = 4") get shades from light to dark, other new methods spare colours.

    Both in order of appearance.
    """
    values = [method for method in methods if re.search(r" = -?[\d.]+", method)]
    ramp = map(mpl.colors.to_hex, mpl.colormaps["YlOrBr"](np.linspace(0.35, 0.95, len(values))))
    known, unknown = PALETTE | dict(zip(values, ramp, strict=True)), iter(OTHER_COLOURS * len(methods))
    return {method: known.get(method) or next(unknown) for method in methods}


def label(method: str) -> str:
    """A method's name as figures show it."""
    return str(METHODS.get(method, {}).get("label", method))


def use_style() -> None:
    """Set matplotlib's defaults with the project's style on top for all later figures; notebooks call it once.

    Settings from a user's matplotlibrc (TeX, dark axes, fonts) are discarded.
    """
    mpl.rcdefaults()
    mpl.rcParams.update(STYLE)


@contextmanager
def house_style() -> Iterator[None]:
    """Apply `use_style` within a block, or in a decorated function, and restore all settings afterwards."""
    with mpl.rc_context():
        use_style()
        yield


class PaperFigure(Figure):
    """A figure that displays itself in a notebook without pyplot, whose global state and import time it avoids.

    It is always drawn, displayed and saved in the project's style, whatever matplotlib's settings are by then.
    """

    @house_style()
    def draw(self, renderer: Any) -> None:
        """Draw in the project's style; matplotlib creates tick labels only at this point."""
        super().draw(renderer)

    @house_style()
    def savefig(self, *args: Any, **options: Any) -> None:
        """Save in the project's style."""
        super().savefig(*args, **options)

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=130)
        return buffer.getvalue()


def new_figure(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """Create an empty figure of the page's text width; returns it and its panels. Options go to `Figure.subplots`.

    `height` is in inches for a notebook's font size; it scales with the page's.
    """
    figure = PaperFigure(figsize=(PAGE.text, SCALE * height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(rows, columns, **options))
