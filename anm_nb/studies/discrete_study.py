"""`14_discrete_feasibility`: negatives of discrete tasks, and the energies trained on them (ANM checklist, section G).

All that is measured after training is of stored weights, on the held-out problems of each run with their own ε, at
every noise level: levels and noise that no training step saw, the same for every method of a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, model_validator
from torch import Tensor, nn

from anm_nb import store
from anm_nb.bounds import (
    Count,
    Decay,
    Examples,
    Fraction,
    LearningRate,
    Records,
    Seeds,
    Size,
    Steps,
    Threads,
    Weight,
    Width,
)
from anm_nb.config import ParameterError, Parameters
from anm_nb.energy.constraints import DiscreteSet
from anm_nb.energy.evaluate import kept_steps, predict, trained_energy
from anm_nb.energy.learner import EnergyLearner
from anm_nb.energy.negatives import AnmSimplex, DiscreteTask, MiningProblem, NegativeStrategy, named_negatives
from anm_nb.energy.networks import energy_given, gradient_and_value
from anm_nb.energy.schedule import SharedNoise
from anm_nb.energy.train import EnergyConfig
from anm_nb.studies.discrete_rules import rules_of
from anm_nb.studies.energy_settings import StrategyNames
from anm_nb.studies.reference_settings import TaskNames
from anm_nb.tasks.base import Batch, Clues, DenoisingTask, reference_table
from anm_nb.training.seeds import RowDraws, generator

HELD_OUT = "held_out"  # the kind of the run's own dev negatives (`DEV_NEGATIVES`): random, and all of them legitimate
UNDENOISED = "undenoised"  # the method name of reading the noised answer as it is
PER_TASK: dict[str, dict[str, Any]] = {
    "sudoku": {"size": 4, "task_options": {"pool": 500}},
    "connectivity": {"size": 6},
}


class DiscreteTraining(Parameters):
    """How the energies of one task are trained."""

    size: Size = 4
    task_options: dict[str, Any] = Field(default_factory=dict)
    network: str | None = "mlp"  # None: the task's published one
    width: Width = 128
    contrastive_weight: Weight | None = None  # None: the task's published one
    steps: Steps = 50
    batch: Examples = 64
    lr: LearningRate = 5e-3
    lr_final: Fraction = 0.05
    ema_decay: Decay = 0.9
    ema_every: Steps = 1
    records: Records = 5
    dev_examples: Examples = 24
    inner_steps: Count | None = 1  # the sampler's descent steps a level; None: the number published


class DiscreteFeasibility(DiscreteTraining):
    """Negative strategies against one another on discrete tasks; `per_task` replaces single values for one of them."""

    notebook: ClassVar[str] = "14_discrete_feasibility"

    tasks: TaskNames = ("sudoku", "connectivity")
    strategies: StrategyNames = (
        "stock",
        "anm_simplex",
        "anm_simplex_legitimate",
    )
    per_task: dict[str, dict[str, Any]] = Field(default_factory=lambda: PER_TASK)
    noise_levels: Annotated[tuple[NonNegativeInt, ...], Field(strict=False, min_length=1)] = (4, 6, 8)
    seeds: Seeds = (0, 1, 2)
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Threads = 1

    @model_validator(mode="after")
    def _usable(self) -> DiscreteFeasibility:
        for task in (*self.tasks, *self.per_task):
            rules_of(task)
        if not any(isinstance(named_negatives(name), AnmSimplex) for name in self.strategies):
            raise ParameterError(
                f"strategies = {list(self.strategies)}: needs one that mines among relaxed answers, such as anm_simplex"
            )
        configs = [next(iter(of_task.values())) for of_task in self.configs().values()]
        with torch.device("meta"):  # a size or a network that does not suit a task is refused before any training
            for config in configs:
                config.make_network(config.make_task())
        given, last = list(self.noise_levels), configs[0].levels - 1
        if len(set(given)) != len(given) or max(given) > last:
            raise ParameterError(f"noise_levels = {given}: should be different levels from 0 to {last}")
        return self

    def training(self, task: str) -> DiscreteTraining:
        """The values for one task."""
        shared = {name: getattr(self, name) for name in DiscreteTraining.model_fields}
        try:
            return DiscreteTraining(**shared | self.per_task.get(task, {}))
        except ParameterError as error:
            raise error.within(f"per_task.{task}") from None

    def configs(self) -> dict[str, dict[str, EnergyConfig]]:
        """By task, one run for each strategy, alike in everything else, with the weights of every record."""
        return {task: {name: self._config(task, name) for name in self.strategies} for task in self.tasks}

    def get_or_train(self) -> dict[str, dict[str, store.Run]]:
        """The finished run of each task and strategy, trained where the store has none."""
        return {
            task: {name: store.get_or_train(config) for name, config in of_task.items()}
            for task, of_task in self.configs().items()
        }

    def _config(self, task: str, strategy: str) -> EnergyConfig:
        values = self.training(task)
        return EnergyConfig.of(self, values, task=task, negatives=named_negatives(strategy), keep_weights=True)


class DiscreteStudy:
    """Every measurement of the notebook: tables with columns task, method and seed beside others."""

    def __init__(self, settings: DiscreteFeasibility) -> None:
        self.settings, self.runs = settings, settings.get_or_train()

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """What every run recorded while it trained, with columns task and method."""
        parts = [
            run.metrics.assign(task=task, method=method)
            for task, of_task in self.runs.items()
            for method, run in of_task.items()
        ]
        return pd.concat(parts, ignore_index=True)

    def negatives(self) -> pd.DataFrame:
        """`negative_rows` of every energy's own strategy, mined anew against it at each kept step: a row per pair."""

        def rows(learner: EnergyLearner, model: nn.Module) -> pd.DataFrame:
            strategy = learner.config.negatives
            return pd.DataFrame() if strategy is None else negative_rows(learner, model, strategy)

        return self._each(rows)

    def orders(self) -> pd.DataFrame:
        """`order_rates` of every trained energy on the held-out pairs and on negatives of every strategy's kind."""
        strategies = [named_negatives(name) for name in self.settings.strategies]

        def rows(learner: EnergyLearner, model: nn.Module) -> pd.DataFrame:
            return order_rates(learner, model, [each for each in strategies if each is not None])

        return self._each(rows, at_end=True)

    def denoised(self) -> pd.DataFrame:
        """`denoised_rows` of every energy at each kept step, and with method "undenoised" of no energy at all."""
        undenoised = self._each(lambda learner, _: denoised_rows(learner, None)).assign(method=UNDENOISED)
        place = ["task", "method", "seed", "step", "level"]
        return pd.concat([self._each(denoised_rows), undenoised.drop_duplicates(place)], ignore_index=True)

    def sampled(self) -> pd.DataFrame:
        """The violation rate of the sampler's answers to the held-out problems at each kept step."""

        def rows(learner: EnergyLearner, model: nn.Module) -> pd.DataFrame:
            y_hat = predict(model, learner.task, learner.dev, learner.schedule, learner.sampler, learner.seeds)
            return pd.DataFrame({"violation_rate": [float(_scores(learner, y_hat)["violation_rate"].mean())]})

        return self._each(rows)

    def references(self) -> pd.DataFrame:
        """Scores and violation rate of the task's references on the held-out problems that the runs are scored on.

        Columns task, seed, name, kind, metric, value, low, high; they learn from as many training problems.
        """
        parts = []
        for task, of_task in self.runs.items():
            first = next(iter(of_task.values()))
            for seed in self.settings.seeds:
                learner = _learner(first, seed)
                source = generator(seed, "references")
                training = learner.training.sample(len(learner.dev.x), generator=source)
                answers = learner.task.references(training, learner.dev)
                scores = {name: _scores(learner, y_hat) for name, y_hat in answers.items()}
                parts.append(reference_table(scores).assign(task=task, seed=seed))
        return pd.concat(parts, ignore_index=True)

    def _each(self, measure: Callable[[EnergyLearner, nn.Module], pd.DataFrame], at_end: bool = False) -> pd.DataFrame:
        parts = [measure(learner, model).assign(**place) for place, learner, model in self._energies(at_end)]
        return pd.concat(parts, ignore_index=True)

    def _energies(self, at_end: bool) -> Iterator[tuple[dict[str, Any], EnergyLearner, nn.Module]]:
        """Where and when, the learner that has the held-out problems, and the EMA energy at that step."""
        for task, of_task in self.runs.items():
            for method, run in of_task.items():
                for seed in self.settings.seeds:
                    learner = _learner(run, seed)
                    for step in kept_steps(run)[-1:] if at_end else kept_steps(run):
                        place = {"task": task, "method": method, "seed": seed, "step": step}
                        yield place, learner, trained_energy(run, seed, step)


