"""Sudoku by plain Python, knowing nothing of the package: what its solver and its grids are held against."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations

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

UNITS = [
    *([9 * i + j for j in range(9)] for i in range(9)),
    *([9 * i + j for i in range(9)] for j in range(9)),
    *([9 * (3 * a + i) + 3 * b + j for i in range(3) for j in range(3)] for a in range(3) for b in range(3)),
]
PEERS = [{other for unit in UNITS if cell in unit for other in unit} - {cell} for cell in range(81)]


def board(text: str) -> list[int]:
    return [int(character.replace(".", "0")) for character in text]


def is_complete(grid: list[int]) -> bool:
    return all(sorted(grid[cell] for cell in unit) == list(range(1, 10)) for unit in UNITS)


def count_solutions(puzzle: list[int], limit: int) -> int:
    """How many solutions, up to a limit; backtracking on the cell with the fewest digits left."""
    if any(puzzle[cell] and puzzle[cell] in {puzzle[peer] for peer in PEERS[cell]} for cell in range(81)):
        return 0
    empty = {cell: options(puzzle, cell) for cell in range(81) if not puzzle[cell]}
    if not empty:
        return 1
    cell = min(empty, key=lambda cell: len(empty[cell]))
    found = 0
    for digit in sorted(empty[cell]):
        found += count_solutions([*puzzle[:cell], digit, *puzzle[cell + 1 :]], limit - found)
        if found >= limit:
            break
    return found


def options(puzzle: list[int], cell: int) -> set[int]:
    return set(range(1, 10)) - {puzzle[peer] for peer in PEERS[cell]}


def singles(puzzle: list[int]) -> list[int]:
    """All that naked and hidden singles give, one at a time."""
    puzzle = list(puzzle)
    while True:
        left = {cell: options(puzzle, cell) for cell in range(81) if not puzzle[cell]}
        forced = {cell: digits for cell, digits in left.items() if len(digits) == 1}
        for unit in UNITS:
            for digit in range(1, 10):
                places = [cell for cell in unit if digit in left.get(cell, set())]
                if len(places) == 1:
                    forced[places[0]] = {digit}
        if not forced:
            return puzzle
        for cell, digits in forced.items():
            puzzle[cell] = min(digits)


def symmetric_to(grid: list[int], source: random.Random) -> list[int]:
    """A grid under a random symmetry: digits renamed, bands, stacks, rows and columns within them moved, transposed."""

    def lines() -> list[int]:
        return [3 * block + line for block in source.sample(range(3), 3) for line in source.sample(range(3), 3)]

    names, rows, columns = source.sample(range(1, 10), 9), lines(), lines()
    moved = [names[grid[9 * row + column] - 1] for row in rows for column in columns]
    return [moved[9 * j + i] for i in range(9) for j in range(9)] if source.random() < 0.5 else moved


def symmetry_class(grid: list[int]) -> frozenset:
    """The same for grids that a symmetry relates: which cycle types lead from line to line within bands and stacks."""
    rows = [[grid[9 * i + j] for j in range(9)] for i in range(9)]
    columns = [list(column) for column in zip(*rows, strict=True)]
    return frozenset(Counter([_types(rows), _types(columns)]).items())


def _types(lines: list[list[int]]) -> tuple:
    """Per block of three lines the cycle types of its pairs; blocks, and pairs within them, in no order."""
    blocks = [lines[start : start + 3] for start in (0, 3, 6)]
    return tuple(sorted(tuple(sorted(_cycles(*pair) for pair in combinations(block, 2))) for block in blocks))


def _cycles(first: list[int], second: list[int]) -> tuple[int, ...]:
    step, lengths = dict(zip(first, second, strict=True)), []
    while step:
        start = digit = next(iter(step))
        length = 0
        while digit in step:
            digit = step.pop(digit)
            length += 1
        assert digit == start
        lengths.append(length)
    return tuple(sorted(lengths))
