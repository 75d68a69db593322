"""Partial-observation sorting: tasks whose answer is an order, in streams of problems that never overlap."""

from __future__ import annotations

from math import comb
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from anm_nb.config import ParameterError
from anm_nb.tasks import Batch, Predictions, Scores, Stream, Task, TaskOptions, reference_table
from anm_nb.tasks.kendall import index_space_tau, kendall_tau
from anm_nb.training import seeds

# Fingerprints modulo 4: half of all problems train, a quarter each are for dev and test.
STREAMS: dict[Stream, tuple[int, ...]] = {"train": (0, 1), "dev": (2,), "test": (3,)}
MAX_ROUNDS = 100
LOWEST, VALUES = -100, 200  # the values that are sorted: −100 … 99
HIDDEN_RAW = -999.0  # what stands for a hidden value in the published encoding
DISTINCT_BITS = 8  # of a code, which tell up to 256 items apart whatever the others are

Items = Int[Tensor, "n items"]
Visible = Bool[Tensor, "n items"]


class RankingOptions(TaskOptions):
    """Options of every ranking task; `size` is the number of items."""

    size: Annotated[int, Field(ge=2)] = 20
    mask_rate: Annotated[float, Field(ge=0, lt=1)] = 0.5  # fraction of items whose value is hidden
    encoding: Literal["scaled", "raw"] = "scaled"  # raw: as published, values as they are and −999 for hidden ones


