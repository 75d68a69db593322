"""Hinted sorting: partial-observation sorting where hidden items point at their predecessors in the true order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise, product
from math import comb, factorial, prod
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from anm_nb.config import ParameterError
from anm_nb.tasks import Batch, Predictions
from anm_nb.tasks.ordering import LOWEST, VALUES, Items, PartialSort, RankingOptions, Visible
from anm_nb.training import seeds

DISTINCT_BITS = 8  # of a code, which tell up to 256 items apart whatever the others are


class HintedSortOptions(RankingOptions):
    """Options of hinted sorting."""

    encoding: Literal["scaled"] = "scaled"
    hint_rate: Annotated[float, Field(gt=0, le=1)] = 1.0  # probability that a hidden item points at its predecessor
    hints: Literal["true", "shuffled"] = "true"  # shuffled: the pointers follow an order that has nothing to do with it
    wrong_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0  # probability that a pointer leads to any other item instead
    chain_length: PositiveInt | None = None  # exact length of the longest run of hidden items; None: whatever comes
    code_width: Annotated[int, Field(ge=DISTINCT_BITS, le=1024)] = 16  # signs by which an item is pointed at

    @model_validator(mode="after")
    def _with_a_known_ceiling(self) -> HintedSortOptions:
        if self.chain_length is not None and (self.hint_rate, self.wrong_rate, self.hints) != (1, 0, "true"):
            needs = "needs a true pointer at every hidden item: hint_rate = 1, wrong_rate = 0, hints = 'true'"
            raise ParameterError(f"chain_length = {self.chain_length}: {needs}")
        return self


class HintedSort(PartialSort):
    """Partial-observation sorting where each hidden item but the first points, with `hint_rate`, at its predecessor.

    x is [n, size, 3 + 2·code_width]: partial_sort's two columns, a flag (1 = points), the item's code, and the code of
    the item it points at (0: none); codes are random signs, fresh and distinct in every problem. Of wrong pointers, a
    share `wrong_rate`, each leads to any item but its own and the predecessor; ceilings are those without them.
    """

    name = "hinted_sort"
    metric = "tau_all"
    options: HintedSortOptions
    options_class = HintedSortOptions

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own, self.x_dim = self.options, 3 + 2 * self.options.code_width
        self.informed_rate = own.hint_rate * (1 - own.wrong_rate) if own.hints == "true" else 0.0  # with true pointers
        if own.wrong_rate > 0:
            self.ceiling_name = "best possible, wrong pointers taken out"

    def items(self, harder: bool) -> int:
        size, longest = super().items(harder), self.options.chain_length
        seen = self.visible(size)
        least, most = -(-(size - seen) // (seen + 1)), size - seen
        if longest is not None and not max(1, least) <= longest <= most:
            runs = f"with {seen} of {size} items visible the longest run of hidden ones has {least} to {most}"
            raise ParameterError(f"chain_length = {longest}: {runs}; allowed: these or None")
        return size

    def shown(self, values: Items, ranks: Items, known: Visible, generator: torch.Generator) -> Batch:
        options, (n, size), device = self.options, ranks.shape, ranks.device
        seen = self.visible(size)
        seed = int(torch.randint(2**62, (), generator=generator.clone_state(), device=device))  # takes no draw from it
        source = seeds.generator(seed, "hints", str(device))

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=source, device=device)

        if options.chain_length is not None:
            known = draw_longest_run(n, size - seen, seen, options.chain_length, source).gather(1, ranks)
        points = uniform(n, size) < options.hint_rate
        numbers = uniform(n, 2**DISTINCT_BITS).argsort(dim=1)[:, :size]
        bits = (numbers.unsqueeze(-1) >> torch.arange(DISTINCT_BITS, device=device)) & 1
        others = torch.randint(2, (n, size, options.code_width - DISTINCT_BITS), generator=source, device=device)
        codes = 2.0 * torch.cat([bits, others], dim=-1) - 1
        order = ranks
        if options.hints == "shuffled":  # a random order that hides its items in runs of the same law
            places = (uniform(n, size).argsort(dim=1) < seen).long().argsort(dim=1, descending=True)  # visible first
            turns = uniform(n, size) + (~known)  # so here, either kind at random
            order = torch.empty_like(places).scatter_(1, turns.argsort(dim=1), places)
        targets = (order - 1).clamp(min=0)
        if options.wrong_rate > 0:  # leads to any rank but its own and the one before
            wrong = uniform(n, size) < options.wrong_rate
            others = torch.randint(max(size - 2, 1), (n, size), generator=source, device=device)
            others = torch.where(others < order - 1, others, others + 2).clamp(max=size - 1)  # two items: none points
            targets = torch.where(wrong, others, targets)
        points = (points & ~known & (order > 0)).unsqueeze(-1)
        led_to = codes.take_along_dim(order.argsort(dim=1).gather(1, targets).unsqueeze(-1), 1)
        x = super().shown(values, ranks, known, generator).x
        return Batch(torch.cat([x, points.float(), codes, led_to * points], dim=-1), ranks, known)

    def pointers(self, batch: Batch) -> Items:
        """The item that each item points at, −1 where it points at none, as x shows it."""
        own, shown = batch.x[..., 3:].split(self.options.code_width, dim=-1)
        return torch.where(batch.x[..., 2] > 0, (shown @ own.mT).argmax(dim=-1), -1)  # signs agree most with themselves

    def solve(self, batch: Batch, links: int | None = None) -> Tensor:
        """Scores that follow chains of pointers, the best at hint_rate 1; those over `links` stand at the median."""
        pointers, median = self.pointers(batch), super().solve(batch)
        ends, lengths = follow(pointers, links)
        starts = torch.where(batch.known, median, 1.0 - LOWEST) if self.options.hint_rate == 1 else median
        scores = starts.gather(1, ends) - lengths / (lengths.shape[1] + 1)
        return scores if links is None else torch.where(pointers.gather(1, ends) < 0, scores, median)

    def ceilings(self, batch: Batch) -> Float[Tensor, " n"]:
        """Each problem's highest expected τ over all pairs, exact (`ceiling`); wrong pointers are taken out."""
        if self.informed_rate == 0:
            return super().ceilings(batch)
        pointers, ranks = self.pointers(batch), batch.y
        right = ranks.gather(1, pointers.clamp(min=0)) == ranks - 1
        ends, _ = follow(torch.where(right, pointers, -1))
        lengths = torch.zeros_like(ranks).scatter_add_(1, ends, torch.ones_like(ranks))
        best = []
        for seen, value, length in zip(batch.known.cpu(), self.values(batch).cpu(), lengths.cpu(), strict=True):
            order = value[seen].argsort()
            fence = [LOWEST - 1, *value[seen][order].tolist(), LOWEST + VALUES]
            unseen = [above - below - 1 for below, above in pairwise(fence)]
            tails, loose = (length[seen][order] - 1).tolist(), length[~seen & (length > 0)].tolist()
            best.append(ceiling(unseen, tails, loose, self.informed_rate))
        return torch.tensor(best, dtype=torch.float64, device=ranks.device)

    def predictions(self, batch: Batch, generator: torch.Generator) -> Predictions:
        return {**super().predictions(batch, generator), ("chains of pointers", "classical"): self.solve(batch)}