def at_every_level(learner: EnergyLearner, model: nn.Module, purpose: str) -> MiningProblem:
    """The learner's held-out problems with their own ε at every noise level, level after level, for an energy.

    What is random about a strategy depends on the seed and the purpose alone, so that energies are compared by
    negatives that start alike.
    """
    problem, schedule = learner.dev_problem, learner.schedule
    levels, n = len(schedule.betas), len(problem.x)
    clues = problem.clues
    return replace(
        problem,
        x=problem.x.repeat(levels, 1),
        y_pos=problem.y_pos.repeat(levels, 1),
        noise=SharedNoise(schedule, torch.arange(levels).repeat_interleave(n), problem.noise.eps.repeat(levels, 1)),
        model=model,
        averaged=model,
        draws=RowDraws([generator(learner.seeds[0], f"discrete/{purpose}")], "cpu"),
        clues=None if clues is None else Clues(clues.mask.repeat(levels, 1), clues.values.repeat(levels, 1)),
    )


def negative_rows(learner: EnergyLearner, model: nn.Module, strategy: NegativeStrategy) -> pd.DataFrame:
    """Section G of each negative of a strategy against an energy, on `at_every_level`: a row per held-out pair.

    level; entropy, relative_entropy and invalid_mass of the relaxed point where the strategy mines one, else NaN;
    excluded_mass of it, or of the negative itself (`Rules`); clue_error, the largest distance of a given entry from its
    value; decisions_changed and violation_rate of the answer nearest to the negative; optimal_margin, and whether it is
    illegitimate (m* < 0); hard, whether E⁻ < E⁺.
    """
    problem = at_every_level(learner, model, strategy.name)
    batch = _batch_of(learner, problem)
    shown, relaxed, log = proposed(strategy, problem)
    answers, rules = all_answers(problem), rules_of(learner.task.name)
    vertex = answers.nearest_vertex(shown)
    margin = problem.noise.optimal_margin(problem.y_pos, shown)
    columns: dict[str, Tensor] = {
        "level": problem.noise.k,
        "excluded_mass": rules.excluded_mass(relaxed, batch),
        "clue_error": _clue_error(problem, relaxed).maximum(_clue_error(problem, shown)),
        "decisions_changed": answers.decisions_changed(vertex, problem.y_pos),
        "violation_rate": rules.violation_rate(learner.task, vertex, batch),
        "optimal_margin": margin,
        "illegitimate": (margin < 0).float(),
        "hard": (problem.energy(shown) < problem.energy(problem.y_pos)).float(),
    }
    nothing = torch.full_like(margin, torch.nan)
    columns |= {name: log.get(name, nothing) for name in ("entropy", "relative_entropy", "invalid_mass")}
    return pd.DataFrame({name: values.numpy() for name, values in columns.items()})


