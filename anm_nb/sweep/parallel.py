"""Many cases by joblib: on threads here, each waiting for its case's process, or on the workers of a Dask cluster."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from anm_nb.sweep.cases import Case, run_case
from anm_nb.sweep.outcomes import Outcome
from anm_nb.sweep.processes import end_idle_processes

if TYPE_CHECKING:
    from distributed import Client

WAIT_FOR_WORKERS = 7 * 24 * 3600  # seconds; a batch queue gives machines when it has some
AS_THEY_FINISH = {"return_as": "generator_unordered", "batch_size": 1}

Place = AbstractContextManager[tuple[Any, Callable[[Case], Outcome]]]


def run_cases(
    cases: Sequence[Case],
    jobs: int | None,
    on_start: Callable[[str], None] | None = None,
    on_done: Callable[[Outcome], None] | None = None,
    cluster: Client | None = None,
    resources: Mapping[str, float] | None = None,
) -> list[Outcome]:
    """Run every case, `jobs` at a time, sharing out the cores; a failing one does not stop the others.

    With a cluster, its workers run as many as they have threads, or as the `resources` that a case needs allow. Where
    `jobs` is None they need not be here, and a case has as many threads as its worker's OMP_NUM_THREADS says.
    `on_start` is given the name of a case from another thread, twice for a case whose worker was lost; `on_done` is
    called by the caller's, as cases finish. Returns the outcomes in the order of the cases. An exception, also one that
    `on_done` raises, ends what runs and leaves nothing half-written.
    """
    from joblib import cpu_count, delayed  # a third of a second, so not at import

    from anm_nb import files

    env = {"ANM_NB_OUTPUTS": str(files.outputs_root())}  # a relative one would mean another place beside the notebook
    announce = on_start or (lambda name: None)
    threads = max(1, cpu_count() // jobs) if jobs else None
    if cluster:
        place = _on_cluster(cluster, threads, announce, env, resources)
    else:
        place = _on_threads(jobs or cpu_count(), threads or 1, announce, env)
    outcomes = {}
    try:
        with place as (parallel, run):
            finished = parallel(delayed(run)(case) for case in cases)  # a name of its own: not closed before `place` is
            for outcome in finished:
                outcomes[outcome.name] = outcome
                if on_done:
                    on_done(outcome)
    finally:
        end_idle_processes()  # of this machine; a cluster's workers keep theirs for the next sweep
    return [outcomes[case.name] for case in cases]


@contextmanager
def _on_threads(jobs: int, threads: int, on_start: Callable[[str], None], env: Mapping[str, str]) -> Iterator[Any]:
    from joblib import Parallel

    stopping, slots = threading.Event(), threading.Semaphore(jobs)

    def run(case: Case) -> Outcome:
        with slots:
            if not stopping.is_set():
                on_start(case.name)
            return run_case(case, threads, env, stopping.is_set)

    try:
        yield Parallel(n_jobs=jobs, backend="threading", **AS_THEY_FINISH), run
    except BaseException:
        stopping.set()
        for _ in range(jobs):  # every running case gives its slot back once its processes are gone
            slots.acquire()
        raise


@contextmanager
def _on_cluster(
    client: Client,
    threads: int | None,
    on_start: Callable[[str], None],
    env: Mapping[str, str],
    resources: Mapping[str, float] | None,
) -> Iterator[Any]:
    from joblib import Parallel, parallel_config

    from anm_nb.sweep.dask_backend import CasesOnWorkers

    topic = f"anm-nb-{uuid4().hex}"
    starts: Counter[str] = Counter()

    def begun(event: tuple[Any, str]) -> None:
        starts[event[1]] += 1
        on_start(event[1])

    client.subscribe_topic(topic, begun)
    try:
        needed = {"resources": dict(resources)} if resources else {}
        backend = CasesOnWorkers(starts, client=client, wait_for_workers_timeout=WAIT_FOR_WORKERS, **needed)
        with parallel_config(backend=backend):
            # All at once, so that workers that come later, or a cluster that grows with its queue, find them.
            parallel = Parallel(n_jobs=-1, pre_dispatch="all", **AS_THEY_FINISH)
            yield parallel, partial(_run_on_worker, threads=threads, env=dict(env), topic=topic)
    finally:
        client.unsubscribe_topic(topic)


def _run_on_worker(case: Case, threads: int | None, env: Mapping[str, str], topic: str) -> Outcome:
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()
    worker.log_event(topic, case.name)

    def unwanted() -> bool:
        """Whether whoever asked for the case is gone: Dask itself lets a running task go on to its end."""
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    return run_case(case, threads or int(os.environ.get("OMP_NUM_THREADS", 1)), env, unwanted)
