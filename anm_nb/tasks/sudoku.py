"""Sudoku: fill a 9×9 grid from its clues (IRED, arXiv 2406.11179, section 4.2)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Integer
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt
from torch import Tensor

from anm_nb.parameters import ParameterError
from anm_nb.tasks.base import Batch, Clues, DenoisingTask, Kind, Stream, TaskOptions
from anm_nb.tasks.sudoku_pool import Pool, Range, stored_pool
from anm_nb.tasks.sudoku_solver import CELLS, DIGITS, deduced, solve
from anm_nb.tasks.sudoku_text import read_puzzles

CORRUPTED = 0.05  # share of cells that the published negatives draw anew


def _within_reach(givens: Range) -> Range:
    if not 17 <= givens[0] <= givens[1] <= 80:
        raise ValueError("should be (lowest, highest) with 17 <= lowest <= highest <= 80; fewer givens never suffice")
    return givens


Givens = Annotated[Range, Field(strict=False), AfterValidator(_within_reach)]


class SudokuOptions(TaskOptions):
    """Options of `Sudoku`. Numbers of givens are drawn uniformly from a range, both ends included, for each puzzle."""

    size: Literal[9] = 9
    pool: PositiveInt = 2000  # puzzles of each of the two kinds
    pool_seed: NonNegativeInt = 0
    givens: Givens = (31, 42)
    harder_givens: Givens = (17, 34)


class Sudoku(DenoisingTask):
    """One-solution puzzles from a pool that is built once (`sudoku_pool`), or a user's own (`from_puzzles`).

    x and y are [n, 729], cell by cell row by row, nine entries each: 1 for the cell's digit, −1 for the others; an
    empty cell of x is −1 throughout. `known` [n, 729] is true for all nine entries of a given cell. The pools, the
    usual and the `harder` one with fewer givens, are loaded or built when a puzzle is first asked for.
    """

    name = "sudoku"
    metric: ClassVar[str] = "board_accuracy"
    network: ClassVar[str] = "sudoku_conv"
    contrastive_weight: ClassVar[float] = 0.05
    sample_clamp: ClassVar[float] = 1.0
    inner_steps: ClassVar[int] = 20
    options: SudokuOptions
    options_class: ClassVar[type[TaskOptions]] = SudokuOptions
    x_dim = y_dim = CELLS * DIGITS

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._pools: dict[bool, Pool] = {}  # whole pools on the CPU by harder, shared with the streams of this task
        self._at_hand: dict[tuple[bool, str], Pool] = {}  # what is drawn from, by harder and device
        self._own = False
        self._stream: Stream | None = None

    @classmethod
    def from_puzzles(cls, lines: Iterable[str] | str, **options: Any) -> Sudoku:
        """A task whose problems are given puzzles: 81 characters a line, 1–9, and 0 or . for an empty cell.

        Blank lines are skipped. All are checked at once: raises `ParameterError` naming every line that is not a
        puzzle with exactly one solution, and why (`sudoku_text.read_puzzles`).
        """
        task = cls(**options)
        task._pools[False] = read_puzzles(lines)
        task._own = True
        return task

    def stream(self, name: Stream) -> Sudoku:
        """The task restricted to its puzzles for training (the first 80 %), dev or test (10 % each, at least one).

        Nothing is in two streams, neither a puzzle nor a solution, the harder puzzles included. With `from_puzzles`
        too a solution that occurs more than once stays in one stream. Raises `ParameterError` where there are too few
        puzzles, and, when one is asked for, where too many of them have one solution.
        """
        size = len(self._pools[False].puzzles) if self._own else self.options.pool
        if size < len(get_args(Stream)):
            raise ParameterError(f"{size} puzzle(s): at least 3 are needed for the streams train, dev and test")
        part = copy.copy(self)
        part._stream, part._at_hand = name, {}
        return part

    def sample(self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False) -> Batch:
        """n random puzzles; none comes again before all have come, so up to the pool's size all are different.

        Raises `ParameterError` for harder ones of a task of given puzzles.
        """
        pool = self._pool(harder, device)
        size = len(pool.puzzles)
        rounds = [torch.randperm(size, generator=generator, device=device) for _ in range(-(-n // size))]
        rows = torch.cat(rounds)[:n] if rounds else torch.empty(0, dtype=torch.long, device=device)
        return _batch(pool.puzzles[rows], pool.solutions[rows])

    def puzzles(self, *, device: str = "cpu", harder: bool = False) -> Batch:
        """Every puzzle of the task, or of the stream it is restricted to, once and in order."""
        return _batch(*self._pool(harder, device))

    def reference_scores(self, n: int, *, generator: torch.Generator, harder: bool = False) -> pd.DataFrame:
        """References on n test puzzles, or all there are: a repeated one would only make the intervals too narrow."""
        available = len(self.stream("test").puzzles(harder=harder).x)
        return super().reference_scores(min(n, available), generator=generator, harder=harder)

    def clues(self, batch: Batch) -> Clues:
        """The given cells."""
        return Clues(_known(batch), batch.x)

    def corrupt(self, y: Tensor, settle: Callable[[], Tensor], generator: torch.Generator) -> Tensor:
        """Each cell with probability 5 % replaced by a random digit, which may be the one it had."""
        cells = y.unflatten(1, (CELLS, DIGITS))
        drawn = torch.randint(1, DIGITS + 1, cells.shape[:2], generator=generator, device=y.device)
        replaced = torch.rand(cells.shape[:2], generator=generator, device=y.device) < CORRUPTED
        return torch.where(replaced.unsqueeze(2), one_hot_boards(drawn).view_as(cells), cells).flatten(1)

    def scores(self, y_hat: Tensor, batch: Batch) -> dict[str, Float[Tensor, " n"]]:
        """Scores of the digits with the highest entries; shares per puzzle, of

        cell_accuracy: empty cells filled with the right digit (NaN without empty cells); board_accuracy: 1 where the
        whole grid is right; violation_rate: the 27 rows, columns and boxes that are not a permutation of 1 … 9, also
        apart as violation_rows, _columns and _boxes; violation_clues: given cells that hold another digit (NaN
        without given cells).
        """
        filled, given = digits(y_hat), _given(batch)
        right, kept = filled == digits(batch.y), filled == digits(batch.x)
        rows, columns, boxes = (_broken(unit) for unit in _units(filled))
        return {
            "cell_accuracy": (right & ~given).sum(1).double() / (~given).sum(1),
            "board_accuracy": right.all(1).double(),
            "violation_rate": (rows + columns + boxes) / 3,
            "violation_rows": rows,
            "violation_columns": columns,
            "violation_boxes": boxes,
            "violation_clues": (given & ~kept).sum(1).double() / given.sum(1),
        }

    def references(self, training: Batch, test: Batch) -> dict[tuple[str, Kind], Tensor]:
        """Clues with each cell's most frequent digit in training; deduction without a guess; the solver; the truth."""
        frequent = (training.y > 0).unflatten(1, (CELLS, DIGITS)).sum(0).argmax(1) + 1
        clues = clue_digits(test)
        singles = deduced(clues)
        return {
            ("clues, most frequent digit", "trivial"): one_hot_boards(torch.where(clues > 0, clues, frequent)),
            ("singles, most frequent digit", "classical"): one_hot_boards(torch.where(singles > 0, singles, frequent)),
            ("exact solver", "classical"): one_hot_boards(solve(clues, limit=1).grids),
            ("truth", "ceiling"): test.y,
        }

    def _pool(self, harder: bool, device: str) -> Pool:
        """The puzzles to draw from, on the device."""
        if (harder, device) not in self._at_hand:
            pool = self._whole_pool(harder)
            chosen = slice(None) if self._stream is None else _stream_rows(pool.solutions, self._stream)
            self._at_hand[harder, device] = Pool(*(boards[chosen].to(device) for boards in pool))
        return self._at_hand[harder, device]

    def _whole_pool(self, harder: bool) -> Pool:
        if harder and self._own:
            raise ParameterError("harder = True: a task of given puzzles has no harder ones")
        if harder not in self._pools:
            givens = self.options.harder_givens if harder else self.options.givens
            self._pools[harder] = stored_pool(self.options.pool, self.options.pool_seed, givens)
        return self._pools[harder]


