"""Margins of a finished run: how hard its pairs are, by step and noise level (checklist, section A)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from anm_nb.analysis.figures import colours, label
from anm_nb.analysis.tables import rounded
from anm_nb.analysis.widgets.controls import Choice, Slider
from anm_nb.analysis.widgets.explorer import Explorer
from anm_nb.analysis.widgets.margin_figure import EXAMPLES, MarginFigure
from anm_nb.analysis.widgets.margin_records import BARS, BATCH, HELD_OUT, MarginRecords
from anm_nb.analysis.widgets.picker import Stored
from anm_nb.store import Run


class MarginExplorer(Explorer):
    """Margins E⁻ − E⁺ of a run's pairs: histogram with quartiles, p_hard over training, and the pairs behind a bar.

    Held-out pairs have negatives that are legitimate by construction, the same at every record; a batch's own pairs are
    those that the run was trained on at that step, of which the store keeps the margins alone.
    """

    name: ClassVar[str] = "margin"
    needs: ClassVar[str] = "Train an energy: run notebook 10_anm_vs_corruption, or anm-nb demo in a terminal."

    @classmethod
    def suits(cls, stored: Stored) -> bool:
        """Whether it is a run of an energy: all of these record margins."""
        return stored.listed.summary["family"] == "energy"

    def make_controls(self) -> Sequence[Choice]:
        """Pairs, seed, training step, noise level, and the bar whose pairs are shown."""
        self.source = Choice("pairs", "Pairs", "Held-out pairs, or those of the batch that was trained on")
        self.seed = Choice("seed", "Seed", "One seed of the run, or all of them pooled")
        self.step = Slider("step", "Training step", "The recorded training step that is shown", playable=True)
        self.level = Slider("level", "Noise level", "Pairs of one noise level k, 0 having the least noise, or all")
        self.bar = Slider("bar", "Bar", "The bar of the histogram whose pairs are shown, from left to right")
        return [self.source, self.seed, self.step, self.level, self.bar]

    def make_figure(self) -> tuple[Figure, Sequence[Artist]]:
        """Histogram, p_hard curve and room for a few pairs."""
        self.panels = MarginFigure()
        return self.panels.figure, self.panels.moving

    def open(self, run: Run) -> None:
        """Read the margins; the pairs themselves are drawn again when they are first asked for."""
        self.records = MarginRecords(run)
        every: list[tuple[str, Any]] = [("all seeds", None)] if len(self.records.seeds) > 1 else []
        self.source.offer([(source, source) for source in self.records.margins])
        self.seed.offer([*every, *((f"seed {seed}", seed) for seed in self.records.seeds)])
        self.step.offer([(str(step), record) for record, step in enumerate(self.records.steps)], self.records.last)
        self.bar.offer([("none", None), *((str(bar + 1), bar) for bar in range(BARS))])
        self._offer_levels()
        self.panels.open(self.records, colours([self.picker.stored.method])[self.picker.stored.method])

    def draw(self) -> tuple[str, Mapping[str, str]]:
        """The histogram of the shown pairs, the curve and its cursor, and the first pairs behind the bar."""
        with self._moved_by_us():
            self._offer_levels()
        pairs, edges = self.shown(), self.records.edges(self.source.value)
        heights = self.records.share_in_bars(self.source.value, pairs["margin"].to_numpy())
        p_hard = self.records.p_hard(self.source.value, self.seed.value, self.level.value)
        quartiles = np.quantile(pairs["margin"], [0.25, 0.5, 0.75]) if len(pairs) else np.full(3, np.nan)
        if self.panels.histogram.get_xlim() != (edges[0], edges[-1]):
            self.picture.refresh()  # the axis below the bars does not move otherwise
        self.panels.draw_histogram(edges, heights, quartiles, self.bar.value)
        self.panels.draw_curve(self.records.steps, p_hard, self.step.value)
        behind = self.behind_bar()
        self.panels.draw_examples(self._answers(behind.head(EXAMPLES)), self._about_examples(behind))
        step = self.records.steps[self.step.value]
        level = "all noise levels" if self.level.value is None else f"noise level {self.level.value}"
        where = f"{label(self.picker.stored.method)}, {self.source.value}, {self.seed.label}, {level}"
        readouts = {
            "step": str(step),
            "pairs": str(len(pairs)),
            "p_hard": f"{100 * p_hard[self.step.value]:.1f} %",
            "first quartile": f"{rounded(quartiles[0])} nats",
            "median": f"{rounded(quartiles[1])} nats",
            "third quartile": f"{rounded(quartiles[2])} nats",
        }
        alt = (
            f"Histogram of {len(pairs)} margins of {where}, at training step {step}: median {rounded(quartiles[1])}, "
            f"half of them between {rounded(quartiles[0])} and {rounded(quartiles[2])} nats. Beside it p_hard over "
            f"training, {readouts['p_hard']} at this step, from {100 * p_hard[0]:.1f} % at the first record to "
            f"{100 * p_hard[-1]:.1f} % at the last."
        )
        if self.bar.value is not None:
            low, high = edges[self.bar.value : self.bar.value + 2]
            readouts["bar"] = f"{rounded(low)} to {rounded(high)} nats"
            readouts["pairs in bar"] = str(len(behind))
            alt += f" {self._about_examples(behind)}."
        return alt, readouts

    def shown(self) -> pd.DataFrame:
        """The pairs in the histogram: columns seed, example (its place in the held-out set or the batch) and margin."""
        return self.records.shown(self.source.value, self.step.value, self.seed.value, self.level.value)

    def behind_bar(self) -> pd.DataFrame:
        """The shown pairs whose margins fall in the selected bar, the smallest margin first; none without one."""
        pairs = self.shown()
        if self.bar.value is None:
            return pairs.iloc[:0]
        bars = self.records.bar_of(self.source.value, pairs["margin"].to_numpy())
        return pairs[bars == self.bar.value].sort_values("margin", kind="stable")

    def _offer_levels(self) -> None:
        """All levels, and single ones where it is known which pair has which."""
        levels = range(self.records.levels) if self.source.value == HELD_OUT and self.records.pairs_kept else ()
        wanted: list[tuple[str, Any]] = [("all", None), *((str(level), level) for level in levels)]
        if self.level.values != [level for _, level in wanted]:
            self.level.offer(wanted)

    def _answers(self, pairs: pd.DataFrame) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Title, truth and negative of each pair, as pictures."""
        if self.source.value == BATCH or not self.records.pairs_kept:
            return []
        columns = (pairs[name].to_numpy() for name in ("seed", "example", "margin"))
        return [self.records.pictured(*pair) for pair in zip(*(each.tolist() for each in columns), strict=True)]

    def _about_examples(self, behind: pd.DataFrame) -> str:
        if self.bar.value is None:
            return "No bar is selected"
        if self.source.value == BATCH:
            return f"{len(behind)} pairs in the bar; a batch's pairs are not kept"
        if not self.records.pairs_kept:
            return f"{len(behind)} pairs in the bar; the run keeps no pairs"
        return f"{min(EXAMPLES, len(behind))} of the {len(behind)} pairs in the bar"
