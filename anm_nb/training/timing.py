"""Timing training steps side by side, so that a machine's drift hits all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import pandas as pd
import torch

from anm_nb.training.learner import Learner
from anm_nb.training.loop import LoopConfig, SeedTraining, cpu_threads, resolve_device


def step_seconds(
    learners: Mapping[str, Callable[[int, str], Learner]], config: LoopConfig, rounds: int = 10
) -> pd.DataFrame:
    """Seconds of one training step: a row per round, a column per learner, taken in turn after three warm-up rounds."""
    device = resolve_device(config.device)
    with cpu_threads(config.threads):
        trainings = {name: SeedTraining(make(0, device), config, 0, device) for name, make in learners.items()}
        rows = [
            {name: _timed_step(training, device) for name, training in trainings.items()} for _ in range(rounds + 3)
        ]
    return pd.DataFrame(rows[3:])


def _timed_step(training: SeedTraining, device: str) -> float:
    settle(device)
    started = time.perf_counter()
    training.update(training.losses())
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
