"""Variants of an HRM model as the config fields that make them: the document's fixes, and models to compare it with.

All are trained by the same code on the same data. Fields that a variant makes no use of stand at their defaults, so
that HRM configs which differ in nothing else share it as one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anm_nb.config import ParameterError
from anm_nb.ranking.train import RankingConfig

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


def published(config: RankingConfig) -> RankingConfig:
    """A config with every fix removed and the published input, −999 for hidden values."""
    return config.changed(**PUBLISHED)


def ablations(config: RankingConfig) -> dict[str, RankingConfig]:
    """The fixes' ablation by name: "published", each added alone ("only …"), each removed ("all but …"), and "all"."""
    kept = {fix: {field: getattr(config, field) for field in fields} for fix, fields in FIXES.items()}
    return {
        "published": published(config),
        **{f"only {fix}": config.changed(**PUBLISHED | kept[fix]) for fix in FIXES},
        **{f"all but {fix}": config.changed(**fields) for fix, fields in FIXES.items()},
        "all": config,
    }


def comparators(config: RankingConfig) -> dict[str, RankingConfig]:
    """The comparators of an HRM config by name, and last the HRM model itself, routed by token and by sequence.

    Raises `ParameterError` for a config that is not an HRM model with several iterations of one block.
    """
    needed: dict[str, tuple[Any, ...]] = {
        "routing": ("token", "sequence"), "trained_routing": (True,), "slow_state": (True,), "tied": (True,),
    }  # fmt: skip
    for name, allowed in needed.items():
        if (value := getattr(config, name)) not in allowed:
            listed = ", ".join(map(repr, allowed))
            raise ParameterError(f"{name} = {value!r}: comparators are of a whole HRM model; allowed: {listed}")
    if config.max_inner_iters < 2:
        raise ParameterError("max_inner_iters = 1: comparators are of a whole HRM model; allowed: 2 or more")
    return {name: config.changed(**fields).reduced() for name, fields in COMPARATORS.items()}


def at_values(config: RankingConfig, field: str, values: Sequence[float]) -> dict[str, RankingConfig]:
    """The baseline, and an HRM config at each value of one field, by name ("hrm_period = 4").

    Raises `ParameterError` where the config's own value is not among `values`: the others are compared with it.
    """
    if (own := getattr(config, field)) not in values:
        raise ParameterError(
            f"values = {list(values)}: {field} = {own} has to be among them, as the others are compared with it"
        )
    return {"baseline": config.baseline()} | {
        f"{field} = {value:g}": config.changed(**{field: value}) for value in values
    }
