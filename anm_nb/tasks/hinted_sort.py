"""Hinted sorting: partial-observation sorting where hidden items point at their predecessors in the true order."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from anm_nb.config import ParameterError
from anm_nb.tasks.base import Batch, Kind
from anm_nb.tasks.hint_ceiling import Knowledge, ceiling
from anm_nb.tasks.ordering import LOWEST, VALUES, Items, PartialSort, RankingOptions, Visible
from anm_nb.training import seeds

DISTINCT_BITS = 8  # of a code, which tell up to 256 items apart whatever the others are


class HintedSortOptions(RankingOptions):
    """Options of hinted sorting."""

    hint_rate: Annotated[float, Field(ge=0, le=1)] = 1.0  # probability that a hidden item points at its predecessor
    hints: Literal["true", "shuffled"] = "true"  # shuffled: the pointers follow an order that has nothing to do with it
    wrong_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0  # probability that a pointer leads to any other item instead
    chain_length: PositiveInt | None = None  # exact length of the longest run of hidden items; None: whatever comes
    code_width: Annotated[int, Field(ge=DISTINCT_BITS, le=1024)] = 16  # signs by which an item is pointed at

    @model_validator(mode="after")
    def _encodable(self) -> HintedSortOptions:
        rate = f"hint_rate = {self.hint_rate}"
        if self.encoding == "raw" and self.hint_rate > 0:
            raise ParameterError(f"encoding = 'raw': has no room for pointers; allowed with {rate}: 'scaled'")
        if self.wrong_rate > 0 and (self.hint_rate == 0 or self.hints == "shuffled"):
            why = f"there are no true pointers to make wrong with {rate} and hints = '{self.hints}'"
            raise ParameterError(f"wrong_rate = {self.wrong_rate}: {why}; allowed: 0")
        return self


class HintedSort(PartialSort):
    """Partial-observation sorting where each hidden item but the first points, with `hint_rate`, at its predecessor.

    x is [n, size, 3 + 2·code_width]: partial_sort's two columns, a flag (1 = points), the item's code, and the code of
    the item it points at (0 where it points at none). Codes are random signs, fresh and distinct in every problem.
    With `hint_rate=0` the extra columns are absent, and without `chain_length` this *is* partial_sort. All else is
    drawn from a generator derived from the given one: values and order are the same at any options, and the pointers at
    a lower rate are among those at a higher one.

    Any mask whose longest run of hidden items is `chain_length` is as likely as any other. A share `wrong_rate` of
    pointers lead to an item that is neither their own nor the predecessor, all equally likely; what is best possible
    then is not known, and in its place stands what would be if the wrong pointers were taken out.
    """

    name = "hinted_sort"
    metric = "tau_all"
    options: HintedSortOptions
    options_class = HintedSortOptions

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.options.hint_rate > 0:
            self.x_dim = 3 + 2 * self.options.code_width
        if self.options.wrong_rate > 0:
            self.ceiling_name = "best possible, wrong pointers taken out"

    @property
    def informed_rate(self) -> float:
        """The fraction of hidden items that have a true pointer: of `hint_rate`, what is neither wrong nor shuffled."""
        return self.options.hint_rate * (1 - self.options.wrong_rate) if self.options.hints == "true" else 0.0

    def draw(self, n: int, *, generator: torch.Generator, device: str, harder: bool) -> Batch:
        values, ranks, known = self._draw_values(n, generator=generator, device=device, harder=harder)
        source = _derived(generator)
        if self.options.chain_length is not None:
            known = self._draw_visible_ranks(n, ranks.shape[1], source).gather(1, ranks)
        x = self._encoded(values, known)
        if self.options.hint_rate > 0:
            x = torch.cat([x, self._draw_hints(ranks, known, source)], dim=-1)
        return Batch(x, ranks, known)

    def pointers(self, batch: Batch) -> Items:
        """The item that each item points at, −1 where it points at none, as x shows it."""
        if self.options.hint_rate == 0:
            return torch.full_like(batch.y, -1)
        own, shown = batch.x[..., 3:].split(self.options.code_width, dim=-1)
        return torch.where(batch.x[..., 2] > 0, (shown @ own.mT).argmax(dim=-1), -1)  # signs agree most with themselves

    def solve(self, batch: Batch, links: int | None = None) -> Tensor:
        """Chains of pointers right after the visible item where they end: the best possible scores with hint_rate 1.

        A chain that ends at a hidden item stands at the median of the values not seen, with hint_rate 1 first. With
        `links`, at most so many pointers of a chain are followed; an item whose chain is longer stands at the median.
        """
        pointers = self.pointers(batch)
        ends, lengths = follow(pointers, links)
        starts = super().solve(batch)
        if self.options.hint_rate == 1:
            starts = torch.where(batch.given, starts, 1.0 - LOWEST)
        scores = starts.gather(1, ends) - lengths / (lengths.shape[1] + 1)
        cut = pointers.gather(1, ends) >= 0 if links is not None else torch.zeros_like(ends, dtype=torch.bool)
        return torch.where(cut, super().solve(batch), scores)

    def all_pairs_ceiling(self, *, harder: bool = False) -> float | None:
        """The mean of `ceilings` where it has a closed form, else None: 1 with all hints, partial_sort's with none.

        With all hints only the item of rank 0 can be hidden without a pointer, so every chain has a known place.
        """
        if self.informed_rate == 1:
            return 1.0
        plain = self.informed_rate == 0 and self.options.chain_length is None
        return super().all_pairs_ceiling(harder=harder) if plain else None

    def ceilings(self, batch: Batch) -> Float[Tensor, " n"]:
        """Each problem's highest expected τ over all pairs, exact (`hint_ceiling`); wrong pointers are taken out."""
        rate, longest = self.informed_rate, self.options.chain_length
        pointers = self.pointers(batch)
        right = batch.y.gather(1, pointers.clamp(min=0)) == batch.y - 1
        ends, _ = follow(torch.where(right & (rate > 0), pointers, -1))  # shuffled pointers show nothing
        lengths = torch.zeros_like(batch.y).scatter_add_(1, ends, torch.ones_like(batch.y))
        best = []
        for seen, value, length in zip(batch.given.cpu(), self.values(batch).cpu(), lengths.cpu(), strict=True):
            order = value[seen].argsort()
            fence = [LOWEST - 1, *value[seen][order].tolist(), LOWEST + VALUES]
            unseen = tuple(above - below - 1 for below, above in pairwise(fence))
            tails, loose = (length[seen][order] - 1).tolist(), length[~seen & (length > 0)].tolist()
            best.append(ceiling(Knowledge(unseen, tuple(tails), tuple(loose)), hint_rate=rate, chain_length=longest))
        return torch.tensor(best, dtype=torch.float64, device=batch.y.device)

    def _predictions(self, batch: Batch, generator: torch.Generator) -> dict[tuple[str, Kind], Tensor]:
        return super()._predictions(batch, generator) | {("chains of pointers", "classical"): self.solve(batch)}

    def _items(self, harder: bool) -> int:
        size = super()._items(harder)
        if self.options.chain_length is not None:
            seen = self.visible(size)
            require_longest_run(self.options.chain_length, hidden=size - seen, visible=seen)
        return size

    def _draw_visible_ranks(self, n: int, size: int, source: torch.Generator) -> Visible:
        """Masks by rank (True = visible)."""
        seen, longest = self.visible(size), self.options.chain_length
        if longest is None:
            return torch.rand(n, size, generator=source, device=source.device).argsort(dim=1) < seen
        return draw_longest_run(n, hidden=size - seen, visible=seen, longest=longest, generator=source)

    def _draw_hints(self, ranks: Items, known: Visible, source: torch.Generator) -> Float[Tensor, "n items features"]:
        """The columns after partial_sort's: flags, codes and codes pointed at."""
        n, items = ranks.shape
        chosen = torch.rand(n, items, generator=source, device=ranks.device) < self.options.hint_rate
        codes = _draw_codes(n, items, self.options.code_width, source)
        if self.options.hints == "shuffled":
            ranks = self._draw_other_ranks(known, source)
        points = chosen & ~known & (ranks > 0)
        targets = (ranks - 1).clamp(min=0)
        if self.options.wrong_rate > 0:  # leads to any rank but its own and the one before
            wrong = torch.rand(ranks.shape, generator=source, device=ranks.device) < self.options.wrong_rate
            others = torch.randint(max(items - 2, 1), ranks.shape, generator=source, device=ranks.device)
            others = torch.where(others < ranks - 1, others, others + 2).clamp(max=items - 1)  # two items: none points
            targets = torch.where(wrong, others, targets)
        led_to = ranks.argsort(dim=1).gather(1, targets)
        shown = codes.gather(1, led_to.unsqueeze(-1).expand_as(codes)) * points.unsqueeze(-1)
        return torch.cat([points.unsqueeze(-1).float(), codes, shown], dim=-1)

    def _draw_other_ranks(self, known: Visible, source: torch.Generator) -> Items:
        """Ranks in a random order that hides its items in runs of the same law, and is otherwise independent."""
        n, size = known.shape
        places = self._draw_visible_ranks(n, size, source).long().argsort(dim=1, descending=True)  # visible ones first
        turns = torch.rand(known.shape, generator=source, device=known.device)
        items = (turns + (~known)).argsort(dim=1)  # visible ones first, either kind in random order
        return torch.empty_like(places).scatter_(1, items, places)


