"""Floating-point operations as torch counts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch.utils.flop_counter import FlopCounterMode


class _NoModules:
    """Stands in for the counter's module tracker, whose hooks refuse `torch.func`'s gradients."""

    parents = frozenset({"Global"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class _FlopCounter(FlopCounterMode):
    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker: Any = _NoModules()


def counted_flops(work: Callable[[], object]) -> int:
    """Operations of matrix products, convolutions and attention in a piece of work; a multiply-add counts 2.

    Elementwise work, reductions and factorisations count nothing. Attention is counted as its two products.
    """
    with _FlopCounter() as counter:
        work()
    return counter.get_total_flops()
