"""The document's fixes, one by one: each added alone to the published set-up, each removed alone from the full one.

Of the nine fixes it lists, seven change a training and stand here; the other two, per-iteration diagnostics and the
experiment grid, change none. The published set-up also feeds raw values, −999 for hidden ones, which no fix touches.
"""

from __future__ import annotations

from typing import Any

from anm_nb.ranking.train import RankingConfig

# What each fix replaces: the published values of the fields it sets.
FIXES: dict[str, dict[str, Any]] = {
    "mask-aware metric": {"mask_aware": False, "selection": "tau_index"},
    "ranking loss": {"loss": "cross_entropy"},
    "deep supervision": {"deep_supervision": False, "gradient": "last"},
    "temperature schedule": {"temperature": 1.0, "temperature_min": 1.0, "temperature_decay": 1.0},
    "entropy regularisation": {"entropy_weight": 0.0},
    "two optimisers": {"two_optimisers": False},
    "controller warm-up": {"warmup_epochs": 0},
}
PUBLISHED_INPUT = {"encoding": "raw"}


def without_fix(config: RankingConfig, fix: str) -> RankingConfig:
    """A config with one fix removed."""
    return config.changed(**FIXES[fix])


def published(config: RankingConfig) -> RankingConfig:
    """A config with every fix removed and the published input."""
    removed = {field: value for fields in FIXES.values() for field, value in fields.items()}
    return config.changed(**removed, **PUBLISHED_INPUT)


def only_fix(config: RankingConfig, fix: str) -> RankingConfig:
    """The published set-up with one fix, as the config has it."""
    return published(config).changed(**{field: getattr(config, field) for field in FIXES[fix]})


def ablations(config: RankingConfig) -> dict[str, RankingConfig]:
    """Every config of the ablation by name: "published", "only <fix>", "all but <fix>" and "all", the config itself."""
    return {
        "published": published(config),
        **{f"only {fix}": only_fix(config, fix) for fix in FIXES},
        **{f"all but {fix}": without_fix(config, fix) for fix in FIXES},
        "all": config,
    }
