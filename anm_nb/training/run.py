"""Trains configs: on a GPU all seeds as one stack, on a CPU seeds in processes of their own where that pays.

What comes out does not depend on processes: a seed is trained by the same code, on the same number of threads.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor, nn

from anm_nb.config import ParameterError
from anm_nb.identity import classes_of_the_user
from anm_nb.training.checkpoint import SeedRecord, checkpoint_of, facts_of
from anm_nb.training.learner import Member, TrainingConfig, resolve_device
from anm_nb.training.loop import Training
from anm_nb.training.progress import progress_bar, seconds_left

# Two processes are ready to train after 3 to 5 s (torch is imported again in each, on a core each), and save half of
# the time: below this they would gain next to nothing. The time is projected from a few steps that are thrown away;
# it leaves out measurements, so it errs towards training here.
WORTH_SECONDS = 12.0
FIRST_STEPS = 6  # of which the last is timed: the first ones are slower than the rest
WATCH_SECONDS = 0.1  # how long a process may outlive the one that started it


@dataclass
class Trained:
    """What training leaves: tidy metrics (a row per seed and step), arrays [seeds, records, …], final weights.

    Where one seed stopped before another, its arrays end in NaN. Arrays of a final evaluation are [seeds, 1, …], and
    its numbers stand in the last row of each seed. Times are beside the metrics, which are the same whenever trained.
    """

    metrics: pd.DataFrame
    trace: dict[str, Tensor]
    weights: dict[str, Tensor]
    seconds: dict[int, list[float]] = field(default_factory=dict)  # by seed, spent in the steps before each measurement
    processes: int = 1  # that trained at a time


def train(config: TrainingConfig, folder: Path) -> Trained:
    """Train every seed of a config, resuming from the checkpoints in `folder`.

    Raises `NonFiniteLoss` for a loss that is not finite, once the other seeds are trained.
    """
    device = resolve_device(config.device)
    if device == "cuda":
        return train_together([config], [folder])[0]
    with arithmetic(config):
        processes, records = train_in_processes(config, folder), []
        for seed in config.seeds:  # those that are trained already are only read
            records += new_training([Member(config, seed)], [folder], device).run()
    return assemble(records, processes)


def train_together(configs: Sequence[TrainingConfig], folders: Sequence[Path]) -> list[Trained]:
    """Train all seeds of configs as one stack, each config's checkpoints in its own folder.

    Raises `ParameterError` for configs that differ in more than seeds and scheduled numbers.
    """
    if len({config.stack_key() for config in configs}) > 1:
        raise ParameterError("configs differ in more than seeds and scheduled numbers: they cannot be one stack")
    members = [Member(config, seed) for config in configs for seed in config.seeds]
    own = [folder for config, folder in zip(configs, folders, strict=True) for _ in config.seeds]
    with arithmetic(configs[0]):
        records = iter(new_training(members, own, resolve_device(configs[0].device)).run())
    return [assemble([next(records) for _ in config.seeds], 1) for config in configs]


def new_training(members: Sequence[Member], folders: Sequence[Path], device: str) -> Training:
    """The training of several seeds as one stack, as it begins."""
    return Training(members[0].config.make_learner(members, device), members, folders, device)


def assemble(records: Sequence[SeedRecord], processes: int) -> Trained:
    """The records of one config's seeds together."""
    weights: dict[str, Tensor] = {}
    for record in records:
        own = record.weights | {f"selected.{name}": tensor for name, tensor in record.selected.items()} | record.kept
        weights |= {f"seed{record.seed}.{name}": tensor.cpu() for name, tensor in own.items()}
    trace = {}
    for name in records[0].arrays:
        arrays = [torch.stack(each.arrays[name]) for each in records]
        even = len(set(map(len, arrays))) == 1
        trace[name] = torch.stack(arrays) if even else nn.utils.rnn.pad_sequence(arrays, True, math.nan)
    metrics = pd.DataFrame([row for record in records for row in record.rows])
    return Trained(metrics, trace, weights, {record.seed: record.seconds for record in records}, processes)


