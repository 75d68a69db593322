"""Margins of a finished run: how hard its pairs are, by step and noise level (checklist, section A)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter

from anm_nb.analysis.tables import rounded
from anm_nb.run import Run
from anm_nb.widgets.explorer import Control, View, numbers

HELD_OUT, BATCH = "held-out pairs", "the batch's own pairs"
ARRAYS = {HELD_OUT: "dev_margins", BATCH: "margins"}  # in the trace, each [seeds, records, pairs]
ALL = -1  # of seeds or levels
BARS = 40
WITHIN = 0.95  # share of all recorded margins that lie between the outermost bars
QUARTILES = {"first quartile": 0.25, "median": 0.5, "third quartile": 0.75}


class Margins(View):
    """Margins E⁻ − E⁺ of a run's pairs: histogram with quartiles, and p_hard over training.

    Held-out pairs have negatives that are legitimate by construction, the same at every record; a batch's own pairs are
    those that the run was trained on at that step, of which the store keeps the margins alone.
    """

    name = "margin"
    about = "Histogram of margins with marks for quartiles, and beside it p_hard over training."
    needs = "Train an energy: run notebook 10_anm_vs_corruption, or anm-nb demo in a terminal."
    controls = (
        Control("pairs", "Pairs", "Held-out pairs, or those of the batch that was trained on"),
        Control("seed", "Seed", "One seed of the run, or all of them pooled"),
        Control("step", "Training step", "The recorded training step that is shown", "player"),
        Control("level", "Noise level", "Pairs of one level k, 0 having the least noise, or all", "slider"),
    )
    widths = (1.4, 1)

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.steps = np.sort(run.metrics["step"].unique())
        self.margins = {kind: run.trace[name].numpy() for kind, name in ARRAYS.items() if name in run.trace}
        reaches = {kind: float(np.nanquantile(np.abs(each), WITHIN)) or 1.0 for kind, each in self.margins.items()}
        self.edges = {kind: np.linspace(-reach, reach, BARS + 1) for kind, reach in reaches.items()}  # 0 is one of them
        self.levels = run.trace["dev_levels"][:, 0].numpy()  # [seeds, pairs]; of a batch they are not kept
        levels = numbers(run.settings["levels"], 0)
        self.options = {
            "pairs": [(kind, kind) for kind in self.margins],
            "seed": [*([("all", ALL)] if len(self.seeds) > 1 else []), *self.seed_options],
            "step": [(str(step), int(step)) for step in self.steps],
            "level": lambda values: [("all", ALL), *(levels if values["pairs"] == HELD_OUT else [])],
        }
        self.start = {"step": int(self.steps[-1])}

    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> None:
        histogram, curve = axes
        edges = max((view.edges[values["pairs"]] for view in self.together), key=np.max)  # the same bars in all rows
        margins, record, hard = self.chosen(values)
        finite = [each[np.isfinite(each)] for each in margins.swapaxes(0, 1)]
        # A bar holds its lower edge and not its upper one, so that bars left of 0 hold the hard pairs and no others;
        # what lies beyond the outermost bars counts in them.
        bars = [np.searchsorted(edges[1:-1], each, side="right") for each in finite]
        heights = [np.bincount(each, minlength=BARS) / max(1, len(each)) for each in bars]
        histogram.stairs(heights[record], edges, fill=True, color=self.colour, alpha=0.75)
        histogram.axvline(0, color="black", linewidth=0.8)
        marks = np.clip(quartiles(margins[:, record]), edges[0], edges[-1])
        histogram.vlines(marks, 0.94, 1, "black", linewidth=1.2, transform=histogram.get_xaxis_transform())
        highest = max(0.01, *(each.max() for each in heights))  # of all steps, so that the axis stays
        histogram.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.12 * highest))
        histogram.set(xlabel="margin E⁻ − E⁺, nats (marks at the top: quartiles)", ylabel="share of pairs")
        curve.plot(self.steps, hard, marker=".", color=self.colour)
        curve.axvline(self.steps[record], color="black", linewidth=0.8)
        curve.set(xlabel="training step", ylabel="p_hard, share with margin < 0", ylim=(-0.03, 1.03))
        for axis in (histogram.yaxis, curve.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))

    def read_out(self, values: Mapping[str, Any]) -> dict[str, str]:
        margins, record, hard = self.chosen(values)
        shown = margins[:, record]
        told = {"step": str(self.steps[record]), "pairs": str(np.isfinite(shown).sum())}
        told["p_hard"] = f"{100 * hard[record]:.1f} %"
        return told | {name: f"{rounded(at)} nats" for name, at in zip(QUARTILES, quartiles(shown), strict=True)}

    def chosen(self, values: Mapping[str, Any]) -> tuple[np.ndarray, int, np.ndarray]:
        """Margins [seeds, records, pairs], the record nearest to the chosen step, and the share below 0 [records].

        Margins are NaN where seed or level is another, a batch short or a seed stopped.
        """
        margins = self.margins[values["pairs"]]
        chosen = np.ones((len(margins), margins.shape[2]), bool)
        if values["seed"] != ALL:
            chosen &= np.arange(len(margins))[:, np.newaxis] == self.seed_place(values)
        if values["level"] != ALL:
            chosen &= self.levels == values["level"]
        margins = np.where(chosen[:, np.newaxis], margins, np.nan)
        with np.errstate(invalid="ignore"):
            hard = (margins < 0).sum((0, 2)) / np.isfinite(margins).sum((0, 2))
        return margins, int(np.abs(self.steps - values["step"]).argmin()), hard


def quartiles(margins: np.ndarray) -> np.ndarray:
    """First quartile, median and third of the margins that are not NaN; NaN where there are none."""
    finite = margins[np.isfinite(margins)]
    return np.quantile(finite, [*QUARTILES.values()]) if len(finite) else np.full(3, np.nan)
