"""The energy around the truth in a finished run: a line scan and a slice, by step and level (checklist, section E)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from anm_nb.analysis.style import LINE_STYLES, PALETTE, label
from anm_nb.analysis.tables import rounded
from anm_nb.energy.evaluate import kept_steps, trained_energy
from anm_nb.energy.landscape import (
    SCAN_GRID,
    barrier,
    curvature,
    directional_derivative,
    line_scan,
    optimal_energy,
    plane_scan,
)
from anm_nb.energy.miner import MinerConfig, MiningProblem
from anm_nb.energy.negatives import get_negatives
from anm_nb.energy.networks import energy_given
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.run import Run
from anm_nb.tasks import task_class
from anm_nb.tasks.base import MatrixTask
from anm_nb.training.seeds import RowDraws, generator
from anm_nb.widgets.controls import Control
from anm_nb.widgets.explorer import Explorer
from anm_nb.widgets.picture import Answers, panels

PROBLEMS = 4  # as many as are scanned within the blink that a slider's move may take
# Towards which negative the energy is looked at, and the strategy that mines it; the held-out ones are in the trace.
DIRECTIONS = {"held-out negative": None, "mined, as written": "anm", "mined, orthogonal to ε": "anm_orthogonal"}
S = torch.arange(-4, 13, dtype=torch.float64) / 8  # the plane: towards the negative, which is at 1
ACROSS = torch.arange(-8, 9, dtype=torch.float64) / 8  # and across, in the same unit
T = SCAN_GRID.numpy()
UNITS = {"barrier": "nats", "curvature": "nats per unit²", "slope": "nats per unit"}  # unit: of length of ỹ
OWN: dict[str, Any] = {"linewidth": 1.8, "label": "this problem"}
HEIGHT: dict[str, Any] = {"color": "black", "marker": "_", "label": "barrier"}
OTHERS: dict[str, Any] = {"color": "#b8b8b8", "linewidth": 0.8, "label": "other problems"}
PERFECT: dict[str, Any] = {"color": PALETTE["optimal"], "label": label("optimal"), **LINE_STYLES["optimal"]}
MARK: dict[str, Any] = {"linestyle": "", "color": "white", "markeredgecolor": "black", "markersize": 6}
MARKS = {"truth": {"marker": "o", **MARK}, "negative": {"marker": "X", **MARK}}


class LandscapeExplorer(Explorer):
    """The energy on the line from a held-out problem's noised truth to its negative, and on a plane through that line.

    Everything is computed from the run's stored weights, in float64, when it is first looked at. Without weights of
    its records (`keep_weights`) a run has its end alone to show.
    """

    name: ClassVar[str] = "landscape"
    needs: ClassVar[str] = "Train an energy: run notebook 13_landscape_line_scans, or anm-nb demo in a terminal."
    height: ClassVar[float] = 3.7

    @classmethod
    def suits(cls, run: Run) -> bool:
        """Whether it is the run of an energy of matrices, which directions and planes are made for."""
        return run.summary["family"] == "energy" and issubclass(task_class(run.summary["task"]), MatrixTask)

    def make_controls(self) -> Sequence[Control]:
        """Direction, seed, training step, noise level and problem."""
        self.direction = Control("direction", "Direction", "Towards which negative the energy is looked at")
        self.seed = Control("seed", "Seed", "The seed of the run")
        self.step = Control("step", "Training step", "The training step whose weights are shown", "player")
        self.level = Control("level", "Noise level", "The noise level k, 0 having the least noise", "player")
        self.problem = Control("problem", "Problem", f"One of the first {PROBLEMS} held-out problems", "slider")
        return [self.direction, self.seed, self.step, self.level, self.problem]

    def make_axes(self, figure: Figure) -> Sequence[Axis]:
        """φ(t) − φ(0) of several problems, one of them in colour, on the left; E − E(truth) on a plane on the right."""
        places = ((0.1, 0.46), (0.56, 0.87), (0.885, 0.9))
        self.profiles, self.plane_axes, self.scale = (
            panels(figure, 1, 1, left=left, right=right, bottom=0.16, top=0.86)[0, 0] for left, right in places
        )
        for place in (0, 1):
            self.profiles.axvline(place, color="black", linewidth=0.6, linestyle=(0, (4, 3)))
        self.profiles.set_xticks([-0.5, 0, 0.5, 1, 1.5], ["−0.5", "0\ntruth", "0.5", "1\nnegative", "1.5"])
        self.profiles.set(xlim=(T[0], T[-1]), xlabel="t, place on the line")
        half = float(S[1] - S[0]) / 2
        self.extent = tuple(
            float(end) + side for axis in (S, ACROSS) for end, side in ((axis[0], -half), (axis[-1], half))
        )
        self.plane_axes.set(xlim=self.extent[:2], ylim=self.extent[2:], xticks=[-0.5, 0, 0.5, 1, 1.5])
        self.plane_axes.set(xlabel="s, towards the negative", ylabel="t, random direction")
        handles = [Line2D([], [], label=name, **style) for name, style in MARKS.items()]
        self.plane_axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
        self.scale.set(xticks=[], xlim=(0, 1))
        self.scale.yaxis.tick_right()
        for left, text in ((0.006, "φ(t) − φ(0), nats"), (0.97, "E − E(truth), nats")):
            figure.text(left, 0.51, text, rotation=90, va="center")
        for axes in (self.profiles, self.scale):
            axes.yaxis.set_major_locator(MaxNLocator(5))
        return [self.profiles.yaxis, self.scale.yaxis]

    def open(self, run: Run) -> None:
        """Find which problems and weights there are; nothing is scanned yet."""
        Answers.of(run)  # an older version's run is refused
        self.scan, self.plane, self.ends = cache(self._scan), cache(self._plane), cache(self._ends)
        self.energy = cache(lambda place, step: trained_energy(run, run.settings["seeds"][place], step).double())
        self.task = run.config_with(negatives="none").make_task()  # without the strategy's class
        self.schedule = NoiseSchedule.cosine(run.settings["levels"])
        steps: list[tuple[str, Any]] = [(str(step), step) for step in kept_steps(run)]
        self.direction.offer([(name, name) for name in DIRECTIONS])
        self.offer_seeds()
        self.step.offer(steps or [("end", None)], steps[-1][1] if steps else None)
        self.level.offer_range(run.settings["levels"], start=run.settings["levels"] // 3)
        self.problem.offer_range(min(PROBLEMS, run.trace["probe_y"].shape[2]), first=1)
        styles = ({**OWN, "color": self.colour}, HEIGHT, OTHERS, PERFECT)
        handles = [Line2D([], [], **style) for style in styles]
        self.profiles.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1)

    def draw(self) -> tuple[str, Mapping[str, str]]:
        """The profiles, the problem's own and a perfect denoiser's among them, the slice, and both sets of numbers."""
        scan, problem = self.shown(), self.problem.value
        plane = self.plane(*self._where(), problem)
        self._draw_profiles(scan, problem)
        self._draw_plane(plane)
        numbers = {name: scan[name][problem] for name in (*UNITS, *(f"perfect {name}" for name in UNITS))}
        numbers |= {f"mean {name}": scan[name].mean() for name in ("barrier", "curvature")}
        told = {name: f"{_number(value)} {UNITS[name.split()[-1]]}" for name, value in numbers.items()}
        step = "the end of training" if self.step.value is None else f"training step {self.step.label}"
        alt = (
            f"Energy of {self.method}, {self.seed.label}, at {step} and noise level {self.level.label}, on the line "
            f"from the truth of problem {self.problem.label} to its {self.direction.label}: barrier {told['barrier']}, "
            f"curvature at the truth {told['curvature']}, slope {told['slope']}; a perfect denoiser has "
            f"{told['perfect barrier']}, {told['perfect curvature']} and {told['perfect slope']}. Beside it the energy "
            f"on the plane of that line and a random direction, from {_number(plane.min())} to {_number(plane.max())} "
            "nats above the truth's."
        )
        return alt, {"step": self.step.label, "level": self.level.label, **told}

    def shown(self) -> dict[str, np.ndarray]:
        """What was found for the first problems where the controls stand: φ(t) − φ(0) [problems, T] and numbers.

        Of the energy and, as "perfect …", of a perfect denoiser on the same pairs; numbers are [problems].
        """
        return self.scan(*self._where())

    def pairs(self, place: int, level: int) -> tuple[Tensor, Tensor, Tensor, SharedNoise]:
        """x, truths, held-out negatives and noise of a seed's first problems, in float64; the seed alone decides ε."""
        seed, first = self.run.settings["seeds"][place], slice(0, len(self.problem.values))
        x, y_pos, y_neg = (
            self.run.trace[name][place, 0, first].double() for name in ("probe_x", "probe_y", "probe_negatives")
        )
        eps = torch.randn(y_pos.shape, generator=generator(seed, "explorer/noise"), dtype=torch.float64)
        return x, y_pos, y_neg, SharedNoise(self.schedule, torch.full((len(x),), level), eps)

    def _where(self) -> tuple[int, int | None, int, str]:
        return self.seed.value, self.step.value, self.level.value, self.direction.value

    def _source(self, place: int, what: str) -> torch.Generator:
        return generator(self.run.settings["seeds"][place], f"explorer/{what}")

    def _ends(self, place: int, step: int | None, level: int, direction: str) -> tuple[Tensor, Tensor, Tensor]:
        """Noised truths and negatives, and the negatives as they are; those that are mined, mined anew."""
        x, y_pos, y_neg, noise = self.pairs(place, level)
        if strategy := DIRECTIONS[direction]:
            model, draws = self.energy(place, step), RowDraws([self._source(place, strategy)], "cpu")
            problem = MiningProblem(self.task, x, y_pos, noise, model, model, draws)
            y_neg = get_negatives(strategy, miner=MinerConfig().to_the_end()).propose(problem).y_neg
        start, end = (noise.noised(y).as_subclass(Tensor) for y in (y_pos, y_neg))
        return start, end, y_neg

    def _scan(self, place: int, step: int | None, level: int, direction: str) -> dict[str, np.ndarray]:
        """Profiles and numbers of the first problems."""
        x, y_pos, _, noise = self.pairs(place, level)
        start, end, y_neg = self.ends(place, step, level, direction)
        energy = energy_given(self.energy(place, step), x, noise.k)
        perfect = energy_given(optimal_energy(self.schedule, y_pos), x, noise.k)
        profile, distance = line_scan(energy, start, end), (end - start).norm(dim=1)
        found = {
            "rises": profile - profile[:, SCAN_GRID == 0],
            "barrier": barrier(profile, SCAN_GRID),
            "curvature": curvature(energy, start, end) / distance.square(),
            "slope": directional_derivative(energy, start, end),
            "perfect rises": line_scan(perfect, start, end) - perfect(start).unsqueeze(1),
            "perfect barrier": noise.optimal_margin(y_pos, y_neg).clamp_min(0),
            "perfect curvature": 1 / self.schedule.sigma(noise.k).flatten(),  # the same in every direction
            "perfect slope": (noise.eps * (end - start)).sum(1) / distance,
        }
        return {name: values.numpy() for name, values in found.items()}

    def _plane(self, place: int, step: int | None, level: int, direction: str, problem: int) -> np.ndarray:
        """E − E(truth) of one problem on the grid `ACROSS` × `S`."""
        row = slice(problem, problem + 1)
        x, _, _, noise = self.pairs(place, level)
        start, end, _ = (each[row] for each in self.ends(place, step, level, direction))
        energy = energy_given(self.energy(place, step), x[row], noise.k[row])
        other = torch.randn(start.shape, generator=self._source(place, f"plane/{problem}"), dtype=start.dtype)
        values = plane_scan(energy, start, end - start, other, S, ACROSS)[0]
        return (values - values[S == 0][:, ACROSS == 0]).T.numpy()

    def _draw_profiles(self, scan: Mapping[str, np.ndarray], problem: int) -> None:
        axes, rises = self.profiles, scan["rises"]
        axes.axhline(0, color="black", linewidth=0.6)
        axes.add_collection(
            LineCollection([np.column_stack([T, rise]) for rise in np.delete(rises, problem, 0)], **OTHERS)
        )
        (self.optimal,) = axes.plot(T, scan["perfect rises"][problem], **PERFECT)
        (self.own,) = axes.plot(T, rises[problem], color=self.colour, **OWN)
        between = np.where((T >= 0) & (T <= 1), rises[problem], -np.inf)
        (self.barrier,) = axes.plot([T[between.argmax()]] * 2, [0, float(scan["barrier"][problem])], **HEIGHT)
        low, high = min(rises.min(), 0.0), max(rises.max(), 0.0)
        room = 0.05 * (high - low) or 1.0
        axes.set_ylim(low - room, high + room)

    def _draw_plane(self, rises: np.ndarray) -> None:
        """E − E(truth) [T, S] in colours, and the line where it is 0."""
        low, high = float(rises.min()), float(rises.max())
        high = high if high > low else low + 1.0
        style: dict[str, Any] = {"origin": "lower", "cmap": "cividis", "aspect": "auto"}
        self.image = self.plane_axes.imshow(rises, extent=self.extent, clim=(low, high), **style)
        if low < 0:
            self.plane_axes.contour(S, ACROSS, rises, [0.0], colors="white", linewidths=1.0)
        for place, mark in enumerate(MARKS.values()):
            self.plane_axes.plot([place], [0], clip_on=False, **mark)
        self.scale.set_ylim(low, high)
        self.scale.imshow(np.linspace(0, 1, 256)[:, None], extent=(0, 1, low, high), **style)


def _number(value: float | np.floating) -> str:
    """Three digits, without what rounding leaves of a 0."""
    return rounded(round(float(value), 6) + 0.0)
