"""What a run's energies do: on lines from truths to negatives (checklist, section E), and in the sampler's hands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from anm_nb.analysis.style import LINE_STYLES, PALETTE, label
from anm_nb.analysis.tables import rounded
from anm_nb.energy import landscape
from anm_nb.energy.landscape import SCAN_GRID
from anm_nb.energy.networks import energy_given
from anm_nb.energy.sampler import sample
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.energy.train import kept_steps, trained_energy
from anm_nb.store import Run
from anm_nb.tasks import Batch, MatrixTask, task_class
from anm_nb.tasks.sudoku import Sudoku
from anm_nb.training.seeds import generator
from anm_nb.widgets.view import Control, View, nearest, numbers

SCANNED = 4  # problems of a landscape: as many as are scanned within the blink that a slider's move may take
END = 10**9  # of training, where the weights of no record are kept
T = SCAN_GRID.numpy()
UNITS = {"barrier": "nats", "curvature": "nats per unit²", "slope": "nats per unit"}  # unit: of length of ỹ
PERFECT: dict[str, Any] = {"color": PALETTE["optimal"], "label": label("optimal"), **LINE_STYLES["optimal"]}
CELLS = ListedColormap(["#d9d9d9", "#ffffff", "#f5b68a"])  # given, right, wrong


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
        Control("problem", "Problem", f"One of the first {SCANNED} held-out problems", "slider"),
    )
    widths = (1.4, 1)

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.levels, self.steps = range(run.settings["levels"]), kept_steps(run) or [END]
        self.problems, self.scan = min(SCANNED, run.trace["probe_y"].shape[2]), cache(self._scan)
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

    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> dict[str, str]:
        (profiles, bends), level, problem = axes, values["level"], values["problem"]
        place, chosen = self.seed_place(values), nearest(self.steps, values["step"])
        scan, perfect = (self.scan(place, step) for step in (self.steps[chosen], None))
        rises, rise = scan["rises"][level], scan["rises"][level, problem]
        for step in self.steps[:: -(-len(self.steps) // 8)]:  # limits that stay as the step moves
            kept = self.scan(place, step)
            profiles.update_datalim(np.column_stack([np.tile(T, self.problems), kept["rises"][level].ravel()]))
            bends.update_datalim(np.column_stack([self.levels, kept["curvature"].mean(1)]))
        profiles.plot(T, np.delete(rises, problem, 0).T, color="#b8b8b8", linewidth=0.8)
        profiles.plot(T, perfect["rises"][level, problem], **PERFECT)
        profiles.plot(T, rise, color=self.colour, linewidth=1.8, label=f"{self.method} (grey: other problems)")
        top = T[np.where((T >= 0) & (T <= 1), rise, -np.inf).argmax()]
        profiles.plot([top, top], [0, scan["barrier"][level, problem]], color="black", marker="_", label="barrier")
        profiles.axhline(0, color="black", linewidth=0.6)
        profiles.set(xlabel="t: truth at 0, negative at 1", ylabel="φ(t) − φ(0), nats", xlim=(T[0], T[-1]))
        bends.plot(self.levels, perfect["curvature"].mean(1), **PERFECT)
        bends.plot(self.levels, scan["curvature"].mean(1), marker=".", color=self.colour)
        bends.axvline(level, color="black", linewidth=0.8)
        bends.set(xlabel="noise level", ylabel="mean curvature, nats per unit²")
        if profiles.get_legend() is None:
            profiles.legend(fontsize="small", loc="upper left")
        told = {"step": self.options["step"][chosen][0], "level": str(level)}
        for kind, found in {"": scan, "perfect ": perfect}.items():
            for name, unit in UNITS.items():
                exact = float(found[name][level, problem])
                told[kind + name] = f"{rounded(round(exact, 6) + 0.0)} {unit}"  # not what rounding leaves of a 0
        return told

    def _scan(self, place: int, step: int | None) -> dict[str, np.ndarray]:
        """A seed at a step, or a perfect denoiser: φ(t) − φ(0) [levels, problems, T] and numbers [levels, problems].

        The same pairs and ε at every step and level.
        """
        seed, levels = self.seeds[place], len(self.levels)
        arrays = (self.run.trace[f"probe_{name}"][place, 0, : self.problems] for name in ("x", "y", "negatives"))
        x, y_pos, y_neg = (array.double().repeat(levels, 1) for array in arrays)
        eps = torch.randn((self.problems, y_pos.shape[1]), generator=generator(seed, "explorer/noise"), dtype=x.dtype)
        schedule, k = NoiseSchedule.cosine(levels), torch.arange(levels).repeat_interleave(self.problems)
        noise = SharedNoise(schedule, k, eps.repeat(levels, 1))
        start, end = (noise.noised(y).as_subclass(Tensor) for y in (y_pos, y_neg))
        if step is None:
            energy = energy_given(landscape.optimal_energy(schedule, y_pos), x, k)
        else:
            energy = energy_given(trained_energy(self.run, seed, None if step == END else step).double(), x, k)
        profile = landscape.line_scan(energy, start, end)
        found = {
            "rises": profile - profile[:, SCAN_GRID == 0],
            "barrier": landscape.barrier(profile, SCAN_GRID),
            "curvature": landscape.curvature(energy, start, end) / (end - start).square().sum(1),
            "slope": landscape.directional_derivative(energy, start, end),
        }
        return {name: each.unflatten(0, (levels, self.problems)).numpy() for name, each in found.items()}


class Solution(NamedTuple):
    """A problem and the sampler's way to its answer."""

    states: pd.DataFrame  # level, step of the level (0 where its descent starts), energy (nats), taken, error
    answers: np.ndarray  # [states, rows, columns], numbers or digits
    truth: np.ndarray  # [rows, columns]
    given: np.ndarray  # [rows, columns], whether the problem gives the cell away


