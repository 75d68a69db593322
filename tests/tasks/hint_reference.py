"""Ceilings of hinted sorting by enumeration, which share nothing with the package but what they are asked."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np

Observation = tuple[tuple[int, ...], tuple[int | None, ...]]  # visible values, then whom each hidden item points at


def longest_run(visible: tuple[int, ...], size: int) -> int:
    """The longest run of ranks that are not in `visible`."""
    fence = [-1, *visible, size]
    return max(after - before - 1 for before, after in itertools.pairwise(fence))


def worlds(values: int, size: int, seen: int, rate: float, chain_length: int | None):
    """Every problem: what is seen of it, the ranks of its items and its probability, up to a factor.

    Visible items are numbered by value, hidden ones after them in any order: positions tell nothing.
    """
    for own in itertools.combinations(range(values), size):
        for visible in itertools.combinations(range(size), seen):
            if chain_length is not None and longest_run(visible, size) != chain_length:
                continue
            hidden = [rank for rank in range(size) if rank not in visible]
            may_point = [rank for rank in hidden if rank > 0]
            for pointing in itertools.product((False, True), repeat=len(may_point)):
                points = dict(zip(may_point, pointing, strict=True))
                weight = math.prod(rate if does else 1 - rate for does in pointing)
                for turned in itertools.permutations(hidden):
                    ranks = (*visible, *turned)
                    item_at = {rank: item for item, rank in enumerate(ranks)}
                    shown = tuple(item_at[rank - 1] if points.get(rank) else None for rank in turned)
                    yield (tuple(own[rank] for rank in visible), shown), ranks, weight


def rankings(size: int) -> np.ndarray:
    """Signs of j after i [rankings, i, j] of every ranking of the items, ties included."""
    signs = {
        tuple(np.sign(np.subtract.outer(row, row).T).ravel()) for row in itertools.product(range(size), repeat=size)
    }
    return np.array(sorted(signs)).reshape(-1, size, size)


def ceilings_by_enumeration(
    values: int, size: int, seen: int, rate: float, chain_length: int | None
) -> dict[Observation, tuple[float, float, float]]:
    """For each observation the best expected τ of any ranking, the bound by pairs, and its probability."""
    sums: dict[Observation, np.ndarray] = defaultdict(lambda: np.zeros((size, size)))
    weights: dict[Observation, float] = defaultdict(float)
    for observation, ranks, weight in worlds(values, size, seen, rate, chain_length):
        if weight > 0:
            sums[observation] += weight * np.sign(np.subtract.outer(ranks, ranks).T)
            weights[observation] += weight
    orders = rankings(size).reshape(-1, size * size)
    total, pairs = sum(weights.values()), size * (size - 1)
    found = {}
    for observation, weight in weights.items():
        expected = sums[observation].ravel() / weight
        found[observation] = (
            float((orders @ expected).max() / pairs),
            float(np.abs(expected).sum() / pairs),
            weight / total,
        )
    return found
