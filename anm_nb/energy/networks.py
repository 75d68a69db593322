"""Energy networks E(x, ỹ, k) and their score ∇_ỹE."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

Head = Literal["squared_norm", "scalar"]


class LevelEmbedding(nn.Module):
    """Every noise level 0 … levels − 1 to a vector: sinusoids, then Linear, GELU, Linear."""

    sinusoids: Tensor

    def __init__(self, levels: int, dim: int = 128) -> None:
        super().__init__()
        half = dim // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half) / (half - 1))
        angles = torch.arange(levels).unsqueeze(1) * frequencies
        self.register_buffer("sinusoids", torch.cat([angles.sin(), angles.cos()], dim=1), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self) -> Float[Tensor, "levels dim"]:
        return self.mlp(self.sinusoids)


class FiLMLayer(nn.Module):
    """h ↦ swish((W h)·(1 + gain_k) + bias_k).

    Gains and biases are computed once for each level and looked up, not once for each example of the batch.
    """

    def __init__(self, width: int, level_dim: int = 128) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.modulation = nn.Linear(level_dim, 2 * width)

    def forward(
        self, h: Float[Tensor, "b width"], embedded: Float[Tensor, "levels dim"], k: Int[Tensor, " b"]
    ) -> Float[Tensor, "b width"]:
        gain, bias = F.embedding(k, self.modulation(embedded)).chunk(2, dim=1)
        return F.silu(self.linear(h) * (1 + gain) + bias)


class EnergyMLP(nn.Module):
    """The published energy of the continuous tasks (IRED, arXiv 2406.11179, appendix A).

    h = swish(W₁[x; ỹ]), two FiLM layers conditioned on k < levels, then the head: `squared_norm` (published) gives
    ‖W₄h‖² with W₄: width → y_dim; `scalar` gives w₄·h, unbounded below.
    """

    def __init__(
        self, x_dim: int, y_dim: int, width: int = 512, head: Head = "squared_norm", levels: int = 100
    ) -> None:
        super().__init__()
        self.head = head
        self.level = LevelEmbedding(levels)
        self.input = nn.Linear(x_dim + y_dim, width)
        self.first = FiLMLayer(width)
        self.second = FiLMLayer(width)
        self.output = nn.Linear(width, y_dim if head == "squared_norm" else 1)

    def forward(
        self, x: Float[Tensor, "b x_dim"], y: Float[Tensor, "b y_dim"], k: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Energies [batch] of noised targets y at levels k."""
        embedded = self.level()
        h = F.silu(self.input(torch.cat([x, y], dim=1)))
        h = self.second(self.first(h, embedded, k), embedded, k)
        out = self.output(h)
        out = out.to(torch.promote_types(out.dtype, torch.float32))  # margins are small differences of large energies
        return out.square().sum(1) if self.head == "squared_norm" else out.squeeze(1)


def score_and_energy(
    energy: nn.Module, x: Float[Tensor, "b x_dim"], y: Float[Tensor, "b y_dim"], k: Int[Tensor, " b"]
) -> tuple[Float[Tensor, "b y_dim"], Float[Tensor, " b"]]:
    """∇_ỹE and E from one evaluation; both differentiable by the network's weights."""
    return gradient_and_value(lambda point: energy(x, point, k), y)


def gradient_and_value(
    function: Callable[[Tensor], Tensor], y: Float[Tensor, "b d"]
) -> tuple[Float[Tensor, "b d"], Float[Tensor, " b"]]:
    """Gradient [b, d] and values [b] of a function of each row of y, where rows do not see one another."""

    def summed(point: Tensor) -> tuple[Tensor, Tensor]:
        values = function(point)
        return values.sum(), values

    return torch.func.grad(summed, has_aux=True)(y.as_subclass(Tensor))
