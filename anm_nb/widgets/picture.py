"""A matplotlib figure as an image in a notebook with words beside it; what does not move in it is drawn once."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from ipywidgets import HTML
from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from anm_nb.analysis.style import house_style
from anm_nb.config import ParameterError
from anm_nb.run import Run

DPI = 120  # pixels an inch
WIDTH = 8.0  # inches: fits a window of 1000 pixels
FAST, SMALL = 1, 9  # zlib's levels: for a picture that the next move replaces, and for one that is kept
# Runs in the page with each picture, several times, since controls may come after it. It names sliders and players for
# screen readers, has a slider tell its value, keeps a list's arrow keys from JupyterLab, and hides the still picture.
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
  for (const still of this.closest('.jp-OutputArea')?.querySelectorAll('.jp-RenderedImage') ?? [])
    still.closest('.jp-OutputArea-child').style.display = 'none';
};
[0, 100, 1000, 5000].forEach(wait => setTimeout(mend, wait));
"""


def panels(figure: Figure, rows: int, columns: int, **place: Any) -> np.ndarray:
    """Axes [rows, columns] where `place` says, in shares of the figure: left, right, bottom, top, hspace, wspace.

    Fixed places: a layout engine takes longer than the rest of a drawing.
    """
    return figure.add_gridspec(rows, columns, **place).subplots(squeeze=False)


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
    """A figure in an HTML widget, as an image with alternative text (which an `Image` widget has not).

    What the figure holds at `hold` is still: drawn once, until `refresh`. What is added to its axes from then on is
    drawn each time, with those of its own that are `moving`, and removed by `clear`.
    """

    def __init__(self, figure: Figure, moving: Sequence[Artist]) -> None:
        self.figure, self.moving, self.alt = figure, moving, ""
        self.widget = HTML().add_class("anm-picture")
        figure.set_dpi(DPI)
        self.canvas = FigureCanvasAgg(figure)  # no pyplot, nothing of its global state
        for artist in moving:
            artist.set_animated(True)
            if isinstance(artist, Axis):
                artist.set_label_coords(0, 0.5)  # else a place is measured even without a label
        for axes in figure.axes:
            axes.autoscale(False)
        self.hold()

    @property
    def moved(self) -> list[Artist]:
        """What was added to the axes since `hold`."""
        return [each for axes in self.figure.axes for each in axes.get_children() if each not in self._still]

    def hold(self) -> None:
        """From now on all that the figure holds is still."""
        self._still = {artist for axes in self.figure.axes for artist in axes.get_children()}
        self.refresh()

    def refresh(self) -> None:
        """Draw anew what does not move, too, the next time."""
        self._background: Any = None

    def clear(self) -> None:
        """Remove what was added."""
        for artist in self.moved:
            artist.remove()

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
        moved = self.moved
        with house_style():
            if self._background is None:
                for artist in moved:
                    artist.set_animated(True)
                self.canvas.draw()
                self._background = self.canvas.copy_from_bbox(self.figure.bbox)
            self.canvas.restore_region(self._background)
            for artist in sorted([*self.moving, *moved], key=lambda artist: artist.zorder):
                artist.draw(self.canvas.get_renderer())
        buffer = BytesIO()
        pixels = np.asarray(self.canvas.buffer_rgba())[..., :3]
        Image.fromarray(pixels).save(buffer, "png", compress_level=compression)
        return buffer.getvalue()
