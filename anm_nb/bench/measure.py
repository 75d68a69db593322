"""Measuring a workload in processes of its own: time beside the plain reference, rate, operations, memory.

Each round times the machine's matrix product, the package and the plain reference one after the other, so that a
machine's drift and its other work fall on all three alike. Figures are medians over rounds, of the round's own ratios.

Where there are several processes, each trains a seed by the package on a core of its own, all at the same time. The
plain way to use as many cores is one process with as many threads, one seed after the other.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import BrokenBarrierError
from typing import Any, NamedTuple

import torch

from anm_nb.bench.flops import counted_flops
from anm_nb.training.loop import cpu_threads
from anm_nb.training.timing import matmul_rate, settle

ROUNDS = (3, 21)  # at least, and at most
SHORTEST = 0.1  # seconds; shorter work is repeated within a round


@dataclass(frozen=True)
class Measured:
    """What a workload cost; where there are several processes, of one call in each of them at the same time."""

    seconds: float
    plain_seconds: float
    speedup: float  # plain over ours
    flops: int
    plain_flops: int
    rate: float  # GFLOP/s of 1024³ matrix products with the same processes and threads
    share: float | None  # GFLOP/s of the work, over that; None where nothing is counted
    peak_mib: float  # resident, the interpreter and torch included; on a GPU what torch allocated there
    start_mib: float  # the same before the workload was made
    rounds: int
    processes: int
    threads: int  # of each process
    device: str


class Round(NamedTuple):
    """One round of one process: GFLOP/s of matrix products, seconds of ours, and of the plain way in all."""

    rate: float
    ours: float
    plain: float


class _Shared(NamedTuple):
    """What the processes of a measurement have in common."""

    barrier: Any
    processes: int
    threads: int
    device: str
    tiny: bool
    seconds: float


_shared: _Shared | None = None  # of a worker process, set as it starts


def _start_worker(shared: _Shared) -> None:
    global _shared
    _shared = shared


def measured(name: str, device: str, tiny: bool, seconds: float, processes: int = 1, threads: int = 1) -> Measured:
    """Measure a workload of that name for about so many seconds, beside the start of the processes.

    Raises whatever the workload raises, and `BrokenProcessPool` where a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    shared = _Shared(context.Barrier(processes), processes, threads, device, tiny, seconds)
    with ProcessPoolExecutor(processes, context, initializer=_start_worker, initargs=(shared,)) as pool:
        parts = [one.result() for one in [pool.submit(_measure, name, rank) for rank in range(processes)]]
    return together(parts)


def together(parts: Sequence[Measured]) -> Measured:
    """The figures of processes that ran at the same time as one: operations, rates and memory summed.

    The plain way is timed by the first of them, for all.
    """
    first = parts[0]
    return Measured(
        seconds=median(part.seconds for part in parts),
        plain_seconds=first.plain_seconds,
        speedup=first.speedup,
        flops=sum(part.flops for part in parts),
        plain_flops=sum(part.plain_flops for part in parts),
        rate=sum(part.rate for part in parts),
        share=None if first.share is None else median(part.share for part in parts if part.share is not None),
        peak_mib=sum(part.peak_mib for part in parts),
        start_mib=sum(part.start_mib for part in parts),
        rounds=first.rounds,
        processes=len(parts),
        threads=first.threads,
        device=first.device,
    )


def _measure(name: str, rank: int) -> Measured:
    """In a worker process: everything of the workload of that name."""
    from anm_nb.bench.workloads import WORKLOADS

    assert _shared is not None
    device, threads = _shared.device, _shared.threads
    try:
        with cpu_threads(threads):
            start = peak_mib(device)
            pair = WORKLOADS[name].make(device, _shared.tiny)
            for _ in range(2):
                pair.ours()
            peak = peak_mib(device)  # before the reference adds its own
            pair.plain()
            flops, plain_flops = counted_flops(pair.ours), counted_flops(pair.plain)
            rows = _rounds(repeated(pair.ours, device), repeated(pair.plain, device), rank, _shared)
    except BaseException:
        _shared.barrier.abort()  # nobody waits for this process
        raise
    share = median(flops / 1e9 / row.ours / row.rate for row in rows) if flops else None
    return Measured(
        seconds=median(row.ours for row in rows),
        plain_seconds=median(row.plain for row in rows),
        speedup=median(row.plain / row.ours for row in rows),  # 0 in all processes but the first
        flops=flops,
        plain_flops=plain_flops,
        rate=median(row.rate for row in rows),
        share=share,
        peak_mib=peak,
        start_mib=start,
        rounds=len(rows),
        processes=1,
        threads=threads,
        device=device,
    )


def _rounds(ours: Callable[[], float], plain: Callable[[], float], rank: int, shared: _Shared) -> list[Round]:
    """As many rounds as fit in the time, all processes doing the same at the same time.

    The first process alone takes the plain way, and says when time is over: the others find the barrier broken.
    """
    barrier, count = shared.barrier, shared.processes
    began = time.perf_counter()
    rows: list[Round] = []
    try:
        while len(rows) < ROUNDS[1]:
            barrier.wait()
            rate = matmul_rate(shared.threads, shared.device, rounds=3)
            barrier.wait()
            taken, in_all = ours(), 0.0
            barrier.wait()
            if rank == 0:
                with cpu_threads(count * shared.threads):
                    in_all = sum(plain() for _ in range(count))
            rows.append(Round(rate, taken, in_all))
            if rank == 0 and len(rows) >= ROUNDS[0] and time.perf_counter() - began > shared.seconds:
                barrier.abort()
                break
    except BrokenBarrierError:
        pass
    return rows


def repeated(work: Callable[[], object], device: str) -> Callable[[], float]:
    """A function that does the work often enough to be timed, and returns the seconds of once."""
    count = max(1, round(SHORTEST / max(timed(work, device), 1e-6)))

    def mean_seconds() -> float:
        return timed(lambda: [work() for _ in range(count)], device) / count

    return mean_seconds


def timed(work: Callable[[], object], device: str) -> float:
    """Wall-clock seconds until the device is done."""
    settle(device)
    started = time.perf_counter()
    work()
    settle(device)
    return time.perf_counter() - started


def peak_mib(device: str) -> float:
    """The most memory this process has held so far: resident on a CPU, allocated by torch on a GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where getrusage would count what the parent held before it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
