"""A matplotlib figure as an image in a notebook: made once, its artists changed from then on, with words beside it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
from ipywidgets import HTML
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from anm_nb.analysis.figures import house_style

DPI = 120  # pixels an inch
WIDTH = 8.0  # inches, so that a picture and its margins are at home in a window of 1000 pixels
FAST, SMALL = 1, 9  # zlib's levels: for a picture that the next move replaces, and for one that is kept


def panels(figure: Figure, rows: int, columns: int, **place: Any) -> np.ndarray:
    """Axes [rows, columns] where `place` says, in shares of the figure (left, right, bottom, top, hspace, wspace, …).

    Fixed, with room for the longest labels: an engine that finds them room costs more than all else of a redraw.
    """
    return figure.add_gridspec(rows, columns, **place).subplots(squeeze=False)


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

    def show(self, alt: str) -> None:
        """Draw the figure as its artists are now. `alt` is plain text; what HTML would take for its own is escaped."""
        self.alt = alt
        width, height = self.canvas.get_width_height()
        data = b64encode(self.png(FAST)).decode()
        self.widget.value = (
            f'<img class="anm-picture-image" alt="{escape(alt)}" width="{width}" height="{height}" decoding="sync" '
            f'style="max-width: 100%; height: auto" src="data:image/png;base64,{data}">'
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
        imsave(buffer, pixels, format="png", pil_kwargs={"compress_level": compression})
        return buffer.getvalue()
