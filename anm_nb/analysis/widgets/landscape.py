"""The energy around the truth in a finished run: a line scan and a slice, by step and level (checklist, section E)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from anm_nb.analysis.figures import colours, label
from anm_nb.analysis.tables import rounded
from anm_nb.analysis.widgets.controls import Choice, Slider
from anm_nb.analysis.widgets.explorer import Explorer
from anm_nb.analysis.widgets.landscape_figure import LandscapeFigure
from anm_nb.analysis.widgets.landscape_scans import PROBLEMS, LandscapeScan, RunScans
from anm_nb.analysis.widgets.picker import Stored
from anm_nb.store import Run
from anm_nb.studies.landscape_study import DIRECTIONS
from anm_nb.tasks import task_class
from anm_nb.tasks.base import MatrixTask

DIRECTION_LABELS = {
    "held_out": "held-out negative",
    "mined": "mined, as written",
    "mined_orthogonal": "mined, orthogonal to ε",
}


class LandscapeExplorer(Explorer):
    """The energy on the line from a held-out problem's noised truth to its negative, and on a plane through that line.

    Everything is computed from the run's stored weights, in float64, when it is first looked at. Without weights of
    its records (`keep_weights`) a run has its end alone to show.
    """

    name: ClassVar[str] = "landscape"
    needs: ClassVar[str] = "Train an energy: run notebook 13_landscape_line_scans, or anm-nb demo in a terminal."

    @classmethod
    def suits(cls, stored: Stored) -> bool:
        """Whether it is the run of an energy of matrices, which directions and planes are made for."""
        summary = stored.listed.summary
        return summary["family"] == "energy" and issubclass(task_class(summary["task"]), MatrixTask)

    def make_controls(self) -> Sequence[Choice]:
        """Direction, seed, training step, noise level and problem."""
        self.direction = Choice("direction", "Direction", "Towards which negative the energy is looked at")
        self.seed = Choice("seed", "Seed", "The seed of the run")
        self.step = Slider("step", "Training step", "The training step whose weights are shown", playable=True)
        self.level = Slider("level", "Noise level", "The noise level k, 0 having the least noise", playable=True)
        self.problem = Slider("problem", "Problem", f"One of the first {PROBLEMS} held-out problems")
        return [self.direction, self.seed, self.step, self.level, self.problem]

    def make_figure(self) -> tuple[Figure, Sequence[Artist]]:
        """Line scan on the left, slice on the right."""
        self.panels = LandscapeFigure()
        return self.panels.figure, self.panels.moving

    def open(self, run: Run) -> None:
        """Find which weights there are; nothing is scanned yet."""
        self.scans = RunScans(run)
        steps: list[tuple[str, Any]] = [(str(step), step) for step in self.scans.steps]
        self.direction.offer([(DIRECTION_LABELS[name], name) for name in DIRECTIONS])
        self.seed.offer([(f"seed {seed}", seed) for seed in run.settings["seeds"]])
        self.step.offer(steps or [("end", None)], steps[-1][1] if steps else None)
        levels = run.settings["levels"]
        self.level.offer([(str(level), level) for level in range(levels)], levels // 3)
        self.problem.offer([(str(problem + 1), problem) for problem in range(self.scans.problems)])
        self.panels.open(colours([self.picker.stored.method])[self.picker.stored.method])

    def draw(self) -> tuple[str, Mapping[str, str]]:
        """The profiles, the problem's own and a perfect denoiser's among them, the slice, and both sets of numbers."""
        scan, problem = self.shown(), self.problem.value
        plane = self.scans.plane(self.seed.value, self.step.value, self.level.value, self.direction.value, problem)
        self.panels.draw_profiles(scan.rises, scan.optimal_rises[problem], problem, float(scan.barrier[problem]))
        self.panels.draw_plane(plane)
        numbers = {
            "barrier": f"{_number(scan.barrier[problem])} nats",
            "curvature": f"{_number(scan.curvature[problem])} nats per unit²",
            "slope": f"{_number(scan.slope[problem])} nats per unit",
            "perfect barrier": f"{_number(scan.optimal_barrier[problem])} nats",
            "perfect curvature": f"{_number(scan.optimal_curvature)} nats per unit²",
            "perfect slope": f"{_number(scan.optimal_slope[problem])} nats per unit",
        }
        means = {
            "mean barrier": f"{_number(scan.barrier.mean())} nats",
            "mean curvature": f"{_number(scan.curvature.mean())} nats per unit²",
        }
        step = "the end of training" if self.step.value is None else f"training step {self.step.label}"
        alt = (
            f"Energy of {label(self.picker.stored.method)}, {self.seed.label}, at {step} and noise level "
            f"{self.level.label}, on the line from the truth of problem {self.problem.label} to its "
            f"{self.direction.label}: barrier {numbers['barrier']}, curvature at the truth {numbers['curvature']}, "
            f"slope {numbers['slope']}; a perfect denoiser has {numbers['perfect barrier']}, "
            f"{numbers['perfect curvature']} and {numbers['perfect slope']}. Beside it the energy on the plane of that "
            f"line and a random direction, from {_number(plane.min())} to {_number(plane.max())} nats above the "
            "truth's."
        )
        return alt, {"step": self.step.label, "level": self.level.label, **numbers, **means}

    def shown(self) -> LandscapeScan:
        """What was found for the first problems where the controls stand."""
        return self.scans.scan(self.seed.value, self.step.value, self.level.value, self.direction.value)


def _number(value: float | np.floating) -> str:
    """Three digits, without what rounding leaves of a 0."""
    return rounded(round(float(value), 6) + 0.0)
