"""The ranking family's workload: a training step at the document's setting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from anm_nb.bench.plain import plain_module
from anm_nb.bench.training_step import TrainingStep
from anm_nb.files import project_root
from anm_nb.ranking.networks import FEEDFORWARD
from anm_nb.ranking.train import RankingConfig
from anm_nb.studies.ranking_settings import (
    HrmEntropy,
    HrmIterations,
    HrmPeriod,
    HrmTemperature,
    HrmVsBaseline,
    RankingSettings,
)
from anm_nb.training.epochs import batch_indices
from anm_nb.training.learner import Member
from anm_nb.training.loop import Training
from anm_nb.yaml_file import read_yaml

TINY = {"size": 4, "width": 8, "n_heads": 2, "max_inner_iters": 4, "hrm_period": 2, "batch": 4, "train_samples": 12}
EXPERIMENTS: tuple[type[RankingSettings], ...] = (HrmVsBaseline, HrmIterations, HrmPeriod, HrmEntropy, HrmTemperature)


def document_settings(experiment: type[RankingSettings]) -> RankingSettings:
    """One of the document's experiments at its setting, as `params/paper` has it."""
    path = project_root() / "params" / "paper" / f"{experiment.notebook}.yaml"  # type: ignore[attr-defined]
    return experiment.from_mapping(read_yaml(path))


def document_config(tiny: bool = False, device: str = "cpu") -> RankingConfig:
    """The HRM model of the document's first experiment: 12 iterations of width 128 on 20 items, in batches of 32.

    Without the epochs in which the controller is frozen, and cheaper: they are five in a hundred.
    """
    config = document_settings(HrmVsBaseline).hrm().changed(warmup_epochs=0, device=device)
    return config.changed(**TINY) if tiny else config


def grid() -> list[RankingConfig]:
    """The distinct configs of the document's five experiments: what several of them train alike counts once."""
    distinct: list[RankingConfig] = []
    for experiment in EXPERIMENTS:
        for config in document_settings(experiment).configs().values():
            if config not in distinct:
                distinct.append(config)
    return distinct


class RankingStep(TrainingStep):
    """A whole training step: forward, losses, backward, and two optimisers, each with its own clipping."""

    def __init__(self, config: RankingConfig, device: str, seed: int) -> None:
        self.config, self.device, self.seed = config, device, seed
        members = [Member(config, seed)]
        self.learner = config.make_learner(members, device)
        self.training = Training(self.learner, members, [Path()], device)
        self.network = self.learner.model.members[0]
        self.functions, self.steps = plain_module("plain_ranking"), 0
        self.reference = self.functions.PlainRanking(
            config.width,
            config.n_heads,
            FEEDFORWARD,
            config.max_inner_iters,
            config.hrm_period,
            config.controller_width,
            config.routing != "uniform",
        ).to(device)
        translated = self.functions.translated(self.network.state_dict(), config.n_heads)
        self.reference.load_state_dict(translated, strict=config.routing != "uniform")
        self.plain_training = self.functions.PlainTraining(
            self.reference,
            config.encoder_lr,
            config.controller_lr,
            (config.encoder_clip, config.controller_clip),
            config.weight_decay,
        )

    def plain(self) -> Mapping[str, Tensor]:
        """The losses, before the step."""
        config, learner, epoch = self.config, self.learner, self.learner.epoch(self.steps)
        rows = batch_indices(config.train_samples, config.batch, self.steps, self.seed, self.device)
        self.steps += 1
        assert learner.compared is not None
        return self.plain_training.step(
            learner.x[0, rows],
            learner.ranks[0, rows],
            learner.compared[0, rows],
            config.temperature_at(epoch),
            config.entropy_weight_at(epoch),
        )

    def gradients(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The clipped gradients of the last step, ours and the plain one's, by the plain one's names."""
        ours, plain = (
            {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
            for network in (self.network, self.reference)
        )
        return self.functions.translated(ours, self.config.n_heads), plain
