"""The same sweeps on Dask: a real scheduler and workers, some of which are lost."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trivial_sweep import ended, wait_until, write_notebook

from anm_nb.sweep.process import threads_here

pytest.importorskip("distributed")

ROOT = Path(__file__).resolve().parents[2]


class Cluster:
    """A Dask scheduler on the loopback interface, and workers, each a process, that are started when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file, self.processes = folder, folder / "scheduler.json", []
        scheduler = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(self.file))
        self.start("distributed.cli.dask_scheduler", *scheduler)
        wait_until(lambda: self.file.exists() and self.file.read_text().endswith("}"), 60)
        self.address = json.loads(self.file.read_text())["address"]

    def start(self, *command: str, **environment: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.folder, env=os.environ | environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def worker(self, *options: str, **environment: str) -> subprocess.Popen:
        """A worker of one thread; without options it has no nanny, so that it stays lost when killed."""
        common = ("--scheduler-file", str(self.file), "--nthreads", "1", "--no-dashboard")
        scratch = ("--local-directory", str(self.folder / "scratch"))
        options = (*common, *scratch, *(options or ("--no-nanny",)))
        return self.start("distributed.cli.dask_worker", *options, **environment)

    def close(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "30s")
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    started = Cluster(tmp_path)
    yield started
    started.close()


def on_cluster(trivial, cluster: Cluster, *arguments: str) -> tuple[int, str]:
    return trivial.run("--backend", "dask", "--scheduler", cluster.address, *arguments)


def test_a_sweep_survives_the_loss_of_a_worker_and_its_table_is_the_local_one(trivial, cluster):
    workers = [cluster.worker("--no-nanny", "--resources", "GPU=1") for _ in range(2)]
    trivial.write(grid={"n": [1, 2, 13]}, base={"pause": 1.0})
    local = trivial.folder / "local"
    assert trivial.run("--jobs", "2", out=local)[0] == 1
    (trivial.folder / "ran").unlink()
    for pid in trivial.folder.glob("pid-*"):
        pid.unlink()

    running = trivial.start("--backend", "dask", "--scheduler", cluster.address, "--resource", "GPU=1")
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
    cluster.worker(), cluster.worker()
    trivial.write(grid={"n": [1, 2]}, base={"pause": 600.0})
    running = trivial.start("--backend", "dask", "--scheduler", cluster.address)
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
    while "anm_nb.sweep.process" in str(worker.cmdline()):
        worker = worker.parent()
    worker.kill()  # which a nanny starts again
"""


@pytest.mark.parametrize("workers", [1, 2])  # where there is one, a case waits there while another kills it
def test_a_case_that_its_workers_die_of_fails_alone(workers, trivial, cluster):
    trivial.notebook = write_notebook(trivial.folder / "deadly.ipynb", "n = 1", DEADLY)
    trivial.write(grid={"n": [1, 13, 2]})
    cluster.worker("--nworkers", str(workers))
    code, said = on_cluster(trivial, cluster)
    assert code == 1, said
    assert {name: row["status"] for name, row in trivial.outcomes().items()} == {
        "n=1": "done", "n=2": "done", "n=13": "failed",
    }  # fmt: skip
    assert trivial.outcomes()["n=13"]["error"].startswith("2 workers died while they ran it")


KILLED = """
import os, pathlib, psutil, signal
with open(f"tries-{n}", "a") as tries:
    tries.write("x")
if pathlib.Path(f"tries-{n}").stat().st_size <= deaths:
    os.kill(psutil.Process().parent().pid, signal.SIGKILL)
    while True:
        pass
"""


def test_a_case_whose_process_is_killed_runs_again_as_often_as_one_whose_worker_is_lost(trivial, cluster):
    trivial.notebook = write_notebook(trivial.folder / "killed.ipynb", "n = 1\ndeaths = 0", KILLED)
    trivial.write(cases=[{"n": 1}, {"n": 2, "deaths": 1}, {"n": 3, "deaths": 9}])
    cluster.worker()
    code, said = on_cluster(trivial, cluster)
    assert code == 1, said
    assert [row["status"] for _, row in sorted(trivial.outcomes().items())] == ["done", "done", "failed"]
    assert [(trivial.folder / f"tries-{n}").read_text() for n in (1, 2, 3)] == ["x", "xx", "xx"]
    assert "its process was ended by SIGKILL" in said


# workers that are not like this program


def copied_package(folder: Path) -> Path:
    shutil.copytree(ROOT / "anm_nb", folder / "anm_nb", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def changed(package: Path, change: str) -> None:
    """Make another version of a copied package."""
    if change == "a comment in training":
        with (package / "anm_nb" / "training" / "seeds.py").open("a") as file:
            file.write("# other\n")
    elif change == "a file more":
        (package / "anm_nb" / "energy" / "extra.py").write_text("x = 1\n")
    else:  # a package of this name without anything in it
        shutil.rmtree(package / "anm_nb")
        (package / "anm_nb").mkdir()
        (package / "anm_nb" / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'anm_nb'\")\n")


@pytest.mark.parametrize("change", ["a comment in training", "a file more", "no package"])
def test_a_worker_with_other_sources_or_none_is_refused_by_name_and_trains_nothing(trivial, cluster, tmp_path, change):
    others = copied_package(tmp_path / "others")
    changed(others, change)
    trivial.write(grid={"n": [1, 2]})
    cluster.worker(PYTHONPATH=str(others))
    code, said = on_cluster(trivial, cluster)
    assert code == 2, said
    assert "the Dask worker tcp://127.0.0.1:" in said
    assert ("cannot import anm_nb" if change == "no package" else str(others / "anm_nb")) in said
    assert "Traceback" not in said
    assert (trivial.ran(), trivial.outcomes()) == ([], {})
    cluster.processes[1].kill()
    cluster.worker()
    code, said = on_cluster(trivial, cluster)
    assert (code, sorted(trivial.ran())) == (0, [1, 2]), said


def test_an_equal_copy_of_the_package_elsewhere_is_no_other_version(trivial, cluster, tmp_path):
    trivial.write(grid={"n": [1]})
    cluster.worker(PYTHONPATH=str(copied_package(tmp_path / "others")))
    code, said = on_cluster(trivial, cluster)
    assert code == 0, said


@pytest.mark.parametrize(
    ("given", "threads"), [("2,1", 2), (" 3 , 2,1", 3), ("", 1), ("many", 1), ("0", 1), ("-1", 1), ("²", 1)]
)
def test_a_worker_s_threads_are_the_first_of_its_list(monkeypatch, given, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads_here() == threads


def test_a_worker_with_a_list_of_threads_runs_its_case(trivial, cluster):
    show = "import os, pathlib\npathlib.Path('threads').write_text(os.environ['OMP_NUM_THREADS'])"
    trivial.notebook = write_notebook(trivial.folder / "threads.ipynb", "n = 1", show)
    trivial.write()
    cluster.worker(OMP_NUM_THREADS="2,1")
    code, said = on_cluster(trivial, cluster)
    assert code == 0, said
    assert (trivial.folder / "threads").read_text() == "2"


# addresses


@pytest.mark.parametrize(
    "address", ["nonsense", "tcp://", "tcp://node1", "http://127.0.0.1:80", "tcp://127.0.0.1:99999", "a b:1", ":8786"]
)
def test_what_is_no_address_is_refused_at_once(trivial, address):
    trivial.write(grid={"n": [1]})
    start = time.monotonic()
    refused = trivial.invoke("--backend", "dask", "--scheduler", address)
    assert time.monotonic() - start < 10
    assert refused.exit_code == 2
    said = f"anm-nb: --scheduler {address}: no address; write it as the scheduler prints it, such as tcp://node1:8786\n"
    assert refused.stderr == said
    assert not trivial.out.exists()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "no-such-host.invalid:8786"])
def test_where_nobody_listens_one_line_says_so_and_nothing_follows(trivial, address):
    trivial.write(grid={"n": [1]})
    code, said = trivial.run("--backend", "dask", "--scheduler", address)
    assert code == 2
    assert f"anm-nb: --scheduler {address}: no Dask scheduler answers there" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert trivial.ran() == []


def test_a_server_that_is_no_scheduler_is_refused_without_a_traceback(trivial):
    with socket.create_server(("127.0.0.1", 0)) as server:
        trivial.write(grid={"n": [1]})
        code, said = trivial.run("--backend", "dask", "--scheduler", f"127.0.0.1:{server.getsockname()[1]}")
    assert code == 2, said
    assert "no Dask scheduler answers there" in said
    assert "Traceback" not in said


def is_ancestor(pid: int, descendant: int) -> bool:
    """Whether a process, perhaps through others, started another one."""
    while descendant > 1:
        if descendant == pid:
            return True
        answer = subprocess.run(["ps", "-o", "ppid=", "-p", str(descendant)], capture_output=True, text=True)
        descendant = int(answer.stdout.strip() or 0)
    return False
