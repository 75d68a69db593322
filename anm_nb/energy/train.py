"""Training an energy: the config of a run, one flat table of what a person sets, and S seeds of it in training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn

from anm_nb import config as fields
from anm_nb.config import ParameterError
from anm_nb.energy.evaluate import final_scores, predict
from anm_nb.energy.losses import Contrast, contrast_columns, illegitimate_by_level, step_losses
from anm_nb.energy.miner import MiningProblem
from anm_nb.energy.negatives import Negatives, Random
from anm_nb.energy.networks import EnergyNetwork, Head, get_network
from anm_nb.energy.probes import grad_shares
from anm_nb.energy.sampler import SamplerConfig
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise, Values
from anm_nb.identity import classes_of_the_user
from anm_nb.tasks import task_class
from anm_nb.tasks.base import Batch, Clues, DenoisingTask
from anm_nb.training.learner import Measurement, Member, StepLosses, TrainingConfig, require_memory, weight_bytes
from anm_nb.training.run import Trained, train
from anm_nb.training.seeds import RowDraws, generator, initialise
from anm_nb.training.stack import ParameterGroup, Stack

if TYPE_CHECKING:
    from anm_nb.training.loop import Training

# Negatives that every run's dev margins are measured on, whatever it was trained with: legitimate by construction.
DEV_NEGATIVES = Random(eps=0.5, orthogonal_to_noise=True)
PROBE_NUMBERS = 2**18  # of the dev problems that the trace keeps, for whatever shows an example: the first that fit
BLOCK_NUMBERS = 2**26  # a GPU draws fresh problems for several steps at once, so many numbers of each seed


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
        needed = {
            "width size": weight_bytes(lambda: self.make_network(task), kept) if large else 0,
            "batch size": self.batch * row,
            "dev_examples size": self.dev_examples * row,
            "test_examples size": (self.test_examples or 0) * row,
        }
        require_memory(dict(self), needed)
        return self

    @property
    def task_class(self) -> type[DenoisingTask]:
        """The task's class. Raises `ParameterError` for one that an energy cannot learn."""
        task = task_class(self.task)
        if not issubclass(task, DenoisingTask):
            raise ParameterError(f"task = '{self.task}': the energy family needs a task with a flat target")
        return task

    def make_task(self) -> DenoisingTask:
        made = self.task_class
        try:
            return made(size=self.size, **self.task_options)
        except ParameterError as error:
            raise (error.within("task_options") if str(error).startswith("unknown") else error) from None

    def make_network(self, task: DenoisingTask) -> EnergyNetwork:
        """The network for that task, its weights not yet drawn from a generator."""
        return get_network(self.network or task.network).for_task(task, self.width, self.head, self.levels)

    def make_sampler(self, task: DenoisingTask) -> SamplerConfig:
        return SamplerConfig(inner_steps=self.inner_steps or task.inner_steps)

    @property
    def method(self) -> str:
        """The name of the negative strategy; "none" for plain denoising."""
        return self.negatives.name if self.negatives else "none"

    @property
    def weight(self) -> float:
        """The contrastive weight λ, as published for the task where none is set; 0 without negatives."""
        if self.negatives is None:
            return 0.0
        return self.task_class.contrastive_weight if self.contrastive_weight is None else self.contrastive_weight

    def plugins(self) -> list[type]:
        """The classes of the task, the network and the strategy."""
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
        """Factor on the learning rate: cosine from 1 at step 0 to `lr_final` at the last."""
        return self.lr_final + (1 - self.lr_final) * (1 + math.cos(math.pi * step / self.steps)) / 2

    def why_not_longer(self) -> str:
        strategies = [type(each) for each in (self.negatives, *dict(self.negatives or {}).values())]
        reasons = {
            f"lr_final = {self.lr_final:g}: the learning rate falls up to the last step (1: constant)": self.lr_final
            < 1,
            f"records = {self.records} are placed by the number of steps (record_every: not)": not self.record_every,
            f"negatives = '{self.method}' may go by its share of all steps": classes_of_the_user(strategies),
        }
        return "; ".join(reason for reason, holds in reasons.items() if holds)

    def averaging(self) -> tuple[float, int]:
        return self.ema_decay, self.ema_every


