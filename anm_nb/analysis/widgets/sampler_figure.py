"""The figure of the sampler explorer: its panels, made once, and what moves in them."""

from __future__ import annotations

import numpy as np
from matplotlib.artist import Artist
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text
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
        self.digits = Digits(self.boards[:2])
        self.moving = [*self.images, self.digits, *self.cursors]

    def open(self, answers: AnswerPictures, colour: str) -> None:
        """Set up for another run, drawn in its strategy's colour."""
        self.answers = answers
        self.energy.set_color(colour)
        rows, columns = answers.shape
        titles = BOARD_TITLES if answers.digits else TITLES
        for axes, image, title in zip(self.boards, self.images, titles, strict=True):
            image.set_extent((-0.5, columns - 0.5, rows - 0.5, -0.5))
            axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), title=title)
        self.digits.open(answers)
        self.curves[1].set_ylabel("wrong cells" if answers.digits else "squared error, mean")
        self.curves[1].set_yscale("linear" if answers.digits else "log")
        if not answers.digits:
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
        self.digits.show(now, solution.truth)

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
    """The digits of an answer and of the truth in the cells of their boards, and the borders of boxes."""

    def __init__(self, boards: np.ndarray) -> None:
        super().__init__()
        self.boards = boards
        self.texts: list[list[Text]] = [[], []]
        self.lines: list[Artist] = []

    def open(self, answers: AnswerPictures) -> None:
        """Make the texts of boards of this size; none where answers are matrices."""
        for artist in (*self.texts[0], *self.texts[1], *self.lines):
            artist.remove()
        side = answers.digits
        cells = [(row, column) for row in range(side) for column in range(side)]
        box = round(side**0.5) if side else 1
        borders = np.arange(box, side, box) - 0.5
        self.texts = [
            [axes.text(x, y, "", ha="center", va="center_baseline", fontsize=9, animated=True) for y, x in cells]
            for axes in self.boards
        ]
        self.lines = [
            line(place, color="black", linewidth=1.0, animated=True)
            for axes in self.boards
            for place in borders
            for line in (axes.axhline, axes.axvline)
        ]

    def show(self, now: np.ndarray, truth: np.ndarray) -> None:
        """Write these digits."""
        for texts, array in zip(self.texts, (now, truth), strict=True):
            for text, value in zip(texts, array.flat, strict=False):
                text.set_text(str(int(value)))

    def draw(self, renderer: object) -> None:
        """Draw digits and borders."""
        for artist in (*self.texts[0], *self.texts[1], *self.lines):
            artist.draw(renderer)
