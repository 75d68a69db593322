"""Trains configs: on a GPU all seeds as one stack, on a CPU seeds in processes of their own where that pays."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from anm_nb.config import ParameterError
from anm_nb.identity import classes_of_the_user
from anm_nb.training import TELL_SECONDS, Interrupted, Member, Tell, TrainingConfig, interrupts, progress, seconds_left
from anm_nb.training.checkpoint import SeedRecord, checkpoint_of, go_on_from_shorter, good_checkpoints, last_state
from anm_nb.training.loop import Training

WORTH_SECONDS = 12.0  # of steps: processes are ready after 3 to 5 s, and two of them save half of the time
FIRST_STEPS = 6  # of which the last is timed: the first ones are slower than the rest
WATCH_SECONDS = 0.1  # how long a process may outlive the one that started it
LEAVE = "leave"  # a file in a run's folder that tells its processes to save and end
WORDS: list[Any] = []  # of a process that trains seeds: the queue in which it tells how it goes
WARM_UP = {"cpu": 3, "cuda": 6}  # steps before a timed one; by then a GPU's steps are graphs


@dataclass
class Trained:
    """What training leaves: tidy metrics (a row per seed and step), arrays [seeds, records, …], final weights.

    Arrays that end early end in NaN; a final evaluation's are [seeds, 1, …], its numbers in each seed's last row.
    """

    metrics: pd.DataFrame
    trace: dict[str, Tensor]
    weights: dict[str, Tensor]
    seconds: dict[int, list[float]] = field(default_factory=dict)  # by seed, spent in the steps before each measurement
    processes: int = 1  # that trained at a time
    state: dict[str, Tensor] = field(default_factory=dict)  # before the last step, for a longer training to go on from
    goes_on_from: str = ""  # the key of the run that the first steps are of


def train(config: TrainingConfig, folder: Path) -> Trained:
    """Train every seed, resuming from checkpoints in `folder`. Raises `NonFiniteLoss` once all others are trained."""
    earlier = "" if any(folder.glob("seed-*.checkpoint*")) else go_on_from_shorter(config, folder)
    if config.device_kind() == "cuda":
        trained = train_together([config], [folder])[0]
    else:
        with arithmetic(config), progress([Member(config, seed) for seed in config.seeds]) as tell:
            processes = train_in_processes(config, folder, tell)  # seeds that are trained then are only read below
            records = [Training(config.learner(seed), [folder]).run(tell)[0] for seed in config.seeds]
            trained = assemble(records, processes)
    return replace(trained, state=last_state(config, folder, trained.weights), goes_on_from=earlier)


def train_together(configs: Sequence[TrainingConfig], folders: Sequence[Path]) -> list[Trained]:
    """Train all seeds of configs as one stack, each in its folder; `ParameterError` unless they share a `stack_key`."""
    if len({config.stack_key() for config in configs}) > 1:
        raise ParameterError("configs differ in more than seeds and scheduled numbers: they cannot be one stack")
    members = [Member(config, seed) for config in configs for seed in config.seeds]
    own = [folder for config, folder in zip(configs, folders, strict=True) for _ in config.seeds]
    with arithmetic(configs[0]), progress(members) as tell:
        learner = configs[0].make_learner(members, configs[0].device_kind())
        records = iter(Training(learner, own).run(tell))
    return [assemble([next(records) for _ in config.seeds]) for config in configs]


def assemble(records: Sequence[SeedRecord], processes: int = 1) -> Trained:
    """The records of one config's seeds together."""
    weights = {f"seed{each.seed}.{name}": tensor for each in records for name, tensor in each.weights.items()}
    trace = {}
    for name in records[0].arrays:
        arrays = [torch.stack(each.arrays[name]) for each in records]
        even = len(set(map(len, arrays))) == 1
        trace[name] = torch.stack(arrays) if even else nn.utils.rnn.pad_sequence(arrays, True, math.nan)
    metrics = pd.DataFrame([row for each in records for row in each.rows])
    return Trained(metrics, trace, weights, {each.seed: each.seconds for each in records}, processes)


