"""The campaign's table of training steps: milliseconds, set-up time, memory, and the GPU's share of time in graphs."""

from __future__ import annotations

import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pandas as pd
import torch

from anm_nb.training import TrainingConfig, resolve_device
from anm_nb.training.loop import Training
from anm_nb.training.run import arithmetic

CONFIGS = {
    "energy": ("anm_nb.energy.train", "EnergyConfig"),
    "sudoku": ("anm_nb.energy.train", "EnergyConfig"),
    "ranking": ("anm_nb.ranking.train", "RankingConfig"),
}
BASES: dict[str, dict[str, Any]] = {
    "energy": {"task": "inverse", "size": 20, "width": 512, "batch": 2048, "steps": 1000, "lr": 5e-4}
    | {"ema_decay": 0.995, "ema_every": 10},
    # Notebook 17's 9×9 boards: the published convolutions at a third of their width.
    "sudoku": {"task": "sudoku", "size": 9, "width": 128, "batch": 64, "steps": 1000, "lr": 5e-4, "ema_decay": 0.99}
    | {"dev_examples": 64, "task_options": {"pool": 1000}},
    # The document's settings, but 1024 training problems instead of 1000, so that every batch is full.
    "ranking": {"task": "hinted_sort", "size": 20, "width": 128, "n_heads": 4, "max_inner_iters": 12, "hrm_period": 4}
    | {"batch": 32, "train_samples": 1024, "dev_samples": 200, "test_samples": 300, "epochs": 100},
}
TINY: dict[str, dict[str, Any]] = {
    "energy": {"size": 4, "width": 16, "batch": 16, "dev_examples": 8},
    "sudoku": {"size": 4, "width": 8, "batch": 8, "dev_examples": 2, "task_options": {"pool": 100}},
    "ranking": {"size": 6, "width": 16, "max_inner_iters": 4, "train_samples": 64, "dev_samples": 8}
    | {"test_samples": 8, "warmup_epochs": 1},
}
TINY_SEEDS = 2
# Milliseconds per step on one H100, by (family, method, seeds); for mining, a multiple of the stock step.
TARGETS_MS = {
    ("energy", "stock", 1): 3.0,
    ("energy", "stock", 5): 9.0,
    ("ranking", "hrm", 5): 11.0,
    ("ranking", "hrm", 55): 40.0,
}
MINING_TARGET = 1.5
SETUP_TARGET_S = 5.0
SHARE_TARGET = 0.8
WINDOW_S, TINY_WINDOW_S = 2.0, 0.3  # approximate time spent on timing a case
WARM_UP_S = 4.0  # then timing starts even if some kinds of step are not captured yet
FEWEST, MOST = 10, 200  # timed steps


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    family: str
    method: str
    seeds: int
    precision: str
    graph: bool = True

    @property
    def name(self) -> str:
        """The name in the log."""
        return f"{self.family} {self.method} S={self.seeds} {self.precision}{'' if self.graph else ' eager'}"

    def config(self, tiny: bool) -> TrainingConfig:
        """The config to train. Raises an import error if the family cannot be imported."""
        values = BASES[self.family] | (TINY[self.family] if tiny else {})
        values |= {"seeds": tuple(range(self.seeds)), "precision": self.precision, "graph": self.graph}
        if self.family != "ranking":
            values["negatives"] = self.method
        return config_class(self.family)(**values)


def config_class(family: str) -> type[Any]:
    """The config class of a family."""
    module, name = CONFIGS[family]
    return getattr(import_module(module), name)


def cases(tiny: bool) -> list[Case]:
    """All rows, those with targets first; tiny ones have few seeds and one precision."""
    graphed = [("energy", "stock", seeds) for seeds in (1, 5, 10)]
    graphed += [("energy", method, seeds) for method in ("none", "anm_orthogonal", "anm") for seeds in (1, 5)]
    ranked = [("ranking", "hrm", seeds) for seeds in (1, 5, 55)]
    boards = [("sudoku", method, seeds) for method in ("none", "stock") for seeds in (1, 3)]
    eager = [Case("energy", "stock", seeds, "tf32", graph=False) for seeds in (1, 5)]
    found = [Case(*each, "tf32") for each in graphed[:2] + ranked + boards + graphed[2:]]
    found += [*eager, *(Case(*each, "float32") for each in graphed + ranked)]
    if not tiny:
        return found
    few = (Case(c.family, c.method, min(c.seeds, TINY_SEEDS), "tf32", c.graph) for c in found if c.precision == "tf32")
    return list(dict.fromkeys(few))


