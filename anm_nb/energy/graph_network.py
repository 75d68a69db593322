"""An energy of pairs of nodes, for tasks that map a graph to a relation between its nodes, whatever their number."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from anm_nb.config import ParameterError
from anm_nb.energy.networks import EnergyNetwork, Head, LevelEmbedding, energy_of, gain_and_bias, register_network
from anm_nb.tasks.base import DenoisingTask


def node_count(pairs: int) -> int:
    """n for the n² ordered pairs of n nodes. Raises `ParameterError` for a number that is no square."""
    nodes = math.isqrt(pairs)
    if nodes**2 != pairs or not pairs:
        raise ParameterError(f"{pairs} entries: a graph of n nodes has n² ordered pairs, a square such as {12**2}")
    return nodes


class GraphLayer(nn.Module):
    """h_ij ↦ h_ij + swish(g_ij·(1 + gain_k) + bias_k) for vectors h_ij of ordered pairs, where

    g_ij = W₁h_ij + W₂h_ji + W₃ tanh(Σ_m (A h_im) ∘ (B h_mj)) + W₄ mean_m h_im + W₅ mean_m h_mj.

    The sum runs over the nodes m that may connect i with j. It is a sum with a bound, not a mean, because what it has
    to find is whether there is such a node: one counts as much among 18 nodes as among 12, where a mean would dilute
    it, and many count little more than one, so that sums over more nodes stay in range.
    """

    def __init__(self, width: int, level_dim: int) -> None:
        super().__init__()
        self.own = nn.Linear(width, width)
        self.reverse = nn.Linear(width, width, bias=False)
        self.left = nn.Linear(width, width)
        self.right = nn.Linear(width, width)
        self.triangle = nn.Linear(width, width, bias=False)
        self.row = nn.Linear(width, width, bias=False)
        self.column = nn.Linear(width, width, bias=False)
        self.modulation = nn.Linear(level_dim, 2 * width)

    def forward(
        self, h: Float[Tensor, "b n n width"], embedded: Float[Tensor, "levels dim"], k: Int[Tensor, " b"]
    ) -> Float[Tensor, "b n n width"]:
        gain, bias = (each[:, None, None] for each in gain_and_bias(self.modulation, embedded, k))
        paths = self.left(h).permute(0, 3, 1, 2) @ self.right(h).permute(0, 3, 1, 2)
        g = self.own(h) + self.reverse(h).transpose(1, 2) + self.triangle(paths.tanh().permute(0, 2, 3, 1))
        g = g + self.row(h.mean(2)).unsqueeze(2) + self.column(h.mean(1)).unsqueeze(1)
        return h + F.silu(g * (1 + gain) + bias)


@register_network
class GraphEnergy(EnergyNetwork):
    """An energy of x and ỹ, both one number for each ordered pair of n nodes, flattened; n is free at every call.

    Each pair starts from (x_ij, ỹ_ij, [i = j]); `GraphLayer`s then let it see all pairs that share a node with it, so
    that L layers can join paths of 2ᴸ edges. One output a pair; `squared_norm` sums their squares, `scalar` sums them,
    unbounded below. A sum over pairs, as the energy that denoising asks for is one over entries: scores keep their
    scale as n grows. Relabelling the nodes leaves the energy as it is.

    This is a network of the project's own. The published runs (IRED, arXiv 2406.11179, appendix A) used a neural logic
    machine of breadth 3 with 32 channels, which carries vectors of ordered triples too.
    """

    name = "graph"

    def __init__(self, width: int = 32, head: Head = "squared_norm", levels: int = 10, layers: int = 3) -> None:
        super().__init__()
        level_dim = 64
        self.head = head
        self.level = LevelEmbedding(levels, level_dim)
        self.input = nn.Linear(3, width)
        self.layers = nn.ModuleList(GraphLayer(width, level_dim) for _ in range(layers))
        self.output = nn.Linear(width, 1)

    @classmethod
    def for_task(cls, task: DenoisingTask, width: int, head: Head, levels: int) -> GraphEnergy:
        """Suits tasks with a number for each pair of nodes in x and in y; `ParameterError` for any other."""
        if task.x_dim != task.y_dim:
            raise ParameterError(
                f"network 'graph': needs as many entries in x as in y, one for each ordered pair of nodes; "
                f"this task has {task.x_dim} and {task.y_dim}"
            )
        node_count(task.y_dim)
        return cls(width, head, levels)

    def forward(
        self, x: Float[Tensor, "b pairs"], y: Float[Tensor, "b pairs"], k: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Energies [batch] of noised relations y at levels k. Raises `ParameterError` unless `pairs` is a square."""
        nodes = node_count(y.shape[1])
        embedded = self.level()
        diagonal = torch.eye(nodes, device=y.device, dtype=y.dtype).flatten().expand(len(y), -1)
        features = torch.stack([x, y, diagonal], dim=2).unflatten(1, (nodes, nodes))
        h = F.silu(self.input(features))
        for layer in self.layers:
            h = layer(h, embedded, k)
        return energy_of(self.output(h), self.head)
