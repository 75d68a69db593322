"""An exact solver of 4×4 and 9×9 Sudoku, batched on any device.

A cell's candidates are an int64 of nine nibbles, 1 in nibble d − 1 where digit d is possible; of a 4×4 board the upper
five stay empty. The sum over a row, column or box then counts all digits at once, as no count exceeds 9. Cells are laid
out as [side, side, side, side] for boxes of side² cells: band, row in the band, stack, column in the stack; rows,
columns and boxes are each a sum over two of these axes.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Integer
from torch import Tensor

from anm_nb.config import ParameterError

SIZES = (4, 9)  # rows, columns, boxes and digits of a board
NIBBLES = 9
ONES = 0x1_1111_1111  # 1 in every nibble
# Search nodes expanded side by side: enough to make up for the cost of a call, few enough to stay in cache.
WIDTH = 1024

Boards = Integer[Tensor, "n cells"]
BoardMasks = Int[Tensor, "n side side side side"]
Nodes = tuple[Tensor, Tensor]  # board masks met in the search, and the row of the board that each belongs to


class Solutions(NamedTuple):
    """What `solve` found: a solution of each puzzle (zeros where there is none), and how many, capped at the limit."""

    grids: Int[Tensor, "n cells"]
    found: Int[Tensor, " n"]


def solve(puzzles: Boards, limit: int = 2, *, generator: torch.Generator | None = None) -> Solutions:
    """A solution of each puzzle (0 = empty) and how many it has, counted up to `limit`: 2 proves whether just one.

    Which of several is given is arbitrary, and random with a `generator` on the puzzles' device. Raises
    `ParameterError` for a number of cells that is not 16 or 81, for other digits and for a limit below 1.
    """
    if limit < 1:
        raise ParameterError(f"limit = {limit}: should be at least 1")
    size = board_size(puzzles)
    if len(illegal := puzzles[(puzzles < 0) | (puzzles > size)]):
        raise ParameterError(f"{int(illegal[0])} in a puzzle: should be from 0 (empty) to {size}")
    parts = [_search(part, limit, generator) for part in _candidates(puzzles).split(4 * WIDTH)]
    return Solutions(*(torch.cat(each) for each in zip(*parts, strict=True)))


def has_other_solution(puzzles: Boards, cells: Int[Tensor, " n"], digits: Integer[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Whether a puzzle has a solution whose digit in the cell `cells` (from 0, empty in the puzzle) is not `digits`."""
    masks = _candidates(puzzles)
    masks.flatten(1)[torch.arange(len(masks), device=masks.device), cells] &= ~_bit(digits)
    return torch.cat([_search(part, 1, None).found for part in masks.split(4 * WIDTH)]) > 0


def deduced(puzzles: Boards) -> Boards:
    """Digits that follow by naked and hidden singles alone, without a guess, clues included; 0 where none does."""
    masks = _candidates(puzzles)
    while True:
        further, _ = _propagate(masks)
        if torch.equal(further, masks):
            return _digits(torch.where(_single(masks), masks, 0)).flatten(1)
        masks = further


def board_size(boards: Boards) -> int:
    """4 or 9, the rows of boards given as 16 or 81 cells. Raises `ParameterError` for another number of cells."""
    size = math.isqrt(boards.shape[1])
    if size not in SIZES or size**2 != boards.shape[1]:
        raise ParameterError(f"{boards.shape[1]} cells in a board: should be {' or '.join(str(s**2) for s in SIZES)}")
    return size


def units(boards: Boards) -> Integer[Tensor, "3 n size size"]:
    """The digits of the rows, of the columns and of the boxes."""
    size = board_size(boards)
    rows = boards.unflatten(1, (size, size))
    boxes = boards.unflatten(1, 4 * [math.isqrt(size)]).transpose(2, 3).reshape_as(rows)
    return torch.stack([rows, rows.mT, boxes])


def broken(boards: Boards) -> Bool[Tensor, "3 n size"]:
    """Which rows, columns and boxes do not hold every digit once."""
    each = torch.arange(1, board_size(boards) + 1, device=boards.device)
    return (units(boards).sort(3).values != each).any(3)


def _search(masks: BoardMasks, limit: int, generator: torch.Generator | None) -> Solutions:
    """Depth-first search from all boards at once, up to WIDTH nodes a round; what is not tried yet is stacked."""
    rows = torch.arange(len(masks), device=masks.device)
    grids = torch.zeros_like(masks).flatten(1)
    count = torch.zeros_like(rows)
    waiting: list[Nodes] = [(masks, rows)]
    for spare in itertools.count():
        unfinished = count < limit
        masks, owner = _from_top(waiting, unfinished, min(WIDTH, int(unfinished.sum()) + spare))
        if not len(owner):
            break
        further, dead = _propagate(masks)
        solved = ~dead & _single(masks).flatten(1).all(1)
        if solved.any():
            _record(masks[solved], owner[solved], grids, count)
        going = ~dead & ~solved
        stuck = going & (further == masks).flatten(1).all(1)
        if stuck.any():
            further[stuck], alternatives = _branch(further[stuck], generator)
            waiting.append((alternatives, owner[stuck]))
        waiting.append((further[going], owner[going]))
    return Solutions(grids, count.clamp(max=limit))


