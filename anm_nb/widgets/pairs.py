"""A finished run's pairs: how hard they are (checklist, section A), and the energy on the lines between (section E)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.patches import StepPatch
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from anm_nb.analysis.stats import proportion_interval
from anm_nb.analysis.style import LINE_STYLES, PALETTE, label
from anm_nb.analysis.tables import rounded, score_interval
from anm_nb.energy import landscape
from anm_nb.energy.landscape import SCAN_GRID
from anm_nb.energy.networks import energy_given
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.energy.train import kept_steps, trained_energy
from anm_nb.run import Run
from anm_nb.tasks import task_class
from anm_nb.tasks.base import MatrixTask
from anm_nb.training.seeds import generator
from anm_nb.widgets.view import Control, View, nearest, numbers

HELD_OUT, BATCH = "held-out pairs", "the batch's own pairs"
ARRAYS = {HELD_OUT: "dev_margins", BATCH: "margins"}  # in the trace, each [seeds, records, pairs]
CHOICE = ("pairs", "seed", "level")  # what margins are chosen by
ALL = -1  # of seeds or levels
BARS = 40
WITHIN = 0.95  # share of all recorded margins that lie between the outermost bars
QUARTILES = {"first quartile": 0.25, "median": 0.5, "third quartile": 0.75}

PROBLEMS = 4  # as many as are scanned within the blink that a slider's move may take
SCANNED = 8  # of a run's steps, for the limits of the axes; each takes as long as a move to it
END = 10**9  # of training, where the weights of no record are kept
T = SCAN_GRID.numpy()
UNITS = {"barrier": "nats", "curvature": "nats per unit²", "slope": "nats per unit"}  # unit: of length of ỹ
PERFECT: dict[str, Any] = {"color": PALETTE["optimal"], "label": label("optimal"), **LINE_STYLES["optimal"]}


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
        self.steps: list[int] = sorted(run.metrics["step"].unique().tolist())
        self.margins = {kind: run.trace[name].numpy() for kind, name in ARRAYS.items() if name in run.trace}
        reaches = {kind: float(np.nanquantile(np.abs(each), WITHIN)) or 1.0 for kind, each in self.margins.items()}
        self.edges = {kind: np.linspace(-reach, reach, BARS + 1) for kind, reach in reaches.items()}  # 0 is one of them
        self.levels = run.trace["dev_levels"][:, 0].numpy()  # [seeds, pairs]; of a batch they are not kept
        levels, self.chosen = numbers(run.settings["levels"], 0), cache(self._chosen)
        self.options = {
            "pairs": [(kind, kind) for kind in self.margins],
            "seed": [*([("all", ALL)] if len(self.seeds) > 1 else []), *self.seed_options],
            "step": [(str(step), step) for step in self.steps],
            "level": lambda values: [("all", ALL), *(levels if values["pairs"] == HELD_OUT else [])],
        }
        self.start = {"step": self.steps[-1]}

    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> None:
        histogram, curve = axes
        edges = max((view.edges[values["pairs"]] for view in self.together), key=np.max)  # the same bars in all rows
        (margins, hard, quartiles), record = self.chosen(*map(values.get, CHOICE)), nearest(self.steps, values["step"])
        finite = [each[np.isfinite(each)] for each in margins.swapaxes(0, 1)]
        # A bar holds its lower edge and not its upper one, so that bars left of 0 hold the hard pairs and no others;
        # what lies beyond the outermost bars counts in them.
        places = [np.searchsorted(edges[1:-1], each, side="right") for each in finite]
        heights = [np.bincount(each, minlength=BARS) / max(1, len(each)) for each in places]
        # faster than `stairs`, which looks for limits; those are given below
        histogram.add_artist(StepPatch(heights[record], edges, fill=True, color=self.colour, alpha=0.75, linewidth=0))
        histogram.axvline(0, color="black", linewidth=0.8)
        marks = np.clip(quartiles[record], edges[0], edges[-1])
        histogram.vlines(marks, 0.94, 1, "black", linewidth=1.2, transform=histogram.get_xaxis_transform())
        highest = max(0.01, *(each.max() for each in heights))  # of all steps, so that the axis stays
        histogram.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.12 * highest))
        histogram.set(xlabel="margin E⁻ − E⁺, nats (marks at the top: quartiles)", ylabel="share of pairs")
        (share, low, high), over = hard.T, self.over(values["seed"])
        curve.plot(self.steps, share, marker=".", color=self.colour)
        curve.fill_between(self.steps, low, high, color=self.colour, alpha=0.18, linewidth=0)
        curve.axvline(self.steps[record], color="black", linewidth=0.8)
        curve.set(xlabel="training step", ylabel=f"p_hard (95 % over {over})", ylim=(-0.03, 1.03))
        for axis in (histogram.yaxis, curve.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))

    def read_out(self, values: Mapping[str, Any]) -> dict[str, str]:
        (margins, hard, quartiles), record = self.chosen(*map(values.get, CHOICE)), nearest(self.steps, values["step"])
        shown, (share, low, high), over = margins[:, record], 100 * hard[record], self.over(values["seed"])
        told = {"step": str(self.steps[record]), "pairs": str(np.isfinite(shown).sum())}
        told["p_hard"] = f"{share:.1f} % [{low:.1f}, {high:.1f} over {over}]"
        return told | {name: f"{rounded(at)} nats" for name, at in zip(QUARTILES, quartiles[record], strict=True)}

    def over(self, seed: int) -> str:
        """What the interval of p_hard is over."""
        return "seeds" if seed == ALL and len(self.seeds) > 1 else "pairs"

    def _chosen(self, pairs: str, seed: int, level: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Margins [seeds, records, pairs], the share below 0 with its 95 % interval, and quartiles, both [records, 3].

        Margins are NaN where seed or level is another, a batch short or a seed stopped. The interval is over seeds, of
        one seed Wilson's over its pairs. Quartiles are of all pairs together, NaN where there are none.
        """
        margins = self.margins[pairs]
        chosen = np.ones((len(margins), margins.shape[2]), bool)
        if seed != ALL:
            chosen &= np.arange(len(margins))[:, np.newaxis] == self.seed_place({"seed": seed})
        if level != ALL:
            chosen &= self.levels == level
        margins = np.where(chosen[:, np.newaxis], margins, np.nan)
        hard, counted = (margins < 0).sum(2), np.isfinite(margins).sum(2)
        if self.over(seed) == "seeds":
            with np.errstate(invalid="ignore"):
                bands = [score_interval(each, "p_hard") for each in (hard / counted).T]
        else:
            bands = [proportion_interval(*each) for each in zip(hard.sum(0), counted.sum(0), strict=True)]
        pooled = pd.DataFrame(margins.swapaxes(0, 1).reshape(margins.shape[1], -1))
        return margins, np.array(bands), pooled.quantile([*QUARTILES.values()], axis=1).T.to_numpy()


