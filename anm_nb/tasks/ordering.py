"""Partial-observation sorting: a task whose answer is an order, with streams of problems that never overlap."""

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

# Fingerprints modulo 4: half of all problems train, a quarter each are for dev and test.
STREAMS: dict[Stream, tuple[int, ...]] = {"train": (0, 1), "dev": (2,), "test": (3,)}
MAX_ROUNDS = 100
LOWEST, VALUES = -100, 200  # the values that are sorted: −100 … 99
HIDDEN_RAW = -999.0  # what stands for a hidden value in the published encoding

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
        unseen = torch.ones(len(values), VALUES, dtype=torch.long, device=values.device)
        up_to = unseen.scatter_add_(1, (values - LOWEST), -batch.known.long()).cumsum(dim=1)
        count = up_to[:, -1:]
        middle = torch.cat([(count + 1) // 2, count // 2 + 1], dim=1)
        median = torch.searchsorted(up_to, middle).double().mean(dim=1, keepdim=True) + LOWEST
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


def hashed(keys: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Well-mixed 63-bit hashes of integers: the finaliser of MurmurHash3 in int64, its logical shifts written out."""
    for factor in (-0x00AE502812AA7333, -0x3B314601E57A13AD):
        keys = (keys ^ (keys >> 33 & 0x7FFF_FFFF)) * factor
    return (keys ^ (keys >> 33 & 0x7FFF_FFFF)) & 0x7FFF_FFFF_FFFF_FFFF
