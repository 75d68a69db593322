"""The losses of IRED, denoising score matching and the contrastive loss over energies, and the latter's soft form."""

from __future__ import annotations

from torch.nn import functional as F

from anm_nb.energy.schedule import Points, Values


def denoising_mse(score: Points, eps: Points) -> Values:
    """Mean over entries of (∇_ỹE(x, ỹ, k) − ε)² (IRED, arXiv 2406.11179, section 3.1)."""
    return (score - eps).square().mean(1)


def info_nce(e_pos: Values, e_neg: Values) -> Values:
    """log(1 + e^−m) of the margin m = E⁻ − E⁺, stable for large |m| (ANM checklist, section A).

    Equal to IRED's two-way cross-entropy over (−E⁺, −E⁻); its gradient by E⁺ is σ(−m), by E⁻ −σ(−m).
    """
    return F.softplus(e_pos - e_neg)


def soft_info_nce(e_pos: Values, e_neg: Values, optimal_margin: Values) -> Values:
    """The two-way cross-entropy with the pair labelled q = σ(m*) instead of 1: q log(1 + e^−m) + (1 − q) log(1 + e^m).

    Least at m = m* (`SharedNoise.optimal_margin`), the margin that the score allows: an illegitimate negative has its
    energy pulled down. The gradient by E⁻ is σ(m) − σ(m*). Both terms are positive: nothing cancels at large |m|.
    """
    label = optimal_margin.detach()
    return label.sigmoid() * F.softplus(e_pos - e_neg) + (-label).sigmoid() * F.softplus(e_neg - e_pos)
