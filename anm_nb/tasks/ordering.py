"""Partial-observation sorting: tasks whose answer is an order, with streams of problems that never overlap."""

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

# Fingerprints modulo 4: half of all problems are for training, a quarter each for dev and test.
STREAMS: dict[Stream, tuple[int, ...]] = {"train": (0, 1), "dev": (2,), "test": (3,)}
MAX_ROUNDS = 100  # of draws, before a stream counts as too small
LOWEST, VALUES = -100, 200  # items take distinct values from −100 … 99
HIDDEN_RAW = -999.0  # stands for a hidden value in the published encoding
DISTINCT_BITS = 8  # the first bits of a code, which differ between any two of up to 256 items

Items = Int[Tensor, "n items"]
Visible = Bool[Tensor, "n items"]


class RankingOptions(TaskOptions):
    """Options of every ranking task; `size` is the number of items."""

    size: Annotated[int, Field(ge=2)] = 20
    mask_rate: Annotated[float, Field(ge=0, lt=1)] = 0.5  # fraction of items whose value is hidden
    encoding: Literal["scaled", "raw"] = "scaled"  # raw: as published, unscaled values, −999 for hidden ones


class PartialSort(Task):
    """Rank `size` distinct integers in random order, of which max(2, int(size·(1 − mask_rate))) are visible (`known`).

    x is [n, size, 2]: the value scaled to [−1, 1] (0 if hidden) and a flag (1 = hidden); with `encoding="raw"` it is
    [n, size, 1], as in the HRM document. y holds the ranks of all items, 0 for the smallest. `harder` doubles `size`.
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
        """The number of items. Raises `ParameterError` if there are fewer distinct values than items."""
        size = self.options.size * (2 if harder else 1)
        if size > VALUES:
            raise ParameterError(f"size = {size}: there are only {VALUES} distinct values, so at most {VALUES}")
        return size

    def visible(self, size: int) -> int:
        """The number of visible items among `size`."""
        return max(2, int(size * (1 - self.options.mask_rate)))

    def sample(
        self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False,
        stream: Stream | None = None,
    ) -> Batch:  # fmt: skip
        """Draw n problems, of one stream if named. Raises `ParameterError` if a stream has too few distinct ones."""
        if stream is None:
            size = self.items(harder)
            values = torch.rand(n, VALUES, generator=generator, device=device).argsort(dim=1)[:, :size] + LOWEST
            order = torch.rand(n, size, generator=generator, device=device).argsort(dim=1)
            return self.encode(values, values.argsort(dim=1).argsort(dim=1), order < self.visible(size), generator)
        kept: list[tuple[Tensor, ...]] = []
        for _ in range(MAX_ROUNDS):
            batch = self.sample(4 * n, generator=generator, device=device, harder=harder)
            rows = torch.isin(self.fingerprint(batch) % 4, torch.tensor(STREAMS[stream], device=device))
            kept.append((batch.x[rows], batch.y[rows], batch.known[rows]))
            if sum(len(x) for x, *_ in kept) >= n:
                return Batch(*(torch.cat(parts)[:n] for parts in zip(*kept, strict=True)))
        raise ParameterError(f"{self.name}: too few distinct problems at {self.options} to keep streams apart")

    def encode(self, values: Items, ranks: Items, known: Visible, generator: torch.Generator) -> Batch:
        """The batch in which items have these values and ranks, and those in `known` are visible."""
        if self.options.encoding == "raw":
            return Batch(torch.where(known, values.float(), HIDDEN_RAW).unsqueeze(-1), ranks, known)
        scaled = torch.where(known, (values.float() + 0.5) * (2 / (VALUES - 1)), 0.0)
        return Batch(torch.stack([scaled, (~known).float()], dim=-1), ranks, known)

    def values(self, batch: Batch) -> Items:
        """The visible integers of a batch; 0 for hidden items."""
        values = batch.x[..., 0]
        if self.options.encoding == "scaled":
            values = values * (VALUES - 1) / 2 - 0.5
        return torch.where(batch.known, values.round().long(), 0)

    def fingerprint(self, batch: Batch) -> Int[Tensor, " n"]:
        """Hash the set of visible values; reordered arrays and other hidden values thus stay in the same stream."""
        return hash_keys((hash_keys(self.values(batch)) * batch.known).sum(dim=1))

    def scores(self, y_hat: Tensor, batch: Batch) -> Scores:
        """`tau_obs` and `tau_all`: τ of scores y_hat over observed and over all pairs."""
        return {"tau_obs": kendall_tau(y_hat, batch.y, batch.known), "tau_all": kendall_tau(y_hat, batch.y)}

    def solve(self, batch: Batch) -> Tensor:
        """The best possible scores [n, items]: minus the value, or for hidden items the median of the unseen values."""
        values = self.values(batch)
        unseen = torch.arange(LOWEST, LOWEST + VALUES + 1, dtype=torch.double, device=values.device)
        places = torch.where(batch.known, values - LOWEST, VALUES)  # hidden: an extra place, cut off below
        unseen = unseen.repeat(len(values), 1).scatter(1, places, torch.nan)[:, :VALUES]
        median = unseen.nanquantile(0.5, dim=1, keepdim=True)
        return -torch.where(batch.known, values.double(), median)

    def ceilings(self, batch: Batch) -> Float[Tensor, " n"] | None:
        """The exact highest expected τ over all pairs, which `solve` attains; here its mean over problems.

        A pair contributes 1 if both values are visible, 0 if both are hidden, and |M − 2K|/M if one is visible and K of
        the M unseen values lie below it. K is uniform on 0 … M, so the mean is (h + 1)/(2h + 1) with h = ⌊M/2⌋.
        """
        size, seen = batch.y.shape[1], self.visible(batch.y.shape[1])
        half = (VALUES - seen) // 2
        best = (comb(seen, 2) + seen * (size - seen) * ((half + 1) / (2 * half + 1))) / comb(size, 2)
        return torch.full_like(batch.y[:, 0], best, dtype=torch.float64)

    def predictions(self, batch: Batch, generator: torch.Generator) -> Predictions:
        """Item scores [n, items] of trivial and classical methods."""
        n, items = batch.y.shape
        return {
            ("random scores", "trivial"): torch.rand(n, items, generator=generator, device=batch.y.device),
            ("input order", "trivial"): -torch.arange(items, device=batch.y.device).double().expand(n, items),
            ("value, hidden ones at the median", "classical"): PartialSort.solve(self, batch),
        }

    def reference_scores(self, n: int, *, generator: torch.Generator, harder: bool = False) -> pd.DataFrame:
        """Score `predictions` on n problems, beside the ceilings; none is known for tau_index, the published metric."""
        batch = self.sample(n, generator=generator, device=str(generator.device), harder=harder)
        scores = {
            reference: self.scores(y_hat, batch) | {"tau_index": index_space_tau(y_hat, batch.y)}
            for reference, y_hat in self.predictions(batch, generator).items()
        }
        ceilings = {"tau_obs": torch.ones(n), "tau_all": self.ceilings(batch)}
        known = {metric: best for metric, best in ceilings.items() if best is not None}
        return reference_table({**scores, ("best possible", "ceiling"): known})


class HintedSortOptions(RankingOptions):
    """Options of hinted sorting."""

    encoding: Literal["scaled"] = "scaled"
    hint_rate: Annotated[float, Field(gt=0, le=1)] = 1.0  # probability that a hidden item points at its predecessor
    hints: Literal["true", "shuffled"] = "true"  # shuffled: pointers follow a random order, unrelated to the ranks
    wrong_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0  # probability that a pointer leads to a wrong item
    code_width: Annotated[int, Field(ge=DISTINCT_BITS, le=1024)] = 16  # number of signs in an item's code


class HintedSort(PartialSort):
    """Partial-observation sorting in which hidden items point at their predecessor with probability `hint_rate`.

    x is [n, size, 3 + 2·code_width]: partial_sort's two columns, a flag (1 = points), the item's code, and the code of
    the item it points at (0 if none, as for the smallest). Codes are random signs, fresh and distinct in every problem.
    With probability `wrong_rate` a pointer leads to any item but its own and the predecessor; ceilings ignore these.
    """

    name = "hinted_sort"
    metric = "tau_all"
    options: HintedSortOptions
    options_class = HintedSortOptions

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.x_dim = 3 + 2 * self.options.code_width
        correct = self.options.hint_rate * (1 - self.options.wrong_rate) if self.options.hints == "true" else 0.0
        self.informed_rate = correct  # probability that a hidden item has a true pointer

    def encode(self, values: Items, ranks: Items, known: Visible, generator: torch.Generator) -> Batch:
        seed = torch.randint(2**62, (), generator=generator.clone_state(), device=ranks.device)  # generator unchanged
        return self.with_pointers(values, ranks, known, seeds.generator(int(seed), "hints", str(ranks.device)))

    def with_pointers(self, values: Items, ranks: Items, known: Visible, source: torch.Generator) -> Batch:
        """Add codes and pointers, drawn from `source`, to the problems."""
        options, (n, size), device = self.options, ranks.shape, ranks.device
        draws = seeds.RowDraws([source], device)
        points = draws.uniform((n, size)) < options.hint_rate
        numbers = draws.uniform((n, 2**DISTINCT_BITS)).argsort(dim=1)[:, :size]
        bits = (numbers.unsqueeze(-1) >> torch.arange(DISTINCT_BITS, device=device)) & 1
        more_bits = draws.integers(2, (n, size, options.code_width - DISTINCT_BITS))
        codes = 2.0 * torch.cat([bits, more_bits], dim=-1) - 1
        order = ranks
        if options.hints == "shuffled":  # a random order whose hidden items form runs of the same distribution
            visible = draws.uniform((n, size)).argsort(dim=1) < self.visible(size)
            places = visible.long().argsort(dim=1, descending=True)  # visible places first
            items = (draws.uniform((n, size)) + (~known)).argsort(dim=1)  # visible items first, in random order
            order = torch.empty_like(places).scatter_(1, items, places)
        targets = (order - 1).clamp(min=0)
        if options.wrong_rate > 0:
            wrong = draws.uniform((n, size)) < options.wrong_rate
            others = draws.integers(max(size - 2, 1), (n, size))
            others = torch.where(others < order - 1, others, others + 2)  # skips the predecessor and the item itself
            targets = torch.where(wrong, others.clamp(max=size - 1), targets)  # clamps for two items: neither points
        points = (points & ~known & (order > 0)).unsqueeze(-1)
        shown = codes.take_along_dim(order.argsort(dim=1).gather(1, targets).unsqueeze(-1), 1) * points
        x = super().encode(values, ranks, known, source).x
        return Batch(torch.cat([x, points.float(), codes, shown], dim=-1), ranks, known)

    def pointers(self, batch: Batch) -> Items:
        """The item that each item points at according to x, −1 if none."""
        codes, shown = batch.x[..., 3:].split(self.options.code_width, dim=-1)
        return torch.where(batch.x[..., 2] > 0, (shown @ codes.mT).argmax(dim=-1), -1)  # a code agrees best with itself

    def solve(self, batch: Batch, links: int | None = None) -> Tensor:
        """Scores from chains of pointers, optimal if hint_rate is 1; chains longer than `links` score the median."""
        pointers, median = self.pointers(batch), super().solve(batch)
        ends, lengths = follow(pointers, links)
        # with all pointers present, a chain that ends at a hidden item ends at the smallest of all
        starts = torch.where(batch.known, median, 1.0 - LOWEST) if self.options.hint_rate == 1 else median
        scores = starts.gather(1, ends) - lengths / (lengths.shape[1] + 1)
        return scores if links is None else torch.where(pointers.gather(1, ends) < 0, scores, median)

    def ceilings(self, batch: Batch) -> Float[Tensor, " n"] | None:
        """1 if every pointer is present and true, as in partial_sort if none is, else None, as it is unknown."""
        if self.informed_rate == 0:
            return super().ceilings(batch)
        return torch.ones(len(batch.y), dtype=torch.float64) if self.informed_rate == 1 else None

    def predictions(self, batch: Batch, generator: torch.Generator) -> Predictions:
        return {**super().predictions(batch, generator), ("chains of pointers", "classical"): self.solve(batch)}


def hash_keys(keys: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Well-mixed 63-bit hashes of integers: MurmurHash3's finaliser in int64, with logical shifts built from masks."""
    for factor in (-0x00AE502812AA7333, -0x3B314601E57A13AD):
        keys = (keys ^ (keys >> 33 & 0x7FFF_FFFF)) * factor
    return (keys ^ (keys >> 33 & 0x7FFF_FFFF)) & 0x7FFF_FFFF_FFFF_FFFF


def follow(pointers: Items, links: int | None = None) -> tuple[Items, Items]:
    """Follow each item's pointers, up to `links` of them or to the end; returns the last items and numbers of links."""
    places = torch.arange(pointers.shape[1], device=pointers.device).expand_as(pointers)
    lengths = torch.zeros_like(pointers)
    for _ in range(2 ** pointers.shape[1].bit_length() if links is None else links):  # enough for any chain
        targets = pointers.gather(1, places)
        places, lengths = torch.where(targets < 0, places, targets), lengths + (targets >= 0)
    return places, lengths
