"""Routing over attention heads: the HRM controller, measures of what it does, and the document's healthy bands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn


class ControllerState(NamedTuple):
    """The two timescales of a controller, one state for each token, or one for the sequence; of size 0 where absent."""

    fast: Float[Tensor, "batch tokens state"]
    slow: Float[Tensor, "batch tokens slow_state"]


class GatedCell(nn.Module):
    """A gated recurrent unit (Cho et al., 2014) in torch's convention, its arithmetic written out.

    `nn.GRUCell` takes a slow path under vmap.
    """

    def __init__(self, inputs: int, state: int) -> None:
        super().__init__()
        self.input = nn.Linear(inputs, 3 * state)
        self.recurrent = nn.Linear(state, 3 * state)

    def forward(self, x: Float[Tensor, "*n inputs"], h: Float[Tensor, "*n state"]) -> Float[Tensor, "*n state"]:
        reset_x, update_x, new_x = self.input(x).chunk(3, dim=-1)
        reset_h, update_h, new_h = self.recurrent(h).chunk(3, dim=-1)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        return new + torch.sigmoid(update_x + update_h) * (h - new)  # lerp would refuse mixed precision


class Controller(nn.Module):
    """Routing weights α from a fast state, updated every iteration, and a slow one, updated every `period` iterations.

    α = softmax(logits/temperature) over heads, over the `top_k` largest only where that is given. With
    `per_sequence` the controller reads the mean over tokens and routes all of them alike. Without a `slow_state` there
    is one timescale: the fast cell reads the token only, and logits come from its state alone.
    """

    temperature: Tensor

    def __init__(
        self,
        width: int,
        n_heads: int,
        state: int,
        period: int,
        top_k: int | None,
        per_sequence: bool,
        slow_state: bool = True,
    ) -> None:
        super().__init__()
        self.state, self.period, self.top_k, self.per_sequence = state, period, top_k, per_sequence
        self.slow_size = state if slow_state else 0
        self.fast = GatedCell(width + self.slow_size, state)
        self.slow = GatedCell(state, state) if slow_state else None
        self.logits = nn.Linear(state + self.slow_size, n_heads)
        self.register_buffer("temperature", torch.tensor(1.0))

    def start(self, z: Float[Tensor, "batch tokens width"]) -> ControllerState:
        """Zero states for tokens like z."""
        tokens = 1 if self.per_sequence else z.shape[1]
        return ControllerState(*(z.new_zeros(z.shape[0], tokens, size) for size in (self.state, self.slow_size)))

    def forward(
        self, z: Float[Tensor, "batch tokens width"], state: ControllerState, iteration: int
    ) -> tuple[Float[Tensor, "batch tokens heads"], ControllerState]:
        """α of this iteration (0 = first) for tokens z, and the states after it."""
        seen = z.mean(dim=1, keepdim=True) if self.per_sequence else z
        fast = self.fast(torch.cat([seen, state.slow], dim=-1), state.fast)
        slow = state.slow
        if self.slow is not None and (iteration + 1) % self.period == 0:
            slow = self.slow(fast, slow)
        logits = self.logits(torch.cat([fast, slow], dim=-1)) / self.temperature
        if self.top_k is not None:
            chosen = torch.zeros_like(logits, dtype=torch.bool)
            chosen = chosen.scatter(-1, logits.topk(self.top_k, dim=-1).indices, True)
            logits = logits.masked_fill(~chosen, -torch.inf)
        alpha = logits.softmax(dim=-1)
        return alpha.expand(-1, z.shape[1], -1), ControllerState(fast, slow)


class RandomRouting(nn.Module):
    """Routing weights that nothing is behind: drawn once, a row for each iteration, the same for all tokens and inputs.

    α of an iteration is the softmax of standard normal logits: with 4 heads an entropy of 1.1 nats and a largest α of
    0.5 on average, in the document's healthy bands. So it is as uneven as routing is meant to be, and what differs from
    a controller is how α comes about. One row for all iterations would be the model without a controller, as it only
    scales columns of the block's output layer; a row each is a block that differs between iterations by its heads'
    weights. After the last row comes the first one again.
    """

    def __init__(self, n_heads: int, iterations: int) -> None:
        super().__init__()
        self.logits = nn.Embedding(iterations, n_heads)

    def start(self, z: Float[Tensor, "batch tokens width"]) -> ControllerState:
        """Empty states, as there is nothing to remember."""
        nothing = z.new_zeros(z.shape[0], 1, 0)
        return ControllerState(nothing, nothing)

    def forward(
        self, z: Float[Tensor, "batch tokens width"], state: ControllerState, iteration: int
    ) -> tuple[Float[Tensor, "batch tokens heads"], ControllerState]:
        """α of this iteration (0 = first), and the empty states."""
        alpha = self.logits.weight[iteration % self.logits.num_embeddings].softmax(dim=-1)
        return alpha.expand(z.shape[0], z.shape[1], -1), state


def routing_entropy(alphas: Float[Tensor, "*n heads"]) -> Float[Tensor, "*n"]:
    """−Σ α ln α in nats: 0 on one head, ln(heads) when uniform."""
    return -(alphas * alphas.clamp_min(1e-12).log()).sum(-1)


def herfindahl(alphas: Float[Tensor, "*n heads"]) -> Float[Tensor, "*n"]:
    """Σ α²: 1 on one head, 1/heads when uniform."""
    return alphas.square().sum(-1)


# The document's healthy bands, as open intervals ("Validation checks", 3).
BANDS = {"entropy": (0.5, 2.0), "herfindahl": (float("-inf"), 0.5), "max_alpha": (0.3, 0.6)}


def check_bands(measured: Mapping[str, float]) -> pd.DataFrame:
    """Whether mean entropy, Herfindahl index and largest α lie in the document's bands: a report, never an exception.

    `measured` maps those three names to numbers (a row of a run's metrics will do). Columns: quantity, value, low,
    high, inside; a quantity that is missing or not a number is not inside.
    """
    rows = []
    for quantity, (low, high) in BANDS.items():
        value = float(measured.get(quantity, float("nan")))
        rows.append((quantity, value, low, high, low < value < high))
    return pd.DataFrame(rows, columns=["quantity", "value", "low", "high", "inside"])
