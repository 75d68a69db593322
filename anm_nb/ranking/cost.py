"""What ranking models cost, counted: parameters and operations, and widths at which two models cost alike."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from anm_nb.ranking.learner import objective
from anm_nb.ranking.networks import RankingModel
from anm_nb.ranking.train import RankingConfig


@dataclass(frozen=True)
class Cost:
    """Parameters, and operations in matrix products (a multiply-add counts 2)."""

    parameters: int
    trained_parameters: int  # without those of random routing, or of a controller that stays as drawn
    controller_parameters: int
    forward_flops: int  # of one array, decoding included
    training_flops: int  # of one array: forward, loss and backward


def model_cost(config: RankingConfig) -> Cost:
    """The cost of a config's model, counted on one array of zeros, on the CPU."""
    network = config.make_model()
    own = list(network.parameters())
    return Cost(
        parameters=sum(parameter.numel() for parameter in own),
        trained_parameters=sum(parameter.numel() for parameter in own if parameter.requires_grad),
        controller_parameters=sum(parameter.numel() for parameter in network.controller_parameters()),
        forward_flops=forward_flops(network, torch.zeros(1, config.size, network.features)),
        training_flops=training_flops(config),
    )


def parameter_count(config: RankingConfig) -> int:
    """The parameters of a config's model, trained or not."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in config.make_model().parameters())


def training_flops(config: RankingConfig) -> int:
    """Operations of a training step for one array: forward, loss and backward."""
    network = config.make_model()
    x, ranks = torch.zeros(1, config.size, network.features), torch.arange(config.size).unsqueeze(0)
    with FlopCounterMode(display=False) as counted:
        objective(config, network, x, ranks, None)[0].backward()
    return counted.get_total_flops()


@torch.no_grad()
def forward_flops(model: RankingModel, x: Float[Tensor, "batch items features"], iterations: int | None = None) -> int:
    """Operations of the model's forward pass, decoding included, over all problems of x."""
    with FlopCounterMode(display=False) as counted:
        model(x, iterations)
    return counted.get_total_flops()


COUNTS = {"parameters": parameter_count, "operations": training_flops}


def matched(config: RankingConfig, *, to: RankingConfig, by: Literal["parameters", "operations"]) -> RankingConfig:
    """The config at the width, a multiple of n_heads, whose count is nearest to that of `to`; the narrower of equals.

    `by` is "parameters" (all, trained or not) or "operations" (of a training step).
    """
    count = cache(lambda width: COUNTS[by](config.changed(width=width)))
    wanted = COUNTS[by](to)
    widest = (to.max_inner_iters + 2) * to.width  # as counts grow at least linearly with it
    widths = range(config.n_heads, widest + config.n_heads, config.n_heads)
    above = min(bisect_left(widths, wanted, key=count), len(widths) - 1)
    return config.changed(
        width=min(widths[max(0, above - 1) : above + 1], key=lambda width: abs(count(width) - wanted))
    )
