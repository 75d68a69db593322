"""The ranking model: embedding, encoder, repeated attention block with heads routed by an HRM controller, decoder."""

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
# A controller's fast and slow state, one per token or one per sequence; an absent slow state has size 0.
Timescales = tuple[Float[Tensor, "batch routed state"], Float[Tensor, "batch routed slow_state"]]

# Gain on a task's own features, such as sign codes that attention has to match. Without it, seeds stall.
OWN_FEATURES_GAIN = 3.0
FEEDFORWARD = 2  # inner width of the feed-forward layers, as a multiple of the width
SCORE_DECIMALS = 4  # decimals of the scores that items are ranked by; smaller differences are rounding errors


class RankingOutput(NamedTuple):
    """The model's output after every iteration; the last one is its answer."""

    scores: Float[Tensor, "batch iters items"]  # higher = ranked earlier
    alphas: Routing
    entropies: Float[Tensor, " iters"]  # mean routing entropy in nats, differentiable
    z_per_iter: States


class GatedCell(nn.Module):
    """A gated recurrent unit (Cho et al., 2014), written out because `nn.GRUCell` is slow under vmap."""

    def __init__(self, inputs: int, state: int) -> None:
        super().__init__()
        self.input = nn.Linear(inputs, 3 * state)
        self.recurrent = nn.Linear(state, 3 * state)

    def forward(self, x: Float[Tensor, "*n inputs"], h: Float[Tensor, "*n state"]) -> Float[Tensor, "*n state"]:
        reset_x, update_x, new_x = self.input(x).chunk(3, dim=-1)
        reset_h, update_h, new_h = self.recurrent(h).chunk(3, dim=-1)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        return new + torch.sigmoid(update_x + update_h) * (h - new)  # lerp does not accept mixed precision


class Controller(nn.Module):
    """Routing weights α from a fast state, updated in every iteration, and a slow one, updated every `period`.

    α = softmax(logits/temperature) over heads. "sequence" routing reads the mean over tokens and shares one α.
    """

    temperature: Tensor

    def __init__(self, config: "RankingConfig") -> None:
        super().__init__()
        self.period, self.per_sequence = config.hrm_period, config.routing == "sequence"
        self.sizes = state, slow = config.controller_width, config.controller_width if config.slow_state else 0
        self.fast = GatedCell(config.width + slow, state)
        self.slow = GatedCell(state, state) if config.slow_state else None
        self.logits = nn.Linear(state + slow, config.n_heads)
        self.register_buffer("temperature", torch.tensor(1.0))

    def start(self, z: Tokens) -> Timescales:
        """Zero states for tokens of z's shape."""
        fast, slow = (z.new_zeros(len(z), 1 if self.per_sequence else z.shape[1], size) for size in self.sizes)
        return fast, slow

    def forward(self, z: Tokens, state: Timescales, iteration: int) -> tuple[Alphas, Timescales]:
        """Return α for tokens z in this iteration (0 = first), and the updated states."""
        read, (fast, slow) = z.mean(dim=1, keepdim=True) if self.per_sequence else z, state
        fast = self.fast(torch.cat([read, slow], dim=-1), fast)
        if self.slow is not None and (iteration + 1) % self.period == 0:
            slow = self.slow(fast, slow)
        alpha = (self.logits(torch.cat([fast, slow], dim=-1)) / self.temperature).softmax(dim=-1)
        return alpha.expand(-1, z.shape[1], -1), (fast, slow)


class RandomRouting(nn.Module):
    """Fixed random routing: softmax of normal logits, drawn once per iteration (then cyclic), equal for all tokens."""

    def __init__(self, n_heads: int, iterations: int) -> None:
        super().__init__()
        self.logits = nn.Embedding(iterations, n_heads)

    def forward(self, z: Tokens, state: None, iteration: int) -> tuple[Alphas, None]:
        alpha = self.logits.weight[iteration % self.logits.num_embeddings].softmax(dim=-1)
        return alpha.expand(*z.shape[:2], -1), None


class AttentionBlock(nn.Module):
    """Self-attention with heads scaled by heads·α, then feed-forward; layer norm after each sum, or before (`pre`)."""

    def __init__(self, width: int, n_heads: int, pre: bool = False) -> None:
        super().__init__()
        self.n_heads, self.pre, inner = n_heads, pre, FEEDFORWARD * width
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feedforward = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.after_attention, self.after_feedforward = nn.LayerNorm(width), nn.LayerNorm(width)  # `pre`: before them

    def forward(self, z: Tokens, alpha: Alphas | None = None) -> Tokens:
        if self.pre:
            z = z + self.attend(self.after_attention(z), alpha)
            return z + self.feedforward(self.after_feedforward(z))
        z = self.after_attention(z + self.attend(z, alpha))
        return self.after_feedforward(z + self.feedforward(z))

    def attend(self, z: Tokens, alpha: Alphas | None) -> Tokens:
        q, k, v = self.qkv(z).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        # written out: the fused kernel fails under vmap on a GPU, and is no faster on a CPU for so few items
        attention = ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(dim=-1)
        heads = (attention @ v).transpose(1, 2)
        if alpha is not None:
            heads = heads * (self.n_heads * alpha).unsqueeze(-1)
        return self.out(heads.flatten(-2))