def _from_top(waiting: list[Nodes], unfinished: Bool[Tensor, " boards"], width: int) -> Nodes:
    """Up to `width` nodes of unfinished boards, taken from the top of the stack of those waiting."""
    masks, owner = waiting.pop()
    kept = unfinished[owner]
    masks, owner = masks[kept], owner[kept]
    if len(owner) > width:
        waiting.append((masks[width:], owner[width:]))
    elif waiting and len(owner) < width:
        more, their_owner = _from_top(waiting, unfinished, width - len(owner))
        return torch.cat([masks, more]), torch.cat([owner, their_owner])
    return masks[:width], owner[:width]


def _propagate(masks: BoardMasks) -> tuple[BoardMasks, Bool[Tensor, " n"]]:
    """One round of naked and hidden singles, and which boards have no solution: a digit twice in a unit, or nowhere."""
    fixed = torch.where(_single(masks), masks, 0)
    taken = _counts(fixed)
    rows, columns, boxes = taken
    masks = torch.where(fixed != 0, fixed, masks & ~((rows | boxes) | columns))
    places = _counts(masks)
    several = [_above_one(unit) for unit in places]
    every = _all_digits(masks.shape[1] ** 2)
    missing = [every & ~(unit | more) for unit, more in zip(places, several, strict=True)]
    rows, columns, boxes = (unit & ~more for unit, more in zip(places, several, strict=True))
    lone = masks & ((rows | boxes) | columns)
    dead = [(bad != 0).flatten(1).any(1) for bad in (*map(_above_one, taken), *missing)]
    return torch.where(lone != 0, lone, masks), torch.stack(dead).any(0)


def _branch(masks: BoardMasks, generator: torch.Generator | None) -> tuple[BoardMasks, BoardMasks]:
    """Two halves of each board's possibilities: a cell with fewest candidates holds one of them, or it does not."""
    cells = masks.flatten(1)
    rows = torch.arange(len(cells), device=cells.device)
    possible = _spread(cells)
    choices = possible.sum(2).float()
    choices[choices <= 1] = NIBBLES + 1
    if generator is not None:
        choices += torch.rand(choices.shape, generator=generator, device=cells.device)
    cell = choices.argmin(1)
    weight = possible[rows, cell].float()
    if generator is not None:
        weight *= 1 - torch.rand(weight.shape, generator=generator, device=cells.device)
    guess = _bit(weight.argmax(1) + 1)
    guesses, alternatives = cells.clone(), cells.clone()
    guesses[rows, cell] = guess
    alternatives[rows, cell] &= ~guess
    return guesses.view_as(masks), alternatives.view_as(masks)


def _record(masks: BoardMasks, owner: Int[Tensor, " n"], grids: Tensor, count: Tensor) -> None:
    """Enter solved boards; of several with one owner the first is kept, lest the order of writes decide."""
    rows = torch.arange(len(owner), device=owner.device)
    lowest = torch.full_like(count, len(owner)).scatter_reduce(0, owner, rows, "amin")
    first = (lowest[owner] == rows) & (count[owner] == 0)
    grids[owner[first]] = _digits(masks[first]).flatten(1)
    count.index_add_(0, owner, torch.ones_like(owner))


def _candidates(puzzles: Boards) -> BoardMasks:
    """Masks of what the cells may hold before any deduction: the clue, or every digit."""
    size = board_size(puzzles)
    return torch.where(puzzles == 0, _all_digits(size), _bit(puzzles)).unflatten(1, 4 * [math.isqrt(size)])


def _all_digits(size: int) -> int:
    return ONES >> 4 * (NIBBLES - size)


def _counts(masks: BoardMasks) -> tuple[Tensor, Tensor, Tensor]:
    """Nibble by nibble, how often each digit occurs in each row, column and box; shaped to broadcast over cells."""
    in_stack = masks.sum(4, keepdim=True)
    return in_stack.sum(3, keepdim=True), masks.sum((1, 2), keepdim=True), in_stack.sum(2, keepdim=True)


def _above_one(counts: Tensor) -> Tensor:
    return (counts >> 1 | counts >> 2 | counts >> 3) & ONES


def _single(masks: Tensor) -> Tensor:
    """Where at most one candidate is left."""
    return masks & (masks - 1) == 0


def _bit(digits: Integer[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """The mask of one digit; of 0, something arbitrary."""
    return 1 << 4 * (digits.long() - 1).clamp(min=0)


def _spread(masks: Int[Tensor, "*n"]) -> Int[Tensor, "*n 9"]:
    """Masks as a last axis of nine entries 0 or 1."""
    return masks.unsqueeze(-1) >> torch.arange(0, 4 * NIBBLES, 4, device=masks.device) & 1


def _digits(masks: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """The digit of a mask with one candidate; 0 of an empty mask."""
    return (_spread(masks) * torch.arange(1, NIBBLES + 1, device=masks.device)).sum(-1)
