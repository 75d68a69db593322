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
from anm_nb.energy.contrast import Contrast, contrast_of, contrast_scalars, denoising_rows, illegitimate_by_level
from anm_nb.energy.evaluate import final_scores, predict
from anm_nb.energy.losses import info_nce, soft_info_nce
from anm_nb.energy.negatives import MiningProblem, NegativeStrategy, Random
from anm_nb.energy.probes import grad_shares
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.tasks.base import Batch, Clues
from anm_nb.training.epochs import batch_indices
from anm_nb.training.learner import Measurement, Member, ParameterGroup, StepLosses
from anm_nb.training.seeds import RowDraws, generator, initialise
from anm_nb.training.stack import Stack

if TYPE_CHECKING:
    from anm_nb.energy.train import EnergyConfig
    from anm_nb.training.loop import Training

# Negatives that every run's dev margins are measured on, whatever it was trained with: legitimate by construction.
DEV_NEGATIVES = Random(eps=0.5, orthogonal_to_noise=True)
PROBE_NUMBERS = 2**18  # of the dev problems that the trace keeps, for whatever shows an example: the first that fit
BLOCK_NUMBERS = 2**26  # a GPU draws fresh problems for several steps at once, so many numbers of each seed


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
        """The next λ for measured shares r."""
        raised = torch.where(share < self.low, weight * self.factor, weight)
        return torch.where(share > self.high, weight / self.factor, raised)


class Branch(NamedTuple):
    """What the Python code of an energy's step branches on."""

    contrasted: bool
    balanced: bool  # whether λ is adapted in this step


