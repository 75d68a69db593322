"""A Dask cluster: the one at an address, or one of workers in this process; and cases on its workers."""

from __future__ import annotations

import hashlib
import re
import socket
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anm_nb
from anm_nb.config import ParameterError
from anm_nb.sweep.cases import Case
from anm_nb.sweep.outcomes import Outcome

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 10
ADDRESS = re.compile(r"(?:(tcp|tls|ucx|wss?)://)?([\w.-]+|\[[0-9A-Fa-f:.%\w]+\]):(\d{1,5})")


def check_address(address: str) -> None:
    """Refuse, by ParameterError, what cannot be a scheduler's address."""
    match = ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match[3]) < 2**16:
        raise ParameterError(
            f"--scheduler {address}: no address; write it as the scheduler prints it, such as tcp://node1:8786"
        )


@contextmanager
def connected(scheduler: str | None, jobs: int | None) -> Iterator[Client]:
    """A client of the scheduler at an address, such as tcp://node1:8786, or of a cluster of `jobs` workers made here.

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
    check_address(scheduler)
    _knock(scheduler)
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ParameterError(f"--scheduler {scheduler}: no Dask scheduler answers there: {error}") from None
    with client:
        yield client


def _knock(scheduler: str) -> None:
    """Refuse an address where nothing listens: Dask's own attempts end in tracebacks long after."""
    match = ADDRESS.fullmatch(scheduler)
    assert match is not None
    if match[1] == "ucx":
        return
    try:
        socket.create_connection((match[2].strip("[]"), int(match[3])), CONNECT_SECONDS).close()
    except OSError as error:
        raise ParameterError(f"--scheduler {scheduler}: no Dask scheduler answers there: {error}") from None


def on_workers(
    client: Client,
    cases: Sequence[Case],
    threads: int | None,
    on_start: Callable[[str], None],
    env: Mapping[str, str],
    resources: Mapping[str, float],
) -> Generator[Outcome]:
    """The outcomes of the cases as workers finish them; those that come later, as a queue gives machines, take part.

    A case whose worker was lost, or whose process was killed, runs again, as often as the scheduler's
    `allowed-failures` says, and has then failed. Dask blames a worker's death also on cases that only waited there;
    such a case is handed out once more. Raises ParameterError, naming the worker, where one has other sources.
    """
    import dask
    from distributed import KilledWorker, as_completed

    topic, starts = f"anm-nb-{uuid4().hex}", Counter[str]()
    allowed = dask.config.get("distributed.scheduler.allowed-failures")
    killed, handed_out_again = Counter[str](), set()
    work, package = _work(), package_digest()

    def begun(event: tuple[Any, str]) -> None:
        starts[event[1]] += 1
        on_start(event[1])

    def submit(case: Case) -> Any:
        key = f"{case.name}-{uuid4().hex}"
        given, file = vars(case) | {"notebook": str(case.notebook), "output": str(case.output)}, None
        if isinstance(case.parameters, Path):
            given["parameters"], file = None, str(case.parameters)
        return client.submit(
            work, given, file, threads, dict(env), topic, package, key=key, pure=False, resources=resources or None
        )

    client.subscribe_topic(topic, begun)
    waiting = {submit(case): case for case in cases}
    finished = as_completed(list(waiting), loop=client.loop)
    try:
        for future in finished:
            case = waiting.pop(future)
            try:
                told = future.result()
            except KilledWorker as error:
                outcome = _lost(case, f"{error.allowed_failures + 1} workers died while they ran it")
                only_waited = starts[case.name] <= error.allowed_failures
                again = only_waited and case.name not in handed_out_again  # a start may go untold too
                handed_out_again.add(case.name)
            else:
                if "refused" in told:
                    raise ParameterError(told["refused"])
                outcome = Outcome(**told)
                killed[case.name] += outcome.killed
                again = outcome.killed and killed[case.name] <= allowed
                if outcome.killed and not again:
                    outcome = _lost(case, f"{allowed + 1} processes that ran it were killed")
            if again:
                waiting[another := submit(case)] = case
                finished.add(another)
            else:
                yield outcome
    finally:
        client.cancel(list(waiting), force=True)
        client.unsubscribe_topic(topic)


def package_digest() -> str:
    """A digest of every source of this package."""
    package = Path(anm_nb.__file__).parent
    files = (f"{file.relative_to(package)}\n".encode() + file.read_bytes() for file in sorted(package.rglob("*.py")))
    return hashlib.sha256(b"".join(files)).hexdigest()


def _lost(case: Case, said: str) -> Outcome:
    case.output.unlink(missing_ok=True)
    return Outcome(case.name, "failed", 0.0, 0.0, f"{said}, as happens where memory runs out", case.digest, killed=True)


def _work() -> Callable[..., dict[str, Any]]:
    """What a worker does with a case; a function within one travels as code, so a worker may lack the package."""

    def work(
        given: dict[str, Any],
        parameter_file: str | None,
        threads: int | None,
        env: dict[str, str],
        topic: str,
        package: str,
    ) -> dict[str, Any]:
        import hashlib
        from dataclasses import asdict
        from pathlib import Path

        from distributed import get_worker

        worker = get_worker()
        try:
            import anm_nb
        except ImportError as error:
            return {"refused": f"the Dask worker {worker.address} cannot import anm_nb: {error}; nothing ran there"}
        root = Path(anm_nb.__file__ or "nowhere").parent
        texts = (f"{file.relative_to(root)}\n".encode() + file.read_bytes() for file in sorted(root.rglob("*.py")))
        if hashlib.sha256(b"".join(texts)).hexdigest() != package:
            named = f"anm_nb {getattr(anm_nb, '__version__', '')} in {root}"
            return {"refused": f"the Dask worker {worker.address} has other sources, {named}; nothing ran there"}
        from anm_nb.sweep.cases import Case, run_case

        key = worker.get_current_task()
        paths = {"notebook": Path(given["notebook"]), "output": Path(given["output"])}
        if parameter_file is not None:
            paths["parameters"] = Path(parameter_file)
        case = Case(**given | paths)
        worker.log_event(topic, case.name)

        def unwanted() -> bool:
            """Whether whoever asked for the case is gone: Dask itself lets a running task go on to its end."""
            task = worker.state.tasks.get(key)
            return task is None or task.state == "cancelled"

        return asdict(run_case(case, threads, env, unwanted))

    return work
