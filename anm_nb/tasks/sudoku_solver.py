"""Pools of Sudoku puzzles with one solution, and an exact solver for 4×4 and 9×9, batched on any device.

The candidates of a cell are an int16 mask: bit d − 1 is set if digit d is possible.
"""

from functools import cache, reduce
from itertools import count, permutations
from math import ceil, isqrt
from operator import or_
from typing import NamedTuple

import torch
from filelock import FileLock
from jaxtyping import Bool, Int, Integer
from safetensors.torch import load_file, save
from torch import Tensor

from anm_nb.files import outputs_root, replace_whole
from anm_nb.training.seeds import generator

# By size: the number of givens of training puzzles and of harder ones, uniform over a range that includes both ends.
GIVENS = {4: ((6, 10), (4, 6)), 9: ((31, 42), (17, 34))}
VERSION = 1  # raise it when `build_pool` gives other puzzles for the same arguments
REDIGS = 20  # times that duplicate puzzles are dug again
WIDTH = 1024  # search nodes expanded at once: enough to outweigh the cost of a call, few enough to stay in cache

Boards = Integer[Tensor, "n cells"]
Indices = Int[Tensor, " n"]


class Pool(NamedTuple):
    """Puzzles (0 = empty) and their unique solutions, row by row."""

    puzzles: Boards
    solutions: Boards


def stored_pool(size: int, number: int, seed: int, harder: bool) -> Pool:
    """The pool of `build_pool`, cached in `outputs/pools/`; a file lock lets one process build it while others wait."""
    folder, (low, high) = outputs_root() / "pools", GIVENS[size][harder]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sudoku-{size}x{size}-{number}-seed{seed}-givens{low}-{high}-v{VERSION}.safetensors"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            replace_whole(path, save(build_pool(size, number, seed, harder)._asdict()))
    return Pool(**load_file(path))


def build_pool(size: int, number: int, seed: int, harder: bool) -> Pool:
    """Random puzzles with one solution each and as many givens as in `GIVENS`, or more where every clue is needed.

    Row i has the same solution whether `harder` or not. 9×9 solutions are empty boards filled by random guesses, hence
    not uniform. 4×4 solutions come in random order; none of the 288 repeats before all have been used.
    """
    source = generator(seed, "sudoku grids")
    if size == 9:
        solutions, _ = solve(torch.zeros(number, 81, dtype=torch.long), limit=1, source=source)
    else:
        lines = torch.tensor(list(permutations(range(1, 5))))
        boards = lines[torch.cartesian_prod(*4 * [torch.arange(len(lines))])].flatten(1)
        grids = boards[~broken(boards).any(1)]
        solutions = grids[shuffled(len(grids), number, source)]
    low, high = GIVENS[size][harder]
    source = generator(seed, f"sudoku givens {low} to {high}")
    target = torch.randint(low, high + 1, (number,), generator=source)
    puzzles, repeated = solutions.clone(), torch.arange(number)
    for _ in range(1 + REDIGS):
        # Try each clue once, in random order: one that is needed now stays needed when fewer are left.
        grids, aims = solutions[repeated], target[repeated]
        for cells in torch.rand(grids.shape, generator=source).argsort(1).unbind(1):
            rows = ((grids > 0).sum(1) > aims).nonzero().squeeze(1)
            if not len(rows):
                break
            fewer = grids[rows].scatter(1, cells[rows].unsqueeze(1), 0)
            alone = solve(fewer)[1] == 1
            grids[rows[alone]] = fewer[alone]
        puzzles[repeated] = grids
        if not len(repeated := (first_rows(puzzles) != torch.arange(number)).nonzero().squeeze(1)):
            break
    return Pool(puzzles.to(torch.uint8), solutions.to(torch.uint8))


def shuffled(rows: int, n: int, source: torch.Generator) -> Indices:
    """n random indices below `rows`, on the generator's device; none repeats before all have been used."""
    rounds = max(1, ceil(n / rows))
    return torch.cat([torch.randperm(rows, generator=source, device=source.device) for _ in range(rounds)])[:n]


def first_rows(boards: Integer[Tensor, "n ..."]) -> Indices:
    """For each row, the index of the first row equal to it."""
    group = torch.unique(boards, dim=0, return_inverse=True)[1]
    rows = torch.arange(len(boards), device=boards.device)
    return torch.full_like(rows, len(rows)).scatter_reduce(0, group, rows, "amin")[group]


@cache
def unit_cells(size: int) -> Int[Tensor, "units size"]:
    """The cells of every row, then of every column, then of every box."""
    rows = torch.arange(size**2).view(size, size)
    boxes = rows.view(4 * [isqrt(size)]).transpose(1, 2).reshape(size, size)
    return torch.cat([rows, rows.mT, boxes])


@cache
def cell_units(size: int) -> Int[Tensor, "cells 3"]:
    """The row, column and box of every cell."""
    return unit_cells(size).flatten().argsort(stable=True).view(-1, 3) // size


def broken(boards: Boards) -> Bool[Tensor, "n units"]:
    """Which rows, columns and boxes do not hold every digit exactly once."""
    size = isqrt(boards.shape[1])
    digits = torch.arange(1, size + 1, device=boards.device)
    return (boards[:, unit_cells(size).to(boards.device)].sort(2).values != digits).any(2)


