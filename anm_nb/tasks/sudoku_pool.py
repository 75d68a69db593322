"""Pools of Sudoku puzzles, each proven to have one solution: dug out of random grids, built once and kept on disk."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock
from jaxtyping import Int, Integer, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from anm_nb.files import outputs_root
from anm_nb.tasks import sudoku_solver
from anm_nb.tasks.sudoku_solver import has_other_solution, random_grids, solve
from anm_nb.training.seeds import generator

Range = tuple[int, int]

REDIGS = 20  # times that puzzles which came out like another are dug anew


class Pool(NamedTuple):
    """Puzzles (0 = empty) and their only solutions, row by row."""

    puzzles: UInt8[Tensor, "n cells"]
    solutions: UInt8[Tensor, "n cells"]


def stored_pool(count: int, seed: int, givens: Range, size: int = 9) -> Pool:
    """`build_pool`'s, on the CPU; built where `outputs/pools/` does not have it yet.

    A second process asking for it waits for the first. The file is put in its place when all of it is written, and
    its name covers the text of the modules that made it; one that cannot be read is built again.
    """
    folder = outputs_root() / "pools"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sudoku-{pool_key(count, seed, givens, size)}.safetensors"
    with FileLock(path.with_suffix(".lock")):
        pool = _read(path)
        if pool is None:
            pool = build_pool(count, seed, givens, size)
            partial = path.with_suffix(".partial")
            save_file(pool._asdict(), partial)
            os.replace(partial, path)
    return pool


def pool_key(count: int, seed: int, givens: Range, size: int = 9) -> str:
    """16 hexadecimal digits over everything a pool depends on."""
    identity = {"count": count, "seed": seed, "givens": list(givens), "size": size}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for source in (__file__, sudoku_solver.__file__):
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()[:16]


def build_pool(count: int, seed: int, givens: Range, size: int = 9) -> Pool:
    """`count` random puzzles of 4×4 or 9×9, with one solution each and a number of givens uniform on low … high.

    Row i of every pool of one board size, count and seed has the same solution, whatever its givens. A puzzle from
    which no clue can be taken any more before it is down to its number keeps what it has. At 9×9 below 23 givens most
    are such: of 2,000 puzzles asked for 17 … 34 the fewest givens are 21, and the mean is 27.1 instead of 25.5. At 4×4
    the fewest that suffice, 4, are reached by 64 in 100 of those asked for them.

    There are only 288 solutions of 4×4: they come in random order, and again, in another, when all have come. Their
    puzzles differ as long as there are others: one that came out like another is dug anew, up to `REDIGS` times.
    """
    solutions = _solutions(count, generator(seed, "sudoku grids"), size)
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


def _solutions(count: int, source: torch.Generator, size: int) -> Int[Tensor, "n cells"]:
    if size == 9:
        return random_grids(count, generator=source)
    grids = every_small_grid()
    return grids[shuffled(len(grids), count, source)]


def every_small_grid() -> Int[Tensor, "288 16"]:
    """All complete grids of 4×4: pairs of rows that make bands, then pairs of bands, as the solver allows them."""
    lines = torch.tensor(list(itertools.permutations(range(1, 5))))
    for _ in ("bands", "grids"):
        n = len(lines)
        lines = torch.cat([lines.repeat_interleave(n, dim=0), lines.repeat(n, 1)], dim=1)
        boards = F.pad(lines, (0, 16 - lines.shape[1]))
        lines = lines[solve(boards, limit=1).found > 0]
    return lines


def shuffled(rows: int, n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """n of the numbers 0 … rows − 1 at random, none again before all have come, on the generator's device."""
    rounds = [torch.randperm(rows, generator=generator, device=generator.device) for _ in range(-(-n // rows))]
    return torch.cat([*rounds, torch.empty(0, dtype=torch.long, device=generator.device)])[:n]


def first_rows(boards: Integer[Tensor, "n cells"]) -> Int[Tensor, " n"]:
    """For each row the first one equal to it."""
    group = torch.unique(boards, dim=0, return_inverse=True)[1]
    rows = torch.arange(len(boards), device=boards.device)
    return torch.full_like(rows, len(rows)).scatter_reduce(0, group, rows, "amin")[group]


def dig(
    solutions: Int[Tensor, "n cells"], target: Int[Tensor, " n"], source: torch.Generator
) -> Int[Tensor, "n cells"]:
    """Puzzles left when clues are taken out of complete grids in random order, down to `target` clues where possible.

    A clue without which a second solution appears stays. It would have to stay later too, as fewer clues never have
    fewer solutions; so one pass over all cells leaves a puzzle at its target or minimal.
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


def _read(path: Path) -> Pool | None:
    """The pool in a file; None where there is none or it cannot be read."""
    try:
        tensors = load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None
    return Pool(**tensors)
