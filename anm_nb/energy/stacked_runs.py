"""Runs of a study trained as stacks, each stack's metrics kept in a file, tested and timed as a stack."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from anm_nb import store
from anm_nb.energy.evaluate import predict
from anm_nb.energy.train import EnergyConfig, joined
from anm_nb.files import replace_whole
from anm_nb.tasks.base import SPLITS
from anm_nb.training.checkpoint import by_prefix
from anm_nb.training.learner import Member, resolve_device
from anm_nb.training.loop import NonFiniteLoss, Training
from anm_nb.training.run import arithmetic, counted_flops, next_step_seconds
from anm_nb.training.seeds import generator

TIMED_STEPS = 128
NamedConfig = tuple[Mapping[str, Any], EnergyConfig]  # columns that name a run, and the run


def train_stacks(
    configs: Sequence[NamedConfig],
    stage: str,
    folder: Path,
    test_examples: int,
    log: Callable[[str], None] = print,
    timed: bool = False,
) -> pd.DataFrame:
    """A row for each config, seed and record: those that can be one stack train together.

    Finished stacks come from `folder`, and unfinished ones go on from their checkpoints there. Columns beside the
    metrics: what names a config, `steps` in all, `dev` (the task's metric), `stage`, and those of `train_stack`.
    """
    stacks: dict[str, list[NamedConfig]] = {}
    for named, config in configs:
        stacks.setdefault(config.stack_key(), []).append((named, config))
    tables = []
    for stack in stacks.values():
        keys = " ".join(store.run_key(config) for _, config in stack)
        path = folder / f"{hashlib.sha256(f'{stage} {keys}'.encode()).hexdigest()[:16]}.parquet"
        if not path.exists():
            table = train_stack(stack, folder, test_examples, timed).assign(stage=stage)
            replace_whole(path, table.to_parquet())
            names = ", ".join(dict.fromkeys(f"{named['method']} {named['option']}".strip() for named, _ in stack))
            log(f"{stage}: {names}: {len(stack)} settings")
        tables.append(pd.read_parquet(path))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def train_stack(stack: Sequence[NamedConfig], folder: Path, test_examples: int, timed: bool) -> pd.DataFrame:
    """Metrics of every seed and record of one stack; a seed whose loss became NaN ends early.

    Test errors test_same and test_harder stand in each seed's last row. `step_ms` is the median time of the whole
    stack's step, NaN unless `timed`.
    """
    first = stack[0][1]
    device = resolve_device(first.device)
    members = [Member(config, seed) for _, config in stack for seed in config.seeds]
    folders = [folder / store.run_key(config) for _, config in stack for _ in config.seeds]
    for each in set(folders):
        each.mkdir(parents=True, exist_ok=True)
    with arithmetic(first):
        training = Training(first.make_learner(members, device), folders)
        with suppress(NonFiniteLoss):  # such a seed has no row of the last step
            training.run(shown=False)
        tested = scores_on_test(training, test_examples)
        failed = any(record.failure for record in training.records)  # such a stack steps on on a GPU only
        step_ms = median_step_ms(training) if timed and (device == "cuda" or not failed) else math.nan
    names, metric = [named for named, config in stack for _ in config.seeds], first.make_task().metric
    tables = []
    for named, record, scores in zip(names, training.records, tested, strict=True):
        own = pd.DataFrame(record.rows).assign(**named, task=first.task, steps=first.steps, step_ms=step_ms)
        own["dev"] = own[metric]
        tables.append(own.assign(**{name: [math.nan] * (len(own) - 1) + [score] for name, score in scores.items()}))
    return pd.concat(tables, ignore_index=True)


def scores_on_test(training: Training, n: int) -> list[dict[str, float]]:
    """The sampler's scores of every seed's averaged weights on n test problems of its own: test_same, test_harder."""
    learner: Any = training.learner
    task, device = learner.task, training.device
    for record, member in zip(training.records, training.averaged.members, strict=True):
        if own := by_prefix(record.weights, "averaged."):
            member.load_state_dict(own)
    found: list[dict[str, float]] = [{} for _ in training.records]
    for split, harder in SPLITS.items():
        sources = [generator(seed, f"test/{split}", device) for seed in learner.seeds]
        stream = task.stream("test")
        batches = [stream.sample(n, generator=source, device=device, harder=harder) for source in sources]
        clamp = task.clamp(harder)
        with torch.no_grad():
            answers = predict(
                training.averaged, task, joined(batches), learner.schedule, learner.sampler, learner.seeds, clamp
            )
        for scores, answer, batch in zip(found, answers.chunk(len(batches)), batches, strict=True):
            scores[f"test_{split}"] = task.metrics(answer, batch)[task.metric]
    return found


def median_step_ms(training: Training) -> float:
    """Median milliseconds of a whole stack's step, on a GPU one replay of its graph; the weights move on by it."""
    seconds = [next_step_seconds(training) for _ in range(min(TIMED_STEPS, training.config.total_steps()))]
    return 1000 * float(pd.Series(seconds).median())


def multiply_adds(config: EnergyConfig) -> int:
    """Multiply-adds of matrix products in one training step of one seed, its problems included, as on a GPU."""
    small = EnergyConfig(**dict(config) | {"device": "cpu", "dev_examples": 2, "seeds": config.seeds[:1]})
    training = Training(small.learner(small.seeds[0]), host=False)
    return counted_flops(lambda: training.take(training.learner.inputs(0), training.kind(0))) // 2