class Sampling(View):
    """The answer as the sampler has it after each of its steps, beside the truth, the error and the energy.

    Held-out problems, or a Sudoku of one's own, the weights of the end of training, and the sampler as the run was
    configured. A problem is solved when it is first shown, from starting noise that depends on seed and problem alone.
    """

    name = "sampler"
    about = "A problem's answer as the sampler has it, the truth, and energy and error over all steps of the sampler."
    needs = "Train an energy: run notebook 15_ired_table, or anm-nb demo in a terminal."
    controls = (
        Control("seed", "Seed", "The seed of the run"),
        Control("puzzle", "Own Sudoku", "81 or 16 characters row by row, 0 or . for an empty cell, or nothing", "text"),
        Control(
            "problem", "Problem", "One of the run's held-out problems, where there is no Sudoku of one's own", "slider"
        ),
        Control("state", "Sampler step", "How many states the sampler has been through", "player"),
    )
    widths = (1, 1, 1.2, 1.2)
    height = 2.2

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.config = run.config_with(negatives="none")  # whose class may be defined elsewhere
        self.task, self.solve = self.config.make_task(), cache(self._solve)
        self.digits = run.settings["size"] if run.settings["task"] == "sudoku" else 0  # of a board; 0: numbers
        self.error_name = "wrong cells" if self.digits else "mean squared error"
        self.problems, states = run.trace["probe_y"].shape[2], len(self.solve(0, 0, "").states)
        self.options = {
            "seed": self.seed_options,
            "puzzle": bool(self.digits),
            "problem": numbers(self.problems),
            "state": numbers(states),
        }
        self.start = {"state": states - 1}

    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> dict[str, str]:
        puzzle = "".join(values["puzzle"].split()) if self.digits else ""
        problem = min(values["problem"], self.problems - 1)
        solution = self.solve(self.seed_place(values), problem, puzzle)
        states = solution.states
        state = min(values["state"], len(states) - 1)
        for panel, array in zip(axes[:2], (solution.answers[state], solution.truth), strict=True):
            if self.digits:
                self._draw_board(panel, array, solution)
            else:
                reach = float(np.abs(solution.truth).max()) or 1.0
                panel.imshow(array, cmap="RdBu_r", clim=(-reach, reach))
            panel.set(xticks=[], yticks=[])
        axes[0].set_xlabel("answer (orange: wrong)" if self.digits else "answer now")
        axes[1].set_xlabel("solution (grey: given)" if self.digits else "truth")
        breaks = np.flatnonzero(np.diff(states["level"])) + 1  # where the next noise level begins
        for panel, column, colour in zip(axes[2:], ("energy", "error"), (self.colour, "black"), strict=True):
            steps, taken = np.arange(1.0, len(states) + 1), states[column].astype(float)
            panel.plot(*(np.insert(each, breaks, np.nan) for each in (steps, taken)), ".-", markersize=3, color=colour)
            panel.axvline(state + 1, color="black", linewidth=0.8, snap=False)  # states are less than a pixel apart
            panel.set(xlabel="sampler step", ylabel="energy, nats" if column == "energy" else self.error_name)
            panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if not self.digits:
            axes[3].set_yscale("log")
        now = states.iloc[state]
        return {
            "problem": "your own" if puzzle else str(problem + 1),
            "sampler step": f"{state + 1} of {len(states)}",
            "level": f"{now['level']:.0f}",
            "step of the level": f"{now['step']:.0f}",
            "energy": f"{rounded(now['energy'])} nats",
            "step taken": "start" if not now["step"] else "yes" if now["taken"] else "no",
            self.error_name: f"{now['error']:.0f} of {(~solution.given).sum()}"
            if self.digits
            else rounded(now["error"]),
        }

    def array(self, y: Tensor) -> np.ndarray:
        """One answer y [y_dim] as a square, or as one row: its entries, or each cell's digit of the highest entry."""
        cells = y.unflatten(0, (-1, self.digits)).argmax(1) + 1 if self.digits else y
        side = math.isqrt(len(cells))
        return cells.reshape((side, side) if side * side == len(cells) else (1, -1)).numpy()

    def _solve(self, place: int, problem: int, puzzle: str) -> Solution:
        seed, task, states = self.seeds[place], self.task, list[tuple[int, int, Tensor, Tensor, Tensor]]()
        if puzzle:
            batch = Sudoku.from_puzzles([puzzle], size=self.digits).puzzles()
        else:
            parts = {name: self.run.trace.get(f"probe_{name}") for name in ("x", "y", "known")}
            row = slice(problem, problem + 1)
            batch = Batch(**{name: each[place, 0, row] for name, each in parts.items() if each is not None})
        clues, schedule = task.clues(batch), NoiseSchedule.cosine(self.config.levels)
        energy, source = trained_energy(self.run, seed), generator(seed, f"explorer/{problem}")
        how = self.config.inner_steps or task.inner_steps, task.sample_clamp, clues
        sample(energy, schedule, batch.x, task.y_dim, source, *how, callback=lambda *state: states.append(state))
        answers, truth = np.stack([self.array(y[0]) for _, _, y, _, _ in states]), self.array(batch.y[0])
        known = clues.mask[0].numpy() if clues is not None else np.zeros(truth.size, bool)
        given = known.reshape(*truth.shape, -1)[..., 0]
        errors = (answers != truth).sum((1, 2)) if self.digits else np.square(answers - truth).mean((1, 2))
        rows = [(level, step, float(value), bool(moved)) for level, step, _, value, moved in states]
        frame = pd.DataFrame(rows, columns=["level", "step", "energy", "taken"]).assign(error=errors)
        return Solution(frame, answers, truth, given)

    def _draw_board(self, panel: Axes, board: np.ndarray, solution: Solution) -> None:
        """Cells in colours, digits written into them as markers, far faster than text, and the borders of boxes."""
        panel.imshow(np.where(solution.given, 0, 1 + (board != solution.truth)), cmap=CELLS, clim=(0, 2))
        side, box = self.digits, round(self.digits**0.5) or 1
        look: dict[str, Any] = {"color": "black", "linestyle": "", "markersize": 48 / side, "mew": 0}
        for digit in np.unique(board):
            panel.add_artist(Line2D(*np.nonzero(digit == board.T), marker=marker(digit), **look))
        for place in np.arange(box, side, box) - 0.5:
            panel.plot([-0.5, side - 0.5, np.nan, place, place], [place, place, np.nan, -0.5, side - 0.5], "k", lw=1)


@cache
def marker(digit: int) -> MarkerStyle:
    """A digit's outline, kept as to find it takes long."""
    return MarkerStyle(f"${digit}$")
