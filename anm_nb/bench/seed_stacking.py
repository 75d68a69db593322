"""Gradients of several seeds: one network after another, or all as one batch of networks (`torch.func`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from anm_nb.energy.losses import denoising_mse
from anm_nb.energy.networks import score_and_energy
from anm_nb.energy.schedule import SharedNoise
from anm_nb.energy.train import EnergyConfig, EnergyLearner
from anm_nb.ranking.train import RankingConfig, RankingLearner

Gradients = list[Tensor | None]  # of each weight; None where none arrived


class RankingLoss(nn.Module):
    """The ranking loss of a batch x, ranks, known as a module, for `functional_call`."""

    def __init__(self, learner: RankingLearner) -> None:
        super().__init__()
        self.network = learner.network
        self.ranking_loss = learner.ranking_loss

    def forward(self, x: Tensor, ranks: Tensor, known: Tensor) -> Tensor:
        z_per_iter, _ = self.network.refine(x)
        return self.ranking_loss(z_per_iter, ranks, known)


class DenoisingLoss(nn.Module):
    """The denoising loss of inputs x and noised targets as a module, for `functional_call`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, noised: Tensor, eps: Tensor, k: Tensor) -> Tensor:
        score, _ = score_and_energy(self.network, x, noised, k)
        return denoising_mse(score, eps).mean()


def seed_losses(
    config: RankingConfig | EnergyConfig, seeds: Sequence[int], device: str
) -> tuple[list[nn.Module], list[Tensor]]:
    """A loss for each seed, of its own weights, and a batch for each: tensors [seeds, batch, …].

    Raises `ParameterError` where a config cannot be trained; negatives are left out.
    """
    learners = [config.learner(seed, device) for seed in seeds]
    modules: list[nn.Module] = []
    batches: list[tuple[Tensor, ...]] = []
    for learner in learners:
        if isinstance(learner, RankingLearner):
            data = learner.training
            known = torch.ones_like(data.y, dtype=torch.bool) if data.known is None else data.known
            modules.append(RankingLoss(learner))
            batches.append(tuple(each[: learner.config.batch] for each in (data.x, data.y, known)))
        elif isinstance(learner, EnergyLearner):
            batch = learner.batch(0)
            noise = SharedNoise.draw(learner.schedule, batch.y, learner.generators["noise"], None)
            modules.append(DenoisingLoss(learner.model))
            batches.append((batch.x, noise.noised(batch.y), noise.eps, noise.k))
    return modules, [torch.stack(parts) for parts in zip(*batches, strict=True)]


def in_turn(modules: Sequence[nn.Module], data: Sequence[Tensor]) -> Callable[[], list[Gradients]]:
    """A function that computes the gradients of one seed after another: a list for each seed."""

    def step() -> list[Gradients]:
        for module, *batch in zip(modules, *data, strict=True):
            module.zero_grad(set_to_none=True)
            module(*batch).backward()
        return [[weight.grad for weight in module.parameters()] for module in modules]

    return step


def stacked(modules: Sequence[nn.Module], data: Sequence[Tensor]) -> Callable[[], Gradients]:
    """A function that computes the gradients [seeds, …] of all seeds at once, by products over a batch of networks.

    The weights are copies, stacked once. Attention takes its plain form: its fused kernel on the CPU has no rule for a
    batch of networks.
    """
    weights, buffers = stack_module_state(list(modules))

    def loss(weights: dict[str, Tensor], buffers: dict[str, Tensor], *batch: Tensor) -> Tensor:
        return functional_call(modules[0], (weights, buffers), batch)

    def step() -> Gradients:
        for weight in weights.values():
            weight.grad = None
        with sdpa_kernel(SDPBackend.MATH):
            vmap(loss)(weights, buffers, *data).sum().backward()
        return [weight.grad for weight in weights.values()]

    return step
