"""Margins of a finished run: how hard its pairs are, by step and noise level (checklist, section A)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from anm_nb.analysis.tables import rounded
from anm_nb.run import Run
from anm_nb.widgets.controls import Control
from anm_nb.widgets.explorer import Explorer
from anm_nb.widgets.picture import WIDTH, Answers, panels, still_label

HELD_OUT, BATCH = "held-out pairs", "the batch's own pairs"
ARRAYS = {HELD_OUT: "dev_margins", BATCH: "margins"}  # in the trace, each [seeds, records, pairs]
BARS = 40
WITHIN = 0.95  # share of all recorded margins that lie between the outermost bars
EXAMPLES = 4  # pairs that there is room for


class MarginExplorer(Explorer):
    """Margins E⁻ − E⁺ of a run's pairs: histogram with quartiles, p_hard over training, and the pairs behind a bar.

    Held-out pairs have negatives that are legitimate by construction, the same at every record; a batch's own pairs are
    those that the run was trained on at that step, of which the store keeps the margins alone.
    """

    name: ClassVar[str] = "margin"
    needs: ClassVar[str] = "Train an energy: run notebook 10_anm_vs_corruption, or anm-nb demo in a terminal."

    @classmethod
    def suits(cls, run: Run) -> bool:
        """Whether it is a run of an energy: all of these record margins."""
        return run.summary["family"] == "energy"

    def make_controls(self) -> Sequence[Control]:
        """Pairs, seed, training step, noise level, and the bar whose pairs are shown."""
        self.source = Control("pairs", "Pairs", "Held-out pairs, or those of the batch that was trained on")
        self.seed = Control("seed", "Seed", "One seed of the run, or all of them pooled")
        self.step = Control("step", "Training step", "The recorded training step that is shown", "player")
        self.level = Control("level", "Noise level", "Pairs of one level k, 0 having the least noise, or all", "slider")
        self.bar = Control("bar", "Bar", "The bar of the histogram whose pairs are shown, from left to right", "slider")
        return [self.source, self.seed, self.step, self.level, self.bar]

    def make_figure(self) -> tuple[Figure, Sequence[Artist]]:
        """Histogram on the left; p_hard over training and a few pairs, truth above negative, on the right."""
        figure = Figure(figsize=(WIDTH, 3.9))
        moving = [*self._make_histogram(figure), *self._make_curve(figure), *self._make_examples(figure)]
        return figure, moving

    def open(self, run: Run) -> None:
        """Read the run's margins and pairs."""
        self.seeds: list[int] = run.settings["seeds"]
        self.steps = sorted(int(step) for step in run.metrics["step"].unique())
        self.margins = {kind: run.trace[name].numpy() for kind, name in ARRAYS.items() if name in run.trace}
        reaches = {kind: float(np.nanquantile(np.abs(each), WITHIN)) or 1.0 for kind, each in self.margins.items()}
        self.edges = {kind: np.linspace(-reach, reach, BARS + 1) for kind, reach in reaches.items()}  # 0 is one of them
        kept = "probe_negatives" in run.trace  # runs of older versions keep no pairs
        self.answers = Answers.of(run) if kept else None
        self.levels = run.trace["dev_levels"][:, 0].numpy() if kept else None  # [seeds, pairs]
        every: list[tuple[str, Any]] = [("all seeds", None)] if len(self.seeds) > 1 else []
        self.source.offer([(source, source) for source in self.margins])
        self.seed.offer([*every, *((f"seed {seed}", seed) for seed in self.seeds)])
        self.step.offer([(str(step), record) for record, step in enumerate(self.steps)], len(self.steps) - 1)
        self.bar.offer([("none", None), *((str(bar + 1), bar) for bar in range(BARS))])
        self._offer_levels()
        self.bars.set(color=self.colour, alpha=0.75)
        self.p_hard.set_color(self.colour)
        room = 0.02 * (self.steps[-1] - self.steps[0])
        self.curve.set_xlim(self.steps[0] - room, self.steps[-1] + room)

    def draw(self) -> tuple[str, Mapping[str, str]]:
        """The histogram of the shown pairs, the curve and its cursor, and the first pairs behind the bar."""
        with self._settle():
            self._offer_levels()
        margins, step = self.shown_margins(), self.steps[self.step.value]
        quartiles = np.quantile(margins, [0.25, 0.5, 0.75]) if len(margins) else np.full(3, np.nan)
        p_hard, behind = self.hard_shares(), self.behind_bar()
        self._draw_histogram(margins, quartiles)
        self._draw_curve(p_hard)
        about = self._about(len(behind))
        self._draw_examples(behind[:EXAMPLES], about)
        hard = f"{100 * p_hard[self.step.value]:.1f} %"
        readouts = {"step": str(step), "pairs": str(len(margins)), "p_hard": hard}
        names = ("first quartile", "median", "third quartile")
        readouts |= {name: f"{rounded(value)} nats" for name, value in zip(names, quartiles, strict=True)}
        level = "all noise levels" if self.level.value is None else f"noise level {self.level.value}"
        low, middle, high = map(rounded, quartiles)
        alt = (
            f"Histogram of {len(margins)} margins of {self.method}, {self.source.value}, {self.seed.label}, {level}, "
            f"at training step {step}: median {middle}, half of them between {low} and {high} nats. Beside it p_hard "
            f"over training, {hard} at this step, from {100 * p_hard[0]:.1f} % at the first record to "
            f"{100 * p_hard[-1]:.1f} % at the last."
        )
        if self.bar.value is not None:
            low, high = map(rounded, self.edges[self.source.value][self.bar.value : self.bar.value + 2])
            readouts |= {"bar": f"{low} to {high} nats", "pairs in bar": str(len(behind))}
            alt += f" {about}."
        return alt, readouts

    def chosen(self) -> np.ndarray:
        """Which pairs are of the chosen seed and level: [seeds, pairs]."""
        chosen = np.ones(self.margins[self.source.value][:, 0].shape, bool)
        if self.seed.value is not None:
            chosen &= np.array(self.seeds)[:, np.newaxis] == self.seed.value
        return chosen if self.level.value is None else chosen & (self.levels == self.level.value)

    def shown_margins(self) -> np.ndarray:
        """Margins of the chosen pairs at the chosen step; NaN, of a short batch or a stopped seed, is left out."""
        margins = self.margins[self.source.value][:, self.step.value]
        return margins[self.chosen() & np.isfinite(margins)]

    def hard_shares(self) -> np.ndarray:
        """The share of the chosen pairs with a margin below 0 at each record: [records]; NaN where there are none."""
        margins = self.margins[self.source.value]
        chosen = np.isfinite(margins) & self.chosen()[:, np.newaxis]
        with np.errstate(invalid="ignore"):
            return ((margins < 0) & chosen).sum((0, 2)) / chosen.sum((0, 2))

    def bar_of(self, margins: np.ndarray) -> np.ndarray:
        """The bar that each margin falls in, from 0; what lies beyond the outermost bars counts in them.

        A bar holds its lower edge and not its upper one, so that bars left of 0 hold the hard pairs and no others.
        """
        return np.searchsorted(self.edges[self.source.value][1:-1], margins, side="right")

    def behind_bar(self) -> np.ndarray:
        """The chosen pairs in the selected bar, as places of seed and example [n, 2], the smallest margin first."""
        margins = self.margins[self.source.value][:, self.step.value]
        if self.bar.value is None:
            return np.zeros((0, 2), int)
        inside = self.chosen() & np.isfinite(margins) & (self.bar_of(margins) == self.bar.value)
        return np.argwhere(inside)[np.argsort(margins[inside], kind="stable")]

    def _offer_levels(self) -> None:
        """All levels, and single ones where it is known which pair has which."""
        known = self.source.value == HELD_OUT and self.levels is not None
        levels = range(self.run.settings["levels"]) if known else ()
        if self.level.values != [None, *levels]:
            self.level.offer([("all", None), *((str(level), level) for level in levels)])

    def _about(self, count: int) -> str:
        if self.bar.value is None:
            return "No bar is selected"
        if self.source.value == BATCH:
            return f"{count} pairs in the bar; a batch's pairs are not kept"
        if self.answers is None:
            return f"{count} pairs in the bar; the run keeps no pairs"
        return f"{min(EXAMPLES, count)} of the {count} pairs in the bar"

    def _make_histogram(self, figure: Figure) -> list[Artist]:
        (axes,) = panels(figure, 1, 1, left=0.07, right=0.48, bottom=0.12, top=0.96).flat
        self.histogram = axes
        self.bars = axes.stairs([0.0], [0, 1], fill=True)
        self.selected = axes.stairs([0.0], [0, 1], fill=True, color="black")
        zero = axes.axvline(0, color="black", linewidth=0.8)
        (self.quartiles,) = axes.plot([], [], color="black", linewidth=1.2, solid_capstyle="butt")
        self.quartiles.set_transform(axes.get_xaxis_transform())
        axes.set(xlabel="margin E⁻ − E⁺, nats (marks at the top: quartiles)")
        still_label(axes, "share of pairs", 0.005)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        return [axes.yaxis, self.bars, self.selected, zero, self.quartiles]

    def _make_curve(self, figure: Figure) -> list[Artist]:
        (self.curve,) = panels(figure, 1, 1, left=0.6, right=0.985, bottom=0.66, top=0.96).flat
        (self.p_hard,) = self.curve.plot([], [], marker=".")
        self.cursor = self.curve.axvline(0, color="black", linewidth=0.8)
        (self.place,) = self.curve.plot([], [], "o", color="black", markersize=4)
        self.curve.set(xlabel="training step", ylabel="p_hard, share\nwith margin < 0", ylim=(-0.03, 1.03))
        self.curve.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        self.curve.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        return [self.p_hard, self.cursor, self.place]

    def _make_examples(self, figure: Figure) -> list[Artist]:
        grid = panels(figure, 2, EXAMPLES, left=0.6, right=0.985, bottom=0.01, top=0.43, hspace=0.06)
        self.images = np.array([[axes.imshow([[0.0]]) for axes in row] for row in grid])  # truths above negatives
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        grid[0, 0].set_ylabel("truth")
        grid[1, 0].set_ylabel("negative")
        self.titles = [axes.title for axes in grid[0]]
        for title in self.titles:
            title.set_fontsize(6.5)
        self.about = grid[0, 0].text(0, 1.6, "", transform=grid[0, 0].transAxes)
        return [self.about, *self.titles, *self.images.flat]

    def _draw_histogram(self, margins: np.ndarray, quartiles: np.ndarray) -> None:
        edges, bar = self.edges[self.source.value], self.bar.value
        shares = np.bincount(self.bar_of(margins), minlength=BARS) / max(1, len(margins))
        if self.histogram.get_xlim() != (edges[0], edges[-1]):
            self.picture.refresh()  # the axis below the bars does not move otherwise
        self.bars.set_data(shares, edges)
        self.selected.set_visible(bar is not None)
        if bar is not None:
            self.selected.set_data(shares[bar : bar + 1], edges[bar : bar + 2])
        inside = np.clip(quartiles, edges[0], edges[-1])
        self.quartiles.set_data(np.repeat(inside, 3), np.tile([0.94, 1.0, np.nan], 3))
        self.histogram.set(xlim=(edges[0], edges[-1]), ylim=(0, max(0.01, 1.12 * float(shares.max()))))

    def _draw_curve(self, p_hard: np.ndarray) -> None:
        record = self.step.value
        self.p_hard.set_data(self.steps, p_hard)
        self.cursor.set_xdata([self.steps[record]] * 2)
        self.place.set_data([self.steps[record]], [p_hard[record]])

    def _draw_examples(self, pairs: np.ndarray, about: str) -> None:
        """The first pairs behind the bar, in the colours of their truths, as far as the trace keeps them."""
        self.about.set_text(about)
        answers, trace = self.answers, self.run.trace
        kept = pairs.tolist() if answers is not None and self.source.value == HELD_OUT else []
        for column, images in enumerate(self.images.T):
            self.titles[column].set_text("")
            for image in images:
                image.set_visible(False)
            if answers is None or column >= len(kept):
                continue
            place, example = kept[column]
            margin = self.margins[HELD_OUT][place, self.step.value, example]
            self.titles[column].set_text(f"k = {int(trace['dev_levels'][place, 0, example])}\nm = {margin:.3g}")
            if example >= trace["probe_y"].shape[2]:
                continue
            truth, negative = (answers.array(trace[name][place, 0, example]) for name in ("probe_y", "probe_negatives"))
            rows, columns = answers.shape
            for image, array in zip(images, (truth, negative), strict=True):
                image.set(data=array, extent=(0, columns, rows, 0), visible=True, **answers.colours(truth))
