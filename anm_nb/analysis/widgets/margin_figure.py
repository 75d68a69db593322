"""The figure of the margin explorer: its panels, made once, and what moves in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from anm_nb.analysis.widgets.margin_records import MarginRecords
from anm_nb.analysis.widgets.picture import WIDTH, panels, still_label

EXAMPLES = 4  # pairs that there is room for
HEIGHT = 3.9  # inches


class MarginFigure:
    """Histogram on the left; p_hard over training and up to `EXAMPLES` pairs, truth above negative, on the right."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=(WIDTH, HEIGHT))
        self._make_histogram()
        self._make_curve()
        self._make_examples()
        titles = [axes.title for axes in self.grid[0]]
        for title in titles:
            title.set_fontsize(6.5)
        images = [image for row in self.images for image in row]
        of_histogram = [self.histogram.yaxis, self.bars, self.selected, self.zero, self.quartiles]
        self.moving = [*of_histogram, self.p_hard, self.cursor, self.place, self.about, *titles, *images]

    def _make_histogram(self) -> None:
        (self.histogram,) = panels(self.figure, 1, 1, left=0.07, right=0.48, bottom=0.12, top=0.96).flat
        self.bars = self.histogram.stairs([0.0], [0, 1], fill=True)
        self.selected = self.histogram.stairs([0.0], [0, 1], fill=True, color="black")
        self.zero = self.histogram.axvline(0, color="black", linewidth=0.8)
        (self.quartiles,) = self.histogram.plot([], [], color="black", linewidth=1.2, solid_capstyle="butt")
        self.quartiles.set_transform(self.histogram.get_xaxis_transform())
        self.histogram.set(xlabel="margin E⁻ − E⁺, nats (marks at the top: quartiles)")
        still_label(self.histogram, "share of pairs", 0.005)
        self.histogram.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        self.histogram.yaxis.set_major_locator(MaxNLocator(5))
        self.histogram.xaxis.set_major_locator(MaxNLocator(5))

    def _make_curve(self) -> None:
        (self.curve,) = panels(self.figure, 1, 1, left=0.6, right=0.985, bottom=0.66, top=0.96).flat
        (self.p_hard,) = self.curve.plot([], [], marker=".")
        self.cursor = self.curve.axvline(0, color="black", linewidth=0.8)
        (self.place,) = self.curve.plot([], [], "o", color="black", markersize=4)
        self.curve.set(xlabel="training step", ylabel="p_hard, share\nwith margin < 0", ylim=(-0.03, 1.03))
        self.curve.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        self.curve.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    def _make_examples(self) -> None:
        self.grid = panels(self.figure, 2, EXAMPLES, left=0.6, right=0.985, bottom=0.01, top=0.43, hspace=0.06)
        self.images = [[axes.imshow([[0.0]]) for axes in row] for row in self.grid]
        for row, name in zip(self.grid, ("truth", "negative"), strict=True):
            for axes in row:
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            row[0].set_ylabel(name)
        self.about = self.grid[0, 0].text(0, 1.6, "", transform=self.grid[0, 0].transAxes)

    def open(self, records: MarginRecords, colour: str) -> None:
        """Set up for another run, drawn in its strategy's colour."""
        self.bars.set(color=colour, alpha=0.75)
        self.p_hard.set_color(colour)
        span = records.steps[-1] - records.steps[0]
        self.curve.set_xlim(records.steps[0] - 0.02 * span, records.steps[-1] + 0.02 * span)
        self.answers = records.answers
        rows, columns = self.answers.shape
        for image in (image for row in self.images for image in row):
            image.set(cmap=self.answers.colours, extent=(0, columns, rows, 0))

    def draw_histogram(self, edges: np.ndarray, shares: np.ndarray, quartiles: np.ndarray, bar: int | None) -> None:
        """Bars of these heights, short lines at the quartiles, and the selected bar in black."""
        self.bars.set_data(shares, edges)
        self.selected.set_visible(bar is not None)
        if bar is not None:
            self.selected.set_data(shares[bar : bar + 1], edges[bar : bar + 2])
        inside = np.clip(quartiles, edges[0], edges[-1])
        self.quartiles.set_data(np.repeat(inside, 3), np.tile([0.94, 1.0, np.nan], len(inside)))
        self.histogram.set(xlim=(edges[0], edges[-1]), ylim=(0, max(0.01, 1.12 * float(shares.max()))))

    def draw_curve(self, steps: Sequence[int], p_hard: np.ndarray, record: int) -> None:
        """p_hard at each step, and the cursor at one of the records."""
        self.p_hard.set_data(steps, p_hard)
        self.cursor.set_xdata([steps[record]] * 2)
        self.place.set_data([steps[record]], [p_hard[record]])

    def draw_examples(self, pairs: Sequence[tuple[str, np.ndarray, np.ndarray]], about: str) -> None:
        """Pairs with their titles, in the colours of their truths; panels left over are empty."""
        self.about.set_text(about)
        titles = [title for title, _, _ in pairs]
        for axes, title in zip(self.grid[0], titles + [""] * (EXAMPLES - len(titles)), strict=True):
            axes.title.set_text(title)
        for column in range(EXAMPLES):
            for row, images in enumerate(self.images):
                images[column].set_visible(column < len(pairs))
                if column < len(pairs):
                    images[column].set_data(pairs[column][1 + row])
                    images[column].set_clim(*self.answers.limits(pairs[column][1]))
