"""Models to compare an HRM model with, each lacking one thing of it, and what they cost beside it.

Each is a config derived from that of the HRM model, trained by the same code on the same data. Fields that a comparator
makes no use of stand at their defaults, so that HRM configs which differ in nothing else share it as one run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch

from anm_nb.config import ParameterError
from anm_nb.ranking.cost import model_cost
from anm_nb.ranking.train import LEARNED_ROUTING_FIELDS, ROUTED_FIELDS, RankingConfig

By = Literal["parameters", "operations"]
Vary = Literal["width", "encoder_layers", "max_inner_iters"]


def comparators(config: RankingConfig) -> dict[str, RankingConfig]:
    """The comparators of an HRM config by name, and last the HRM model itself, routed by token and by sequence.

    What each one differs in from another, and so what a difference between the two would be due to:

    - "no iteration": the encoder and one pass of the block, every head alike.
    - "deep untied": as many passes, each through a block of its own, every head alike.
    - "weight-tied": the same block in every pass, every head alike; operations are those of "deep untied". It is
      uniform-α routing as well, which is no other model: α = 1/heads scales nothing, and a controller that it stands
      in for gets no gradient.
    - "random α": weight-tied, α drawn once for each iteration (`RandomRouting`). Heads are weighed unevenly and
      differently in each iteration, but by chance and whatever the input.
    - "untrained controller": the controller as it was drawn, with its temperature schedule. α depends on token and
      history, but nothing about it is learned; as drawn it is nearly uniform. Parameters and operations of a forward
      pass are those of the HRM model.
    - "one timescale": HRM whose controller has no slow state.
    - "equal timescales": HRM whose slow state moves in every iteration: two states, and all parameters of HRM.
    - "HRM per token", "HRM per sequence": the whole model. Of the three before, routing is the config's.

    Raises `ParameterError` for a config that is not an HRM model with several iterations of one block.
    """
    lacking = {
        "routing": (config.has_controller, "'token', 'sequence'"),
        "trained_routing": (config.trained_routing, "True"),
        "slow_state": (config.slow_state, "True"),
        "tied": (config.tied, "True"),
        "max_inner_iters": (config.max_inner_iters > 1, "2 or more"),
    }
    for name, (present, allowed) in lacking.items():
        if not present:
            value = getattr(config, name)
            raise ParameterError(f"{name} = {value!r}: comparators are of a whole HRM model; allowed: {allowed}")
    tied = config.without(ROUTED_FIELDS, routing="uniform")
    return {
        "no iteration": config.baseline(),
        "deep untied": tied.changed(tied=False),
        "weight-tied": tied,
        "random α": tied.changed(routing="random"),
        "untrained controller": config.without(LEARNED_ROUTING_FIELDS, trained_routing=False),
        "one timescale": config.without(("hrm_period",), slow_state=False),
        "equal timescales": config.changed(hrm_period=1),
        "HRM per token": config.changed(routing="token"),
        "HRM per sequence": config.changed(routing="sequence"),
    }


class Match(NamedTuple):
    """A config matched to another one, and what is left of the difference."""

    config: RankingConfig
    wanted: int  # what the other one has
    counted: int  # what the matched one has

    @property
    def ratio(self) -> float:
        """counted/wanted: 1 where the match is exact."""
        return self.counted / self.wanted


def matched(config: RankingConfig, *, to: RankingConfig, by: By, vary: Vary = "width") -> Match:
    """The config whose count is nearest to that of `to`, by a change of one field; of two as near, the smaller model.

    `by` is "parameters" (all, trained or not) or "operations" (of a training step, for one problem); `vary` the
    field: "width" in multiples of n_heads, "encoder_layers" or "max_inner_iters". Raises `ParameterError` where the
    count does not depend on it.
    """
    wanted = COUNTS[by](to)
    step = config.n_heads if vary == "width" else 1
    least = step
    if vary == "max_inner_iters" and config.has_controller and config.slow_state:
        least = config.hrm_period

    def at(place: int) -> RankingConfig:
        return config.changed(**{vary: least + place * step})

    @cache
    def count(place: int) -> int:
        return COUNTS[by](at(place))

    own = (getattr(config, vary) - least) // step
    if count(own + 1) == count(own):
        raise ParameterError(f"vary = '{vary}': the {by} of this model do not depend on it")
    above = _first_at_least(wanted, count, own)
    nearest = min({max(0, above - 1), above}, key=lambda place: (abs(count(place) - wanted), place))
    return Match(at(nearest), wanted, count(nearest))


def comparator_table(config: RankingConfig, by: By | None = None, vary: Vary = "width") -> pd.DataFrame:
    """What the comparators of an HRM config cost, as they are or, with `by`, each `matched` to it.

    One row each, in the order of `comparators`. Columns: comparator, width, encoder_layers, max_inner_iters,
    parameters, trained_parameters, forward_flops and training_flops (of one problem, by `model_cost`), and each of
    parameters and the two operations as a ratio to the HRM model's: parameters_ratio, forward_ratio, training_ratio.
    What a ratio that was matched differs from 1 by is what remains of the difference.
    """
    rows = []
    full = _row("", config)
    for name, derived in comparators(config).items():
        row = _row(name, matched(derived, to=config, by=by, vary=vary).config if by else derived)
        ratios = {
            ratio: row[counted] / full[counted]
            for ratio, counted in {
                "parameters_ratio": "parameters",
                "forward_ratio": "forward_flops",
                "training_ratio": "training_flops",
            }.items()
        }
        rows.append(row | ratios)
    return pd.DataFrame(rows)


def parameter_count(config: RankingConfig) -> int:
    """The parameters of a config's model, trained or not, without making them."""
    return sum(parameter.numel() for parameter in _without_weights(config).parameters())


def trained_parameter_count(config: RankingConfig) -> int:
    """The parameters that training moves: all but those of random routing or of a controller that stays as drawn."""
    return sum(parameter.numel() for parameter in _without_weights(config).parameters() if parameter.requires_grad)


def training_operations(config: RankingConfig) -> int:
    """Operations of a training step for one problem, as `model_cost` counts them."""
    return model_cost(config.changed(batch=1)).training_flops


COUNTS: dict[By, Callable[[RankingConfig], int]] = {"parameters": parameter_count, "operations": training_operations}


def _without_weights(config: RankingConfig) -> torch.nn.Module:
    with torch.device("meta"):
        return config.make_model()


def _row(name: str, config: RankingConfig) -> dict[str, Any]:
    cost = model_cost(config.changed(batch=1))
    return {
        "comparator": name,
        "width": config.width,
        "encoder_layers": config.encoder_layers,
        "max_inner_iters": config.max_inner_iters,
        "parameters": cost.parameters,
        "trained_parameters": trained_parameter_count(config),
        "forward_flops": cost.forward_flops,
        "training_flops": cost.training_flops,
    }


def _first_at_least(wanted: int, count: Callable[[int], int], start: int) -> int:
    """The first place, from 0, at which a count that grows with it is at least as wanted; looked for from `start`."""
    low, high = -1, start  # whatever is counted at 0, before it is too little
    while count(high) < wanted:
        low, high = high, 2 * high + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if count(middle) >= wanted else (middle, high)
    return high
