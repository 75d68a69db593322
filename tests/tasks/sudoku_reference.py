"""Sudoku by plain Python, knowing nothing of the package: what its solver and its grids are held against."""

from __future__ import annotations

from functools import cache
from math import isqrt

# (name, puzzle, solution), as published
KNOWN = [
    (
        "the example of Wikipedia's article",
        "530070000600195000098000060800060003400803001700020006060000280000419005000080079",
        "534678912672195348198342567859761423426853791713924856961537284287419635345286179",
    ),
    (
        "the first of Project Euler's problem 96",
        "003020600900305001001806400008102900700000008006708200002609500800203009005010300",
        "483921657967345821251876493548132976729564138136798245372689514814253769695417382",
    ),
    (
        "Inkala's of 2012, made to be hard",
        "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4..",
        "812753649943682175675491283154237896369845721287169534521974368438526917796318452",
    ),
    (
        "17 givens, the fewest there can be",
        "000000010400000000020000000000050407008000300001090000300400200050100000000806000",
        "693784512487512936125963874932651487568247391741398625319475268856129743274836159",
    ),
]

# 4×4 in the same form, made for these tests; `count_solutions` and `is_complete` vouch for them
SMALL = [
    ("one of the 96 most symmetric grids", "1004300000400001", "1234341221434321"),
    ("one of the 192 others", "1000300001400002", "1234342121434312"),
    ("4 givens, the fewest there can be", "4000003001000002", "4321123421433412"),
    ("4 givens", "0300001040000020", "1342241342313124"),
]
BY_SIZE = {4: SMALL, 9: KNOWN}


@cache
def peers(size: int) -> list[set[int]]:
    """The other cells of each cell's row, column and box."""
    side, cells = isqrt(size), range(size**2)
    units = [{("row", c // size), ("column", c % size), (c // size // side, c % size // side)} for c in cells]
    return [{other for other in cells if other != cell and units[cell] & units[other]} for cell in cells]


def board(text: str) -> list[int]:
    return [int(character.replace(".", "0")) for character in text]


def is_complete(grid: list[int]) -> bool:
    near = peers(isqrt(len(grid)))
    return all(digit and digit not in {grid[other] for other in near[cell]} for cell, digit in enumerate(grid))


def count_solutions(puzzle: list[int], limit: int) -> int:
    """How many solutions, up to a limit; backtracking on the cell with the fewest digits left."""
    size = isqrt(len(puzzle))
    clues = [(cell, digit) for cell, digit in enumerate(puzzle) if digit]
    if any(puzzle[peer] == digit for cell, digit in clues for peer in peers(size)[cell]):
        return 0
    if len(clues) == len(puzzle):
        return 1
    every = set(range(1, size + 1))
    left = {
        cell: every - {puzzle[peer] for peer in peers(size)[cell]} for cell, digit in enumerate(puzzle) if not digit
    }
    cell, found = min(left, key=lambda each: len(left[each])), 0
    for digit in sorted(left[cell]):
        if found < limit:
            found += count_solutions([*puzzle[:cell], digit, *puzzle[cell + 1 :]], limit - found)
    return found
