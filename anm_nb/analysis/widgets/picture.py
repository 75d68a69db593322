"""A matplotlib figure as an image in a notebook: made once, its artists changed from then on, with words beside it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
from ipywidgets import HTML
from matplotlib import rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory
from PIL import Image

from anm_nb.analysis.figures import house_style

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
