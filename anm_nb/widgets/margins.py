"""Margins of a finished run: how hard its pairs are, by step and noise level (checklist, section A)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from anm_nb.analysis.tables import rounded
from anm_nb.run import Run
from anm_nb.widgets.controls import Control
from anm_nb.widgets.explorer import Explorer
from anm_nb.widgets.picture import Answers, panels

HELD_OUT, BATCH = "held-out pairs", "the batch's own pairs"
ARRAYS = {HELD_OUT: "dev_margins", BATCH: "margins"}  # in the trace, each [seeds, records, pairs]
BARS = 40
WITHIN = 0.95  # share of all recorded margins that lie between the outermost bars
EXAMPLES = 4  # pairs that there is room for
QUARTILES = {"first quartile": 0.25, "median": 0.5, "third quartile": 0.75}


class MarginExplorer(Explorer):
    """Margins E⁻ − E⁺ of a run's pairs: histogram with quartiles, p_hard over training, and the pairs behind a bar.

    Held-out pairs have negatives that are legitimate by construction, the same at every record; a batch's own pairs are
    those that the run was trained on at that step, of which the store keeps the margins alone.
    """

    name: ClassVar[str] = "margin"
    needs: ClassVar[str] = "Train an energy: run notebook 10_anm_vs_corruption, or anm-nb demo in a terminal."
    height: ClassVar[float] = 3.9

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

    def make_axes(self, figure: Figure) -> Sequence[Axis]:
        """Histogram on the left; p_hard over training and a few pairs, truth above negative, on the right."""
        self.histogram = axes = panels(figure, 1, 1, left=0.07, right=0.48, bottom=0.12, top=0.96)[0, 0]
        axes.set(xlabel="margin E⁻ − E⁺, nats (marks at the top: quartiles)")
        axes.yaxis.set(major_formatter=PercentFormatter(1, decimals=0), major_locator=MaxNLocator(5))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        figure.text(0.005, 0.54, "share of pairs", rotation=90, va="center")
        self.curve = panels(figure, 1, 1, left=0.6, right=0.985, bottom=0.66, top=0.96)[0, 0]
        self.curve.set(xlabel="training step", ylabel="p_hard, share\nwith margin < 0", ylim=(-0.03, 1.03))
        self.curve.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        self.curve.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        self.examples = panels(figure, 1, 1, left=0.6, right=0.985, bottom=0.01, top=0.43)[0, 0]
        self.examples.set(xlim=(0, EXAMPLES), ylim=(0, 2), aspect="equal", anchor="S")
        self.examples.set_axis_off()
        for height, text in ((1.5, "truth"), (0.5, "negative")):
            figure.text(-0.03, height, text, rotation=90, va="center", ha="right", transform=self.examples.transData)
        return [self.histogram.yaxis]

    def open(self, run: Run) -> None:
        """Read the run's margins and pairs."""
        self.steps = sorted(int(step) for step in run.metrics["step"].unique())
        self.margins = {kind: run.trace[name].numpy() for kind, name in ARRAYS.items() if name in run.trace}
        reaches = {kind: float(np.nanquantile(np.abs(each), WITHIN)) or 1.0 for kind, each in self.margins.items()}
        self.edges = {kind: np.linspace(-reach, reach, BARS + 1) for kind, reach in reaches.items()}  # 0 is one of them
        kept = "probe_negatives" in run.trace  # runs of older versions keep no pairs
        self.answers = Answers.of(run) if kept else None
        self.levels = run.trace["dev_levels"][:, 0].numpy() if kept else None  # [seeds, pairs]
        self.source.offer([(source, source) for source in self.margins])
        self.offer_seeds(*([("all seeds", None)] if len(run.settings["seeds"]) > 1 else []))
        self.step.offer([(str(step), record) for record, step in enumerate(self.steps)], len(self.steps) - 1)
        self.bar.offer([("none", None), *((str(bar + 1), bar) for bar in range(BARS))])
        self._offer_levels()
        room = 0.02 * (self.steps[-1] - self.steps[0])
        self.curve.set_xlim(self.steps[0] - room, self.steps[-1] + room)

    def draw(self) -> tuple[str, Mapping[str, str]]:
        """The histogram of the shown pairs, the curve and its cursor, and the first pairs behind the bar."""
        with self._settle():
            self._offer_levels()
        margins, step = self.shown_margins(), self.steps[self.step.value]
        quartiles = np.quantile(margins, [*QUARTILES.values()]) if len(margins) else np.full(3, np.nan)
        p_hard, behind = self.hard_shares(), self.behind_bar()
        about = self._about(len(behind))
        self._draw_histogram(margins, quartiles)
        (self.p_hard,) = self.curve.plot(self.steps, p_hard, marker=".", color=self.colour)
        self.cursor = self.curve.axvline(step, color="black", linewidth=0.8)
        self.curve.plot([step], [p_hard[self.step.value]], "o", color="black", markersize=4)
        self.about = self.examples.text(0, 2.5, about)
        self._draw_examples(behind[:EXAMPLES])
        hard = f"{100 * p_hard[self.step.value]:.1f} %"
        low, middle, high = map(rounded, quartiles)
        readouts = {"step": str(step), "pairs": str(len(margins)), "p_hard": hard}
        readouts |= {name: f"{value} nats" for name, value in zip(QUARTILES, (low, middle, high), strict=True)}
        level = "all noise levels" if self.level.value is None else f"noise level {self.level.value}"
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
            chosen &= np.arange(len(chosen))[:, np.newaxis] == self.seed.value
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

    def _draw_histogram(self, margins: np.ndarray, quartiles: np.ndarray) -> None:
        axes, edges, bar = self.histogram, self.edges[self.source.value], self.bar.value
        shares = np.bincount(self.bar_of(margins), minlength=BARS) / max(1, len(margins))
        if axes.get_xlim() != (edges[0], edges[-1]):
            self.picture.refresh()  # the axis below the bars does not move otherwise
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, max(0.01, 1.12 * float(shares.max()))))
        self.bars = axes.stairs(shares, edges, fill=True, color=self.colour, alpha=0.75)
        if bar is not None:
            axes.stairs(shares[bar : bar + 1], edges[bar : bar + 2], fill=True, color="black")
        axes.axvline(0, color="black", linewidth=0.8)
        self.quartiles = axes.vlines(
            np.clip(quartiles, edges[0], edges[-1]),
            0.94,
            1,
            "black",
            linewidth=1.2,
            transform=axes.get_xaxis_transform(),
        )

    def _draw_examples(self, pairs: np.ndarray) -> None:
        """The first pairs behind the bar, in the colours of their truths, as far as the trace keeps them."""
        answers, trace = self.answers, self.run.trace
        self.titles, self.images = [], []
        if answers is None or self.source.value != HELD_OUT:
            return
        rows, columns = answers.shape
        for column, (place, example) in enumerate(pairs.tolist()):
            margin = self.margins[HELD_OUT][place, self.step.value, example]
            text = f"k = {int(trace['dev_levels'][place, 0, example])}\nm = {margin:.3g}"
            self.titles.append(self.examples.text(column + 0.45, 2.05, text, fontsize=6.5, ha="center"))
            if example >= trace["probe_y"].shape[2]:
                continue
            truth, negative = (answers.array(trace[name][place, 0, example]) for name in ("probe_y", "probe_negatives"))
            style = {"aspect": "equal", "interpolation": "nearest", **answers.colours(truth)}
            for low, array in ((1.05, truth), (0.05, negative)):
                extent = (column, column + 0.9, low, low + 0.9 * min(1.0, rows / columns))
                self.images.append(self.examples.imshow(array, extent=extent, **style))
