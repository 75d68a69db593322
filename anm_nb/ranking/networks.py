"""The ranking model: value embedding, transformer encoder, a Pointer-over-Heads block applied repeatedly, a decoder."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import model_validator
from torch import Tensor, nn

from anm_nb.config import Count, ParameterError, Parameters, Width
from anm_nb.ranking.routing import Alphas, Controller, RandomRouting, Tokens, routing_entropy

Decoder = Literal["score", "pointer"]
Inputs = Float[Tensor, "batch items features"]
States = Float[Tensor, "batch iters items width"]

# A task's own features enter so many times wider than a linear layer's start would have them. Attention has to match
# codes of signs from the first steps on: at the usual width their products are lost among the rest, and seeds stall.
OWN_FEATURES_GAIN = 3.0
FEEDFORWARD = 2  # inner width of the feed-forward layers, in widths
SCORE_DECIMALS = 4  # of what items are ranked by; differences beyond are rounding errors


class ModelConfig(Parameters):
    """The architecture. Without a controller (`routing="uniform"`) and with one iteration it is the baseline."""

    width: Width = 32
    n_heads: Count = 4
    max_inner_iters: Count = 4  # applications of the Pointer-over-Heads block
    tied: bool = True  # all of them with the same weights; else each iteration has a block of its own
    norm: Literal["post", "pre"] = "post"  # a layer's output is normalised with its input added, or its input alone is
    # By a controller for each token or for the sequence; uniform: none, every head alike; random: see `RandomRouting`.
    routing: Literal["token", "sequence", "uniform", "random"] = "token"
    trained_routing: bool = True  # else the controller stays as it was drawn
    slow_state: bool = True  # else the controller has one timescale, that of its fast state
    hrm_period: Count = 2  # iterations between updates of the controller's slow state
    controller_width: Width = 32
    gradient: Literal["full", "last"] = "full"  # last: all iterations but the last are cut off

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        if self.width % self.n_heads:
            raise ParameterError(f"n_heads = {self.n_heads}: has to divide width = {self.width}")
        if self.has_controller and self.slow_state and self.hrm_period > self.max_inner_iters:
            raise ParameterError(
                f"hrm_period = {self.hrm_period}: with max_inner_iters = {self.max_inner_iters} the slow state "
                f"would never be updated; allowed: 1 to {self.max_inner_iters}"
            )
        return self

    @property
    def has_controller(self) -> bool:
        """Whether α is computed from what a token, or the sequence, holds."""
        return self.routing in ("token", "sequence")

    @property
    def learns_routing(self) -> bool:
        """Whether there is a controller, and it is trained."""
        return self.has_controller and self.trained_routing


class RankingOutput(NamedTuple):
    """What the model says after every iteration; the last is its answer."""

    scores: Float[Tensor, "batch iters items"]  # higher = ranked earlier
    alphas: Float[Tensor, "batch iters items heads"]
    entropies: Float[Tensor, " iters"]  # mean routing entropy in nats, differentiable
    z_per_iter: States


class AttentionBlock(nn.Module):
    """Self-attention, then feed-forward: each added to its input, the sum normalised; with `pre` the input is, alone.

    `alpha` scales each token's head outputs, by heads·α, so that uniform routing is plain multi-head attention.
    """

    def __init__(self, width: int, n_heads: int, pre: bool = False) -> None:
        super().__init__()
        self.n_heads, self.pre = n_heads, pre
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        inner = FEEDFORWARD * width
        self.feedforward = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.after_attention = nn.LayerNorm(width)  # ahead of it with `pre`
        self.after_feedforward = nn.LayerNorm(width)

    def forward(self, z: Tokens, alpha: Alphas | None = None) -> Tokens:
        if self.pre:
            z = z + self.attend(self.after_attention(z), alpha)
            return z + self.feedforward(self.after_feedforward(z))
        z = self.after_attention(z + self.attend(z, alpha))
        return self.after_feedforward(z + self.feedforward(z))

    def attend(self, z: Tokens, alpha: Alphas | None) -> Tokens:
        """Self-attention of the items."""
        q, k, v = self.qkv(z).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        # written out: the fused kernel fails under vmap on a GPU, and for items this few gains nothing on a CPU
        attention = ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(dim=-1)
        heads = (attention @ v).transpose(1, 2)
        if alpha is not None:
            heads = heads * (self.n_heads * alpha).unsqueeze(-1)
        return self.out(heads.flatten(-2))


class PointerDecoder(nn.Module):
    """One learned query for each rank points at an item that no earlier rank took, as published."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.rank = nn.Embedding(size, width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)

    def affinities(self, z: Float[Tensor, "*batch items width"]) -> Float[Tensor, "*batch ranks items"]:
        """How well each item fits each rank, before anything is taken."""
        return self.query(self.rank.weight) @ self.key(z).mT / z.shape[-1] ** 0.5

    def logits(
        self, z: Float[Tensor, "*batch items width"], ranks: Int[Tensor, "*#batch items"]
    ) -> Float[Tensor, "*batch ranks items"]:
        """Logits under teacher forcing, all ranks in one product: rank r may not take an item of true rank < r."""
        taken = ranks.unsqueeze(-2) < torch.arange(ranks.shape[-1], device=ranks.device).unsqueeze(-1)
        return self.affinities(z).masked_fill(taken, -torch.inf)

    @torch.no_grad()
    def forward(self, z: Float[Tensor, "*batch items width"]) -> Float[Tensor, "*batch items"]:
        """Greedy decoding: an item's score is the number of ranks after its own."""
        affinities = self.affinities(z).float().round(decimals=SCORE_DECIMALS)  # of items alike, the first is taken
        scores = torch.full_like(affinities[..., 0, :], -1)  # of those still free
        for rank in range(last := affinities.shape[-2] - 1, -1, -1):
            fit = affinities[..., last - rank, :].masked_fill(scores >= 0, -torch.inf)
            scores = scores.scatter(-1, fit.argmax(dim=-1, keepdim=True), float(rank))
        return scores


