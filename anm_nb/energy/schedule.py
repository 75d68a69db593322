"""The noise schedule, and the only function that adds noise (IRED, arXiv 2406.11179; ANM checklist, section C)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anm_nb.tasks import Clues
from anm_nb.training.seeds import RowDraws

Points = Float[Tensor, "b d"]
Values = Float[Tensor, " b"]  # one number for each point
Column = Float[Tensor, "b 1"]
Levels = Int[Tensor, " b"]


class Noised(Tensor):
    """A tensor with noise in it. Arithmetic keeps the type; noising it again, the bug of section C, raises."""


@dataclass(frozen=True)
class NoiseSchedule:
    """Noise levels k = 0 (least noise) … K − 1: ᾱ_k and β_k, both [K]. The ANM document writes σ_k² = 1 − ᾱ_k."""

    alphas_cumprod: Float[Tensor, " levels"]
    betas: Float[Tensor, " levels"]

    @classmethod
    def cosine(cls, levels: int, device: str = "cpu") -> "NoiseSchedule":
        """β_k = 1 − f_k₊₁/f_k ≤ 0.999, f_k = cos²(½π(k/K + s)/(1 + s)), s = 0.008 (Nichol & Dhariwal 2021, eq. 17)."""
        t = torch.linspace(0, 1, levels + 1, dtype=torch.float64)
        f = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
        betas = (1 - f[1:] / f[:-1]).clamp(0, 0.999)
        return cls(torch.cumprod(1 - betas, 0).float().to(device), betas.float().to(device))

    def signal(self, k: Levels) -> Column:
        """√ᾱ_k, the factor of the clean target."""
        return self.alphas_cumprod[k].sqrt().unsqueeze(1)

    def sigma(self, k: Levels) -> Column:
        """σ_k = √(1 − ᾱ_k), the standard deviation of the noise."""
        return (1 - self.alphas_cumprod[k]).sqrt().unsqueeze(1)

    def step_size(self, k: Levels) -> Column:
        """β_k/σ_k, the published step size of descent on the energy at level k."""
        return self.betas[k].unsqueeze(1) / self.sigma(k)

    def q_sample(self, y: Points, k: Levels, eps: Points) -> Noised:
        """ỹ = √ᾱ_k·y + σ_k·ε. Raises `TypeError` if y is noised already."""
        if isinstance(y, Noised):
            raise TypeError("this tensor is noised already: a target is noised exactly once (checklist, section C)")
        return (self.signal(k) * y + self.sigma(k) * eps).as_subclass(Noised)

    def to_clean(self, noised: Points, k: Levels) -> Points:
        """ỹ/√ᾱ_k: a noised point in the scale of clean targets, as a plain tensor."""
        return (noised / self.signal(k)).as_subclass(Tensor)


@dataclass(frozen=True)
class SharedNoise:
    """Levels k and noise ε of a batch, shared by each positive and its negative (checklist, section C)."""

    schedule: NoiseSchedule
    k: Levels
    eps: Points

    @classmethod
    def draw(cls, schedule: NoiseSchedule, y: Points, draws: RowDraws, clues: Clues | None = None) -> "SharedNoise":
        """Draw levels uniformly over the schedule and ε from N(0, 1); ε is 0 in entries given by clues."""
        k, eps = draws.integers(len(schedule.betas), (len(y),)), draws.normal(y.shape)
        return cls(schedule, k, eps if clues is None else eps.masked_fill(clues.mask, 0.0))

    def noised(self, y: Points) -> Noised:
        return self.schedule.q_sample(y, self.k, self.eps)

    def optimal_margin(self, y_pos: Points, y_neg: Points) -> Values:
        """m* = ᾱ_k‖Δ‖²/(2σ_k) + √ᾱ_k Δ·ε, Δ = y⁻ − y⁺: E⁻ − E⁺ under `optimal_energy`. Below 0: illegitimate."""
        shift = self.schedule.signal(self.k) * (y_neg - y_pos)
        return (shift.square() / (2 * self.schedule.sigma(self.k)) + shift * self.eps).sum(1)

    def change_margin(self, y_pos: Points, classes: int) -> Points:
        """m* of changing one decision to the class of each entry (0: the true class), or its sign (`classes` = 1)."""
        signal, sigma = self.schedule.signal(self.k), self.schedule.sigma(self.k)
        if classes == 1:
            return 2 * signal**2 / sigma - 2 * signal * y_pos * self.eps
        of_truth = (self.eps * (y_pos > 0)).unflatten(1, (-1, classes)).sum(2)
        gain = self.eps - of_truth.repeat_interleave(classes, dim=1)
        return (4 * signal**2 / sigma + 2 * signal * gain).masked_fill(y_pos > 0, 0.0)
