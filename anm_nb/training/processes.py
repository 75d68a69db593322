"""Seeds in processes of their own, where there are cores for them: each trains its seed to its finished checkpoint.

What comes out does not depend on it: a seed is trained by the same code, on the same number of threads, wherever.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from anm_nb.store import RunConfig
from anm_nb.user_code import classes_of_the_user

if TYPE_CHECKING:
    from anm_nb.training.learner import Learner
    from anm_nb.training.loop import LoopConfig

# Two processes are ready to train after 3 to 5 s (torch is imported again in each, on a core each), and save half of
# the time: below this they would gain next to nothing. The time is projected from a few steps that are thrown away;
# it leaves out measurements, so it errs towards training here.
WORTH_SECONDS = 12.0
FIRST_STEPS = 6  # of which the last is timed: the first ones are slower than the rest
WATCH_SECONDS = 0.1  # how long a process may outlive the one that started it


def train_in_processes(
    make_learner: Callable[[int, str], Learner], config: LoopConfig, seeds: Sequence[int], workdir: Path
) -> int:
    """Train seeds to their finished checkpoints in `workdir`, as many at a time as there are cores for.

    Does nothing where that would not pay or cannot be. Returns how many processes trained at a time, 1 for none but
    this one. Warnings of a seed are given here, and its exception is raised here, which ends the others.
    """
    _wait_for_orphans(workdir)
    if not can_be_sent(make_learner):
        return 1
    waiting = [seed for seed in seeds if not _is_finished(checkpoint_of(workdir, seed))]
    count = min(len(waiting), available_cores() // config.threads) if len(waiting) > 1 else 1
    if count < 2 or len(waiting) * _projected_seconds(make_learner, config, waiting[0]) < WORTH_SECONDS:
        return 1
    said: dict[int, list[warnings.WarningMessage]] = {}
    try:
        with _executor(count, config.threads) as executor:
            futures = {
                executor.submit(_train_seed, make_learner, config, seed, checkpoint_of(workdir, seed)): seed
                for seed in waiting
            }
            for future in _as_they_end(futures, f"seeds, {count} at a time"):
                said[futures[future]] = future.result()
    finally:
        for seed in waiting:
            for each in said.get(seed, []):
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return count


def checkpoint_of(workdir: Path, seed: int) -> Path:
    """Where a seed's checkpoint lies."""
    return workdir / f"seed-{seed}.safetensors"


def can_be_sent(make_learner: Callable[[int, str], Learner]) -> bool:
    """Whether another process can make the learners: by a config of this package with none but its classes in it.

    Another process would not know a class that a notebook has defined and registered.
    """
    config = getattr(make_learner, "__self__", None)
    if not isinstance(config, RunConfig) or type(config).__module__.partition(".")[0] != "anm_nb":
        return False
    return not classes_of_the_user(config.plugins())


def available_cores() -> int:
    """The cores that are this process's to use: its share of them, where OMP_NUM_THREADS gives one, else all."""
    share = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if share.isdigit() and int(share) > 0:
        return int(share)
    from joblib import cpu_count  # a third of a second, so not at import

    return cpu_count()


def _is_finished(checkpoint: Path) -> bool:
    """Whether a seed's newest whole checkpoint is its last."""
    from anm_nb.training.checkpoint import last_good_checkpoint, load_checkpoint

    stored = last_good_checkpoint(checkpoint)
    return stored is not None and load_checkpoint(stored)[1]["finished"]


def _projected_seconds(make_learner: Callable[[int, str], Learner], config: LoopConfig, seed: int) -> float:
    """About how long the seed trains, from its first steps, which may raise what they would raise anyway."""
    from anm_nb.training.loop import SeedTraining, cpu_threads

    training = SeedTraining(make_learner(seed, "cpu"), config, seed, "cpu")
    started = time.perf_counter()
    with cpu_threads(config.threads):
        for step in range(min(FIRST_STEPS, config.steps)):
            training.step, started = step, time.perf_counter()
            training.update(training.losses())
    return config.steps * (time.perf_counter() - started)


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


def _as_they_end(futures: Mapping[Any, int], what: str) -> Iterable[Any]:
    """Futures in the order in which they end, with a bar of progress for whoever watches."""
    from concurrent.futures import as_completed

    from anm_nb.training.loop import progress

    return progress(as_completed(futures), what, len(futures))


def _train_seed(
    make_learner: Callable[[int, str], Learner], config: LoopConfig, seed: int, checkpoint: Path
) -> list[warnings.WarningMessage]:
    """What another process does; returns the warnings that were given."""
    from anm_nb.training.loop import SeedTraining, cpu_threads

    with FileLock(_lock_of(checkpoint)), warnings.catch_warnings(record=True) as said, cpu_threads(config.threads):
        warnings.simplefilter("default")
        SeedTraining(make_learner(seed, "cpu"), config, seed, "cpu").run(checkpoint, shown=False)
    return said


def _lock_of(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.lock")


def _wait_for_orphans(workdir: Path) -> None:
    """Return once no process of a training that was killed can write to its seeds' checkpoints any more."""
    for lock in workdir.glob("seed-*.lock"):
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
