"""Tasks whose answer is an order: streams of problems that never overlap, and Kendall's τ as the metric."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from anm_nb.config import ParameterError
from anm_nb.tasks.base import Batch, Stream, Task, TaskOptions
from anm_nb.tasks.kendall import kendall_tau

# Fingerprints modulo 4: half of all problems train, a quarter each are for dev and test.
STREAMS: dict[Stream, tuple[int, ...]] = {"train": (0, 1), "dev": (2,), "test": (3,)}
MAX_ROUNDS = 100


class RankingOptions(TaskOptions):
    """Options of every ranking task; `size` is the number of items."""

    size: Annotated[int, Field(ge=2)] = 20
    mask_rate: Annotated[float, Field(ge=0, lt=1)] = 0.5  # fraction of items whose value is hidden
    encoding: Literal["scaled", "raw"] = "scaled"  # raw: as published, values as they are and −999 for hidden ones


class RankingTask(Task):
    """Items to put in order. x is [n, items, features]; y holds ranks (0 = first); `known` marks the visible items.

    Every problem belongs to one stream for good, by its fingerprint: whatever seeds and generators are used, no problem
    drawn from one stream turns up in another.
    """

    metric: ClassVar[str] = "tau_obs"
    options: RankingOptions
    options_class: ClassVar[type[TaskOptions]] = RankingOptions

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.y_dim = self.options.size

    @abstractmethod
    def draw(self, n: int, *, generator: torch.Generator, device: str, harder: bool) -> Batch:
        """n fresh problems, of any stream."""

    @abstractmethod
    def fingerprint(self, batch: Batch) -> Int[Tensor, " n"]:
        """A hash of each problem that does not depend on the order in which its items are given."""

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator,
        device: str = "cpu",
        harder: bool = False,
        stream: Stream | None = None,
    ) -> Batch:
        """n fresh problems, from one stream where it is named.

        Raises `ParameterError` where a task has too few distinct problems for that.
        """
        if stream is None:
            return self.draw(n, generator=generator, device=device, harder=harder)
        buckets = torch.tensor(STREAMS[stream], device=device)
        kept: list[Batch] = []
        for _ in range(MAX_ROUNDS):
            batch = self.draw(4 * n, generator=generator, device=device, harder=harder)
            kept.append(_rows(batch, torch.isin(self.fingerprint(batch) % 4, buckets)))
            if sum(len(part.x) for part in kept) >= n:
                return _first(kept, n)
        raise ParameterError(f"{self.name}: too few distinct problems at {self.options} to keep streams apart")

    def scores(self, y_hat: Tensor, batch: Batch) -> dict[str, Float[Tensor, " n"]]:
        """{"tau_obs", "tau_all"}: τ of scores y_hat over observed and over all pairs."""
        return {"tau_obs": kendall_tau(y_hat, batch.y, batch.known), "tau_all": kendall_tau(y_hat, batch.y)}


def permutation(ranks: Int[Tensor, "*n items"]) -> Int[Tensor, "*n items"]:
    """Which item stands at each rank: the inverse of ranks, and, as they are integers, of itself."""
    return ranks.argsort(dim=-1)


def hashed(keys: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Well-mixed 63-bit hashes of integers: the finaliser of MurmurHash3 in int64, its logical shifts written out."""
    keys = (keys ^ _shifted(keys)) * -0x00AE502812AA7333
    keys = (keys ^ _shifted(keys)) * -0x3B314601E57A13AD
    return (keys ^ _shifted(keys)) & 0x7FFF_FFFF_FFFF_FFFF


def _shifted(keys: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    return (keys >> 33) & 0x7FFF_FFFF


def _rows(batch: Batch, rows: Tensor) -> Batch:
    return Batch(batch.x[rows], batch.y[rows], None if batch.known is None else batch.known[rows])


def _first(parts: list[Batch], n: int) -> Batch:
    """The first n problems of the parts, in order."""
    known = [part.known for part in parts if part.known is not None]
    return Batch(
        torch.cat([part.x for part in parts])[:n],
        torch.cat([part.y for part in parts])[:n],
        torch.cat(known)[:n] if known else None,
    )