@contextmanager
def arithmetic(config: TrainingConfig) -> Iterator[None]:
    """The config's CPU threads and, with tf32, a GPU's products of factors rounded to 10 bits; restored afterwards."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32, torch.get_num_threads()
    products.allow_tf32 = convolutions.allow_tf32 = config.precision == "tf32"
    torch.set_num_threads(config.threads)
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32, threads = before
        torch.set_num_threads(threads)


def train_in_processes(config: TrainingConfig, folder: Path, tell: Tell) -> int:
    """Train seeds to finished checkpoints, one a core; returns how many at a time: 1 where more are of no use."""
    for lock in folder.glob("seed-*.lock"):  # of a training that was killed: its processes may write for a moment yet
        with FileLock(lock):
            pass
    ours = type(config).__module__.startswith("anm_nb.") and not classes_of_the_user(config.plugins())
    if not ours or len(config.seeds) < 2 or seconds_left() < math.inf:
        return 1
    found = {seed: good_checkpoints(checkpoint_of(folder, seed)) for seed in config.seeds}
    waiting = [seed for seed, states in found.items() if not (states and states[0][1]["ended"])]
    count = min(len(waiting), available_cores() // config.threads)
    if count < 2:
        return 1
    first = Training(config.learner(waiting[0]))
    seconds = [next_step_seconds(first) for _ in range(FIRST_STEPS)][-1]
    if len(waiting) * config.total_steps() * seconds < WORTH_SECONDS:
        return 1
    from joblib.externals import loky  # its processes, unlike the standard library's, run no script again

    context = loky.backend.get_context()
    leave, words = folder / LEAVE, context.SimpleQueue()
    leave.unlink(missing_ok=True)
    share = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(config.threads))
    begin = {"context": context, "env": share, "initializer": _begin, "initargs": (os.getpid(), words)}
    executor = loky.ProcessPoolExecutor(count, **begin)
    try:
        futures = [executor.submit(_train_seed, config, seed, folder) for seed in waiting]
        with interrupts(leave.touch):
            running: Any = futures
            while running and (leave.exists() or not any(each.done() and each.exception() for each in futures)):
                running = wait(futures, TELL_SECONDS).not_done
                while not words.empty():
                    seed, *told = words.get()
                    tell(Member(config, seed), *told)
        for future in (each for each in futures if each.done()):
            if isinstance(left := future.exception(), Interrupted):
                raise Interrupted(left)  # without what happened in the other process
            future.result()
    finally:
        executor.shutdown(kill_workers=True)  # a process with torch in it takes long to end by itself
    return count


def available_cores() -> int:
    """The cores that are this process's to use: its share of them, where OMP_NUM_THREADS gives one, else all."""
    if (share := os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]).isdigit():
        return int(share)
    from joblib import cpu_count  # a third of a second, so not at import

    return cpu_count()


def _train_seed(config: TrainingConfig, seed: int, folder: Path) -> None:
    """What another process does."""
    torch.set_num_threads(config.threads)
    with FileLock(folder / f"seed-{seed}.lock"):
        training = Training(config.learner(seed), [folder])

        def tell(member: Member, *words: Any) -> None:
            WORDS[-1].put((seed, *words))
            if (folder / LEAVE).exists():
                training.leaving.set()

        training.run(tell)


def _begin(parent: int, words: Any) -> None:
    """Make this process end when the one that started it has, also by SIGKILL; only that one is to be interrupted."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)  # its checkpoints are whole at any moment

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
    WORDS.append(words)


def step_seconds(configs: Mapping[str, TrainingConfig], rounds: int = 10) -> pd.DataFrame:
    """Seconds of a step of each config's first seed, a row a round; taken in turn, as a machine's speed drifts."""
    first = next(iter(configs.values()))
    device, rows = first.device_kind(), []
    with arithmetic(first):
        trainings = {name: Training(each.learner(each.seeds[0], device=device)) for name, each in configs.items()}
        for turn in range(WARM_UP[device] + rounds):
            order = list(trainings)[:: -1 if turn % 2 else 1]
            rows.append({name: next_step_seconds(trainings[name]) for name in order})
    return pd.DataFrame(rows[WARM_UP[device] :], columns=list(configs))


def next_step_seconds(training: Training) -> float:
    """Seconds of the next step, or of the first again, drawing its problems and updating the weights included."""
    first = training.step == 0
    step = training.step = training.step % max(1, training.config.total_steps() - 1) + 1
    training.counter.fill_(step)
    wait = torch.cuda.synchronize if training.device == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    with training.on_stream():
        training.take(training.learner.inputs(0 if first else step), training.kind(step))
    wait()
    return time.perf_counter() - started


def counted_flops(work: Callable[[], object]) -> int:
    """Operations of matrix products, convolutions and attention alone in a piece of work; a multiply-add counts 2."""
    counter: Any = FlopCounterMode(display=False)
    counter.mod_tracker = nullcontext()  # its hooks refuse the gradients of torch.func
    counter.mod_tracker.parents = {"Global"}
    with counter:
        work()
    return int(counter.get_total_flops())
