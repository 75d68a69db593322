"""Small trainings for tests that store or kill them; the killed processes import this module."""

import os
import warnings
from pathlib import Path
from typing import ClassVar

import torch
from toy import ToyConfig

from anm_nb.energy.train import EnergyConfig
from anm_nb.ranking.train import RankingConfig
from anm_nb.store import get_or_train


class Line(ToyConfig):
    """A very short training with the real training loop."""

    family: ClassVar[str] = "line"

    steps: int = 6
    checkpoint_every: int = 2


def energy(negatives: str, **options) -> EnergyConfig:
    """Two seeds, with a checkpoint every other step."""
    small = {"size": 2, "width": 8, "levels": 4, "dev_examples": 4, "seeds": (0, 1), "inner_steps": 1}
    loop = {"steps": 12, "batch": 8, "records": 4, "checkpoint_every": 2, "ema_decay": 0.9}
    return EnergyConfig(**small | loop | options, negatives=negatives)


CONFIGS = {
    "mined negatives, EMA": energy("anm", ema_every=2),
    "soft labels, kept weights": energy("stock", soft_label=True, keep_weights=True),
    "ranking": RankingConfig(
        epochs=4, train_samples=24, batch=8, dev_samples=8, test_samples=8, size=6, width=16, n_heads=2,
        warmup_epochs=2, checkpoint_every=3, seeds=(0, 1), routing="sequence",
    ),
}  # fmt: skip


def long_training() -> RankingConfig:
    """A checkpoint in every step, and enough steps to be killed in between."""
    return CONFIGS["ranking"].changed(epochs=10, checkpoint_every=1)


def train_and_tell(name: str, outputs: str, told: str | None = None) -> None:
    """Entry point of a process that may be killed. It creates the file `told`, and writes warnings to it at the end."""
    os.environ["ANM_NB_OUTPUTS"] = outputs
    torch.set_num_threads(1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if told:
            Path(told).touch()
        get_or_train(CONFIGS[name])
    if told:
        Path(told).write_text("\n".join(str(each.message) for each in said))