def follow(pointers: Items, links: int | None = None) -> tuple[Items, Items]:
    """Where the chain of pointers from each item ends, and its length; in a circle, somewhere in it, too long.

    With `links`, where it is after at most so many pointers.
    """
    items = pointers.shape[1]
    if links is not None:
        places, lengths = torch.arange(items, device=pointers.device).expand_as(pointers), torch.zeros_like(pointers)
        for _ in range(links):
            on = pointers.gather(1, places)
            places, lengths = torch.where(on < 0, places, on), lengths + (on >= 0)
        return places, lengths
    ends = torch.where(pointers < 0, torch.arange(items, device=pointers.device), pointers)
    lengths = (pointers >= 0).long()
    for _ in range(items.bit_length()):
        lengths, ends = lengths + lengths.gather(1, ends), ends.gather(1, ends)
    return ends, lengths


def require_longest_run(longest: int, *, hidden: int, visible: int) -> None:
    """Raise `ParameterError` where no mask has this longest run: it lies between ⌈hidden/(visible + 1)⌉ and hidden."""
    least = -(-hidden // (visible + 1))
    if hidden == 0:
        raise ParameterError(f"chain_length = {longest}: none of the {visible} items is hidden; allowed: None")
    if not least <= longest <= hidden:
        runs = (
            f"with {visible} of {visible + hidden} items visible the longest run of hidden ones has {least} to {hidden}"
        )
        nearest = min(max(longest, least), hidden)
        raise ParameterError(f"chain_length = {longest}: {runs}; allowed: these or None, nearest: {nearest}")


def draw_longest_run(n: int, *, hidden: int, visible: int, longest: int, generator: torch.Generator) -> Visible:
    """n masks by rank (True = visible), uniform among those whose longest run of hidden items is `longest`.

    A mask is a choice of run lengths for the visible + 1 gaps around visible ranks, that sum to `hidden`. ways[g, h, r]
    counts how g gaps can hold h items with no run longer than `longest`, and at least one as long unless one came
    before (r = 1); gap after gap is drawn in proportion to the ways that each length leaves.
    """
    require_longest_run(longest, hidden=hidden, visible=visible)
    device = generator.device
    ways = torch.zeros(visible + 2, hidden + 1, 2, dtype=torch.float64)
    ways[0, 0, 1] = 1
    for gap in range(1, visible + 2):
        for length in range(longest + 1):
            rest = ways[gap - 1, : hidden + 1 - length]
            ways[gap, length:, 1] += rest[:, 1]
            ways[gap, length:, 0] += rest[:, 1 if length == longest else 0]
    ways, lengths = ways.to(device), torch.arange(longest + 1, device=device)
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


def _draw_codes(n: int, items: int, width: int, source: torch.Generator) -> Float[Tensor, "n items width"]:
    """Random signs; within a problem the first DISTINCT_BITS are drawn without replacement."""
    device = source.device
    numbers = torch.rand(n, 2**DISTINCT_BITS, generator=source, device=device).argsort(dim=1)[:, :items]
    bits = (numbers.unsqueeze(-1) >> torch.arange(DISTINCT_BITS, device=device)) & 1
    others = torch.randint(2, (n, items, width - DISTINCT_BITS), generator=source, device=device)
    return 2.0 * torch.cat([bits, others], dim=-1) - 1


def _derived(generator: torch.Generator) -> torch.Generator:
    """A generator seeded by what `generator` would draw next, which it still will: nothing is taken from it."""
    ahead = generator.clone_state()
    seed = int(torch.randint(2**62, (), generator=ahead, device=ahead.device))
    return seeds.generator(seed, "hints", str(ahead.device))
