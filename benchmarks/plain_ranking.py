"""The ranking model, its training step and its problems, written to be obvious rather than fast.

The same mathematics as `anm_nb.ranking`: each head has its own query, key and value layer and attends in a loop, the
controller is two `nn.GRUCell`s, and every iteration is decoded and scored separately. `against_plain.py` times it
against the package; a test compares the two.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainBlock(nn.Module):
    """Self-attention head by head, then feed-forward, each with residual sum and layer norm."""

    def __init__(self, width: int, n_heads: int, feedforward: int) -> None:
        super().__init__()
        size = width // n_heads
        self.queries = nn.ModuleList(nn.Linear(width, size) for _ in range(n_heads))
        self.keys = nn.ModuleList(nn.Linear(width, size) for _ in range(n_heads))
        self.values = nn.ModuleList(nn.Linear(width, size) for _ in range(n_heads))
        self.out = nn.Linear(width, width)
        self.grow, self.shrink = nn.Linear(width, feedforward * width), nn.Linear(feedforward * width, width)
        self.after_attention, self.after_feedforward = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, z: Tensor, alpha: Tensor) -> Tensor:
        """Apply the block to z [batch, items, width]; alpha [batch, items, heads] weights the heads of each item."""
        heads = []
        for head, (query, key, value) in enumerate(zip(self.queries, self.keys, self.values, strict=True)):
            q, k, v = query(z), key(z), value(z)
            weights = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1)
            heads.append(len(self.queries) * alpha[:, :, head : head + 1] * (weights @ v))
        z = self.after_attention(z + self.out(torch.cat(heads, dim=-1)))
        return self.after_feedforward(z + self.shrink(F.gelu(self.grow(z))))


class PlainRanking(nn.Module):
    """Value embedding, encoder, and one block applied `iterations` times.

    If `routed`, a controller weights the heads; else all heads are equal.
    """

    def __init__(
        self, width: int, n_heads: int, feedforward: int, iterations: int, period: int, state: int, routed: bool
    ) -> None:
        super().__init__()
        self.iterations, self.period, self.n_heads, self.routed = iterations, period, n_heads, routed
        self.small, self.large = nn.Linear(1, width // 2), nn.Linear(width // 2, width)
        self.hidden = nn.Parameter(torch.zeros(width))
        self.encoder = PlainBlock(width, n_heads, feedforward)
        self.block = PlainBlock(width, n_heads, feedforward)
        self.fast, self.slow = nn.GRUCell(width + state, state), nn.GRUCell(state, state)
        self.logits = nn.Linear(2 * state, n_heads)
        self.score = nn.Linear(width, 1)
        self.temperature = 1.0

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Scores [batch, items] and routing weights [batch, items, heads] of each iteration."""
        batch, items, _ = x.shape
        embedded = self.large(F.gelu(self.small(x[:, :, :1])))
        embedded = torch.where(x[:, :, 1:] > 0.5, self.hidden, embedded)
        alike = torch.full((batch, items, self.n_heads), 1 / self.n_heads, device=x.device)
        encoded = self.encoder(embedded, alike)
        z = torch.zeros_like(encoded)
        fast = slow = torch.zeros(batch * items, self.slow.hidden_size, device=x.device)
        scores, alphas = [], []
        for iteration in range(self.iterations):
            entering, alpha = z + encoded, alike
            if self.routed:
                fast = self.fast(torch.cat([entering.flatten(0, 1), slow], dim=1), fast)
                if (iteration + 1) % self.period == 0:
                    slow = self.slow(fast, slow)
                logits = self.logits(torch.cat([fast, slow], dim=1)) / self.temperature
                alpha = torch.softmax(logits, dim=1).view(batch, items, self.n_heads)
            z = self.block(entering, alpha)
            scores.append(self.score(z).squeeze(-1))
            alphas.append(alpha)
        return scores, alphas


def ranknet(scores: Tensor, ranks: Tensor, known: Tensor) -> Tensor:
    """Mean over arrays of the mean of softplus(s_j − s_i) over pairs of visible items with i before j."""
    wrong = F.softplus(scores.unsqueeze(1) - scores.unsqueeze(2))
    pairs = (ranks.unsqueeze(2) < ranks.unsqueeze(1)) & known.unsqueeze(2) & known.unsqueeze(1)
    return ((wrong * pairs).sum(dim=(1, 2)) / pairs.sum(dim=(1, 2))).mean()


def ranking_losses(
    model: PlainRanking, x: Tensor, ranks: Tensor, known: Tensor, entropy_weight: float
) -> tuple[Tensor, Tensor]:
    """RankNet of every iteration t = 1, 2, …, weighted by t, and the weighted mean routing entropy."""
    scores, alphas = model(x)
    total = sum(t * ranknet(each, ranks, known) for t, each in enumerate(scores, start=1))
    entropies = [-(alpha * torch.log(alpha)).sum(dim=-1).mean() for alpha in alphas]
    loss_rank = total / sum(range(1, len(scores) + 1))
    return loss_rank, entropy_weight * torch.stack(entropies).mean()


