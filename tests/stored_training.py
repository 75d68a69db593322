"""Small trainings for tests that kill them, importable by the processes that are killed."""

import os
import warnings
from pathlib import Path
from typing import ClassVar

import torch

from anm_nb.energy.sampler import SamplerConfig
from anm_nb.energy.train import EnergyConfig
from anm_nb.ranking.train import RankingConfig
from anm_nb.store import RunConfig, get_or_train
from anm_nb.training.learner import Measurement, ParameterGroup, StepLosses
from anm_nb.training.loop import LoopConfig, train


class Line(RunConfig):
    """A straight line through noisy points, by the loop that trains everything: a moment's work."""

    family: ClassVar[str] = "line"

    steps: int = 6

    def device_kind(self):
        return "cpu"

    def train(self, workdir):
        loop = LoopConfig(steps=self.steps, records=3, checkpoint_every=2, ema_decay=0.9)
        return train(lambda seed, device: LineLearner(seed), loop, (0,), workdir)


class LineLearner:
    """Least squares with Adam on fresh points in every step."""

    def __init__(self, seed):
        self.model = torch.nn.Linear(1, 1)
        self.generators = {"data": torch.Generator().manual_seed(seed)}
        for parameter in self.model.parameters():
            torch.nn.init.normal_(parameter, generator=self.generators["data"])
        parameters = list(self.model.parameters())
        self.groups = [ParameterGroup("line", parameters, torch.optim.Adam(parameters, lr=0.1), 1.0)]

    def losses(self, step, averaged):
        x = torch.randn(4, 1, generator=self.generators["data"])
        return StepLosses((self.model(x) - 2 * x).square().mean())

    def measure(self, step, averaged, losses):
        return Measurement({"error": float(losses.total.detach())}, {"slope": averaged.weight.flatten()})


def energy(negatives: str, **options) -> EnergyConfig:
    """Two seeds, a checkpoint every other step."""
    loop = {"steps": 12, "batch": 8, "records": 4, "checkpoint_every": 2, "ema_decay": 0.9} | options.pop("loop", {})
    small = {"size": 2, "width": 8, "levels": 4, "dev_examples": 4, "seeds": [0, 1], "loop": LoopConfig(**loop)}
    return EnergyConfig(**small | {"sampler": SamplerConfig(inner_steps=1)} | options, negatives=negatives)


CONFIGS = {
    "mined negatives, EMA": energy("anm", loop={"ema_every": 2}),
    "epochs, adapted weight": energy("stock", training_examples=24, balance={"every": 2}, loop={"keep_weights": True}),
    "ranking": RankingConfig(
        epochs=4, train_samples=24, batch=8, dev_samples=8, test_samples=8, size=6, width=16, n_heads=2,
        warmup_epochs=2, checkpoint_every=3, seeds=(0, 1), routing="sequence",
    ),
}  # fmt: skip


def long_training() -> RankingConfig:
    """A checkpoint in every step, and enough of them to be killed in between."""
    return CONFIGS["ranking"].changed(epochs=20, checkpoint_every=1)


def train_and_tell(name: str, outputs: str, told: str | None = None) -> None:
    """What a process runs that may be killed. It makes the file `told` when it asks, and writes warnings into it."""
    os.environ["ANM_NB_OUTPUTS"] = outputs
    torch.set_num_threads(1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if told:
            Path(told).touch()
        get_or_train(CONFIGS[name])
    if told:
        Path(told).write_text("\n".join(str(each.message) for each in said))
