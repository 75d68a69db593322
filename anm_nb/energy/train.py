"""Training an energy: the config of a run, and the losses and measurements of one seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BeforeValidator, Field, PlainSerializer, PositiveInt, model_validator
from torch import Tensor, nn

from anm_nb.energy.losses import denoising_mse, info_nce
from anm_nb.energy.miner import Mined
from anm_nb.energy.negatives import MiningProblem, NegativeStrategy, Random, get_negatives, named_negatives
from anm_nb.energy.networks import EnergyMLP, Head, score_and_energy
from anm_nb.energy.probes import grad_share
from anm_nb.energy.sampler import SamplerConfig, sample
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.parameters import ParameterError
from anm_nb.runs import RunConfig
from anm_nb.tasks import get_task, task_class
from anm_nb.tasks.base import Batch, MatrixTask
from anm_nb.training.loop import (
    Learner,
    LoopConfig,
    Measurement,
    ParameterGroup,
    Seeds,
    StepLosses,
    Trained,
    adam,
    resolve_device,
    train,
)
from anm_nb.training.seeds import generator, initialise

# Negatives that every run's dev margins are measured on, whatever it was trained with: legitimate by construction.
DEV_NEGATIVES = Random(eps=0.5, orthogonal_to_noise=True)


def _strategy(value: Any) -> Any:
    """A strategy from its name, from {"name": …, options}, or as it is; "none" means no contrastive loss."""
    if isinstance(value, str):
        return named_negatives(value)
    if isinstance(value, dict) and "name" in value:
        options = {name: option for name, option in value.items() if name != "name"}
        return get_negatives(value["name"], **options)
    return value


def _strategy_to_json(strategy: NegativeStrategy | None) -> dict[str, Any] | str:
    return {"name": strategy.name, **strategy.model_dump(mode="json")} if strategy else "none"


class EnergyConfig(RunConfig):
    """One energy-diffusion run: a task, a network, a negative strategy, and how long to train, for several seeds."""

    sources: ClassVar[tuple[str, ...]] = (
        "anm_nb.parameters",
        "anm_nb.tasks",
        "anm_nb.training",
        "anm_nb.energy",
    )

    task: str = "inverse"
    size: PositiveInt = 5
    levels: Annotated[int, Field(ge=2)] = 10
    width: PositiveInt = 128
    head: Head = "squared_norm"
    negatives: Annotated[NegativeStrategy | None, BeforeValidator(_strategy), PlainSerializer(_strategy_to_json)] = None
    contrastive_weight: Annotated[float, Field(ge=0)] | None = None  # None: the task's published weight
    dev_examples: PositiveInt = 256
    inner_steps: PositiveInt = 5  # descent steps of the sampler at each level
    loop: LoopConfig = LoopConfig()
    seeds: Seeds = (0, 1, 2)

    @model_validator(mode="after")
    def _usable(self) -> EnergyConfig:
        if not issubclass(task_class(self.task), MatrixTask):
            raise ParameterError(f"task = '{self.task}': the energy family needs a task with a flat target")
        if len(set(self.seeds)) != len(self.seeds):
            raise ParameterError(f"seeds = {list(self.seeds)}: each seed may appear once")
        return self

    @property
    def method(self) -> str:
        """The name of the negative strategy; "none" for plain denoising."""
        return self.negatives.name if self.negatives else "none"

    def device_kind(self) -> str:
        """cpu or cuda, as the loop's config resolves here."""
        return resolve_device(self.loop.device)

    def plugins(self) -> list[type]:
        """The task's and the strategy's classes."""
        return [task_class(self.task), *([type(self.negatives)] if self.negatives else [])]

    def train(self, workdir: Path) -> Trained:
        """Train every seed."""
        return train(self.learner, self.loop, self.seeds, workdir)

    def learner(self, seed: int, device: str) -> Learner:
        """The learner of one seed."""
        return EnergyLearner(self, seed, device)


@dataclass
class EnergyLosses(StepLosses):
    """The losses of a step and what they were computed from, for the measurements."""

    contrast: Contrast | None = None
    weighted: tuple[Tensor, Tensor] | None = None  # contrastive loss with its weight, denoising loss


@dataclass
class Contrast:
    """The energies of positives and negatives of one batch, before the update."""

    mined: Mined
    e_pos: Tensor
    e_neg: Tensor
    optimal_margin: Tensor


