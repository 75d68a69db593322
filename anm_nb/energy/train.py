"""Training an energy: the config of a run, one flat table of what a person sets, and the energies of a finished run."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, PositiveFloat, model_validator

from anm_nb import config as fields
from anm_nb.config import ParameterError
from anm_nb.energy.learner import EnergyLearner
from anm_nb.energy.negatives import Negatives
from anm_nb.energy.networks import EnergyNetwork, Head, get_network
from anm_nb.identity import classes_of_the_user
from anm_nb.store import Run
from anm_nb.tasks import task_class
from anm_nb.tasks.base import DenoisingTask
from anm_nb.training import Member, TrainingConfig, require_memory, weight_bytes
from anm_nb.training.checkpoint import by_prefix
from anm_nb.training.run import Trained, train


class EnergyConfig(TrainingConfig):
    """One energy-diffusion run: a task, a network, a negative strategy, and how long to train, for several seeds.

    What is None follows the recipe published for the task.
    """

    family: ClassVar[str] = "energy"
    version: ClassVar[int] = 1  # raise it when a golden run says that numerics have changed
    length: ClassVar[str] = "steps"

    task: str = "inverse"
    size: fields.Size = 5
    task_options: dict[str, Any] = Field(default_factory=dict)  # the task's options beside its size
    network: str | None = None
    levels: Annotated[fields.Count, Field(ge=2)] = 10
    width: fields.Width = 128
    head: Head = "squared_norm"
    negatives: Negatives = None  # "none": no contrastive loss
    contrastive_weight: fields.Weight | None = None
    soft_label: bool = False  # label each pair σ(m*) instead of 1 (`soft_info_nce`)
    inner_steps: fields.Count | None = None  # the sampler's descent steps a level
    dev_examples: fields.Examples = 256
    test_examples: fields.Examples | None = None  # None: no final evaluation on test problems
    # Numbers of descent steps a level to test at, beside the sampler's own.
    test_inner_steps: Annotated[tuple[fields.Count, ...], Field(strict=False)] = ()
    steps: fields.Steps = 300
    batch: fields.Examples = 128  # fresh problems of each step
    lr: fields.LearningRate = 1e-3
    lr_final: fields.Fraction = 0.05  # cosine decay to this fraction of lr; 1 = constant
    clip_norm: PositiveFloat = 1.0
    ema_decay: fields.Decay = 0.99
    ema_every: fields.Steps = 1
    records: fields.Records = 10  # measurements, half of them in the first 20 % of steps
    record_every: fields.Steps | None = None  # measure every so many steps, and at the last, instead

    @model_validator(mode="after")
    def _usable(self) -> EnergyConfig:
        task = self.make_task()
        get_network(self.network or task.network)
        row = 4 * (task.x_dim + task.y_dim) + 12 * task.y_dim  # with the target its noise, the noised point, its score
        kept = len(self.record_steps()) if self.keep_weights else 0
        large = self.width * (task.x_dim + task.y_dim) > 10**6  # counting takes milliseconds, small ones need none
        needed = {"width size": weight_bytes(lambda: self.make_network(task), kept) if large else 0}
        examples = {"batch": self.batch, "dev_examples": self.dev_examples, "test_examples": self.test_examples or 0}
        require_memory(dict(self), needed | {f"{name} size": count * row for name, count in examples.items()})
        return self

    @property
    def task_class(self) -> type[DenoisingTask]:
        if not issubclass(task := task_class(self.task), DenoisingTask):
            raise ParameterError(f"task = '{self.task}': the energy family needs a task with a flat target")
        return task

    def make_task(self) -> DenoisingTask:
        chosen = self.task_class
        try:
            return chosen(size=self.size, **self.task_options)
        except ParameterError as error:
            raise (error.within("task_options") if str(error).startswith("unknown") else error) from None

    def make_network(self, task: DenoisingTask) -> EnergyNetwork:
        return get_network(self.network or task.network).for_task(task, self.width, self.head, self.levels)

    @property
    def method(self) -> str:
        return self.negatives.name if self.negatives else "none"

    @property
    def weight(self) -> float:
        """The contrastive weight λ, as published for the task where none is set; 0 without negatives."""
        chosen = self.task_class.contrastive_weight if self.contrastive_weight is None else self.contrastive_weight
        return chosen if self.negatives else 0.0

    def plugins(self) -> list[type]:
        network = get_network(self.network or self.task_class.network)
        return [self.task_class, network, *([type(self.negatives)] if self.negatives else [])]

    def train(self, workdir: Path) -> Trained:
        return train(self, workdir)

    def make_learner(self, members: Sequence[Member], device: str) -> EnergyLearner:
        return EnergyLearner(members, device)

    def stack_key(self) -> str:
        return self.model_dump_json(exclude={"seeds", "lr", "contrastive_weight"})

    def total_steps(self) -> int:
        return self.steps

    def record_steps(self) -> list[int]:
        """Steps at which to measure: 0, the last, and dense over the first 20 % (ANM checklist, section J)."""
        if self.record_every is not None:
            return sorted({*range(0, self.steps, self.record_every), self.steps})
        early, knee = max(1, self.records // 2), self.steps / 5
        late = max(1, self.records - early - 1)
        points = {int(knee * i / early) for i in range(early + 1)}
        return sorted(points | {round(knee + (self.steps - knee) * i / late) for i in range(1, late + 1)})

    def lr_factor(self, step: int) -> float:
        """Cosine from 1 at step 0 to `lr_final` at the last."""
        return self.lr_final + (1 - self.lr_final) * (1 + math.cos(math.pi * step / self.steps)) / 2

    def why_not_longer(self) -> str:
        strategies = [type(each) for each in (self.negatives, *dict(self.negatives or {}).values())]
        falls = f"lr_final = {self.lr_final:g}: the learning rate falls up to the last step (1: constant)"
        placed = f"records = {self.records} are placed by the number of steps (record_every: not)"
        own = f"negatives = '{self.method}' may go by its share of all steps"
        holds = {falls: self.lr_final < 1, placed: not self.record_every, own: classes_of_the_user(strategies)}
        return "; ".join(reason for reason, held in holds.items() if held)

    def averaging(self) -> tuple[float, int]:
        return self.ema_decay, self.ema_every


def kept_steps(run: Run) -> list[int]:
    """The steps whose EMA weights a run has kept (`keep_weights`), in order; its end is always there."""
    found = (re.match(r"seed\d+\.step(\d+)\.", name) for name in run.weights)
    return sorted({int(match[1]) for match in found if match})


def trained_energy(run: Run, seed: int, step: int | None = None) -> EnergyNetwork:
    """The EMA energy of a finished run at a step (which needs `keep_weights`), or at the end; on the CPU, frozen.

    Raises `ParameterError` for a run of another family, and for a seed or step that it has no weights of.
    """
    if run.summary["family"] != "energy":
        raise ParameterError(f"run {run.key}: its config is {type(run.config).__name__}, which trains no energy")
    config = run.config_with(negatives="none")
    if seed not in config.seeds:
        raise ParameterError(f"seed = {seed}: run {run.key} has {', '.join(map(str, config.seeds))}")
    weights = by_prefix(run.weights, f"seed{seed}.{'' if step is None else f'step{step}.'}averaged.")
    if not weights:
        kept = ", ".join(map(str, kept_steps(run))) or "none; train with keep_weights"
        raise ParameterError(f"step = {step}: run {run.key} has no weights of it; steps kept: {kept}")
    energy = config.make_network(config.make_task())
    energy.load_state_dict(weights)
    return energy.requires_grad_(False).eval()