class PointerDecoder(nn.Module):
    """One learned query per rank points at an item that no earlier rank has taken, as published."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.rank, self.query, self.key = nn.Embedding(size, width), nn.Linear(width, width), nn.Linear(width, width)

    def affinities(self, z: Float[Tensor, "*batch items width"]) -> Float[Tensor, "*batch ranks items"]:
        """How well each item fits each rank, ignoring items already taken."""
        return self.query(self.rank.weight) @ self.key(z).mT / z.shape[-1] ** 0.5

    def logits(
        self, z: Float[Tensor, "*batch items width"], ranks: Int[Tensor, "*#batch items"]
    ) -> Float[Tensor, "*batch ranks items"]:
        """Logits of all ranks under teacher forcing: rank r may not take an item of true rank < r."""
        taken = ranks.unsqueeze(-2) < torch.arange(ranks.shape[-1], device=ranks.device).unsqueeze(-1)
        return self.affinities(z).masked_fill(taken, -torch.inf)

    @torch.no_grad()
    def forward(self, z: Float[Tensor, "*batch items width"]) -> Float[Tensor, "*batch items"]:
        """Decode greedily; an item's score is the number of ranks after its own."""
        affinities = self.affinities(z).float().round(decimals=SCORE_DECIMALS)  # the first of equal items is taken
        scores = torch.full_like(affinities[..., 0, :], -1)  # items still free have −1
        for rank in range(last := affinities.shape[-2] - 1, -1, -1):
            fit = affinities[..., last - rank, :].masked_fill(scores >= 0, -torch.inf)
            scores = scores.scatter(-1, fit.argmax(dim=-1, keepdim=True), float(rank))
        return scores


class RankingModel(nn.Module):
    """Maps x [batch, items, features] to a ranking, refined `max_inner_iters` times.

    Feature 0 is the value, feature 1 flags hidden items (they enter as a learned embedding), others are the task's own.
    Each iteration applies a block to the last state plus the encoded input. A linear layer maps an item's state to its
    score; a model with `pointed` items decodes with a `PointerDecoder` instead.
    """

    def __init__(self, config: "RankingConfig", *, features: int = 2, pointed: int | None = None) -> None:
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
        """Scores (from greedy decoding with a `PointerDecoder`), routing and states after each of `iterations`."""
        z_per_iter, alphas = self.refine(x, iterations)
        return RankingOutput(self.decoder(z_per_iter), alphas, routing_entropy(alphas).mean((0, 2)), z_per_iter)

    def encode(self, x: Inputs) -> Tokens:
        """Encode the items; every iteration adds this to its state. Raises `ParameterError` for x of another shape."""
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
        """States and routing weights of each iteration. `ParameterError` for 0, or for more than the untied blocks."""
        most, tied = self.config.max_inner_iters, self.config.tied
        iterations = most if iterations is None else iterations
        if iterations < 1 or (iterations > most and not tied):
            allowed = "at least 1" if tied else f"1 to {most}, as each iteration has its own block"
            raise ParameterError(f"iterations = {iterations}: allowed: {allowed}")
        encoded, heads = self.encode(x), self.config.n_heads
        z, alpha = torch.zeros_like(encoded), encoded.new_full((*encoded.shape[:2], heads), 1 / heads)
        state: Any = self.controller.start(encoded) if isinstance(self.controller, Controller) else None
        blocks = [self.block] * iterations if tied else [self.block, *self.later_blocks]
        after, differentiable = [], torch.is_grad_enabled()
        for iteration in range(iterations):
            contributes = self.config.gradient == "full" or iteration == iterations - 1
            with torch.set_grad_enabled(differentiable and contributes):
                entering = z + encoded
                if self.controller is not None:
                    alpha, state = self.controller(entering, state, iteration)
                z = blocks[iteration](entering, None if self.controller is None else alpha)
            after.append((z, alpha))
        states, alphas = (torch.stack(each, dim=1) for each in zip(*after, strict=True))
        return states, alphas


def routing_entropy(alphas: Float[Tensor, "*n heads"]) -> Float[Tensor, "*n"]:
    """−Σ α ln α in nats: 0 on one head, ln(heads) when uniform."""
    return -(alphas * alphas.clamp_min(1e-12).log()).sum(-1)
