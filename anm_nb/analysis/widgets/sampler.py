"""The sampler of a finished run at work: a board or a matrix, solved step by step, and its energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import ClassVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from anm_nb.analysis.figures import colours, label
from anm_nb.analysis.tables import rounded
from anm_nb.analysis.widgets.controls import Choice, Slider
from anm_nb.analysis.widgets.explorer import Explorer
from anm_nb.analysis.widgets.picker import Stored
from anm_nb.analysis.widgets.sampler_figure import SamplerFigure
from anm_nb.analysis.widgets.sampler_records import PROBLEMS, Solution, Solutions
from anm_nb.store import Run


class SamplerExplorer(Explorer):
    """The answer as the sampler has it after each of its steps, beside the truth, the error and the energy.

    Test problems, the weights of the end of training, and the sampler as the run was configured. A problem is solved
    when it is first shown; read-outs tell how far it has come.
    """

    name: ClassVar[str] = "sampler"
    needs: ClassVar[str] = "Train an energy: run notebook 15_ired_table, or anm-nb demo in a terminal."

    @classmethod
    def suits(cls, stored: Stored) -> bool:
        """Whether it is a run of an energy."""
        return stored.listed.summary["family"] == "energy"

    def make_controls(self) -> Sequence[Choice]:
        """Seed, problem and step of the sampler."""
        self.seed = Choice("seed", "Seed", "The seed of the run")
        self.problem = Slider("problem", "Problem", f"One of {PROBLEMS} test problems")
        self.state = Slider("state", "Sampler step", "How many states the sampler has been through", playable=True)
        return [self.seed, self.problem, self.state]

    def make_figure(self) -> tuple[Figure, Sequence[Artist]]:
        """Answer, truth and error as pictures; energy and error over the sampler's steps."""
        self.panels = SamplerFigure()
        return self.panels.figure, self.panels.moving

    def open(self, run: Run) -> None:
        """Find out what there is to solve, and solve the first problem."""
        self.solutions = Solutions(run)
        self._drawn: Solution | None = None
        self.seed.offer([(f"seed {seed}", seed) for seed in run.settings["seeds"]])
        self.problem.offer([(str(problem + 1), problem) for problem in range(PROBLEMS)])
        solution = self.shown()
        states = len(solution.level)
        self.state.offer([(str(state + 1), state) for state in range(states)], states - 1)
        self.panels.open(self.solutions.answers, colours([self.picker.stored.method])[self.picker.stored.method])

    def draw(self) -> tuple[str, Mapping[str, str]]:
        """The answer at the sampler's step, and cursors there."""
        solution, state = self.shown(), self.state.value
        self.panels.draw_answer(solution, state)
        self.panels.draw_cursors(state)
        if solution is not self._drawn:
            self.panels.draw_curves(solution)
            self.picture.refresh()
            self._drawn = solution
        board = bool(self.solutions.answers.digits)
        error = self._error(solution, state)
        readouts = {
            "sampler step": f"{state + 1} of {len(solution.level)}",
            "level": str(solution.level[state]),
            "step of the level": str(solution.step[state]),
            "energy": f"{rounded(float(solution.energy[state]))} nats",
            "step taken": "start" if not solution.step[state] else "yes" if solution.accepted[state] else "no",
            "wrong cells" if board else "mean squared error": error,
        }
        what = f"A board of {solution.truth.size} cells" if board else f"A matrix of {solution.truth.size} entries"
        faults = "wrong cells" if board else "mean squared error"
        alt = (
            f"{what} as the sampler of {label(self.picker.stored.method)}, {self.seed.label}, has it for test problem "
            f"{self.problem.label} after step {readouts['sampler step']}, at noise level {readouts['level']}: {faults} "
            f"{error}, energy {readouts['energy']}. Beside it the truth and where they differ; below, energy and error "
            f"over all steps: at the first {faults} {self._error(solution, 0)}, at the last "
            f"{self._error(solution, len(solution.level) - 1)}."
        )
        return alt, readouts

    def shown(self) -> Solution:
        """The way to the answer of the chosen problem."""
        return self.solutions.solution(self.seed.value, self.problem.value, self._tell)

    def _error(self, solution: Solution, state: int) -> str:
        if self.solutions.answers.digits:
            return f"{int(solution.error[state].sum())} of {int((~solution.given).sum())}"
        return rounded(float(np.square(solution.error[state]).mean()))

    def _tell(self, level: int, step: int) -> None:
        if not step:
            self.readout.value = f'<p role="status">{escape(f"Solving: noise level {level} …")}</p>'
