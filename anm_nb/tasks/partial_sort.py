"""Partial-observation sorting: order distinct integers of which only some are visible (the HRM document's task)."""

from __future__ import annotations

from math import comb
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anm_nb.config import ParameterError
from anm_nb.tasks.base import Batch, Kind, reference_table
from anm_nb.tasks.kendall import index_space_tau
from anm_nb.tasks.ranked import RankingTask, hashed

LOWEST, VALUES = -100, 200  # values are −100 … 99
HIDDEN_RAW = -999.0  # what stands for a hidden value in the published encoding


class PartialSort(RankingTask):
    """`size` distinct integers in random order, max(2, int(size·(1 − mask_rate))) visible; y ranks all, smallest first.

    x is [n, size, 2]: the value scaled to [−1, 1] (0 where hidden) and a flag (1 = hidden); with `encoding="raw"` it is
    [n, size, 1] as published. `harder` doubles the number of items.
    """

    name = "partial_sort"
    ceiling_name = "best possible"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.x_dim = 2 if self.options.encoding == "scaled" else 1
        self._require_items(self.options.size)

    def visible(self, size: int) -> int:
        """How many of `size` values are visible."""
        return max(2, int(size * (1 - self.options.mask_rate)))

    def draw(self, n: int, *, generator: torch.Generator, device: str, harder: bool) -> Batch:
        """n arrays."""
        values, known = self._draw_values(n, generator=generator, device=device, harder=harder)
        return Batch(self._encoded(values, known), ranks_of(values), known)

    def values(self, batch: Batch) -> Int[Tensor, "n items"]:
        """The visible integers of a batch; 0 in the places of hidden ones."""
        seen = batch.x[..., 0]
        if self.options.encoding == "scaled":
            seen = seen * (VALUES - 1) / 2 - 0.5
        return torch.where(known_items(batch), seen.round().long(), 0)

    def fingerprint(self, batch: Batch) -> Int[Tensor, " n"]:
        """A hash of the set of visible values, so that not even a re-ordered or re-hidden array leaves its stream."""
        return hashed((hashed(self.values(batch)) * known_items(batch)).sum(dim=1))

    def solve(self, batch: Batch) -> Float[Tensor, "n items"]:
        """The best possible scores: visible values, and for hidden ones the median of the values not seen.

        A hidden value is equally likely to be any that is not seen, so no order agrees better with it in expectation.
        """
        known, values = known_items(batch), self.values(batch)
        unseen = torch.ones(len(values), VALUES, dtype=torch.long, device=values.device)
        unseen.scatter_add_(1, (values - LOWEST), -known.long())
        up_to = unseen.cumsum(dim=1)
        count = up_to[:, -1:]
        middle = torch.cat([(count + 1) // 2, count // 2 + 1], dim=1)
        median = torch.searchsorted(up_to, middle).double().mean(dim=1, keepdim=True) + LOWEST
        return -torch.where(known, values.double(), median)

    def all_pairs_ceiling(self, *, harder: bool = False) -> float:
        """The highest expected τ over all pairs, exact for any size and mask rate.

        Two visible values: 1. Two hidden ones: 0, as they cannot be told apart. A visible value v against a hidden one:
        of the M = 200 − visible values not seen, K lie below v, and the better guess agrees |M − 2K|/M in expectation.
        Given the other visible values, v is equally likely to stand in any of the M + 1 gaps, so K is uniform on 0 … M
        and the mean is (M + 2)/(2(M + 1)) for even M, (M + 1)/(2M) for odd. `solve` attains all of these at once.
        """
        size = self.options.size * (2 if harder else 1)
        seen = self.visible(size)
        unseen = VALUES - seen
        hidden = size - seen
        mixed = (unseen + 2) / (2 * (unseen + 1)) if unseen % 2 == 0 else (unseen + 1) / (2 * unseen)
        return (comb(seen, 2) + seen * hidden * mixed) / comb(size, 2)

    def reference_scores(self, n: int, *, generator: torch.Generator, harder: bool = False) -> pd.DataFrame:
        """Random scores, the input's order, the best possible ranking measured on n arrays, and the exact ceilings.

        `tau_index` (the published, index-space τ) has no ceiling row: no order is known to be best in it. What the
        best ranking scores there stands in its row.
        """
        batch = self.sample(n, generator=generator, device=str(generator.device), harder=harder)
        measured = {
            reference: self.scores(scores, batch) | {"tau_index": index_space_tau(scores, batch.y)}
            for reference, scores in self._predictions(batch, generator).items()
        }
        rows = [(self.ceiling_name, "ceiling", metric, *row) for metric, row in self._ceilings(batch, harder).items()]
        table = reference_table(measured)
        return pd.concat([table, pd.DataFrame(rows, columns=table.columns)], ignore_index=True)

    def _predictions(self, batch: Batch, generator: torch.Generator) -> dict[tuple[str, Kind], Tensor]:
        """Reference scores of a batch's items, by name and kind."""
        n, items = batch.y.shape
        return {
            ("random scores", "trivial"): torch.rand(n, items, generator=generator, device=batch.y.device),
            ("input order", "trivial"): -torch.arange(items, device=batch.y.device).double().expand(n, items),
            ("value, hidden ones at the median", "classical"): self.solve(batch),
        }

    def _ceilings(self, batch: Batch, harder: bool) -> dict[str, tuple[float, float, float]]:
        """The best possible value of a metric and its interval, which is the value itself where that is exact."""
        ceilings = {"tau_obs": 1.0, "tau_all": self.all_pairs_ceiling(harder=harder)}
        return {metric: (value, value, value) for metric, value in ceilings.items()}

    def _draw_values(
        self, n: int, *, generator: torch.Generator, device: str, harder: bool
    ) -> tuple[Int[Tensor, "n items"], Bool[Tensor, "n items"]]:
        """Distinct values in random order, and which of them are visible."""
        size = self.options.size * (2 if harder else 1)
        self._require_items(size)
        order = torch.rand(n, VALUES, generator=generator, device=device).argsort(dim=1)
        turns = torch.rand(n, size, generator=generator, device=device).argsort(dim=1)
        return order[:, :size] + LOWEST, turns < self.visible(size)

    def _encoded(self, values: Int[Tensor, "n items"], known: Bool[Tensor, "n items"]) -> Tensor:
        if self.options.encoding == "raw":
            return torch.where(known, values.float(), HIDDEN_RAW).unsqueeze(-1)
        scaled = (values.float() + 0.5) * (2 / (VALUES - 1))
        return torch.stack([torch.where(known, scaled, 0.0), (~known).float()], dim=-1)

    def _require_items(self, size: int) -> None:
        """Raise `ParameterError` for a number of items that arrays cannot have."""
        if size > VALUES:
            raise ParameterError(f"size = {size}: there are only {VALUES} distinct values, so at most {VALUES}")


def known_items(batch: Batch) -> Bool[Tensor, "n items"]:
    """Which items of a batch are visible."""
    assert batch.known is not None
    return batch.known


def ranks_of(values: Int[Tensor, "n items"]) -> Int[Tensor, "n items"]:
    """The rank of every item: 0 for the smallest value."""
    return values.argsort(dim=1).argsort(dim=1)
