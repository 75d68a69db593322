"""Sudoku: fill a 9×9 or 4×4 grid from its clues (IRED, arXiv 2406.11179, section 4.2)."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable
from math import isqrt
from typing import Annotated, Any, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeInt
from torch import Tensor
from tqdm.auto import tqdm

from anm_nb.config import ParameterError
from anm_nb.tasks.base import Batch, Clues, DenoisingTask, Predictions, Scores, Stream, TaskOptions
from anm_nb.tasks.sudoku_solver import Boards, Pool, broken, deduced, first_rows, shuffled, solve, stored_pool, units
from anm_nb.training.seeds import RowDraws

CORRUPTED = 0.05  # share of cells that the published negatives draw anew
SHOWN = 5  # wrong puzzles of a user's that an error lists


class SudokuOptions(TaskOptions):
    """Options of `Sudoku`; `size` is the number of rows, columns, boxes and digits."""

    size: Literal[4, 9] = 9
    pool: Annotated[int, Field(ge=3)] = 2000  # puzzles of each of the two kinds
    pool_seed: NonNegativeInt = 0


class Sudoku(DenoisingTask):
    """One-solution puzzles from a pool that is built once (`sudoku_solver`), or a user's own (`from_puzzles`).

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
        self._own: Pool | None = None
        self._stream: Stream | None = None
        self._pools: dict[tuple[bool, str, Stream | None], Pool] = {}  # by harder, device, stream; shared with streams

    @classmethod
    def from_puzzles(cls, lines: Iterable[str], **options: Any) -> Sudoku:
        """A task of a user's puzzles, a line each (or one text of lines): size² characters, 0 or . for an empty cell.

        Raises `ParameterError` naming, by line and cell, puzzles that are written wrong, or that do not have just one
        solution.
        """
        task = cls(**options)
        task._own = read_puzzles(lines, task.options.size)
        return task

    def stream(self, name: Stream) -> Sudoku:
        """The task restricted to its puzzles for training, dev or test, which share neither puzzles nor solutions.

        Solutions are divided in the order in which they first occur: the first 80 % for training, 10 % each, at least
        one, for dev and test, harder puzzles included; drawing raises `ParameterError` for fewer than 3.
        """
        part = copy.copy(self)
        part._stream = name
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

    def references(self, training: Batch, test: Batch) -> Predictions:
        """Clues with each cell's most frequent digit in training; deduction without a guess; the solver; the truth."""
        frequent = _cells(training.y > 0).sum(0).argmax(1) + 1
        clues = clue_digits(test)
        singles = deduced(clues)
        return {
            ("clues, most frequent digit", "trivial"): one_hot_boards(torch.where(clues > 0, clues, frequent)),
            ("singles, most frequent digit", "classical"): one_hot_boards(torch.where(singles > 0, singles, frequent)),
            ("exact solver", "classical"): one_hot_boards(solve(clues, limit=1)[0]),
            ("truth", "ceiling"): test.y,
        }

    def _pool(self, harder: bool, device: str) -> Pool:
        """The puzzles of the stream, or all, on the device; kept, as they are drawn from again and again."""
        place = (harder, device, self._stream)
        if place not in self._pools:
            if harder and self._own:
                raise ParameterError("harder = True: a task of given puzzles has no harder ones")
            whole = self._own or stored_pool(self.options.size, self.options.pool, self.options.pool_seed, harder)
            rows = slice(None) if self._stream is None else _stream_rows(whole.solutions, self._stream)
            self._pools[place] = Pool(*(boards[rows].to(device) for boards in whole))
        return self._pools[place]


def one_hot_boards(boards: Boards) -> Float[Tensor, "n entries"]:
    """Digits 1 … size as `size` entries each: 1 for the digit, −1 for the others; 0 as −1 throughout."""
    each = torch.arange(1, isqrt(boards.shape[1]) + 1, device=boards.device)
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
    known = (puzzles > 0).repeat_interleave(isqrt(puzzles.shape[1]), dim=1)
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


def read_puzzles(lines: Iterable[str], size: int) -> Pool:
    """A user's puzzles with their solutions, as `Sudoku.from_puzzles` takes them; with progress."""
    rows = lines.splitlines() if isinstance(lines, str) else lines
    texts = {number: text for number, line in enumerate(rows, start=1) if (text := line.strip())}
    if not texts:
        raise ParameterError("no puzzles: every line is blank")
    sound = [number for number, text in texts.items() if re.fullmatch(f"[.0-{size}]{{{size**2}}}", text)]
    boards = [list(map(int, texts[number].replace(".", "0"))) for number in sound]
    puzzles = torch.tensor(boards, dtype=torch.uint8).reshape(-1, size**2)
    solved = [solve(part) for part in tqdm(puzzles.split(512), desc="checking puzzles", delay=1, leave=False)]
    solutions, found = (torch.cat(parts) for parts in zip(*solved, strict=True))
    counts = dict(zip(sound, found.tolist(), strict=True))
    wrong = [number for number in texts if counts.get(number) != 1]
    if wrong:
        told = [f"line {number}: {_problem(texts[number], size, counts.get(number))}" for number in wrong[:SHOWN]]
        told += [f"… and {len(wrong) - SHOWN} more of {len(texts)} lines"] if len(wrong) > SHOWN else []
        raise ParameterError("\n".join(told))
    return Pool(puzzles, solutions.to(torch.uint8))


def _problem(text: str, size: int, found: int | None) -> str:
    """What is wrong with a puzzle, which has `found` solutions where it is written right."""
    if len(text) != size**2:
        return f"{len(text)} characters, should be {size**2}"
    for cell, character in enumerate(text):
        if character not in ".0123456789"[: size + 2]:
            place = f"{character!r} in row {cell // size + 1}, column {cell % size + 1}"
            return f"{place}: should be a digit from 1 to {size}, 0 or . for an empty cell"
    if found:
        return "has more than one solution"
    board = torch.tensor([list(map(int, text.replace(".", "0")))])
    for kind, held in zip(("row", "column", "box"), units(board).squeeze(1).tolist(), strict=True):
        for number, entries in enumerate(held, start=1):
            twice = [digit for digit in entries if digit and entries.count(digit) > 1]
            if twice:
                return f"contradicts itself: {twice[0]} more than once in {kind} {number}"
    return "has no solution"
