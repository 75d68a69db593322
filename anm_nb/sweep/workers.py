"""Many cases side by side: on threads here, each waiting for its case's process, or on the workers of a Dask cluster.

joblib's pools end all that runs when one worker dies; here that case alone fails, or runs again on another worker.
"""

from __future__ import annotations

import math
import pickle
import re
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from anm_nb import files
from anm_nb.config import ParameterError
from anm_nb.sweep.cases import Case
from anm_nb.sweep.notebook import source_digest
from anm_nb.sweep.outcomes import Outcome
from anm_nb.sweep.process import attempt, half_written

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 10
ADDRESS = re.compile(r"(?:(tcp|tls|ucx|wss?)://)?([\w.-]+|\[[0-9A-Fa-f:.%\w]+\]):(\d{1,5})")


def run_cases(
    cases: Sequence[Case],
    jobs: int | None,
    client: Client | None = None,
    resources: Mapping[str, float] | None = None,
    until: float = math.inf,
) -> Generator[Outcome]:
    """The outcomes of the cases as they finish, `jobs` at a time, sharing out the cores; a failing one stops no other.

    With a Dask client, its workers run as many as they have threads, or as the `resources` that a case needs allow;
    without `jobs` a case has as many threads as its worker's OMP_NUM_THREADS says. A case whose worker was lost, or
    whose process there was killed, runs again as often as the scheduler's `allowed-failures` says. No case starts after
    the time `until`. An exception, and closing the iterator, end what runs and leave nothing half-written. Raises
    `ParameterError`, naming the worker, where one has other sources.
    """
    from joblib import cpu_count

    # a relative folder would mean another place beside the notebook
    env = {"ANM_NB_OUTPUTS": str(files.outputs_root())}
    threads, stop = max(1, cpu_count() // jobs) if jobs else None, threading.Event()
    executor: Executor
    if client:
        executor = client.get_executor(pure=False, resources=dict(resources or {}) or None)
        work, digest = _work(), source_digest()
    else:
        executor = ThreadPoolExecutor(jobs or cpu_count())

    def submit(case: Case) -> Future[Any]:
        if client:
            return executor.submit(work, pickle.dumps(case), digest, threads, env, until)
        return executor.submit(attempt, case, threads, env, until, stop.is_set)

    waiting: dict[Future[Any], Case] = {}
    blamed: set[str] = set()
    try:
        waiting |= {submit(case): case for case in cases}
        while waiting:
            done = wait(waiting, return_when=FIRST_COMPLETED).done
            while done:
                future = done.pop()
                case = waiting.pop(future)
                outcome = _settled(case, future, blamed)
                del future  # Dask runs again what is still referred to, where the worker that had it is lost
                if isinstance(outcome, Outcome):
                    yield outcome
                elif outcome == "again":
                    waiting[submit(case)] = case
    finally:
        stop.set()
        executor.shutdown(wait=False) if client else executor.shutdown(cancel_futures=True)


def _settled(case: Case, future: Future[Any], blamed: set[str]) -> Outcome | str | None:
    """How a case ended; None where it was not started in time, "again" where it must be handed out again.

    Dask blames a worker's death also on cases that only waited there; one that has left nothing half-written is handed
    out once more. Raises `ParameterError` with what a worker refused.
    """
    try:
        outcome = future.result()
    except Exception as error:
        if type(error).__name__ != "KilledWorker":  # which only Dask has
            raise
        deaths = error.allowed_failures + 1  # type: ignore[attr-defined]
        if half_written(case.output.parent).count(case.name) < deaths and case.name not in blamed:
            blamed.add(case.name)
            return "again"
        case.output.unlink(missing_ok=True)
        said = f"{deaths} workers died while they ran it, as happens where memory runs out"
        return Outcome(case.name, "failed", 0.0, 0.0, said, case.digest, killed=True)
    if isinstance(outcome, str):
        raise ParameterError(outcome)
    return outcome


def _work() -> Callable[..., Outcome | str | None]:
    """What a worker does with a case; a function within one travels as code, so a worker may lack the package."""

    def work(case: bytes, digest: str, threads: int | None, env: dict[str, str], until: float) -> Outcome | str | None:
        import pickle

        import dask
        from distributed import get_worker

        worker = get_worker()
        key = worker.get_current_task()
        try:
            import anm_nb
            from anm_nb.sweep.notebook import source_digest

            if source_digest() != digest:
                named = f"anm_nb {anm_nb.__version__} in {anm_nb.__path__[0]}"
                return f"the Dask worker {worker.address} has other sources, {named}; nothing ran there"
            from anm_nb.sweep.process import attempt
        except ImportError as error:
            return f"the Dask worker {worker.address} cannot import anm_nb: {error}; nothing ran there"

        def unwanted() -> bool:
            """Whether whoever asked for the case is gone: Dask itself lets a running task go on to its end."""
            task = worker.state.tasks.get(key)
            return task is None or task.state == "cancelled"

        times = dask.config.get("distributed.scheduler.allowed-failures") + 1
        return attempt(pickle.loads(case), threads, env, until, unwanted, times)

    return work


def check_options(backend: str, scheduler: str | None, jobs: int | None, resource: Sequence[str]) -> dict[str, float]:
    """What a case takes of its worker, by name. Raises `ParameterError` for options that do not fit each other."""
    resources = {}
    for text in resource:
        name, _, amount = text.partition("=")
        try:
            resources[name] = float(amount)
        except ValueError:
            raise ParameterError(f"--resource {text}: write NAME=NUMBER, such as GPU=1") from None
    if backend == "local" and (scheduler or resources):
        raise ParameterError(f"--{'scheduler' if scheduler else 'resource'} needs --backend dask")
    if scheduler and jobs:
        raise ParameterError("--jobs is for cases on this machine; with --scheduler its workers say how many they run")
    match = ADDRESS.fullmatch(scheduler or "tcp://here:1")
    if match is None or not 0 < int(match[3]) < 2**16:
        raise ParameterError(
            f"--scheduler {scheduler}: no address; write it as the scheduler prints it, such as tcp://node1:8786"
        )
    return resources


@contextmanager
def dask_client(scheduler: str | None, jobs: int | None) -> Iterator[Client]:
    """A client of the scheduler at a valid address (`check_options`), or of a cluster of `jobs` workers made here.

    Raises `ParameterError` where Dask is not installed or nothing answers there. At the end the client is closed, which
    lets the workers drop what it asked them for.
    """
    try:
        from distributed import Client, LocalCluster
    except ModuleNotFoundError:
        raise ParameterError("--backend dask: Dask is missing; in the clone, pip install -e '.[cluster]'") from None
    if scheduler is None:
        # Threads are enough: a worker only waits for the process of its case.
        options = {"threads_per_worker": 1, "processes": False, "dashboard_address": None}
        with LocalCluster(n_workers=jobs, **options) as cluster, Client(cluster, set_as_default=False) as client:
            yield client
        return
    address = ADDRESS.fullmatch(scheduler)
    assert address is not None
    protocol, host, port = address.groups()
    try:
        if protocol != "ucx":  # Dask's own attempts where nothing listens end in tracebacks long after
            with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS) as tried:
                # a scheduler speaks first; to a server that stays silent Dask's client would listen without end
                if protocol in (None, "tcp") and not tried.recv(1):
                    raise OSError("the connection was closed")
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ParameterError(f"--scheduler {scheduler}: no Dask scheduler answers there: {error}") from None
    with client:
        yield client
