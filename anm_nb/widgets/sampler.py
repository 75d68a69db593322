"""The sampler of a finished run at work: a board or a matrix, solved step by step, and its energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any, ClassVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from anm_nb.analysis.tables import rounded
from anm_nb.energy.evaluate import trained_energy
from anm_nb.energy.sampler import SamplerState, sample
from anm_nb.energy.schedule import NoiseSchedule
from anm_nb.run import Run
from anm_nb.tasks.base import Batch
from anm_nb.training.seeds import generator
from anm_nb.widgets.controls import Control
from anm_nb.widgets.explorer import Explorer
from anm_nb.widgets.picture import Answers, panels

PROBLEMS = 8
CELLS = ListedColormap(["#d9d9d9", "#ffffff", "#f5b68a"])  # given, right, wrong
TITLES = ("answer now", "truth", "|answer − truth|")
BOARD_TITLES = ("answer now (grey: given, orange: wrong)", "solution", "wrong cells")


@dataclass(frozen=True)
class Solution:
    """A problem and the sampler's way to its answer; states are in the order in which it went through them."""

    level: np.ndarray  # [states], the noise level
    step: np.ndarray  # [states], the descent step within the level; 0 is where its descent starts
    energy: np.ndarray  # [states], at the state's own level
    accepted: np.ndarray  # [states], whether the step was taken
    answers: np.ndarray  # [states, rows, columns], as `Answers.array`
    error: np.ndarray  # [states, rows, columns], |answer − truth|, or 1 where a digit is wrong
    truth: np.ndarray  # [rows, columns]
    given: np.ndarray  # [rows, columns], whether the problem gives the cell away


