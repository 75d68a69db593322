"""S seeds of energy runs: their data, losses and measurements."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from anm_nb.config import ParameterError, Parameters
from anm_nb.energy.contrast import Contrast, contrast_of, contrast_scalars, illegitimate_by_level
from anm_nb.energy.evaluate import final_scores, predict
from anm_nb.energy.losses import denoising_mse, info_nce, soft_info_nce
from anm_nb.energy.negatives import MiningProblem, NegativeStrategy, Random
from anm_nb.energy.networks import gradient_and_value
from anm_nb.energy.probes import grad_shares
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise, Values
from anm_nb.tasks.base import Batch, Clues
from anm_nb.training.learner import Measurement, Member, StepLosses
from anm_nb.training.seeds import RowDraws, batch_indices, generator, initialise
from anm_nb.training.stack import ParameterGroup, Stack

if TYPE_CHECKING:
    from anm_nb.energy.train import EnergyConfig
    from anm_nb.training.loop import Training

# Negatives that every run's dev margins are measured on, whatever it was trained with: legitimate by construction.
DEV_NEGATIVES = Random(eps=0.5, orthogonal_to_noise=True)
PROBE_NUMBERS = 2**18  # of the dev problems that the trace keeps, for whatever shows an example: the first that fit
BLOCK_NUMBERS = 2**26  # a GPU draws fresh problems for several steps at once, so many numbers of each seed

PerSeed = Float[Tensor, " seeds"]


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

    def adapted(self, weight: Float[Tensor, "*n"], share: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        raised = torch.where(share < self.low, weight * self.factor, weight)
        return torch.where(share > self.high, weight / self.factor, raised)


class Branch(NamedTuple):
    """What the Python code of an energy's step branches on."""

    contrasted: bool
    balanced: bool  # whether λ is adapted in this step


class Detail(NamedTuple):
    """What the measurements need of a step's losses."""

    contrast: Contrast
    weight: PerSeed  # λ
    weighted: PerSeed  # contrastive loss with its weight
    loss_mse: PerSeed


