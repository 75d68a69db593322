"""What a training step costs as its sizes grow: operations counted and in closed form, time, and memory.

Counted are matrix products, a multiply-add as 2, as torch's counter does. A linear layer i → o on r rows is a product
of 2·r·i·o, and its backward pass two more of that size: one for its weights, one for its input. The second one is not
made where no gradient of the input is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, UntypedStorage
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from anm_nb.bounds import Count, Examples, Seeds, Size, Threads, Width
from anm_nb.config import ParameterError, Parameters
from anm_nb.energy.train import EnergyConfig
from anm_nb.ranking.networks import FEEDFORWARD
from anm_nb.ranking.train import RankingConfig
from anm_nb.training.loop import Training
from anm_nb.training.timing import fresh_training, turn_seconds

Config = RankingConfig | EnergyConfig
LEVEL_DIM = 128  # of the level embedding's sinusoids and of its two layers, as published


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
            ("energy", "batch"): {n: self.energy(batch=n) for n in self.energy_batches},
            ("ranking", "items"): {n: self.ranking(size=n) for n in self.items},
            ("ranking", "iterations"): {n: self.ranking(max_inner_iters=n) for n in self.iterations},
            ("energy", "side"): {n: self.energy(size=n) for n in self.sides},
        }

    def ranking(self, **changes: object) -> RankingConfig:
        """The ranking model of reference, or one that differs from it; its training set is one batch."""
        shared = ("batch", "size", "max_inner_iters", "hrm_period", "width", "n_heads", "seeds", "device", "threads")
        values = {name: getattr(self, name) for name in shared} | changes
        few = {"train_samples": values["batch"], "dev_samples": 1, "test_samples": 1, "warmup_epochs": 0}
        return RankingConfig(**(values | few))

    def energy(self, **changes: object) -> EnergyConfig:
        """The energy network of reference, trained by plain denoising, or one that differs from it."""
        shared = {name: getattr(self, name) for name in ("seeds", "device", "threads")}
        own = {"size": self.side, "batch": self.energy_batch, "width": self.energy_width, "dev_examples": 2}
        return EnergyConfig(**(shared | own | changes))

    def operations(self) -> pd.DataFrame:
        """Operations of a step by size and seed, counted by torch and in closed form; exact."""
        rows = []
        for (model, dimension), configs in self.series().items():
            for size, config in configs.items():
                for seed in self.seeds:
                    counted = step_operations(fresh_training(config, [seed]))
                    rows.append((model, dimension, size, seed, counted, closed_form(config)))
        return pd.DataFrame(rows, columns=["model", "dimension", "size", "seed", "counted", "closed_form"])

    def step_times(self) -> pd.DataFrame:
        """Seconds of a training step by size and round; the sizes of a series are taken in turn in every round."""
        tables = []
        for (model, dimension), configs in self.series().items():
            timed = self._timed({size: [config.seeds[:1]] for size, config in configs.items()}, configs)
            tables.append(timed.assign(model=model, dimension=dimension))
        return pd.concat(tables, ignore_index=True)

    def seed_times(self) -> pd.DataFrame:
        """Seconds of a training step of several seeds, one after another and as one stack, by model, number, round."""
        ways: dict[tuple[int, str], list[tuple[int, ...]]] = {}
        for count in self.seed_counts:
            ways[count, "in turn"] = [(seed,) for seed in range(count)]
            ways[count, "stacked"] = [tuple(range(count))]
        models: dict[str, Config] = {"ranking": self.ranking(), "energy": self.energy()}
        timed = {model: self._timed(ways, dict.fromkeys(ways, config)) for model, config in models.items()}
        table = pd.concat([each.assign(model=model) for model, each in timed.items()], ignore_index=True)
        return table.assign(way=[way for _, way in table["size"]], size=[count for count, _ in table["size"]])

    def _timed(self, stacks: Mapping[Any, Sequence[Sequence[int]]], configs: Mapping[Any, Config]) -> pd.DataFrame:
        """Seconds of a step of the stacks of seeds of each size, as rows of round, size and seconds."""
        device = self.ranking().device_kind()
        trainings = {size: [fresh_training(configs[size], each, device) for each in stacks[size]] for size in stacks}
        wide = turn_seconds(trainings, self.rounds)
        rows = [(at, size, seconds) for size in stacks for at, seconds in enumerate(wide[size])]
        return pd.DataFrame(rows, columns=["round", "size", "seconds"])

    def memory(self) -> pd.DataFrame:
        """Bytes kept for the backward pass by iterations and seed, with gradients of all and of the last; exact.

        The last iteration alone is supervised in both, as it has to be where the others get no gradient.
        """
        rows = []
        for gradient in ("full", "last"):
            for count in self.iterations:
                config = self.ranking(max_inner_iters=count, gradient=gradient, deep_supervision=False)
                rows += [(gradient, count, seed, step_bytes(fresh_training(config, [seed]))) for seed in self.seeds]
        return pd.DataFrame(rows, columns=["gradient", "iterations", "seed", "bytes"])


class _NoModules:
    """Stands in for the counter's module tracker, whose hooks refuse `torch.func`'s gradients."""

    parents = frozenset({"Global"})

    def __enter__(self) -> _NoModules:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def counted_flops(work: Callable[[], object]) -> int:
    """Operations of matrix products, convolutions and attention in a piece of work; a multiply-add counts 2.

    Elementwise work, reductions and factorisations count nothing. Attention is counted as its two products.
    """
    counter: Any = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()
    with counter:
        work()
    return int(counter.get_total_flops())


def step_operations(training: Training) -> int:
    """Operations of a training's first step, as torch counts them: data, forward, loss and backward."""
    return counted_flops(lambda: training.take(training.learner.inputs(0), training.kind(0, recorded=False)))


