"""Seeds in processes of their own give what one process gives, bit for bit, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
import warnings

import psutil
import pytest
from families import Own
from stored_training import CONFIGS, long_training
from toy import assert_same

from anm_nb.training import NonFiniteLoss, run
from anm_nb.training.checkpoint import checkpoint_of

SEEDS = (4, 0, 2)
ENERGY = CONFIGS["mined negatives, EMA"].model_copy(update={"seeds": SEEDS})
RANKING = CONFIGS["ranking"].changed(seeds=SEEDS, patience=1, encoder_lr=1e-6)  # learns nothing, so patience ends


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The disk is not waited for: it is not what this is about."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def two_at_a_time(monkeypatch):
    monkeypatch.setattr(run, "ALONE_SECONDS", 0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")


def trained(config, folder, monkeypatch, cores):
    """The training, how many processes trained at a time, and what was warned of."""
    folder.mkdir()
    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as said:
        patch.setenv("OMP_NUM_THREADS", str(cores))
        warnings.simplefilter("always")
        result = config.train(folder)
    return result, [(str(each.message), each.category) for each in said]


@pytest.mark.parametrize("config", [ENERGY, RANKING], ids=["energy", "ranking"])
def test_processes_give_the_bits_and_the_warnings_of_one(config, two_at_a_time, tmp_path, monkeypatch):
    alone, said_alone = trained(config, tmp_path / "alone", monkeypatch, cores=1)
    apart, said_apart = trained(config, tmp_path / "apart", monkeypatch, cores=2)
    assert (alone.processes, apart.processes) == (1, 2)
    assert_same(apart, alone)
    assert said_apart == said_alone == []
    for seconds in (alone.seconds, apart.seconds):
        assert list(seconds) == list(SEEDS)
        for seed, spent in seconds.items():
            assert len(spent) == (alone.metrics["seed"] == seed).sum()
            assert spent == sorted(spent)
            assert spent[0] < spent[-1]


def test_a_seed_that_fails_is_named_as_it_would_be_here(two_at_a_time, tmp_path, monkeypatch):
    config = ENERGY.model_copy(update={"lr": 1e20, "clip_norm": 1e20, "seeds": (5, 6)})
    failures = []
    for cores in (1, 2):
        (tmp_path / str(cores)).mkdir()
        monkeypatch.setenv("OMP_NUM_THREADS", str(cores))
        with pytest.raises(NonFiniteLoss) as failure:
            config.train(tmp_path / str(cores))
        failures.append(str(failure.value).replace("seed 6", "seed 5").partition(" (")[0])
    assert failures[0] == failures[1]
    assert "of seed 5" in failures[0]
    assert "_RemoteTraceback" in repr(failure.value.__cause__)  # it came from another process
    assert children(os.getpid(), "loky.backend.popen") == []


def test_a_class_of_the_users_own_trains_here(two_at_a_time, tmp_path, monkeypatch):
    monkeypatch.setattr(Own, "__module__", "__main__")
    assert ENERGY.model_copy(update={"negatives": Own(), "seeds": (0, 1)}).train(tmp_path).processes == 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The long training, undisturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return long_training().train(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_one_that_started_them_and_the_training_resumes(how, whole, tmp_path, monkeypatch):
    text = (
        "import sys, pathlib, stored_training; from anm_nb.training import run; run.ALONE_SECONDS = 0.0;"
        "stored_training.long_training().train(pathlib.Path(sys.argv[1]))"
    )
    path = os.pathsep.join([os.path.dirname(os.path.dirname(__file__)), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, "-c", text, tmp_path],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "2"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    newest = [checkpoint_of(tmp_path, seed) for seed in (0, 1)]
    wait_until(lambda: all(path.exists() for path in newest) or parent.poll() is not None)
    assert parent.poll() is None, parent.communicate()[1]
    trainers = children(parent.pid, "loky.backend.popen")
    assert len(trainers) == 2
    # A notebook's kernel is interrupted with every process of its group.
    os.kill(parent.pid, how) if how == signal.SIGKILL else os.killpg(parent.pid, how)
    said = parent.communicate(timeout=120)[1]
    if how == signal.SIGINT:
        assert said.count("Traceback") == 1
        assert "Interrupted: run again to go on" in said
        assert all(map(ended, trainers))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    resumed = long_training().train(tmp_path)
    assert all(map(ended, trainers))
    assert_same(resumed, whole)


def children(pid, command):
    """Children of a process whose command line holds `command`; not by ps, which cuts lines at COLUMNS."""
    return [each.pid for each in psutil.Process(pid).children() if command in " ".join(each.cmdline())]


def ended(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_until(happened, seconds=300.0):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)
