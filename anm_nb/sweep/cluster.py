"""A Dask cluster: the one at an address, or one of workers in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anm_nb.config import ParameterError

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 10


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
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ParameterError(f"--scheduler {scheduler}: no Dask scheduler answers there: {error}") from None
    with client:
        yield client
