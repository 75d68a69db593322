"""The look of every figure: one palette, one style, and a page's width; figures that show themselves."""

from __future__ import annotations

import os
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
    """Widths of a page in inches, the size in points of titles and axis labels, and what these are taken from.

    The text of figures is one or two points smaller than that of captions: as large as three panels in a row allow.
    """

    column: float
    text: float
    points: float
    source: str


VENUE = "ANM_NB_VENUE"  # in the environment: the venue whose page a notebook's figures are for
VENUES = {
    "icml": Venue(3.25, 6.75, 8, "ICML's instructions: two columns of 3.25 in, 0.25 in apart; captions of 9 pt"),
    "neurips": Venue(5.5, 5.5, 8, "NeurIPS's instructions: one column of 5.5 in; captions of 10 pt"),
    "thesis": Venue(6.0, 6.0, 9, "A4 (8.27 in) less margins of 1.13 in; captions of 10 pt, \\small of an 11 pt text"),
}
PAGE = VENUES.get(os.environ.get(VENUE, ""), VENUES["icml"])  # icml's text is as wide as a notebook's figures
SMALLEST = 6.0  # points: what is smaller is not read in print


def scaled(size: float) -> float:
    """What is `size` in a notebook, in step with the page's text: points of small print, or inches of a height."""
    return size * PAGE.points / 8


def points(size: float) -> float:
    """The size of a text that has `size` points in a notebook, in step with other text and never too small to read."""
    return max(scaled(size), SMALLEST)


# One colour and line per method everywhere.
METHODS = read_yaml(Path(__file__).with_name("methods.yaml"))
PALETTE: dict[str, str] = {method: of["colour"] for method, of in METHODS.items()}
OTHER_COLOURS = ("#cc79a7", "#56b4e9", "#9970ab")  # methods of a user's own, in order of appearance
LINE_STYLES: dict[str, dict[str, Any]] = {
    method: {"linestyle": (0, tuple(of["dashes"]))} | ({"zorder": of["over"]} if "over" in of else {})
    for method, of in METHODS.items()
    if "dashes" in of
}
STYLE = mpl.rc_params_from_file(Path(__file__).with_name("house.mplstyle"), use_default_template=False)
STYLE |= {name: points(8) for name in ("font.size", "axes.titlesize", "axes.labelsize")}
STYLE |= {name: points(7.5) for name in ("legend.fontsize", "xtick.labelsize", "ytick.labelsize")}


def colours(methods: Sequence[str]) -> dict[str, str]:
    """The colour of each method; methods the palette does not know get spare ones in order of appearance."""
    unknown = iter(OTHER_COLOURS * len(methods))
    return {method: PALETTE.get(method) or next(unknown) for method in methods}


def label(method: str) -> str:
    """A method's name as figures show it."""
    return str(METHODS.get(method, {}).get("label", method))


def use_style() -> None:
    """Matplotlib's own defaults with the project's style over them, for all figures from now on.

    A notebook calls it once. Nothing of a person's matplotlibrc is left (TeX, dark axes, fonts).
    """
    mpl.rcdefaults()
    mpl.rcParams.update(STYLE)


@contextmanager
def house_style() -> Iterator[None]:
    """`use_style` within, and afterwards all settings as they were; decorates a function as well."""
    with mpl.rc_context():
        use_style()
        yield


class PaperFigure(Figure):
    """A figure that shows itself in a notebook without pyplot, its global state and its import time.

    Drawn, shown or saved it is in the project's style, whatever matplotlib is set to then.
    """

    @house_style()
    def draw(self, renderer: Any) -> None:
        """As for any figure; tick labels are written only now."""
        super().draw(renderer)

    @house_style()
    def savefig(self, *args: Any, **options: Any) -> None:
        """As for any figure."""
        super().savefig(*args, **options)

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=130)
        return buffer.getvalue()


def new_figure(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """An empty figure of the page's width and its panels; options as for `Figure.subplots`.

    The height is in inches where text has the size it has in a notebook, and in step with it elsewhere.
    """
    figure = PaperFigure(figsize=(PAGE.text, scaled(height)), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(rows, columns, **options))
