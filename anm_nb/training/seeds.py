"""Randomness: one explicit generator per seed and purpose, so that changing one use does not affect the others."""

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import torch
from jaxtyping import Int
from torch import Tensor, nn


def generator(seed: int, purpose: str, device: str = "cpu") -> torch.Generator:
    """Make a generator for one purpose ("data", "noise", "negatives", …) of a run seed, with its own 63-bit seed."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def batch_indices(examples: int, batch: int, step: int, seed: int, device: str = "cpu") -> Int[Tensor, " batch"]:
    """Indices of the examples in a step. Seed and epoch determine the order, so resuming needs no stored state."""
    epoch, position = divmod(step, math.ceil(examples / batch))
    return _order(examples, epoch, seed, device)[position * batch : (position + 1) * batch]


@lru_cache(maxsize=512)  # a stack uses the orders of all its seeds in every step
def _order(examples: int, epoch: int, seed: int, device: str) -> Int[Tensor, " examples"]:
    return torch.randperm(examples, generator=generator(seed, f"order/{epoch}", device), device=device)


@torch.no_grad()
def initialise(module: nn.Module, source: torch.Generator) -> None:
    """Draw weights by torch's rules, U(±1/√fan_in), or N(0, 1) for embeddings; `TypeError` for layers without one."""
    for layer in module.modules():
        parameters = list(layer.parameters(recurse=False))
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = layer.weight[0].numel() ** -0.5
            for parameter in parameters:
                draw = torch.rand(parameter.shape, generator=source, device=source.device)
                parameter.copy_(draw.mul_(2 * bound).sub_(bound))
        elif isinstance(layer, nn.Embedding):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=source, device=source.device))
        elif parameters and not isinstance(layer, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
            raise TypeError(f"{type(layer).__name__}: there is no rule to draw its parameters from a generator")


class RowDraws:
    """Random rows [S·b, …], seed after seed, each from its own generator; one seed alone gets exactly torch's draws."""

    def __init__(self, generators: Sequence[torch.Generator], device: str | torch.device) -> None:
        self.generators, self.device = tuple(generators), device

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal."""
        return self._blocks(torch.randn, shape)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Uniform on [0, 1)."""
        return self._blocks(torch.rand, shape)

    def integers(self, high: int, shape: Sequence[int]) -> Tensor:
        """Integers 0 … high − 1."""
        return self._blocks(partial(torch.randint, high), shape)

    def _blocks(self, draw: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        rows, rest = divmod(shape[0], len(self.generators))
        if rest:
            raise ValueError(f"{shape[0]} rows: must be a multiple of the {len(self.generators)} seeds")
        drawn = [draw((rows, *shape[1:]), generator=source, device=self.device) for source in self.generators]
        return drawn[0] if len(drawn) == 1 else torch.cat(drawn)