class Detail(NamedTuple):
    """What the measurements need of a step's losses."""

    contrast: Contrast
    weight: Float[Tensor, " seeds"]  # λ
    weighted: Float[Tensor, " seeds"]  # contrastive loss with its weight
    loss_mse: Float[Tensor, " seeds"]


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
        parameters = list(self.model.members[0].parameters())
        adam = {"betas": (0.9, 0.99)}  # as published
        self.groups: Sequence[ParameterGroup] = [
            ParameterGroup(
                "energy",
                parameters,
                torch.optim.Adam,
                self.config.lr,
                self.config.clip_norm,
                options=adam,
                lrs=[member.config.lr for member in members],
            )
        ]
        self.generators: Mapping[str, Sequence[torch.Generator]] = {
            purpose: [generator(seed, purpose, device) for seed in self.seeds]
            for purpose in ("data", "noise", "negatives")
        }
        self.weights = [[member.config.weight_at(step) for member in members] for step in range(self.config.steps + 1)]
        progress = torch.arange(self.config.steps + 1, dtype=torch.float64) / self.config.steps
        self.schedules: Mapping[str, Tensor] = {
            "progress": progress.float().to(device),
            "contrastive_weight": torch.tensor(self.weights, dtype=torch.float64, device=device),
        }
        balanced = self.config.balance is not None
        self.state: Mapping[str, Tensor] = (
            {"contrastive_weight": torch.tensor(self.weights[-1], dtype=torch.float64, device=device)}
            if balanced
            else {}
        )
        self.suspects = ", ".join(f"{plugin.__name__}" for plugin in self.config.plugins())
        self.training = self.task.stream("train")
        self.fixed = [self._fixed_set(seed) for seed in self.seeds] if self.config.training_examples else None
        numbers = self.config.batch * (self.task.x_dim + self.task.y_dim)
        self.block = max(1, min(64, BLOCK_NUMBERS // numbers)) if device == "cuda" and self.fixed is None else 1
        self.drawn: list[Batch] = []  # the fresh problems of the present block of steps, of each seed
        self.dev, self.dev_problem, self.dev_negatives = self._dev_set()

    def inputs(self, step: int) -> dict[str, Tensor]:
        """The problems of a step, rows of all seeds: fresh ones, or the next of the fixed sets."""
        if self.fixed is not None:
            size = min(self.config.batch, len(self.fixed[0].x))
            batches = [
                _rows(batch, batch_indices(len(batch.x), size, step, seed, self.device))
                for batch, seed in zip(self.fixed, self.seeds, strict=True)
            ]
        else:
            size, place = self.config.batch, step % self.block
            if place == 0:
                self.drawn = [
                    self.training.sample(self.block * size, generator=source, device=self.device)
                    for source in self.generators["data"]
                ]
            batches = [_rows(batch, slice(place * size, (place + 1) * size)) for batch in self.drawn]
        stacked = vars(joined(batches))
        return {name: stacked[name] for name in ("x", "y", "known") if stacked[name] is not None}

    def branch(self, step: int, recorded: bool) -> Hashable:
        """Whether there is a contrast, and whether its weight is adapted."""
        contrasted = self.config.negatives is not None and (recorded or any(self.weights[step]))
        balance = self.config.balance
        return Branch(contrasted, contrasted and balance is not None and step % balance.every == 0)

    def losses(
        self, inputs: Mapping[str, Tensor], now: Mapping[str, Tensor], branch: Hashable, averaged: Stack
    ) -> StepLosses:
        """Denoising and contrastive losses of a batch; the positive's score and energy are one evaluation."""
        assert isinstance(branch, Branch)
        problem, weight = self.problem(inputs, now, averaged), self.weight(now)
        losses = self.losses_of(problem, self.config.negatives if branch.contrasted else None, weight)
        if branch.balanced and self.config.balance is not None:
            share = grad_shares(losses.detail.weighted, losses.detail.loss_mse, list(self.model.parameters()))
            self.state["contrastive_weight"].copy_(self.config.balance.adapted(weight, share))
        return losses

    def losses_of(
        self, problem: MiningProblem, strategy: NegativeStrategy | None, weight: Float[Tensor, " seeds"]
    ) -> StepLosses:
        """Losses of a noised batch, with a strategy's negatives at contrastive weight λ, or with none."""
        noised = problem.noise.noised(problem.y_pos)
        rows_mse, e_pos = denoising_rows(problem.noised_energy, noised, problem.noise.eps, problem.given)
        loss_mse = self.model.apart(rows_mse).mean(1)
        if strategy is None:
            return StepLosses(loss_mse, {"loss_mse": loss_mse})
        contrast = contrast_of(problem, strategy, noised, e_pos, self.config.probes)
        loss_con = self.model.apart(self.contrastive_rows(contrast)).mean(1)
        weighted = weight.float() * loss_con
        parts = {"loss_mse": loss_mse, "loss_con": loss_con}
        return StepLosses(loss_mse + weighted, parts, Detail(contrast, weight, weighted, loss_mse))

    def problem(self, inputs: Mapping[str, Tensor], now: Mapping[str, Tensor], averaged: Stack) -> MiningProblem:
        """A batch with its noise, for the networks in training and their EMA."""
        batch = Batch(inputs["x"], inputs["y"], inputs.get("known"))
        clues = self.task.clues(batch)
        noise = SharedNoise.draw(self.schedule, batch.y, self._draws("noise"), clues)
        draws = self._draws("negatives")
        return MiningProblem(self.task, batch.x, batch.y, noise, self.model, averaged, draws, clues, now["progress"])

    def weight(self, now: Mapping[str, Tensor]) -> Float[Tensor, " seeds"]:
        """λ of this step."""
        return self.state["contrastive_weight"].clone() if self.state else now["contrastive_weight"]

    def contrastive_rows(self, contrast: Contrast) -> Float[Tensor, " b"]:
        """The contrastive loss of each pair, with hard or soft labels as configured."""
        if self.config.soft_label:
            return soft_info_nce(contrast.e_pos, contrast.e_neg, contrast.optimal_margin)
        return info_nce(contrast.e_pos, contrast.e_neg)

    def measure(self, training: Training, losses: StepLosses) -> list[Measurement]:
        """The checklist's columns (sections A, B, D, J) before the update of this step."""
        averaged = training.averaged
        answers = predict(averaged, self.task, self.dev, self.schedule, self.sampler, self.seeds).chunk(len(self.seeds))
        margins = self.model.apart(self.dev_margin(averaged))
        measured = []
        for place, (answer, margin) in enumerate(zip(answers, margins, strict=True)):
            scalars = self.task.metrics(answer, self._own_dev(place))
            scalars["dev_margin_mean"] = float(margin.mean())
            scalars["dev_p_hard"] = float((margin < 0).float().mean())
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
            rows = slice(place * size, (place + 1) * size)
            each.scalars |= contrast_scalars(contrast, rows)
            each.scalars["contrastive_weight"] = float(detail.weight[place])
            each.scalars["grad_share_contrast"] = float(shares[place])
            each.arrays["margins"] = self._padded((contrast.e_neg - contrast.e_pos)[rows])
            each.arrays["illegitimate_by_level"] = illegitimate_by_level(contrast, rows)

    def evaluate(self, place: int, selected: nn.Module) -> Measurement:
        """Scores on test problems, where the config asks for them, and the dev problems that are shown as examples."""
        arrays = self._probes(place)
        if self.config.test_examples is None:
            return Measurement({}, arrays)
        config, seed = self.members[place].config, self.seeds[place]
        return Measurement(final_scores(selected, config, self.task, self.schedule, seed, self.device), arrays)

    def _network(self, seed: int) -> nn.Module:
        network = self.config.make_network(self.task)
        initialise(network, generator(seed, "weights"))
        return network.to(self.device)

    def _draws(self, purpose: str) -> RowDraws:
        return RowDraws(self.generators[purpose], self.device)

    def _padded(self, values: Tensor) -> Tensor:
        """Values of a batch, followed by NaN where it is the short last one of an epoch."""
        size = self.config.batch if self.fixed is None else min(self.config.batch, len(self.fixed[0].x))
        return nn.functional.pad(values, (0, size - len(values)), value=torch.nan)

    def _fixed_set(self, seed: int) -> Batch:
        """The fixed training problems, the same for every config of a seed."""
        source, n = generator(seed, "training set", self.device), self.config.training_examples
        assert n is not None
        return self.training.sample(n, generator=source, device=self.device)

    def _dev_set(self) -> tuple[Batch, MiningProblem, Tensor]:
        """Held-out problems, and negatives for them with levels and noise that no training step sees."""
        problems = []
        for seed, network in zip(self.seeds, self.model.members, strict=True):
            source = generator(seed, "dev", self.device)
            n, draws = self.config.dev_examples, RowDraws([source], self.device)
            batch = self.task.stream("dev").sample(n, generator=source, device=self.device)
            clues = self.task.clues(batch)
            noise = SharedNoise.draw(self.schedule, batch.y, draws, clues)
            problem = MiningProblem(self.task, batch.x, batch.y, noise, network, network, draws, clues)
            y_neg = DEV_NEGATIVES.propose(problem).y_neg
            problems.append((batch, noise, y_neg if clues is None else clues.impose(y_neg)))
        batches, noises, negatives = zip(*problems, strict=True)
        dev = joined(batches)
        noise = SharedNoise(self.schedule, *(torch.cat([getattr(n, name) for n in noises]) for name in ("k", "eps")))
        draws = RowDraws([generator(seed, "dev", self.device) for seed in self.seeds], self.device)
        problem = MiningProblem(self.task, dev.x, dev.y, noise, self.model, self.model, draws, self.task.clues(dev))
        return dev, problem, torch.cat(negatives)

    def _probes(self, place: int) -> dict[str, Tensor]:
        """One seed's first held-out pairs, for whoever shows an example, and the noise level of every pair."""
        own, n = self._own_dev(place), self.config.dev_examples
        first = slice(0, max(1, PROBE_NUMBERS // own.y[0].numel()))
        arrays = {"probe_x": own.x[first], "probe_y": own.y[first]}
        arrays |= {} if own.known is None else {"probe_known": own.known[first]}
        arrays["probe_negatives"] = self.dev_negatives[place * n : (place + 1) * n][first]
        return arrays | {"dev_levels": self.dev_problem.noise.k[place * n : (place + 1) * n]}

    def _own_dev(self, place: int) -> Batch:
        """One seed's held-out problems."""
        n = self.config.dev_examples
        return _rows(self.dev, slice(place * n, (place + 1) * n))

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
    def dev_margin(self, model: Stack) -> Float[Tensor, " b"]:
        """Margins of an energy on the held-out pairs."""
        noise, x = self.dev_problem.noise, self.dev.x
        e_pos = model(x, noise.noised(self.dev.y).as_subclass(Tensor), noise.k)
        return model(x, noise.noised(self.dev_negatives).as_subclass(Tensor), noise.k) - e_pos


def _rows(batch: Batch, rows: Any) -> Batch:
    return replace(batch, **{name: each[rows] for name, each in vars(batch).items() if each is not None})


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches of all seeds as one, seed after seed."""
    if len(batches) == 1:
        return batches[0]
    names = [name for name, each in vars(batches[0]).items() if each is not None]
    return replace(batches[0], **{name: torch.cat([vars(batch)[name] for batch in batches]) for name in names})
