"""Negatives whose energies are to rise with their distance from the truth: MRNCL of VFScale (arXiv 2502.01989)."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from anm_nb.energy.negatives import MiningProblem, Random
from anm_nb.energy.networks import Targets
from anm_nb.energy.schedule import Values


def monotonic_regression(
    energies: Float[Tensor, "b points"], distances: Float[Tensor, "b points"], least_slope: float
) -> Values:
    """max(0, k_min − k) + mean squared residual of the line with slope k, fitted to energies over distances.

    The MRNCL of VFScale (arXiv 2502.01989) in the form of its released code, with both of its coefficients 1: the
    energies of a truth (distance 0) and of two negatives are to rise in proportion to their distance from the truth.
    """
    distance, energy = (each - each.mean(1, keepdim=True) for each in (distances, energies))
    slope = (distance * energy).sum(1) / distance.square().sum(1).clamp_min(1e-12)
    return F.relu(least_slope - slope) + (energy - slope.unsqueeze(1) * distance).square().mean(1)


class Mrncl(Random):
    """VFScale's negatives and loss (`monotonic_regression`), without its KL term.

    Beside the negative at distance `eps` a nearer one stands on the way to it, at the share `near`. Here all three
    points carry the batch's noise; the released code weighs that form and one without noise. The KL term needs
    gradients through the sampler.
    """

    name = "mrncl"
    near: Annotated[float, Field(gt=0, lt=1)] = 0.5
    least_slope: PositiveFloat = 1.0  # k_min, in nats per ‖y⁺‖

    def loss(self, problem: MiningProblem, y_neg: Targets, e_pos: Values, e_neg: Values) -> Values:
        y_pos = problem.y_pos
        nearer = problem.impose(y_pos + self.near * (y_neg - y_pos))
        e_near = problem.noised_energy(problem.noise.noised(nearer).as_subclass(Tensor))
        distance = (y_neg - y_pos).norm(dim=1) / y_pos.norm(dim=1).clamp_min(1e-12)
        distances = torch.stack([torch.zeros_like(distance), self.near * distance, distance], dim=1)
        return monotonic_regression(torch.stack([e_pos, e_near, e_neg], dim=1), distances, self.least_slope)
