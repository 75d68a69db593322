"""Masks by rank whose longest run of hidden items has a given length, drawn uniformly among all such masks.

A mask of h hidden among s visible ranks is a choice of s + 1 run lengths, one for each gap before, between and after
visible ranks, that sum to h. A table counts in how many ways the last gaps can be filled so that no run is longer than
`longest` and at least one is as long; gap after gap is then drawn in proportion to the ways that each length leaves.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anm_nb.config import ParameterError


def require_longest_run(longest: int, *, hidden: int, visible: int) -> None:
    """Raise `ParameterError` where no mask has this longest run: it lies between ⌈hidden/(visible + 1)⌉ and hidden."""
    least = -(-hidden // (visible + 1))
    if hidden == 0:
        raise ParameterError(f"chain_length = {longest}: none of the {visible} items is hidden; allowed: None")
    if not least <= longest <= hidden:
        raise ParameterError(
            f"chain_length = {longest}: with {visible} of {visible + hidden} items visible the longest run of hidden "
            f"ones has {least} to {hidden}; allowed: these or None, nearest: {min(max(longest, least), hidden)}"
        )


def draw_longest_run(
    n: int, *, hidden: int, visible: int, longest: int, generator: torch.Generator, device: str = "cpu"
) -> Bool[Tensor, "n items"]:
    """n masks by rank (True = visible), each of all those with longest hidden run `longest` equally likely.

    Exact up to the rounding of counts in double precision. Raises `ParameterError` where there is no such mask.
    """
    require_longest_run(longest, hidden=hidden, visible=visible)
    ways = _ways(hidden, visible + 1, longest).to(device)
    lengths = torch.arange(longest + 1, device=device)
    left = torch.full((n, 1), hidden, device=device)
    reached = torch.zeros(n, 1, dtype=torch.bool, device=device)
    runs = []
    for gaps_after in range(visible, -1, -1):
        reached_then = reached | (lengths == longest)
        weights = ways[gaps_after, (left - lengths).clamp(min=0), reached_then.long()] * (lengths <= left)
        run = torch.multinomial(weights / weights.sum(dim=1, keepdim=True), 1, generator=generator)
        left, reached = left - run, reached | (run == longest)
        runs.append(run)
    places = torch.cat(runs, dim=1)[:, :visible].cumsum(dim=1) + torch.arange(visible, device=device)
    return torch.zeros(n, hidden + visible, dtype=torch.bool, device=device).scatter(1, places, True)


def _ways(hidden: int, gaps: int, longest: int) -> Float[Tensor, "gaps_and_1 hidden_and_1 2"]:
    """In how many ways `gaps` gaps hold `hidden` items, by whether a run of `longest` was there before (1) or not."""
    ways = torch.zeros(gaps + 1, hidden + 1, 2, dtype=torch.float64)
    ways[0, 0, 1] = 1
    for gap in range(1, gaps + 1):
        for length in range(min(longest, hidden) + 1):
            rest = ways[gap - 1, : hidden + 1 - length]
            ways[gap, length:, 1] += rest[:, 1]
            ways[gap, length:, 0] += rest[:, 1 if length == longest else 0]
    return ways