def one_hot_boards(boards: Integer[Tensor, "n 81"]) -> Float[Tensor, "n 729"]:
    """Digits 1 … 9 as nine entries each: 1 for the digit, −1 for the others; 0 as nine times −1."""
    each = torch.arange(1, DIGITS + 1, device=boards.device)
    return (2.0 * (boards.unsqueeze(2) == each) - 1).flatten(1)


def digits(y: Float[Tensor, "n 729"]) -> Int[Tensor, "n 81"]:
    """The digit 1 … 9 with the highest of each cell's nine entries."""
    return y.unflatten(1, (CELLS, DIGITS)).argmax(2) + 1


def clue_digits(batch: Batch) -> Int[Tensor, "n 81"]:
    """The given digits of a batch's puzzles, 0 in empty cells."""
    return torch.where(_given(batch), digits(batch.x), 0)


def _batch(puzzles: Integer[Tensor, "n 81"], solutions: Integer[Tensor, "n 81"]) -> Batch:
    known = (puzzles > 0).repeat_interleave(DIGITS, dim=1)
    return Batch(one_hot_boards(puzzles), one_hot_boards(solutions), known)


def _known(batch: Batch) -> Bool[Tensor, "n 729"]:
    assert batch.known is not None
    return batch.known


def _given(batch: Batch) -> Bool[Tensor, "n 81"]:
    """Which cells are given."""
    return _known(batch).unflatten(1, (CELLS, DIGITS))[:, :, 0]


def _units(boards: Int[Tensor, "n 81"]) -> tuple[Tensor, Tensor, Tensor]:
    """The digits of the rows, columns and boxes, each [n, 9 units, 9 cells]."""
    rows = boards.view(-1, DIGITS, DIGITS)
    boxes = boards.view(-1, 3, 3, 3, 3).transpose(2, 3).reshape_as(rows)
    return rows, rows.mT, boxes


def _broken(units: Int[Tensor, "n 9 9"]) -> Float[Tensor, " n"]:
    """The share of units that are not a permutation of 1 … 9."""
    ordered = units.sort(2).values
    return (ordered != torch.arange(1, DIGITS + 1, device=units.device)).any(2).double().mean(1)


def _stream_rows(solutions: Integer[Tensor, "n 81"], name: Stream) -> Bool[Tensor, " n"]:
    """Which puzzles are in a stream: by the row in which their solution first occurs."""
    n = len(solutions)
    held_out = max(1, n // 10)
    bounds = {"train": (0, n - 2 * held_out), "dev": (n - 2 * held_out, n - held_out), "test": (n - held_out, n)}
    grid = torch.unique(solutions, dim=0, return_inverse=True)[1]
    rows = torch.arange(n)
    first = torch.full_like(rows, n).scatter_reduce(0, grid, rows, "amin")[grid]
    low, high = bounds[name]
    chosen = (low <= first) & (first < high)
    if not chosen.any():
        raise ParameterError(f"{n} puzzles with {len(first.unique())} solutions leave none for the stream '{name}'")
    return chosen