def follow(pointers: Items, links: int | None = None) -> tuple[Items, Items]:
    """Where the chain of pointers from each item ends, or is after `links` (of a circle: enough), and its length."""
    places, lengths = torch.arange(pointers.shape[1], device=pointers.device).expand_as(pointers), pointers * 0
    for _ in range(2 ** pointers.shape[1].bit_length() if links is None else links):
        further = pointers.gather(1, places)
        places, lengths = torch.where(further < 0, places, further), lengths + (further >= 0)
    return places, lengths


def draw_longest_run(n: int, hidden: int, visible: int, longest: int, generator: torch.Generator) -> Visible:
    """n masks by rank (True = visible), uniform among those whose longest run of hidden items is `longest`."""
    device = generator.device
    # ways[g, h, r]: how g gaps hold h hidden items, no run longer, and one as long unless one came before (r = 1)
    ways = torch.zeros(visible + 2, hidden + 1, 2, dtype=torch.float64)
    ways[0, 0, 1] = 1
    for gap, length in product(range(1, visible + 2), range(longest + 1)):
        rest = ways[gap - 1, : hidden + 1 - length]
        ways[gap, length:] += rest[:, [1 if length == longest else 0, 1]]
    ways, lengths = ways.to(device), torch.arange(longest + 1, device=device)
    left = torch.full((n, 1), hidden, device=device)
    reached = torch.zeros(n, 1, dtype=torch.bool, device=device)
    runs = []
    for gaps_after in range(visible, -1, -1):
        reached_then = (reached | (lengths == longest)).long()
        weights = ways[gaps_after, (left - lengths).clamp(min=0), reached_then] * (lengths <= left)
        runs.append(torch.multinomial(weights / weights.sum(dim=1, keepdim=True), 1, generator=generator))
        left, reached = left - runs[-1], reached | (runs[-1] == longest)
    places = torch.cat(runs[:-1], dim=1).cumsum(dim=1) + torch.arange(visible, device=device)
    return torch.zeros(n, hidden + visible, dtype=torch.bool, device=device).scatter(1, places, True)


