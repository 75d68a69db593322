"""IRED's energy step, sampler, line scan and mining, written to be obvious rather than fast.

The same mathematics as `anm_nb.energy` without any sharing or saving: the level is embedded for every example, scores
use `autograd.grad(…, create_graph=True)` even if nothing is differentiated again, every energy is a separate forward
pass, and problems are made one by one. `against_plain.py` times it against the package; a test compares the two.

Throughout, `energy(x, y, k)` is a `PlainEnergy`, `alphas` and `betas` [levels] are the schedule's ᾱ and β.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainEnergy(nn.Module):
    """‖W₄h‖² over two FiLM layers (IRED, arXiv 2406.11179, appendix A), with the weight names of `EnergyMLP`."""

    def __init__(self, x_dim: int, y_dim: int, width: int) -> None:
        super().__init__()
        self.level = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 128))})
        self.input = nn.Linear(x_dim + y_dim, width)
        self.first = nn.ModuleDict({"linear": nn.Linear(width, width), "modulation": nn.Linear(128, 2 * width)})
        self.second = nn.ModuleDict({"linear": nn.Linear(width, width), "modulation": nn.Linear(128, 2 * width)})
        self.output = nn.Linear(width, y_dim)

    def forward(self, x: Tensor, y: Tensor, k: Tensor) -> Tensor:
        """Energies [batch]."""
        frequencies = torch.exp(-math.log(10000) * torch.arange(64, device=k.device) / 63)
        angles = k.unsqueeze(1) * frequencies
        level = self.level["mlp"](torch.cat([angles.sin(), angles.cos()], dim=1))
        h = F.silu(self.input(torch.cat([x, y], dim=1)))
        for layer in (self.first, self.second):
            gain, bias = layer["modulation"](level).chunk(2, dim=1)
            h = F.silu(layer["linear"](h) * (1 + gain) + bias)
        return self.output(h).pow(2).sum(dim=1)


def score(energy: nn.Module, x: Tensor, y: Tensor, k: Tensor) -> Tensor:
    """∇_yE [batch, y_dim]."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(energy(x, y, k).sum(), y, create_graph=True)
    return gradient


