"""Sudoku puzzles as people keep them: one a line, 81 characters row by row, 0 or a dot for an empty cell."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import UInt8
from torch import Tensor

from anm_nb.parameters import ParameterError
from anm_nb.tasks.sudoku_pool import Pool
from anm_nb.tasks.sudoku_solver import CELLS, DIGITS, solve

EMPTY, FILLED = "0.", "123456789"


def read_puzzles(lines: Iterable[str] | str) -> Pool:
    """The puzzles in lines, or in a whole text, in order, with their solutions; blank lines are skipped.

    Raises `ParameterError` with a line for each puzzle that is too short or long, holds another character, contradicts
    itself, or has no or more than one solution, and when there is no puzzle at all.
    """
    numbered = enumerate(lines.splitlines() if isinstance(lines, str) else lines, start=1)
    texts = {number: line.strip() for number, line in numbered if line.strip()}
    if not texts:
        raise ParameterError("no puzzles: every line is blank")
    problems = {number: problem for number, text in texts.items() if (problem := _written_wrong(text))}
    sound = [number for number in texts if number not in problems]
    puzzles = _digits([texts[number] for number in sound])
    solutions = solve(puzzles, limit=2)
    for number, found in zip(sound, solutions.found.tolist(), strict=True):
        if found != 1:
            problems[number] = "has no solution" if found == 0 else "has more than one solution"
    if problems:
        raise ParameterError("\n".join(f"line {number}: {problems[number]}" for number in sorted(problems)))
    return Pool(puzzles, solutions.grids.to(torch.uint8))


def _written_wrong(text: str) -> str | None:
    """What is wrong with one puzzle that shows without solving it."""
    if len(text) != CELLS:
        return f"{len(text)} characters, should be {CELLS}"
    for position, character in enumerate(text):
        if character not in EMPTY + FILLED:
            row, column = divmod(position, DIGITS)
            return f"{character!r} in row {row + 1}, column {column + 1}: should be a digit, 0 or . for an empty cell"
    for name, cells in _units():
        held = [text[cell] for cell in cells if text[cell] in FILLED]
        twice = next((digit for digit in held if held.count(digit) > 1), None)
        if twice:
            return f"contradicts itself: {twice} more than once in {name}"
    return None


def _units() -> list[tuple[str, list[int]]]:
    """The cells of every row, column and box, all counted from 1, boxes row by row."""
    rows = [(f"row {i + 1}", [DIGITS * i + j for j in range(DIGITS)]) for i in range(DIGITS)]
    columns = [(f"column {j + 1}", [DIGITS * i + j for i in range(DIGITS)]) for j in range(DIGITS)]
    boxes = [
        (f"box {box + 1}", [DIGITS * (box // 3 * 3 + i) + box % 3 * 3 + j for i in range(3) for j in range(3)])
        for box in range(DIGITS)
    ]
    return rows + columns + boxes


def _digits(texts: list[str]) -> UInt8[Tensor, "n 81"]:
    digits = [[int(character.replace(".", "0")) for character in text] for text in texts]
    return torch.tensor(digits, dtype=torch.uint8).reshape(len(texts), CELLS)
