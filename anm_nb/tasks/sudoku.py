"""Sudoku: fill a 9×9 or 4×4 grid from its clues (IRED, arXiv 2406.11179, section 4.2)."""

import copy
import csv
import re
from collections.abc import Callable, Iterable
from math import isqrt
from typing import Annotated, Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt
from torch import Tensor

from anm_nb.config import ParameterError
from anm_nb.tasks import Batch, Clues, DenoisingTask, Predictions, Scores, Stream, TaskOptions
from anm_nb.tasks import sudoku_solver as solver
from anm_nb.tasks.sudoku_solver import Boards, Pool
from anm_nb.training.seeds import RowDraws

COLUMNS = ("question", "quizzes", "puzzle")  # of CSV files: Sudoku-Extreme's, Kaggle's and others


class SudokuOptions(TaskOptions):
    """Options of `Sudoku`; `size` is the number of rows, columns, boxes and digits."""

    size: Literal[4, 9] = 9
    pool: Annotated[int, Field(ge=3)] = 2000  # number of puzzles, and as many harder ones
    pool_seed: NonNegativeInt = 0


class Sudoku(DenoisingTask):
    """Puzzles with one solution, from a pool that is built once (`sudoku_solver`) or your own (`from_puzzles`).

    x and y are [n, size³]: row by row, `size` entries per cell, 1 for its digit and −1 for the others. An empty cell of
    x is −1 throughout. `known` [n, size³] marks given cells. At size 4, held-out grids resemble training grids.
    """

    name = "sudoku"
    metric = "board_accuracy"
    network = "sudoku_conv"
    contrastive_weight = 0.05
    sample_clamp = 1.0
    inner_steps = 20
    options: SudokuOptions
    options_class = SudokuOptions

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.classes = self.options.size  # entries per cell, of which one is 1
        self.x_dim = self.y_dim = self.options.size**3
        self._own: Pool | None = None  # the puzzles of `from_puzzles`
        self._stream: Stream | None = None
        self._pools: dict[tuple[bool, str, Stream | None], Pool] = {}  # (harder, device, stream); shared by all streams

    @classmethod
    def from_puzzles(cls, lines: Iterable[str], **options: Any) -> "Sudoku":
        """A task of your puzzles, as lines of size² characters (0 or . = empty) or CSV. Errors name the wrong line."""
        task = cls(**options)
        size = task.options.size
        rows = lines.splitlines() if isinstance(lines, str) else list(lines)
        if rows and "," in rows[0]:
            table = csv.DictReader(rows)
            if not (named := [column for column in COLUMNS if column in (table.fieldnames or ())]):
                raise ParameterError(f"line 1: {rows[0].strip()[:60]!r}: CSV needs a column {' or '.join(COLUMNS)}")
            rows = ["", *(row[named[0]] or "" for row in table)]  # the header counts as a line
        texts = {number: text.strip() for number, text in enumerate(rows, start=1) if text.strip()}
        if not texts:
            raise ParameterError("no puzzles: every line is blank")
        for number, text in texts.items():
            if wrong := re.search(f"[^.0-{size}]", text):
                where = f"{wrong[0]!r} in row {wrong.start() // size + 1}, column {wrong.start() % size + 1}"
                raise ParameterError(f"line {number}: {where}: should be a digit from 1 to {size}, 0 or . if empty")
            if len(text) != size**2:
                raise ParameterError(f"line {number}: {len(text)} characters, should be {size**2}")
        puzzles = torch.tensor([[*map(int, text.replace(".", "0"))] for text in texts.values()], dtype=torch.uint8)
        solutions, found = solver.solve(puzzles)
        for number, board, count in zip(texts, puzzles.tolist(), found.tolist(), strict=True):
            for place, unit in enumerate(solver.unit_cells(size).tolist() if count == 0 else []):
                given = [board[cell] for cell in unit if board[cell]]
                if repeated := [digit for digit in given if given.count(digit) > 1]:
                    where = f"{('row', 'column', 'box')[place // size]} {place % size + 1}"
                    raise ParameterError(f"line {number}: {repeated[0]} more than once in {where}")
            if count != 1:
                raise ParameterError(f"line {number}: has {'more than one' if count else 'no'} solution")
        task._own = Pool(puzzles, solutions.to(torch.uint8))
        return task

    def stream(self, name: Stream) -> "Sudoku":
        """The task on 80 % (train) or 10 % (dev, test) of the solutions by first occurrence. At least 3 must exist."""
        part = copy.copy(self)
        part._stream = name
        return part

    def sample(self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False) -> Batch:
        """Draw n puzzles; none repeats before all have been used. `ParameterError` for harder ones of given puzzles."""
        pool = self._pool(harder, device)
        rows = solver.shuffled(len(pool.puzzles), n, generator)
        return _batch(pool.puzzles[rows], pool.solutions[rows])

    def puzzles(self, *, device: str = "cpu", harder: bool = False) -> Batch:
        """All puzzles of the task, or of its stream, once and in order."""
        return _batch(*self._pool(harder, device))

    def reference_scores(self, n: int, *, generator: torch.Generator, harder: bool = False) -> pd.DataFrame:
        """Score references on n test puzzles, or all if fewer: repeats would make the intervals too narrow."""
        available = len(self.stream("test")._pool(harder, "cpu").puzzles)
        return super().reference_scores(min(n, available), generator=generator, harder=harder)

    def clues(self, batch: Batch) -> Clues:
        return Clues(batch.known, batch.x)

    def corrupt(self, y: Tensor, settle: Callable[[], Tensor], draws: RowDraws) -> Tensor:
        """Replace each cell, with probability 0.05, by a random digit, which may be the same one."""
        cells = _cells(y)
        random_digits = draws.integers(self.classes, cells.shape[:2]) + 1
        changed = draws.uniform(cells.shape[:2]) < 0.05
        return torch.where(changed.unsqueeze(2), _cells(one_hot_boards(random_digits)), cells).flatten(1)

    def scores(self, y_hat: Tensor, batch: Batch) -> Scores:
        """Fill each cell with the digit of its highest entry and compare the grid with the solution.

        `cell_accuracy`: fraction of empty cells with the right digit, NaN if none is empty. `board_accuracy`: 1 if the
        whole grid is right. `violation_rate`: fraction of rows, columns and boxes that lack a digit.
        """
        filled, given = digits(y_hat), clue_digits(batch) > 0
        right = filled == digits(batch.y)
        return {
            "cell_accuracy": (right & ~given).sum(1).double() / (~given).sum(1),
            "board_accuracy": right.all(1).double(),
            "violation_rate": solver.broken(filled).double().mean(1),
        }

    def references(self, training: Batch, test: Batch) -> Predictions:
        """Clues or singles completed by each cell's most frequent training digit; the exact solver; the truth."""
        frequent = _cells(training.y > 0).sum(0).argmax(1) + 1
        clues = clue_digits(test)
        singles = solver.deduce(clues)
        return {
            ("clues, most frequent digit", "trivial"): one_hot_boards(torch.where(clues > 0, clues, frequent)),
            ("singles, most frequent digit", "classical"): one_hot_boards(torch.where(singles > 0, singles, frequent)),
            ("exact solver", "classical"): one_hot_boards(solver.solve(clues, limit=1)[0]),
            ("truth", "ceiling"): test.y,
        }

    def _pool(self, harder: bool, device: str) -> Pool:
        """The puzzles of the stream, or all, on the device; cached, because they are drawn from repeatedly."""
        key = harder, device, self._stream
        if key not in self._pools:
            if harder and self._own:
                raise ParameterError("harder = True: a task of given puzzles has no harder ones")
            pool = self._own or solver.stored_pool(self.options.size, self.options.pool, self.options.pool_seed, harder)
            if self._stream is not None:
                group = torch.unique(solver.first_rows(pool.solutions), return_inverse=True)[1]  # by first occurrence
                if (n := int(group.max()) + 1) < 3:
                    raise ParameterError(f"{len(group)} puzzles, {n} solution(s): streams train, dev and test need 3")
                dev, test = n - 2 * max(1, n // 10), n - max(1, n // 10)
                first, end = {"train": (0, dev), "dev": (dev, test), "test": (test, n)}[self._stream]
                rows = (first <= group) & (group < end)
                pool = Pool(*(boards[rows] for boards in pool))
            self._pools[key] = Pool(*(boards.to(device) for boards in pool))
        return self._pools[key]


def one_hot_boards(boards: Boards) -> Float[Tensor, "n entries"]:
    """Encode each digit 1 … size as `size` entries: 1 for the digit, −1 for the others. Digit 0 is −1 throughout."""
    classes = torch.arange(1, isqrt(boards.shape[1]) + 1, device=boards.device)
    return (2.0 * (boards.unsqueeze(2) == classes) - 1).flatten(1)


def digits(y: Float[Tensor, "n entries"]) -> Boards:
    """The digit 1 … size whose entry is the highest of its cell."""
    return _cells(y).argmax(2) + 1


def clue_digits(batch: Batch) -> Boards:
    """The given digits of a batch's puzzles, 0 in empty cells."""
    return torch.where(_cells(batch.known)[:, :, 0], digits(batch.x), 0)


def _cells(entries: Tensor) -> Tensor:
    """Reshape entries [n, size³] to cells [n, size², size]."""
    return entries.unflatten(1, (-1, round(entries.shape[1] ** (1 / 3))))


def _batch(puzzles: Boards, solutions: Boards) -> Batch:
    known = (puzzles > 0).repeat_interleave(isqrt(puzzles.shape[1]), dim=1)
    return Batch(one_hot_boards(puzzles), one_hot_boards(solutions), known)
