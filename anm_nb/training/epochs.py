"""Epochs over a fixed training set: which examples a step takes, as a pure function of the seed and the step."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from anm_nb.training.seeds import generator


def batches_per_epoch(examples: int, batch: int) -> int:
    """Steps in which every example is taken once; the last batch may be smaller."""
    return math.ceil(examples / batch)


def batch_indices(examples: int, batch: int, step: int, seed: int, device: str = "cpu") -> Int[Tensor, " batch"]:
    """The examples of one step, each epoch in an order of its own.

    The order is derived afresh from the seed and the epoch, so a resumed training needs no state to continue in it.
    """
    epoch, position = divmod(step, batches_per_epoch(examples, batch))
    return _order(examples, epoch, seed, device)[position * batch : (position + 1) * batch]


@lru_cache(maxsize=64)
def _order(examples: int, epoch: int, seed: int, device: str) -> Int[Tensor, " examples"]:
    """The order of one epoch, kept for its steps, whatever the number of seeds that take them in turn."""
    return torch.randperm(examples, generator=generator(seed, f"order/{epoch}", device), device=device)