class EnergyLearner:
    """S seeds of energy runs.

    Data, noise, negatives and initial weights of a seed come from generators of their own, so that runs which differ
    only in their negatives see the same batches in the same order with the same noise.
    """

    def __init__(self, members: Sequence[Member], device: str) -> None:
        config: EnergyConfig = members[0].config
        self.members, self.config, self.device, self.seeds = members, config, device, [each.seed for each in members]
        self.task, self.schedule = config.make_task(), NoiseSchedule.cosine(config.levels, device=device)
        self.training, self.sampler = self.task.stream("train"), config.make_sampler(self.task)
        self.model = Stack([self._network(seed) for seed in self.seeds])
        lrs, betas = [each.config.lr for each in members], {"betas": (0.9, 0.99)}  # as published
        adam = ([*self.model.members[0].parameters()], torch.optim.Adam, config.lr, config.clip_norm)
        self.groups: Sequence[ParameterGroup] = [ParameterGroup("energy", self.model, *adam, options=betas, lrs=lrs)]
        purposes = ("data", "noise", "negatives")
        self.generators: Mapping[str, Sequence[torch.Generator]] = {each: self._sources(each) for each in purposes}
        weights = [each.config.weight for each in members]
        self.contrasted, self.weight = any(weights), torch.tensor(weights, dtype=torch.float64, device=device)
        progress = (torch.arange(config.steps + 1, dtype=torch.float64) / config.steps).float().to(device)
        self.schedules: Mapping[str, Tensor] = {"progress": progress}
        self.suspects = ", ".join(plugin.__name__ for plugin in config.plugins())
        numbers = config.batch * (self.task.x_dim + self.task.y_dim)
        self.block = max(1, min(64, BLOCK_NUMBERS // numbers)) if device == "cuda" else 1
        self.drawn: list[Batch] = []  # the problems of the present block of steps, of each seed
        # Held-out problems, and negatives for them with levels and noise that no training step sees.
        sources, held_out = self._sources("dev"), self.task.stream("dev")
        self.devs = [held_out.sample(config.dev_examples, generator=each, device=device) for each in sources]
        self.dev = joined(self.devs)
        self.dev_problem = self._problem(self.dev, self.model, RowDraws(sources, device))
        self.dev_negatives = self.dev_problem.impose(DEV_NEGATIVES.propose(self.dev_problem).y_neg)

    def inputs(self, step: int) -> dict[str, Tensor]:
        """Fresh problems for a step, rows of all seeds."""
        place, batch = step % self.block, self.config.batch
        if place == 0:
            n, sources = self.block * batch, self.generators["data"]
            self.drawn = [self.training.sample(n, generator=each, device=self.device) for each in sources]
        own = joined(self.drawn, slice(place * batch, (place + 1) * batch))
        return {name: each for name in ("x", "y", "known") if (each := getattr(own, name)) is not None}

    def branch(self, step: int, recorded: bool) -> bool:
        """Whether a step has negatives: where nobody weighs them they are made for the record alone."""
        return self.config.negatives is not None and (recorded or self.contrasted)

    def losses(
        self, inputs: Mapping[str, Tensor], now: Mapping[str, Tensor], branch: Any, averaged: Stack
    ) -> StepLosses:
        """Denoising and contrastive losses of a batch."""
        noise, draws = (RowDraws(self.generators[purpose], self.device) for purpose in ("noise", "negatives"))
        problem = replace(self._problem(Batch(**inputs), averaged, noise), draws=draws, progress=now["progress"])
        return step_losses(problem, self.config.negatives if branch else None, self.weight, self.config.soft_label)

    def measure(self, training: Training, losses: StepLosses) -> list[Measurement]:
        """The checklist's columns (sections A, B, D, J) before the update of this step."""
        averaged = training.averaged
        answers = predict(averaged, self.task, self.dev, self.schedule, self.sampler, self.seeds).chunk(len(self.seeds))
        measured = []
        for answer, margin, dev in zip(answers, self.model.apart(self.dev_margin(averaged)), self.devs, strict=True):
            scalars = self.task.metrics(answer, dev)
            scalars |= {"dev_margin_mean": float(margin.mean()), "dev_p_hard": float((margin < 0).float().mean())}
            measured.append(Measurement(scalars, {"dev_margins": margin}))
        if losses.detail is not None:
            self.measure_contrast(losses.detail, measured)
        return measured

    def measure_contrast(self, contrast: Contrast, measured: Sequence[Measurement]) -> None:
        """Add the columns of the contrast to every seed's."""
        shares = grad_shares(contrast.weighted, contrast.loss_mse, list(self.model.parameters()))
        margins = self.model.apart(contrast.e_neg - contrast.e_pos)
        for place, each in enumerate(measured):
            rows = slice(place * margins.shape[1], (place + 1) * margins.shape[1])
            each.scalars |= contrast_columns(contrast, rows) | {"contrastive_weight": float(contrast.weight[place])}
            each.scalars |= {"grad_share_contrast": float(shares[place])}
            each.arrays["margins"] = margins[place]
            each.arrays["illegitimate_by_level"] = illegitimate_by_level(contrast, rows)

    def evaluate(self, place: int, selected: nn.Module) -> Measurement:
        """Scores on test problems, where asked for, and the first held-out pairs, for whoever shows an example."""
        dev, config = self.devs[place], self.config
        negatives, levels = (self.model.apart(each)[place] for each in (self.dev_negatives, self.dev_problem.noise.k))
        pairs = {"probe_x": dev.x, "probe_y": dev.y, "probe_known": dev.known, "probe_negatives": negatives}
        first = max(1, PROBE_NUMBERS // dev.y[0].numel())
        arrays = {name: each[:first] for name, each in pairs.items() if each is not None} | {"dev_levels": levels}
        if config.test_examples is None:
            return Measurement({}, arrays)
        return Measurement(final_scores(selected, config, config.test_examples, self.seeds[place], self.device), arrays)

    def at_levels(
        self, levels: Sequence[int], model: nn.Module, purpose: str, dtype: torch.dtype = torch.float32
    ) -> MiningProblem:
        """The held-out problems with their own ε at each of the levels, level after level, for mining against a model.

        What a strategy draws depends on seed and purpose alone, so that energies are compared by negatives that start
        alike.
        """
        dev, count = self.dev_problem, len(levels)
        x, y_pos, eps = (each.to(dtype).repeat(count, 1) for each in (dev.x, dev.y_pos, dev.noise.eps))
        clues = dev.clues and Clues(dev.clues.mask.repeat(count, 1), dev.clues.values.to(dtype).repeat(count, 1))
        noise = SharedNoise(self.schedule, torch.tensor(levels).repeat_interleave(len(dev.x)), eps)
        draws = RowDraws([generator(self.seeds[0], purpose)], "cpu")
        return MiningProblem(self.task, x, y_pos, noise, model, model, draws, clues)

    @torch.no_grad()
    def dev_margin(self, model: Stack) -> Values:
        """Margins of an energy on the held-out pairs."""
        noise, x = self.dev_problem.noise, self.dev.x
        e_pos = model(x, noise.noised(self.dev.y).as_subclass(Tensor), noise.k)
        return model(x, noise.noised(self.dev_negatives).as_subclass(Tensor), noise.k) - e_pos

    def _network(self, seed: int) -> nn.Module:
        network = self.config.make_network(self.task)
        initialise(network, generator(seed, "weights"))
        return network.to(self.device)

    def _sources(self, purpose: str) -> list[torch.Generator]:
        return [generator(seed, purpose, self.device) for seed in self.seeds]

    def _problem(self, batch: Batch, averaged: Stack, draws: RowDraws) -> MiningProblem:
        """A batch with its noise, for the networks in training and their EMA."""
        clues = self.task.clues(batch)
        noise = SharedNoise.draw(self.schedule, batch.y, draws, clues)
        return MiningProblem(self.task, batch.x, batch.y, noise, self.model, averaged, draws, clues)


def joined(batches: Sequence[Batch], rows: slice = slice(None)) -> Batch:
    """Some rows of the batches of all seeds as one batch, seed after seed."""
    names = [name for name, each in vars(batches[0]).items() if each is not None]
    return replace(batches[0], **{name: torch.cat([vars(batch)[name][rows] for batch in batches]) for name in names})
