"""Training seeds in parallel processes gives the same bits as one process, and leaves no process behind."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import psutil
import pytest
from families import Own
from stored_training import CONFIGS, long_training
from toy import assert_same

from anm_nb import training
from anm_nb.training import Interrupted, NonFiniteLoss, on_record, run
from anm_nb.training.checkpoint import checkpoint_of

SEEDS = (4, 0, 2)
ENERGY = CONFIGS["mined negatives, EMA"].model_copy(update={"seeds": SEEDS})
RANKING = CONFIGS["ranking"].changed(seeds=SEEDS, patience=1, encoder_lr=1e-6)  # learns nothing, so patience ends it


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Skip waiting for the disk, which is not tested here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def two_at_a_time(monkeypatch):
    monkeypatch.setattr(run, "ALONE_SECONDS", 0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")


def trained(config, folder, monkeypatch, cores):
    """The trained result and the warnings."""
    folder.mkdir()
    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        patch.setenv("OMP_NUM_THREADS", str(cores))
        warnings.simplefilter("always")
        result = config.train(folder)
    return result, [(str(each.message), each.category) for each in caught]


@pytest.mark.parametrize("config", [ENERGY, RANKING], ids=["energy", "ranking"])
def test_processes_give_the_same_bits_and_warnings_as_one_process(config, two_at_a_time, tmp_path, monkeypatch):
    alone, warned_alone = trained(config, tmp_path / "alone", monkeypatch, cores=1)
    apart, warned_apart = trained(config, tmp_path / "apart", monkeypatch, cores=2)
    assert (alone.processes, apart.processes) == (1, 2)
    assert_same(apart, alone)
    assert warned_apart == warned_alone == []
    for seconds in (alone.seconds, apart.seconds):
        assert list(seconds) == list(SEEDS)
        for seed, spent in seconds.items():
            assert len(spent) == (alone.metrics["seed"] == seed).sum()
            assert spent == sorted(spent)
            assert spent[0] < spent[-1]


def test_a_logger_gets_every_row_of_every_seed(two_at_a_time, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOGGERS", {})
    joined, config = {}, ENERGY.model_copy(update={"test_examples": 4, "seeds": (0, 1)})

    @on_record
    def log(config, seed, step, row):
        assert config is heard_of
        assert row
        joined[seed, step] = joined.get((seed, step), {}) | row

    heard_of = config
    trained = config.train(tmp_path)
    assert trained.processes == 2
    rows = {(row["seed"], row["step"]): row.dropna().to_dict() for _, row in trained.metrics.iterrows()}
    heard = {place: {name: value for name, value in row.items() if value == value} for place, row in joined.items()}
    assert heard == rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The long training without interruption."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return long_training().train(tmp_path_factory.mktemp("whole"))


def test_an_interrupt_ends_all_processes_and_the_training_resumes(whole, two_at_a_time, tmp_path, monkeypatch):
    """As when a notebook's kernel is interrupted together with every process of its group."""

    def interrupt():
        wait_until(lambda: both_began(tmp_path))
        trainers.extend(children(os.getpid(), "loky.backend.popen"))
        for each in (*trainers, os.getpid()):
            os.kill(each, signal.SIGINT)

    trainers = []
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted, match="run again to continue from the last checkpoints"):
        long_training().train(tmp_path)
    thread.join()
    assert len(trainers) == 2
    assert all(map(ended, trainers))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert_same(long_training().train(tmp_path), whole)


def test_a_seed_that_fails_in_another_process_is_named_as_in_this_one(two_at_a_time, tmp_path, monkeypatch):
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


def test_a_user_class_trains_in_this_process(two_at_a_time, tmp_path, monkeypatch):
    monkeypatch.setattr(Own, "__module__", "__main__")
    assert ENERGY.model_copy(update={"negatives": Own(), "seeds": (0, 1)}).train(tmp_path).processes == 1


def test_processes_end_with_a_parent_that_is_killed_and_the_training_resumes(whole, tmp_path):
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
    )
    wait_until(lambda: both_began(tmp_path) or parent.poll() is not None)
    assert parent.poll() is None, parent.communicate()[1]
    trainers = children(parent.pid, "loky.backend.popen")
    assert len(trainers) == 2
    parent.kill()
    parent.communicate(timeout=120)
    assert_same(long_training().train(tmp_path), whole)
    assert all(map(ended, trainers))


def children(pid, command):
    """Child processes whose command line contains `command`. Not read from ps, which cuts lines at COLUMNS."""
    return [each.pid for each in psutil.Process(pid).children() if command in " ".join(each.cmdline())]


def both_began(folder):
    return all(checkpoint_of(folder, seed).exists() for seed in (0, 1))


def ended(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_until(happened, seconds=300.0):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)
