"""The sampler of a finished run at work: a board or a matrix, solved step by step, and its energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import ClassVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
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
from anm_nb.widgets.picture import WIDTH, Answers, panels

PROBLEMS = 8
DIGITS = 9  # of the largest board
GIVEN, RIGHT, WRONG = "#d9d9d9", "#ffffff", "#f5b68a"
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

    @classmethod
    def suits(cls, run: Run) -> bool:
        """Whether it is a run of an energy."""
        return run.summary["family"] == "energy"

    def make_controls(self) -> Sequence[Control]:
        """Seed, problem and step of the sampler."""
        self.seed = Control("seed", "Seed", "The seed of the run")
        self.problem = Control("problem", "Problem", "One of the run's held-out problems", "slider")
        passed = "How many states the sampler has been through"
        self.state = Control("state", "Sampler step", passed, "player")
        return [self.seed, self.problem, self.state]

    def make_figure(self) -> tuple[Figure, Sequence[Artist]]:
        """Answer, truth and difference above; energy and error over the sampler's steps, with one cursor, below."""
        figure = Figure(figsize=(WIDTH, 4.6))
        self.boards = panels(figure, 1, 3, left=0.02, right=0.98, bottom=0.46, top=0.95, wspace=0.06)[0]
        self.images = [axes.imshow([[0.0]]) for axes in self.boards]
        style = {"color": "black", "linestyle": "", "markersize": 9, "markeredgewidth": 0}
        self.digits = [  # as markers, since texts are slow to draw
            [axes.plot([], [], marker=_glyph(digit + 1), **style)[0] for digit in range(DIGITS)]
            for axes in self.boards[:2]
        ]
        self.borders = [axes.plot([], [], color="black", linewidth=1.0)[0] for axes in self.boards[:2]]  # of boxes
        for axes in self.boards:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(True)
        self.curves = panels(figure, 1, 2, left=0.09, right=0.985, bottom=0.1, top=0.37, wspace=0.25)[0]
        (self.energy,) = self.curves[0].plot([], [], marker=".", markersize=3)
        (self.error,) = self.curves[1].plot([], [], marker=".", markersize=3, color="black")
        self.cursors = [axes.axvline(1, color="black", linewidth=0.8) for axes in self.curves]
        self.curves[0].set_ylabel("energy, nats")
        for axes in self.curves:
            axes.set_xlabel("sampler step (breaks: to the next noise level)")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        frames = [spine for axes in self.boards for spine in axes.spines.values()]
        digits = [marker for markers in self.digits for marker in markers]
        return figure, [*self.images, *frames, *digits, *self.borders, *self.cursors]

    def open(self, run: Run) -> None:
        """Find out what there is to solve, and solve the first problem."""
        self.answers = Answers.of(run)
        self.config = run.config_with(negatives="none")  # whose class may be defined elsewhere
        self.task = self.config.make_task()
        self.solved: dict[tuple[int, int], Solution] = {}
        self._drawn: Solution | None = None
        self.seed.offer([(f"seed {seed}", seed) for seed in run.settings["seeds"]])
        problems = min(PROBLEMS, run.trace["probe_y"].shape[2])
        self.problem.offer([(str(problem + 1), problem) for problem in range(problems)])
        states = len(self.shown().level)
        self.state.offer([(str(state + 1), state) for state in range(states)], states - 1)
        self._dress()

    def draw(self) -> tuple[str, Mapping[str, str]]:
        """The answer at the sampler's step, and cursors there."""
        solution, state = self.shown(), self.state.value
        self._draw_answer(solution, state)
        for cursor in self.cursors:
            cursor.set_xdata([state + 1] * 2)
        if solution is not self._drawn:
            self._draw_curves(solution)
            self.picture.refresh()
            self._drawn = solution
        board = bool(self.answers.digits)
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
        where = self.seed.value, self.problem.value
        if where not in self.solved:
            self.solved[where] = self._solve(*where)
        return self.solved[where]

    def batch(self, seed: int, problem: int) -> Batch:
        """One of the run's held-out problems."""
        place, row = self.run.settings["seeds"].index(seed), slice(problem, problem + 1)
        parts = {name: self.run.trace.get(f"probe_{name}") for name in ("x", "y", "known")}
        return Batch(**{name: each[place, 0, row] for name, each in parts.items() if each is not None})

    def _solve(self, seed: int, problem: int) -> Solution:
        """Sample from starting noise that depends on seed and problem alone."""
        batch, task = self.batch(seed, problem), self.task
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

    def _dress(self) -> None:
        """Colours, titles, axes and borders for the run's kind of answers."""
        self.energy.set_color(self.colour)
        (rows, columns), side = self.answers.shape, self.answers.digits
        for axes, image, title in zip(self.boards, self.images, BOARD_TITLES if side else TITLES, strict=True):
            image.set_extent((-0.5, columns - 0.5, rows - 0.5, -0.5))
            axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), title=title)
        box = round(side**0.5) or 1
        places = np.arange(box, side, box) - 0.5
        along, across = np.tile([-0.5, side - 0.5, np.nan], len(places)), np.repeat(places, 3)
        for border in self.borders:
            border.set_data(np.append(along, across), np.append(across, along))
        for marker in (marker for markers in self.digits for marker in markers):
            marker.set_data([], [])
        axes = self.curves[1]
        axes.set(ylabel="wrong cells" if side else "squared error, mean", yscale="linear" if side else "log")
        if side:
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        else:
            ticks = {"major_locator": LogLocator(subs=(1, 2, 5)), "major_formatter": "{x:g}"}
            axes.yaxis.set(minor_formatter=NullFormatter(), **ticks)

    def _draw_answer(self, solution: Solution, state: int) -> None:
        """The three pictures at one of the sampler's states."""
        now, truth, error = solution.answers[state], solution.truth, solution.error[state]
        if not self.answers.digits:
            colours = self.answers.colours(truth)
            for image, array in zip(self.images, (now, truth), strict=False):
                image.set(data=array, **colours)
            self.images[2].set(data=error, cmap="cividis", clim=(0, colours["clim"][1]))
            return
        colours = {"cmap": ListedColormap([GIVEN, RIGHT, WRONG]), "clim": (0, 2)}
        for image, marked in zip(self.images, (error > 0, error < 0), strict=False):
            image.set(data=np.where(solution.given, 0, np.where(marked, 2, 1)), **colours)
        self.images[2].set(data=error, cmap=ListedColormap([RIGHT, WRONG]), clim=(0, 1))
        for markers, array in zip(self.digits, (now, truth), strict=True):
            for digit, marker in enumerate(markers, start=1):
                rows, columns = np.nonzero(array == digit)
                marker.set_data(columns, rows)

    def _draw_curves(self, solution: Solution) -> None:
        """Energy and error over all states of another solution, broken where the level changes; these do not move."""
        steps = np.arange(1.0, len(solution.level) + 1)
        breaks = np.flatnonzero(np.diff(solution.level)) + 1
        flat = solution.error.reshape(len(steps), -1)
        errors = flat.sum(1) if self.answers.digits else np.square(flat).mean(1)
        lines: Sequence[Line2D] = (self.energy, self.error)
        for axes, line, values in zip(self.curves, lines, (solution.energy, errors), strict=True):
            line.set_data(np.insert(steps, breaks, np.nan), np.insert(values.astype(float), breaks, np.nan))
            axes.set_xlim(0.5, len(steps) + 0.5)
            axes.relim()
            axes.autoscale_view(scalex=False)


def _glyph(digit: int) -> Path:
    """A digit's outline around its own middle."""
    outline = TextPath((0, 0), str(digit), size=10)
    middle = (outline.vertices.min(0) + outline.vertices.max(0)) / 2
    return Path(outline.vertices - middle, outline.codes)
