"""Sudokus with one solution: pools of them, and an exact solver of 4×4 and 9×9, batched on any device.

A cell's candidates are an int16 with bit d − 1 set where digit d is possible.
"""

from __future__ import annotations

from functools import cache, reduce
from itertools import count, permutations
from math import isqrt
from operator import or_
from typing import NamedTuple

import torch
from filelock import FileLock
from jaxtyping import Bool, Int, Integer
from safetensors.torch import load_file, save
from torch import Tensor

from anm_nb.files import outputs_root, replace_whole
from anm_nb.training.seeds import generator

# Givens of each puzzle, uniform on a range with both ends: as trained on, and harder ones, by size.
GIVENS = {4: ((6, 10), (4, 6)), 9: ((31, 42), (17, 34))}
VERSION = 1  # of what `build_pool` makes of its arguments
REDIGS = 20  # times that puzzles which came out like another are dug anew
WIDTH = 1024  # search nodes expanded at once: enough to make up for the cost of a call, few enough to stay in cache

Boards = Integer[Tensor, "n cells"]
Indices = Int[Tensor, " n"]


class Pool(NamedTuple):
    """Puzzles (0 = empty) and their only solutions, row by row."""

    puzzles: Boards
    solutions: Boards


def stored_pool(size: int, number: int, seed: int, harder: bool) -> Pool:
    """`build_pool`'s, kept in `outputs/pools/`; a second process asking for the same waits for the first."""
    folder, (low, high) = outputs_root() / "pools", GIVENS[size][harder]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sudoku-{size}x{size}-{number}-seed{seed}-givens{low}-{high}-v{VERSION}.safetensors"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            replace_whole(path, save(build_pool(size, number, seed, harder)._asdict()))
    return Pool(**load_file(path))


