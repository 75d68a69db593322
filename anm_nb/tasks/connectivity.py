"""Graph connectivity: which nodes can be reached from which (IRED, arXiv 2406.11179, section 4.2)."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from anm_nb.tasks.base import Batch, DenoisingTask, Predictions, Scores, TaskOptions
from anm_nb.training.seeds import RowDraws

FLIPPED = 0.05  # of the entries of a stock negative


class ConnectivityOptions(TaskOptions):
    """Options of the connectivity task; `size` is the number of nodes."""

    size: Annotated[int, Field(ge=2)] = 12
    edge_probability: Annotated[float, Field(gt=0, lt=1)] = 0.2


class Connectivity(DenoisingTask):
    """Undirected graphs of `size` nodes in which each pair is joined with `edge_probability`, independently.

    x [n, nodes²]: adjacency, 1 for an edge, −1 for none and on the diagonal; y [n, nodes²]: 1 where a path leads from
    one node to the other, as to itself, −1 elsewhere. `harder` has ⌈3·size/2⌉ nodes; `x_dim` is that of `size`.
    """

    name = "connectivity"
    network = "graph"
    metric = "balanced_accuracy"
    contrastive_weight = 0.05
    sample_clamp = 1.0
    classes = 1  # every entry is a decision of its own, a sign
    options: ConnectivityOptions
    options_class = ConnectivityOptions

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.x_dim = self.y_dim = self.options.size**2

    def sample(self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False) -> Batch:
        nodes = (3 * self.options.size + 1) // 2 if harder else self.options.size
        draws = torch.rand(n, nodes, nodes, generator=generator, device=device)
        above = (draws < self.options.edge_probability).triu(diagonal=1)
        x = _signs(above | above.mT)
        return Batch(x, self.solve(x))

    def corrupt(self, y: Tensor, settle: Callable[[], Tensor], draws: RowDraws) -> Tensor:
        """Each entry flipped with probability 0.05; the public code, whose randint(0, 1) is always 0, only to −1."""
        return torch.where(draws.uniform(y.shape) < FLIPPED, -y, y)

    def scores(self, y_hat: Tensor, batch: Batch) -> Scores:
        """{"accuracy", "balanced_accuracy"} of the answers y_hat > 0, over ordered pairs of different nodes.

        Balanced accuracy is (TPR + TNR)/2 over all pairs of the batch, as a connected graph has no negatives, or the
        rate of the only class there is. Single graphs have the parts whose mean it is, with its error by the delta
        method: for a rate r = Σ rightᵢ/Σ countᵢ these are r + (rightᵢ − r·countᵢ)/mean(count).
        """
        pairs = ~torch.eye(isqrt(batch.y.shape[1]), dtype=torch.bool, device=batch.y.device).flatten()
        truth = (batch.y > 0)[:, pairs]
        right = truth == (y_hat > 0)[:, pairs]
        parts = []
        for of_class in (truth, ~truth):
            hits, count = (right & of_class).sum(1).double(), of_class.sum(1).double()
            rate = hits.sum() / count.sum()
            parts.append(rate + (hits - rate * count) / count.mean())
        return {"accuracy": right.double().mean(1), "balanced_accuracy": torch.stack(parts).nanmean(0)}

    def references(self, training: Batch, test: Batch) -> Predictions:
        """The more frequent answer of the training set for all pairs, the edges themselves, a search, and the truth."""
        frequent = (training.y.sum(1) - self.options.size).sum().sign()  # without the diagonal, always reached
        return {
            ("majority", "trivial"): frequent.expand_as(test.y),
            ("copy the edges", "trivial"): test.x,
            ("breadth-first search", "classical"): self.solve(test.x),
            ("truth", "ceiling"): test.y,
        }

    def solve(self, x: Float[Tensor, "n nodes_squared"]) -> Float[Tensor, "n nodes_squared"]:
        """Reachability by breadth-first search from all nodes of all graphs at once; any number of nodes."""
        nodes = isqrt(x.shape[1])
        edges = (x > 0).float().unflatten(1, (nodes, nodes))
        reached = frontier = torch.eye(nodes, dtype=torch.bool, device=x.device).repeat(len(x), 1, 1)
        while frontier.any():
            frontier = (frontier.float() @ edges > 0) & ~reached
            reached = reached | frontier
        return _signs(reached)


def _signs(flags: Bool[Tensor, "n nodes nodes"]) -> Float[Tensor, "n nodes_squared"]:
    """±1 for true and false, flattened."""
    return flags.flatten(1).float() * 2 - 1