class PlainTraining:
    """The training step: both losses; clipping and AdamW separately for the controller and for other weights."""

    def __init__(
        self, model: PlainRanking, encoder_lr: float, controller_lr: float, clips: tuple[float, float], decay: float
    ) -> None:
        self.model, self.clips = model, clips
        routed = [*model.fast.parameters(), *model.slow.parameters(), *model.logits.parameters()]
        others = [weight for weight in model.parameters() if not any(weight is each for each in routed)]
        self.groups = [others, routed] if model.routed else [others]
        self.optimisers = [
            torch.optim.AdamW(group, lr=lr, weight_decay=decay)
            for group, lr in zip(self.groups, (encoder_lr, controller_lr), strict=False)
        ]

    def step(
        self, x: Tensor, ranks: Tensor, known: Tensor, temperature: float, entropy_weight: float
    ) -> dict[str, Tensor]:
        """Take one update on a batch and return its losses."""
        self.model.temperature = temperature
        loss_rank, loss_entropy = ranking_losses(self.model, x, ranks, known, entropy_weight)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        (loss_rank + loss_entropy).backward()
        for group, optimiser, clip in zip(self.groups, self.optimisers, self.clips, strict=False):
            nn.utils.clip_grad_norm_(group, clip)
            optimiser.step()
        return {"loss_rank": loss_rank.detach(), "loss_entropy": loss_entropy.detach()}


def translated(weights: dict[str, Tensor], n_heads: int) -> dict[str, Tensor]:
    """A `RankingModel`'s weights or gradients under the names of `PlainRanking`."""
    renamed = {"value.0.": "small.", "value.2.": "large.", "decoder.0.": "score.", "controller.logits.": "logits."}
    for cell in ("fast", "slow"):
        for part, suffix in (("input", "ih"), ("recurrent", "hh")):
            renamed |= {f"controller.{cell}.{part}.{kind}": f"{cell}.{kind}_{suffix}" for kind in ("weight", "bias")}
    for ours, plain in (("encoder.", "encoder."), ("block.", "block.")):
        renamed |= {f"{ours}feedforward.0.": f"{plain}grow.", f"{ours}feedforward.2.": f"{plain}shrink."}
        renamed |= {f"{ours}{part}": f"{plain}{part}" for part in ("out.", "after_attention.", "after_feedforward.")}
    plain_weights = {"hidden": weights["hidden.weight"][0]}
    for name, value in weights.items():
        for ours, plain in renamed.items():
            if name.startswith(ours):
                plain_weights[plain + name.removeprefix(ours)] = value
        if ".qkv." in name:
            block, kind = ("encoder" if name.startswith("encoder") else "block"), name.rpartition(".")[2]
            for part, of_part in zip(("queries", "keys", "values"), value.chunk(3), strict=True):
                for head, of_head in enumerate(of_part.chunk(n_heads)):
                    plain_weights[f"{block}.{part}.{head}.{kind}"] = of_head
    return plain_weights


def partial_sorts(order_keys: Tensor, hiding_keys: Tensor, visible: int) -> tuple[Tensor, Tensor, Tensor]:
    """Arrays of distinct integers from −100 … 99, partly hidden, made one by one: x, ranks and the visible items.

    The keys, [n, 200] and [n, size], are random. The values are those with the smallest order keys. Sorting items by
    hiding key gives a permutation; an item is visible where its entry is less than `visible`.
    """
    n, size = hiding_keys.shape
    x, ranks = torch.zeros(n, size, 2), torch.zeros(n, size, dtype=torch.long)
    known = torch.zeros(n, size, dtype=torch.bool)
    for row in range(n):
        by_key, by_turn = order_keys[row].tolist(), hiding_keys[row].tolist()
        values = [place - 100 for place in sorted(range(len(by_key)), key=by_key.__getitem__)[:size]]
        turns = sorted(range(size), key=by_turn.__getitem__)
        for item, value in enumerate(values):
            shown = turns[item] < visible
            ranks[row, item] = sum(other < value for other in values)
            known[row, item] = shown
            x[row, item, 0] = (value + 0.5) * 2 / 199 if shown else 0.0
            x[row, item, 1] = 0.0 if shown else 1.0
    return x, ranks, known


def one_hot_boards(boards: Tensor) -> Tensor:
    """Sudoku boards [n, 81] of digits, 0 for an empty cell, as one-hot entries of −1 and 1, [n, 729]."""
    entries = torch.full((len(boards), 81 * 9), -1.0)
    for board in range(len(boards)):
        for cell in range(81):
            digit = int(boards[board, cell])
            if digit > 0:
                entries[board, 9 * cell + digit - 1] = 1.0
    return entries


def kendall_taus(scores: Tensor, ranks: Tensor, known: Tensor) -> Tensor:
    """Kendall's τ [n] over pairs of visible items, computed pair by pair."""
    taus = []
    for score, rank, shown in zip(scores.tolist(), ranks.tolist(), known.tolist(), strict=True):
        items = [item for item in range(len(rank)) if shown[item]]
        balance = pairs = 0
        for first in items:
            for second in items:
                if rank[first] < rank[second]:
                    pairs += 1
                    balance += (score[first] > score[second]) - (score[first] < score[second])
        taus.append(balance / pairs)
    return torch.tensor(taus, dtype=torch.float64)
