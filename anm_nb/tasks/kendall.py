"""Kendall's τ = (concordant − discordant)/(decidable pairs), which is Somers' D of the prediction given the target.

A pair is decidable if both items are observed and their target ranks differ. A pair tied in the prediction is neither
concordant nor discordant. A row without a decidable pair gives NaN, which means "skip this row"; it never gives 0.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from anm_nb.config import ParameterError


def require_items(name: str, shape: tuple[int, ...], items: int) -> None:
    """Raise `ParameterError` unless the last dimension of `shape` has one entry per item."""
    if shape[-1:] != (items,):
        raise ParameterError(f"{name} has shape {shape}: its last dimension must be {items}, the number of items")


def kendall_tau(
    pred: Shaped[Tensor, "..."], target: Shaped[Tensor, "..."], obs_mask: Shaped[Tensor, "..."] | None = None
) -> Float[Tensor, "..."]:
    """τ [batch], in double precision, of scores `pred` (higher = ranked earlier) against ranks `target` (0 = first).

    All arguments are [..., items] and broadcast. `obs_mask` marks the observed items; None means all. A pair with a NaN
    score counts as a tie. Raises `ParameterError` if the numbers of items differ.
    """
    items = pred.shape[-1]
    require_items("target", tuple(target.shape), items)
    decidable = target.unsqueeze(-1) < target.unsqueeze(-2)
    if obs_mask is not None:
        require_items("obs_mask", tuple(obs_mask.shape), items)
        observed = obs_mask.bool()
        decidable = decidable & observed.unsqueeze(-1) & observed.unsqueeze(-2)
    first, second = pred.unsqueeze(-1), pred.unsqueeze(-2)  # in a decidable pair, `first` is truly ranked earlier
    concordant = ((first > second) & decidable).sum((-2, -1))
    discordant = ((first < second) & decidable).sum((-2, -1))
    return (concordant - discordant).double() / decidable.sum((-2, -1)).double()


def kendall_tau_numpy(pred: Any, target: Any, obs_mask: Any = None) -> np.ndarray:
    """`kendall_tau` for arrays, float64 [batch]; a separate implementation, so that each can check the other."""
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
    """τ between the *index arrays* argsort(prediction) and argsort(target), as published; it measures no ranking."""
    return kendall_tau(-(-pred).argsort(dim=-1, stable=True), target.argsort(dim=-1, stable=True))
