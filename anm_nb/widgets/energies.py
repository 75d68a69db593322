"""Explorers of a run's energy: on lines from truths to negatives (checklist, section E), and during sampling."""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
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
from anm_nb.widgets.explorer import View

T = SCAN_GRID.numpy()
CELLS = ListedColormap(["#d9d9d9", "#ffffff", "#f28e2b"])  # given, right, wrong: an orange on dark pages, too
outline = cache(lambda digit: MarkerStyle(f"${digit}$"))  # slow to create


class Landscape(View):
    """Energy on the line from a held-out problem's noised truth to its negative, and a perfect denoiser's.

    Computed on demand in float64 from the run's stored weights. A run trained without `keep_weights` shows its last
    step only.
    """

    name = "landscape"
    controls = (
        ("step", "Training step", "The training step whose weights are shown"),
        ("level", "Noise level", "The noise level k; 0 has the least noise"),
        ("problem", "Problem", "One of the run's held-out problems"),
    )
    widths = (1,)

    def __init__(self, run: Run) -> None:
        self.steps, self.scan = kept_steps(run) or [run.summary["steps"]], cache(self._scan)
        levels, problems = range(run.settings["levels"]), range(1, run.trace["probe_y"].shape[2] + 1)
        start = {"step": (self.steps, self.steps[-1]), "level": (levels, len(levels) // 3), "problem": (problems, 1)}
        super().__init__(run, **start)

    @classmethod
    def suits(cls, run: Run) -> bool:
        return super().suits(run) and issubclass(task_class(run.summary["task"]), MatrixTask)

    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> dict[str, str]:
        (panel,), line = axes, (values["seed"], values["problem"], values["level"])
        scan, perfect = self.scan(*line, values["step"]), self.scan(*line, None)
        for step in (self.steps[0], self.steps[-1]):  # so that limits stay as the step changes
            panel.update_datalim(np.column_stack([T, self.scan(*line, step)["rise"]]))
        panel.plot(T, perfect["rise"], color=PALETTE["optimal"], label=label("optimal"), **LINE_STYLES["optimal"])
        panel.plot(T, scan["rise"], color=self.colour, linewidth=1.8, label=self.method)
        panel.axhline(0, color="black", linewidth=0.6)
        panel.set(xlabel="t: truth at 0, negative at 1", ylabel="φ(t) − φ(0), nats", xlim=(T[0], T[-1]))
        if panel.get_legend() is None:
            panel.legend(fontsize="small", loc="upper left")
        numbers = {"step": str(values["step"]), "level": str(values["level"])}
        for name, unit in {"barrier": "nats", "curvature": "nats per unit²"}.items():  # unit of length of ỹ
            numbers[name] = f"{rounded(scan[name].item())} {unit} (perfect: {rounded(perfect[name].item())})"
        return numbers

    def _scan(self, seed: int, problem: int, level: int, step: int | None) -> dict[str, np.ndarray]:
        """φ(t) − φ(0) [T], barrier and curvature at a step, or of a perfect denoiser (None), all with the same ε."""
        row = self.seeds.index(seed), 0, slice(problem - 1, problem)
        x, y_pos, y_neg = (self.run.trace[f"probe_{name}"][row].double() for name in ("x", "y", "negatives"))
        eps = torch.randn(y_pos.shape, generator=generator(seed, f"explorer/{problem}"), dtype=x.dtype)
        schedule, k = NoiseSchedule.cosine(self.run.settings["levels"]), torch.tensor([level])
        noise = SharedNoise(schedule, k, eps)
        start, end = (noise.noised(y).as_subclass(Tensor) for y in (y_pos, y_neg))
        if step is None:
            energy = energy_given(landscape.optimal_energy(schedule, y_pos), x, k)
        else:
            kept = step if step < self.steps[-1] else None  # every run has the weights of its end
            energy = energy_given(trained_energy(self.run, seed, kept).double(), x, k)
        profile = landscape.line_scan(energy, start, end)
        return {
            "rise": (profile - profile[:, SCAN_GRID == 0])[0].numpy(),
            "barrier": landscape.barrier(profile, SCAN_GRID).numpy(),
            "curvature": (landscape.curvature(energy, start, end) / (end - start).square().sum(1)).numpy(),
        }


class Sampling(View):
    """The sampler's current answer to a problem, the true answer, and energy and error over all sampler steps.

    Problems are held-out ones or a user's own Sudoku. The weights are those of the end of training, and the sampler is
    configured as in the run. A problem is solved when first shown, from starting noise that depends only on seed and
    problem.
    """

    name = "sampler"
    controls = (
        ("puzzle", "Own Sudoku", "For a run on Sudoku: 81 or 16 characters row by row, 0 or . for an empty cell"),
        ("problem", "Problem", "One of the run's held-out problems; ignored with an own Sudoku"),
        ("state", "Sampler step", "The step of the sampler that is shown"),
    )
    typed = ("puzzle",)
    widths = (1, 1, 1.2, 1.2)
    height = 1.9

    def __init__(self, run: Run) -> None:
        self.config = run.config_with(negatives="none")  # a negative strategy's class may be defined elsewhere
        self.digits = run.settings["size"] if run.settings["task"] == "sudoku" else 0  # 0: the answer is numbers
        self.run, self.solve = run, cache(self._solve)
        states = len(self.solve(self.config.seeds[0], 1, "")[0])
        problems = range(1, run.trace["probe_y"].shape[2] + 1)
        super().__init__(run, problem=(problems, 1), state=(range(1, states + 1), states))

    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> dict[str, str]:
        puzzle = "".join(values["puzzle"].split()) if self.digits else ""
        levels, energies, errors, answers, truth, given = self.solve(values["seed"], values["problem"], puzzle)
        state, measure = values["state"], "wrong cells" if self.digits else "mean squared error"
        for panel, array in zip(axes, (answers[state - 1], truth), strict=False):
            if self.digits:
                panel.imshow(np.where(given, 0, 1 + (array != truth)), cmap=CELLS, clim=(0, 2))
                for digit in np.unique(array):  # markers are far faster than text
                    look: dict[str, Any] = {"color": "black", "linestyle": "", "markersize": 40 / self.digits, "mew": 0}
                    panel.add_artist(Line2D(*np.nonzero(digit == array.T), marker=outline(digit), **look))
                box, ends = round(self.digits**0.5), (-0.5, self.digits - 0.5)
                for border in np.arange(box, self.digits, box) - 0.5:
                    for line in ((ends, (border, border)), ((border, border), ends)):
                        panel.add_artist(Line2D(*line, color="black", linewidth=1))  # faster than `hlines`
            else:
                reach = float(np.abs(truth).max()) or 1.0
                panel.imshow(array, cmap="RdBu_r", clim=(-reach, reach))
            panel.set(xticks=[], yticks=[])
        axes[0].set_xlabel("answer\n(orange: wrong)" if self.digits else "answer now")
        axes[1].set_xlabel("solution\n(grey: given)" if self.digits else "truth")
        for panel, curve, colour in zip(axes[2:], (energies, errors), (self.colour, "black"), strict=True):
            panel.plot(range(1, len(levels) + 1), curve, ".", markersize=3, color=colour)
            panel.axvline(state, color="black", linewidth=0.8, snap=False)  # states are less than a pixel apart
            panel.set_xlabel("sampler step")
            panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes[2].set_ylabel("energy, nats")
        axes[3].set(ylabel=measure, yscale="linear" if self.digits else "log")
        error = errors[state - 1]
        return {
            **({"problem": "your own"} if puzzle else {}),
            "sampler step": f"{state} of {len(levels)}",
            "level": str(levels[state - 1]),
            "energy": f"{rounded(energies[state - 1])} nats",
            measure: f"{error:.0f} of {(~given).sum()}" if self.digits else rounded(error),
        }

    def _solve(self, seed: int, problem: int, puzzle: str) -> tuple[np.ndarray, ...]:
        """Run the sampler on a problem, or on a puzzle if there is one, and return all states and the problem.

        Level, energy (nats) and error [states], answer (numbers or digits) [states, rows, columns], and the truth and
        a mask of the given cells [rows, columns].
        """
        task, states = self.config.make_task(), list[Any]()  # of (level, step, y, energy, accepted)
        if puzzle:
            batch = Sudoku.from_puzzles([puzzle], size=self.digits).puzzles()
        else:
            fields = {name: self.run.trace.get(f"probe_{name}") for name in ("x", "y", "known")}
            place, row = self.config.seeds.index(seed), slice(problem - 1, problem)
            batch = Batch(**{name: each[place, 0, row] for name, each in fields.items() if each is not None})
        clues, schedule = task.clues(batch), NoiseSchedule.cosine(self.config.levels)
        energy, source = trained_energy(self.run, seed), generator(seed, f"explorer/{problem - 1}")
        how = self.config.inner_steps or task.inner_steps, task.sample_clamp, clues
        sample(energy, schedule, batch.x, task.y_dim, source, *how, callback=lambda *state: states.append(state))
        levels, _, answers, energies, _ = zip(*states, strict=True)
        y = torch.cat([*answers, batch.y])  # the truth last
        cells = y.unflatten(1, (-1, self.digits)).argmax(2) + 1 if self.digits else y
        side = math.isqrt(cells.shape[1])
        shape = (side, side) if side**2 == cells.shape[1] else (1, -1)  # a row if it is not a square
        *boards, truth = cells.reshape(-1, *shape).numpy()
        known = torch.zeros_like(y, dtype=torch.bool) if clues is None else clues.mask
        given = known[0].reshape(*truth.shape, -1)[..., 0].numpy()
        errors = [(board != truth).sum() if self.digits else np.square(board - truth).mean() for board in boards]
        return np.array(levels), torch.cat(energies).numpy(), np.array(errors), np.array(boards), truth, given
