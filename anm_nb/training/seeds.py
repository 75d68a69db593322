"""Randomness: one explicit generator for each seed and purpose, so that changing one use leaves the others alone."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def derived_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose ("data", "noise", "negatives", …) of one run seed."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, device: str = "cpu") -> torch.Generator:
    """A generator on `device` for one purpose of one run seed."""
    return torch.Generator(device=device).manual_seed(derived_seed(seed, purpose))


@torch.no_grad()
def initialise(module: nn.Module, source: torch.Generator) -> None:
    """Draw every linear and convolutional layer's weights from `source` by torch's own rule, U(±1/√fan_in).

    torch's constructors draw from the global generator; this makes a network a pure function of its seed.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = layer.weight[0].numel() ** -0.5
            for parameter in layer.parameters(recurse=False):
                draw = torch.rand(parameter.shape, generator=source, device=source.device)
                parameter.copy_(draw.mul_(2 * bound).sub_(bound))
