"""What a workload is: the same work done by the package and by a plain reference, from equal states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Pair(Protocol):
    """One piece of work in two ways. Both start from equal weights and draw from equal generators.

    So the n-th call of one returns what the n-th call of the other does, to rounding, whatever calls lie between.
    """

    def ours(self) -> Mapping[str, Tensor]:
        """Do it once by the package; what came out, by name."""

    def plain(self) -> Mapping[str, Tensor]:
        """Do it once by the plain reference; what came out, by the same names."""


MakePair = Callable[[str, bool], Pair]  # (device, tiny) to a pair at the size that is reported, or at a tiny one
