"""The same sweeps on Dask: a real scheduler and workers, some of which are lost."""

import json
import os
import subprocess
import sys

import pytest
from trivial_sweep import ended, wait_until, write_notebook

pytest.importorskip("distributed")


def dask(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A scheduler and two workers, each a process, on the loopback interface: its address, and the workers."""
    file = tmp_path / "scheduler.json"
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "30s")
    processes = [
        dask("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
             "--scheduler-file", str(file)),
    ]  # fmt: skip
    worker = ["distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny"]
    worker += ["--no-dashboard", "--local-directory", str(tmp_path / "scratch")]
    try:
        wait_until(lambda: file.exists() and file.read_text().endswith("}"), 60)
        processes += [dask(*worker, "--resources", "GPU=1") for _ in range(2)]
        yield json.loads(file.read_text())["address"], processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_sweep_survives_the_loss_of_a_worker_and_its_table_is_the_local_one(trivial, cluster):
    address, workers = cluster
    trivial.write(grid={"n": [1, 2, 13]}, base={"pause": 1.0})
    local = trivial.folder / "local"
    assert trivial.run("--jobs", "2", out=local)[0] == 1
    (trivial.folder / "ran").unlink()
    for pid in trivial.folder.glob("pid-*"):
        pid.unlink()

    running = trivial.start("--backend", "dask", "--scheduler", address, "--resource", "GPU=1")
    kernel = trivial.wait_for_kernel(1)
    lost = next(worker for worker in workers if is_ancestor(worker.pid, kernel))
    lost.kill()
    said = running.communicate(timeout=300)[0]
    assert running.returncode == 1, said
    assert "2 done, 1 failed" in said
    wait_until(lambda: ended(kernel), 30)
    assert trivial.ran().count(1) == 2  # on the worker that was lost, and on the other
    assert (trivial.out / "table.parquet").read_bytes() == (local / "table.parquet").read_bytes()
    assert trivial.half_written() == []


def test_ctrl_c_ends_what_the_workers_run(trivial, cluster):
    trivial.write(grid={"n": [1, 2]}, base={"pause": 600.0})
    running = trivial.start("--backend", "dask", "--scheduler", cluster[0])
    kernels = [trivial.wait_for_kernel(n) for n in (1, 2)]
    os.kill(running.pid, 2)
    said = running.communicate(timeout=60)[0]
    assert running.returncode == 130, said
    assert "stopped: 2 not finished" in said
    for kernel in kernels:
        wait_until(lambda kernel=kernel: ended(kernel), 30)
    wait_until(lambda: trivial.half_written() == [], 30)
    assert trivial.outcomes() == {}


def test_without_an_address_a_cluster_is_made_here(trivial):
    trivial.write(grid={"n": [1, 13]})
    code, said = trivial.run("--backend", "dask", "--jobs", "1")
    assert code == 1, said
    assert {name: row["status"] for name, row in trivial.outcomes().items()} == {"n=1": "done", "n=13": "failed"}


DEADLY = """
import os, signal, psutil
if n == 13:
    worker = psutil.Process().parent()
    while "anm_nb.sweep.process" in worker.cmdline():
        worker = worker.parent()
    worker.kill()  # which a nanny starts again
"""


@pytest.mark.parametrize("workers", [1, 2])  # where there is one, a case waits there while another kills it
def test_a_case_that_its_workers_die_of_fails_alone(workers, trivial, tmp_path, monkeypatch):
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "1")
    trivial.notebook = write_notebook(trivial.folder / "deadly.ipynb", "n = 1", DEADLY)
    trivial.write(grid={"n": [1, 13, 2]})
    file = tmp_path / "scheduler.json"
    processes = [
        dask("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
             "--scheduler-file", str(file)),
    ]  # fmt: skip
    try:
        wait_until(lambda: file.exists() and file.read_text().endswith("}"), 60)
        processes.append(
            dask("distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1",
                 "--nworkers", str(workers), "--no-dashboard", "--local-directory", str(tmp_path / "scratch"))
        )  # fmt: skip
        code, said = trivial.run("--backend", "dask", "--scheduler", json.loads(file.read_text())["address"])
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()
    assert code == 1, said
    assert {name: row["status"] for name, row in trivial.outcomes().items()} == {
        "n=1": "done", "n=2": "done", "n=13": "failed",
    }  # fmt: skip
    assert trivial.outcomes()["n=13"]["error"].startswith("2 workers died while they ran it")


def test_an_address_where_nobody_answers_is_refused(trivial, monkeypatch):
    from anm_nb.config import ParameterError
    from anm_nb.sweep import cluster

    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    with (
        pytest.raises(ParameterError, match="no Dask scheduler answers there"),
        cluster.connected("tcp://127.0.0.1:9", None),
    ):
        pass


def is_ancestor(pid: int, descendant: int) -> bool:
    """Whether a process, perhaps through others, started another one."""
    while descendant > 1:
        if descendant == pid:
            return True
        answer = subprocess.run(["ps", "-o", "ppid=", "-p", str(descendant)], capture_output=True, text=True)
        descendant = int(answer.stdout.strip() or 0)
    return False
