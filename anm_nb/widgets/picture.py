"""A matplotlib figure as an image in a notebook: made once, its artists changed from then on, with words beside it."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from ipywidgets import HTML
from matplotlib import rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory
from PIL import Image
from torch import Tensor

from anm_nb.analysis.style import house_style
from anm_nb.config import ParameterError
from anm_nb.run import Run

DPI = 120  # pixels an inch
WIDTH = 8.0  # inches, so that a picture and its margins are at home in a window of 1000 pixels
FAST, SMALL = 1, 9  # zlib's levels: for a picture that the next move replaces, and for one that is kept
# ipywidgets gives sliders and players no name that a screen reader could tell, has a slider tell its place instead of
# its value, and makes Tab stop at values that nobody can edit; JupyterLab takes a list's arrow keys for its own, to go
# to another cell. Only a script in the page can mend that: each new picture brings it along, and it runs more than once
# as the controls beside a first picture may come after it.
MENDING = """
const mend = () => {
  const all = kind => this.closest('.anm-explorer')?.querySelectorAll(kind) ?? [];
  for (const list of all('select')) list.dataset.lmSuppressShortcuts = true;
  for (const slider of all('.widget-slider')) {
    const label = slider.querySelector('label').textContent, value = slider.querySelector('.widget-readout');
    const handle = slider.querySelector('[role=slider]'), player = slider.nextElementSibling;
    handle.ariaLabel = label;
    handle.ariaValueText = value.textContent;
    value.contentEditable = false;
    if (!player?.matches('.widget-play')) continue;
    const [play, stop] = player.querySelectorAll('button');
    play.ariaLabel = `Play or pause: ${label}`;
    stop.ariaLabel = `Back to the start: ${label}`;
  }
};
[0, 100, 1000, 5000].forEach(wait => setTimeout(mend, wait));
"""


def panels(figure: Figure, rows: int, columns: int, **place: Any) -> np.ndarray:
    """Axes [rows, columns] where `place` says, in shares of the figure (left, right, bottom, top, hspace, wspace, …).

    Fixed, with room for the longest labels: an engine that finds them room costs more than all else of a redraw.
    """
    return figure.add_gridspec(rows, columns, **place).subplots(squeeze=False)


def still_label(axes: Axes, text: str, left: float) -> None:
    """The label of a vertical axis that moves, itself not moving: from `left`, in shares of the figure's width.

    As a part of the axis it is drawn anew each time, after the ticks' own labels were measured to find its place.
    """
    place = blended_transform_factory(axes.figure.transFigure, axes.transAxes)
    size, colour = rcParams["axes.labelsize"], rcParams["axes.labelcolor"]
    axes.text(left, 0.5, text, transform=place, rotation=90, va="center", fontsize=size, color=colour)
    axes.yaxis.set_label_coords(0, 0.5)  # else a place is looked for even without a label


class Answers(NamedTuple):
    """How answers of a task are drawn: as square arrays of numbers or, for a board, of digits."""

    digits: int  # that a cell of a board may hold; 0 where answers are numbers
    cells: int

    @classmethod
    def of(cls, run: Run) -> Answers:
        """Those of a run's problems, from its settings and trace alone. Raises `ParameterError` where it has none."""
        if "probe_negatives" not in run.trace:
            raise ParameterError(f"run {run.key} keeps no problems, as an older version trained it: train it again")
        digits = run.settings["size"] if run.settings["task"] == "sudoku" else 0
        return cls(digits, run.trace["probe_y"].shape[-1] // max(1, digits))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns: those of a square where the cells fill one, else a single row."""
        side = math.isqrt(self.cells)
        return (side, side) if side * side == self.cells else (1, self.cells)

    def array(self, y: Tensor) -> np.ndarray:
        """One answer y [y_dim] as [rows, columns]: its entries, or the digit with the highest entry of each cell."""
        values = y.unflatten(0, (self.cells, self.digits)).argmax(1) + 1 if self.digits else y
        return values.reshape(self.shape).numpy()

    def colours(self, truth: np.ndarray) -> dict[str, Any]:
        """Colour map and limits for pictures beside a truth's: one-sided for digits, 0 in white for numbers."""
        if self.digits:
            return {"cmap": "cividis", "clim": (1, self.digits)}
        reach = float(np.abs(truth).max()) or 1.0
        return {"cmap": "RdBu_r", "clim": (-reach, reach)}


class Picture:
    """A figure in an HTML widget, as an image whose alternative text says what it shows.

    `moving` are the artists that change from one picture to the next, from back to front, axes among them where their
    limits change. What does not move is drawn once, until `refresh`: drawing text takes most of the time. An `Image`
    widget has no alternative text. Agg draws: no pyplot, and nothing of its global state.
    """

    def __init__(self, figure: Figure, moving: Sequence[Artist]) -> None:
        self.figure, self.moving = figure, moving
        figure.set_dpi(DPI)
        self.canvas = FigureCanvasAgg(figure)
        for artist in moving:
            artist.set_animated(True)
        self._still: Any = None
        self.alt = ""
        self.widget = HTML()
        self.widget.add_class("anm-picture")

    def refresh(self) -> None:
        """Draw anew what does not move, too, the next time."""
        self._still = None

    def blank(self) -> None:
        """Show nothing, until the next picture."""
        self.alt = self.widget.value = ""
        self.refresh()

    def show(self, alt: str) -> None:
        """Draw the figure as its artists are now. `alt` is plain text; what HTML would take for its own is escaped."""
        self.alt = alt
        width, height = self.canvas.get_width_height()
        data = b64encode(self.png(FAST)).decode()
        self.widget.value = (
            f'<img class="anm-picture-image" alt="{escape(alt)}" width="{width}" height="{height}" decoding="sync" '
            f'style="max-width: 100%; height: auto" onload="{escape(MENDING)}" src="data:image/png;base64,{data}">'
        )

    def png(self, compression: int = SMALL) -> bytes:
        """The figure as a PNG file, at a compression level of zlib from 0 to 9."""
        with house_style():
            if self._still is None:
                self.canvas.draw()
                self._still = self.canvas.copy_from_bbox(self.figure.bbox)
            self.canvas.restore_region(self._still)
            for artist in self.moving:
                artist.draw(self.canvas.get_renderer())
        buffer = BytesIO()
        pixels = np.asarray(self.canvas.buffer_rgba())[..., :3]
        Image.fromarray(pixels).save(buffer, "png", compress_level=compression)
        return buffer.getvalue()
