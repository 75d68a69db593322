"""Training an energy: the config of a run, and the losses and measurements of one seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import BeforeValidator, Field, PlainSerializer, PositiveInt, model_validator
from torch import Tensor, nn

from anm_nb.config import ParameterError, Parameters
from anm_nb.energy.contrast import (
    Contrast,
    EnergyLosses,
    StackedEnergyLosses,
    contrast_scalars,
    denoising_rows,
    illegitimate_by_level,
    rows_of_network,
)
from anm_nb.energy.evaluate import FinalTest, final_scores, predict
from anm_nb.energy.losses import info_nce, soft_info_nce
from anm_nb.energy.miner import Mined
from anm_nb.energy.negatives import (
    MiningProblem,
    NegativeStrategy,
    Random,
    strategy_from,
    strategy_to_json,
    together,
)
from anm_nb.energy.networks import EnergyNetwork, Head, get_network
from anm_nb.energy.probes import count_of, grad_share, noisings
from anm_nb.energy.sampler import SamplerConfig
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.store import RunConfig
from anm_nb.tasks import get_task, task_class
from anm_nb.tasks.base import Batch, DenoisingTask
from anm_nb.training.epochs import batch_indices
from anm_nb.training.learner import Learner, Measurement, ParameterGroup, StepLosses
from anm_nb.training.loop import LoopConfig, Seeds, Trained, adam, resolve_device, train
from anm_nb.training.seeds import generator, initialise
from anm_nb.training.stacked import StackedLosses
from anm_nb.training.stacked_network import StackedNetwork

# Negatives that every run's dev margins are measured on, whatever it was trained with: legitimate by construction.
DEV_NEGATIVES = Random(eps=0.5, orthogonal_to_noise=True)


def _strategy(value: Any) -> Any:
    """What `strategy_from` makes of it; "none" means no contrastive loss."""
    return None if value == "none" else strategy_from(value)


def _strategy_to_json(strategy: NegativeStrategy | None) -> dict[str, Any] | str:
    return strategy_to_json(strategy) if strategy else "none"


class Balance(Parameters):
    """Keeps the contrastive share r of the gradient within a band by adapting the weight λ (ANM checklist, section D).

    Every so many steps λ is multiplied by `factor` where r lies below the band and divided by it where r lies above.
    """

    low: Annotated[float, Field(gt=0, lt=1)] = 0.3
    high: Annotated[float, Field(gt=0, lt=1)] = 0.7
    every: PositiveInt = 10  # steps
    factor: Annotated[float, Field(gt=1)] = 1.25

    @model_validator(mode="after")
    def _is_a_band(self) -> Balance:
        if not self.low < self.high:
            raise ParameterError(f"low = {self.low}, high = {self.high}: low < high has to hold")
        return self

    def adapted(self, weight: Tensor, share: float) -> Tensor:
        """The next λ for a measured share r."""
        if share < self.low:
            return weight * self.factor
        return weight / self.factor if share > self.high else weight


class EnergyConfig(RunConfig):
    """One energy-diffusion run: a task, a network, a negative strategy, and how long to train, for several seeds.

    What is None follows the recipe published for the task.
    """

    family: ClassVar[str] = "energy"
    version: ClassVar[int] = 1  # raise it when a golden run says that numerics have changed

    task: str = "inverse"
    size: PositiveInt = 5
    task_options: dict[str, Any] = Field(default_factory=dict)  # the task's options beside its size
    network: str | None = None
    levels: Annotated[int, Field(ge=2)] = 10
    width: PositiveInt = 128
    head: Head = "squared_norm"
    negatives: Annotated[NegativeStrategy | None, BeforeValidator(_strategy), PlainSerializer(_strategy_to_json)] = None
    contrastive_weight: Annotated[float, Field(ge=0)] | None = None
    contrastive_weight_end: Annotated[float, Field(ge=0)] | None = None  # where the weight moves to, linearly
    contrast_from: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the steps before which there is no contrast
    soft_label: bool = False  # label each pair σ(m*) instead of 1 (`soft_info_nce`)
    balance: Balance | None = None  # None: the contrastive weight stays as it is
    probes: bool = False  # prove in every step that the negative is noised once (checklist, section C)
    sampler: SamplerConfig | None = None
    training_examples: PositiveInt | None = None  # a fixed set of so many, in epochs; None: fresh ones in every step
    dev_examples: PositiveInt = 256
    test: FinalTest | None = None  # None: no final evaluation on test problems
    loop: LoopConfig = LoopConfig()
    seeds: Seeds = (0, 1, 2)

    @model_validator(mode="after")
    def _usable(self) -> EnergyConfig:
        if not issubclass(task_class(self.task), DenoisingTask):
            raise ParameterError(f"task = '{self.task}': the energy family needs a task with a flat target")
        task = self.make_task()
        get_network(self.network or task.network)
        if self.balance is not None and self.contrastive_weight_end is not None:
            raise ParameterError("balance and contrastive_weight_end: either adapts the contrastive weight, not both")
        return self

    def make_task(self) -> DenoisingTask:
        """The task, with its options."""
        task = get_task(self.task, size=self.size, **self.task_options)
        assert isinstance(task, DenoisingTask)
        return task

    def make_network(self, task: DenoisingTask) -> EnergyNetwork:
        """The network for that task, its weights not yet drawn from a generator."""
        network = get_network(self.network or task.network)
        return network.for_task(task, self.width, self.head, self.levels)

    @property
    def method(self) -> str:
        """The name of the negative strategy; "none" for plain denoising."""
        return self.negatives.name if self.negatives else "none"

    def device_kind(self) -> str:
        """cpu or cuda, as the loop's config resolves here."""
        return resolve_device(self.loop.device)

    def plugins(self) -> list[type]:
        """The classes of the task, the network and the strategy."""
        task = task_class(self.task)
        assert issubclass(task, DenoisingTask)
        return [task, get_network(self.network or task.network), *([type(self.negatives)] if self.negatives else [])]

    def train(self, workdir: Path) -> Trained:
        """Train every seed."""
        return train(self.learner, self.loop, self.seeds, workdir)

    def learner(self, seed: int, device: str) -> Learner:
        """The learner of one seed."""
        return EnergyLearner(self, seed, device)


