"""The two losses of IRED: denoising score matching and the contrastive loss over energies."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def denoising_mse(score: Float[Tensor, "b d"], eps: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Mean over entries of (∇_ỹE(x, ỹ, k) − ε)² (IRED, arXiv 2406.11179, section 3.1)."""
    return (score - eps).square().mean(1)


def info_nce(e_pos: Float[Tensor, " b"], e_neg: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """log(1 + e^−m) of the margin m = E⁻ − E⁺, stable for large |m| (ANM checklist, section A).

    Its gradient by E⁺ is σ(−m), by E⁻ −σ(−m). Equal to IRED's two-way cross-entropy over (−E⁺, −E⁻).
    """
    return F.softplus(e_pos - e_neg)
