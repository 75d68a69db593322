"""Sudoku: fill a 9×9 or 4×4 grid from its clues (IRED, arXiv 2406.11179, section 4.2)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from anm_nb.config import ParameterError
from anm_nb.tasks.base import Batch, Clues, DenoisingTask, Kind, Scores, Stream, TaskOptions
from anm_nb.tasks.sudoku_pool import Pool, PuzzleSource, Range, first_rows, read_puzzles, shuffled, stored_pool
from anm_nb.tasks.sudoku_solver import Boards, board_size, broken, deduced, solve
from anm_nb.training.seeds import RowDraws

CORRUPTED = 0.05  # share of cells that the published negatives draw anew

# Ranges of givens by size: from the fewest that ever suffice to all but one, and what puzzles have by default.
POSSIBLE: dict[int, Range] = {4: (4, 15), 9: (17, 80)}
USUAL: dict[int, Range] = {4: (6, 10), 9: (31, 42)}
HARDER: dict[int, Range] = {4: (4, 6), 9: (17, 34)}

Givens = Annotated[Range, Field(strict=False)]


class SudokuOptions(TaskOptions):
    """Options of `Sudoku`; `size` is the number of rows, columns, boxes and digits."""

    size: Literal[4, 9] = 9
    pool: PositiveInt = 2000  # puzzles of each of the two kinds
    pool_seed: NonNegativeInt = 0
    givens: Givens = USUAL[9]  # of each puzzle, uniform on a range with both ends included
    harder_givens: Givens = HARDER[9]

    @model_validator(mode="before")
    @classmethod
    def _of_the_size(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("size") == 4:
            return {"givens": USUAL[4], "harder_givens": HARDER[4]} | values
        return values

    @model_validator(mode="after")
    def _within_reach(self) -> SudokuOptions:
        fewest, most = POSSIBLE[self.size]
        allowed = f"(lowest, highest) with {fewest} <= lowest <= highest <= {most} at size {self.size}"
        for name, (low, high) in (("givens", self.givens), ("harder_givens", self.harder_givens)):
            if not fewest <= low <= high <= most:
                raise ParameterError(f"{name} = ({low}, {high}): should be {allowed}; fewer never suffice")
        return self


class Sudoku(DenoisingTask):
    """One-solution puzzles from a pool that is built once (`sudoku_pool`), or a user's own (`from_puzzles`).

    x and y are [n, size³], cell by cell row by row, `size` entries each: 1 for the cell's digit, −1 for the others; an
    empty cell of x is −1 throughout. `known` [n, size³] is true for all entries of a given cell. Size 4 is for quick
    looks: singles solve it, and of its 288 grids each held-out one has its like in training.
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
        self.classes = self.options.size  # entries of one cell: one of them is 1
        self.x_dim = self.y_dim = self.options.size**3
        self._pools: dict[tuple[bool, str, Stream | None], Pool] = {}  # by harder, device, stream; shared with streams
        self._own = False
        self._stream: Stream | None = None

    @classmethod
    def from_puzzles(cls, puzzles: PuzzleSource, **options: Any) -> Sudoku:
        """A task of given puzzles: a file's path, text, bytes or lines, as `read_puzzles` takes them."""
        task = cls(**options)
        task._pools[False, "cpu", None] = read_puzzles(puzzles, task.options.size)
        task._own = True
        return task

    def stream(self, name: Stream) -> Sudoku:
        """The task restricted to its puzzles for training, dev or test, which share neither puzzles nor solutions.

        Solutions are divided in the order in which they first occur: the first 80 % for training, 10 % each, at least
        one, for dev and test, harder puzzles included. Raises `ParameterError` for fewer than 3 puzzles or solutions.
        """
        count = len(self._pool(harder=False).puzzles) if self._own else self.options.pool
        if count < len(get_args(Stream)):
            raise ParameterError(f"{count} puzzle(s): at least 3 are needed for the streams train, dev and test")
        part = copy.copy(self)
        part._stream = name
        return part

    def sample(self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False) -> Batch:
        """n random puzzles; none comes again before all have come, so as many as the pool holds are never the same.

        Raises `ParameterError` for harder ones of a task of given puzzles.
        """
        pool = self._pool(harder, device, self._stream)
        rows = shuffled(len(pool.puzzles), n, generator)
        return _batch(pool.puzzles[rows], pool.solutions[rows])

    def puzzles(self, *, device: str = "cpu", harder: bool = False) -> Batch:
        """Every puzzle of the task, or of the stream it is restricted to, once and in order."""
        return _batch(*self._pool(harder, device, self._stream))

    def reference_scores(self, n: int, *, generator: torch.Generator, harder: bool = False) -> pd.DataFrame:
        """References on n test puzzles, or all there are: a repeated one would only make the intervals too narrow."""
        available = len(self.stream("test").puzzles(harder=harder).x)
        return super().reference_scores(min(n, available), generator=generator, harder=harder)

    def clues(self, batch: Batch) -> Clues:
        return Clues(batch.given, batch.x)

    def corrupt(self, y: Tensor, settle: Callable[[], Tensor], draws: RowDraws) -> Tensor:
        """Each cell with probability 5 % replaced by a random digit, which may be the one it had."""
        cells = _cells(y)
        drawn = draws.integers(self.classes, cells.shape[:2]) + 1
        replaced = draws.uniform(cells.shape[:2]) < CORRUPTED
        return torch.where(replaced.unsqueeze(2), _cells(one_hot_boards(drawn)), cells).flatten(1)

    def scores(self, y_hat: Tensor, batch: Batch) -> Scores:
        """Shares per puzzle of the digits with the highest entries (NaN where there are no such cells).

        cell_accuracy: empty cells with the right digit; board_accuracy: 1 for a right grid; violation_rate: rows,
        columns and boxes that lack a digit, also apart; violation_clues: given cells that hold another digit.
        """
        filled, clues = digits(y_hat), clue_digits(batch)
        right, given = filled == digits(batch.y), clues > 0
        rows, columns, boxes = broken(filled).double().mean(2)
        return {
            "cell_accuracy": (right & ~given).sum(1).double() / (~given).sum(1),
            "board_accuracy": right.all(1).double(),
            "violation_rate": (rows + columns + boxes) / 3,
            "violation_rows": rows,
            "violation_columns": columns,
            "violation_boxes": boxes,
            "violation_clues": (given & (filled != clues)).sum(1).double() / given.sum(1),
        }

    def references(self, training: Batch, test: Batch) -> dict[tuple[str, Kind], Tensor]:
        """Clues with each cell's most frequent digit in training; deduction without a guess; the solver; the truth."""
        frequent = _cells(training.y > 0).sum(0).argmax(1) + 1
        clues = clue_digits(test)
        singles = deduced(clues)
        return {
            ("clues, most frequent digit", "trivial"): one_hot_boards(torch.where(clues > 0, clues, frequent)),
            ("singles, most frequent digit", "classical"): one_hot_boards(torch.where(singles > 0, singles, frequent)),
            ("exact solver", "classical"): one_hot_boards(solve(clues, limit=1).grids),
            ("truth", "ceiling"): test.y,
        }

    def _pool(self, harder: bool, device: str = "cpu", stream: Stream | None = None) -> Pool:
        """The puzzles of a stream, or all, on the device; kept, as they are drawn from again and again."""
        if harder and self._own:
            raise ParameterError("harder = True: a task of given puzzles has no harder ones")
        options, place = self.options, (harder, device, stream)
        if place not in self._pools and place == (harder, "cpu", None):
            givens = options.harder_givens if harder else options.givens
            self._pools[place] = stored_pool(options.pool, options.pool_seed, givens, options.size)
        elif place not in self._pools:
            whole = self._pool(harder)
            rows = slice(None) if stream is None else _stream_rows(whole.solutions, stream)
            self._pools[place] = Pool(*(boards[rows].to(device) for boards in whole))
        return self._pools[place]


