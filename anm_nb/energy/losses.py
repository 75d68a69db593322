"""The losses of IRED, denoising score matching and the contrastive loss over energies, and the latter's soft form."""

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


def soft_info_nce(
    e_pos: Float[Tensor, " b"], e_neg: Float[Tensor, " b"], optimal_margin: Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """The two-way cross-entropy with the pair labelled σ(m*) instead of 1: q log(1 + e^−m) + (1 − q) log(1 + e^m).

    q = σ(m*) for the margin m* of the optimal energy (`SharedNoise.optimal_margin`), m = E⁻ − E⁺ as in `info_nce`.
    The gradient by E⁻ is σ(m) − σ(m*), by E⁺ its negative, so the loss is least at m = m*, where it is the binary
    entropy of q: unlike `info_nce` it asks for a margin that the score allows, and an illegitimate negative (m* < 0)
    has its energy pulled down. It is `info_nce` for m* → ∞. Both terms are positive: nothing cancels at large |m|.
    """
    label = optimal_margin.detach()
    return label.sigmoid() * F.softplus(e_pos - e_neg) + (-label).sigmoid() * F.softplus(e_neg - e_pos)
