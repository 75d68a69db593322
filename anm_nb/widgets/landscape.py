"""The energy around the truth in a finished run: a line scan, and curvature by noise level (checklist, section E)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anm_nb.analysis.style import LINE_STYLES, PALETTE, label
from anm_nb.analysis.tables import rounded
from anm_nb.energy import landscape
from anm_nb.energy.landscape import SCAN_GRID
from anm_nb.energy.networks import energy_given
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.energy.train import kept_steps, trained_energy
from anm_nb.run import Run
from anm_nb.tasks import task_class
from anm_nb.tasks.base import MatrixTask
from anm_nb.training.seeds import generator
from anm_nb.widgets.explorer import Control, View, numbers

PROBLEMS = 4  # as many as are scanned within the blink that a slider's move may take
END = 10**9  # of training, where the weights of no record are kept
T = SCAN_GRID.numpy()
UNITS = {"barrier": "nats", "curvature": "nats per unit²", "slope": "nats per unit"}  # unit: of length of ỹ
PERFECT: dict[str, Any] = {"color": PALETTE["optimal"], "label": label("optimal"), **LINE_STYLES["optimal"]}


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
            profiles.legend(fontsize=6.5, loc="upper left")

    def read_out(self, values: Mapping[str, Any]) -> dict[str, str]:
        scan, where, step = self.shown(values), (values["level"], values["problem"]), self.step(values)
        told = {"step": "end" if step == END else str(step), "level": str(values["level"])}
        names = {kind + name: unit for kind in ("", "perfect ") for name, unit in UNITS.items()}
        # without what rounding leaves of a 0
        exact = {name: round(float(scan[name][where]), 6) + 0.0 for name in names}
        return told | {name: f"{rounded(exact[name])} {unit}" for name, unit in names.items()}

    def shown(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """φ(t) − φ(0) [levels, problems, T] and numbers [levels, problems], also those of a perfect denoiser."""
        return self.scan(self.seed_place(values), self.step(values))

    def step(self, values: Mapping[str, Any]) -> int:
        """The step nearest to the chosen one of those whose weights the run has."""
        return min(self.steps, key=lambda step: abs(step - values["step"]))

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