def ceiling(unseen: Sequence[int], tails: Sequence[int], loose: Sequence[int], rate: float) -> float:
    """The expected τ over all pairs of one problem of a ranker that knows how problems are drawn: no other has more.

    It sees how many values are `unseen` [visible + 1] below, between and above the visible ones; how many hidden items
    are chained to each visible one (`tails`, smallest value first); and the lengths of chains that start at a hidden
    item, `loose` blocks. An order with n_i hidden items in the i-th gap of g_i unseen values has weight ∏ C(g_i, n_i) ·
    (1 − rate)^(loose blocks, less one if one comes first). How many blocks of each length stand before a gap is a
    Markov chain; its forward-backward sums give P(block before block). Circular preferences make it 0.00005 too high.
    """
    if not loose:
        return 1.0
    lengths, counts = np.unique(loose, return_counts=True)
    used = np.array(list(product(*(range(count + 1) for count in counts))))  # blocks of each length, from none to all
    placed = used[None] - used[:, None]
    which = np.ravel_multi_index(tuple(np.moveaxis(placed.clip(0), 2, 0)), tuple(counts + 1))
    orders = np.array([factorial(sum(row)) / prod(map(factorial, row)) for row in used.tolist()])
    steps: list[np.ndarray] = []
    for values, tail in zip(unseen, (0, *tails), strict=True):
        weights = orders * [float(comb(values, run)) for run in (used @ lengths + tail).tolist()]
        if not steps:
            weights[0] *= 1 - rate  # nothing loose comes first, so that all the loose blocks are so by chance
        steps.append(weights[which] * (placed >= 0).all(2))
    start, end = np.eye(len(used))[[0, -1]]
    forward = accumulate(steps, lambda sums, step: _normalised(sums @ step), initial=start)
    backward = list(accumulate(steps[:0:-1], lambda sums, step: _normalised(step @ sums), initial=end))[::-1]
    joint = [_normalised(f[:, None] * step * b) for f, step, b in zip(forward, steps, backward, strict=False)]
    among = sum(used.T @ each @ used for each in joint)
    before = np.array([each.sum(0) @ used / counts for each in joint[:-1]])  # P(loose before a visible item's block)
    anchored = np.array(tails) + 1
    gained = np.abs((among - among.T) * np.outer(lengths, lengths)).sum() / 2
    gained += (np.abs(2 * before - 1) * np.outer(anchored, lengths * counts)).sum()
    sure = comb(sum(anchored), 2) + sum(comb(length, 2) for length in loose)
    return float((sure + gained) / comb(sum(anchored) + sum(loose), 2))


def _normalised(weights: np.ndarray) -> np.ndarray:
    """The weights, divided by their sum: only ratios count, and products over gaps would overflow."""
    return weights / weights.sum()