class RankingModel(nn.Module):
    """x [batch, items, features] to a ranking, refined `max_inner_iters` times.

    Features are the value, from two on a flag (hidden items enter as a learned embedding), and any more of a task's
    own, added to the item's state by a linear map. Nothing tells the items' positions or number: re-ordering the input
    re-orders the scores. Each iteration applies a block to its last state plus the encoded input, so that the input
    reaches even a truncated gradient. A pointer decoder is for one `size`, the number of items.
    """

    def __init__(
        self, config: ModelConfig, *, features: int = 2, decoder: Decoder = "score", size: int | None = None
    ) -> None:
        super().__init__()
        if decoder == "pointer" and size is None:
            raise ParameterError("size = None: a pointer decoder needs the number of items")
        width, heads, pre = config.width, config.n_heads, config.norm == "pre"
        self.config, self.features, self.items = config, features, size if decoder == "pointer" else None
        self.value = nn.Sequential(nn.Linear(1, width // 2 or 1), nn.GELU(), nn.Linear(width // 2 or 1, width))
        self.hidden = nn.Embedding(1, width) if features >= 2 else None
        self.own_features = nn.Linear(features - 2, width, bias=False) if features > 2 else None
        self.encoder = AttentionBlock(width, heads, pre)
        self.block = AttentionBlock(width, heads, pre)
        later = range(0 if config.tied else config.max_inner_iters - 1)
        self.later_blocks = nn.ModuleList(AttentionBlock(width, heads, pre) for _ in later)
        self.controller: Controller | RandomRouting | None = None
        if config.routing == "random":
            self.controller = RandomRouting(heads, config.max_inner_iters).requires_grad_(False)
        elif config.has_controller:
            sizes = (width, heads, config.controller_width, config.hrm_period)
            self.controller = Controller(*sizes, config.routing == "sequence", config.slow_state)
            self.controller.requires_grad_(config.trained_routing)
        scored = nn.Sequential(nn.Linear(width, 1), nn.Flatten(-2))  # a score from each item's state
        self.decoder: nn.Module = scored if self.items is None else PointerDecoder(width, self.items)

    def forward(self, x: Inputs, iterations: int | None = None) -> RankingOutput:
        """Scores (of greedy decoding where the decoder points), routing and states after each of `iterations`."""
        z_per_iter, alphas = self.refine(x, iterations)
        return RankingOutput(self.decoder(z_per_iter), alphas, routing_entropy(alphas).mean((0, 2)), z_per_iter)

    def encode(self, x: Inputs) -> Tokens:
        """The items' states that every iteration adds. Raises `ParameterError` for x of another shape."""
        if x.ndim != 3 or x.shape[2] != self.features or self.items not in (None, x.shape[1]):
            allowed = f"[batch, {self.items or 'items'}, {self.features}]"
            raise ParameterError(f"x has shape {tuple(x.shape)}; this model takes {allowed}")
        z = self.value(x[..., :1])
        if self.hidden is not None:
            z = torch.where(x[..., 1:2] > 0.5, self.hidden.weight, z)
        if self.own_features is not None:
            z = z + self.own_features(OWN_FEATURES_GAIN * x[..., 2:])
        return self.encoder(z)

    def refine(
        self, x: Inputs, iterations: int | None = None
    ) -> tuple[States, Float[Tensor, "batch iters items heads"]]:
        """States and routing weights of every iteration: the config's number, or as many as are asked for.

        Raises `ParameterError` for none, and for more `iterations` than there are blocks, where they are not tied.
        """
        most, tied = self.config.max_inner_iters, self.config.tied
        iterations = most if iterations is None else iterations
        if iterations < 1 or (iterations > most and not tied):
            allowed = "at least 1" if tied else f"1 to {most}, as each has a block of its own"
            raise ParameterError(f"iterations = {iterations}: allowed: {allowed}")
        encoded, heads = self.encode(x), self.config.n_heads
        z, alpha = torch.zeros_like(encoded), encoded.new_full((*encoded.shape[:2], heads), 1 / heads)
        state = None if self.controller is None else self.controller.start(encoded)
        states, alphas, differentiable = [], [], torch.is_grad_enabled()
        for iteration in range(iterations):
            contributes = self.config.gradient == "full" or iteration == iterations - 1
            with torch.set_grad_enabled(differentiable and contributes):
                entering = z + encoded
                block = self.block if tied or iteration == 0 else self.later_blocks[iteration - 1]
                if self.controller is None or state is None:
                    z = block(entering)
                else:
                    alpha, state = self.controller(entering, state, iteration)
                    z = block(entering, alpha)
            states.append(z)
            alphas.append(alpha)
        return torch.stack(states, dim=1), torch.stack(alphas, dim=1)