class PartialSort(Task):
    """`size` distinct integers in random order, max(2, int(size·(1 − mask_rate))) visible (`known`).

    x is [n, size, 2]: the value scaled to [−1, 1] (0 where hidden) and a flag (1 = hidden); with `encoding="raw"` it is
    [n, size, 1] as the HRM document has it. y holds the ranks of all, 0 for the smallest. `harder` doubles the items.
    """

    name = "partial_sort"
    metric = "tau_obs"
    options: RankingOptions
    options_class: ClassVar[type[TaskOptions]] = RankingOptions

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.x_dim, self.y_dim = 2 if self.options.encoding == "scaled" else 1, self.options.size
        self.items(harder=False)

    def items(self, harder: bool) -> int:
        """The number of items. Raises `ParameterError` for one that arrays cannot have."""
        size = self.options.size * (2 if harder else 1)
        if size > VALUES:
            raise ParameterError(f"size = {size}: there are only {VALUES} distinct values, so at most {VALUES}")
        return size

    def visible(self, size: int) -> int:
        """How many of `size` items are visible."""
        return max(2, int(size * (1 - self.options.mask_rate)))

    def sample(
        self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False,
        stream: Stream | None = None,
    ) -> Batch:  # fmt: skip
        """n fresh problems, of one stream where it is named. Raises `ParameterError` where too few are distinct."""
        if stream is None:
            return self.draw(n, generator=generator, device=device, harder=harder)
        kept: list[tuple[Tensor, ...]] = []
        for _ in range(MAX_ROUNDS):
            batch = self.draw(4 * n, generator=generator, device=device, harder=harder)
            rows = torch.isin(self.fingerprint(batch) % 4, torch.tensor(STREAMS[stream], device=device))
            kept.append((batch.x[rows], batch.y[rows], batch.known[rows]))
            if sum(len(x) for x, *_ in kept) >= n:
                return Batch(*(torch.cat(parts)[:n] for parts in zip(*kept, strict=True)))
        raise ParameterError(f"{self.name}: too few distinct problems at {self.options} to keep streams apart")

    def draw(self, n: int, *, generator: torch.Generator, device: str, harder: bool) -> Batch:
        """n fresh problems, of any stream."""
        size = self.items(harder)
        values = torch.rand(n, VALUES, generator=generator, device=device).argsort(dim=1)[:, :size] + LOWEST
        turns = torch.rand(n, size, generator=generator, device=device).argsort(dim=1)
        return self.shown(values, values.argsort(dim=1).argsort(dim=1), turns < self.visible(size), generator)

    def shown(self, values: Items, ranks: Items, known: Visible, generator: torch.Generator) -> Batch:
        """The problems of these values, their ranks and which of them are visible."""
        if self.options.encoding == "raw":
            return Batch(torch.where(known, values.float(), HIDDEN_RAW).unsqueeze(-1), ranks, known)
        scaled = torch.where(known, (values.float() + 0.5) * (2 / (VALUES - 1)), 0.0)
        return Batch(torch.stack([scaled, (~known).float()], dim=-1), ranks, known)

    def values(self, batch: Batch) -> Items:
        """The visible integers of a batch; 0 in the places of hidden ones."""
        seen = batch.x[..., 0]
        if self.options.encoding == "scaled":
            seen = seen * (VALUES - 1) / 2 - 0.5
        return torch.where(batch.known, seen.round().long(), 0)

    def fingerprint(self, batch: Batch) -> Int[Tensor, " n"]:
        """A hash of the set of visible values, so that not even a re-ordered or re-hidden array leaves its stream."""
        return hashed((hashed(self.values(batch)) * batch.known).sum(dim=1))

    def scores(self, y_hat: Tensor, batch: Batch) -> Scores:
        """{"tau_obs", "tau_all"}: τ of scores y_hat over observed and over all pairs."""
        return {"tau_obs": kendall_tau(y_hat, batch.y, batch.known), "tau_all": kendall_tau(y_hat, batch.y)}

    def solve(self, batch: Batch) -> Tensor:
        """The best possible scores [n, items]: visible values, and for hidden ones the median of those not seen."""
        values = self.values(batch)
        unseen = torch.arange(LOWEST, LOWEST + VALUES + 1, dtype=torch.double, device=values.device)
        places = torch.where(batch.known, values - LOWEST, VALUES)  # hidden items: one beyond, which is left out
        unseen = unseen.repeat(len(values), 1).scatter(1, places, torch.nan)[:, :VALUES]
        median = unseen.nanquantile(0.5, dim=1, keepdim=True)
        return -torch.where(batch.known, values.double(), median)

    def ceilings(self, batch: Batch) -> Float[Tensor, " n"] | None:
        """The highest expected τ over all pairs of each problem, or here of their mean, exact; `solve` attains it.

        Two visible values: 1. Two hidden ones: 0. A visible one against a hidden one, K of the M values not seen below
        it: |M − 2K|/M. K is uniform on 0 … M, so the mean is (h + 1)/(2h + 1) for h = ⌊M/2⌋.
        """
        size, seen = batch.y.shape[1], self.visible(batch.y.shape[1])
        half = (VALUES - seen) // 2
        best = (comb(seen, 2) + seen * (size - seen) * ((half + 1) / (2 * half + 1))) / comb(size, 2)
        return torch.full_like(batch.y[:, 0], best, dtype=torch.float64)

    def predictions(self, batch: Batch, generator: torch.Generator) -> Predictions:
        """Scores of the items [n, items] by trivial and classical methods."""
        n, items = batch.y.shape
        return {
            ("random scores", "trivial"): torch.rand(n, items, generator=generator, device=batch.y.device),
            ("input order", "trivial"): -torch.arange(items, device=batch.y.device).double().expand(n, items),
            ("value, hidden ones at the median", "classical"): PartialSort.solve(self, batch),
        }

    def reference_scores(self, n: int, *, generator: torch.Generator, harder: bool = False) -> pd.DataFrame:
        """`predictions` on n arrays, and the exact ceilings; of tau_index (as published) no best order is known."""
        batch = self.sample(n, generator=generator, device=str(generator.device), harder=harder)
        scores = {
            reference: self.scores(predicted, batch) | {"tau_index": index_space_tau(predicted, batch.y)}
            for reference, predicted in self.predictions(batch, generator).items()
        }
        ceilings = {"tau_obs": torch.ones(n), "tau_all": self.ceilings(batch)}
        known = {metric: best for metric, best in ceilings.items() if best is not None}
        return reference_table({**scores, ("best possible", "ceiling"): known})


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


def hashed(keys: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Well-mixed 63-bit hashes of integers: the finaliser of MurmurHash3 in int64, its logical shifts written out."""
    for factor in (-0x00AE502812AA7333, -0x3B314601E57A13AD):
        keys = (keys ^ (keys >> 33 & 0x7FFF_FFFF)) * factor
    return (keys ^ (keys >> 33 & 0x7FFF_FFFF)) & 0x7FFF_FFFF_FFFF_FFFF


def follow(pointers: Items, links: int | None = None) -> tuple[Items, Items]:
    """Where the chain of pointers from each item ends, or is after `links` (of a circle: enough), and its length."""
    places, lengths = torch.arange(pointers.shape[1], device=pointers.device).expand_as(pointers), pointers * 0
    for _ in range(2 ** pointers.shape[1].bit_length() if links is None else links):
        further = pointers.gather(1, places)
        places, lengths = torch.where(further < 0, places, further), lengths + (further >= 0)
    return places, lengths
