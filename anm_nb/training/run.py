"""Trains configs: on a GPU all seeds as one stack, on a CPU a process for each core's seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from anm_nb.config import ParameterError
from anm_nb.training.learner import Member, TrainingConfig, resolve_device
from anm_nb.training.loop import Training
from anm_nb.training.processes import train_in_processes
from anm_nb.training.record import SeedRecord


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
        processes, finished = train_in_processes(config, folder), []
        for seed in config.seeds:  # those that are trained already are only read
            member = Member(config, seed)
            finished += Training(config.make_learner([member], device), [member], [folder], device).run()
    return assemble(finished, processes)


def train_together(configs: Sequence[TrainingConfig], folders: Sequence[Path]) -> list[Trained]:
    """Train all seeds of configs as one stack, each config's checkpoints in its own folder.

    Raises `ParameterError` for configs that differ in more than seeds and scheduled numbers.
    """
    if len({config.stack_key() for config in configs}) > 1:
        raise ParameterError("configs differ in more than seeds and scheduled numbers: they cannot be one stack")
    device = resolve_device(configs[0].device)
    members = [Member(config, seed) for config in configs for seed in config.seeds]
    own = [folder for config, folder in zip(configs, folders, strict=True) for _ in config.seeds]
    with arithmetic(configs[0]):
        records = Training(configs[0].make_learner(members, device), members, own, device).run()
    rest = iter(records)
    return [assemble([next(rest) for _ in config.seeds], 1) for config in configs]


def assemble(records: Sequence[SeedRecord], processes: int) -> Trained:
    """The records of one config's seeds together."""
    return Trained(
        metrics=pd.DataFrame([row for record in records for row in record.rows]),
        trace={name: _joined([torch.stack(each.arrays[name]) for each in records]) for name in records[0].arrays},
        weights={
            f"seed{record.seed}.{name}": tensor.cpu()
            for record in records
            for name, tensor in (
                record.weights | {f"selected.{name}": tensor for name, tensor in record.selected.items()} | record.kept
            ).items()
        },
        seconds={record.seed: record.seconds for record in records},
        processes=processes,
    )


def _joined(arrays: Sequence[Tensor]) -> Tensor:
    """Arrays [records, …] of several seeds in one; the shorter ones end in NaN."""
    if len({len(array) for array in arrays}) == 1:
        return torch.stack(list(arrays))
    return nn.utils.rnn.pad_sequence(list(arrays), batch_first=True, padding_value=math.nan)


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
