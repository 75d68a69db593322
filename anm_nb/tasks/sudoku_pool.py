"""Sudoku puzzles proven to have one solution: pools dug out of random grids and kept on disk, and a user's own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock
from jaxtyping import Int, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from anm_nb.config import ParameterError
from anm_nb.files import outputs_root
from anm_nb.tasks.sudoku_solver import SIZES, Boards, broken, has_other_solution, solve, units
from anm_nb.training.seeds import generator

Range = tuple[int, int]
PuzzleSource = str | bytes | os.PathLike[str] | Iterable[str | bytes]

VERSION = 1  # of what `build_pool` makes of its arguments
REDIGS = 20  # times that puzzles which came out like another are dug anew
COLUMNS = ("question", "puzzle", "puzzles", "quiz", "quizzes")  # of puzzles in CSV: Sudoku-Extreme's, Kaggle's
AROUND = "\ufeff \t\r\n"  # what may stand around a line: white space, a byte-order mark
SHOWN = 5  # problems of a file that an error lists
CHECKED = 512  # puzzles between two updates of the progress bar


class Pool(NamedTuple):
    """Puzzles (0 = empty) and their only solutions, row by row."""

    puzzles: UInt8[Tensor, "n cells"]
    solutions: UInt8[Tensor, "n cells"]


def stored_pool(count: int, seed: int, givens: Range, size: int = 9) -> Pool:
    """`build_pool`'s, on the CPU; built where `outputs/pools/` does not have it, or not readably.

    Atomic writes; a second process asking for it waits for the first.
    """
    folder = outputs_root() / "pools"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"sudoku-{size}x{size}-{count}-seed{seed}-givens{givens[0]}-{givens[1]}-v{VERSION}"
    path = folder / f"{name}.safetensors"
    with FileLock(path.with_suffix(".lock")):
        try:
            return Pool(**load_file(path))
        except (FileNotFoundError, SafetensorError):
            pool = build_pool(count, seed, givens, size)
        partial = path.with_suffix(".partial")
        save_file(pool._asdict(), partial)
        os.replace(partial, path)
    return pool


def build_pool(count: int, seed: int, givens: Range, size: int = 9) -> Pool:
    """`count` random puzzles of 4×4 or 9×9, with one solution each and a number of givens uniform on low … high.

    Row i of every pool of one size, count and seed has the same solution, whatever its givens. A puzzle that becomes
    minimal before keeps what it has: of 2,000 asked for 17 … 34 the fewest givens are 21, and their mean is 27.1.
    Solutions of 9×9 are empty boards solved by guessing at random, not uniformly. Those of 4×4 come in random order,
    all 288 before any again; like puzzles are redug.
    """
    source = generator(seed, "sudoku grids")
    if size == 9:
        solutions = solve(torch.zeros(count, 81, dtype=torch.long), limit=1, generator=source).grids
    else:
        grids = every_small_grid()
        solutions = grids[shuffled(len(grids), count, source)]
    low, high = givens
    source = generator(seed, f"sudoku givens {low} to {high}")
    target = torch.randint(low, high + 1, (count,), generator=source)
    puzzles = dig(solutions, target, source)
    for _ in range(REDIGS):
        repeated = first_rows(puzzles) != torch.arange(count)
        if not repeated.any():
            break
        puzzles[repeated] = dig(solutions[repeated], target[repeated], source)
    return Pool(puzzles.to(torch.uint8), solutions.to(torch.uint8))


def every_small_grid() -> Int[Tensor, "288 16"]:
    """All complete grids of 4×4."""
    lines = torch.tensor(list(permutations(range(1, 5))))
    boards = lines[torch.cartesian_prod(*4 * [torch.arange(len(lines))])].flatten(1)
    return boards[~broken(boards).any(2).any(0)]


def shuffled(rows: int, n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """n of the numbers 0 … rows − 1 at random, none again before all have come, on the generator's device."""
    rounds = [torch.randperm(rows, generator=generator, device=generator.device) for _ in range(-(-n // rows))]
    return torch.cat([*rounds, torch.empty(0, dtype=torch.long, device=generator.device)])[:n]


def first_rows(boards: Boards) -> Int[Tensor, " n"]:
    """For each row the first one equal to it."""
    group = torch.unique(boards, dim=0, return_inverse=True)[1]
    rows = torch.arange(len(boards), device=boards.device)
    return torch.full_like(rows, len(rows)).scatter_reduce(0, group, rows, "amin")[group]


def dig(solutions: Boards, target: Int[Tensor, " n"], source: torch.Generator) -> Boards:
    """Puzzles left when clues are taken out of complete grids in random order, down to `target` clues or minimal.

    A clue without which a second solution appears would have to stay later too, so one pass over all cells is enough.
    """
    puzzles = solutions.clone()
    order = torch.rand(solutions.shape, generator=source, device=solutions.device).argsort(1)
    for cell in order.unbind(1):
        rows = ((puzzles > 0).sum(1) > target).nonzero().squeeze(1)
        if not len(rows):
            break
        cells = cell[rows]
        digits = puzzles[rows, cells]
        puzzles[rows, cells] = 0
        needed = has_other_solution(puzzles[rows], cells, digits)
        puzzles[rows[needed], cells[needed]] = digits[needed]
    return puzzles


def read_puzzles(source: PuzzleSource, size: int = 9) -> Pool:
    """The puzzles of size × size in a file, its text or its lines, in order, with their solutions; with progress.

    One a line, 0 or . for an empty cell, blank lines skipped; or CSV with a header that names a column as in `COLUMNS`.
    Raises `ParameterError` for a file without puzzles, and with the first lines, and the number of all, that are
    written wrong, contradict themselves, or have no or more than one solution.
    """
    texts = _puzzle_texts(_lines(source, size))
    if not texts:
        raise ParameterError("no puzzles: every line is blank")
    written_right = re.compile(f"[.0-{size}]{{{size**2}}}")
    sound = [number for number, text in texts.items() if written_right.fullmatch(text)]
    digits = "".join(texts[number] for number in sound).replace(".", "0").encode()
    puzzles = torch.tensor(list(digits), dtype=torch.uint8).reshape(len(sound), size**2) - ord("0")
    parts = [solve(part) for part in tqdm(puzzles.split(CHECKED), desc="checking puzzles", delay=1, leave=False)]
    found = dict(zip(sound, torch.cat([part.found for part in parts]).tolist(), strict=True))
    wrong = [number for number in texts if found.get(number) != 1]
    if wrong:
        problems = [f"line {number}: {_problem(texts[number], size, found.get(number))}" for number in wrong[:SHOWN]]
        problems += [f"… and {len(wrong) - SHOWN} more of {len(texts)} lines"] if len(wrong) > SHOWN else []
        problems += [] if sound else [f"should be a puzzle a line, or CSV with a column named {', '.join(COLUMNS)}"]
        raise ParameterError("\n".join(problems))
    return Pool(puzzles, torch.cat([part.grids for part in parts]).to(torch.uint8))


def _lines(source: PuzzleSource, size: int) -> list[str]:
    """The lines of a source, stripped. A text of one line that cannot be meant as a puzzle names a file."""
    if isinstance(source, str) and len(source.splitlines()) == 1:
        line = source.strip(AROUND)
        if os.path.isfile(source) or not (re.fullmatch(r"[\d.]*", line) or len(line) == size**2):
            source = Path(source)
    if isinstance(source, os.PathLike):
        try:
            source = Path(source).read_bytes()
        except OSError as error:
            raise ParameterError(f"puzzles = '{str(source)[:200]}': {error.strerror}") from None
    if isinstance(source, bytes):
        source = source.decode("utf-16" if source[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", errors="replace")
    lines = source.splitlines() if isinstance(source, str) else source
    return [(line if isinstance(line, str) else line.decode(errors="replace")).strip(AROUND) for line in lines]


def _puzzle_texts(lines: list[str]) -> dict[int, str]:
    """The puzzles by line number, counted from 1; in CSV those of the column that holds them."""
    texts = {number: line for number, line in enumerate(lines, start=1) if line}
    header = next(iter(texts.values()), "")
    separator = next((mark for mark in ",;\t" if mark in header), None)
    if separator is None:
        return texts
    names = [name.strip('" ').lower() for name in header.split(separator)]
    column = next((place for place, name in enumerate(names) if name in COLUMNS), None)
    if column is None:
        raise ParameterError(f"CSV with the header '{header[:60]}': a column should be named {', '.join(COLUMNS)}")
    rows = {number: line.split(separator) for number, line in list(texts.items())[1:]}
    return {number: row[column].strip('" ') if column < len(row) else "" for number, row in rows.items()}


def _problem(text: str, size: int, found: int | None) -> str:
    """What is wrong with a puzzle, which has `found` solutions where it is written right."""
    if len(text) != size**2:
        hint = "".join(f"; it could be a puzzle of size = {other}" for other in SIZES if len(text) == other**2)
        return f"{len(text)} characters, should be {size**2}{hint}"
    for position, character in enumerate(text):
        if character not in ".0123456789"[: size + 2]:
            place = f"{character!r} in row {position // size + 1}, column {position % size + 1}"
            return f"{place}: should be a digit from 1 to {size}, 0 or . for an empty cell"
    if found:
        return "has more than one solution"
    puzzle = torch.tensor([[int(character) for character in text.replace(".", "0")]])
    for kind, cells in zip(("row", "column", "box"), units(puzzle).tolist(), strict=True):
        for number, held in enumerate(cells[0], start=1):
            twice = [digit for digit in range(1, size + 1) if held.count(digit) > 1]
            if twice:
                return f"contradicts itself: {twice[0]} more than once in {kind} {number}"
    return "has no solution"