@contextmanager
def arithmetic(config: TrainingConfig) -> Iterator[None]:
    """The config's CPU threads and, with tf32, a GPU's products of factors rounded to 10 bits; restored afterwards."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = config.precision == "tf32"
    try:
        with cpu_threads(config.threads):
            yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Run torch's CPU operators on `count` threads, and restore the number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_in_processes(config: TrainingConfig, folder: Path) -> int:
    """Train seeds to their finished checkpoints in `folder`, as many at a time as there are cores for.

    Does nothing where that would not pay or cannot be. Returns how many processes trained at a time, 1 for none but
    this one. Warnings of a seed are given here, and its exception is raised here, which ends the others.
    """
    for lock in folder.glob("seed-*.lock"):  # of a training that was killed: its processes may write for a moment yet
        with FileLock(lock):
            pass
    if not can_be_sent(config) or seconds_left() < math.inf:
        return 1
    waiting = [seed for seed in config.seeds if not facts_of(checkpoint_of(folder, seed)).get("ended")]
    count = min(len(waiting), available_cores() // config.threads) if len(waiting) > 1 else 1
    if count < 2 or len(waiting) * _projected_seconds(config, waiting[0], folder) < WORTH_SECONDS:
        return 1
    said: dict[int, list[warnings.WarningMessage]] = {}
    try:
        with _executor(count, config.threads) as executor:
            from concurrent.futures import as_completed

            futures = {executor.submit(_train_seed, config, seed, folder): seed for seed in waiting}
            for future in progress_bar(as_completed(futures), f"seeds, {count} at a time", len(futures)):
                said[futures[future]] = future.result()
    finally:
        for each in (each for seed in waiting for each in said.get(seed, [])):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return count


def can_be_sent(config: TrainingConfig) -> bool:
    """Whether another process can train it: a config of this package with none but its classes in it.

    Another process would not know a class that a notebook has defined and registered.
    """
    return type(config).__module__.partition(".")[0] == "anm_nb" and not classes_of_the_user(config.plugins())


def available_cores() -> int:
    """The cores that are this process's to use: its share of them, where OMP_NUM_THREADS gives one, else all."""
    share = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if share.isdigit() and int(share) > 0:
        return int(share)
    from joblib import cpu_count  # a third of a second, so not at import

    return cpu_count()


def _projected_seconds(config: TrainingConfig, seed: int, folder: Path) -> float:
    """About how long the seed trains, from its first steps, which may raise what they would raise anyway."""
    training, started = new_training([Member(config, seed)], [folder], "cpu"), 0.0
    for training.step in range(min(FIRST_STEPS, config.total_steps())):
        started = time.perf_counter()
        training.take(training.learner.inputs(training.step), training.kind(training.step, recorded=False))
    return config.total_steps() * (time.perf_counter() - started)


@contextmanager
def _executor(count: int, threads: int) -> Iterator[Any]:
    """Processes with so many threads each, which are gone when the block is left, however that comes about."""
    from joblib.externals.loky import ProcessPoolExecutor  # unlike the standard library's, runs no script again

    share = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    executor = ProcessPoolExecutor(count, env=share, initializer=_end_with, initargs=(os.getpid(),))
    try:
        yield executor
    finally:
        executor.shutdown(kill_workers=True)  # a process with torch in it takes long to end by itself


def _train_seed(config: TrainingConfig, seed: int, folder: Path) -> list[warnings.WarningMessage]:
    """What another process does; returns the warnings that were given."""
    torch.set_num_threads(config.threads)
    with FileLock(folder / f"seed-{seed}.lock"), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        new_training([Member(config, seed)], [folder], "cpu").run(shown=False)
    return said


def _end_with(parent: int) -> None:
    """Make this process end when the one that started it has, also by SIGKILL; only that one is to be interrupted."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)  # its checkpoints are whole at any moment

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