def build_pool(size: int, number: int, seed: int, harder: bool) -> Pool:
    """Random puzzles with one solution each, and givens as in `GIVENS` or, where one is minimal before, more.

    Row i of both pools of one size, number and seed has the same solution. Those of 9×9 are empty boards solved by
    guessing at random, not uniformly; those of 4×4 come in random order, all 288 before any again.
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
        # Clues are taken out in random order. One without which a second solution appears would have to stay later too.
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
    """n of the numbers 0 … rows − 1 at random, none again before all have come, on the generator's device."""
    rounds = [torch.randperm(rows, generator=source, device=source.device) for _ in range(-(-n // rows))]
    return torch.cat([*rounds, torch.empty(0, dtype=torch.long, device=source.device)])[:n]


def first_rows(boards: Integer[Tensor, "n ..."]) -> Indices:
    """For each row the first one equal to it."""
    group = torch.unique(boards, dim=0, return_inverse=True)[1]
    rows = torch.arange(len(boards), device=boards.device)
    return torch.full_like(rows, len(rows)).scatter_reduce(0, group, rows, "amin")[group]


@cache
def unit_cells(size: int) -> Int[Tensor, "units size"]:
    """The cells of all rows, of all columns and of all boxes."""
    rows = torch.arange(size**2).view(size, size)
    boxes = rows.view(4 * [isqrt(size)]).transpose(1, 2).reshape(size, size)
    return torch.cat([rows, rows.mT, boxes])


@cache
def cell_units(size: int) -> Int[Tensor, "cells 3"]:
    """The row, column and box of every cell."""
    return unit_cells(size).flatten().argsort(stable=True).view(-1, 3) // size


def broken(boards: Boards) -> Bool[Tensor, "n units"]:
    """Which rows, columns and boxes do not hold every digit once."""
    size = isqrt(boards.shape[1])
    every = torch.arange(1, size + 1, device=boards.device)
    return (boards[:, unit_cells(size).to(boards.device)].sort(2).values != every).any(2)


def solve(puzzles: Boards, limit: int = 2, source: torch.Generator | None = None) -> tuple[Boards, Indices]:
    """A solution, drawn from `source`, of each puzzle [n, cells] (0 = empty, none), and how many it has, to `limit`."""
    source = source or torch.Generator(puzzles.device).manual_seed(0)
    grids, found = zip(*(_search(part, limit, source) for part in _candidates(puzzles).split(4 * WIDTH)), strict=True)
    return torch.cat(grids), torch.cat(found)


def deduced(puzzles: Boards) -> Boards:
    """Digits that follow by naked and hidden singles alone, without a guess, clues included; 0 where none does."""
    masks, further = None, _candidates(puzzles)
    while masks is None or not torch.equal(further, masks):
        masks, (further, _) = further, _propagate(further)
    return _digits(torch.where(_single(masks), masks, 0))


def _search(nodes: Boards, limit: int, source: torch.Generator) -> tuple[Boards, Indices]:
    """Depth-first search from all boards at once, up to WIDTH nodes a round; the deepest nodes stand first."""
    owner = torch.arange(len(nodes), device=nodes.device)  # the row of the board that each node belongs to
    grids, found = torch.zeros_like(nodes, dtype=torch.long), torch.zeros_like(owner)
    for spare in count():
        waiting = (found[owner] < limit).nonzero().squeeze(1)
        if not len(waiting):
            break
        now, later = waiting.tensor_split([min(WIDTH, int((found < limit).sum()) + spare)])
        masks, of = nodes[now], owner[now]
        further, dead = _propagate(masks)
        solved = ~dead & _single(masks).all(1)
        rows = of[solved]  # of several of one board the first is kept, lest the order of writes decide
        first = (first_rows(rows) == torch.arange(len(rows), device=rows.device)) & (found[rows] == 0)
        grids[rows[first]] = _digits(masks[solved][first])
        found.index_add_(0, rows, torch.ones_like(rows))
        going = ~dead & ~solved
        stuck = going & (further == masks).all(1)
        further[stuck], alternatives = _branch(further[stuck], source)
        nodes = torch.cat([further[going], alternatives, nodes[later]])
        owner = torch.cat([of[going], of[stuck], owner[later]])
    return grids, found.clamp(max=limit)


def _propagate(boards: Boards) -> tuple[Boards, Bool[Tensor, " n"]]:
    """One round of naked and hidden singles, and which boards have no solution: a digit twice in a unit, or nowhere."""
    size = isqrt(boards.shape[1])
    units, units_of = (table.to(boards.device) for table in (unit_cells(size), cell_units(size)))
    masks = boards.mT.contiguous()  # cell by cell, all boards side by side: several times as fast
    fixed = torch.where(_single(masks), masks, 0)
    taken, twice = _once_or_more(fixed[units])
    masks = torch.where(fixed != 0, fixed, masks & ~reduce(or_, taken[units_of].unbind(1)))
    possible, several = _once_or_more(masks[units])
    lone = masks & reduce(or_, (possible & ~several)[units_of].unbind(1))
    dead = (twice != 0) | (possible != 2**size - 1)
    return torch.where(lone != 0, lone, masks).mT, dead.any(0)


def _once_or_more(masks: Int[Tensor, "units cells n"]) -> tuple[Int[Tensor, "units n"], Int[Tensor, "units n"]]:
    """The digits that are possible in one cell or more of each unit, and in two or more."""
    once = twice = torch.zeros_like(masks[:, 0])
    for mask in masks.unbind(1):
        once, twice = once | mask, twice | once & mask
    return once, twice


def _branch(masks: Boards, source: torch.Generator) -> tuple[Boards, Boards]:
    """Two halves of each board's possibilities: a cell with fewest candidates holds one of them, or it does not."""
    possible = masks.unsqueeze(2) >> torch.arange(9, device=masks.device) & 1
    choices = possible.sum(2).float()
    choices[choices <= 1] = 10
    cell = (choices + torch.rand(choices.shape, generator=source, device=masks.device)).argmin(1, keepdim=True)
    weight = possible.take_along_dim(cell.unsqueeze(2), 1).squeeze(1).float()
    weight *= 1 - torch.rand(weight.shape, generator=source, device=masks.device)
    guess = (1 << weight.argmax(1, keepdim=True)).short()
    return masks.scatter(1, cell, guess), masks.scatter(1, cell, masks.gather(1, cell) & ~guess)


def _candidates(puzzles: Boards) -> Boards:
    """What the cells may hold before any deduction: the clue, or every digit."""
    clue = 1 << (puzzles.short() - 1).clamp(min=0)
    return torch.where(puzzles == 0, 2 ** isqrt(puzzles.shape[1]) - 1, clue)


def _single(masks: Boards) -> Bool[Tensor, "n cells"]:
    """Where at most one candidate is left."""
    return masks & (masks - 1) == 0


def _digits(masks: Boards) -> Boards:
    """The digits of masks with one candidate; 0 of an empty mask. The binary exponent of 2^(d − 1) is d."""
    return torch.frexp(masks.double()).exponent.long()
