"""`12_miner_convergence`: a trained network to mine, and short trainings that differ in what section H asks about.

Energies mined: `trained`, the EMA network of a finished run, and `optimal`, the energy E* of a perfect denoiser.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from pydantic import Field, model_validator
from torch import nn

from anm_nb import store
from anm_nb.bounds import (
    Count,
    Counts,
    Decay,
    Distinct,
    Examples,
    Fraction,
    LearningRate,
    Rates,
    Seeds,
    Size,
    Steps,
    Threads,
    Width,
)
from anm_nb.config import ParameterError, Parameters
from anm_nb.energy.evaluate import trained_energy
from anm_nb.energy.miner import MinerConfig
from anm_nb.energy.negatives import MiningProblem, NegativeStrategy, get_negatives, named_negatives
from anm_nb.energy.train import EnergyConfig
from anm_nb.studies.energy_settings import TaskName
from anm_nb.studies.miner_measurements import (
    RULES,
    armijo_check,
    mined_rows,
    mining_problem,
    mining_seconds,
    path_frame,
    rule_frame,
    with_options,
)
from anm_nb.tasks import task_class
from anm_nb.tasks.base import MatrixTask
from anm_nb.training.seeds import generator

METHODS = ("anm", "anm_orthogonal")
BASELINES = ("none", "stock")

Length = Annotated[float, Field(gt=0, le=1e6)]  # in units of ‖y⁺‖
Lengths = Annotated[tuple[Length, ...], Field(strict=False, min_length=2), Distinct]
Batches = Annotated[tuple[Examples, ...], Field(strict=False, min_length=1), Distinct]


class MinerConvergence(Parameters):
    """A network to mine, how it is mined, and short trainings that differ in one thing of section H each."""

    notebook: ClassVar[str] = "12_miner_convergence"

    task: TaskName = "inverse"
    size: Size = 4
    width: Width = 64
    head: Literal["squared_norm", "scalar"] = "squared_norm"
    seeds: Seeds = (0, 1, 2)
    batch: Examples = 128
    lr: LearningRate = 2e-3
    lr_final: Fraction = 0.05
    ema_decay: Decay = 0.9
    network_steps: Steps = 200
    problems: Examples = 200
    evaluations: Annotated[Count, Field(ge=3)] = 20
    step_sizes: Lengths = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    rule_step_sizes: Lengths = (0.1, 0.5, 5.0)
    inner_steps: Counts = (1, 2, 3, 4, 5, 6, 7, 8)
    batches: Batches = (64, 128, 256, 512, 1024)
    strategy: Literal["anm", "anm_orthogonal"] = "anm_orthogonal"
    train_steps: Steps = 32
    record_every: Steps = 8
    dev_examples: Examples = 64
    sampler_steps: Count = 2
    trained_inner_steps: Counts = (1, 2, 3, 5, 8)
    ema_decays: Rates = (0.0, 0.9, 0.99)
    lr_divisors: Annotated[tuple[Length, ...], Field(strict=False, min_length=1), Distinct] = (1.0, 1.5, 2.0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Threads = 1

    @model_validator(mode="after")
    def _usable(self) -> MinerConvergence:
        if not issubclass(task_class(self.task), MatrixTask):
            raise ParameterError(f"task = '{self.task}': this study is of mean squared errors of matrices")
        self.trainings()
        return self

    def network(self) -> EnergyConfig:
        """The run whose EMA networks are mined: plain denoising, so that no miner has shaped them."""
        return self._config(None, steps=self.network_steps, record_every=self.network_steps)

    def trainings(self) -> dict[tuple[str, float], EnergyConfig]:
        """The trainings of section H by (what is varied, its value), and the baselines by (name, NaN).

        The values that all share stand in every group that varies them; the store trains such a run once.
        """

        def short(negatives: NegativeStrategy | None, **loop: Any) -> EnergyConfig:
            every = min(self.record_every, self.train_steps)
            return self._config(negatives, steps=self.train_steps, record_every=every, **loop)

        usual = get_negatives(self.strategy)
        configs = {
            ("inner_steps", float(steps)): short(get_negatives(self.strategy, miner=MinerConfig(steps=steps)))
            for steps in self.trained_inner_steps
        }
        configs |= {("ema_decay", decay): short(usual, ema_decay=decay) for decay in self.ema_decays}
        configs |= {("lr_divisor", divisor): short(usual, lr=self.lr / divisor) for divisor in self.lr_divisors}
        return configs | {(name, float("nan")): short(named_negatives(name)) for name in BASELINES}

    def _config(self, negatives: NegativeStrategy | None, **values: Any) -> EnergyConfig:
        return EnergyConfig.of(self, negatives=negatives, inner_steps=self.sampler_steps, **values)


def oscillation(values: ArrayLike) -> float:
    """How much a curve goes back and forth: Σ|v_{i+1} − v_i|/(max v − min v) − 1, its total variation in excess.

    0 for every monotone curve, however it bends; one swing over the whole range and back adds 1 for each way. NaNs are
    left out; NaN for a curve that does not move. Compare curves with equally many records only.
    """
    curve = np.asarray(values, float)
    curve = curve[np.isfinite(curve)]
    reach = float(np.ptp(curve)) if len(curve) > 1 else 0.0
    return float(np.abs(np.diff(curve)).sum() / reach - 1) if reach else float("nan")


def training_rows(run: store.Run) -> pd.DataFrame:
    """What section H asks of one run, a row per seed: final `mse`, `dev_margin`, `dev_p_hard`, and two oscillations.

    `dev_oscillation` is of the mean margin of the held-out pairs under the EMA weights, `oscillation` of that of the
    batch's own negatives under the weights in training, which new data and noise at each record move as well (alike
    for all runs of a seed).
    """
    rows = []
    for seed, of_seed in run.metrics.groupby("seed"):
        records = of_seed.sort_values("step")
        last = records.iloc[-1]
        row = {"mse": last["mse"], "dev_margin": last["dev_margin_mean"], "dev_p_hard": last["dev_p_hard"]}
        row["dev_oscillation"] = oscillation(records["dev_margin_mean"])
        row["oscillation"] = oscillation(records["margin_mean"]) if "margin_mean" in records else np.nan
        rows.append({"seed": seed} | row)
    return pd.DataFrame(rows)


def optimal_dev_margin(config: EnergyConfig, seed: int) -> float:
    """The mean margin that E* gives the held-out pairs of a run: more than that is no better score, but a worse one."""
    learner = config.learner(seed)
    problem = learner.dev_problem
    return float(problem.noise.optimal_margin(problem.y_pos, learner.dev_negatives).mean())


class MinerStudy:
    """Every measurement of the notebook, for every seed: tables with columns energy, method and seed beside others."""

    def __init__(self, settings: MinerConvergence) -> None:
        self.settings, self.config, self.miner = settings, settings.network(), MinerConfig()

    @cached_property
    def networks(self) -> dict[int, nn.Module]:
        """The trained EMA network of each seed."""
        run = store.get_or_train(self.config)
        return {seed: trained_energy(run, seed) for seed in self.settings.seeds}

    def paths(self) -> pd.DataFrame:
        """`path_frame` of the default miner on both energies."""
        turns = self.settings.evaluations
        return self._each(lambda problem, method, seed: path_frame(problem, method, self.miner, seed, turns))

    def log(self) -> pd.DataFrame:
        """`mined_rows` of the default miner on both energies, a row per example."""
        return self._each(lambda problem, method, seed: mined_rows(problem, method, self.miner, seed))

    def rules(self) -> pd.DataFrame:
        """`rule_frame` on the trained networks from first trial steps of several lengths, `step_size`."""
        parts = []
        for seed, network in self.networks.items():
            problem = self._problem(network, seed)
            for method, length in itertools.product(METHODS, self.settings.rule_step_sizes):
                frame = rule_frame(
                    problem, method, with_options(self.miner, step_size=length), seed, self.settings.evaluations
                )
                parts.append(frame.assign(energy="trained", method=method, seed=seed, step_size=length))
        return pd.concat(parts, ignore_index=True)

    def by_step_size(self) -> pd.DataFrame:
        """Means of `mined_rows` on the trained networks against the length of the first trial step, `step_size`."""
        return self._swept("step_size", self.settings.step_sizes)

    def by_inner_steps(self) -> pd.DataFrame:
        """Means of `mined_rows` on the trained networks against the allowed accepted `steps`."""
        return self._swept("steps", self.settings.inner_steps)

    def armijo(self) -> pd.DataFrame:
        """`armijo_check` on the trained networks: a row for each rule that promises it, method and seed."""
        rows = []
        for seed, network in self.networks.items():
            single, double = (self._problem(network, seed, dtype) for dtype in (torch.float32, torch.float64))
            for rule in RULES[1:]:
                miner = with_options(self.miner, rule=rule, steps=self.settings.evaluations)
                for method in METHODS:
                    counts = armijo_check(single, double, method, miner, seed)
                    rows.append({"rule": rule, "method": method, "seed": seed} | counts)
        return pd.DataFrame(rows)

    def trained(self) -> pd.DataFrame:
        """`training_rows` of every short training, with columns factor, value and method, and two to read them by.

        `mse_trivial` is the best error that needs no learning, `dev_margin_optimal` the margin of a perfect score.
        """
        parts = []
        for (factor, value), config in self.settings.trainings().items():
            run = store.get_or_train(config)
            parts.append(training_rows(run).assign(factor=factor, value=value, method=config.method))
        table = pd.concat(parts, ignore_index=True)
        first = next(iter(self.settings.trainings().values()))
        optimal = {seed: optimal_dev_margin(first, seed) for seed in self.settings.seeds}
        scores = self.config.make_task().reference_scores(2000, generator=generator(0, "references"))
        trivial = scores.loc[(scores["kind"] == "trivial") & (scores["metric"] == "mse"), "value"].min()
        return table.assign(dev_margin_optimal=table["seed"].map(optimal), mse_trivial=trivial)

    def timed_config(self) -> EnergyConfig:
        """A training of `strategy` of default length and records, whose instruments are timed; it is never run."""
        steady = {"steps": 300, "lr_final": 1.0}
        return self.config.model_copy(update={"negatives": get_negatives(self.settings.strategy), **steady})

    def seconds(self) -> pd.DataFrame:
        """`mining_seconds` of the first seed's network."""
        settings, network = self.settings, next(iter(self.networks.values()))
        return mining_seconds(self.config, network, settings.strategy, settings.batches, settings.threads)

    def _problem(self, network: nn.Module | None, seed: int, dtype: torch.dtype = torch.float64) -> MiningProblem:
        return mining_problem(self.config, network, self.settings.problems, seed, dtype)

    def _subjects(self) -> Iterator[tuple[str, int, MiningProblem]]:
        for seed, network in self.networks.items():
            yield "trained", seed, self._problem(network, seed)
            yield "optimal", seed, self._problem(None, seed)

    def _each(self, measure: Callable[[MiningProblem, str, int], pd.DataFrame]) -> pd.DataFrame:
        parts = [
            measure(problem, method, seed).assign(energy=energy, method=method, seed=seed)
            for energy, seed, problem in self._subjects()
            for method in METHODS
        ]
        return pd.concat(parts, ignore_index=True)

    def _swept(self, option: str, values: Sequence[int] | Sequence[float]) -> pd.DataFrame:
        rows = []
        for seed, network in self.networks.items():
            problem = self._problem(network, seed)
            for method, value in itertools.product(METHODS, values):
                means = mined_rows(problem, method, with_options(self.miner, **{option: value}), seed).mean()
                rows.append({"energy": "trained", "method": method, "seed": seed, option: value} | means.to_dict())
        return pd.DataFrame(rows)
