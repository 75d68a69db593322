"""Ranking losses of observed items. A row without an observed pair (pointer: item) has loss 0 and gradient 0.

`scores` [..., items]: higher = ranked earlier. `ranks` [..., items]: 0 = first. `obs_mask` [..., items] marks the
observed items (None: all). `reduction` is "mean" (over rows that have a pair) or "none" (one loss per row).
"""

from typing import Literal

import torch
from jaxtyping import Float, Num, Shaped
from torch import Tensor
from torch.nn import functional as F

from anm_nb.tasks.kendall import require_items

Reduction = Literal["mean", "none"]
Scores = Float[Tensor, "..."]
Ranks = Num[Tensor, "..."]
Mask = Shaped[Tensor, "..."] | None


def ranknet_loss(scores: Scores, ranks: Ranks, obs_mask: Mask = None, *, reduction: Reduction = "mean") -> Scores:
    """Cross-entropy of the pairwise order: softplus(sⱼ − sᵢ) for i before j (RankNet, Burges et al. 2005)."""
    pairs, _, _ = _comparable(scores, ranks, obs_mask)
    wrongness = F.softplus(scores.unsqueeze(-2) - scores.unsqueeze(-1))
    return _reduced(_mean(wrongness, pairs, (-2, -1)), pairs, reduction)


def listnet_loss(scores: Scores, ranks: Ranks, obs_mask: Mask = None, *, reduction: Reduction = "mean") -> Scores:
    """Cross-entropy between softmax(−rank) over the observed items and softmax(s) (ListNet, Cao et al. 2007)."""
    pairs, observed, order = _comparable(scores, ranks, obs_mask)
    lowest = torch.finfo(scores.dtype).min
    target = (-order).masked_fill(~observed, lowest).softmax(-1)
    log_p = scores.masked_fill(~observed, lowest).log_softmax(-1).masked_fill(~observed, 0.0)
    return _reduced(-(target * log_p).sum(-1), pairs, reduction)


def soft_sort_loss(scores: Scores, ranks: Ranks, obs_mask: Mask = None, *, reduction: Reduction = "mean") -> Scores:
    """Mean of ((soft rank Σⱼ σ(sⱼ − sᵢ) − true rank)/last rank)² over observed items (SoftRank, Taylor et al. 2008)."""
    pairs, observed, order = _comparable(scores, ranks, obs_mask)
    others = observed.unsqueeze(-2) & ~torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    ahead = torch.sigmoid(scores.unsqueeze(-2) - scores.unsqueeze(-1))
    soft_ranks = torch.where(others, ahead, 0.0).sum(-1)
    last = (observed.sum(-1, keepdim=True) - 1).clamp_min(1)
    return _reduced(_mean(((soft_ranks - order) / last).square(), observed), pairs, reduction)


def combined_ranking_loss(scores: Scores, ranks: Ranks, obs_mask: Mask = None, reduction: Reduction = "mean") -> Scores:
    """Sum of `ranknet_loss`, `listnet_loss` and `soft_sort_loss`."""
    parts = (ranknet_loss, listnet_loss, soft_sort_loss)
    return torch.stack([loss(scores, ranks, obs_mask, reduction=reduction) for loss in parts]).sum(0)


def pointer_loss(logits: Scores, ranks: Ranks, obs_mask: Mask = None, *, reduction: Reduction = "mean") -> Scores:
    """Cross-entropy of the item chosen at each rank, as published; logits are [batch, ranks, items]."""
    _, observed, _ = _comparable(logits.select(-1, 0), ranks, obs_mask)
    order = ranks.argsort(-1).expand(logits.shape[:-1])
    counted = observed.expand(logits.shape[:-1]).gather(-1, order)
    surprise = -logits.log_softmax(-1).gather(-1, order.unsqueeze(-1)).squeeze(-1)
    return _reduced(_mean(surprise, counted), counted.unsqueeze(-1), reduction)


RANKING_LOSSES = {
    "ranknet": ranknet_loss,
    "listnet": listnet_loss,
    "soft_sort": soft_sort_loss,
    "combined": combined_ranking_loss,
    "cross_entropy": pointer_loss,
}


def _comparable(scores: Scores, ranks: Ranks, obs_mask: Mask) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs (i, j) of observed items with i truly before j, the observed items, and their ranks among the observed."""
    require_items("ranks", tuple(ranks.shape), scores.shape[-1])
    observed = ranks.new_ones(ranks.shape[-1], dtype=torch.bool) if obs_mask is None else obs_mask.bool()
    require_items("obs_mask", tuple(observed.shape), scores.shape[-1])
    pairs = (ranks.unsqueeze(-1) < ranks.unsqueeze(-2)) & observed.unsqueeze(-1) & observed.unsqueeze(-2)
    return pairs, observed, pairs.sum(-2).to(scores.dtype)


def _mean(values: Tensor, counted: Tensor, dims: int | tuple[int, int] = -1) -> Tensor:
    """Mean of the counted values over `dims`; 0 where none is counted."""
    return torch.where(counted, values, 0.0).sum(dims) / counted.sum(dims).clamp_min(1)


def _reduced(rows: Tensor, compared: Tensor, reduction: Reduction) -> Tensor:
    """Row losses, or their mean over the rows with any `compared` [..., i, j]; the loss of other rows is 0."""
    counts = compared.any(-1).any(-1).expand(rows.shape)
    rows = torch.where(counts, rows, 0.0)
    return rows if reduction == "none" else rows.sum() / counts.sum().clamp_min(1)