def one_hot_boards(boards: Boards) -> Float[Tensor, "n entries"]:
    """Digits 1 … size as `size` entries each: 1 for the digit, −1 for the others; 0 as −1 throughout."""
    each = torch.arange(1, board_size(boards) + 1, device=boards.device)
    return (2.0 * (boards.unsqueeze(2) == each) - 1).flatten(1)


def digits(y: Float[Tensor, "n entries"]) -> Boards:
    """The digit 1 … size with the highest of each cell's entries."""
    return _cells(y).argmax(2) + 1


def clue_digits(batch: Batch) -> Boards:
    """The given digits of a batch's puzzles, 0 in empty cells."""
    return torch.where(_cells(batch.given)[:, :, 0], digits(batch.x), 0)


def _cells(entries: Tensor) -> Tensor:
    """Entries [n, size³] cell by cell, [n, size², size]."""
    return entries.unflatten(1, (-1, round(entries.shape[1] ** (1 / 3))))


def _batch(puzzles: Boards, solutions: Boards) -> Batch:
    known = (puzzles > 0).repeat_interleave(board_size(puzzles), dim=1)
    return Batch(one_hot_boards(puzzles), one_hot_boards(solutions), known)


def _stream_rows(solutions: Boards, name: Stream) -> Bool[Tensor, " n"]:
    """Which puzzles are in a stream: by the place of their solution in the order of first occurrence."""
    distinct, place = torch.unique(first_rows(solutions), return_inverse=True)
    n, names = len(distinct), get_args(Stream)
    if n < len(names):
        raise ParameterError(f"{len(solutions)} puzzles with {n} solution(s): the streams train, dev and test need 3")
    held_out = max(1, n // 10)
    bounds = [0, n - 2 * held_out, n - held_out, n]
    low, high = bounds[names.index(name)], bounds[names.index(name) + 1]
    return (low <= place) & (place < high)
