"""Pools of Sudoku puzzles, each proven to have one solution: dug out of random grids, built once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock
from jaxtyping import Int, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from anm_nb.runs import outputs_root
from anm_nb.tasks import sudoku_solver
from anm_nb.tasks.sudoku_solver import has_other_solution, random_grids
from anm_nb.training.seeds import generator

Range = tuple[int, int]


class Pool(NamedTuple):
    """Puzzles (0 = empty) and their only solutions, row by row."""

    puzzles: UInt8[Tensor, "n 81"]
    solutions: UInt8[Tensor, "n 81"]


def stored_pool(size: int, seed: int, givens: Range) -> Pool:
    """The pool of this size, seed and range of givens, on the CPU; built where `outputs/pools/` does not have it yet.

    A second process asking for it waits for the first. The file is put in its place when all of it is written, and
    its name covers the text of the modules that made it; one that cannot be read is built again.
    """
    folder = outputs_root() / "pools"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sudoku-{pool_key(size, seed, givens)}.safetensors"
    with FileLock(path.with_suffix(".lock")):
        pool = _read(path)
        if pool is None:
            pool = build_pool(size, seed, givens)
            partial = path.with_suffix(".partial")
            save_file(pool._asdict(), partial)
            os.replace(partial, path)
    return pool


def pool_key(size: int, seed: int, givens: Range) -> str:
    """16 hexadecimal digits over everything a pool depends on."""
    identity = {"size": size, "seed": seed, "givens": list(givens)}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for source in (__file__, sudoku_solver.__file__):
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()[:16]


def build_pool(size: int, seed: int, givens: Range) -> Pool:
    """`size` random puzzles with one solution each and a number of givens drawn uniformly from low … high.

    Row i of every pool of one size and seed has the same solution, whatever its givens. A puzzle from which no
    clue can be taken any more before it is down to its number keeps what it has, and below 23 givens most are: of
    2,000 puzzles asked for 17 … 34 the fewest givens are 21, and the mean is 27.1 instead of 25.5.
    """
    solutions = random_grids(size, generator=generator(seed, "sudoku grids"))
    low, high = givens
    source = generator(seed, f"sudoku givens {low} to {high}")
    target = torch.randint(low, high + 1, (size,), generator=source)
    puzzles = dig(solutions, target, source)
    return Pool(puzzles.to(torch.uint8), solutions.to(torch.uint8))


def dig(solutions: Int[Tensor, "n 81"], target: Int[Tensor, " n"], source: torch.Generator) -> Int[Tensor, "n 81"]:
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
