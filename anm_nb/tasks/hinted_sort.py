"""Hinted sorting: partial-observation sorting where hidden items point at their predecessors in the true order."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from anm_nb.tasks import Batch, Predictions
from anm_nb.tasks.ordering import LOWEST, Items, PartialSort, RankingOptions, Visible
from anm_nb.training import seeds

DISTINCT_BITS = 8  # of a code, which tell up to 256 items apart whatever the others are


class HintedSortOptions(RankingOptions):
    """Options of hinted sorting."""

    encoding: Literal["scaled"] = "scaled"
    hint_rate: Annotated[float, Field(gt=0, le=1)] = 1.0  # probability that a hidden item points at its predecessor
    hints: Literal["true", "shuffled"] = "true"  # shuffled: the pointers follow an order that has nothing to do with it
    wrong_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0  # probability that a pointer leads to any other item instead
    code_width: Annotated[int, Field(ge=DISTINCT_BITS, le=1024)] = 16  # signs by which an item is pointed at


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

    def shown(self, values: Items, ranks: Items, known: Visible, generator: torch.Generator) -> Batch:
        draw = torch.randint(2**62, (), generator=generator.clone_state(), device=ranks.device)  # takes none from it
        return self.with_pointers(values, ranks, known, seeds.generator(int(draw), "hints", str(ranks.device)))

    def with_pointers(self, values: Items, ranks: Items, known: Visible, source: torch.Generator) -> Batch:
        """The problems with codes and pointers drawn from `source`."""
        options, (n, size), device = self.options, ranks.shape, ranks.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=source, device=device)

        points = uniform(n, size) < options.hint_rate
        numbers = uniform(n, 2**DISTINCT_BITS).argsort(dim=1)[:, :size]
        bits = (numbers.unsqueeze(-1) >> torch.arange(DISTINCT_BITS, device=device)) & 1
        others = torch.randint(2, (n, size, options.code_width - DISTINCT_BITS), generator=source, device=device)
        codes = 2.0 * torch.cat([bits, others], dim=-1) - 1
        order = ranks
        if options.hints == "shuffled":  # a random order that hides its items in runs of the same law
            visible = uniform(n, size).argsort(dim=1) < self.visible(size)
            places = visible.long().argsort(dim=1, descending=True)  # visible first
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
        x = super().shown(values, ranks, known, source).x
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

    def ceilings(self, batch: Batch) -> Float[Tensor, " n"] | None:
        """1 where every hidden item points at its predecessor, as without pointers where none does, else unknown."""
        if self.informed_rate == 0:
            return super().ceilings(batch)
        return torch.ones_like(batch.y[:, 0], dtype=torch.float64) if self.informed_rate == 1 else None

    def predictions(self, batch: Batch, generator: torch.Generator) -> Predictions:
        return {**super().predictions(batch, generator), ("chains of pointers", "classical"): self.solve(batch)}


def follow(pointers: Items, links: int | None = None) -> tuple[Items, Items]:
    """Where the chain of pointers from each item ends, or is after `links` (of a circle: enough), and its length."""
    places, lengths = torch.arange(pointers.shape[1], device=pointers.device).expand_as(pointers), pointers * 0
    for _ in range(2 ** pointers.shape[1].bit_length() if links is None else links):
        further = pointers.gather(1, places)
        places, lengths = torch.where(further < 0, places, further), lengths + (further >= 0)
    return places, lengths
