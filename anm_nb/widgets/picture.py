"""A matplotlib figure as an image in a notebook, with words beside it."""

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
from PIL import Image

from anm_nb.analysis.style import house_style

DPI = 120  # pixels an inch
WIDTH = 8.0  # inches: fits a window of 1000 pixels
LEFT, RIGHT, TOP, BOTTOM, BETWEEN = 0.62, 0.1, 0.3, 0.45, 0.62  # inches around and between panels
FAST, SMALL = 1, 9  # zlib's levels: for a picture that the next move replaces, and for one that is kept
# Runs in the page with each picture, several times, since controls may come after it. It names sliders and players for
# screen readers, has a slider tell its value, and keeps a list's arrow keys from JupyterLab.
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


class Picture:
    """Rows of panels as an image with alternative text (which an `Image` widget has not).

    What is plotted in them is drawn each time; axes with their ticks and labels only where these have changed.
    """

    def __init__(self) -> None:
        self.widget, self.alt = HTML().add_class("anm-picture"), ""

    def lay_out(self, rows: int, widths: Sequence[float], height: float) -> None:
        """Make empty axes [rows, panels], `height` inches a row; fixed places, as a layout engine takes long."""
        tall, columns = rows * (height + TOP + BOTTOM), len(widths)
        self.figure = Figure(figsize=(WIDTH, tall), dpi=DPI)
        self.canvas = FigureCanvasAgg(self.figure)  # no pyplot, nothing of its global state
        mean = (WIDTH - LEFT - RIGHT - (columns - 1) * BETWEEN) / columns
        place = {"left": LEFT / WIDTH, "right": 1 - RIGHT / WIDTH, "bottom": BOTTOM / tall, "top": 1 - TOP / tall}
        place |= {"wspace": BETWEEN / mean, "hspace": (TOP + BOTTOM) / height}
        self.axes = self.figure.add_gridspec(rows, columns, width_ratios=widths, **place).subplots(squeeze=False)
        self._frame: tuple[Any, Any] = (None, None)

    def clear(self) -> None:
        """Remove what is plotted, and let limits follow what comes."""
        for artist in self._plotted():
            artist.remove()
        for axes in self.axes.flat:
            axes.relim()
            axes.autoscale(True)

    def share_limits(self) -> None:
        """Give panels of curves the same limits in every row."""
        for column in self.axes.T:
            if not any(axes.images for axes in column):
                x, y = (np.array([getattr(axes, f"get_{which}lim")() for axes in column]) for which in "xy")
                for axes in column:
                    axes.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))

    def show(self, alt: str) -> None:
        """Draw the figure. `alt` is plain text; what HTML would take for its own is escaped."""
        data, (width, height) = b64encode(self.png(FAST)).decode(), self.canvas.get_width_height()
        self.alt = alt
        self.widget.value = (
            f'<img class="anm-picture-image" alt="{escape(alt)}" width="{width}" height="{height}" decoding="sync" '
            f'style="max-width: 100%; height: auto" onload="{escape(MENDING)}" src="data:image/png;base64,{data}">'
        )

    def blank(self) -> None:
        """Show nothing, until the next picture."""
        self.alt = self.widget.value = ""

    def png(self, compression: int = SMALL) -> bytes:
        """The figure as a PNG file, at a compression level of zlib from 0 to 9."""
        plotted = sorted(self._plotted(), key=lambda artist: artist.zorder)
        with house_style():
            if self._frame[0] != self._state():
                for artist in plotted:
                    artist.set_animated(True)
                self.canvas.draw()
                self._frame = self._state(), self.canvas.copy_from_bbox(self.figure.bbox)
            self.canvas.restore_region(self._frame[1])
            for artist in plotted:
                artist.draw(self.canvas.get_renderer())
        buffer = BytesIO()
        Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3]).save(buffer, "png", compress_level=compression)
        return buffer.getvalue()

    def _plotted(self) -> list[Artist]:
        kinds = ("lines", "collections", "images", "patches", "texts")
        return [artist for axes in self.axes.flat for kind in kinds for artist in getattr(axes, kind)]

    def _state(self) -> list[tuple[Any, ...]]:
        """What ticks and labels are drawn from."""
        every = [(axes, axis) for axes in self.axes.flat for axis in (axes.xaxis, axes.yaxis)]
        ticks = [tuple(getattr(axis.get_major_formatter(), "seq", ())) for _, axis in every]
        labels = [(axes.get_title("left"), axis.get_label_text()) for axes, axis in every]
        return [*ticks, *labels, *((axis.get_scale(), *axis.get_view_interval()) for _, axis in every)]
