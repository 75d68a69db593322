"""Ceilings of hinted sorting by enumeration, which share nothing with the package but what they are asked."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from fractions import Fraction

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


def ceiling_by_interleavings(
    unseen: tuple[int, ...], tails: tuple[int, ...], loose: tuple[int, ...], rate: float, chain_length: int | None
) -> tuple[float, float] | None:
    """Best τ and bound of one problem, over every order of its loose blocks in every gap; None where none can be."""
    sizes = [1 + tail for tail in tails] + list(loose)
    blocks, visible = len(sizes), len(tails)
    first = [[Fraction(0)] * blocks for _ in range(blocks)]
    total = Fraction(0)
    exact = Fraction(rate)
    for turned in itertools.permutations(range(visible, blocks)):
        for gaps in itertools.combinations_with_replacement(range(visible + 1), len(loose)):
            runs = [0, *tails]
            for block, gap in zip(turned, gaps, strict=True):
                runs[gap] += sizes[block]
            if chain_length is not None and max(runs) != chain_length:
                continue
            unpointed = len(loose) - (1 if 0 in gaps else 0)
            weight = math.prod(map(math.comb, unseen, runs)) * (1 - exact) ** unpointed
            order = []
            for gap in range(visible + 1):
                order += [block for block, own in zip(turned, gaps, strict=True) if own == gap]
                order += [gap] if gap < visible else []
            total += weight
            for before, after in itertools.combinations(order, 2):
                first[before][after] += weight
    if total == 0:
        return None
    pairs = math.comb(sum(sizes), 2)
    within = sum(math.comb(size, 2) for size in sizes)
    gain = [
        [float((first[a][b] - first[b][a]) / total) * sizes[a] * sizes[b] for b in range(blocks)] for a in range(blocks)
    ]
    best = max(
        sum(gain[a][b] for a, b in itertools.combinations(order, 2)) for order in itertools.permutations(range(blocks))
    )
    bound = sum(abs(gain[a][b]) for a, b in itertools.combinations(range(blocks), 2))
    return (within + best) / pairs, (within + bound) / pairs
