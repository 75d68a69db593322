"""Kendall's τ = (concordant − discordant)/(decidable pairs), which is Somers' D of prediction given target.

Decidable are pairs of observed items of different target ranks; a tie in the prediction is neither concordant nor
discordant. A row without a decidable pair gives NaN, which means skip, never 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from anm_nb.config import ParameterError


def require_items(name: str, given: tuple[int, ...], items: int) -> None:
    """Raise `ParameterError` unless the last dimension of the shape `given` holds one entry for each of the items."""
    if given[-1:] != (items,):
        raise ParameterError(f"{name} has shape {given}: its last dimension has to be the {items} items ranked")


def kendall_tau(
    pred: Shaped[Tensor, "..."], target: Shaped[Tensor, "..."], obs_mask: Shaped[Tensor, "..."] | None = None
) -> Float[Tensor, "..."]:
    """τ [batch], in double precision, of scores `pred` (higher = ranked earlier) against ranks `target` (0 = first).

    All are [..., items], and broadcast; `obs_mask` marks the observed items (None: all). Pairs with a NaN score count
    as ties. Raises `ParameterError` for another number of items.
    """
    items = pred.shape[-1]
    require_items("target", tuple(target.shape), items)
    decidable = (target.unsqueeze(-1) < target.unsqueeze(-2)).expand(*target.shape, items)
    if obs_mask is not None:
        require_items("obs_mask", tuple(obs_mask.shape), items)
        observed = obs_mask.bool()
        decidable = decidable & observed.unsqueeze(-1) & observed.unsqueeze(-2)
    first, second = pred.unsqueeze(-1), pred.unsqueeze(-2)  # of a decidable pair, `first` is truly ranked earlier
    concordant = ((first > second) & decidable).sum((-2, -1))
    discordant = ((first < second) & decidable).sum((-2, -1))
    return (concordant - discordant).double() / decidable.sum((-2, -1)).double()


def kendall_tau_numpy(pred: Any, target: Any, obs_mask: Any = None) -> np.ndarray:
    """`kendall_tau` for arrays, written apart from it so that each checks the other; float64 [batch]."""
    pred, target = np.asarray(pred), np.asarray(target)
    observed = np.ones(pred.shape[-1], dtype=bool) if obs_mask is None else np.asarray(obs_mask).astype(bool)
    require_items("target", target.shape, pred.shape[-1])
    require_items("obs_mask", observed.shape, pred.shape[-1])
    i, j = np.triu_indices(pred.shape[-1], k=1)
    true = (target[..., j] > target[..., i]) * 1 - (target[..., j] < target[..., i])
    true = true * (observed[..., i] & observed[..., j])
    predicted = (pred[..., i] > pred[..., j]) * 1 - (pred[..., i] < pred[..., j])
    with np.errstate(invalid="ignore"):
        return (true * predicted).sum(-1) / np.abs(true).sum(-1).astype(np.float64)


def index_space_tau(pred: Shaped[Tensor, "..."], target: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
    """τ of the *index arrays* argsort(prediction) and argsort(target), as was published: it measures no ranking."""
    require_items("target", tuple(target.shape), pred.shape[-1])
    return kendall_tau(-(-pred).argsort(dim=-1, stable=True), target.argsort(dim=-1, stable=True))
