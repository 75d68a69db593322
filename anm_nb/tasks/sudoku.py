"""Sudoku: fill a 9×9 or 4×4 grid from its clues (IRED, arXiv 2406.11179, section 4.2)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Integer, Num
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from anm_nb.config import ParameterError
from anm_nb.tasks.base import Batch, Clues, DenoisingTask, Kind, Stream, TaskOptions
from anm_nb.tasks.sudoku_pool import Pool, Range, first_rows, shuffled, stored_pool
from anm_nb.tasks.sudoku_solver import board_size, deduced, solve
from anm_nb.tasks.sudoku_text import read_puzzles
from anm_nb.training.seeds import RowDraws

CORRUPTED = 0.05  # share of cells that the published negatives draw anew

# Ranges of givens by size: from the fewest that ever suffice to all but one, and what puzzles have by default.
POSSIBLE: dict[int, Range] = {4: (4, 15), 9: (17, 80)}
USUAL: dict[int, Range] = {4: (6, 10), 9: (31, 42)}
HARDER: dict[int, Range] = {4: (4, 6), 9: (17, 34)}

Givens = Annotated[Range, Field(strict=False)]


class SudokuOptions(TaskOptions):
    """Options of `Sudoku`; `size` is the number of rows, columns, boxes and digits.

    Numbers of givens are drawn uniformly from a range, both ends included, for each puzzle. The defaults are those of
    the size: 31–42 and 17–34 at 9, 6–10 and 4–6 at 4. Raises `ParameterError` for a range that goes below the fewest
    givens that ever suffice, 17 and 4, or leaves no cell empty.
    """

    size: Literal[4, 9] = 9
    pool: PositiveInt = 2000  # puzzles of each of the two kinds
    pool_seed: NonNegativeInt = 0
    givens: Givens = USUAL[9]
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
        allowed = f"should be (lowest, highest) with {fewest} <= lowest <= highest <= {most} at size {self.size}"
        refused = [
            f"{name} = {given}: {allowed}; fewer givens never suffice"
            for name, given in (("givens", self.givens), ("harder_givens", self.harder_givens))
            if not fewest <= given[0] <= given[1] <= most
        ]
        if refused:
            raise ParameterError("\n".join(refused))
        return self


class Sudoku(DenoisingTask):
    """One-solution puzzles from a pool that is built once (`sudoku_pool`), or a user's own (`from_puzzles`).

    x and y are [n, size³], cell by cell row by row, `size` entries each: 1 for the cell's digit, −1 for the others; an
    empty cell of x is −1 throughout. `known` [n, size³] is true for all entries of a given cell. The pools, the usual
    and the `harder` one with fewer givens, are loaded or built when a puzzle is first asked for.

    There are only 288 grids of 4×4, so at that size a pool of more puzzles repeats their solutions, though not the
    puzzles (`build_pool`): 2,000 puzzles are 6 or 7 of every grid, and 232, 28 and 28 grids are in the three streams.
    These share no solution, yet a stream's puzzles are not as many independent ones, which makes intervals too narrow;
    and as all grids but for symmetry are two, each held-out grid has its like in training. Size 4 is for quick looks:
    singles, without a guess, solve every puzzle of its default pools.
    """

    name = "sudoku"
    metric: ClassVar[str] = "board_accuracy"
    network: ClassVar[str] = "sudoku_conv"
    contrastive_weight: ClassVar[float] = 0.05
    sample_clamp: ClassVar[float] = 1.0
    inner_steps: ClassVar[int] = 20
    options: SudokuOptions
    options_class: ClassVar[type[TaskOptions]] = SudokuOptions
    classes: int  # entries of one cell: one of them is 1

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.classes = self.options.size
        self.x_dim = self.y_dim = self.options.size**3
        self._pools: dict[bool, Pool] = {}  # whole pools on the CPU by harder, shared with the streams of this task
        self._at_hand: dict[tuple[bool, str], Pool] = {}  # what is drawn from, by harder and device
        self._own = False
        self._stream: Stream | None = None

    @classmethod
    def from_puzzles(cls, lines: Iterable[str] | str, **options: Any) -> Sudoku:
        """A task whose problems are given puzzles, one a line, with 0 or . for an empty cell.

        A line has 81 characters and digits 1–9, or with `size=4` 16 and 1–4; blank lines are skipped. All are checked
        at once: raises `ParameterError` naming every line that is not a puzzle with exactly one solution, and why
        (`sudoku_text.read_puzzles`).
        """
        task = cls(**options)
        task._pools[False] = read_puzzles(lines, task.options.size)
        task._own = True
        return task

    def stream(self, name: Stream) -> Sudoku:
        """The task restricted to its puzzles for training, dev or test.

        Solutions are divided in the order in which they first occur: the first 80 % are for training, 10 % each, at
        least one, for dev and test, and their puzzles go with them. So nothing is in two streams, neither a puzzle nor
        a solution, the harder puzzles included; this holds within one pool and `pool_seed`, as at size 4 another seed
        has the same few grids in another order. Raises `ParameterError` where there are fewer than 3 puzzles, and,
        when one is asked for, where they have fewer than 3 solutions.
        """
        count = len(self._pools[False].puzzles) if self._own else self.options.pool
        if count < len(get_args(Stream)):
            raise ParameterError(f"{count} puzzle(s): at least 3 are needed for the streams train, dev and test")
        part = copy.copy(self)
        part._stream, part._at_hand = name, {}
        return part

    def sample(self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False) -> Batch:
        """n random puzzles; none comes again before all have come, so as many as the pool holds are never the same.

        Raises `ParameterError` for harder ones of a task of given puzzles.
        """
        pool = self._pool(harder, device)
        rows = shuffled(len(pool.puzzles), n, generator)
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

    def corrupt(self, y: Tensor, settle: Callable[[], Tensor], draws: RowDraws) -> Tensor:
        """Each cell with probability 5 % replaced by a random digit, which may be the one it had."""
        cells = _cells(y)
        drawn = draws.integers(self.classes, cells.shape[:2]) + 1
        replaced = draws.uniform(cells.shape[:2]) < CORRUPTED
        return torch.where(replaced.unsqueeze(2), one_hot_boards(drawn).view_as(cells), cells).flatten(1)

    def scores(self, y_hat: Tensor, batch: Batch) -> dict[str, Float[Tensor, " n"]]:
        """Scores of the digits with the highest entries; shares per puzzle, of

        cell_accuracy: empty cells filled with the right digit (NaN without empty cells); board_accuracy: 1 where the
        whole grid is right; violation_rate: the rows, columns and boxes that do not hold every digit once, also
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
        frequent = _cells(training.y > 0).sum(0).argmax(1) + 1
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
            self._pools[harder] = stored_pool(self.options.pool, self.options.pool_seed, givens, self.options.size)
        return self._pools[harder]


