"""The ranking model: embedding, encoder, a repeated attention block whose heads an HRM controller routes, a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anm_nb.config import ParameterError

if TYPE_CHECKING:
    from anm_nb.ranking.train import RankingConfig

Inputs = Float[Tensor, "batch items features"]
States = Float[Tensor, "batch iters items width"]
Tokens = Float[Tensor, "batch tokens width"]
Alphas = Float[Tensor, "batch tokens heads"]
Routing = Float[Tensor, "batch iters items heads"]
# The fast and the slow state of a controller, each for every token or for the sequence, and of size 0 where absent.
Timescales = tuple[Float[Tensor, "batch routed state"], Float[Tensor, "batch routed slow_state"]]

# Of a task's own features, such as codes of signs that attention has to match: without it seeds stall.
OWN_FEATURES_GAIN = 3.0
FEEDFORWARD = 2  # inner width of the feed-forward layers, in widths
SCORE_DECIMALS = 4  # of what items are ranked by; differences beyond are rounding errors


class RankingOutput(NamedTuple):
    """What the model says after every iteration; the last is its answer."""

    scores: Float[Tensor, "batch iters items"]  # higher = ranked earlier
    alphas: Routing
    entropies: Float[Tensor, " iters"]  # mean routing entropy in nats, differentiable
    z_per_iter: States


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

    α = softmax(logits/temperature) over heads. Routing by "sequence" reads the mean over tokens and is alike for all.
    """

    temperature: Tensor

    def __init__(self, config: RankingConfig) -> None:
        super().__init__()
        self.period, self.per_sequence = config.hrm_period, config.routing == "sequence"
        self.sizes = state, slow = config.controller_width, config.controller_width if config.slow_state else 0
        self.fast = GatedCell(config.width + slow, state)
        self.slow = GatedCell(state, state) if config.slow_state else None
        self.logits = nn.Linear(state + slow, config.n_heads)
        self.register_buffer("temperature", torch.tensor(1.0))

    def start(self, z: Tokens) -> Timescales:
        """Zero states for tokens like z."""
        fast, slow = (z.new_zeros(len(z), 1 if self.per_sequence else z.shape[1], size) for size in self.sizes)
        return fast, slow

    def forward(self, z: Tokens, state: Timescales, iteration: int) -> tuple[Alphas, Timescales]:
        """α of this iteration (0 = first) for tokens z, and the states after it."""
        seen, (fast, slow) = z.mean(dim=1, keepdim=True) if self.per_sequence else z, state
        fast = self.fast(torch.cat([seen, slow], dim=-1), fast)
        if self.slow is not None and (iteration + 1) % self.period == 0:
            slow = self.slow(fast, slow)
        alpha = (self.logits(torch.cat([fast, slow], dim=-1)) / self.temperature).softmax(dim=-1)
        return alpha.expand(-1, z.shape[1], -1), (fast, slow)


class RandomRouting(nn.Module):
    """Routing weights drawn once: softmax of normal logits, a row an iteration, in turn, alike for all tokens."""

    def __init__(self, n_heads: int, iterations: int) -> None:
        super().__init__()
        self.logits = nn.Embedding(iterations, n_heads)

    def start(self, z: Tokens) -> None: ...

    def forward(self, z: Tokens, state: None, iteration: int) -> tuple[Alphas, None]:
        alpha = self.logits.weight[iteration % self.logits.num_embeddings].softmax(dim=-1)
        return alpha.expand(*z.shape[:2], -1), None


class AttentionBlock(nn.Module):
    """Self-attention, heads scaled by heads·α, and feed-forward; normalised after each sum, or `pre`: before each."""

    def __init__(self, width: int, n_heads: int, pre: bool = False) -> None:
        super().__init__()
        self.n_heads, self.pre, inner = n_heads, pre, FEEDFORWARD * width
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feedforward = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.after_attention, self.after_feedforward = nn.LayerNorm(width), nn.LayerNorm(width)  # `pre`: ahead of them

    def forward(self, z: Tokens, alpha: Alphas | None = None) -> Tokens:
        if self.pre:
            z = z + self.attend(self.after_attention(z), alpha)
            return z + self.feedforward(self.after_feedforward(z))
        z = self.after_attention(z + self.attend(z, alpha))
        return self.after_feedforward(z + self.feedforward(z))

    def attend(self, z: Tokens, alpha: Alphas | None) -> Tokens:
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
        self.rank, self.query, self.key = nn.Embedding(size, width), nn.Linear(width, width), nn.Linear(width, width)

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
    own. Each iteration applies a block to its last state plus the encoded input. An item's state gives a score, or
    `pointed` items a `PointerDecoder`.
    """

    def __init__(self, config: RankingConfig, *, features: int = 2, pointed: int | None = None) -> None:
        super().__init__()
        width, half, sizes = config.width, config.width // 2 or 1, (config.width, config.n_heads, config.norm == "pre")
        self.config, self.features, self.items = config, features, pointed
        self.value = nn.Sequential(nn.Linear(1, half), nn.GELU(), nn.Linear(half, width))
        self.hidden = nn.Embedding(1, width) if features >= 2 else None
        self.own_features = nn.Linear(features - 2, width, bias=False) if features > 2 else None
        self.encoder, self.block = AttentionBlock(*sizes), AttentionBlock(*sizes)
        later = range(0 if config.tied else config.max_inner_iters - 1)
        self.later_blocks = nn.ModuleList(AttentionBlock(*sizes) for _ in later)
        self.controller: Controller | RandomRouting | None = None
        if config.routing == "random":
            self.controller = RandomRouting(config.n_heads, config.max_inner_iters).requires_grad_(False)
        elif config.has_controller:
            self.controller = Controller(config).requires_grad_(config.trained_routing)
        scored = nn.Sequential(nn.Linear(width, 1), nn.Flatten(-2))
        self.decoder: nn.Module = scored if pointed is None else PointerDecoder(width, pointed)

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

    def refine(self, x: Inputs, iterations: int | None = None) -> tuple[States, Routing]:
        """States and routing weights of each iteration. `ParameterError` for none, or more than untied blocks."""
        most, tied = self.config.max_inner_iters, self.config.tied
        iterations = most if iterations is None else iterations
        if iterations < 1 or (iterations > most and not tied):
            allowed = "at least 1" if tied else f"1 to {most}, as each has a block of its own"
            raise ParameterError(f"iterations = {iterations}: allowed: {allowed}")
        encoded, heads = self.encode(x), self.config.n_heads
        z, alpha = torch.zeros_like(encoded), encoded.new_full((*encoded.shape[:2], heads), 1 / heads)
        state: Any = self.controller and self.controller.start(encoded)
        after, differentiable = [], torch.is_grad_enabled()
        for iteration in range(iterations):
            contributes = self.config.gradient == "full" or iteration == iterations - 1
            with torch.set_grad_enabled(differentiable and contributes):
                entering = z + encoded
                block = self.block if tied or iteration == 0 else self.later_blocks[iteration - 1]
                if self.controller is not None:
                    alpha, state = self.controller(entering, state, iteration)
                z = block(entering, None if self.controller is None else alpha)
            after.append((z, alpha))
        states, alphas = (torch.stack(each, dim=1) for each in zip(*after, strict=True))
        return states, alphas


def routing_entropy(alphas: Float[Tensor, "*n heads"]) -> Float[Tensor, "*n"]:
    """−Σ α ln α in nats: 0 on one head, ln(heads) when uniform."""
    return -(alphas * alphas.clamp_min(1e-12).log()).sum(-1)
