"""A Dask cluster: the one at an address, or one of workers in this process; and cases on its workers."""

from __future__ import annotations

import pickle
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from anm_nb.config import ParameterError
from anm_nb.sweep.case import Case, Outcome, OutOfTime, growing
from anm_nb.sweep.parameters import source_digest

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 10
ADDRESS = re.compile(r"(?:(tcp|tls|ucx|wss?)://)?([\w.-]+|\[[0-9A-Fa-f:.%\w]+\]):(\d{1,5})")


def check_options(backend: str, scheduler: str | None, jobs: int | None, resource: Sequence[str]) -> dict[str, float]:
    """What a case takes of its worker, by name. Raises ParameterError for options that do not fit each other."""
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
def connected(scheduler: str | None, jobs: int | None) -> Iterator[Client]:
    """A client of the scheduler at a valid address (`check_options`), or of a cluster of `jobs` workers made here.

    Raises ParameterError where Dask is not installed or nothing answers there. At the end the client is closed, which
    lets the workers drop what it asked them for.
    """
    try:
        from distributed import Client, LocalCluster
    except ModuleNotFoundError:
        raise ParameterError("--backend dask: Dask is missing; in the clone, pip install -e '.[cluster]'") from None
    if scheduler is None:
        # Threads are enough: a worker only waits for the process of its case.
        with (
            LocalCluster(n_workers=jobs, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
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


class Workers:
    """Hands cases to the workers of a cluster; those that come later, as a queue gives machines, take part."""

    def __init__(
        self, client: Client, resources: Mapping[str, float], threads: int | None, env: Mapping[str, str], until: float
    ) -> None:
        self._executor: Executor = client.get_executor(pure=False, resources=dict(resources) or None)
        self._work, self._digest, self._options = _work(), source_digest(), (threads, dict(env), until)
        self._killed, self._waited = Counter[str](), set[str]()

    def submit(self, case: Case) -> Future[Any]:
        """The case's future, whose result is for `outcome`."""
        return self._executor.submit(self._work, pickle.dumps(case), self._digest, *self._options)

    def outcome(self, case: Case, future: Future[Any]) -> Outcome | None:
        """How a case ended; None where it must be handed out again.

        A case whose worker was lost, or whose process was killed, runs again, as often as the scheduler's
        `allowed-failures` says, and has then failed. Dask blames a worker's death also on cases that only waited there;
        such a case, which has left nothing half-written, is handed out once more. Raises OutOfTime, and ParameterError,
        naming the worker, where one has other sources.
        """
        import dask
        from distributed import KilledWorker

        try:
            told = future.result()
        except KilledWorker as error:
            deaths = error.allowed_failures + 1
            if growing(case.output.parent).count(case.name) < deaths and case.name not in self._waited:
                self._waited.add(case.name)
                return None
            return _lost(case, f"{deaths} workers died while they ran it")
        if told is None:
            raise OutOfTime
        if isinstance(told, str):
            raise ParameterError(told)
        outcome = Outcome(**told)
        if outcome.killed:
            self._killed[case.name] += 1
            deaths = dask.config.get("distributed.scheduler.allowed-failures") + 1
            lost = self._killed[case.name] >= deaths
            return _lost(case, f"{deaths} processes that ran it were killed") if lost else None
        return outcome

    def close(self) -> None:
        """Take back what is not finished."""
        self._executor.shutdown(wait=False)


def _lost(case: Case, said: str) -> Outcome:
    case.output.unlink(missing_ok=True)
    return Outcome(case.name, "failed", 0.0, 0.0, f"{said}, as happens where memory runs out", case.digest, killed=True)


def _work() -> Callable[..., dict[str, Any] | str | None]:
    """What a worker does with a case; a function within one travels as code, so a worker may lack the package."""

    def work(
        case: bytes, digest: str, threads: int | None, env: dict[str, str], until: float
    ) -> dict[str, Any] | str | None:
        import pickle
        import time
        from dataclasses import asdict

        from distributed import get_worker

        worker = get_worker()
        key = worker.get_current_task()
        try:
            import anm_nb
            from anm_nb.sweep.case import run_case
            from anm_nb.sweep.parameters import source_digest
        except ImportError as error:
            return f"the Dask worker {worker.address} cannot import anm_nb: {error}; nothing ran there"
        if source_digest() != digest:
            named = f"anm_nb {anm_nb.__version__} in {anm_nb.__path__[0]}"
            return f"the Dask worker {worker.address} has other sources, {named}; nothing ran there"

        def unwanted() -> bool:
            """Whether whoever asked for the case is gone: Dask itself lets a running task go on to its end."""
            task = worker.state.tasks.get(key)
            return task is None or task.state == "cancelled"

        return asdict(run_case(pickle.loads(case), threads, env, unwanted)) if time.time() < until else None

    return work
