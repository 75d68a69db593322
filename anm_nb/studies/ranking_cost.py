"""What ranking models cost, counted: parameters and operations, and comparators matched to an HRM model by either."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cache
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from anm_nb.ranking.learner import objective
from anm_nb.ranking.networks import RankingModel
from anm_nb.ranking.train import RankingConfig
from anm_nb.ranking.variants import comparators
from anm_nb.training.timing import step_seconds

By = Literal["parameters", "operations"]


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


def epoch_seconds(config: RankingConfig, rounds: int = 3) -> float:
    """Seconds of an epoch, from the median of `rounds` timed training steps (dev evaluation not included)."""
    return float(step_seconds({"model": config}, rounds)["model"].median()) * config.steps_per_epoch()


def matched(config: RankingConfig, *, to: RankingConfig, by: By) -> RankingConfig:
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


def comparator_table(config: RankingConfig, by: By | None = None) -> pd.DataFrame:
    """What the comparators of an HRM config cost, as they are or, with `by`, each `matched` to it.

    One row each. Columns: comparator, width, max_inner_iters, those of `model_cost`, and ratios to the HRM model's:
    parameters_ratio, forward_ratio, training_ratio; what a matched one differs from 1 by is what remains.
    """
    full = model_cost(config)
    rows = []
    for name, variant in comparators(config).items():
        variant = matched(variant, to=config, by=by) if by else variant
        cost = model_cost(variant)
        rows.append(
            {"comparator": name, "width": variant.width, "max_inner_iters": variant.max_inner_iters}
            | vars(cost)
            | {
                "parameters_ratio": cost.parameters / full.parameters,
                "forward_ratio": cost.forward_flops / full.forward_flops,
                "training_ratio": cost.training_flops / full.training_flops,
            }
        )
    return pd.DataFrame(rows)
