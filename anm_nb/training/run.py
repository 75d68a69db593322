"""Train configs: on a GPU all seeds as one stack, on a CPU one seed per process where that saves time."""

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

ALONE_SECONDS = 6.0  # a shorter training starts no processes, which take 3 to 5 s to be ready
TURN_SECONDS = 10.0  # how long a process trains a seed before it saves and reports
ORIGIN = "goes_on_from"  # the file with the key of the shorter run that a training continues
WARM_UP = {"cpu": 3, "cuda": 6}  # untimed steps before the timed ones; by then a GPU replays graphs


@dataclass
class Trained:
    """The results of a training: tidy metrics (a row per seed and step), arrays [seeds, records, …], final weights.

    Arrays of seeds that stop early end in NaN. Final evaluations: arrays [seeds, 1, …], numbers in a seed's last row.
    """

    metrics: pd.DataFrame
    trace: dict[str, Tensor]
    weights: dict[str, Tensor]
    seconds: dict[int, list[float]] = field(default_factory=dict)  # by seed: time in steps before each measurement
    processes: int = 1  # number that trained in parallel
    checkpoints: dict[str, bytes] = field(default_factory=dict)  # files from which a longer training can continue
    goes_on_from: str = ""  # key of the shorter run that this training continued


def train(config: TrainingConfig, folder: Path) -> Trained:
    """Train every seed, resuming from checkpoints in `folder`. Raises `NonFiniteLoss` after training the others."""
    if not any(folder.glob("seed-*.pt*")):
        copy_shorter_run(config, folder)
    if config.device_kind() == "cuda":
        trained = train_together([config], [folder])[0]
    else:
        with arithmetic(config), progress([Member(config, seed) for seed in config.seeds]) as tell:
            processes = train_in_processes(config, folder, tell)  # trained seeds are only read below
            records = [Training(config.learner(seed), [folder]).run(tell)[0] for seed in config.seeds]
            trained = assemble(records, processes)
    earlier = (folder / ORIGIN).read_text() if (folder / ORIGIN).exists() else ""
    return replace(trained, checkpoints=last_checkpoints(config, folder, trained.metrics), goes_on_from=earlier)


def train_together(configs: Sequence[TrainingConfig], folders: Sequence[Path]) -> list[Trained]:
    """Train all seeds of configs with one `stack_key` as one stack, each config in its folder."""
    members = [Member(config, seed) for config in configs for seed in config.seeds]
    seed_folders = [folder for config, folder in zip(configs, folders, strict=True) for _ in config.seeds]
    with arithmetic(configs[0]), progress(members) as tell:
        learner = configs[0].make_learner(members, configs[0].device_kind())
        records = iter(Training(learner, seed_folders).run(tell))
    return [assemble([next(records) for _ in config.seeds]) for config in configs]


def assemble(records: Sequence[SeedRecord], processes: int = 1) -> Trained:
    """Combine the records of one config's seeds."""
    weights = {f"seed{each.seed}.{name}": tensor for each in records for name, tensor in each.weights.items()}
    trace = {}
    for name in records[0].arrays:
        arrays = [torch.stack(each.arrays[name]) for each in records]
        same_length = len(set(map(len, arrays))) == 1
        trace[name] = torch.stack(arrays) if same_length else nn.utils.rnn.pad_sequence(arrays, True, math.nan)
    metrics = pd.DataFrame([row for each in records for row in each.rows])
    return Trained(metrics, trace, weights, {each.seed: each.seconds for each in records}, processes)