def one_hot_boards(boards: Integer[Tensor, "n cells"]) -> Float[Tensor, "n entries"]:
    """Digits 1 … size as `size` entries each: 1 for the digit, −1 for the others; 0 as −1 throughout."""
    each = torch.arange(1, board_size(boards) + 1, device=boards.device)
    return (2.0 * (boards.unsqueeze(2) == each) - 1).flatten(1)


def digits(y: Float[Tensor, "n entries"]) -> Int[Tensor, "n cells"]:
    """The digit 1 … size with the highest of each cell's entries."""
    return _cells(y).argmax(2) + 1


def clue_digits(batch: Batch) -> Int[Tensor, "n cells"]:
    """The given digits of a batch's puzzles, 0 in empty cells."""
    return torch.where(_given(batch), digits(batch.x), 0)


def _cells(entries: Num[Tensor, "n entries"] | Bool[Tensor, "n entries"]) -> Tensor:
    """The entries cell by cell, [n, size², size]."""
    return entries.unflatten(1, (-1, round(entries.shape[1] ** (1 / 3))))


def _batch(puzzles: Integer[Tensor, "n cells"], solutions: Integer[Tensor, "n cells"]) -> Batch:
    known = (puzzles > 0).repeat_interleave(board_size(puzzles), dim=1)
    return Batch(one_hot_boards(puzzles), one_hot_boards(solutions), known)


def _known(batch: Batch) -> Bool[Tensor, "n entries"]:
    assert batch.known is not None
    return batch.known


def _given(batch: Batch) -> Bool[Tensor, "n cells"]:
    """Which cells are given."""
    return _cells(_known(batch))[:, :, 0]


def _units(boards: Int[Tensor, "n cells"]) -> tuple[Tensor, Tensor, Tensor]:
    """The digits of the rows, columns and boxes, each [n, size units, size cells]."""
    size = board_size(boards)
    rows = boards.unflatten(1, (size, size))
    boxes = boards.unflatten(1, 4 * [math.isqrt(size)]).transpose(2, 3).reshape_as(rows)
    return rows, rows.mT, boxes


def _broken(units: Int[Tensor, "n size size"]) -> Float[Tensor, " n"]:
    """The share of units that are not a permutation of 1 … size."""
    ordered = units.sort(2).values
    return (ordered != torch.arange(1, units.shape[2] + 1, device=units.device)).any(2).double().mean(1)


def _stream_rows(solutions: Integer[Tensor, "n cells"], name: Stream) -> Bool[Tensor, " n"]:
    """Which puzzles are in a stream: by the place of their solution in the order of first occurrence."""
    distinct, place = torch.unique(first_rows(solutions), return_inverse=True)
    n = len(distinct)
    if n < len(get_args(Stream)):
        raise ParameterError(f"{len(solutions)} puzzles with {n} solution(s): the streams train, dev and test need 3")
    held_out = max(1, n // 10)
    bounds = {"train": (0, n - 2 * held_out), "dev": (n - 2 * held_out, n - held_out), "test": (n - held_out, n)}
    low, high = bounds[name]
    return (low <= place) & (place < high)
