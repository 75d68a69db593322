"""A progress bar shows where a training is, and an interrupt saves before it stops."""

import os
import re
import signal

import pytest
from stored_training import CONFIGS
from toy import ToyConfig, assert_same, toy_trained, toy_training

from anm_nb.training import Interrupted, Member, progress

ROWS = CONFIGS["mined negatives, EMA"]


def test_the_bar_shows_step_loss_and_time_left_of_all_seeds(monkeypatch, capsys):
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    members = [Member(ROWS, seed) for seed in ROWS.seeds]
    with progress(members) as tell:
        tell(members[0], 6, 0.25, {})
        tell(members[1], 3, 0.5, {})
    shown = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert re.search(r"anm, seeds: 2: 38%.* 9/24 \[\d\d:\d\d<\S+, .*step/s, loss=0.5\]", shown)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_an_interrupted_training_saves_and_resumes_to_the_same_bits(seeds, tmp_path):
    config = ToyConfig(checkpoint_every=1000)
    interrupted = toy_training(config, tmp_path / "run", seeds)
    inputs = interrupted.learner.inputs

    def at_seven(step):
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return inputs(step)

    interrupted.learner.inputs = at_seven
    with pytest.raises(Interrupted, match="run again to continue from step 8 of 12") as stopped:
        interrupted.run()
    assert stopped.value._render_traceback_() == [f"Interrupted: {stopped.value}"]  # a notebook shows only this
    resumed = toy_training(config, tmp_path / "run", seeds)
    resumed.run()
    assert len(resumed.learner.seen) == 5
    assert_same(toy_trained(config, tmp_path / "run", seeds), toy_trained(config, tmp_path / "whole", seeds))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
