"""The energy around the truth in a finished run: a line scan and a slice, by step and level (checklist, section E)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import contourpy
import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
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
from anm_nb.energy.miner import MinerConfig
from anm_nb.energy.negatives import MiningProblem, get_negatives
from anm_nb.energy.networks import energy_given
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.run import Run
from anm_nb.tasks import task_class
from anm_nb.tasks.base import MatrixTask
from anm_nb.training.seeds import RowDraws, generator
from anm_nb.widgets.controls import Control
from anm_nb.widgets.explorer import Explorer
from anm_nb.widgets.picture import WIDTH, Answers, panels, still_label

PROBLEMS = 4  # as many as are scanned within the blink that a slider's move may take
# Towards which negative the energy is looked at, and the strategy that mines it; the held-out ones are in the trace.
DIRECTIONS = {"held-out negative": None, "mined, as written": "anm", "mined, orthogonal to ε": "anm_orthogonal"}
S = torch.arange(-4, 13, dtype=torch.float64) / 8  # the plane: towards the negative, which is at 1
ACROSS = torch.arange(-8, 9, dtype=torch.float64) / 8  # and across, in the same unit
T = SCAN_GRID.numpy()


UNITS = {"barrier": "nats", "curvature": "nats per unit²", "slope": "nats per unit"}  # unit: of length of ỹ


class LandscapeExplorer(Explorer):
    """The energy on the line from a held-out problem's noised truth to its negative, and on a plane through that line.

    Everything is computed from the run's stored weights, in float64, when it is first looked at. Without weights of
    its records (`keep_weights`) a run has its end alone to show.
    """

    name: ClassVar[str] = "landscape"
    needs: ClassVar[str] = "Train an energy: run notebook 13_landscape_line_scans, or anm-nb demo in a terminal."

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

    def make_figure(self) -> tuple[Figure, Sequence[Artist]]:
        """φ(t) − φ(0) of several problems, one of them in colour, on the left; E − E(truth) on a plane on the right."""
        figure = Figure(figsize=(WIDTH, 3.7))
        return figure, [*self._make_profiles(figure), *self._make_plane(figure)]

    def open(self, run: Run) -> None:
        """Find which problems and weights there are; nothing is scanned yet."""
        settings = run.settings
        Answers.of(run)  # an older version's run is refused
        self.scan, self.plane, self.ends = cache(self._scan), cache(self._plane), cache(self._ends)
        self.energy = cache(lambda seed, step: trained_energy(run, seed, step).double())
        self.task = run.config_with(negatives="none").make_task()  # without the strategy's class
        self.schedule = NoiseSchedule.cosine(settings["levels"])
        steps: list[tuple[str, Any]] = [(str(step), step) for step in kept_steps(run)]
        self.direction.offer([(name, name) for name in DIRECTIONS])
        self.seed.offer([(f"seed {seed}", seed) for seed in settings["seeds"]])
        self.step.offer(steps or [("end", None)], steps[-1][1] if steps else None)
        self.level.offer([(str(level), level) for level in range(settings["levels"])], settings["levels"] // 3)
        problems = min(PROBLEMS, run.trace["probe_y"].shape[2])
        self.problem.offer([(str(problem + 1), problem) for problem in range(problems)])
        self.own.set_color(self.colour)
        handles = [self.own, self.height, self.others, self.optimal]
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

    def pairs(self, seed: int, level: int) -> tuple[Tensor, Tensor, Tensor, SharedNoise]:
        """x, truths, held-out negatives and noise of the first problems, in float64; ε depends on the seed alone."""
        place, first = self.run.settings["seeds"].index(seed), slice(0, len(self.problem.values))
        x, y_pos, y_neg = (
            self.run.trace[name][place, 0, first].double() for name in ("probe_x", "probe_y", "probe_negatives")
        )
        eps = torch.randn(y_pos.shape, generator=generator(seed, "explorer/noise"), dtype=torch.float64)
        return x, y_pos, y_neg, SharedNoise(self.schedule, torch.full((len(x),), level), eps)

    def _where(self) -> tuple[int, int | None, int, str]:
        return self.seed.value, self.step.value, self.level.value, self.direction.value

    def _ends(self, seed: int, step: int | None, level: int, direction: str) -> tuple[Tensor, Tensor, Tensor]:
        """Noised truths and negatives, and the negatives as they are; those that are mined, mined anew."""
        x, y_pos, y_neg, noise = self.pairs(seed, level)
        if strategy := DIRECTIONS[direction]:
            model, draws = self.energy(seed, step), RowDraws([generator(seed, f"explorer/{strategy}")], "cpu")
            problem = MiningProblem(self.task, x, y_pos, noise, model, model, draws)
            y_neg = get_negatives(strategy, miner=MinerConfig().to_the_end()).propose(problem).y_neg
        start, end = (noise.noised(y).as_subclass(Tensor) for y in (y_pos, y_neg))
        return start, end, y_neg

    def _scan(self, seed: int, step: int | None, level: int, direction: str) -> dict[str, np.ndarray]:
        """Profiles and numbers of the first problems."""
        x, y_pos, _, noise = self.pairs(seed, level)
        start, end, y_neg = self.ends(seed, step, level, direction)
        energy = energy_given(self.energy(seed, step), x, noise.k)
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

    def _plane(self, seed: int, step: int | None, level: int, direction: str, problem: int) -> np.ndarray:
        """E − E(truth) of one problem on the grid `ACROSS` × `S`."""
        row = slice(problem, problem + 1)
        x, _, _, noise = self.pairs(seed, level)
        start, end, _ = (each[row] for each in self.ends(seed, step, level, direction))
        energy = energy_given(self.energy(seed, step), x[row], noise.k[row])
        source = generator(seed, f"explorer/plane/{problem}")
        other = torch.randn(start.shape, generator=source, dtype=start.dtype)
        values = plane_scan(energy, start, end - start, other, S, ACROSS)[0]
        return (values - values[S == 0][:, ACROSS == 0]).T.numpy()

    def _make_profiles(self, figure: Figure) -> list[Artist]:
        (axes,) = panels(figure, 1, 1, left=0.1, right=0.46, bottom=0.16, top=0.86).flat
        self.profiles = axes
        for place in (0, 1):
            axes.axvline(place, color="black", linewidth=0.6, linestyle=(0, (4, 3)))
        zero = axes.axhline(0, color="black", linewidth=0.6)
        self.others = axes.add_collection(LineCollection([], colors="#b8b8b8", linewidths=0.8))
        self.others.set_label("other problems")
        perfect = {"color": PALETTE["optimal"], "label": label("optimal"), **LINE_STYLES["optimal"]}
        (self.optimal,) = axes.plot(T, 0 * T, **perfect)
        (self.own,) = axes.plot(T, 0 * T, linewidth=1.8, label="this problem")
        (self.height,) = axes.plot([], [], color="black", linewidth=1.2, marker="_", label="barrier")
        axes.set_xticks([-0.5, 0, 0.5, 1, 1.5], ["−0.5", "0\ntruth", "0.5", "1\nnegative", "1.5"])
        axes.set(xlim=(T[0], T[-1]), xlabel="t, place on the line")
        still_label(axes, "φ(t) − φ(0), nats", 0.006)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        return [axes.yaxis, zero, self.others, self.optimal, self.own, self.height]

    def _make_plane(self, figure: Figure) -> list[Artist]:
        (axes,) = panels(figure, 1, 1, left=0.56, right=0.87, bottom=0.16, top=0.86).flat
        (self.scale,) = panels(figure, 1, 1, left=0.885, right=0.9, bottom=0.16, top=0.86).flat
        half = float(S[1] - S[0]) / 2
        extent = (float(S[0]) - half, float(S[-1]) + half, float(ACROSS[0]) - half, float(ACROSS[-1]) + half)
        style: dict[str, Any] = {"origin": "lower", "cmap": "cividis", "aspect": "auto"}
        self.image = axes.imshow(np.zeros((len(ACROSS), len(S))), extent=extent, **style)
        self.same = axes.add_collection(LineCollection([], colors="white", linewidths=1.0))  # where E = E(truth)
        marks = {"linestyle": "", "color": "white", "markeredgecolor": "black", "markersize": 6, "clip_on": False}
        truth, negative = (axes.plot([], [], marker, **marks)[0] for marker in "oX")
        truth.set(data=([0], [0]), label="truth")
        negative.set(data=([1], [0]), label="negative")
        axes.set(xlabel="s, towards the negative", ylabel="t, random direction")
        axes.set_xticks([-0.5, 0, 0.5, 1, 1.5])
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
        self.shades = self.scale.imshow(np.linspace(0, 1, 256)[:, None], **style)
        self.scale.set(xticks=[])
        still_label(self.scale, "E − E(truth), nats", 0.97)
        self.scale.yaxis.tick_right()
        self.scale.yaxis.set_major_locator(MaxNLocator(5))
        return [self.scale.yaxis, self.image, self.same, truth, negative]

    def _draw_profiles(self, scan: Mapping[str, np.ndarray], problem: int) -> None:
        rises = scan["rises"]
        self.own.set_ydata(rises[problem])
        self.optimal.set_ydata(scan["perfect rises"][problem])
        self.others.set_segments([np.column_stack([T, rise]) for rise in np.delete(rises, problem, 0)])
        between = np.where((T >= 0) & (T <= 1), rises[problem], -np.inf)
        self.height.set_data([T[between.argmax()]] * 2, [0, float(scan["barrier"][problem])])
        low, high = min(rises.min(), 0.0), max(rises.max(), 0.0)
        room = 0.05 * (high - low) or 1.0
        self.profiles.set_ylim(low - room, high + room)

    def _draw_plane(self, rises: np.ndarray) -> None:
        """E − E(truth) [T, S] in colours, and the line where it is 0."""
        low, high = float(rises.min()), float(rises.max())
        high = high if high > low else low + 1.0
        self.image.set(data=rises, clim=(low, high))
        self.shades.set_extent((0, 1, low, high))
        self.scale.set(xlim=(0, 1), ylim=(low, high))
        self.same.set_segments(contourpy.contour_generator(S.numpy(), ACROSS.numpy(), rises).lines(0.0))


def _number(value: float | np.floating) -> str:
    """Three digits, without what rounding leaves of a 0."""
    return rounded(round(float(value), 6) + 0.0)
