"""Matrix completion by the nuclear norm: soft-impute (Mazumder, Hastie & Tibshirani, JMLR 11, 2010, algorithm 1)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anm_nb.config import ParameterError


def soft_impute(
    observed: Float[Tensor, "n rows columns"],
    known: Bool[Tensor, "n rows columns"],
    shrinkage: float,
    *,
    start: Float[Tensor, "n rows columns"] | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 200,
) -> Float[Tensor, "n rows columns"]:
    """The matrices Z that minimise ½‖observed − Z‖² over the known entries + shrinkage·‖Z‖_* (nuclear norm).

    Each step fills the unknown entries with Z and lowers all singular values of the result by `shrinkage`, to no less
    than 0; it never raises the objective. It begins at `start`, 0 by default; that of a slightly larger shrinkage saves
    steps. A matrix is done when ‖Z − Z_before‖² ≤ tolerance·‖Z_before‖², all of them after `max_iterations`. A
    shrinkage of at least the spectral norm of the zero-filled matrix gives 0. Raises `ParameterError` where the
    shrinkage is not above 0: the unknown entries would never move.
    """
    if not shrinkage > 0:
        raise ParameterError(f"shrinkage = {shrinkage}: should be greater than 0")
    estimate = torch.zeros_like(observed) if start is None else start.clone()
    moving = torch.arange(len(observed), device=observed.device)
    for _ in range(max_iterations):
        before = estimate[moving]
        after = shrunk(torch.where(known[moving], observed[moving], before), shrinkage)
        estimate[moving] = after
        moving = moving[(after - before).square().sum((1, 2)) > tolerance * before.square().sum((1, 2))]
        if len(moving) == 0:
            break
    return estimate


def shrunk(matrices: Float[Tensor, "n rows columns"], by: float) -> Float[Tensor, "n rows columns"]:
    """Matrices with every singular value lowered by `by` > 0, to no less than 0: the proximal map of by·‖·‖_*.

    From the eigenvectors V of MᵀM, as M V diag((σ − by)₊/σ) Vᵀ: half the time of a batched decomposition into singular
    values. The relative error of a value σ is the machine's times (σ_max/σ)², so `by` ought to be no less than about a
    hundredth of σ_max in single precision.
    """
    squares, vectors = torch.linalg.eigh(matrices.mT @ matrices)
    values = squares.clamp(min=0).sqrt()  # rounding can make a square negative
    kept = (1 - by / values).clamp(min=0)
    return (matrices @ vectors * kept.unsqueeze(1)) @ vectors.mT