class EnergyLearner:
    """One seed of an energy run.

    Data, noise, negatives and initial weights come from generators of their own, so that runs which differ only in
    their negatives see the same batches in the same order with the same noise.
    """

    def __init__(self, config: EnergyConfig, seed: int, device: str) -> None:
        task = get_task(config.task, size=config.size)
        assert isinstance(task, MatrixTask)
        self.config, self.seed, self.device, self.task = config, seed, device, task
        self.schedule = NoiseSchedule.cosine(config.levels, device=device)
        self.weight = task.contrastive_weight if config.contrastive_weight is None else config.contrastive_weight
        self.model: nn.Module = EnergyMLP(task.x_dim, task.y_dim, config.width, config.head, config.levels)
        initialise(self.model, generator(seed, "weights"))
        self.model.to(device)
        parameters = list(self.model.parameters())
        self.groups: Sequence[ParameterGroup] = [
            ParameterGroup("energy", parameters, adam(parameters, config.loop), config.loop.clip_norm)
        ]
        self.generators: Mapping[str, torch.Generator] = {
            purpose: generator(seed, purpose, device) for purpose in ("data", "noise", "negatives")
        }
        self.dev, self.dev_problem = self._dev_set(config.dev_examples)

    def losses(self, step: int, averaged: nn.Module) -> EnergyLosses:
        """Denoising and contrastive loss of a fresh batch; the positive's score and energy are one evaluation."""
        batch = self.task.sample(self.config.loop.batch, generator=self.generators["data"], device=self.device)
        noise = SharedNoise.draw(self.schedule, batch.y, self.generators["noise"])
        score, e_pos = score_and_energy(self.model, batch.x, noise.noised(batch.y), noise.k)
        loss_mse = denoising_mse(score, noise.eps).mean()
        if self.config.negatives is None:
            return EnergyLosses(loss_mse, {"loss_mse": loss_mse})
        problem = MiningProblem(self.task, batch.x, batch.y, noise, self.model, averaged, self.generators["negatives"])
        contrast = self.contrast(problem, self.config.negatives, e_pos)
        loss_con = info_nce(contrast.e_pos, contrast.e_neg).mean()
        weighted = self.weight * loss_con
        parts = {"loss_mse": loss_mse, "loss_con": loss_con}
        return EnergyLosses(loss_mse + weighted, parts, contrast, (weighted, loss_mse))

    def contrast(self, problem: MiningProblem, strategy: NegativeStrategy, e_pos: Tensor) -> Contrast:
        """Propose negatives, noise them here and only here with the positives' own noise, and take their energies."""
        with torch.no_grad():
            mined = strategy.propose(problem)
        y_neg = mined.y_neg.detach()
        if y_neg.shape != problem.y_pos.shape:
            raise ValueError(
                f"strategy '{strategy.name}' returned negatives of shape {tuple(y_neg.shape)}; "
                f"the targets have {tuple(problem.y_pos.shape)}"
            )
        e_neg = self.model(problem.x, problem.noise.noised(y_neg), problem.noise.k)
        return Contrast(mined, e_pos, e_neg, problem.noise.optimal_margin(problem.y_pos, y_neg))

    def measure(self, step: int, averaged: nn.Module, losses: StepLosses) -> Measurement:
        """The checklist's columns (sections A, B, D, J) before the update of this step."""
        assert isinstance(losses, EnergyLosses)
        scalars = self._dev_scores(averaged)
        dev_margin = self._dev_margin(averaged)
        scalars["dev_margin_mean"] = float(dev_margin.mean())
        scalars["dev_p_hard"] = float((dev_margin < 0).float().mean())
        arrays = {"dev_margins": dev_margin}
        if losses.contrast is not None and losses.weighted is not None:
            scalars |= contrast_scalars(losses.contrast)
            scalars["grad_share_contrast"] = grad_share(*losses.weighted, list(self.model.parameters()))
            arrays["margins"] = losses.contrast.e_neg - losses.contrast.e_pos
        return Measurement(scalars, arrays)

    def _dev_set(self, n: int) -> tuple[Batch, MiningProblem]:
        """Held-out problems, and negatives for them with levels and noise that no training step sees."""
        source = generator(self.seed, "dev", self.device)
        batch = self.task.sample(n, generator=source, device=self.device)
        noise = SharedNoise.draw(self.schedule, batch.y, source)
        problem = MiningProblem(self.task, batch.x, batch.y, noise, self.model, self.model, source)
        self.dev_negatives = DEV_NEGATIVES.propose(problem).y_neg
        return batch, problem

    def _dev_scores(self, averaged: nn.Module) -> dict[str, float]:
        """The task's metrics of the sampler's predictions on held-out problems; the same noise at every step."""
        y_hat = sample(
            averaged,
            self.schedule,
            self.dev.x,
            self.task.y_dim,
            generator(self.seed, "sampling", self.device),
            SamplerConfig(inner_steps=self.config.inner_steps),
            self.task.sample_clamp,
        )
        return self.task.metrics(y_hat, self.dev)

    @torch.no_grad()
    def _dev_margin(self, averaged: nn.Module) -> Tensor:
        """Margins of the EMA energy on the held-out pairs."""
        noise, x = self.dev_problem.noise, self.dev.x
        e_pos = averaged(x, noise.noised(self.dev.y), noise.k)
        return averaged(x, noise.noised(self.dev_negatives), noise.k) - e_pos


def contrast_scalars(contrast: Contrast) -> dict[str, float]:
    """Hardness, margins, energies and legitimacy of a batch of negatives (checklist A, B; K for the trends)."""
    margin = (contrast.e_neg - contrast.e_pos).detach()
    quartiles = torch.quantile(margin, torch.tensor([0.25, 0.5, 0.75], device=margin.device))
    scalars = {
        "p_hard": (margin < 0).float().mean(),
        "margin_mean": margin.mean(),
        "margin_q25": quartiles[0],
        "margin_q50": quartiles[1],
        "margin_q75": quartiles[2],
        "e_pos": contrast.e_pos.detach().mean(),
        "e_neg": contrast.e_neg.detach().mean(),
        "illegitimate_fraction": (contrast.optimal_margin < 0).float().mean(),
        "optimal_margin_mean": contrast.optimal_margin.mean(),
    }
    log = {name: values.float().mean() for name, values in contrast.mined.log.items()}
    return {name: float(value) for name, value in (scalars | log).items()}
