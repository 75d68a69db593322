"""Ceilings of hinted sorting by enumeration, which share nothing with the package but what they are asked."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np

Observation = tuple[tuple[int, ...], tuple[int | None, ...]]  # visible values, then whom each hidden item points at


def worlds(values: int, size: int, seen: int, rate: float):
    """Every problem: what is seen of it, the ranks of its items and its probability, up to a factor.

    Visible items are numbered by value, hidden ones after them in any order: positions tell nothing.
    """
    for own in itertools.combinations(range(values), size):
        for visible in itertools.combinations(range(size), seen):
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


def ceilings_by_enumeration(
    values: int, size: int, seen: int, rate: float
) -> dict[Observation, tuple[float, float, float]]:
    """For each observation the expected τ of the best ranking, the bound by pairs, and its probability."""
    sums: dict[Observation, np.ndarray] = defaultdict(lambda: np.zeros((size, size)))
    weights: dict[Observation, float] = defaultdict(float)
    for observation, ranks, weight in worlds(values, size, seen, rate):
        if weight > 0:
            sums[observation] += weight * np.sign(np.subtract.outer(ranks, ranks).T)
            weights[observation] += weight
    orders = np.array([np.sign(np.subtract.outer(row, row).T) for row in itertools.permutations(range(size))])
    total, pairs = sum(weights.values()), size * (size - 1)
    found = {}
    for observation, weight in weights.items():
        expected = sums[observation] / weight
        best = np.tensordot(orders, expected).max()
        found[observation] = float(best / pairs), float(np.abs(expected).sum() / pairs), weight / total
    return found
