"""The least memory that a network in training takes, from its sizes alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

COPIES = 5  # of the weights: themselves, their gradient, Adam's two moments and the EMA


def weight_bytes(make_network: Callable[[], nn.Module], kept: int = 0) -> int:
    """Bytes of one seed's weights in training, in float32, `kept` records of them included; nothing is allocated."""
    with torch.device("meta"):
        weights = sum(parameter.numel() for parameter in make_network().parameters())
    return 4 * (COPIES + kept) * weights
