"""The sampler of a finished run at work: a board or a matrix, solved step by step, and its energy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import ListedColormap
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D
from torch import Tensor

from anm_nb.analysis.tables import rounded
from anm_nb.energy.sampler import sample
from anm_nb.energy.schedule import NoiseSchedule
from anm_nb.energy.train import trained_energy
from anm_nb.run import Run
from anm_nb.tasks.base import Batch
from anm_nb.tasks.sudoku import Sudoku
from anm_nb.training.seeds import generator
from anm_nb.widgets.view import Control, View, numbers

PROBLEMS = 8
OWN = "81 or 16 characters row by row, 0 or . for an empty cell"
CELLS = ListedColormap(["#d9d9d9", "#ffffff", "#f5b68a"])  # given, right, wrong


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
        Control("puzzle", "Own Sudoku", f"{OWN}; nothing for the run's own problems", "text"),
        Control("problem", "Problem", "One of the run's held-out problems", "slider"),
        Control("state", "Sampler step", "How many states the sampler has been through", "player"),
    )
    widths = (1, 1, 1.2, 1.2)
    height = 1.6

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.config = run.config_with(negatives="none")  # whose class may be defined elsewhere
        self.task, self.solve = self.config.make_task(), cache(self._solve)
        self.digits = run.settings["size"] if run.settings["task"] == "sudoku" else 0  # of a board; 0: numbers
        self.error_name = "wrong cells" if self.digits else "mean squared error"
        self.problems, states = min(PROBLEMS, run.trace["probe_y"].shape[2]), len(self.solve(0, 0, "").states)
        self.options = {
            "seed": self.seed_options,
            "puzzle": bool(self.digits),
            "problem": lambda values: [("own", 0)] if values["puzzle"] else numbers(self.problems),
            "state": numbers(states),
        }
        self.start = {"state": states - 1}

    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> None:
        solution, state = self.shown(values)
        for panel, array in zip(axes[:2], (solution.answers[state], solution.truth), strict=True):
            if self.digits:
                self._draw_board(panel, array, solution)
            else:
                reach = float(np.abs(solution.truth).max()) or 1.0
                panel.imshow(array, cmap="RdBu_r", clim=(-reach, reach))
            panel.set(xticks=[], yticks=[])
        axes[0].set_xlabel("answer (orange: wrong)" if self.digits else "answer now")
        axes[1].set_xlabel("solution (grey: given)" if self.digits else "truth")
        states = solution.states
        breaks = np.flatnonzero(np.diff(states["level"])) + 1  # where the next noise level begins
        for panel, column, colour in zip(axes[2:], ("energy", "error"), (self.colour, "black"), strict=True):
            steps, taken = np.arange(1.0, len(states) + 1), states[column].astype(float)
            panel.plot(*(np.insert(each, breaks, np.nan) for each in (steps, taken)), ".-", markersize=3, color=colour)
            panel.axvline(state + 1, color="black", linewidth=0.8)
            panel.set(xlabel="sampler step", ylabel="energy, nats" if column == "energy" else self.error_name)
            panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if not self.digits:
            axes[3].set_yscale("log")

    def read_out(self, values: Mapping[str, Any]) -> dict[str, str]:
        solution, state = self.shown(values)
        now, error = solution.states.iloc[state], rounded(solution.states["error"][state])
        return {
            "sampler step": f"{state + 1} of {len(solution.states)}",
            "level": f"{now['level']:.0f}",
            "step of the level": f"{now['step']:.0f}",
            "energy": f"{rounded(now['energy'])} nats",
            "step taken": "start" if not now["step"] else "yes" if now["taken"] else "no",
            self.error_name: f"{now['error']:.0f} of {(~solution.given).sum()}" if self.digits else error,
        }

    def shown(self, values: Mapping[str, Any]) -> tuple[Solution, int]:
        """The way to the answer of the chosen problem, and the place of the chosen state."""
        puzzle, problem = "".join(values["puzzle"].split()), min(values["problem"], self.problems - 1)
        solution = self.solve(self.seed_place(values), problem, puzzle)
        return solution, min(values["state"], len(solution.states) - 1)

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
        tell = lambda *state: states.append(state)  # noqa: E731
        sample(energy, schedule, batch.x, task.y_dim, source, *how, callback=tell)
        answers, truth = np.stack([self.array(y[0]) for _, _, y, _, _ in states]), self.array(batch.y[0])
        known = clues.mask[0].numpy() if clues is not None else np.zeros(truth.size, bool)
        given = known.reshape(*truth.shape, -1)[..., 0]
        errors = (answers != truth).sum((1, 2)) if self.digits else np.square(answers - truth).mean((1, 2))
        rows = [(level, step, float(value), bool(moved)) for level, step, _, value, moved in states]
        frame = pd.DataFrame(rows, columns=["level", "step", "energy", "taken"]).assign(error=errors)
        return Solution(frame, answers, truth, given)

    def _draw_board(self, panel: Axes, board: np.ndarray, solution: Solution) -> None:
        """Cells in colours, digits written into them, and the borders of boxes."""
        panel.imshow(np.where(solution.given, 0, 1 + (board != solution.truth)), cmap=CELLS, clim=(0, 2))
        side, box = self.digits, round(self.digits**0.5) or 1
        cells = np.ndenumerate(board)
        written = [Affine2D().translate(*place[::-1]).transform_path(glyph(digit)) for place, digit in cells]
        panel.add_collection(PathCollection(written, facecolor="black", edgecolor="none"), autolim=False)
        for place in np.arange(box, side, box) - 0.5:
            panel.plot([-0.5, side - 0.5, np.nan, place, place], [place, place, np.nan, -0.5, side - 0.5], "k", lw=1)


@cache
def glyph(digit: int) -> Path:
    """A digit's outline round (0, 0) where the vertical axis points down and a cell is 1 × 1; far faster than text."""
    outline = TextPath((0, 0), str(digit), size=0.7, prop=FontProperties(family="DejaVu Sans"))
    x, y = outline.get_extents().get_points().mean(0)
    return Affine2D().translate(-x, -y).scale(1, -1).transform_path(outline)
