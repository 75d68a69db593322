"""Timing training steps side by side, so that a machine's drift hits all of them alike."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

from anm_nb.training.learner import Member, TrainingConfig, resolve_device
from anm_nb.training.loop import Training
from anm_nb.training.run import arithmetic, cpu_threads


def step_seconds(configs: Mapping[str, TrainingConfig], rounds: int = 10) -> pd.DataFrame:
    """Seconds of one training step of each config's first seed: a row per round, taken in turn after warm-up rounds."""
    first = next(iter(configs.values()))
    device = resolve_device(first.device)
    with arithmetic(first):
        trainings = {name: one_seed(config, device) for name, config in configs.items()}
        rows = [
            {name: _timed_step(training, device) for name, training in trainings.items()} for _ in range(rounds + 6)
        ]
    return pd.DataFrame(rows[6:])  # by then a GPU's steps are graphs


def one_seed(config: TrainingConfig, device: str) -> Training:
    """The training of a config's first seed, as it begins; nothing of it is saved."""
    member = Member(config, config.seeds[0])
    return Training(config.make_learner([member], device), [member], [Path()], device)


def _timed_step(training: Training, device: str) -> float:
    step = training.step = training.step % (training.config.total_steps() - 1) + 1
    training.counter.fill_(step)
    with training.on_stream():
        inputs = training.learner.inputs(step if training.step > 1 else 0)
        settle(device)
        started = time.perf_counter()
        training.take(inputs, training.kind(step, recorded=False))
        settle(device)
    return time.perf_counter() - started


def settle(device: str) -> None:
    """Wait until a device has done what it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()


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
