"""What a ranking model costs, counted rather than timed: parameters and floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from anm_nb.ranking.train import RankingConfig, RankingLearner


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
    with sdpa_kernel(SDPBackend.MATH):  # the counter does not know the CPU's fused kernel
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            network(learner.training.x)
        with FlopCounterMode(display=False) as training:
            learner.losses(0, network).total.backward()
    return Cost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        controller_parameters=sum(parameter.numel() for parameter in network.controller_parameters()),
        forward_flops=forward.get_total_flops() // config.batch,
        training_flops=training.get_total_flops() // config.batch,
    )
