"""Sweeps on a Dask cluster that loses workers. All tests share one cluster, which ends with their process."""

from contextlib import closing

import pandas as pd
import pytest
from trivial_sweep import ended, wait_until, write_notebook

from anm_nb.cases import open_sweep
from anm_nb.sweep import outcomes_of

distributed = pytest.importorskip("distributed")

WORK = """
import os, pathlib, psutil
with open(f"tries-{n}", "a") as tries:
    tries.write(os.environ["OMP_NUM_THREADS"])
deaths = {2: 1, 9: 9}.get(n, 0)
if len(pathlib.Path(f"tries-{n}").read_text()) <= deaths:
    psutil.Process().parent().parent().kill()  # the worker; its nanny starts a new one
    while True:
        pass
"""


@pytest.fixture(scope="module")
def cluster():
    """A scheduler with two workers of one thread."""
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        yield cluster


def test_cases_survive_the_loss_of_workers_unless_they_kill_them(trivial, cluster, monkeypatch):
    write_notebook(trivial.notebook, "n = 1", WORK)
    trivial.write(grid={"n": [2, 1]})
    ran = trivial.invoke("--scheduler", cluster.scheduler_address)
    assert ran.exit_code == 0, ran.output
    tries = {n: (trivial.folder / f"tries-{n}").read_text() for n in (1, 2)}
    assert (len(tries[2]), tries[1][0]) == (2, "1")
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    trivial.write(grid={"n": [9, 1, 2]})
    ran = trivial.invoke("--scheduler", cluster.scheduler_address)
    assert ran.exit_code == 1, ran.output
    assert "workers died while it ran or waited there" in trivial.outcomes()["n=9"]["error"]
    table = pd.read_parquet(trivial.out / "table.parquet")
    assert dict(zip(table["n"], table["status"], strict=True)) == {9: "failed", 1: "done", 2: "done"}
    assert {n: (trivial.folder / f"tries-{n}").read_text() for n in (1, 2)} == tries
    assert trivial.half_written() == []
    assert trivial.invoke("--dry-run").stdout.count("to run") == 0


def test_closing_the_iterator_ends_the_running_cases(trivial, cluster):
    trivial.write(cases=[{"n": 1}, {"n": 2, "pause": 600.0}])
    cases = open_sweep(trivial.folder / "trivial.yaml", folder=trivial.out)
    with closing(outcomes_of(cases, scheduler=cluster.scheduler_address)) as all_:
        assert next(all_).name == "n=1"
        kernel = trivial.wait_for_kernel(2)
    wait_until(lambda: ended(kernel) and trivial.half_written() == [], 30)
    assert len(trivial.outcomes()) == 1


def test_a_missing_scheduler_gives_one_line_of_error(trivial, monkeypatch):
    client = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, **_: client(address, timeout=0.1))
    trivial.write(grid={"n": [1]})
    refused = trivial.invoke("--scheduler", "tcp://127.0.0.1:9")
    assert (refused.exit_code, trivial.ran()) == (1, [])
    assert "anm-nb: Timed out trying to connect to tcp://127.0.0.1:9" in refused.stderr