class EnergyLearner:
    """S seeds of energy runs.

    Data, noise, negatives and initial weights of a seed come from generators of their own, so that runs which differ
    only in their negatives see the same batches in the same order with the same noise.
    """

    def __init__(self, members: Sequence[Member], device: str) -> None:
        self.members, self.device = members, device
        self.config: EnergyConfig = members[0].config
        self.seeds = [member.seed for member in members]
        self.task = self.config.make_task()
        self.schedule = NoiseSchedule.cosine(self.config.levels, device=device)
        self.sampler = self.config.make_sampler(self.task)
        self.model = Stack([self._network(seed) for seed in self.seeds])
        parameters, betas = list(self.model.members[0].parameters()), {"betas": (0.9, 0.99)}  # as published
        optimised, lrs = (torch.optim.Adam, self.config.lr, self.config.clip_norm), [each.config.lr for each in members]
        self.groups: Sequence[ParameterGroup] = [
            ParameterGroup("energy", parameters, *optimised, options=betas, lrs=lrs)
        ]
        self.generators: Mapping[str, Sequence[torch.Generator]] = {
            purpose: self._sources(purpose) for purpose in ("data", "noise", "negatives")
        }
        steps = self.config.steps
        self.weights = [[member.config.weight_at(step) for member in members] for step in range(steps + 1)]
        weights = torch.tensor(self.weights, dtype=torch.float64, device=device)
        self.schedules: Mapping[str, Tensor] = {
            "progress": (torch.arange(steps + 1, dtype=torch.float64) / steps).float().to(device),
            "contrastive_weight": weights,
        }
        balanced = self.config.balance is not None
        self.state: Mapping[str, Tensor] = {"contrastive_weight": weights[-1].clone()} if balanced else {}
        self.suspects = ", ".join(plugin.__name__ for plugin in self.config.plugins())
        self.training = self.task.stream("train")
        fixed, size = self.config.training_examples, self.config.batch
        self.fixed = None if fixed is None else self._problems(fixed, self._sources("training set"))
        self.batch = size if fixed is None else min(size, fixed)
        numbers = size * (self.task.x_dim + self.task.y_dim)
        self.block = max(1, min(64, BLOCK_NUMBERS // numbers)) if device == "cuda" and fixed is None else 1
        self.drawn: list[Batch] = []  # the fresh problems of the present block of steps, of each seed
        self.dev, self.dev_problem, self.dev_negatives = self._dev_set()

    def inputs(self, step: int) -> dict[str, Tensor]:
        """The problems of a step, rows of all seeds: fresh ones, or the next of the fixed sets."""
        if self.fixed is not None:
            batches = [
                _rows(batch, batch_indices(len(batch.x), self.batch, step, seed, self.device))
                for batch, seed in zip(self.fixed, self.seeds, strict=True)
            ]
        else:
            place = step % self.block
            if place == 0:
                self.drawn = self._problems(self.block * self.batch, self.generators["data"])
            batches = [_rows(batch, slice(place * self.batch, (place + 1) * self.batch)) for batch in self.drawn]
        stacked = vars(joined(batches))
        return {name: stacked[name] for name in ("x", "y", "known") if stacked[name] is not None}

    def branch(self, step: int, recorded: bool) -> Hashable:
        contrasted = self.config.negatives is not None and (recorded or any(self.weights[step]))
        balance = self.config.balance
        return Branch(contrasted, contrasted and balance is not None and step % balance.every == 0)

    def losses(
        self, inputs: Mapping[str, Tensor], now: Mapping[str, Tensor], branch: Hashable, averaged: Stack
    ) -> StepLosses:
        """Denoising and contrastive losses of a batch; the positive's score and energy are one evaluation."""
        assert isinstance(branch, Branch)
        batch = Batch(inputs["x"], inputs["y"], inputs.get("known"))
        noise, draws = (RowDraws(self.generators[purpose], self.device) for purpose in ("noise", "negatives"))
        problem = replace(self._problem(batch, averaged, noise), draws=draws, progress=now["progress"])
        weight = self.state["contrastive_weight"].clone() if self.state else now["contrastive_weight"]
        losses = self.losses_of(problem, self.config.negatives if branch.contrasted else None, weight)
        if branch.balanced and self.config.balance is not None:
            share = grad_shares(losses.detail.weighted, losses.detail.loss_mse, list(self.model.parameters()))
            self.state["contrastive_weight"].copy_(self.config.balance.adapted(weight, share))
        return losses

    def losses_of(self, problem: MiningProblem, strategy: NegativeStrategy | None, weight: PerSeed) -> StepLosses:
        """Losses of a noised batch, with a strategy's negatives at contrastive weight λ, or with none.

        Of given entries, whose noise is 0, nothing is learnt.
        """
        noised = problem.noise.noised(problem.y_pos)
        score, e_pos = gradient_and_value(problem.noised_energy, noised)
        score = score if problem.given is None else score.masked_fill(problem.given, 0.0)
        loss_mse = self.model.apart(denoising_mse(score, problem.noise.eps)).mean(1)
        if strategy is None:
            return StepLosses(loss_mse, {"loss_mse": loss_mse})
        contrast = contrast_of(problem, strategy, noised, e_pos, self.config.probes)
        rows = strategy.loss(problem, contrast.mined.y_neg, e_pos, contrast.e_neg)
        if rows is None and self.config.soft_label:
            rows = soft_info_nce(e_pos, contrast.e_neg, contrast.optimal_margin)
        elif rows is None:
            rows = info_nce(e_pos, contrast.e_neg)
        loss_con = self.model.apart(rows).mean(1)
        weighted = weight.float() * loss_con
        parts = {"loss_mse": loss_mse, "loss_con": loss_con}
        return StepLosses(loss_mse + weighted, parts, Detail(contrast, weight, weighted, loss_mse))

    def measure(self, training: Training, losses: StepLosses) -> list[Measurement]:
        """The checklist's columns (sections A, B, D, J) before the update of this step."""
        averaged = training.averaged
        answers = predict(averaged, self.task, self.dev, self.schedule, self.sampler, self.seeds).chunk(len(self.seeds))
        margins = self.model.apart(self.dev_margin(averaged))
        measured = []
        for place, (answer, margin) in enumerate(zip(answers, margins, strict=True)):
            scalars = self.task.metrics(answer, _rows(self.dev, self._own(place, self.config.dev_examples)))
            scalars |= {"dev_margin_mean": float(margin.mean()), "dev_p_hard": float((margin < 0).float().mean())}
            measured.append(Measurement(scalars, {"dev_margins": margin}))
        if isinstance(losses.detail, Detail):
            self.measure_contrast(losses.detail, measured)
        return measured

    def measure_contrast(self, detail: Detail, measured: Sequence[Measurement]) -> None:
        """Add the columns of the contrast to every seed's."""
        contrast = detail.contrast
        shares = grad_shares(detail.weighted, detail.loss_mse, list(self.model.parameters()))
        size = len(contrast.e_pos) // len(self.seeds)
        for place, each in enumerate(measured):
            rows = self._own(place, size)
            each.scalars |= contrast_scalars(contrast, rows)
            each.scalars |= {"contrastive_weight": float(detail.weight[place])}
            each.scalars |= {"grad_share_contrast": float(shares[place])}
            margins = (contrast.e_neg - contrast.e_pos)[rows]
            padding = (0, self.batch - size)  # of the short last batch of an epoch
            each.arrays["margins"] = nn.functional.pad(margins, padding, value=torch.nan)
            each.arrays["illegitimate_by_level"] = illegitimate_by_level(contrast, rows)

    def evaluate(self, place: int, selected: nn.Module) -> Measurement:
        """Scores on test problems, where asked for, and the first held-out pairs, for whoever shows an example."""
        own = self._own(place, self.config.dev_examples)
        dev = _rows(self.dev, own)
        first = slice(0, max(1, PROBE_NUMBERS // dev.y[0].numel()))
        arrays = {"probe_x": dev.x[first], "probe_y": dev.y[first]}
        arrays |= {} if dev.known is None else {"probe_known": dev.known[first]}
        arrays |= {"probe_negatives": self.dev_negatives[own][first], "dev_levels": self.dev_problem.noise.k[own]}
        if self.config.test_examples is None:
            return Measurement({}, arrays)
        config, seed = self.members[place].config, self.seeds[place]
        return Measurement(final_scores(selected, config, self.task, self.schedule, seed, self.device), arrays)

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

    def _problems(self, n: int, sources: Sequence[torch.Generator]) -> list[Batch]:
        """n training problems of each seed."""
        return [self.training.sample(n, generator=source, device=self.device) for source in sources]

    def _problem(self, batch: Batch, averaged: Stack, draws: RowDraws) -> MiningProblem:
        """A batch with its noise, for the networks in training and their EMA."""
        clues = self.task.clues(batch)
        noise = SharedNoise.draw(self.schedule, batch.y, draws, clues)
        return MiningProblem(self.task, batch.x, batch.y, noise, self.model, averaged, draws, clues)

    def _dev_set(self) -> tuple[Batch, MiningProblem, Tensor]:
        """Held-out problems, and negatives for them with levels and noise that no training step sees."""
        sources, task, n = self._sources("dev"), self.task.stream("dev"), self.config.dev_examples
        dev = joined([task.sample(n, generator=source, device=self.device) for source in sources])
        problem = self._problem(dev, self.model, RowDraws(sources, self.device))
        negatives = problem.impose(DEV_NEGATIVES.propose(problem).y_neg)
        return dev, replace(problem, draws=RowDraws(self._sources("dev"), self.device)), negatives

    def _own(self, place: int, size: int) -> slice:
        return slice(place * size, (place + 1) * size)


def _rows(batch: Batch, rows: Any) -> Batch:
    return replace(batch, **{name: each[rows] for name, each in vars(batch).items() if each is not None})


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches of all seeds as one, seed after seed."""
    if len(batches) == 1:
        return batches[0]
    names = [name for name, each in vars(batches[0]).items() if each is not None]
    return replace(batches[0], **{name: torch.cat([vars(batch)[name] for batch in batches]) for name in names})
