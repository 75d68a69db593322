"""Trains configs: on a GPU all seeds as one stack, on a CPU seeds in processes of their own where that pays."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from anm_nb import store
from anm_nb.files import full_disk_named, replace_whole
from anm_nb.identity import classes_of_the_user, identity_of
from anm_nb.store import CorruptRun, Run
from anm_nb.training import Interrupted, Member, OutOfTime, Tell, TrainingConfig, progress, seconds_left, time_limit
from anm_nb.training.checkpoint import before, checkpoint_of, good_checkpoints
from anm_nb.training.loop import SeedRecord, Training

ALONE_SECONDS = 6.0  # a training that is over by then starts no processes, which are ready after 3 to 5 s
TURN_SECONDS = 10.0  # that another process trains a seed for before it saves and tells
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
    checkpoints: dict[str, bytes] = field(default_factory=dict)  # files that a longer training can go on from
    goes_on_from: str = ""  # the key of the run that the first steps are of


def train(config: TrainingConfig, folder: Path) -> Trained:
    """Train every seed, resuming from checkpoints in `folder`. Raises `NonFiniteLoss` once all others are trained."""
    earlier = "" if any(folder.glob("seed-*.pt*")) else go_on_from_shorter(config, folder)
    if config.device_kind() == "cuda":
        trained = train_together([config], [folder])[0]
    else:
        with arithmetic(config), progress([Member(config, seed) for seed in config.seeds]) as tell:
            processes = train_in_processes(config, folder, tell)  # seeds that are trained then are only read below
            records = [Training(config.learner(seed), [folder]).run(tell)[0] for seed in config.seeds]
            trained = assemble(records, processes)
    return replace(trained, checkpoints=last_checkpoints(config, folder, trained.metrics), goes_on_from=earlier)


def train_together(configs: Sequence[TrainingConfig], folders: Sequence[Path]) -> list[Trained]:
    """Train all seeds of configs of one `stack_key` as one stack, each in its folder."""
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


def go_on_from_shorter(config: TrainingConfig, folder: Path) -> str:
    """Put the last checkpoints of the same config's longest shorter run into a folder; its key, or nothing."""
    if not config.can_be_extended() or folder.parent != store.partial_root():
        return ""
    identity, length, shorter = identity_of(config), config.length, dict[int, Run]()
    asked, names = identity["config"][length], [checkpoint_of(folder, seed).name for seed in config.seeds]
    for run in store.scan()[0]:
        same = run.manifest["identity"] | {"config": run.settings | {length: asked}} == identity
        if same and run.settings[length] < asked and run.manifest["files"].keys() >= {*names}:
            shorter[run.settings[length]] = run
    if not shorter:
        return ""
    run = shorter[max(shorter)]
    try:
        checkpoints = {name: run.file(name).read_bytes() for name in names}
    except CorruptRun:
        return ""
    with full_disk_named(folder, "nothing was lost"):
        for name, data in checkpoints.items():
            replace_whole(folder / name, data)
    return run.key


def last_checkpoints(config: TrainingConfig, folder: Path, metrics: pd.DataFrame) -> dict[str, bytes]:
    """The files that every seed of a longer training can go on from, by name; empty where it cannot."""
    files: dict[str, bytes] = {}
    for seed in config.seeds if config.can_be_extended() else ():
        path, step = checkpoint_of(folder, seed), metrics.loc[metrics["seed"] == seed, "step"].max()
        found = before(path)
        if not found.exists() and step < config.total_steps():  # it stopped early, as it would in a longer training
            found = path
        if not found.exists():
            return {}
        files[path.name] = found.read_bytes()
    return files


def train_in_processes(config: TrainingConfig, folder: Path, tell: Tell) -> int:
    """Train seeds to finished checkpoints, one a core; returns how many at a time: 1 where more are of no use.

    Processes save and tell every `TURN_SECONDS`, which is also how long one may outlive the process that started it.
    """
    for lock in folder.glob("seed-*.lock"):  # of a training that was killed: its processes may write yet
        with FileLock(lock):
            pass
    ours = type(config).__module__.startswith("anm_nb.") and not classes_of_the_user(config.plugins())
    if not ours or len(config.seeds) < 2 or seconds_left() < math.inf:
        return 1
    from joblib import Parallel, cpu_count, delayed, parallel_config  # a third of a second, and few trainings need it

    cores = int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or cpu_count())  # a share of them, or all
    found = {seed: good_checkpoints(checkpoint_of(folder, seed)) for seed in config.seeds}
    waiting = [seed for seed, states in found.items() if not (states and states[0]["record"]["ended"])]
    count = min(len(waiting), cores // config.threads)
    if count < 2 or not _trained_for(ALONE_SECONDS, config, waiting[0], folder, tell).running():
        return 1
    try:
        with parallel_config("loky", n_jobs=count, inner_max_num_threads=config.threads):
            while waiting:
                turns = [delayed(_take_turn)(config, seed, folder, os.getpid()) for seed in waiting]
                for seed, told, ended in Parallel(batch_size=1, return_as="generator_unordered")(turns):
                    for words in told:
                        tell(Member(config, seed), *words)
                    if ended:
                        waiting.remove(seed)
    except KeyboardInterrupt:
        raise Interrupted("run again to go on from the last checkpoints") from None
    return count


def _trained_for(seconds: float, config: TrainingConfig, seed: int, folder: Path, tell: Tell) -> Training:
    """A seed's training after at most so many seconds more; its state is saved."""
    training = Training(config.learner(seed), [folder])
    with time_limit(seconds), suppress(OutOfTime):
        training.run(tell)
    return training


def _take_turn(config: TrainingConfig, seed: int, folder: Path, parent: int) -> tuple[int, list[Any], bool]:
    """What another process does: train a seed for a while. Returns it, what is to be told, and whether it has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that is interrupted ends this one
    told: list[Any] = []
    with arithmetic(config), FileLock(folder / f"seed-{seed}.lock"):
        training = _trained_for(TURN_SECONDS, config, seed, folder, lambda member, *words: told.append(words))
    if os.getppid() != parent:
        os._exit(1)
    return seed, told, not training.running()


def step_seconds(configs: Mapping[str, TrainingConfig], rounds: int = 10) -> pd.DataFrame:
    """Seconds of a step of each config's first seed, a row a round; taken in turn, as a machine's speed drifts."""
    first = next(iter(configs.values()))
    device = first.device_kind()
    with arithmetic(first):
        trainings = {name: Training(each.learner(each.seeds[0], device=device)) for name, each in configs.items()}
        turns = range(WARM_UP[device] + rounds)
        rows = [{name: next_step_seconds(each) for name, each in trainings.items()} for _ in turns]
    return pd.DataFrame(rows[WARM_UP[device] :])


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