class SavedStorages(saved_tensors_hooks):
    """Collects what autograd saves inside its `with` block, each storage once, however many views of it are saved.

    Storages of `known` tensors (weights, data) are there anyway and not counted. torch does not allow it around
    `torch.func.grad`, and with it an energy's step: there it raises `RuntimeError`.
    """

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__(self._save, lambda saved: saved)
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._kept: dict[int, UntypedStorage] = {}  # held, so that no address is given out twice

    def _save(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._kept[storage.data_ptr()] = storage
        return tensor

    @property
    def bytes(self) -> int:
        """Bytes of all storages together."""
        return sum(storage.nbytes() for storage in self._kept.values())


def step_bytes(training: Training) -> int:
    """Bytes that the losses of a training's first step keep for their backward pass, its weights not included."""
    saved = SavedStorages(list(training.model.parameters()))
    with saved:
        training.losses(training.learner.inputs(0), training.kind(0, recorded=False))
    return saved.bytes


def closed_form(config: Config) -> int:
    """Operations of one training step of a config's batch and seed."""
    return ranking_operations(config) if isinstance(config, RankingConfig) else energy_operations(config)


def ranking_operations(config: RankingConfig) -> int:
    """One training step of the ranking model, its controller not frozen.

    Per array of L items at width w, with feed-forward layers f·w wide, a block is 2L·(4 + 2f)·w² in its linear layers
    (queries, keys and values 3w², output w², feed-forward 2f·w²) and 2·2L²·w in attention (QKᵀ and its product with
    V): linear in L where L ≪ (2 + f)·w, quadratic beyond. The encoder applies one, the iteration one T times.
    A controller of state c reads L tokens (or one mean): its fast cell is a product of 3c·(w + 2c) and its
    logits one of 2c·heads every iteration, its slow cell one of 3c·2c every `hrm_period` iterations; without a slow
    state it is 3c·(w + c) and c·heads. Features beyond the hidden flag are one product with their map to w.
    The backward pass is twice the forward one, over all iterations or the last, less what nobody asks for: the
    gradient by the values that enter, and by the controller's states before the first iteration with a gradient.
    Raises `ParameterError` for the pointer decoder and for a controller that is not trained, whose costs are others.
    """
    if config.loss == "cross_entropy":
        raise ParameterError(f"loss = '{config.loss}': the closed form is that of a score decoder, not of pointers")
    if config.has_controller and not config.learns_routing:
        raise ParameterError("trained_routing = False: the closed form is that of a controller that is trained")
    items, width, state, iterations = config.size, config.width, config.controller_width, config.max_inner_iters
    half, slow_state = width // 2 or 1, state if config.slow_state else 0
    read = {"uniform": 0, "random": 0, "sequence": 1, "token": items}[config.routing]
    block = linear(items, width, (4 + 2 * FEEDFORWARD) * width) + 2 * linear(items, width, items)
    fast = linear(read, width + slow_state, 3 * state) + linear(read, state, 3 * state)
    slow = 2 * linear(read, slow_state, 3 * slow_state)
    iteration = block + fast + linear(read, state + slow_state, config.n_heads)
    entering = linear(items, 1, half) + linear(items, max(0, config.make_task().x_dim - 2), width)
    encoder = entering + linear(items, half, width) + block
    supervised = (iterations if config.deep_supervision else 1) * linear(items, width, 1)
    updates = iterations // config.hrm_period
    forward = encoder + iterations * iteration + updates * slow + supervised
    if config.gradient == "last":
        iterations, updates = 1, int(iterations % config.hrm_period == 0)
    starts = linear(read, state, 3 * state) + (updates > 0) * linear(read, slow_state, 3 * slow_state)
    backward = 2 * (encoder + iterations * iteration + updates * slow + supervised) - entering - starts
    return config.batch * (forward + backward)


def energy_operations(config: EnergyConfig) -> int:
    """One step of plain denoising of n×n inverses by the published network, data generation included.

    x and y have n² entries each, so at width w the input layer is 2·B·2n²·w and the output layer 2·B·n²·w for a
    batch of B; the two hidden layers, 2·B·w² each, do not know n, and the level's embedding and modulation, once for
    each of K levels, know neither n nor B. With F all of them and G those through which ỹ acts, so not the product
    with x: the energy is F, its score ∇_ỹE one product by the input of each of those, G, and the backward pass through
    the score 2G and through the energy 2F, less the gradients by x, by ỹ and by the sinusoids. A = BBᵀ of the data is
    2n³ a matrix; its inverse is a factorisation, O(n³), and no product that torch counts.
    Raises `ParameterError` for another task, network or head, and with negatives.
    """
    task = config.make_task()
    given = {
        "task": (config.task, "inverse"),
        "network": (config.network or task.network, "mlp"),
        "head": (config.head, "squared_norm"),
        "negatives": (config.method, "none"),
    }
    for name, (value, known) in given.items():
        if value != known:
            raise ParameterError(f"{name} = '{value}': the closed form is that of {name} = '{known}'")
    batch, width = config.batch, config.width
    of_x, of_y = linear(batch, task.x_dim, width), linear(batch, task.y_dim, width)
    through = of_y + 2 * linear(batch, width, width) + linear(batch, width, task.y_dim)
    sinusoids = linear(config.levels, LEVEL_DIM, LEVEL_DIM)
    levels = 2 * sinusoids + 2 * linear(config.levels, LEVEL_DIM, 2 * width)
    data = batch * linear(config.size, config.size, config.size)
    return data + 3 * (through + of_x + levels) + 3 * through - (of_x + of_y) - sinusoids


def linear(rows: int, inputs: int, outputs: int) -> int:
    """Operations of a linear layer on so many rows: a multiplication and an addition for each weight and row."""
    return 2 * rows * inputs * outputs
