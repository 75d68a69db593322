"""Killing a process at any moment costs only time: the run comes out bit for bit the same."""

import multiprocessing
import os
import random
import signal
import time

import pandas as pd
import pytest
import stored_training
from stored_training import CONFIGS

from anm_nb.store import Run, run_key, scan

PROCESSES = multiprocessing.get_context("forkserver")
# Imported once; every process is forked from that server.
PROCESSES.set_forkserver_preload(["torch", "pandas", "anm_nb.energy.train", "anm_nb.ranking.train"])
KILLS = 3
NAME = "mined negatives, EMA"


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


def start(outputs, asked=None):
    process = PROCESSES.Process(target=stored_training.train_and_tell, args=(NAME, str(outputs), asked and str(asked)))
    process.start()
    return process


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    """The run of an uninterrupted training, in a separate store."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder)
    process.join(300)
    assert process.exitcode == 0
    return Run(folder / "runs" / run_key(CONFIGS[NAME]))


def assert_same_run(one: Run, other: Run) -> None:
    assert one.key == other.key
    pd.testing.assert_frame_equal(one.metrics, other.metrics, check_exact=True)
    for stored, expected in ((one.trace, other.trace), (one.weights, other.weights)):
        assert stored.keys() == expected.keys()
        assert all(stored[name].numpy().tobytes() == tensor.numpy().tobytes() for name, tensor in expected.items())


def wait_for(happened, process, seconds=300.0):
    end = time.monotonic() + seconds
    while not happened():
        assert process.is_alive(), "it ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_training_killed_at_random_moments_ends_bit_for_bit_the_same(whole, outputs):
    length, moments = whole.provenance["wall_seconds"], random.Random(NAME)
    partial = outputs / "runs" / ".partial" / whole.key
    killed = 0
    while killed < KILLS:
        process = start(outputs)
        wait_for(lambda: partial.exists() or scan()[0], process)
        process.join(moments.uniform(0, length / 2))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        assert [Run(run.path).faults() for run in scan()[0]] in ([], [[]])  # all of it or nothing
        if process.exitcode == 0:
            break
    assert killed
    last = start(outputs)
    last.join(300)
    (run,) = scan()[0]
    assert_same_run(run, whole)


def test_the_second_of_two_takes_over_from_one_that_was_killed(whole, outputs, tmp_path):
    key, asked = whole.key, tmp_path / "asked"
    partial = outputs / "runs" / ".partial" / key
    first = start(outputs)
    wait_for((partial / "seed-0.pt").exists, first)
    os.kill(first.pid, signal.SIGSTOP)  # stopped, so that the second process finds it at work
    second = start(outputs, asked)
    wait_for(asked.exists, second)
    second.join(0.5)
    assert second.is_alive()
    assert scan()[0] == []
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    second.join(300)
    assert second.exitcode == 0
    assert f"run {key} is being trained by another process; waiting for it" in asked.read_text()
    (run,) = scan()[0]
    assert run.provenance["resumed"] is True
    assert_same_run(run, whole)
