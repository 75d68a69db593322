"""Energies of answers with a structure: relations between the nodes of a graph, and the cells of a Sudoku."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from anm_nb.config import ParameterError
from anm_nb.energy.networks import EnergyNetwork, Head, LevelEmbedding, energy_of, register_network, scale_and_bias
from anm_nb.energy.schedule import Levels, Points, Values
from anm_nb.tasks.base import DenoisingTask

GRIDS = {size**3: size for size in (4, 9)}  # rows, columns and digits by the number of one-hot entries
LEVEL_DIM = 64
Pairs = Float[Tensor, "b n n width"]


def node_count(pairs: int) -> int:
    """n for the n² ordered pairs of n nodes. Raises `ParameterError` for a number that is no square."""
    nodes = math.isqrt(pairs)
    if nodes**2 != pairs or not pairs:
        raise ParameterError(f"{pairs} entries: a graph of n nodes has n² ordered pairs, a square such as {12**2}")
    return nodes


class GraphLayer(nn.Module):
    """h_ij ↦ h_ij + swish(g_ij·(1 + gain_k) + bias_k) for vectors h_ij of ordered pairs, where

    g_ij = W₁h_ij + W₂h_ji + W₃ tanh(Σ_m (A h_im) ∘ (B h_mj)) + W₄ mean_m h_im + W₅ mean_m h_mj.

    The sum runs over the nodes m that may connect i with j; bounded, it finds whether there is one: one counts as much
    among 18 as among 12, where a mean would dilute it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own = nn.Linear(width, width)
        self.reverse = nn.Linear(width, width, bias=False)
        self.left = nn.Linear(width, width)
        self.right = nn.Linear(width, width)
        self.triangle = nn.Linear(width, width, bias=False)
        self.row = nn.Linear(width, width, bias=False)
        self.column = nn.Linear(width, width, bias=False)
        self.modulation = nn.Linear(LEVEL_DIM, 2 * width)

    def forward(self, h: Pairs, embedded: Tensor, k: Levels) -> Pairs:
        scale, bias = (each[:, None, None] for each in scale_and_bias(self.modulation, embedded, k))
        paths = self.left(h).permute(0, 3, 1, 2) @ self.right(h).permute(0, 3, 1, 2)
        g = self.own(h) + self.reverse(h).transpose(1, 2) + self.triangle(paths.tanh().permute(0, 2, 3, 1))
        g = g + self.row(h.mean(2)).unsqueeze(2) + self.column(h.mean(1)).unsqueeze(1)
        return h + F.silu(g * scale + bias)


@register_network
class GraphEnergy(EnergyNetwork):
    """An energy of x and ỹ, both one number for each ordered pair of n nodes, flattened; n is free at every call.

    Each pair starts from (x_ij, ỹ_ij, [i = j]); L `GraphLayer`s can join paths of 2ᴸ edges. One output a pair, summed
    by the head, so that scores keep their scale as n grows. Relabelling the nodes leaves the energy as it is. A network
    of the project's own: the published runs (IRED, arXiv 2406.11179, appendix A) used a neural logic machine.
    """

    name = "graph"

    def __init__(self, width: int = 32, head: Head = "squared_norm", levels: int = 10, layers: int = 3) -> None:
        super().__init__()
        self.head = head
        self.level = LevelEmbedding(levels, LEVEL_DIM)
        self.input = nn.Linear(3, width)
        self.layers = nn.ModuleList(GraphLayer(width) for _ in range(layers))
        self.output = nn.Linear(width, 1)

    @classmethod
    def for_task(cls, task: DenoisingTask, width: int, head: Head, levels: int) -> GraphEnergy:
        if task.x_dim != task.y_dim:
            needs = "needs as many entries in x as in y, one for each ordered pair of nodes"
            raise ParameterError(f"network 'graph': {needs}; this task has {task.x_dim} and {task.y_dim}")
        node_count(task.y_dim)
        return cls(width, head, levels)

    def forward(self, x: Points, y: Points, k: Levels) -> Values:
        nodes, embedded = node_count(y.shape[1]), self.level()
        diagonal = torch.eye(nodes, device=y.device, dtype=y.dtype).flatten().expand(len(y), -1)
        h = F.silu(self.input(torch.stack([x, y, diagonal], dim=2).unflatten(1, (nodes, nodes))))
        for layer in self.layers:
            h = layer(h, embedded, k)
        return energy_of(self.output(h), self.head)


class SudokuBlock(nn.Module):
    """h ↦ h + swish(C₂ swish(C₁h)·(1 + gain_k) + bias_k) with 5 × 5 convolutions C₁, C₂."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 5, padding=2)
        self.second = nn.Conv2d(width, width, 5, padding=2)
        self.modulation = nn.Linear(LEVEL_DIM, 2 * width)

    def forward(self, h: Float[Tensor, "b width n n"], embedded: Tensor, k: Levels) -> Float[Tensor, "b width n n"]:
        scale, bias = (each[:, :, None, None] for each in scale_and_bias(self.modulation, embedded, k))
        return h + F.silu(self.second(F.silu(self.first(h))) * scale + bias)


@register_network
class SudokuEnergy(EnergyNetwork):
    """IRED's energy of Sudoku (arXiv 2406.11179, appendix A), 44.6 million weights at its published width of 384.

    x and ỹ are one-hot grids, flattened cell by cell with the digit last. Stacked to 2·size channels, they pass a 3 × 3
    convolution with swish, six `SudokuBlock`s and a 1 × 1 convolution to `size` channels, or to one for `scalar`.
    """

    name = "sudoku_conv"

    def __init__(self, width: int = 384, head: Head = "squared_norm", levels: int = 10, size: int = 9) -> None:
        super().__init__()
        self.head, self.size = head, size
        self.level = LevelEmbedding(levels, LEVEL_DIM)
        self.input = nn.Conv2d(2 * size, width, 3, padding=1)
        self.blocks = nn.ModuleList(SudokuBlock(width) for _ in range(6))
        self.output = nn.Conv2d(width, size if head == "squared_norm" else 1, 1)

    @classmethod
    def for_task(cls, task: DenoisingTask, width: int, head: Head, levels: int) -> SudokuEnergy:
        if task.x_dim != task.y_dim or task.y_dim not in GRIDS:
            grids = " or ".join(f"{entries} ({size} × {size} cells × {size} digits)" for entries, size in GRIDS.items())
            has = f"this task has {task.x_dim} and {task.y_dim}"
            raise ParameterError(f"network 'sudoku_conv': needs as many entries in x as in y, {grids}; {has}")
        return cls(width, head, levels, GRIDS[task.y_dim])

    def forward(self, x: Points, y: Points, k: Levels) -> Values:
        embedded = self.level()
        grids = torch.cat([each.unflatten(1, 3 * [self.size]).permute(0, 3, 1, 2) for each in (x, y)], dim=1)
        h = F.silu(self.input(grids))
        for block in self.blocks:
            h = block(h, embedded, k)
        return energy_of(self.output(h), self.head)
