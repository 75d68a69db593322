"""Seeds in processes of their own, where there are cores for them: each trains its seed to its finished checkpoint.

What comes out does not depend on it: a seed is trained by the same code, on the same number of threads, wherever.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock

from anm_nb.training.checkpoint import last_good_checkpoint
from anm_nb.training.learner import Member
from anm_nb.training.loop import Training, checkpoint_of
from anm_nb.training.progress import progress_bar, time_is_limited
from anm_nb.user_code import classes_of_the_user

if TYPE_CHECKING:
    from anm_nb.training.learner import TrainingConfig

# Two processes are ready to train after 3 to 5 s (torch is imported again in each, on a core each), and save half of
# the time: below this they would gain next to nothing. The time is projected from a few steps that are thrown away;
# it leaves out measurements, so it errs towards training here.
WORTH_SECONDS = 12.0
FIRST_STEPS = 6  # of which the last is timed: the first ones are slower than the rest
WATCH_SECONDS = 0.1  # how long a process may outlive the one that started it


def train_in_processes(config: TrainingConfig, folder: Path) -> int:
    """Train seeds to their finished checkpoints in `folder`, as many at a time as there are cores for.

    Does nothing where that would not pay or cannot be. Returns how many processes trained at a time, 1 for none but
    this one. Warnings of a seed are given here, and its exception is raised here, which ends the others.
    """
    _wait_for_orphans(folder)
    if not can_be_sent(config) or time_is_limited():
        return 1
    waiting = [seed for seed in config.seeds if not _has_ended(checkpoint_of(folder, seed), seed)]
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
        for seed in waiting:
            for each in said.get(seed, []):
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


def _has_ended(checkpoint: Path, seed: int) -> bool:
    """Whether a seed's newest whole checkpoint is its last."""
    stored = last_good_checkpoint(checkpoint, seed)
    return stored is not None and stored[1]["ended"]


def _projected_seconds(config: TrainingConfig, seed: int, folder: Path) -> float:
    """About how long the seed trains, from its first steps, which may raise what they would raise anyway."""
    member = Member(config, seed)
    training = Training(config.make_learner([member], "cpu"), [member], [folder], "cpu")
    started = time.perf_counter()
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
    member = Member(config, seed)
    torch.set_num_threads(config.threads)
    with FileLock(folder / f"seed-{seed}.lock"), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        Training(config.make_learner([member], "cpu"), [member], [folder], "cpu").run(shown=False)
    return said


def _wait_for_orphans(folder: Path) -> None:
    """Return once no process of a training that was killed can write to its seeds' checkpoints any more."""
    for lock in folder.glob("seed-*.lock"):
        with FileLock(lock):
            pass


def _end_with(parent: int) -> None:
    """Make this process end when the one that started it has, also by SIGKILL; only that one is to be interrupted."""
    import signal

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)  # its checkpoints are whole at any moment

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
