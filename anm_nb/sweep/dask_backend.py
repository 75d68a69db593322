"""joblib's Dask backend as a sweep needs it: no case runs in this process, and none is waited for in vain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from distributed import KilledWorker
from joblib._dask import DaskDistributedBackend

from anm_nb.sweep.cases import Case
from anm_nb.sweep.outcomes import Outcome


class CasesOnWorkers(DaskDistributedBackend):
    """A case that several workers died of, one after the other, has failed; the others go on.

    joblib's own backend never tells of a task that failed so, and its results are waited for without end. Dask blames
    a worker's death also on cases that only waited there; `starts`, how often each was begun, tells them apart: such a
    case is handed out once more.
    """

    def __init__(self, starts: Mapping[str, int], **options: Any) -> None:
        super().__init__(**options)
        self.starts = starts
        self.again: set[str] = set()

    def effective_n_jobs(self, n_jobs: int) -> int:
        """At least two slots, also where there is one: joblib would run its cases in this process instead."""
        return max(2, super().effective_n_jobs(n_jobs))

    def submit(self, func: Any, callback: Callable[[Any], None] | None = None) -> Future[Any]:
        """Hand a case to the workers; `callback` is given what came of it, however it ended."""
        future: Future[Any] = super().submit(func, callback)
        ((_, (case, *_), _),) = func.items  # batch_size is 1

        def told(done: Future[Any]) -> None:
            error = done.exception()
            if isinstance(error, KilledWorker) and self._only_waited(case, error):
                self.again.add(case.name)
                self.submit(func, callback)
            elif error is not None and callback is not None:
                callback([_lost(case, error)] if isinstance(error, KilledWorker) else error)

        future.add_done_callback(told)
        return future

    def _only_waited(self, case: Case, error: KilledWorker) -> bool:
        """Whether one of the workers died before it had begun the case; asked once, as a start may go untold too."""
        return case.name not in self.again and self.starts.get(case.name, 0) <= error.allowed_failures

    def retrieve_result_callback(self, out: Any) -> Any:
        """The outcome in a list of its own; raises what kept a case from running at all."""
        if isinstance(out, BaseException):
            raise out
        return super().retrieve_result_callback(out)


def _lost(case: Case, error: KilledWorker) -> Outcome:
    said = f"{error.allowed_failures + 1} workers died while they ran it, as happens where memory runs out"
    return Outcome(case.name, "failed", 0.0, 0.0, said, case.digest)