def solve(puzzles: Boards, limit: int = 2, source: torch.Generator | None = None) -> tuple[Boards, Indices]:
    """Find a solution of each puzzle [n, cells] (0 = empty), random by `source`, and count solutions up to `limit`."""
    source = source or torch.Generator(puzzles.device).manual_seed(0)
    grids, found = zip(*(_search(part, limit, source) for part in _candidates(puzzles).split(4 * WIDTH)), strict=True)
    return torch.cat(grids), torch.cat(found)


def deduce(puzzles: Boards) -> Boards:
    """Fill in the digits that follow from naked and hidden singles alone, without guessing; 0 elsewhere."""
    masks = _candidates(puzzles)
    while not torch.equal(narrowed := _propagate(masks)[0], masks):
        masks = narrowed
    return _digits(torch.where(_single(masks), masks, 0))


def _search(nodes: Boards, limit: int, source: torch.Generator) -> tuple[Boards, Indices]:
    """Search all boards at once, depth first; each round expands up to WIDTH nodes, of which the deepest come first."""
    owner = torch.arange(len(nodes), device=nodes.device)  # the board that each node belongs to
    grids, found = torch.zeros_like(nodes, dtype=torch.long), torch.zeros_like(owner)
    for spare in count():
        waiting = (found[owner] < limit).nonzero().squeeze(1)
        if not len(waiting):
            break
        now, later = waiting.tensor_split([min(WIDTH, int((found < limit).sum()) + spare)])
        masks, boards = nodes[now], owner[now]
        narrowed, dead = _propagate(masks)
        solved = ~dead & _single(masks).all(1)
        rows = boards[solved]  # a board solved by several nodes keeps the first, so that the result is deterministic
        first = (first_rows(rows) == torch.arange(len(rows), device=rows.device)) & (found[rows] == 0)
        grids[rows[first]] = _digits(masks[solved][first])
        found.index_add_(0, rows, torch.ones_like(rows))
        going = ~dead & ~solved
        stuck = going & (narrowed == masks).all(1)
        narrowed[stuck], alternatives = _branch(narrowed[stuck], source)
        nodes = torch.cat([narrowed[going], alternatives, nodes[later]])
        owner = torch.cat([boards[going], boards[stuck], owner[later]])
    return grids, found.clamp(max=limit)


def _propagate(boards: Boards) -> tuple[Boards, Bool[Tensor, " n"]]:
    """Do one round of naked and hidden singles; also tell which boards have a unit with a digit twice or nowhere."""
    size = isqrt(boards.shape[1])
    units, units_of = (table.to(boards.device) for table in (unit_cells(size), cell_units(size)))
    masks = boards.mT.contiguous()  # boards along the last axis: several times as fast
    fixed = torch.where(_single(masks), masks, 0)
    taken, twice = _once_or_more(fixed[units])
    masks = torch.where(fixed != 0, fixed, masks & ~reduce(or_, taken[units_of].unbind(1)))
    possible, several = _once_or_more(masks[units])
    lone = masks & reduce(or_, (possible & ~several)[units_of].unbind(1))
    dead = (twice != 0) | (possible != 2**size - 1)
    return torch.where(lone != 0, lone, masks).mT, dead.any(0)


def _once_or_more(masks: Int[Tensor, "units cells n"]) -> tuple[Int[Tensor, "units n"], Int[Tensor, "units n"]]:
    """The digits that are possible in at least one cell of each unit, and those possible in at least two."""
    once = twice = torch.zeros_like(masks[:, 0])
    for mask in masks.unbind(1):
        once, twice = once | mask, twice | once & mask
    return once, twice


def _branch(masks: Boards, source: torch.Generator) -> tuple[Boards, Boards]:
    """Split each board in two by guessing a digit of a cell with fewest candidates: it is that digit, or it is not."""
    possible = masks.unsqueeze(2) >> torch.arange(9, device=masks.device) & 1
    choices = possible.sum(2).float()
    choices[choices <= 1] = 10
    cell = (choices + torch.rand(choices.shape, generator=source, device=masks.device)).argmin(1, keepdim=True)
    weight = possible.take_along_dim(cell.unsqueeze(2), 1).squeeze(1).float()
    weight *= 1 - torch.rand(weight.shape, generator=source, device=masks.device)
    guess = (1 << weight.argmax(1, keepdim=True)).short()
    return masks.scatter(1, cell, guess), masks.scatter(1, cell, masks.gather(1, cell) & ~guess)


def _candidates(puzzles: Boards) -> Boards:
    """The candidates before any deduction: the clue, or every digit."""
    clues = 1 << (puzzles.short() - 1).clamp(min=0)
    return torch.where(puzzles == 0, 2 ** isqrt(puzzles.shape[1]) - 1, clues)


def _single(masks: Boards) -> Bool[Tensor, "n cells"]:
    """Which cells have at most one candidate left."""
    return masks & (masks - 1) == 0


def _digits(masks: Boards) -> Boards:
    """The digits of masks with one candidate, 0 for an empty mask: frexp writes 2^(d − 1) as 0.5 · 2^d."""
    return torch.frexp(masks.double()).exponent.long()
