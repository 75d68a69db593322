"""Losses: IRED's denoising score matching and the contrastive loss of its negatives (ANM checklist, A and C)."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from anm_nb.energy.miner import Mined, MiningProblem
from anm_nb.energy.networks import gradient_and_value
from anm_nb.energy.schedule import Noised, Points, Values
from anm_nb.training import StepLosses

if TYPE_CHECKING:
    from anm_nb.energy.negatives import NegativeStrategy

PerSeed = Float[Tensor, " seeds"]


def denoising_mse(score: Points, eps: Points) -> Values:
    """Mean over entries of (∇_ỹE(x, ỹ, k) − ε)², [b] (IRED, arXiv 2406.11179, section 3.1)."""
    return (score - eps).square().mean(1)


def info_nce(e_pos: Values, e_neg: Values) -> Values:
    """log(1 + e^−m), m = E⁻ − E⁺ (section A): IRED's two-way cross-entropy over (−E⁺, −E⁻). Stable for large |m|."""
    return F.softplus(e_pos - e_neg)


def soft_info_nce(e_pos: Values, e_neg: Values, optimal_margin: Values) -> Values:
    """q log(1 + e^−m) + (1 − q) log(1 + e^m) with label q = σ(m*); least at m = m* (`SharedNoise.optimal_margin`)."""
    optimal = optimal_margin.detach()
    return optimal.sigmoid() * info_nce(e_pos, e_neg) + (-optimal).sigmoid() * info_nce(e_neg, e_pos)


def monotonic_regression(
    energies: Float[Tensor, "b points"], distances: Float[Tensor, "b points"], least_slope: float
) -> Values:
    """max(0, k_min − k) + mean squared residual of the fitted line of slope k: released MRNCL (VFScale, 2502.01989)."""
    distance, energy = (each - each.mean(1, keepdim=True) for each in (distances, energies))
    slope = (distance * energy).sum(1) / distance.square().sum(1).clamp_min(1e-12)
    return F.relu(least_slope - slope) + (energy - slope.unsqueeze(1) * distance).square().mean(1)


class Contrast(NamedTuple):
    """A step's pairs before the update, [S·b] rows seed after seed, and the losses of each seed."""

    problem: MiningProblem
    mined: Mined
    noised: tuple[Noised, Noised]  # positive and negative, as the network sees them
    e_pos: Values
    e_neg: Values
    optimal_margin: Values
    loss_mse: PerSeed
    weight: PerSeed  # λ
    weighted: PerSeed  # λ times the contrastive loss


def step_losses(
    problem: MiningProblem, strategy: "NegativeStrategy | None", weight: PerSeed, soft_label: bool = False
) -> StepLosses:
    """Each seed's denoising loss plus λ times a strategy's contrastive loss. `ValueError` for misshapen negatives."""
    noise, y_pos, given, seeds = problem.noise, problem.y_pos, problem.given, problem.seeds
    noised = noise.noised(y_pos)
    score, e_pos = gradient_and_value(problem.noised_energy, noised)  # one evaluation
    score = score if given is None else score.masked_fill(given, 0.0)
    loss_mse = denoising_mse(score, noise.eps).unflatten(0, (seeds, -1)).mean(1)
    if strategy is None:
        return StepLosses(loss_mse, {"loss_mse": loss_mse})
    with torch.no_grad():
        mined = strategy.propose(problem)
    if mined.y_neg.shape != y_pos.shape:
        shapes = f"{tuple(mined.y_neg.shape)}; the targets have {tuple(y_pos.shape)}"
        raise ValueError(f"strategy '{strategy.name}' returned negatives of shape {shapes}")
    y_neg = problem.impose(mined.y_neg.detach())
    noised_neg = noise.noised(y_neg)
    e_neg = problem.noised_energy(noised_neg.as_subclass(Tensor))
    optimal_margin = noise.optimal_margin(y_pos, y_neg)
    rows = strategy.loss(problem, y_neg, e_pos, e_neg)
    if rows is None:
        rows = soft_info_nce(e_pos, e_neg, optimal_margin) if soft_label else info_nce(e_pos, e_neg)
    loss_con = rows.unflatten(0, (seeds, -1)).mean(1)
    weighted, pairs = weight.float() * loss_con, (Mined(y_neg, mined.log), (noised, noised_neg), e_pos, e_neg)
    detail = Contrast(problem, *pairs, optimal_margin, loss_mse, weight, weighted)
    return StepLosses(loss_mse + weighted, {"loss_mse": loss_mse, "loss_con": loss_con}, detail)
