"""The study of where iteration helps as tables: what its trained models do on fresh problems of other kinds.

All models of a seed are asked the same problems, drawn from the test stream apart from those that runs were tested on.
Every table of answers has the columns model, seed and tau_all; what else was varied has its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from anm_nb.config import ParameterError
from anm_nb.ranking.evaluate import assess
from anm_nb.ranking.networks import RankingModel
from anm_nb.ranking.train import RankingConfig, trained_ranking
from anm_nb.store import Run
from anm_nb.studies.halting import halting_table
from anm_nb.studies.iteration_study import MODELS, Varied, WhereIterationHelps
from anm_nb.tasks import get_task
from anm_nb.tasks.base import Batch
from anm_nb.tasks.ordering import RankingTask
from anm_nb.training.seeds import generator

Runs = Mapping[str, Run]
Counts = Callable[[RankingConfig], Sequence[int]]  # after which iterations a model is asked

TOGETHER = 250  # problems a pass: the states of many iterations of more of them would take gigabytes
LONGER = (1, 2, 4)  # times the trained number of iterations, on arrays of other lengths
HALTED = ("weight-tied", "HRM per token")
CONTROLLED = ("no iteration", "HRM per token")
REFERENCE_PROBLEMS = 300
HINTS = ("true", "shuffled")


def study_tables(settings: WhereIterationHelps, runs: Runs) -> dict[str, pd.DataFrame]:
    """Every table of the study by name; trains nothing. Raises `ParameterError` where a run of the study is missing."""
    if missing := [name for name in settings.configs() if name not in runs]:
        raise ParameterError(f"the tables are of all runs of the study; missing: {', '.join(missing)}")
    tables = {name: make(settings, runs) for name, make in TABLES.items()}
    return tables | {"references": references(settings)}


def by_iteration(settings: WhereIterationHelps, runs: Runs) -> pd.DataFrame:
    """τ after each iteration up to the trained number, and after the settings' `test_iterations` beyond it.

    Columns beside: iterations, trained (how many it was trained with). Where each iteration has a block of its own
    there are none beyond.
    """

    def counts(config: RankingConfig) -> list[int]:
        trained = config.max_inner_iters
        beyond = [count for count in settings.test_iterations if count > trained] if config.tied else []
        return [*range(1, trained + 1), *beyond]

    models = {name: runs[name] for name in settings.comparators()}
    table = asked(settings, models, settings.hrm(), counts)
    trained = {name: _config(run).max_inner_iters for name, run in models.items()}
    return table.assign(trained=table["model"].map(trained))


def by_chain_length(settings: WhereIterationHelps, runs: Runs) -> pd.DataFrame:
    """τ of every comparator where the longest run of hidden items has the given length: chain_length."""
    models = {name: runs[name] for name in settings.comparators()}
    return _stacked("chain_length", settings.chain_lengths, partial(_of_kind, settings, models, "chain_length"))


def by_length(settings: WhereIterationHelps, runs: Runs) -> pd.DataFrame:
    """τ of the models of `MODELS` trained on short arrays on arrays of other lengths, and of those trained at `size`.

    Columns beside: train_length, length, times (iterations as a multiple of the trained number, by `LONGER`; 1 only
    without iteration or where each has a block of its own).
    """

    def counts(config: RankingConfig) -> list[int]:
        trained = config.max_inner_iters
        return [times * trained for times in LONGER] if config.tied and trained > 1 else [trained]

    parts = []
    asked_of = [(settings.train_length, length) for length in settings.test_lengths] + [(settings.size, settings.size)]
    for train_length, length in dict.fromkeys(asked_of):
        models = _named(settings, runs, ("size", train_length))
        table = asked(settings, models, _kind(settings, "length", length), counts)
        trained = table["model"].map({name: _config(run).max_inner_iters for name, run in models.items()})
        times = table.pop("iterations") // trained
        parts.append(table.assign(train_length=train_length, length=length, times=times))
    return pd.concat(parts, ignore_index=True)


def by_training_set(settings: WhereIterationHelps, runs: Runs) -> pd.DataFrame:
    """τ of the models of `MODELS` against the problems they were trained on for as many steps: train_samples."""

    def answers(count: float) -> pd.DataFrame:
        return asked(settings, _named(settings, runs, ("train_samples", count)), settings.hrm())

    return _stacked("train_samples", {*settings.train_sizes, settings.train_samples}, answers)


def by_mask_rate(settings: WhereIterationHelps, runs: Runs) -> pd.DataFrame:
    """τ of the models of `MODELS` trained and tested at each mask_rate."""

    def answers(rate: float) -> pd.DataFrame:
        return _of_kind(settings, _named(settings, runs, ("mask_rate", rate)), "mask_rate", rate)

    return _stacked("mask_rate", {*settings.mask_rates, settings.mask_rate}, answers)


def by_noise(settings: WhereIterationHelps, runs: Runs) -> pd.DataFrame:
    """τ of the models of `MODELS` against the share of wrong pointers at test (wrong_rate) and in training.

    Columns beside: wrong_rate, train_wrong_rate (0 and the settings').
    """
    parts = []
    for rate in dict.fromkeys((0.0, settings.train_wrong_rate)):
        models = _named(settings, runs, ("wrong_rate", rate))
        table = _stacked("wrong_rate", settings.wrong_rates, partial(_of_kind, settings, models, "wrong_rate"))
        parts.append(table.assign(train_wrong_rate=rate))
    return pd.concat(parts, ignore_index=True)


def by_patience(settings: WhereIterationHelps, runs: Runs) -> pd.DataFrame:
    """`halting_table` of the models of `HALTED` for each seed, with at most the trained number of iterations."""
    parts = []
    for seed, batch in fresh_problems(settings, settings.hrm()):
        for model in HALTED:
            table = halting_table(trained_ranking(runs[model], seed), batch, settings.patiences)
            parts.append(table.assign(model=model, seed=seed).drop(columns="tau_obs"))
    return pd.concat(parts, ignore_index=True)


def by_hints(settings: WhereIterationHelps, runs: Runs) -> pd.DataFrame:
    """τ where pointers follow the true order and where they follow another one (hints: true, shuffled).

    Of one pass, of HRM trained on true pointers, and of HRM trained on shuffled ones.
    """
    models = {name: runs[name] for name in (*CONTROLLED, *settings.control())}
    parts = [_of_kind(settings, models, "hints", place).assign(hints=hints) for place, hints in enumerate(HINTS)]
    return pd.concat(parts, ignore_index=True)


def references(settings: WhereIterationHelps) -> pd.DataFrame:
    """Trivial, classical and best-possible τ over all pairs of each kind of problems that the tables are about.

    Columns: varied (a name of `_KINDS`), value (a number; of hints the place in `HINTS`), name, kind, tau_all, low and
    high (95 %, over problems).
    """
    values: dict[str, Iterable[float]] = {
        "chain_length": settings.chain_lengths,
        "length": {*settings.test_lengths, settings.size},
        "mask_rate": {*settings.mask_rates, settings.mask_rate},
        "wrong_rate": settings.wrong_rates,
        "hints": range(len(HINTS)),
    }
    parts = []
    for varied, value in ((varied, value) for varied, some in values.items() for value in sorted(some)):
        task = _kind(settings, varied, value).make_task()
        table = task.reference_scores(REFERENCE_PROBLEMS, generator=generator(0, "references"))
        rows = table[table["metric"] == "tau_all"].drop(columns="metric").rename(columns={"value": "tau_all"})
        parts.append(rows.assign(varied=varied, value=float(value)))
    table = pd.concat(parts, ignore_index=True)
    return table[["varied", "value", "name", "kind", "tau_all", "low", "high"]]


def references_at(table: pd.DataFrame, varied: str, value: float) -> pd.DataFrame:
    """Of `references`, those of one kind of problems: name, kind, tau_all, low, high."""
    rows = table[(table["varied"] == varied) & (table["value"] == value)]
    return rows.drop(columns=["varied", "value"]).reset_index(drop=True)


def at_trained(table: pd.DataFrame) -> pd.DataFrame:
    """Of `by_iteration`, τ after the trained number of iterations: a row for each seed, a column for each model."""
    return wide(table[table["iterations"] == table["trained"]])


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """τ of a table with one row for each model and seed: a row for each seed, a column for each model."""
    return table.pivot(index="seed", columns="model", values="tau_all")[list(table["model"].unique())]


def asked(
    settings: WhereIterationHelps, models: Runs, config: RankingConfig, counts: Counts | None = None
) -> pd.DataFrame:
    """τ over all pairs of each model and seed on fresh problems of a config's task: model, seed, iterations, tau_all.

    `counts` says after which iterations (1 = the first) a model is asked; without it, after the number it was trained
    with, and there is no such column.
    """
    rows = []
    for seed, batch in fresh_problems(settings, config):
        for model, run in models.items():
            trained = _config(run)
            iterations = counts(trained) if counts else [trained.max_inner_iters]
            taus = tau_after_each(trained_ranking(run, seed), batch, max(iterations))
            rows += [(model, seed, count, float(taus[count - 1])) for count in iterations]
    table = pd.DataFrame(rows, columns=["model", "seed", "iterations", "tau_all"])
    return table if counts else table.drop(columns="iterations")


def fresh_problems(settings: WhereIterationHelps, config: RankingConfig) -> Iterator[tuple[int, Batch]]:
    """For each seed of the study as many problems of a config's task as the settings say, in no run's own test set."""
    options = config.make_task().options.model_dump_json()
    for seed in settings.seeds:
        yield seed, _drawn(config.task, options, settings.problems, seed)


def tau_after_each(model: RankingModel, batch: Batch, iterations: int) -> Float[Tensor, " iterations"]:
    """Mean τ over all pairs after each iteration, in passes of at most `TOGETHER` problems."""
    total = torch.zeros(iterations, dtype=torch.float64)
    for rows in torch.arange(len(batch.x)).split(TOGETHER):
        part = Batch(batch.x[rows], batch.y[rows])
        total += len(rows) * assess(model(part.x, iterations), part).tau_all
    return total / len(batch.x)


TABLES: dict[str, Callable[[WhereIterationHelps, Runs], pd.DataFrame]] = {
    "test_iterations": by_iteration,
    "chain_lengths": by_chain_length,
    "lengths": by_length,
    "train_sizes": by_training_set,
    "mask_rates": by_mask_rate,
    "noise": by_noise,
    "halting": by_patience,
    "control": by_hints,
}


@lru_cache(maxsize=32)
def _drawn(task: str, options: str, problems: int, seed: int) -> Batch:
    """The same problems for every table that asks of them; drawing takes longer than answering."""
    source = generator(seed, "fresh test problems")
    drawn_by = get_task(task, **json.loads(options))
    assert isinstance(drawn_by, RankingTask)
    return drawn_by.sample(problems, generator=source, stream="test")


def _config(run: Run) -> RankingConfig:
    config = run.config
    assert isinstance(config, RankingConfig)
    return config


def _named(settings: WhereIterationHelps, runs: Runs, changed: Varied) -> Runs:
    """The runs of the models of `MODELS` with a setting changed, by the model's name."""
    return {model: runs[settings.name_of(model, changed)] for model in MODELS}


def _of_kind(settings: WhereIterationHelps, models: Runs, varied: str, value: float) -> pd.DataFrame:
    return asked(settings, models, _kind(settings, varied, value))


def _stacked(column: str, values: Iterable[float], answers: Callable[[Any], pd.DataFrame]) -> pd.DataFrame:
    """The answers at each value in turn, the value in a column of its own."""
    return pd.concat([answers(value).assign(**{column: value}) for value in sorted(values)], ignore_index=True)


def _with_options(config: RankingConfig, **options: Any) -> RankingConfig:
    return config.changed(task_options=config.task_options | options)


_KINDS: dict[str, Callable[[RankingConfig, Any], RankingConfig]] = {
    "chain_length": lambda config, length: _with_options(config, chain_length=int(length)),
    "length": lambda config, length: config.changed(size=int(length)),
    "mask_rate": lambda config, rate: config.changed(mask_rate=rate),
    "wrong_rate": lambda config, rate: _with_options(config, wrong_rate=rate),
    "hints": lambda config, place: _with_options(config, hints=HINTS[place]),
}


def _kind(settings: WhereIterationHelps, varied: str, value: float) -> RankingConfig:
    """A config whose task has the settings' problems with one thing changed."""
    return _KINDS[varied](settings.hrm(), value)
