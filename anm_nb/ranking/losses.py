"""Losses over rankings: all see observed pairs only, and are 0, with gradient 0, where there is none.

`scores` [batch, items]: higher = ranked earlier. `ranks` [batch, items]: 0 = first. `obs_mask` [batch, items] marks
the observed items (all, where None). There may be any leading dimensions, and those of ranks and mask broadcast against
those of the scores. `reduction` is "mean" (over the rows that have a pair) or "none" (one loss for each row).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float, Num, Shaped
from torch import Tensor
from torch.nn import functional as F

from anm_nb.config import ParameterError, unknown_name
from anm_nb.tasks.kendall import require_items

Reduction = Literal["mean", "none"]


def ranknet_loss(
    scores: Float[Tensor, "..."],
    ranks: Num[Tensor, "..."],
    obs_mask: Shaped[Tensor, "..."] | None = None,
    *,
    margin: float = 0.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Cross-entropy of pairwise order: softplus(margin − (sᵢ − sⱼ)) for i before j (RankNet, Burges et al. 2005)."""
    pairs = _pairs(scores, ranks, obs_mask)
    wrongness = F.softplus(margin - (scores.unsqueeze(-1) - scores.unsqueeze(-2)))
    return _row_mean(wrongness, pairs, reduction)


def listnet_loss(
    scores: Float[Tensor, "..."],
    ranks: Num[Tensor, "..."],
    obs_mask: Shaped[Tensor, "..."] | None = None,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Cross-entropy of top-one probabilities (ListNet, Cao et al. 2007).

    True ones are softmax(−rank/temperature), ranked among the observed items; predicted ones softmax(s/temperature).
    """
    pairs = _pairs(scores, ranks, obs_mask)
    observed = _observed(scores, obs_mask)
    lowest = torch.finfo(scores.dtype).min
    target = (-_observed_ranks(pairs, scores.dtype) / temperature).masked_fill(~observed, lowest).softmax(-1)
    log_p = (scores / temperature).masked_fill(~observed, lowest).log_softmax(-1).masked_fill(~observed, 0.0)
    return _reduced(-(target * log_p).sum(-1), pairs.any(-1).any(-1), reduction)


def soft_sort_loss(
    scores: Float[Tensor, "..."],
    ranks: Num[Tensor, "..."],
    obs_mask: Shaped[Tensor, "..."] | None = None,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Mean square of soft ranks Σⱼ σ((sⱼ − sᵢ)/temperature) minus true ones (SoftRank, Taylor et al. 2008).

    Both are ranks among the observed items, divided by the last one, so that the loss lies in [0, 1] for any length.
    """
    pairs = _pairs(scores, ranks, obs_mask)
    observed = _observed(scores, obs_mask)
    others = observed.unsqueeze(-2) & ~torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    ahead = torch.sigmoid((scores.unsqueeze(-2) - scores.unsqueeze(-1)) / temperature)
    soft_ranks = torch.where(others, ahead, 0.0).sum(-1)
    last = (observed.sum(-1, keepdim=True) - 1).clamp_min(1)
    error = ((soft_ranks - _observed_ranks(pairs, scores.dtype)) / last).square()
    mean = torch.where(observed, error, 0.0).sum(-1) / observed.sum(-1).clamp_min(1)
    return _reduced(mean, pairs.any(-1).any(-1), reduction)


RANKING_LOSSES: dict[str, Callable[..., Tensor]] = {
    "ranknet": ranknet_loss,
    "listnet": listnet_loss,
    "soft_sort": soft_sort_loss,
}


def combined_ranking_loss(
    scores: Float[Tensor, "..."],
    ranks: Num[Tensor, "..."],
    obs_mask: Shaped[Tensor, "..."] | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Weighted sum of `ranknet`, `listnet` and `soft_sort`; weight 1 each where None.

    Raises `ParameterError` for a loss that does not exist.
    """
    weights = dict.fromkeys(RANKING_LOSSES, 1.0) if weights is None else weights
    for name in weights:
        if name not in RANKING_LOSSES:
            raise ParameterError(unknown_name("ranking loss", name, RANKING_LOSSES))
    terms = [
        weight * RANKING_LOSSES[name](scores, ranks, obs_mask, reduction=reduction) for name, weight in weights.items()
    ]
    if not terms:
        raise ParameterError("weights = {}: at least one ranking loss is needed")
    return torch.stack(terms).sum(0)


def pointer_loss(
    logits: Float[Tensor, "*batch ranks items"],
    ranks: Num[Tensor, "..."],
    obs_mask: Shaped[Tensor, "..."] | None = None,
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Cross-entropy of the item chosen at each rank, as published; a mask leaves out ranks of hidden items."""
    require_items("ranks", tuple(ranks.shape), logits.shape[-1])
    order = ranks.argsort(-1)
    observed = _observed(logits.select(-1, 0), obs_mask)
    counted = observed.expand(logits.shape[:-1]).gather(-1, order.expand(logits.shape[:-1]))
    chosen = order.expand(logits.shape[:-1]).unsqueeze(-1)
    surprise = -logits.log_softmax(-1).gather(-1, chosen).squeeze(-1)
    mean = torch.where(counted, surprise, 0.0).sum(-1) / counted.sum(-1).clamp_min(1)
    return _reduced(mean, counted.any(-1), reduction)


def _observed(scores: Tensor, obs_mask: Tensor | None) -> Bool[Tensor, "..."]:
    if obs_mask is None:
        return torch.ones(scores.shape[-1], dtype=torch.bool, device=scores.device)
    require_items("obs_mask", tuple(obs_mask.shape), scores.shape[-1])
    return obs_mask.bool()


def _pairs(scores: Tensor, ranks: Tensor, obs_mask: Tensor | None) -> Bool[Tensor, "..."]:
    """Ordered pairs (i, j) of observed items with i truly before j."""
    require_items("ranks", tuple(ranks.shape), scores.shape[-1])
    observed = _observed(scores, obs_mask)
    return (ranks.unsqueeze(-1) < ranks.unsqueeze(-2)) & observed.unsqueeze(-1) & observed.unsqueeze(-2)


def _observed_ranks(pairs: Tensor, dtype: torch.dtype) -> Float[Tensor, "..."]:
    """How many observed items truly come before each: what a mask-aware loss may know of the ranks."""
    return pairs.sum(-2).to(dtype)


def _row_mean(values: Tensor, chosen: Tensor, reduction: Reduction) -> Tensor:
    """Mean of the chosen values of each row's last two dimensions."""
    total = torch.where(chosen, values, 0.0).sum((-2, -1))
    return _reduced(total / chosen.sum((-2, -1)).clamp_min(1), chosen.any(-1).any(-1), reduction)


def _reduced(rows: Tensor, counts: Tensor, reduction: Reduction) -> Tensor:
    """The rows that count, 0 for the others; their mean, 0 where none counts."""
    counts = counts.expand(rows.shape)
    rows = torch.where(counts, rows, 0.0)
    return rows if reduction == "none" else rows.sum() / counts.sum().clamp_min(1)