def inverses(n: int, size: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """n well-conditioned matrices and their inverses, flattened, made one by one on the source's device."""
    matrices, answers = [], []
    for _ in range(n):
        factor = torch.rand(size, size, generator=source, device=source.device) * 2 - 1
        product = factor @ factor.T
        matrix = product + product.T + 0.5 * torch.eye(size, device=source.device)
        matrices.append(matrix.flatten())
        answers.append(torch.linalg.inv(matrix).flatten())
    return torch.stack(matrices), torch.stack(answers)


def descent(
    energy: nn.Module, x: Tensor, y: Tensor, k: Tensor, alphas: Tensor, betas: Tensor, clamp: float, steps: int
) -> Tensor:
    """Descent steps on the energy from noised points; a step that raises the energy is rejected."""
    signal, sigma = alphas[k].sqrt().unsqueeze(1), (1 - alphas[k]).sqrt().unsqueeze(1)
    for _ in range(steps):
        trial = y - betas[k].unsqueeze(1) / sigma * score(energy, x, y, k).detach()
        trial = torch.clamp(trial, -signal * clamp, signal * clamp)
        with torch.no_grad():
            worse = energy(x, trial, k) > energy(x, y, k)
        y = torch.where(worse.unsqueeze(1), y, trial)
    return y


def stock_negatives(
    energy: nn.Module, x: Tensor, y: Tensor, k: Tensor, eps: Tensor, alphas: Tensor, betas: Tensor, clamp: float = 2.0
) -> Tensor:
    """The truth with threefold noise, after two descent steps, mapped back to y-space and clamped."""
    signal, sigma = alphas[k].sqrt().unsqueeze(1), (1 - alphas[k]).sqrt().unsqueeze(1)
    settled = descent(energy, x, signal * y + sigma * 3 * eps, k, alphas, betas, clamp, steps=2)
    return torch.clamp(settled / signal, -clamp, clamp)


def mined_negatives(
    energy: nn.Module, x: Tensor, y: Tensor, k: Tensor, eps: Tensor, alphas: Tensor, source: torch.Generator
) -> Tensor:
    """Armijo descent on the energy within the ball ‖y⁻ − y‖ ≤ ‖y‖ (ANM checklist, section B), as `MinerConfig` has it.

    Three accepted steps from half the radius; after four consecutive rejections an example stops. An example that comes
    closer to the truth than ‖y‖/10 restarts, at most twice.
    """
    signal, sigma = alphas[k].sqrt().unsqueeze(1), (1 - alphas[k]).sqrt().unsqueeze(1)
    radius = y.norm(dim=1)

    def noised(point: Tensor) -> Tensor:
        return signal * point + sigma * eps

    def started() -> Tensor:
        direction = torch.randn(y.shape, generator=source, device=y.device)
        return y + direction * (0.5 * radius / direction.norm(dim=1)).unsqueeze(1)

    def slope(point: Tensor) -> Tensor:
        return signal * score(energy, x, noised(point), k).detach()

    point = started()
    alpha = 0.5 * radius / slope(point).norm(dim=1)
    accepted, streak, restarts = (torch.zeros(len(y), dtype=torch.long, device=y.device) for _ in range(3))
    while True:
        active = (accepted < 3) & (streak < 4)
        if not active.any():
            return point
        trial = point - alpha.unsqueeze(1) * slope(point)
        length = (trial - y).norm(dim=1)
        trial = y + (trial - y) * torch.clamp(radius / length, max=1.0).unsqueeze(1)
        with torch.no_grad():
            bound = energy(x, noised(point), k) - 1e-4 / alpha * (trial - point).pow(2).sum(dim=1)
            enough = energy(x, noised(trial), k) <= bound
        moved = active & enough
        point = torch.where(moved.unsqueeze(1), trial, point)
        accepted = accepted + moved.long()
        streak = torch.where(moved, 0, streak + (active & ~enough).long())
        alpha = torch.where(active & ~enough, 0.5 * alpha, alpha)
        near = moved & ((point - y).norm(dim=1) < 0.1 * radius) & (restarts < 2)
        if near.any():
            point = torch.where(near.unsqueeze(1), started(), point)
            alpha = torch.where(near, 0.5 * radius / slope(point).norm(dim=1), alpha)
            accepted, restarts = torch.where(near, 0, accepted), restarts + near.long()


def denoising_loss(energy: nn.Module, x: Tensor, y: Tensor, k: Tensor, eps: Tensor, alphas: Tensor) -> Tensor:
    """Mean of (∇E(x, ỹ, k) − ε)²."""
    noised = alphas[k].sqrt().unsqueeze(1) * y + (1 - alphas[k]).sqrt().unsqueeze(1) * eps
    return F.mse_loss(score(energy, x, noised, k), eps)


def contrastive_loss(
    energy: nn.Module, x: Tensor, y: Tensor, y_neg: Tensor, k: Tensor, eps: Tensor, alphas: Tensor
) -> Tensor:
    """Two-way cross-entropy over (−E⁺, −E⁻), both noised with the same ε."""
    signal, sigma = alphas[k].sqrt().unsqueeze(1), (1 - alphas[k]).sqrt().unsqueeze(1)
    logits = [-energy(x, signal * each + sigma * eps, k) for each in (y, y_neg)]
    return F.cross_entropy(torch.stack(logits, dim=1), torch.zeros(len(y), dtype=torch.long, device=y.device))


def sampled(
    energy: nn.Module, x: Tensor, noise: Tensor, alphas: Tensor, betas: Tensor, clamp: float = 2.0, steps: int = 5
) -> Tensor:
    """Annealed sampling from the given noise (IRED, algorithm 2)."""
    noised = noise
    for level in range(len(alphas) - 1, -1, -1):
        k = torch.full((len(x),), level, device=x.device)
        signal, sigma = alphas[level].sqrt(), (1 - alphas[level]).sqrt()
        estimate = torch.clamp((noised - sigma * score(energy, x, noised, k).detach()) / signal, -clamp, clamp)
        settled = descent(energy, x, signal * estimate, k, alphas, betas, clamp, steps)
        y = settled / signal
        if level > 0:
            noised = alphas[level - 1].sqrt() * y
    return y


@torch.no_grad()
def scanned(energy: Callable[..., Tensor], x: Tensor, start: Tensor, end: Tensor, k: Tensor, grid: Tensor) -> Tensor:
    """Energies [batch, grid] on the lines from start to end, one point at a time."""
    return torch.stack([energy(x, (1 - t) * start + t * end, k) for t in grid], dim=1)


class PlainTraining:
    """The step of the published recipe: fresh problems, both losses, clipped gradient, Adam, EMA every tenth step.

    `sources` are the generators for data, noise and negatives, on the network's device.
    """

    def __init__(
        self,
        energy: PlainEnergy,
        alphas: Tensor,
        betas: Tensor,
        sources: dict[str, torch.Generator],
        negatives: str,
        size: int,
        batch: int,
        contrastive_weight: float = 0.5,
    ) -> None:
        self.energy, self.averaged = energy, copy.deepcopy(energy)
        self.alphas, self.betas, self.sources = alphas, betas, sources
        self.negatives, self.size, self.batch, self.contrastive_weight = negatives, size, batch, contrastive_weight
        self.optimiser = torch.optim.Adam(energy.parameters(), lr=1e-4, betas=(0.9, 0.99))
        self.steps = 0

    def step(self) -> dict[str, Tensor]:
        """Take one update and return its losses."""
        x, y = inverses(self.batch, self.size, self.sources["data"])
        noise = self.sources["noise"]
        k = torch.randint(len(self.alphas), (len(y),), generator=noise, device=y.device)
        eps = torch.randn(y.shape, generator=noise, device=y.device)
        losses = {"loss_mse": denoising_loss(self.energy, x, y, k, eps, self.alphas)}
        if self.negatives == "stock":
            y_neg = stock_negatives(self.energy, x, y, k, eps, self.alphas, self.betas)
        elif self.negatives == "anm":
            y_neg = mined_negatives(self.averaged, x, y, k, eps, self.alphas, self.sources["negatives"])
        total = losses["loss_mse"]
        if self.negatives != "none":
            losses["loss_con"] = contrastive_loss(self.energy, x, y, y_neg, k, eps, self.alphas)
            total = total + self.contrastive_weight * losses["loss_con"]
        self.optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.energy.parameters(), 1.0)
        self.optimiser.step()
        self.steps += 1
        if self.steps % 10 == 0:
            self.average(0.995 if self.steps > 10 else 0.0)
        return {name: loss.detach() for name, loss in losses.items()}

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Move every averaged weight towards the current one."""
        for averaged, weight in zip(self.averaged.parameters(), self.energy.parameters(), strict=True):
            averaged.copy_(decay * averaged + (1 - decay) * weight)
