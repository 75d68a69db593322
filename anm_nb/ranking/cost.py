"""What a ranking model costs: parameters and floating-point operations counted, and an epoch timed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from anm_nb.ranking.networks import RankingModel
from anm_nb.ranking.train import RankingConfig, RankingLearner
from anm_nb.training.epochs import batches_per_epoch
from anm_nb.training.timing import step_seconds


@dataclass(frozen=True)
class Cost:
    """Parameters, and operations in matrix products and attention (a multiply-add counts 2)."""

    parameters: int
    controller_parameters: int
    forward_flops: int  # of one array
    training_flops: int  # of one array: forward, loss and backward


def model_cost(config: RankingConfig) -> Cost:
    """The cost of a config's model, counted on one batch on the CPU."""
    few = {"train_samples": config.batch, "dev_samples": 1, "test_samples": 1, "device": "cpu"}
    learner = RankingLearner(config.changed(**few), config.seeds[0], "cpu")
    network = learner.network
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as training:  # see `forward_flops`
        learner.losses(0, network).total.backward()
    return Cost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        controller_parameters=sum(parameter.numel() for parameter in network.controller_parameters()),
        forward_flops=forward_flops(network, learner.training.x) // config.batch,
        training_flops=training.get_total_flops() // config.batch,
    )


@torch.no_grad()
def forward_flops(model: RankingModel, x: Float[Tensor, "batch items features"], iterations: int | None = None) -> int:
    """Operations of the model's forward pass, decoding included, over all problems of x."""
    # the counter does not know the CPU's fused kernel
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        model(x, iterations)
    return counted.get_total_flops()


def epoch_seconds(config: RankingConfig, rounds: int = 3) -> float:
    """Seconds of an epoch, from the median of `rounds` timed training steps (dev evaluation not included)."""
    timed = step_seconds({"model": config.learner}, config.loop, rounds=rounds)
    return float(timed["model"].median()) * batches_per_epoch(config.train_samples, config.batch)
