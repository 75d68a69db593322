"""The best that any ranker can expect on hinted sorting, problem by problem, given all that it is shown.

It knows the visible values, which leave g_0 … g_s unseen values below, between and above them, and chains of pointers.
A chain from a visible item follows it without a gap: both are one *anchored* block. Any other chain starts at a hidden
item without a pointer: a *loose* block, whose place is unknown. Within a block the order is known.

A true order puts loose blocks, in any order, into the gaps after anchored ones. With n_i hidden items in the i-th gap,
∏ C(g_i, n_i) choices of their values lead to it. The first item of a loose block has no pointer by chance, unless its
rank is 0. So an order has weight

    ∏_i C(g_i, n_i) · [max n_i = chain_length] · (1 − hint_rate)^(loose blocks, less one if a loose block comes first).

Blocks of one length are interchangeable. How many of each stand before a gap is the state of a Markov chain over gaps,
and its forward-backward sums give P(block before block) for every two blocks.

Expected τ is a sum over pairs, but three blocks can be preferred in a circle. The best ranking need not mix blocks or
tie them (either scores the average of rankings that do not), and may keep blocks of one length together. That leaves
orders of the lengths among the anchored blocks: dynamic programming over the lengths and the visible items finds it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import product
from math import comb, factorial, prod

import numpy as np
from jaxtyping import Float

IMPOSSIBLE = "no problem drawn with these options shows these blocks"


@dataclass(frozen=True)
class Knowledge:
    """What one problem shows: all of its items are in anchored or loose blocks."""

    unseen: tuple[int, ...]  # values not seen in each of the gaps that visible ones leave, one more than those
    tails: tuple[int, ...]  # hidden items chained to each visible one, smallest value first
    loose: tuple[int, ...] = ()  # lengths of the chains that start at a hidden item


def ceiling(known: Knowledge, *, hint_rate: float, chain_length: int | None = None) -> float:
    """The highest expected τ over all pairs of one problem, for a ranker that knows how problems are drawn.

    With X_i = ∑ P(u before gap i, w after it) u wᵀ over states u, w (blocks of each length used), of two lengths
    a ≠ b in one gap either may come first, so that P(a before b) = ½ + ∑_i (X_i − X_iᵀ)_ab/(2 c_a c_b) for counts c.
    Raises `ValueError` for what no problem drawn so can show.
    """
    if not known.loose:
        return 1.0
    if hint_rate == 1 and len(known.loose) > 1:
        raise ValueError(IMPOSSIBLE)
    blocks = Counter(known.loose)
    used, steps = _steps(known, blocks, hint_rate, chain_length)
    start, end = np.eye(len(used))[[0, -1]]  # no block used and no run long yet; all used
    forward, backward = [start], [end]
    for step in steps:
        forward.append(_normalised(forward[-1] @ step))
    for step in reversed(steps):
        backward.insert(0, _normalised(step @ backward[0]))
    lengths, counts = np.array(sorted(blocks.items())).T
    among = np.zeros((len(lengths), len(lengths)))
    before = []
    for gap, step in enumerate(steps):
        joint = _normalised(forward[gap][:, None] * step * backward[gap + 1])
        before.append(joint.sum(axis=0) @ used / counts)
        products = used.T @ joint @ used
        among += products - products.T
    to_anchored = 2 * np.array(before[:-1]).reshape(-1, len(lengths)).T - 1
    anchored, masses = np.array(known.tails, dtype=float) + 1, (lengths * counts).astype(float)
    gained = _best_order(
        among / np.outer(counts, counts) * np.outer(masses, masses), to_anchored * np.outer(masses, anchored)
    )
    sure = comb(int(anchored.sum()), 2) + sum(comb(length, 2) for length in known.loose)
    return float((sure + gained) / comb(int(anchored.sum()) + sum(known.loose), 2))


def _steps(
    known: Knowledge, blocks: Counter[int], hint_rate: float, chain_length: int | None
) -> tuple[Float[np.ndarray, "states kinds"], list[Float[np.ndarray, "states states"]]]:
    """Blocks of each length used in each state, and the weights of steps from the states before a gap to those after.

    With a `chain_length` there are twice the states: first those in which no run has been as long yet.
    """
    lengths, counts = np.array(sorted(blocks.items())).T
    used = np.array(list(product(*(range(count + 1) for count in counts))))
    placed = used[None] - used[:, None]
    possible = (placed >= 0).all(axis=2)
    which = np.where(possible, np.ravel_multi_index(tuple(np.maximum(placed, 0).T), tuple(counts + 1)).T, 0)
    orders = np.array([factorial(sum(row)) / prod(map(factorial, row)) for row in used.tolist()])
    steps: list[np.ndarray] = []
    for unseen, tail in zip(known.unseen, (0, *known.tails), strict=True):
        run = used @ lengths + tail
        weights = orders * np.array([float(comb(unseen, length)) for length in run.tolist()])
        if not steps:
            weights[0] *= 1 - hint_rate  # nothing loose comes first, so that all the loose blocks are so by chance
        if chain_length is None:
            steps.append(_normalised(weights[which] * possible))
            continue
        shorter, equal = (np.where(chosen, weights, 0.0) for chosen in (run < chain_length, run == chain_length))
        shorter, equal = shorter[which] * possible, equal[which] * possible
        steps.append(_normalised(np.block([[shorter, equal], [np.zeros_like(shorter), shorter + equal]])))
    return (used if chain_length is None else np.concatenate([used, used])).astype(float), steps


def _best_order(
    among_loose: Float[np.ndarray, "kinds kinds"], to_anchored: Float[np.ndarray, "kinds visible"]
) -> float:
    """The most that one order of the blocks gains over all pairs of blocks not both anchored (whose order is known).

    `among_loose[a, b]` and `to_anchored[a, j]` are what is gained where a precedes b, or j, and lost where it follows.
    """
    kinds, visible = to_anchored.shape
    best = np.full((2**kinds, visible + 1), -np.inf)
    best[0, 0] = 0.0
    for ranked in range(2**kinds):
        inside = (ranked >> np.arange(kinds)) & 1
        for last in np.flatnonzero(inside):
            before = ranked - (1 << int(last))
            gained = among_loose[(before >> np.arange(kinds)) & 1 == 1, last].sum()
            best[ranked] = np.maximum(best[ranked], best[before] + gained)
        along = np.concatenate([[0.0], np.cumsum((2 * inside - 1) @ to_anchored)])
        best[ranked] = np.maximum.accumulate(best[ranked] - along) + along
    return float(best[-1, -1])


def _normalised(weights: np.ndarray) -> np.ndarray:
    """The weights, divided by their sum: only ratios count, and products over gaps would overflow."""
    total = float(weights.sum())
    if total == 0:
        raise ValueError(IMPOSSIBLE)
    return weights / total
