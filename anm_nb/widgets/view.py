"""One run as an explorer shows it, and the picture it is drawn into: an image in a notebook with words beside it."""

from __future__ import annotations

import struct
import zlib
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from ipywidgets import HTML
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anm_nb.analysis.style import colours, label
from anm_nb.store import Run

WIDTH = 8.0  # inches: fits a window of 1000 pixels
LEFT, RIGHT, TOP, BOTTOM, BETWEEN = 0.62, 0.1, 0.3, 0.45, 0.78  # inches around and between panels
TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
SCRIPT = (TEMPLATES / "explorer.js").read_text("utf-8")


class Control(NamedTuple):
    """A list, a slider, one with a player, or a text; in the page of class `anm-control-<name>`, `anm-play-<name>`."""

    name: str
    label: str
    tooltip: str
    form: str = "list"  # list | slider | player | text


class View(ABC):
    """One run as an explorer shows it: a row of panels and a line of read-outs, read from the run when it is made.

    A view sets `options`, for each control labels and values, or a function of the values of the controls before it
    that gives them, or whether there is a text, and `start`, the values to begin with where these are not the first.
    """

    family: ClassVar[str] = "energy"
    name: ClassVar[str]  # of the kind of explorer, for its class in the page
    about: ClassVar[str]  # what its panels show, in words
    needs: ClassVar[str]  # what leaves a run that it can show, for an empty store
    controls: ClassVar[Sequence[Control]]
    widths: ClassVar[Sequence[float]]  # of the panels, relative
    height: ClassVar[float] = 2.3  # of the panels, in inches
    options: Mapping[str, Any]
    start: Mapping[str, Any]

    def __init__(self, run: Run) -> None:
        self.together: Sequence[Any] = [self]  # the views of all rows
        self.run, self.seeds, method = run, run.settings["seeds"], str(run.summary["method"])
        self.method, self.colour = label(method), colours([method])[method]
        self.seed_options = [(str(seed), place) for place, seed in enumerate(self.seeds)]

    @classmethod
    def suits(cls, run: Run) -> bool:
        """Whether the explorer can show a run, as far as its manifest tells."""
        return run.summary["family"] == cls.family

    @abstractmethod
    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> None:
        """Plot what the controls ask for into a row of empty axes [panels]."""

    @abstractmethod
    def read_out(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Numbers of what is shown, by name, with units."""

    def bars(self, values: Mapping[str, Any]) -> Sequence[tuple[float, float, str]]:
        """What bars of the first panel tell when they are pointed at: left end and width, of the panel's, and words."""
        return ()

    def seed_place(self, values: Mapping[str, Any]) -> int:
        """The place of the chosen seed; the last, where this run has fewer than the first one."""
        return min(values["seed"], len(self.seeds) - 1)


def nearest(steps: Sequence[int], step: int) -> int:
    """The place of the step nearest to another run's."""
    return int(np.abs(np.asarray(steps) - step).argmin())


class Picture:
    """Rows of panels as an image with alternative text (which an `Image` widget has not).

    What is plotted in them is drawn each time; a panel's ticks and labels only where these have changed.
    """

    def __init__(self) -> None:
        self.widget, self.alt = HTML().add_class("anm-picture"), ""

    def lay_out(self, rows: int, widths: Sequence[float], height: float) -> None:
        """Make empty axes [rows, panels], `height` inches a row; all in fixed places, as to find them takes long."""
        tall, columns = rows * (height + TOP + BOTTOM), len(widths)
        figure = Figure(figsize=(WIDTH, tall), dpi=120)
        self.canvas = FigureCanvasAgg(figure)  # no pyplot, nothing of its global state
        mean = (WIDTH - LEFT - RIGHT - (columns - 1) * BETWEEN) / columns
        place = {"left": LEFT / WIDTH, "right": 1 - RIGHT / WIDTH, "bottom": BOTTOM / tall, "top": 1 - TOP / tall}
        place |= {"wspace": BETWEEN / mean, "hspace": (TOP + BOTTOM) / height}
        self.axes = figure.add_gridspec(rows, columns, width_ratios=widths, **place).subplots(squeeze=False)
        for axes in self.axes.flat:
            axes.set_title("", y=1.0)
            axes.xaxis.set_label_coords(0.5, -0.25 / height)  # inches
            axes.yaxis.set_label_coords(-0.46 / (axes.get_position().width * WIDTH), 0.5)
        self._layers: dict[Axes, tuple[Any, np.ndarray]] = {}  # what a panel's layer is drawn from, and its pixels

    def clear(self) -> None:
        """Remove what is plotted, and let limits follow what comes."""
        for axes in self.axes.flat:
            for artist in plotted(axes):
                artist.remove()
            axes.relim()
            axes.autoscale(True)

    def show(self, alt: str, bars: Sequence[Sequence[tuple[float, float, str]]]) -> None:
        """Draw a white sheet, on it the panels' frames and what is plotted; bars of each row's first panel over it.

        `alt` and the bars' words are plain text, escaped for the page.
        """
        renderer, pixels = self.canvas.get_renderer(), np.asarray(self.canvas.buffer_rgba())
        for axes in self.axes.flat:
            if self._layers.get(axes, (None, None))[0] != (state := frame_state(axes)):
                for artist in plotted(axes):
                    artist.set_animated(True)
                pixels[:] = 255
                axes.draw(renderer)
                self._layers[axes] = state, pixels.copy()
        np.minimum.reduce([layer for _, layer in self._layers.values()], out=pixels)
        for axes in self.axes.flat:
            for artist in sorted(plotted(axes), key=lambda artist: artist.zorder):
                artist.draw(renderer)
        data, (width, height) = b64encode(self.png(1)).decode(), self.canvas.get_width_height()
        self.alt, form = alt, '<i title="{}" style="left:{:.2f}%;width:{:.2f}%;top:{:.2f}%;height:{:.2f}%"></i>'
        places = []
        for box, row in zip([axes.get_position() for axes in self.axes[:, 0]], bars, strict=True):
            for left, wide, told in row:
                sides = box.x0 + left * box.width, wide * box.width, 1 - box.y1, box.height
                places.append(form.format(escape(told), *(100 * side for side in sides)))
        self.widget.value = (
            f'<div class="anm-sheet"><img class="anm-picture-image" alt="{escape(alt)}" width="{width}" '
            f'height="{height}" decoding="sync" onload="{escape(SCRIPT)}" src="data:image/png;base64,{data}">'
            f"{''.join(places)}</div>{'<p>Point at a bar, or click on it, for its numbers.</p>' if places else ''}"
        )

    def png(self, compression: int = 9) -> bytes:
        """What is shown as a PNG file, at a compression level of zlib from 0 to 9; in half the time Pillow takes."""
        pixels = np.asarray(self.canvas.buffer_rgba())
        height, width, _ = pixels.shape
        rows = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))  # each begins with its filter: none
        chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)]
        chunks += [b"IDAT" + zlib.compress(rows.tobytes(), compression), b"IEND"]
        parts = (struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks)
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def plotted(axes: Axes) -> list[Artist]:
    """What is plotted in a panel, without its frame, ticks, labels and legend."""
    return [*axes.lines, *axes.collections, *axes.images, *axes.patches, *axes.texts]


def frame_state(axes: Axes) -> list[Any]:
    """What ticks and labels of a panel are drawn from."""
    state: list[Any] = [axes.get_title("left"), axes.get_xlabel(), axes.get_ylabel()]
    for axis in (axes.xaxis, axes.yaxis):
        state += [axis.get_scale(), *axis.get_view_interval(), *getattr(axis.get_major_formatter(), "seq", ())]
    return state


def share_limits(axes: np.ndarray) -> None:
    """Give panels of curves, of axes [rows, panels], the same limits in every row."""
    for column in axes.T:
        if not any(each.images for each in column):
            x, y = (np.array([getattr(each, f"get_{which}lim")() for each in column]) for which in "xy")
            for each in column:
                each.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))


def numbers(count: int, first: int = 1) -> list[tuple[str, int]]:
    """Options for places from 0, labelled from `first` on."""
    return [(str(place + first), place) for place in range(count)]