class SamplerExplorer(Explorer):
    """The answer as the sampler has it after each of its steps, beside the truth, the error and the energy.

    Held-out problems, the weights of the end of training, and the sampler as the run was configured. A problem is
    solved when it is first shown; read-outs tell how far it has come.
    """

    name: ClassVar[str] = "sampler"
    needs: ClassVar[str] = "Train an energy: run notebook 15_ired_table, or anm-nb demo in a terminal."
    height: ClassVar[float] = 4.6

    @classmethod
    def suits(cls, run: Run) -> bool:
        """Whether it is a run of an energy."""
        return run.summary["family"] == "energy"

    def make_controls(self) -> Sequence[Control]:
        """Seed, problem and step of the sampler."""
        self.seed = Control("seed", "Seed", "The seed of the run")
        self.problem = Control("problem", "Problem", "One of the run's held-out problems", "slider")
        self.state = Control("state", "Sampler step", "How many states the sampler has been through", "player")
        return [self.seed, self.problem, self.state]

    def make_axes(self, figure: Figure) -> Sequence[Artist]:
        """Answer, truth and difference above; energy and error over the sampler's steps below."""
        self.boards = panels(figure, 1, 3, left=0.02, right=0.98, bottom=0.46, top=0.95, wspace=0.06)[0]
        for axes in self.boards:
            axes.set(xticks=[], yticks=[], aspect="equal")
            axes.spines[:].set_visible(True)
        self.curves = panels(figure, 1, 2, left=0.09, right=0.985, bottom=0.1, top=0.37, wspace=0.25)[0]
        self.curves[0].set_ylabel("energy, nats")
        for axes in self.curves:
            axes.set_xlabel("sampler step (breaks: to the next noise level)")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return [spine for axes in self.boards for spine in axes.spines.values()]

    def open(self, run: Run) -> None:
        """Find out what there is to solve, and solve the first problem."""
        self.answers = Answers.of(run)
        self.config = run.config_with(negatives="none")  # whose class may be defined elsewhere
        self.task = self.config.make_task()
        self.solve = cache(self._solve)
        self._drawn: Solution | None = None
        self.offer_seeds()
        self.problem.offer_range(min(PROBLEMS, run.trace["probe_y"].shape[2]), first=1)
        states = len(self.shown().level)
        self.state.offer_range(states, first=1, start=states - 1)
        (rows, columns), board = self.answers.shape, self.answers.digits
        for axes, title in zip(self.boards, BOARD_TITLES if board else TITLES, strict=True):
            axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), title=title)
        errors = self.curves[1]
        errors.set(ylabel="wrong cells" if board else "squared error, mean", yscale="linear" if board else "log")
        if board:
            errors.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        else:
            ticks = {"major_locator": LogLocator(subs=(1, 2, 5)), "major_formatter": "{x:g}"}
            errors.yaxis.set(minor_formatter=NullFormatter(), **ticks)

    def draw(self) -> tuple[str, Mapping[str, str]]:
        """The answer at the sampler's step, and energy and error over all steps with a cursor there."""
        solution, state, board = self.shown(), self.state.value, self.answers.digits
        if board:
            self._draw_board(solution, state)
        else:
            self._draw_matrix(solution, state)
        self._draw_curves(solution, state)
        faults = "wrong cells" if board else "mean squared error"
        error, first, last = (self._error(solution, place) for place in (state, 0, -1))
        readouts = {
            "sampler step": f"{state + 1} of {len(solution.level)}",
            "level": str(solution.level[state]),
            "step of the level": str(solution.step[state]),
            "energy": f"{rounded(float(solution.energy[state]))} nats",
            "step taken": "start" if not solution.step[state] else "yes" if solution.accepted[state] else "no",
            faults: error,
        }
        what = f"A board of {solution.truth.size} cells" if board else f"A matrix of {solution.truth.size} entries"
        alt = (
            f"{what} as the sampler of {self.method}, {self.seed.label}, has it for held-out problem "
            f"{self.problem.label} after step {readouts['sampler step']}, at noise level {readouts['level']}: {faults} "
            f"{error}, energy {readouts['energy']}. Beside it the truth and where they differ; below, energy and error "
            f"over all steps: at the first {faults} {first}, at the last {last}."
        )
        return alt, readouts

    def shown(self) -> Solution:
        """The way to the answer of the chosen problem."""
        return self.solve(self.seed.value, self.problem.value)

    def batch(self, place: int, problem: int) -> Batch:
        """One of the held-out problems of a seed, by its place."""
        parts = {name: self.run.trace.get(f"probe_{name}") for name in ("x", "y", "known")}
        row = slice(problem, problem + 1)
        return Batch(**{name: each[place, 0, row] for name, each in parts.items() if each is not None})

    def _solve(self, place: int, problem: int) -> Solution:
        """Sample from starting noise that depends on seed and problem alone."""
        seed, batch, task = self.run.settings["seeds"][place], self.batch(place, problem), self.task
        clues, states = task.clues(batch), []

        def keep(state: SamplerState) -> None:
            states.append(state)
            if not state.step:
                self.readout.value = f'<p role="status">{escape(f"Solving: noise level {state.level} …")}</p>'

        energy, source = trained_energy(self.run, seed), generator(seed, f"explorer/{problem}")
        sampler, schedule = self.config.make_sampler(task), NoiseSchedule.cosine(self.config.levels)
        sample(energy, schedule, batch.x, task.y_dim, source, sampler, task.sample_clamp, clues, keep)
        answers = np.stack([self.answers.array(state.y[0]) for state in states])
        truth = self.answers.array(batch.y[0])
        wrong = answers != truth if self.answers.digits else np.abs(answers - truth)
        given = np.zeros(truth.shape, bool)
        if clues is not None:
            given = clues.mask[0].reshape(*self.answers.shape, -1)[..., 0].numpy()
        rows = [(state.level, state.step, float(state.energy), bool(state.accepted)) for state in states]
        level, step, energies, accepted = (np.array(column) for column in zip(*rows, strict=True))
        return Solution(level, step, energies, accepted, answers, wrong.astype(float), truth, given)

    def _error(self, solution: Solution, state: int) -> str:
        if self.answers.digits:
            return f"{int(solution.error[state].sum())} of {int((~solution.given).sum())}"
        return rounded(float(np.square(solution.error[state]).mean()))

    def _draw_matrix(self, solution: Solution, state: int) -> None:
        colours = self.answers.colours(solution.truth)
        difference = {"cmap": "cividis", "clim": (0, colours["clim"][1])}
        shown = ((solution.answers[state], colours), (solution.truth, colours), (solution.error[state], difference))
        self.images = [axes.imshow(array, **own) for axes, (array, own) in zip(self.boards, shown, strict=True)]

    def _draw_board(self, solution: Solution, state: int) -> None:
        """Cells in colours, digits written into them, and the borders of boxes."""
        wrong = solution.error[state] > 0
        marked = (np.where(solution.given, 0, 1 + wrong), np.where(solution.given, 0, 1), 1 + wrong)
        pairs = zip(self.boards, marked, strict=True)
        self.images = [axes.imshow(array, cmap=CELLS, clim=(0, 2)) for axes, array in pairs]
        side = self.answers.digits
        box = round(side**0.5) or 1
        for axes, digits in zip(self.boards, (solution.answers[state], solution.truth), strict=False):
            _write(axes, digits)
            for place in np.arange(box, side, box) - 0.5:
                axes.plot([-0.5, side - 0.5, np.nan, place, place], [place, place, np.nan, -0.5, side - 0.5], "k", lw=1)

    def _draw_curves(self, solution: Solution, state: int) -> None:
        """Energy and error over all states, broken where the level changes, and cursors; axes of a new solution fit."""
        steps = np.arange(1.0, len(solution.level) + 1)
        breaks = np.flatnonzero(np.diff(solution.level)) + 1
        flat = solution.error.reshape(len(steps), -1)
        errors = flat.sum(1) if self.answers.digits else np.square(flat).mean(1)
        self.lines = []
        for axes, colour, values in zip(self.curves, (self.colour, "black"), (solution.energy, errors), strict=True):
            x, y = (np.insert(each.astype(float), breaks, np.nan) for each in (steps, values))
            self.lines += axes.plot(x, y, marker=".", markersize=3, color=colour)
            if solution is not self._drawn:
                axes.set_xlim(0.5, len(steps) + 0.5)
                axes.relim()
                axes.autoscale(axis="y")
                axes.autoscale_view(scalex=False)
                axes.autoscale(False)
                self.picture.refresh()
            axes.axvline(state + 1, color="black", linewidth=0.8)
        self._drawn = solution


def _write(axes: Axes, digits: np.ndarray) -> None:
    """Digits [rows, columns] in their cells, as markers, since texts are slow to draw."""
    style: dict[str, Any] = {"color": "black", "linestyle": "", "markersize": 9, "markeredgewidth": 0}
    for digit in np.unique(digits):
        rows, columns = np.nonzero(digits == digit)
        axes.plot(columns, rows, marker=_glyph(int(digit)), gid=str(digit), **style)


@cache
def _glyph(digit: int) -> Path:
    """A digit's outline around its own middle."""
    outline = TextPath((0, 0), str(digit), size=10)
    middle = (outline.vertices.min(0) + outline.vertices.max(0)) / 2
    return Path(outline.vertices - middle, outline.codes)