class NoisedTwice(RuntimeError):
    """A negative was not noised exactly once in a step (ANM checklist, section C); only `probes` looks for it."""


class EnergyLearner:
    """One seed of an energy run.

    Data, noise, negatives and initial weights come from generators of their own, so that runs which differ only in
    their negatives see the same batches in the same order with the same noise.
    """

    def __init__(self, config: EnergyConfig, seed: int, device: str) -> None:
        task = config.make_task()
        self.config, self.seed, self.device, self.task = config, seed, device, task
        self.schedule = NoiseSchedule.cosine(config.levels, device=device)
        weight = task.contrastive_weight if config.contrastive_weight is None else config.contrastive_weight
        self.state = {"contrastive_weight": torch.tensor(weight, dtype=torch.float64)}
        self.sampler = config.sampler or SamplerConfig(inner_steps=task.inner_steps)
        self.model: nn.Module = config.make_network(task)
        initialise(self.model, generator(seed, "weights"))
        self.model.to(device)
        parameters = list(self.model.parameters())
        self.groups: Sequence[ParameterGroup] = [
            ParameterGroup("energy", parameters, adam(parameters, config.loop), config.loop.clip_norm)
        ]
        self.generators: Mapping[str, torch.Generator] = {
            purpose: generator(seed, purpose, device) for purpose in ("data", "noise", "negatives")
        }
        self.training = task.stream("train")
        self.fixed = self._fixed_set(config.training_examples)
        self.record_steps = set(config.loop.record_steps())
        self.dev, self.dev_problem = self._dev_set(config.dev_examples)

    def losses(self, step: int, averaged: nn.Module) -> EnergyLosses:
        """Denoising and contrastive loss of a batch; the positive's score and energy are one evaluation."""
        problem = self.problem(step, self.model, averaged).prepare()
        noised = problem.noise.noised(problem.y_pos)
        rows_mse, e_pos = denoising_rows(problem.noised_energy, noised, problem.noise.eps, problem.given)
        loss_mse = rows_mse.mean()
        weight = self.weight_at(problem.progress)
        if self.config.negatives is None or (not weight and step not in self.record_steps):
            return EnergyLosses(loss_mse, {"loss_mse": loss_mse})
        contrast = self.contrast(problem, self.config.negatives, noised, e_pos)
        loss_con = self.contrastive_rows(contrast).mean()
        weighted = weight * loss_con
        parameters = list(self.model.parameters())
        self._balance(step, weighted, loss_mse, parameters)
        parts = {"loss_mse": loss_mse, "loss_con": loss_con}
        return EnergyLosses(loss_mse + weighted, parts, contrast, weight, (weighted, loss_mse), parameters)

    def stack_key(self) -> str:
        """Learners of equal keys are seeds of one config."""
        return self.config.model_dump_json(exclude={"seeds"})

    def stacked_losses(
        self,
        learners: Sequence[EnergyLearner],
        step: int,
        model: StackedNetwork,
        averaged: StackedNetwork,
        compiled: Callable[[Any], Any],
    ) -> StackedLosses:
        """The losses of every learner's next batch, all rows evaluated together by `model`, their networks stacked."""
        members = zip(learners, model.members, averaged.members, strict=True)
        problem = together([learner.problem(step, own, ema) for learner, own, ema in members], model, averaged)
        noised = problem.noise.noised(problem.y_pos)
        # a compiled graph can be gone through backwards once, but shares of the gradient take a pass for each loss
        measured = step in self.record_steps or self.config.balance is not None
        rows = rows_of_network if measured else compiled(rows_of_network)
        rows_mse, e_pos = rows(model, *problem.denoising(noised))
        loss_mse = rows_mse.unflatten(0, (len(learners), -1)).mean(1)
        weights = [learner.weight_at(problem.progress) for learner in learners]
        if self.config.negatives is None or (not any(weights) and step not in self.record_steps):
            return StackedLosses(loss_mse, {"loss_mse": loss_mse})
        contrast = self.contrast(problem, self.config.negatives, noised, e_pos)
        loss_con = self.contrastive_rows(contrast).unflatten(0, (len(learners), -1)).mean(1)
        weighted = torch.stack([weight * loss for weight, loss in zip(weights, loss_con, strict=True)])
        parameters = list(model.parameters())
        for learner, own_weighted, own_mse in zip(learners, weighted, loss_mse, strict=True):
            learner._balance(step, own_weighted, own_mse, parameters)
        parts = {"loss_mse": loss_mse, "loss_con": loss_con}
        return StackedEnergyLosses(loss_mse + weighted, parts, contrast, weights, (weighted, loss_mse), parameters)

    def problem(self, step: int, model: nn.Module, averaged: nn.Module) -> MiningProblem:
        """The next batch with its noise, for a network in training and its EMA."""
        batch = self.batch(step)
        clues = self.task.clues(batch)
        noise = SharedNoise.draw(self.schedule, batch.y, self.generators["noise"], clues)
        source, progress = self.generators["negatives"], step / self.config.loop.steps
        return MiningProblem(self.task, batch.x, batch.y, noise, model, averaged, source, clues, progress)

    def batch(self, step: int) -> Batch:
        """The problems of a step: fresh ones, or the next of the fixed set."""
        size = self.config.loop.batch
        if self.fixed is None:
            return self.training.sample(size, generator=self.generators["data"], device=self.device)
        rows = batch_indices(len(self.fixed.x), min(size, len(self.fixed.x)), step, self.seed, self.device)
        known = None if self.fixed.known is None else self.fixed.known[rows]
        return Batch(self.fixed.x[rows], self.fixed.y[rows], known)

    def weight_at(self, progress: float) -> float:
        """The weight λ of the contrastive loss at some progress of the training, in [0, 1]."""
        if progress < self.config.contrast_from:
            return 0.0
        weight, end = float(self.state["contrastive_weight"]), self.config.contrastive_weight_end
        return weight if end is None else weight + (end - weight) * progress

    def _balance(self, step: int, weighted: Tensor, loss_mse: Tensor, parameters: Sequence[Tensor]) -> None:
        """Adapt the weight of the steps to come, where the config asks for it."""
        balance, weight = self.config.balance, self.state["contrastive_weight"]
        if balance is not None and step % balance.every == 0:
            weight.copy_(balance.adapted(weight, grad_share(weighted, loss_mse, parameters)))

    def contrastive_rows(self, contrast: Contrast) -> Float[Tensor, " b"]:
        """The contrastive loss of each pair, with hard or soft labels as configured."""
        if self.config.soft_label:
            return soft_info_nce(contrast.e_pos, contrast.e_neg, contrast.optimal_margin)
        return info_nce(contrast.e_pos, contrast.e_neg)

    def contrast(
        self, problem: MiningProblem, strategy: NegativeStrategy, noised_pos: Tensor, e_pos: Tensor
    ) -> Contrast:
        """Propose negatives, noise them here and only here with the positives' own noise, and take their energies."""
        with noisings() if self.config.probes else nullcontext() as seen:
            with torch.no_grad():
                mined = strategy.propose_stacked(problem) if problem.parts else strategy.propose(problem)
            y_neg = mined.y_neg.detach()
            if y_neg.shape != problem.y_pos.shape:
                raise ValueError(
                    f"strategy '{strategy.name}' returned negatives of shape {tuple(y_neg.shape)}; "
                    f"the targets have {tuple(problem.y_pos.shape)}"
                )
            y_neg = y_neg if problem.clues is None else problem.clues.impose(y_neg)
            noised_neg = problem.noise.noised(y_neg)
        if seen is not None and count_of(y_neg, seen) != 1:
            raise NoisedTwice(f"the negatives of '{strategy.name}' were noised {count_of(y_neg, seen)} times")
        e_neg = problem.noised_energy(noised_neg.as_subclass(Tensor))
        margin = problem.noise.optimal_margin(problem.y_pos, y_neg)
        kept = Mined(y_neg, mined.log)
        return Contrast(kept, e_pos, e_neg, margin, problem, (noised_pos, noised_neg))

    def measure(self, step: int, averaged: nn.Module, losses: StepLosses) -> Measurement:
        """The checklist's columns (sections A, B, D, J) before the update of this step."""
        scalars = self._dev_scores(averaged)
        dev_margin = self._dev_margin(averaged)
        scalars["dev_margin_mean"] = float(dev_margin.mean())
        scalars["dev_p_hard"] = float((dev_margin < 0).float().mean())
        arrays = {"dev_margins": dev_margin}
        if isinstance(losses, EnergyLosses) and losses.contrast is not None and losses.weighted is not None:
            scalars |= contrast_scalars(losses.contrast)
            scalars["contrastive_weight"] = losses.weight
            scalars["grad_share_contrast"] = grad_share(*losses.weighted, losses.parameters)
            arrays["margins"] = self._padded(losses.contrast.e_neg - losses.contrast.e_pos)
            arrays["illegitimate_by_level"] = illegitimate_by_level(losses.contrast)
        return Measurement(scalars, arrays)

    def _padded(self, values: Tensor) -> Tensor:
        """Values of a batch, followed by NaN where it is the short last one of an epoch."""
        size = self.config.loop.batch if self.fixed is None else min(self.config.loop.batch, len(self.fixed.x))
        return nn.functional.pad(values, (0, size - len(values)), value=torch.nan)

    def evaluate(self, selected: nn.Module) -> Measurement:
        """Scores on test problems, where the config asks for them."""
        if self.config.test is None:
            return Measurement({})
        return Measurement(
            final_scores(selected, self.task, self.schedule, self.sampler, self.config.test, self.seed, self.device)
        )

    def _fixed_set(self, n: int | None) -> Batch | None:
        """The fixed training problems, the same for every config of a seed."""
        if n is None:
            return None
        return self.training.sample(n, generator=generator(self.seed, "training set", self.device), device=self.device)

    def _dev_set(self, n: int) -> tuple[Batch, MiningProblem]:
        """Held-out problems, and negatives for them with levels and noise that no training step sees."""
        source = generator(self.seed, "dev", self.device)
        batch = self.task.stream("dev").sample(n, generator=source, device=self.device)
        clues = self.task.clues(batch)
        noise = SharedNoise.draw(self.schedule, batch.y, source, clues)
        problem = MiningProblem(self.task, batch.x, batch.y, noise, self.model, self.model, source, clues)
        y_neg = DEV_NEGATIVES.propose(problem).y_neg
        self.dev_negatives = y_neg if clues is None else clues.impose(y_neg)
        return batch, problem

    def _dev_scores(self, averaged: nn.Module) -> dict[str, float]:
        """The task's metrics of the sampler's predictions on held-out problems; the same noise at every step."""
        y_hat = predict(averaged, self.task, self.dev, self.schedule, self.sampler, self.seed)
        return self.task.metrics(y_hat, self.dev)

    @torch.no_grad()
    def _dev_margin(self, averaged: nn.Module) -> Tensor:
        """Margins of the EMA energy on the held-out pairs."""
        noise, x = self.dev_problem.noise, self.dev.x
        e_pos = averaged(x, noise.noised(self.dev.y), noise.k)
        return averaged(x, noise.noised(self.dev_negatives), noise.k) - e_pos
