"""Energy runs: the config, the losses and measurements of a stack of seeds, and the trained energies of a run."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn

from anm_nb import config as fields
from anm_nb.config import ParameterError
from anm_nb.energy.losses import Contrast, step_losses
from anm_nb.energy.miner import MiningProblem
from anm_nb.energy.negatives import Negatives, Random
from anm_nb.energy.networks import EnergyNetwork, Head, get_network
from anm_nb.energy.probes import energy_columns, gradient_columns, noising_columns
from anm_nb.energy.sampler import predict
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise, Values
from anm_nb.identity import classes_of_the_user
from anm_nb.store import Run
from anm_nb.tasks import SPLITS, Batch, DenoisingTask, joined, task_class
from anm_nb.training import Learner, Measurement, Member, Named, StepLosses, TrainingConfig
from anm_nb.training.checkpoint import by_prefix
from anm_nb.training.loop import Training
from anm_nb.training.run import Trained, train
from anm_nb.training.seeds import RowDraws, generator
from anm_nb.training.stack import ParameterGroup, Stack

# Negatives for the dev margins of every run, whatever it was trained with. Being ⟂ to the noise, they are legitimate.
DEV_NEGATIVES = Random(eps=0.5, orthogonal_to_noise=True)
PROBE_NUMBERS = 2**18  # entries of y in the trace, from the first dev problems, for displays of single examples
BLOCK_NUMBERS = 2**26  # entries of x and y per seed that a GPU draws at once, for up to 64 steps


class EnergyConfig(TrainingConfig):
    """An energy-diffusion run of several seeds. Fields that are None follow the recipe published for the task."""

    family: ClassVar[str] = "energy"
    version: ClassVar[int] = 1  # increase it when golden runs show that numerics changed
    length: ClassVar[str] = "steps"
    scheduled: ClassVar[Sequence[str]] = ("lr", "contrastive_weight")

    task: str = "inverse"
    size: fields.Size = 5
    task_options: dict[str, Any] = Field(default_factory=dict)  # the task's options besides its size
    network: str | None = None
    levels: Annotated[fields.Count, Field(ge=2)] = 10
    width: fields.Width = 128
    head: Head = "squared_norm"
    negatives: Negatives = None  # "none": no contrastive loss
    contrastive_weight: fields.Weight | None = None
    soft_label: bool = False  # label each pair σ(m*) instead of 1 (`soft_info_nce`)
    inner_steps: fields.Count | None = None  # the sampler's descent steps per level
    dev_examples: fields.Examples = 256
    test_examples: fields.Examples | None = None  # None: no final evaluation on test problems
    test_inner_steps: Annotated[tuple[fields.Count, ...], Field(strict=False)] = ()  # tested besides inner_steps
    steps: fields.Steps = 300
    batch: fields.Examples = 128  # fresh problems per step and seed
    lr: fields.LearningRate = 1e-3
    lr_final: fields.Fraction = 0.05  # cosine decay to this fraction of lr; 1 = constant
    clip_norm: PositiveFloat = 1.0
    ema_decay: fields.Rate = 0.99
    ema_every: fields.Steps = 1
    records: fields.Records = 10  # measurements, half of them in the first 20 % of steps
    record_every: fields.Steps | None = None  # steps between measurements, instead of `records`

    @model_validator(mode="after")
    def _usable(self) -> "EnergyConfig":
        task = self.make_task()
        get_network(self.network or task.network)
        return self

    @property
    def task_class(self) -> type[DenoisingTask]:
        if not issubclass(task := task_class(self.task), DenoisingTask):
            raise ParameterError(f"task = '{self.task}': the energy family needs a task with a flat target")
        return task

    def make_task(self) -> DenoisingTask:
        try:
            return self.task_class(size=self.size, **self.task_options)
        except ParameterError as error:
            raise (error.within("task_options") if str(error).startswith("unknown parameter") else error) from None

    def make_network(self, task: DenoisingTask) -> EnergyNetwork:
        return get_network(self.network or task.network).for_task(task, self.width, self.head, self.levels)

    @property
    def method(self) -> str:
        return self.negatives.name if self.negatives else "none"

    @property
    def weight(self) -> float:
        """The contrastive weight λ: the one set, or else the task's published one; 0 without negatives."""
        if not self.negatives:
            return 0.0
        return self.task_class.contrastive_weight if self.contrastive_weight is None else self.contrastive_weight

    def plugins(self) -> list[type]:
        network = get_network(self.network or self.task_class.network)
        return [self.task_class, network, *([type(self.negatives)] if self.negatives else [])]

    def train(self, workdir: Path) -> Trained:
        return train(self, workdir)

    def make_learner(self, members: Sequence[Member], device: str) -> "EnergyLearner":
        return EnergyLearner(members, device)

    def total_steps(self) -> int:
        return self.steps

    def record_steps(self) -> list[int]:
        """Steps to measure at: 0, the last, and half of them in the first 20 % of training (checklist, section J)."""
        if self.record_every is not None:
            return sorted({*range(0, self.steps, self.record_every), self.steps})
        early, knee = max(1, self.records // 2), self.steps / 5
        late = max(1, self.records - early - 1)
        points = {int(knee * i / early) for i in range(early + 1)}
        return sorted(points | {round(knee + (self.steps - knee) * i / late) for i in range(1, late + 1)})

    def lr_factor(self, step: int) -> float:
        """Cosine decay from 1 at step 0 to `lr_final` at the last step."""
        return self.lr_final + (1 - self.lr_final) * (1 + math.cos(math.pi * step / self.steps)) / 2

    def can_be_extended(self) -> bool:
        negatives = (self.negatives, *dict(self.negatives or {}).values())  # options of a strategy may be strategies
        custom = classes_of_the_user(map(type, negatives))  # these may depend on `MiningProblem.progress`
        return self.lr_final == 1 and self.record_every is not None and not custom

    def averaging(self) -> tuple[float, int]:
        return self.ema_decay, self.ema_every


class EnergyLearner(Learner):
    """S seeds of energy runs. Runs that differ only in their negatives see the same batches and the same noise."""

    def __init__(self, members: Sequence[Member], device: str) -> None:
        config: EnergyConfig = members[0].config
        self.task, self.schedule = config.make_task(), NoiseSchedule.cosine(config.levels, device=device)
        super().__init__(members, device, lambda: config.make_network(self.task))
        self.training, self.inner_steps = self.task.stream("train"), config.inner_steps or self.task.inner_steps
        parameters, self.seeds = list(self.model.members[0].parameters()), [each.seed for each in members]
        adam = self.model, parameters, torch.optim.Adam, config.lr, config.clip_norm
        betas, lrs = {"betas": (0.9, 0.99)}, [each.config.lr for each in members]  # as published
        self.groups = [ParameterGroup("energy", *adam, options=betas, lrs=lrs)]
        self.generators = {each: self.sources(each) for each in ("data", "noise", "negatives")}
        weights = [each.config.weight for each in members]
        self.contrasted, self.weight = any(weights), torch.tensor(weights, dtype=torch.float64, device=device)
        progress = torch.arange(config.steps + 1, dtype=torch.float64) / config.steps
        self.schedules = {"progress": progress.float().to(device)}
        self.suspects = ", ".join(plugin.__name__ for plugin in config.plugins())
        numbers = config.batch * (self.task.x_dim + self.task.y_dim)
        self.block = max(1, min(64, BLOCK_NUMBERS // numbers)) if device == "cuda" else 1
        self.drawn: list[Batch] = []  # each seed's problems for the current block of steps
        # Held-out problems, and levels, noise and negatives for them, none of which a training step sees.
        sources, held_out = self.sources("dev"), self.task.stream("dev")
        self.devs = [held_out.sample(config.dev_examples, generator=each, device=device) for each in sources]
        self.dev = joined(self.devs)
        self.dev_problem = self._problem(self.dev, self.model, RowDraws(sources, device))
        self.dev_negatives = self.dev_problem.impose(DEV_NEGATIVES.propose(self.dev_problem).y_neg)

    def inputs(self, step: int) -> dict[str, Tensor]:
        place, batch = step % self.block, self.config.batch
        if place == 0:
            n, sources = self.block * batch, self.generators["data"]
            self.drawn = [self.training.sample(n, generator=each, device=self.device) for each in sources]
        rows = joined(self.drawn, slice(place * batch, (place + 1) * batch))
        return {name: each for name in ("x", "y", "known") if (each := getattr(rows, name)) is not None}

    def branch(self, step: int, recorded: bool) -> bool:
        """Whether a step computes negatives. If no seed gives them weight, only recorded steps do."""
        return self.config.negatives is not None and (recorded or self.contrasted)

    def losses(self, inputs: Named, now: Named, branch: bool, averaged: Stack) -> StepLosses:
        noise, draws = (RowDraws(self.generators[purpose], self.device) for purpose in ("noise", "negatives"))
        problem = replace(self._problem(Batch(**inputs), averaged, noise), draws=draws, progress=now["progress"])
        return step_losses(problem, self.config.negatives if branch else None, self.weight, self.config.soft_label)

    def measure(self, training: Training, losses: StepLosses) -> list[Measurement]:
        """The checklist's columns (sections A, B, D and J), before this step's update."""
        averaged, apart, measured = training.averaged, self.model.apart, []
        answers = predict(averaged, self.task, self.dev, self.schedule, self.inner_steps, self.seeds)
        for answer, margin, dev in zip(apart(answers), apart(self.dev_margin(averaged)), self.devs, strict=True):
            means = {"dev_margin_mean": float(margin.mean()), "dev_p_hard": float((margin < 0).float().mean())}
            measured.append(Measurement(self.task.metrics(answer, dev) | means, {"dev_margins": margin}))
        if losses.detail is not None:
            self.measure_contrast(losses.detail, measured)
        return measured

    def measure_contrast(self, contrast: Contrast, measured: Sequence[Measurement]) -> None:
        """Add to each seed's measurement its columns of `probes`, means of the miner's log, and margins."""
        shares = gradient_columns(contrast.loss_mse, contrast.weighted, self.model.parameters())["grad_share_contrast"]
        noise, mined, apart = contrast.problem.noise, contrast.mined, self.model.apart
        rows = [contrast.e_pos.detach(), contrast.e_neg.detach(), contrast.optimal_margin, *contrast.noised]
        rows += [contrast.problem.y_pos, mined.y_neg, noise.schedule.signal(noise.k), noise.schedule.sigma(noise.k)]
        for place, each in enumerate(measured):
            e_pos, e_neg, optimal, *noised = (apart(tensor)[place] for tensor in rows)
            columns = energy_columns(e_pos, e_neg) | noising_columns(*noised)
            del columns["loss_con"]  # the recorded loss is the strategy's own
            columns |= {"illegitimate_fraction": (optimal < 0).float().mean(), "optimal_margin_mean": optimal.mean()}
            columns |= {name: apart(log)[place].float().nanmean() for name, log in mined.log.items()}
            if {"e_start", "e_mined"} <= columns.keys():
                columns["mined_drop"] = columns["e_start"] - columns["e_mined"]
            columns |= {"contrastive_weight": contrast.weight[place], "grad_share_contrast": shares[place]}
            each.scalars |= {name: float(value) for name, value in columns.items()}
            each.arrays["margins"] = e_neg - e_pos

    def evaluate(self, place: int, selected: nn.Module) -> Measurement:
        """Scores on test problems if `test_examples` is set, and the first held-out pairs for displays."""
        dev, n = self.devs[place], self.config.test_examples
        negatives, levels = (self.model.apart(each)[place] for each in (self.dev_negatives, self.dev_problem.noise.k))
        pairs = {"probe_x": dev.x, "probe_y": dev.y, "probe_known": dev.known, "probe_negatives": negatives}
        first = max(1, PROBE_NUMBERS // dev.y[0].numel())
        arrays = {name: each[:first] for name, each in pairs.items() if each is not None} | {"dev_levels": levels}
        return Measurement(self.test_scores(selected, n, self.seeds[place]) if n else {}, arrays)

    def test_scores(self, model: nn.Module, n: int, seed: int) -> dict[str, float]:
        """Scores on n test problems by `split/metric/predictor`: references, and the model at several settings."""
        task, device, columns = self.task, self.device, dict[str, float]()
        training = self.training.sample(n, generator=generator(seed, "references", device), device=device)
        for split, harder in SPLITS.items():
            source, clamp = generator(seed, f"test/{split}", device), task.clamp(harder)
            batch = task.stream("test").sample(n, generator=source, harder=harder, device=device)
            answers = {name: y_hat for (name, _), y_hat in task.references(training, batch).items()}
            shared = model, task, batch, self.schedule
            answers["model"] = predict(*shared, self.inner_steps, [seed], clamp)
            if clamp != task.sample_clamp:
                answers["published clamp"] = predict(*shared, self.inner_steps, [seed], task.sample_clamp)
            answers |= {f"steps={k}": predict(*shared, k, [seed], clamp) for k in self.config.test_inner_steps}
            for predictor, y_hat in answers.items():
                columns |= {f"{split}/{metric}/{predictor}": v for metric, v in task.metrics(y_hat, batch).items()}
        return columns

    def at_levels(
        self, levels: Sequence[int], model: nn.Module, purpose: str, dtype: torch.dtype = torch.float32
    ) -> MiningProblem:
        """The held-out problems with their own ε at every level, level after level; draws go by seed and `purpose`."""
        batch, eps = joined([self.dev] * len(levels)), self.dev_problem.noise.eps.to(dtype).repeat(len(levels), 1)
        batch = replace(batch, x=batch.x.to(dtype), y=batch.y.to(dtype))
        noise = SharedNoise(self.schedule, torch.tensor(levels).repeat_interleave(len(self.dev.x)), eps)
        draws = RowDraws([generator(self.seeds[0], purpose)], "cpu")
        return MiningProblem(self.task, batch.x, batch.y, noise, model, model, draws, self.task.clues(batch))

    @torch.no_grad()
    def dev_margin(self, model: Stack) -> Values:
        """Margins E⁻ − E⁺ of the held-out pairs under an energy."""
        energy = replace(self.dev_problem, averaged=model).energy
        return energy(self.dev_negatives) - energy(self.dev.y)

    def _problem(self, batch: Batch, averaged: Stack, draws: RowDraws) -> MiningProblem:
        """A batch with newly drawn levels and noise, for the networks in training and their EMA."""
        clues = self.task.clues(batch)
        noise = SharedNoise.draw(self.schedule, batch.y, draws, clues)
        return MiningProblem(self.task, batch.x, batch.y, noise, self.model, averaged, draws, clues)


def kept_steps(run: Run) -> list[int]:
    """Steps whose EMA weights a run kept (`keep_weights`), in order. The final weights are always kept besides."""
    return sorted({int(step) for name in run.weights for step in re.findall(r"^seed\d+\.step(\d+)\.", name)})


def trained_energy(run: Run, seed: int, step: int | None = None) -> EnergyNetwork:
    """EMA energy at a kept step (None: the end), frozen, on the CPU. `ParameterError` if the run lacks the weights."""
    config = run.config_with(negatives="none")  # whose class may not be defined here
    weights = by_prefix(run.weights, f"seed{seed}.{'' if step is None else f'step{step}.'}averaged.")
    if not weights:
        seeds, kept = (", ".join(map(str, each)) for each in (config.seeds, kept_steps(run)))
        has = f"run {run.key} has seeds {seeds}, and weights of steps {kept or 'none (train with keep_weights)'}"
        raise ParameterError(f"seed = {seed}, step = {step}: {has}")
    energy = config.make_network(config.make_task())
    energy.load_state_dict(weights)
    return energy.requires_grad_(False).eval()
