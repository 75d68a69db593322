"""Routing over attention heads: the HRM controller, random routing, and measures of what they do."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

Tokens = Float[Tensor, "batch tokens width"]
Alphas = Float[Tensor, "batch tokens heads"]


class ControllerState(NamedTuple):
    """The two timescales of a controller, one state for each token, or one for the sequence; of size 0 where absent."""

    fast: Float[Tensor, "batch tokens state"]
    slow: Float[Tensor, "batch tokens slow_state"]


class GatedCell(nn.Module):
    """A gated recurrent unit (Cho et al., 2014), written out as `nn.GRUCell` takes a slow path under vmap."""

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

    α = softmax(logits/temperature) over heads. With `per_sequence` the controller reads the mean over tokens and routes
    all of them alike. Without a `slow_state` there is one timescale: the fast cell reads the token only, and logits
    come from its state alone.
    """

    temperature: Tensor

    def __init__(
        self, width: int, n_heads: int, state: int, period: int, per_sequence: bool, slow_state: bool = True
    ) -> None:
        super().__init__()
        self.state, self.period, self.per_sequence = state, period, per_sequence
        self.slow_size = state if slow_state else 0
        self.fast = GatedCell(width + self.slow_size, state)
        self.slow = GatedCell(state, state) if slow_state else None
        self.logits = nn.Linear(state + self.slow_size, n_heads)
        self.register_buffer("temperature", torch.tensor(1.0))

    def start(self, z: Tokens) -> ControllerState:
        """Zero states for tokens like z."""
        tokens = 1 if self.per_sequence else z.shape[1]
        return ControllerState(*(z.new_zeros(len(z), tokens, size) for size in (self.state, self.slow_size)))

    def forward(self, z: Tokens, state: ControllerState, iteration: int) -> tuple[Alphas, ControllerState]:
        """α of this iteration (0 = first) for tokens z, and the states after it."""
        seen = z.mean(dim=1, keepdim=True) if self.per_sequence else z
        fast, slow = self.fast(torch.cat([seen, state.slow], dim=-1), state.fast), state.slow
        if self.slow is not None and (iteration + 1) % self.period == 0:
            slow = self.slow(fast, slow)
        alpha = (self.logits(torch.cat([fast, slow], dim=-1)) / self.temperature).softmax(dim=-1)
        return alpha.expand(-1, z.shape[1], -1), ControllerState(fast, slow)


class RandomRouting(nn.Module):
    """Routing weights drawn once: softmax of normal logits, a row for each iteration, alike for all tokens.

    With 4 heads entropy is 1.1 nats and the largest α 0.5 on average, in the document's healthy bands. One row for all
    iterations would only rescale the block's output layer. After the last row comes the first one again.
    """

    def __init__(self, n_heads: int, iterations: int) -> None:
        super().__init__()
        self.logits = nn.Embedding(iterations, n_heads)

    def start(self, z: Tokens) -> ControllerState:
        """Empty states, as there is nothing to remember."""
        return ControllerState(z.new_zeros(len(z), 1, 0), z.new_zeros(len(z), 1, 0))

    def forward(self, z: Tokens, state: ControllerState, iteration: int) -> tuple[Alphas, ControllerState]:
        """α of this iteration (0 = first), and the empty states."""
        alpha = self.logits.weight[iteration % self.logits.num_embeddings].softmax(dim=-1)
        return alpha.expand(*z.shape[:2], -1), state


def routing_entropy(alphas: Float[Tensor, "*n heads"]) -> Float[Tensor, "*n"]:
    """−Σ α ln α in nats: 0 on one head, ln(heads) when uniform."""
    return -(alphas * alphas.clamp_min(1e-12).log()).sum(-1)


def herfindahl(alphas: Float[Tensor, "*n heads"]) -> Float[Tensor, "*n"]:
    """Σ α²: 1 on one head, 1/heads when uniform."""
    return alphas.square().sum(-1)
