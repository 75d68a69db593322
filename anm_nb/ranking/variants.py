"""Variants of an HRM model as the config fields that make them: the document's fixes, models to compare it with, costs.

All are trained by the same code on the same data. Fields that a variant makes no use of stand at their defaults, so
that HRM configs which differ in nothing else share it as one run.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import torch

from anm_nb.config import ParameterError
from anm_nb.ranking.learner import objective
from anm_nb.ranking.train import RankingConfig
from anm_nb.training.run import counted_flops

# The published values of what each of the document's fixes replaces. Of its nine, seven change a training; the other
# two are per-iteration diagnostics and the experiment grid.
FIXES: dict[str, dict[str, Any]] = {
    "mask-aware metric": {"mask_aware": False, "selection": "tau_index"},
    "ranking loss": {"loss": "cross_entropy"},
    "deep supervision": {"deep_supervision": False, "gradient": "last"},
    "temperature schedule": {"temperature": 1.0, "temperature_min": 1.0, "temperature_decay": 1.0},
    "entropy regularisation": {"entropy_weight": 0.0},
    "two optimisers": {"two_optimisers": False},
    "controller warm-up": {"warmup_epochs": 0},
}
PUBLISHED: dict[str, Any] = {"encoding": "raw"} | {field: old for fix in FIXES.values() for field, old in fix.items()}

# Each lacks one thing, and a difference between two is due to that:
COMPARATORS: dict[str, dict[str, Any]] = {
    "no iteration": {"routing": "uniform", "max_inner_iters": 1},  # the encoder and one pass of the block
    "deep untied": {"routing": "uniform", "tied": False},  # as many passes, a block for each
    "weight-tied": {"routing": "uniform"},  # one block in every pass, which is uniform α as well
    "random α": {"routing": "random"},  # uneven and different in each iteration, by chance and whatever the input
    "untrained controller": {"trained_routing": False},  # as drawn: depends on token and history, nothing is learned
    "one timescale": {"slow_state": False},
    "equal timescales": {"hrm_period": 1},  # two states and all parameters of HRM, but both move in every iteration
    "HRM per token": {"routing": "token"},
    "HRM per sequence": {"routing": "sequence"},
}


def ablations(config: RankingConfig) -> dict[str, RankingConfig]:
    """The fixes' ablation by name: "published", each added alone ("only …"), each removed ("all but …"), and "all".

    "published" is without every fix, and has the published input, −999 for hidden values.
    """
    kept = {fix: {field: getattr(config, field) for field in fields} for fix, fields in FIXES.items()}
    return {
        "published": config.changed(**PUBLISHED),
        **{f"only {fix}": config.changed(**PUBLISHED | kept[fix]) for fix in FIXES},
        **{f"all but {fix}": config.changed(**fields) for fix, fields in FIXES.items()},
        "all": config,
    }


def comparators(config: RankingConfig) -> dict[str, RankingConfig]:
    """The comparators of an HRM config by name, and last the HRM model itself, routed by token and by sequence.

    Raises `ParameterError` for a config that is not an HRM model with several iterations of one block.
    """
    whole = {name: getattr(config, name) for name in ("trained_routing", "slow_state", "tied")}
    for name, fine in (
        whole | {"routing": config.has_controller, "max_inner_iters": config.max_inner_iters > 1}
    ).items():
        if not fine:
            raise ParameterError(
                f"{name} = {getattr(config, name)!r}: comparators are of a whole HRM model; allowed: trained routing "
                "by token or sequence, a slow state, and 2 or more iterations of one block"
            )
    return {name: config.changed(**fields).reduced() for name, fields in COMPARATORS.items()}


def at_values(config: RankingConfig, field: str, values: Sequence[float]) -> dict[str, RankingConfig]:
    """The baseline, and an HRM config at each value of one field, by name ("hrm_period = 4").

    Raises `ParameterError` where the config's own value is not among `values`: the others are compared with it.
    """
    if (own := getattr(config, field)) not in values:
        raise ParameterError(
            f"values = {list(values)}: {field} = {own} has to be among them, as the others are compared with it"
        )
    at = {f"{field} = {value:g}": config.changed(**{field: value}) for value in values}
    return {"baseline": config.baseline()} | at


def model_cost(config: RankingConfig) -> dict[str, int]:
    """A model's parameters, and operations in matrix products for one array (a multiply-add counts 2).

    `trained_parameters` are without those of random routing, or of a controller that stays as drawn; `forward_flops`
    are with decoding; `training_flops` of forward, loss and backward.
    """
    with torch.device("meta"):  # nothing is computed
        network = config.make_model()
        x, ranks = torch.zeros(1, config.size, network.features), torch.arange(config.size).unsqueeze(0)
        parts = {
            "": list(network.parameters()),
            "trained_": [each for each in network.parameters() if each.requires_grad],
            "controller_": [] if network.controller is None else list(network.controller.parameters()),
        }
        return {f"{part}parameters": sum(each.numel() for each in own) for part, own in parts.items()} | {
            "forward_flops": counted_flops(lambda: network(x)),
            "training_flops": counted_flops(lambda: objective(config, network, x, ranks, None)[0].backward()),
        }


def matched(config: RankingConfig, *, to: RankingConfig, by: Literal["parameters", "operations"]) -> RankingConfig:
    """The config at the width, a multiple of n_heads, whose cost is nearest to that of `to`; the narrower of equals.

    `by` is "parameters" (all, trained or not) or "operations" (of a training step).
    """
    part = {"operations": "training_flops"}.get(by, by)
    count = cache(lambda width: model_cost(config.changed(width=width))[part])
    wanted = model_cost(to)[part]
    widest = (to.max_inner_iters + 2) * to.width  # as counts grow at least linearly with it
    widths = range(config.n_heads, widest + config.n_heads, config.n_heads)
    above = min(bisect_left(widths, wanted, key=count), len(widths) - 1)
    nearest = min(widths[max(0, above - 1) : above + 1], key=lambda width: abs(count(width) - wanted))
    return config.changed(width=nearest)
