"""The figure of the sampler explorer: its panels, made once, and what moves in them."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from anm_nb.analysis.widgets.answers import AnswerPictures
from anm_nb.analysis.widgets.picture import WIDTH, panels
from anm_nb.analysis.widgets.sampler_records import Solution

HEIGHT = 4.6  # inches
GIVEN, RIGHT, WRONG = "#d9d9d9", "#ffffff", "#f5b68a"
TITLES = ("answer now", "truth", "|answer − truth|")
BOARD_TITLES = ("answer now (grey: given, orange: wrong)", "solution", "wrong cells")


class SamplerFigure:
    """Answer, truth and difference above; energy and error over the sampler's steps, with one cursor, below."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=(WIDTH, HEIGHT))
        self.boards = panels(self.figure, 1, 3, left=0.02, right=0.98, bottom=0.46, top=0.95, wspace=0.06)[0]
        self.images = [axes.imshow([[0.0]]) for axes in self.boards]
        for axes in self.boards:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(True)
        self.curves = panels(self.figure, 1, 2, left=0.09, right=0.985, bottom=0.1, top=0.37, wspace=0.25)[0]
        (self.energy,) = self.curves[0].plot([], [], marker=".", markersize=3)
        (self.error,) = self.curves[1].plot([], [], marker=".", markersize=3, color="black")
        self.cursors = [axes.axvline(1, color="black", linewidth=0.8) for axes in self.curves]
        self.curves[0].set_ylabel("energy, nats")
        for axes in self.curves:
            axes.set_xlabel("sampler step (breaks: to the next noise level)")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        self.digits = [Digits(axes) for axes in self.boards[:2]]
        frames = [spine for axes in self.boards for spine in axes.spines.values()]
        self.moving = [*self.images, *frames, *self.digits, *self.cursors]

    def open(self, answers: AnswerPictures, colour: str) -> None:
        """Set up for another run, drawn in its strategy's colour."""
        self.answers = answers
        self.energy.set_color(colour)
        rows, columns = answers.shape
        titles = BOARD_TITLES if answers.digits else TITLES
        for axes, image, title in zip(self.boards, self.images, titles, strict=True):
            image.set_extent((-0.5, columns - 0.5, rows - 0.5, -0.5))
            axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), title=title)
        for digits in self.digits:
            digits.open(answers.digits)
        self.curves[1].set_ylabel("wrong cells" if answers.digits else "squared error, mean")
        self.curves[1].set_yscale("linear" if answers.digits else "log")
        if answers.digits:
            self.curves[1].yaxis.set_major_locator(MaxNLocator(5, integer=True))
        else:
            self.curves[1].yaxis.set(
                major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_formatter=NullFormatter()
            )

    def draw_answer(self, solution: Solution, state: int) -> None:
        """The three pictures at one of the sampler's states."""
        now, error = solution.answers[state], solution.error[state]
        now_image, truth_image, error_image = self.images
        if self.answers.digits:
            colour = ListedColormap([GIVEN, RIGHT, WRONG])
            for image, marked in ((now_image, error > 0), (truth_image, np.zeros_like(solution.given))):
                image.set(data=np.where(solution.given, 0, np.where(marked, 2, 1)), cmap=colour, clim=(0, 2))
            error_image.set(data=error, cmap=ListedColormap([RIGHT, WRONG]), clim=(0, 1))
        else:
            limits = self.answers.limits(solution.truth)
            for image, array in ((now_image, now), (truth_image, solution.truth)):
                image.set(data=array, cmap=self.answers.colours, clim=limits)
            error_image.set(data=error, cmap="cividis", clim=(0, limits[1]))
        for digits, array in zip(self.digits, (now, solution.truth), strict=True):
            digits.show(array)

    def draw_cursors(self, state: int) -> None:
        """The cursors at one of the sampler's states."""
        for cursor in self.cursors:
            cursor.set_xdata([state + 1] * 2)

    def draw_curves(self, solution: Solution) -> None:
        """Energy and error over all states of another solution, broken where the level changes; these do not move."""
        steps = np.arange(1.0, len(solution.level) + 1)
        breaks = np.flatnonzero(np.diff(solution.level)) + 1
        flat = solution.error.reshape(len(steps), -1)
        errors = flat.sum(1) if self.answers.digits else np.square(flat).mean(1)
        for axes, line, values in zip(self.curves, (self.energy, self.error), (solution.energy, errors), strict=True):
            line.set_data(np.insert(steps, breaks, np.nan), np.insert(values.astype(float), breaks, np.nan))
            axes.set_xlim(0.5, len(steps) + 0.5)
            axes.relim()
            axes.autoscale_view(scalex=False)


class Digits(Artist):
    """The digits of a board and the borders of its boxes; digits are markers, as texts are slow to draw."""

    def __init__(self, board: Axes) -> None:
        super().__init__()
        self.board = board
        self.markers: list[Line2D] = []
        self.borders: list[Line2D] = []

    def open(self, side: int) -> None:
        """Make the digits 1 … `side`, and borders of a board of so many rows; none at all where that is 0."""
        for artist in (*self.markers, *self.borders):
            artist.remove()
        style: dict[str, Any] = {"color": "black", "animated": True}
        self.markers = [
            self.board.plot([], [], marker=_glyph(digit + 1), markersize=9, markeredgewidth=0, linestyle="", **style)[0]
            for digit in range(side)
        ]
        box = round(side**0.5) or 1
        places = np.arange(box, side, box) - 0.5
        lines = (self.board.axhline, self.board.axvline)
        self.borders = [line(place, linewidth=1.0, **style) for place in places for line in lines]

    def show(self, digits: np.ndarray) -> None:
        """Write these digits [rows, columns]."""
        for digit, marker in enumerate(self.markers, start=1):
            rows, columns = np.nonzero(digits == digit)
            marker.set_data(columns, rows)

    def draw(self, renderer: Any) -> None:
        """Draw digits and borders."""
        for artist in (*self.markers, *self.borders):
            artist.draw(renderer)


def _glyph(digit: int) -> Path:
    """A digit's outline around its own middle."""
    outline = TextPath((0, 0), str(digit), size=10)
    middle = (outline.vertices.min(0) + outline.vertices.max(0)) / 2
    return Path(outline.vertices - middle, outline.codes)