def proposed(
    strategy: NegativeStrategy, problem: MiningProblem
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"], dict[str, Tensor]]:
    """A strategy's negatives, the relaxed points that they were rounded from (or the same again), and its log."""
    if not isinstance(strategy, AnmSimplex):
        mined = strategy.propose(problem)
        return mined.y_neg, mined.y_neg, mined.log
    mined = strategy.model_copy(update={"round": False}).propose(problem)
    shown = strategy.answers(problem).nearest_vertex(mined.y_neg) if strategy.round else mined.y_neg
    return shown, mined.y_neg, mined.log


def order_rates(learner: EnergyLearner, model: nn.Module, strategies: list[NegativeStrategy]) -> pd.DataFrame:
    """How often an energy has E⁻ < E⁺, a row for each kind of negative: those of strategies against it, and "held_out".

    wrong: the share among legitimate pairs, where that is an error, and NaN without any; all_pairs: among all whose
    negative is not the truth; legitimate: the share of these with m* > 0. The held-out kind is the run's own dev
    negatives, at every level.
    """
    problem = at_every_level(learner, model, HELD_OUT)
    kinds = {HELD_OUT: (problem, learner.dev_negatives.repeat(len(learner.schedule.betas), 1))}
    for strategy in strategies:
        own = at_every_level(learner, model, strategy.name)
        kinds[strategy.name] = own, proposed(strategy, own)[0]
    rows = []
    for kind, (given, y_neg) in kinds.items():
        differs = (y_neg != given.y_pos).any(1)
        right = given.noise.optimal_margin(given.y_pos, y_neg)[differs] > 0
        hard = (given.energy(y_neg) < given.energy(given.y_pos))[differs].double()
        rates = {"wrong": hard[right].mean(), "all_pairs": hard.mean(), "legitimate": right.double().mean()}
        rows.append({"kind": kind} | {name: float(rate) for name, rate in rates.items()})
    return pd.DataFrame(rows)


def denoised_rows(learner: EnergyLearner, model: nn.Module | None) -> pd.DataFrame:
    """Violations of one-step estimates x̂₀ = (ỹ − σ_k ∇E)/√ᾱ_k, on `at_every_level`: a row per level.

    violation_rate, and wrong: the share of decisions not given that differ from the truth; both of the answers nearest
    to x̂₀, clues in place. Without a model the gradient is 0: the noised answers themselves are read.
    """
    problem = at_every_level(learner, learner.model if model is None else model, "denoised")
    noise, task, answers = problem.noise, learner.task, all_answers(problem)
    point = noise.noised(problem.y_pos).as_subclass(Tensor)
    if model is not None:
        score, _ = gradient_and_value(energy_given(model, problem.x, noise.k), point)
        point = point - noise.schedule.sigma(noise.k) * score
    vertex = answers.nearest_vertex(noise.schedule.to_clean(point, noise.k))
    given = torch.zeros_like(problem.y_pos) if problem.clues is None else problem.clues.mask
    free = (task.y_dim - given.sum(1)) / _classes(task)
    columns = {
        "violation_rate": rules_of(task.name).violation_rate(task, vertex, _batch_of(learner, problem)),
        "wrong": answers.decisions_changed(vertex, problem.y_pos) / free,
    }
    table = pd.DataFrame({"level": noise.k.numpy()} | {name: values.numpy() for name, values in columns.items()})
    return table.groupby("level").mean().reset_index()


def all_answers(problem: MiningProblem) -> DiscreteSet:
    """Every relaxed answer to the problems: the set without the wish for legitimate ones."""
    return AnmSimplex().answers(problem)


def _learner(run: store.Run, seed: int) -> EnergyLearner:
    """The learner of a seed as it was at the start: it has the held-out problems."""
    assert isinstance(run.config, EnergyConfig)
    learner = run.config.learner(seed, "cpu")
    assert isinstance(learner, EnergyLearner)
    return learner


def _batch_of(learner: EnergyLearner, problem: MiningProblem) -> Batch:
    """The held-out problems as often as `at_every_level` repeats them."""
    known = learner.dev.known
    return Batch(problem.x, problem.y_pos, None if known is None else known.repeat(len(learner.schedule.betas), 1))


def _scores(learner: EnergyLearner, y_hat: Tensor) -> dict[str, Tensor]:
    """The task's scores of answers to the held-out problems, and their violation rate."""
    vertex = all_answers(learner.dev_problem).nearest_vertex(y_hat)
    broken = rules_of(learner.task.name).violation_rate(learner.task, vertex, learner.dev)
    return learner.task.scores(y_hat, learner.dev) | {"violation_rate": broken}


def _clue_error(problem: MiningProblem, y: Tensor) -> Tensor:
    """The largest distance [b] of a given entry from its value; 0 without clues."""
    if problem.clues is None:
        return torch.zeros_like(y[:, 0])
    return ((y - problem.clues.values).abs() * problem.clues.mask).amax(1)


def _classes(task: DenoisingTask) -> int:
    """Entries that form one decision."""
    assert isinstance(task, DiscreteTask)
    return task.classes
