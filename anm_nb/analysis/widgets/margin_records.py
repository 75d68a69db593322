"""The margins that a finished run has recorded, and the held-out pairs they belong to."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

from anm_nb.analysis.widgets.answers import AnswerPictures
from anm_nb.energy.train import EnergyConfig
from anm_nb.store import Run

HELD_OUT, BATCH = "held-out pairs", "the batch's own pairs"
ARRAYS = {HELD_OUT: "dev_margins", BATCH: "margins"}  # in the trace, each [seeds, records, pairs]
BARS = 40
WITHIN = 0.95  # share of all recorded margins that lie between the outermost bars


class MarginRecords:
    """Margins [seeds, records, pairs] of a run by the kind of pairs; a record is a place in `steps`.

    NaN stands where a batch was short or a seed had stopped.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.seeds: list[int] = run.settings["seeds"]
        self.steps: list[int] = sorted(int(step) for step in run.metrics["step"].unique())
        self.levels: int = run.settings["levels"]
        self.margins = {kind: run.trace[array].numpy() for kind, array in ARRAYS.items() if array in run.trace}
        self.pairs_kept = "probe_negatives" in run.trace  # runs of older versions have none
        self.answers = AnswerPictures(_config(run).make_task())
        self.edges = cache(self._edges)

    @property
    def last(self) -> int:
        """The place of the last record."""
        return len(self.steps) - 1

    def shown(self, kind: str, record: int, seed: int | None, level: int | None) -> pd.DataFrame:
        """The pairs of one record: columns seed, example and margin. None stands for all seeds and all levels."""
        margins = self.margins[kind][:, record]
        chosen = np.isfinite(margins) & self._mask(kind, seed, level)
        of_seed, example = np.nonzero(chosen)
        return pd.DataFrame({"seed": np.array(self.seeds)[of_seed], "example": example, "margin": margins[chosen]})

    def p_hard(self, kind: str, seed: int | None, level: int | None) -> np.ndarray:
        """The share of these pairs whose margin is below 0, at each record: [records]; NaN where there are none."""
        margins = self.margins[kind]
        chosen = np.isfinite(margins) & self._mask(kind, seed, level)[:, np.newaxis]
        with np.errstate(invalid="ignore"):
            return ((margins < 0) & chosen).sum((0, 2)) / chosen.sum((0, 2))

    def bar_of(self, kind: str, margins: np.ndarray) -> np.ndarray:
        """The bar that each margin falls in, from 0; what lies beyond the outermost bars counts in them.

        A bar holds its lower edge and not its upper one, so that bars left of 0 hold the hard pairs and no others.
        """
        inner = self.edges(kind)[1:-1]
        return np.searchsorted(inner, margins, side="right")

    def share_in_bars(self, kind: str, margins: np.ndarray) -> np.ndarray:
        """The share of the margins in each bar, [BARS]; zeros where there are no margins."""
        return np.bincount(self.bar_of(kind, margins), minlength=BARS) / max(1, len(margins))

    def pictured(self, seed: int, example: int, margin: float) -> tuple[str, np.ndarray, np.ndarray]:
        """Title, truth and negative of a held-out pair; empty pictures beyond those that the trace keeps."""
        place = self.seeds.index(seed)
        title = f"k = {int(self.run.trace['dev_levels'][place, 0, example])}\nm = {margin:.3g}"
        kept = [self.run.trace[name][place, 0] for name in ("probe_y", "probe_negatives")]
        if example >= len(kept[0]):
            return title, np.zeros((1, 1)), np.zeros((1, 1))
        truth, negative = (self.answers.array(each[example]) for each in kept)
        return title, truth, negative

    def _mask(self, kind: str, seed: int | None, level: int | None) -> np.ndarray:
        """Which pairs [seeds, pairs] are of a seed and a level."""
        count = self.margins[kind].shape[2]
        rows = [
            np.zeros(count, bool)
            if seed not in (None, each)
            else np.ones(count, bool)
            if level is None
            else self.run.trace["dev_levels"][place, 0].numpy() == level
            for place, each in enumerate(self.seeds)
        ]
        return np.stack(rows)

    def _edges(self, kind: str) -> np.ndarray:
        """The edges of the bars [BARS + 1], the same at every record, 0 being one of them."""
        reach = float(np.nanquantile(np.abs(self.margins[kind]), WITHIN)) or 1.0
        return np.linspace(-reach, reach, BARS + 1)


def _config(run: Run) -> EnergyConfig:
    assert isinstance(run.config, EnergyConfig)
    return run.config
