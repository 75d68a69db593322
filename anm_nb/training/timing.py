"""Timing training steps side by side, so that a machine's drift hits all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from anm_nb.training.learner import Member, TrainingConfig, resolve_device
from anm_nb.training.loop import Training
from anm_nb.training.run import arithmetic, cpu_threads, new_training

WARM_UP = {"cpu": 3, "cuda": 6}  # rounds; by then a GPU's steps are graphs


def step_seconds(configs: Mapping[str, TrainingConfig], rounds: int = 10) -> pd.DataFrame:
    """Seconds of one training step of each config's first seed: a row per round, taken in turn after warm-up rounds."""
    device = resolve_device(next(iter(configs.values())).device)
    return turn_seconds(
        {name: [fresh_training(config, config.seeds[:1], device)] for name, config in configs.items()}, rounds
    )


def turn_seconds(ways: Mapping[Any, Sequence[Training]], rounds: int) -> pd.DataFrame:
    """Seconds in which all trainings of a way take a step, one after another: a row per round, a column per way.

    The ways are taken in turn, every second round in reverse, with the arithmetic of the first one's config, after
    warm-up rounds.
    """
    first, rows = next(iter(ways.values()))[0], []
    warm_up = WARM_UP[first.device]
    with arithmetic(first.config):
        for turn in range(warm_up + rounds):
            order = list(ways)[:: -1 if turn % 2 else 1]
            rows.append({way: sum(next_step_seconds(training) for training in ways[way]) for way in order})
    return pd.DataFrame({way: [row[way] for row in rows[warm_up:]] for way in ways})


def fresh_training(config: TrainingConfig, seeds: Sequence[int], device: str = "cpu") -> Training:
    """The training of several seeds as one stack, as it begins; nothing of it is saved."""
    return new_training([Member(config, seed) for seed in seeds], [Path()] * len(seeds), device)


def next_step_seconds(training: Training) -> float:
    """Seconds of the next step, or of the first again, drawing its problems and updating the weights included."""
    first = training.step == 0
    step = training.step = training.step % max(1, training.config.total_steps() - 1) + 1
    training.counter.fill_(step)
    settle(training.device)
    started = time.perf_counter()
    with training.on_stream():
        training.take(training.learner.inputs(0 if first else step), training.kind(step, recorded=False))
    settle(training.device)
    return time.perf_counter() - started


def settle(device: str) -> None:
    """Wait until a device has done what it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()


def counted_flops(work: Callable[[], object]) -> int:
    """Operations of matrix products, convolutions and attention in a piece of work; a multiply-add counts 2.

    Elementwise work, reductions and factorisations count nothing. Attention is counted as its two products.
    """
    counter: Any = FlopCounterMode(display=False)
    counter.mod_tracker = nullcontext()  # its hooks refuse the gradients of torch.func
    counter.mod_tracker.parents = {"Global"}
    with counter:
        work()
    return int(counter.get_total_flops())


def matmul_rate(threads: int, device: str = "cpu", size: int = 1024, rounds: int = 5) -> float:
    """GFLOP/s of the fastest of several size³ matrix products in float32: a yardstick of the machine."""
    matrix = torch.randn(size, size, device=device, generator=torch.Generator(device).manual_seed(0))
    seconds = []
    with cpu_threads(threads):
        for _ in range(rounds + 1):
            settle(device)
            started = time.perf_counter()
            matrix @ matrix
            settle(device)
            seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds[1:]) / 1e9
