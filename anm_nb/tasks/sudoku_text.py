"""Sudoku puzzles as people keep them: one a line, 16 or 81 characters row by row, 0 or a dot for an empty cell."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import UInt8
from torch import Tensor

from anm_nb.config import ParameterError
from anm_nb.tasks.sudoku_pool import Pool
from anm_nb.tasks.sudoku_solver import SIZES, solve

EMPTY = "0."


def read_puzzles(lines: Iterable[str] | str, size: int = 9) -> Pool:
    """The puzzles of size × size in lines, or a whole text, in order, with their solutions; blank lines are skipped.

    Raises `ParameterError` with a line for each puzzle that is too short or long, holds another character, contradicts
    itself, or has no or more than one solution, and when there is no puzzle at all.
    """
    numbered = enumerate(lines.splitlines() if isinstance(lines, str) else lines, start=1)
    texts = {number: line.strip() for number, line in numbered if line.strip()}
    if not texts:
        raise ParameterError("no puzzles: every line is blank")
    problems = {number: problem for number, text in texts.items() if (problem := _written_wrong(text, size))}
    sound = [number for number in texts if number not in problems]
    puzzles = _digits([texts[number] for number in sound], size**2)
    solutions = solve(puzzles, limit=2)
    for number, found in zip(sound, solutions.found.tolist(), strict=True):
        if found != 1:
            problems[number] = "has no solution" if found == 0 else "has more than one solution"
    if problems:
        raise ParameterError("\n".join(f"line {number}: {problems[number]}" for number in sorted(problems)))
    return Pool(puzzles, solutions.grids.to(torch.uint8))


def _written_wrong(text: str, size: int) -> str | None:
    """What is wrong with one puzzle that shows without solving it."""
    if len(text) != size**2:
        others = [other for other in SIZES if len(text) == other**2]
        hint = "".join(f"; it could be a puzzle of size = {other}" for other in others)
        return f"{len(text)} characters, should be {size**2}{hint}"
    filled = "123456789"[:size]
    for position, character in enumerate(text):
        if character not in EMPTY + filled:
            row, column = divmod(position, size)
            place = f"{character!r} in row {row + 1}, column {column + 1}"
            return f"{place}: should be a digit from 1 to {size}, 0 or . for an empty cell"
    for name, cells in _units(size):
        held = [text[cell] for cell in cells if text[cell] in filled]
        twice = next((digit for digit in held if held.count(digit) > 1), None)
        if twice:
            return f"contradicts itself: {twice} more than once in {name}"
    return None


def _units(size: int) -> list[tuple[str, list[int]]]:
    """The cells of every row, column and box, all counted from 1, boxes row by row."""
    every, side = range(size), math.isqrt(size)
    rows = [(f"row {i + 1}", [size * i + j for j in every]) for i in every]
    columns = [(f"column {j + 1}", [size * i + j for i in every]) for j in every]
    corners = [size * side * band + side * stack for band in range(side) for stack in range(side)]
    inner = [size * i + j for i in range(side) for j in range(side)]
    boxes = [(f"box {box}", [corner + cell for cell in inner]) for box, corner in enumerate(corners, start=1)]
    return rows + columns + boxes


def _digits(texts: list[str], cells: int) -> UInt8[Tensor, "n cells"]:
    digits = [[int(character.replace(".", "0")) for character in text] for text in texts]
    return torch.tensor(digits, dtype=torch.uint8).reshape(len(texts), cells)
