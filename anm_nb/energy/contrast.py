"""What a step of an energy run computes, for its update and for the checklist's measurements of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from anm_nb.energy.losses import denoising_mse
from anm_nb.energy.miner import Mined
from anm_nb.energy.negatives import MiningProblem
from anm_nb.energy.networks import energy_given, gradient_and_value
from anm_nb.energy.probes import energy_columns, noising_columns
from anm_nb.training.learner import StepLosses
from anm_nb.training.stacked import StackedLosses


@dataclass
class EnergyLosses(StepLosses):
    """The losses of a step and what they were computed from, for the measurements."""

    contrast: Contrast | None = None
    weight: float = 0.0  # λ of this step
    weighted: tuple[Tensor, Tensor] | None = None  # contrastive loss with its weight, denoising loss
    parameters: Sequence[Tensor] = ()  # what these are functions of


@dataclass
class StackedEnergyLosses(StackedLosses):
    """The losses of a step of several seeds and what they were computed from, rows seed after seed."""

    contrast: Contrast
    weights: list[float]
    weighted: tuple[Tensor, Tensor]  # both [seeds]
    parameters: Sequence[Tensor]  # stacked, so a seed's losses reach its own slices alone

    def of(self, place: int) -> EnergyLosses:
        """The losses of one seed, as its learner measures them."""
        own = super().of(place)
        weighted, mse = self.weighted
        pair = (weighted[place], mse[place])
        contrast = self.contrast.of(place)
        return EnergyLosses(own.total, own.parts, contrast, self.weights[place], pair, self.parameters)


@dataclass
class Contrast:
    """The energies of positives and negatives of one batch, before the update."""

    mined: Mined
    e_pos: Tensor
    e_neg: Tensor
    optimal_margin: Tensor
    problem: MiningProblem
    noised: tuple[Tensor, Tensor]  # positive and negative as the network saw them

    def of(self, place: int) -> Contrast:
        """The rows of one of the seeds whose problems were taken together."""

        def own(rows: Tensor) -> Tensor:
            return rows.chunk(len(self.problem.parts))[place]

        mined = Mined(own(self.mined.y_neg), {name: own(values) for name, values in self.mined.log.items()})
        energies = own(self.e_pos), own(self.e_neg), own(self.optimal_margin)
        return Contrast(mined, *energies, self.problem.parts[place], (own(self.noised[0]), own(self.noised[1])))


def denoising_rows(
    energy: Callable[[Tensor], Tensor],
    noised: Float[Tensor, "b y_dim"],
    eps: Float[Tensor, "b y_dim"],
    given: Bool[Tensor, "b y_dim"] | None,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Denoising losses and energies, one evaluation for both; of given entries, whose noise is 0, nothing is learnt."""
    score, e_pos = gradient_and_value(energy, noised)
    score = score if given is None else score.masked_fill(given, 0.0)
    return denoising_mse(score, eps), e_pos


def rows_of_network(
    model: nn.Module,
    x: Float[Tensor, "b x_dim"],
    noised: Float[Tensor, "b y_dim"],
    k: Int[Tensor, " b"],
    eps: Float[Tensor, "b y_dim"],
    given: Bool[Tensor, "b y_dim"] | None,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """`denoising_rows` of E(x, ·, k), as a function of modules and tensors alone, which torch.compile can take."""
    return denoising_rows(energy_given(model, x, k), noised, eps, given)


def illegitimate_by_level(contrast: Contrast) -> Tensor:
    """How many negatives of the batch have m* < 0, and how many there are, at each noise level: [2, levels]."""
    noise = contrast.problem.noise
    levels = len(noise.schedule.betas)
    illegitimate = torch.bincount(noise.k[contrast.optimal_margin < 0], minlength=levels)
    return torch.stack([illegitimate, torch.bincount(noise.k, minlength=levels)]).float()


def contrast_scalars(contrast: Contrast) -> dict[str, float]:
    """Hardness, margins, energies, legitimacy, noise and mining of a batch of negatives (checklist A, B, C, K).

    The columns of the recorder (`energy_columns`, `noising_columns`), and means over examples of the miner's log.
    """
    noise = contrast.problem.noise
    signal, sigma = noise.schedule.signal(noise.k), noise.schedule.sigma(noise.k)
    scalars = energy_columns(contrast.e_pos.detach(), contrast.e_neg.detach())
    scalars.pop("loss_con", None)  # the loss itself stands beside it
    scalars |= noising_columns(*contrast.noised, contrast.problem.y_pos, contrast.mined.y_neg, signal, sigma)
    scalars["illegitimate_fraction"] = (contrast.optimal_margin < 0).float().mean()
    scalars["optimal_margin_mean"] = contrast.optimal_margin.mean()
    log = {name: values.float().nanmean() for name, values in contrast.mined.log.items()}
    if {"e_start", "e_mined"} <= log.keys():
        log["mined_drop"] = log["e_start"] - log["e_mined"]
    return {name: float(value) for name, value in (scalars | log).items()}
