"""Many cases: by joblib on threads here, each waiting for its case's process, or on the workers of a Dask cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from anm_nb.sweep.cases import Case, run_case
from anm_nb.sweep.outcomes import Outcome

if TYPE_CHECKING:
    from distributed import Client


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
    from joblib import cpu_count

    from anm_nb import files

    env = {"ANM_NB_OUTPUTS": str(files.outputs_root())}  # a relative one would mean another place beside the notebook
    announce = on_start or (lambda name: None)
    threads = max(1, cpu_count() // jobs) if jobs else None
    if cluster:
        from anm_nb.sweep.cluster import on_workers

        finished = on_workers(cluster, cases, threads, announce, env, resources or {})
    else:
        finished = _on_threads(cases, jobs or cpu_count(), threads or 1, announce, env)
    outcomes = {}
    with closing(finished):
        for outcome in finished:
            outcomes[outcome.name] = outcome
            if on_done:
                on_done(outcome)
    return [outcomes[case.name] for case in cases]


def _on_threads(
    cases: Sequence[Case], jobs: int, threads: int, on_start: Callable[[str], None], env: Mapping[str, str]
) -> Generator[Outcome]:
    from joblib import Parallel, delayed

    stopping, slots = threading.Event(), threading.Semaphore(jobs)

    def run(case: Case) -> Outcome:
        with slots:
            if not stopping.is_set():
                on_start(case.name)
            return run_case(case, threads, env, stopping.is_set)

    parallel = Parallel(n_jobs=jobs, backend="threading", return_as="generator_unordered", batch_size=1)
    finished = parallel(delayed(run)(case) for case in cases)  # a name of its own: not closed before all has stopped
    try:
        for outcome in finished:  # noqa: UP028
            yield outcome
    except BaseException:
        stopping.set()
        for _ in range(jobs):  # every running case gives its slot back once its processes are gone
            slots.acquire()
        raise
