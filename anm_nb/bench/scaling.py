"""The settings of the notebook on cost and scaling, and its measurements: operations, step times and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import pandas as pd
from pydantic import AfterValidator, Field, model_validator

from anm_nb.bench.closed_forms import energy_operations, ranking_operations
from anm_nb.bench.flops import counted_flops
from anm_nb.bench.measure import timed
from anm_nb.bench.saved_memory import step_bytes
from anm_nb.bounds import Count, Examples, Seeds, Size, Threads, Width
from anm_nb.config import Parameters
from anm_nb.energy.train import EnergyConfig
from anm_nb.ranking.train import RankingConfig
from anm_nb.training.learner import Learner
from anm_nb.training.loop import LoopConfig, SeedTraining, cpu_threads, resolve_device
from anm_nb.training.stacked import SeedStack, compiler
from anm_nb.training.timing import step_seconds

Config = RankingConfig | EnergyConfig


def _ascending(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if any(later <= earlier for earlier, later in pairwise(sizes)):
        raise ValueError("sizes have to ascend")
    return sizes


Sizes = Annotated[tuple[Size, ...], Field(strict=False, min_length=3), AfterValidator(_ascending)]


class CostAndScaling(Parameters):
    """Two models at a size of reference, and the sizes that each of their dimensions takes, one at a time."""

    notebook: ClassVar[str] = "03_cost_and_scaling"

    ranking_batches: Sizes = (8, 16, 32, 64, 128)
    items: Sizes = (8, 16, 32, 64, 128)
    iterations: Sizes = (2, 4, 8, 16)
    energy_batches: Sizes = (16, 64, 256, 1024)
    sides: Sizes = (4, 8, 16, 32, 64)
    seed_counts: Sizes = (1, 2, 4)
    batch: Examples = 32
    size: Size = 16
    max_inner_iters: Count = 4
    hrm_period: Count = 2
    width: Width = 64
    n_heads: Count = 4
    energy_batch: Examples = 128
    side: Size = 8
    energy_width: Width = 128
    rounds: Annotated[Count, Field(ge=3)] = 8
    seeds: Seeds = (0, 1, 2)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Threads = 1

    @model_validator(mode="after")
    def _usable(self) -> CostAndScaling:
        self.series()
        return self

    def series(self) -> dict[tuple[str, str], dict[int, Config]]:
        """Configs by size for each model (ranking, energy) and the dimension in which they differ."""
        return {
            ("ranking", "batch"): {n: self.ranking(batch=n) for n in self.ranking_batches},
            ("energy", "batch"): {n: self.energy(self.side, n) for n in self.energy_batches},
            ("ranking", "items"): {n: self.ranking(size=n) for n in self.items},
            ("ranking", "iterations"): {n: self.ranking(max_inner_iters=n) for n in self.iterations},
            ("energy", "side"): {n: self.energy(n, self.energy_batch) for n in self.sides},
        }

    def ranking(self, **changes: object) -> RankingConfig:
        """The ranking model of reference, or one that differs from it; its training set is one batch."""
        shared = ("batch", "size", "max_inner_iters", "hrm_period", "width", "n_heads", "seeds", "device", "threads")
        values = {name: getattr(self, name) for name in shared} | changes
        few = {"train_samples": values["batch"], "dev_samples": 1, "test_samples": 1, "warmup_epochs": 0}
        return RankingConfig(**(values | few))

    def energy(self, side: int, batch: int) -> EnergyConfig:
        """The energy network of reference for matrices of a side and batches of a size, by plain denoising."""
        loop = LoopConfig(batch=batch, device=self.device, threads=self.threads)
        return EnergyConfig(size=side, width=self.energy_width, dev_examples=2, loop=loop, seeds=self.seeds)

    def operations(self) -> pd.DataFrame:
        """Operations of a step by size and seed, counted by torch and in closed form; exact."""
        rows = []
        for (model, dimension), configs in self.series().items():
            for size, config in configs.items():
                for seed in self.seeds:
                    counted = step_operations(config.learner(seed, "cpu"))
                    rows.append((model, dimension, size, seed, counted, closed_form(config)))
        return pd.DataFrame(rows, columns=["model", "dimension", "size", "seed", "counted", "closed_form"])

    def step_times(self) -> pd.DataFrame:
        """Seconds of a training step by size and round; the sizes of a series are taken in turn in every round."""
        tables = []
        for (model, dimension), configs in self.series().items():
            learners = {str(size): config.learner for size, config in configs.items()}
            wide = step_seconds(learners, next(iter(configs.values())).loop, self.rounds)
            tables.append(_long(wide).assign(model=model, dimension=dimension))
        return pd.concat(tables, ignore_index=True)

    def seed_times(self) -> pd.DataFrame:
        """Seconds of a training step of several seeds, one after another and stacked, by model, number and round."""
        device = resolve_device(self.device)
        tables = []
        references: dict[str, Config] = {
            "ranking": self.ranking(),
            "energy": self.energy(self.side, self.energy_batch),
        }
        for model, config in references.items():
            steps: dict[str, Callable[[], object]] = {}
            for count in self.seed_counts:
                steps[f"in turn/{count}"] = step_in_turn(config, range(count), device)
                steps[f"stacked/{count}"] = stacked_step(config, range(count), device)
            with cpu_threads(self.threads):
                rounds = [{name: timed(step, device) for name, step in steps.items()} for _ in range(self.rounds + 3)]
            for way in ("in turn", "stacked"):
                wide = pd.DataFrame(rounds[3:]).filter(like=way).rename(columns=lambda name: name.split("/")[1])
                tables.append(_long(wide).assign(model=model, way=way))
        return pd.concat(tables, ignore_index=True)

    def memory(self) -> pd.DataFrame:
        """Bytes kept for the backward pass by iterations and seed, with gradients of all and of the last; exact.

        The last iteration alone is supervised in both, as it has to be where the others get no gradient.
        """
        rows = []
        for gradient in ("full", "last"):
            for count in self.iterations:
                config = self.ranking(max_inner_iters=count, gradient=gradient, deep_supervision=False)
                rows += [(gradient, count, seed, step_bytes(config.learner(seed, "cpu"))) for seed in self.seeds]
        return pd.DataFrame(rows, columns=["gradient", "iterations", "seed", "bytes"])


def closed_form(config: Config) -> int:
    """Operations of one training step of a config."""
    return ranking_operations(config) if isinstance(config, RankingConfig) else energy_operations(config)


def step_operations(learner: Learner) -> int:
    """Operations of the first training step of a learner, as torch counts them."""
    return counted_flops(lambda: learner.losses(0, learner.model).total.backward())


def step_in_turn(config: Config, seeds: Iterable[int], device: str) -> Callable[[], None]:
    """The first training step of one seed after another, again with every call."""
    trainings = [_training(config, seed, device) for seed in seeds]

    def step() -> None:
        for training in trainings:
            training.update(training.losses())

    return step


def stacked_step(config: Config, seeds: Iterable[int], device: str) -> Callable[[], None]:
    """The same for all seeds at once, by products over a stack of networks, compiled where the config asks for it."""
    stack = SeedStack([_training(config, seed, device) for seed in seeds], compiler(config.loop, device))
    return lambda: stack.update(0, stack.losses(0))


def _training(config: Config, seed: int, device: str) -> SeedTraining:
    return SeedTraining(config.learner(seed, device), config.loop, seed, device)


def _long(wide: pd.DataFrame) -> pd.DataFrame:
    """A table [rounds × sizes] as rows of round, size and seconds."""
    long = wide.rename_axis(index="round").reset_index().melt("round", var_name="size", value_name="seconds")
    return long.astype({"size": int})