class Landscape(View):
    """The energy on the line from a held-out problem's noised truth to its negative, and how it bends at the truth.

    Computed from the run's stored weights, in float64, when it is first looked at. Without weights of its records
    (`keep_weights`) a run has its end alone to show.
    """

    name = "landscape"
    about = "Energy on the line from a noised truth to its negative, and beside it mean curvature by noise level."
    needs = "Train an energy: run notebook 13_landscape_line_scans, or anm-nb demo in a terminal."
    controls = (
        Control("seed", "Seed", "The seed of the run"),
        Control("step", "Training step", "The training step whose weights are shown", "player"),
        Control("level", "Noise level", "The noise level k, 0 having the least noise", "player"),
        Control("problem", "Problem", f"One of the first {PROBLEMS} held-out problems", "slider"),
    )
    widths = (1.4, 1)

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.levels, self.steps = range(run.settings["levels"]), kept_steps(run) or [END]
        self.problems, self.scan = min(PROBLEMS, run.trace["probe_y"].shape[2]), cache(self._scan)
        self.options = {
            "seed": self.seed_options,
            "step": [("end" if step == END else str(step), step) for step in self.steps],
            "level": numbers(len(self.levels), 0),
            "problem": numbers(self.problems),
        }
        self.start = {"step": self.steps[-1], "level": len(self.levels) // 3}

    @classmethod
    def suits(cls, run: Run) -> bool:
        return super().suits(run) and issubclass(task_class(run.summary["task"]), MatrixTask)

    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> None:
        profiles, bends = axes
        scan, level, problem = self.shown(values), values["level"], values["problem"]
        rises, rise = scan["rises"][level], scan["rises"][level, problem]
        for step in self.steps[:: -(-len(self.steps) // SCANNED)]:  # limits that stay as the step moves
            kept = self.scan(self.seed_place(values), step)
            profiles.update_datalim(np.column_stack([np.tile(T, self.problems), kept["rises"][level].ravel()]))
            bends.update_datalim(np.column_stack([self.levels, kept["curvature"].mean(1)]))
        profiles.plot(T, np.delete(rises, problem, 0).T, color="#b8b8b8", linewidth=0.8)
        profiles.plot(T, scan["perfect rises"][level, problem], **PERFECT)
        profiles.plot(T, rise, color=self.colour, linewidth=1.8, label=f"{self.method} (grey: other problems)")
        top = T[np.where((T >= 0) & (T <= 1), rise, -np.inf).argmax()]
        profiles.plot([top, top], [0, scan["barrier"][level, problem]], color="black", marker="_", label="barrier")
        profiles.axhline(0, color="black", linewidth=0.6)
        profiles.set(xlabel="t: truth at 0, negative at 1", ylabel="φ(t) − φ(0), nats", xlim=(T[0], T[-1]))
        bends.plot(self.levels, scan["perfect curvature"].mean(1), **PERFECT)
        bends.plot(self.levels, scan["curvature"].mean(1), marker=".", color=self.colour)
        bends.axvline(level, color="black", linewidth=0.8)
        bends.set(xlabel="noise level", ylabel="mean curvature, nats per unit²")
        if profiles.get_legend() is None:
            profiles.legend(fontsize="small", loc="upper left")

    def read_out(self, values: Mapping[str, Any]) -> dict[str, str]:
        scan, where, step = (
            self.shown(values),
            (values["level"], values["problem"]),
            nearest(self.steps, values["step"]),
        )
        told = {"step": self.options["step"][step][0], "level": str(values["level"])}
        names = {kind + name: unit for kind in ("", "perfect ") for name, unit in UNITS.items()}
        exact = {name: round(float(scan[name][where]), 6) + 0.0 for name in names}  # not what rounding leaves of a 0
        return told | {name: f"{rounded(exact[name])} {unit}" for name, unit in names.items()}

    def shown(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """φ(t) − φ(0) [levels, problems, T] and numbers [levels, problems], also those of a perfect denoiser."""
        return self.scan(self.seed_place(values), self.steps[nearest(self.steps, values["step"])])

    def _scan(self, place: int, step: int) -> dict[str, np.ndarray]:
        """Everything of a seed at a step: the same pairs with the same ε at every level; the seed alone decides ε."""
        seed, levels = self.seeds[place], len(self.levels)
        arrays = (self.run.trace[f"probe_{name}"][place, 0, : self.problems] for name in ("x", "y", "negatives"))
        x, y_pos, y_neg = (array.double().repeat(levels, 1) for array in arrays)
        eps = torch.randn((self.problems, y_pos.shape[1]), generator=generator(seed, "explorer/noise"), dtype=x.dtype)
        schedule, k = NoiseSchedule.cosine(levels), torch.arange(levels).repeat_interleave(self.problems)
        noise = SharedNoise(schedule, k, eps.repeat(levels, 1))
        start, end = (noise.noised(y).as_subclass(Tensor) for y in (y_pos, y_neg))
        model = trained_energy(self.run, seed, None if step == END else step).double()
        found: dict[str, Tensor] = {}
        for kind, network in (("", model), ("perfect ", landscape.optimal_energy(schedule, y_pos))):
            energy = energy_given(network, x, k)
            profile = landscape.line_scan(energy, start, end)
            found[f"{kind}rises"] = profile - profile[:, SCAN_GRID == 0]
            found[f"{kind}barrier"] = landscape.barrier(profile, SCAN_GRID)
            found[f"{kind}curvature"] = landscape.curvature(energy, start, end) / (end - start).square().sum(1)
            found[f"{kind}slope"] = landscape.directional_derivative(energy, start, end)
        return {name: each.unflatten(0, (levels, self.problems)).numpy() for name, each in found.items()}