def measure(config: TrainingConfig, window_s: float) -> dict[str, float]:
    """Time the steps of one training after warm-up and capture, in the order of the loop, drawing problems in between.

    By the device's clock, `ms` is the mean time of a step, including problems and copies of inputs; `replay_ms` is the
    median time of what the loop launches for a step, which is one replay; `share` is the share of time in those.
    """
    device = resolve_device(config.device)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    with arithmetic(config):
        training = Training(config.learner(*config.seeds, device=device))
        with training.on_stream():
            step = _warm_up(training)
            settle(device)
            row = {"start_s": time.perf_counter() - started} | _timed(training, step, window_s, device)
    row["setup_s"] = training.graphs.setup_seconds if training.graphs else math.nan
    row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else math.nan
    if bool((training.failed_at >= 0).any()):
        raise RuntimeError(f"the loss was first not finite at steps {training.failed_at.tolist()} of the seeds")
    return row


def _warm_up(training: Training) -> int:
    """Take steps until all steps between two EMA updates were replays (without graphs: a few); return the next step.

    Starts at a step in which all parameter groups are trained.
    """
    began, every = time.perf_counter(), training.config.averaging()[1]
    step = _jump(training, max(group.frozen_steps for group in training.learner.groups))
    replayed = 0
    for taken in itertools.count(1):
        before = training.graphs.replays if training.graphs else 0
        _take(training, step)
        step += 1
        replayed = replayed + 1 if training.graphs and training.graphs.replays > before else 0
        if replayed > every or (training.graphs is None and taken > 3):
            break
        if time.perf_counter() - began > WARM_UP_S:
            break
    return step


def _timed(training: Training, step: int, window_s: float, device: str) -> dict[str, float]:
    block = training.learner.block
    step = _jump(training, step)
    settle(device)
    began = time.perf_counter()
    for _ in range(4):
        _take(training, step)
        step += 1
    settle(device)
    count = min(MOST, max(FEWEST, round(window_s / max(1e-9, (time.perf_counter() - began) / 4))))
    count = max(1, round(count / block)) * block
    step = _jump(training, step)
    count = min(count, training.config.total_steps() - step)
    mark, between = _clock(device)
    before = training.graphs.replays if training.graphs else 0
    began = time.perf_counter()
    first, marks = mark(), []
    for at in range(step, step + count):
        inputs, kind = training.learner.inputs(at), training.kind(at)
        training.step = at
        marks.append(mark())
        training.take(inputs, kind)
        marks.append(mark())
    last = mark()
    settle(device)
    wall = time.perf_counter() - began
    launched = [between(start, end) for start, end in zip(marks[::2], marks[1::2], strict=True)]
    whole = between(first, last)
    row = {"ms": whole / count, "replay_ms": statistics.median(launched), "wall_ms": 1000 * wall / count}
    row["share"] = sum(launched) / whole
    return row | {"timed": count, "replays": training.graphs.replays - before if training.graphs else 0}


def _take(training: Training, step: int) -> None:
    training.step = step
    training.take(training.learner.inputs(step), training.kind(step))


def _jump(training: Training, step: int) -> int:
    """Move to the first step from `step` on that starts a block of inputs, and return it."""
    block = training.learner.block
    step = -(-step // block) * block
    training.counter.fill_(step)
    return step


def _clock(device: str) -> tuple[Callable[[], Any], Callable[[Any, Any], float]]:
    """A function that marks a moment on the device, and one that returns the milliseconds between two past marks."""
    if device != "cuda":
        return time.perf_counter, lambda start, end: 1000 * (end - start)

    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    return mark, lambda start, end: start.elapsed_time(end)


def settle(device: str) -> None:
    """Wait until the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def clear_memory() -> None:
    """Free a case's memory; trainings contain reference cycles, so this needs a garbage collection."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def with_targets(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table of measurements with their targets; mining's target follows from the row of the stock step."""
    table = pd.DataFrame(list(rows))
    if table.empty or "ms" not in table:
        return table
    identity = ["family", "seeds", "precision", "graph", "card", "torch", "commit"]
    stock = table[table["method"] == "stock"].drop_duplicates(identity, keep="last").set_index(identity)["ms"]
    targets = []
    for row in table.to_dict("records"):
        target = (
            TARGETS_MS.get((row["family"], row["method"], row["seeds"])) if row["graph"] and not row["tiny"] else None
        )
        if (
            row["method"].startswith("anm")
            and not row["tiny"]
            and (same := tuple(row[name] for name in identity)) in stock.index
        ):
            target = MINING_TARGET * stock[same]
        targets.append(math.nan if target is None else target)
    table["target_ms"] = targets
    judged = {"met": table["ms"] <= table["target_ms"]}
    judged |= {"setup_met": table["setup_s"] <= SETUP_TARGET_S, "share_met": table["share"] >= SHARE_TARGET}
    missing = {"met": "target_ms", "setup_met": "setup_s", "share_met": "setup_s"}  # no setup_s: no graph, no target
    for name, values in judged.items():
        table[name] = values.astype(object).where(table[missing[name]].notna() & table["ms"].notna(), None)
    return table
