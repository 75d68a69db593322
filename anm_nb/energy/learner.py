"""S seeds of energy runs: their problems, losses and measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from anm_nb.energy.losses import Contrast, step_losses
from anm_nb.energy.miner import MiningProblem
from anm_nb.energy.negatives import Random
from anm_nb.energy.probes import energy_columns, gradient_columns, noising_columns
from anm_nb.energy.sampler import predict
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise, Values
from anm_nb.tasks.base import SPLITS, Batch, Clues
from anm_nb.training import Measurement, Member, StepLosses
from anm_nb.training.seeds import RowDraws, generator, initialise
from anm_nb.training.stack import ParameterGroup, Stack

if TYPE_CHECKING:
    from anm_nb.energy.train import EnergyConfig
    from anm_nb.training.loop import Training

# Negatives that every run's dev margins are measured on, whatever it was trained with: legitimate by construction.
DEV_NEGATIVES = Random(eps=0.5, orthogonal_to_noise=True)
PROBE_NUMBERS = 2**18  # of the dev problems that the trace keeps, for whatever shows an example: the first that fit
BLOCK_NUMBERS = 2**26  # a GPU draws fresh problems for several steps at once, so many numbers of each seed


class EnergyLearner:
    """S seeds of energy runs; those that differ only in their negatives see the same batches with the same noise."""

    def __init__(self, members: Sequence[Member], device: str) -> None:
        config: EnergyConfig = members[0].config
        self.members, self.config, self.device, self.seeds = members, config, device, [each.seed for each in members]
        self.task, self.schedule = config.make_task(), NoiseSchedule.cosine(config.levels, device=device)
        self.training, self.inner_steps = self.task.stream("train"), config.inner_steps or self.task.inner_steps
        networks = [config.make_network(self.task) for _ in members]
        for seed, network in zip(self.seeds, networks, strict=True):
            initialise(network, generator(seed, "weights"))
        self.model = Stack([network.to(device) for network in networks])
        adam = self.model, list(networks[0].parameters()), torch.optim.Adam, config.lr, config.clip_norm
        betas, lrs = {"betas": (0.9, 0.99)}, [each.config.lr for each in members]  # as published
        self.groups: Sequence[ParameterGroup] = [ParameterGroup("energy", *adam, options=betas, lrs=lrs)]
        purposes = ("data", "noise", "negatives")
        self.generators: Mapping[str, Sequence[torch.Generator]] = {each: self._sources(each) for each in purposes}
        weights = [each.config.weight for each in members]
        self.contrasted, self.weight = any(weights), torch.tensor(weights, dtype=torch.float64, device=device)
        progress = torch.arange(config.steps + 1, dtype=torch.float64) / config.steps
        self.schedules: Mapping[str, Tensor] = {"progress": progress.float().to(device)}
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
        noise, draws = (RowDraws(self.generators[purpose], self.device) for purpose in ("noise", "negatives"))
        problem = replace(self._problem(Batch(**inputs), averaged, noise), draws=draws, progress=now["progress"])
        return step_losses(problem, self.config.negatives if branch else None, self.weight, self.config.soft_label)

    def measure(self, training: Training, losses: StepLosses) -> list[Measurement]:
        """The checklist's columns (sections A, B, D, J) before the update of this step."""
        averaged, apart, measured = training.averaged, self.model.apart, []
        answers = predict(averaged, self.task, self.dev, self.schedule, self.inner_steps, self.seeds)
        for answer, margin, dev in zip(apart(answers), apart(self.dev_margin(averaged)), self.devs, strict=True):
            means = {"dev_margin_mean": float(margin.mean()), "dev_p_hard": float((margin < 0).float().mean())}
            measured.append(Measurement(self.task.metrics(answer, dev) | means, {"dev_margins": margin}))
        if losses.detail is not None:
            self.measure_contrast(losses.detail, measured)
        return measured

    def measure_contrast(self, contrast: Contrast, measured: Sequence[Measurement]) -> None:
        """Add the recorder's columns of every seed's negatives and means of the miner's log (checklist A–D, K).

        As arrays the margins, and how many negatives have m* < 0, and how many there are, at each noise level.
        """
        learnt = self.model.parameters()
        shares = gradient_columns(contrast.loss_mse, contrast.weighted, learnt)["grad_share_contrast"]
        noise, mined, y_pos = contrast.problem.noise, contrast.mined, contrast.problem.y_pos
        rows = [contrast.e_pos.detach(), contrast.e_neg.detach(), contrast.optimal_margin, noise.k, *contrast.noised]
        rows += [y_pos, mined.y_neg, noise.schedule.signal(noise.k), noise.schedule.sigma(noise.k), *mined.log.values()]
        for place, each in enumerate(measured):
            own = [self.model.apart(tensor)[place] for tensor in rows]
            e_pos, e_neg, optimal, k = own[:4]
            columns = energy_columns(e_pos, e_neg) | noising_columns(*own[4:10])
            del columns["loss_con"]  # the loss itself stands beside it
            columns |= {"illegitimate_fraction": (optimal < 0).float().mean(), "optimal_margin_mean": optimal.mean()}
            columns |= {name: log.float().nanmean() for name, log in zip(mined.log, own[10:], strict=True)}
            if {"e_start", "e_mined"} <= columns.keys():
                columns["mined_drop"] = columns["e_start"] - columns["e_mined"]
            columns |= {"contrastive_weight": contrast.weight[place], "grad_share_contrast": shares[place]}
            each.scalars |= {name: float(value) for name, value in columns.items()}
            by_level = [torch.bincount(which, minlength=self.config.levels) for which in (k[optimal < 0], k)]
            each.arrays |= {"margins": e_neg - e_pos, "illegitimate_by_level": torch.stack(by_level).float()}

    def evaluate(self, place: int, selected: nn.Module) -> Measurement:
        """Scores on test problems, where asked for, and the first held-out pairs, for whoever shows an example."""
        dev, n = self.devs[place], self.config.test_examples
        negatives, levels = (self.model.apart(each)[place] for each in (self.dev_negatives, self.dev_problem.noise.k))
        pairs = {"probe_x": dev.x, "probe_y": dev.y, "probe_known": dev.known, "probe_negatives": negatives}
        first = max(1, PROBE_NUMBERS // dev.y[0].numel())
        arrays = {name: each[:first] for name, each in pairs.items() if each is not None} | {"dev_levels": levels}
        return Measurement(self.test_scores(selected, n, self.seeds[place]) if n else {}, arrays)

    def test_scores(self, model: nn.Module, n: int, seed: int) -> dict[str, float]:
        """Scores on n test problems by `split/metric/predictor`, every predictor on the same problems.

        They are `model`, as configured and with the task's clamp for the split; `steps=…`, with other numbers of
        descent steps; `published clamp`, where that differs; and the task's references, from n training problems.
        """
        task, device, columns = self.task, self.device, dict[str, float]()
        training = self.training.sample(n, generator=generator(seed, "references", device), device=device)
        for split, harder in SPLITS.items():
            source, clamp = generator(seed, f"test/{split}", device), task.clamp(harder)
            batch = task.stream("test").sample(n, generator=source, harder=harder, device=device)
            answers = {name: y_hat for (name, _), y_hat in task.references(training, batch).items()}
            ways = {"model": (self.inner_steps, clamp)}
            ways |= {"published clamp": (self.inner_steps, task.sample_clamp)} if clamp != task.sample_clamp else {}
            ways |= {f"steps={k}": (k, clamp) for k in self.config.test_inner_steps}
            for name, (steps, bound) in ways.items():
                answers[name] = predict(model, task, batch, self.schedule, steps, [seed], bound)
            for predictor, y_hat in answers.items():
                columns |= {f"{split}/{metric}/{predictor}": v for metric, v in task.metrics(y_hat, batch).items()}
        return columns

    def at_levels(
        self, levels: Sequence[int], model: nn.Module, purpose: str, dtype: torch.dtype = torch.float32
    ) -> MiningProblem:
        """The held-out problems with their own ε, level after level; what a strategy draws goes by seed and purpose."""
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