@contextmanager
def arithmetic(config: TrainingConfig) -> Iterator[None]:
    """Set the config's CPU threads and whether a GPU multiplies in tf32, and restore both afterwards."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32, torch.get_num_threads()
    products.allow_tf32 = convolutions.allow_tf32 = config.precision == "tf32"
    torch.set_num_threads(config.threads)
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32, threads = before
        torch.set_num_threads(threads)


def copy_shorter_run(config: TrainingConfig, folder: Path) -> None:
    """Copy the last checkpoints of the longest intact shorter run of this config, and its key, to `folder`."""
    if not config.can_be_extended() or folder.parent != store.partial_root():
        return
    identity, length = identity_of(config), config.length
    total, names = identity["config"][length], [checkpoint_of(folder, seed).name for seed in config.seeds]

    def is_shorter(run: Run) -> bool:
        same = run.manifest["identity"] | {"config": run.settings | {length: total}} == identity
        return same and run.settings[length] < total and run.manifest["files"].keys() >= {*names}

    for run in sorted(filter(is_shorter, store.scan()[0]), key=lambda run: run.settings[length], reverse=True):
        with suppress(CorruptRun), full_disk_named(folder, "nothing was lost"):
            copied = {name: run.file(name).read_bytes() for name in names} | {ORIGIN: run.key.encode()}
            for name, data in copied.items():
                replace_whole(folder / name, data)
            return


def last_checkpoints(config: TrainingConfig, folder: Path, metrics: pd.DataFrame) -> dict[str, bytes]:
    """The files, by name, from which every seed of a longer training can continue; empty if one cannot."""
    if not config.can_be_extended():
        return {}
    files: dict[str, bytes] = {}
    for seed in config.seeds:
        path, step = checkpoint_of(folder, seed), metrics.loc[metrics["seed"] == seed, "step"].max()
        found = before(path)
        if not found.exists() and step < config.total_steps():  # stopped early, as a longer training would have
            found = path
        if not found.exists():
            return {}
        files[path.name] = found.read_bytes()
    return files


def train_in_processes(config: TrainingConfig, folder: Path, tell: Tell) -> int:
    """Train seeds to the end, one process per core, and return the number of processes; 1 if more would not help.

    Processes save and report every `TURN_SECONDS`, which also bounds how long they outlive a parent that was killed.
    """
    for lock in folder.glob("seed-*.lock"):  # wait for the processes of a killed training, which may still write
        with FileLock(lock):
            pass
    has_user_code = not type(config).__module__.startswith("anm_nb.") or classes_of_the_user(config.plugins())
    if has_user_code or len(config.seeds) < 2 or seconds_left() < math.inf:
        return 1
    from joblib import Parallel, cpu_count, delayed, parallel_config  # imports in 0.3 s, and few trainings need it

    cores = int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or cpu_count())  # a share of the cores, or all
    found = {seed: good_checkpoints(checkpoint_of(folder, seed)) for seed in config.seeds}
    waiting = [seed for seed, states in found.items() if not (states and states[0]["record"]["ended"])]
    count = min(len(waiting), cores // config.threads)
    if count < 2 or not _train_for(ALONE_SECONDS, config, waiting[0], folder, tell).running():
        return 1
    try:
        with parallel_config("loky", n_jobs=count, inner_max_num_threads=config.threads):
            while waiting:
                turns = [delayed(_take_turn)(config, seed, folder, os.getpid()) for seed in waiting]
                for seed, reports, ended in Parallel(batch_size=1, return_as="generator_unordered")(turns):
                    for report in reports:
                        tell(Member(config, seed), *report)
                    if ended:
                        waiting.remove(seed)
    except KeyboardInterrupt:
        raise Interrupted("run again to continue from the last checkpoints") from None
    return count


def _train_for(seconds: float, config: TrainingConfig, seed: int, folder: Path, tell: Tell) -> Training:
    """Train a seed for at most this many seconds and save its state."""
    training = Training(config.learner(seed), [folder])
    with time_limit(seconds), suppress(OutOfTime):
        training.run(tell)
    return training


def _take_turn(config: TrainingConfig, seed: int, folder: Path, parent: int) -> tuple[int, list[Any], bool]:
    """Train a seed for one turn in another process; return the seed, its progress reports, and whether it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent, which gets the interrupt too, ends this process
    reports: list[Any] = []
    with arithmetic(config), FileLock(folder / f"seed-{seed}.lock"):
        training = _train_for(TURN_SECONDS, config, seed, folder, lambda member, *report: reports.append(report))
    if os.getppid() != parent:
        os._exit(1)
    return seed, reports, not training.running()


def step_seconds(configs: Mapping[str, TrainingConfig], rounds: int = 10) -> pd.DataFrame:
    """Time a step of each config's first seed, one row per round; configs alternate, as a machine's speed drifts."""
    first = next(iter(configs.values()))
    device = first.device_kind()
    with arithmetic(first):
        trainings = {name: Training(each.learner(each.seeds[0], device=device)) for name, each in configs.items()}
        turns = range(WARM_UP[device] + rounds)
        rows = [{name: next_step_seconds(each) for name, each in trainings.items()} for _ in turns]
    return pd.DataFrame(rows[WARM_UP[device] :])


def next_step_seconds(training: Training) -> float:
    """Time the next step (step 1 again at the end), including drawing its problems and updating the weights."""
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
    """Count the operations of matrix products, convolutions and attention in `work`; a multiply-add counts as 2."""
    counter: Any = FlopCounterMode(display=False)
    counter.mod_tracker = nullcontext()  # its hooks fail on gradients of torch.func
    counter.mod_tracker.parents = {"Global"}
    with counter:
        work()
    return int(counter.get_total_flops())
