"""Who trains is told where the training is: loggers at every record, a bar, and an interrupt that saves first."""

import json
import os
import re
import signal

import pytest
from stored_training import CONFIGS
from toy import ToyConfig, assert_same, toy_trained, toy_training

from anm_nb import training
from anm_nb.training import Interrupted, Member, on_record, progress, run

ROWS = CONFIGS["mined negatives, EMA"].model_copy(update={"test_examples": 4})


@pytest.fixture
def logged(monkeypatch):
    """What a logger was told."""
    monkeypatch.setattr(training, "LOGGERS", {})
    heard = []

    @on_record
    def log(config, seed, step, row):
        heard.append((config, seed, step, dict(row)))

    return heard


def test_a_logger_hears_every_row_of_every_seed_also_from_other_processes(logged, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "ALONE_SECONDS", 0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    trained = ROWS.train(tmp_path)
    assert trained.processes == 2
    joined = {}
    for config, seed, step, row in logged:
        assert config is ROWS
        assert row
        joined[seed, step] = joined.get((seed, step), {}) | row
    rows = [json.loads(row.dropna().to_json(double_precision=15)) for _, row in trained.metrics.iterrows()]
    heard = [
        {name: value for name, value in joined[row["seed"], row["step"]].items() if value == value} for row in rows
    ]
    assert [set(each) for each in heard] == [set(each) for each in rows]
    assert [each["loss_mse"] for each in heard] == pytest.approx([each["loss_mse"] for each in rows], rel=1e-12)
    assert len(joined) == len(rows)


def test_the_bar_shows_step_loss_and_time_left_of_all_seeds(monkeypatch, capsys):
    monkeypatch.setattr(training, "watched", lambda: True)
    members = [Member(ROWS, seed) for seed in ROWS.seeds]
    with progress(members) as tell:
        tell(members[0], 6, 0.25, {})
        tell(members[1], 3, 0.5, {})
    shown = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert "anm, seeds: 2, step 9 of 24, loss 0.5: 38%" in shown
    assert re.search(r"\d\d:\d\d gone, \S+ left", shown)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_an_interrupt_saves_the_step_and_the_rest_comes_out_the_same(seeds, tmp_path):
    config = ToyConfig(checkpoint_every=1000)
    interrupted = toy_training(config, tmp_path / "run", seeds)
    inputs = interrupted.learner.inputs

    def at_seven(step):
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return inputs(step)

    interrupted.learner.inputs = at_seven
    with pytest.raises(Interrupted, match="run again to go on from step 8 of 12") as left:
        interrupted.run()
    assert left.value._render_traceback_() == [f"Interrupted: {left.value}"]  # all that a notebook shows
    resumed = toy_training(config, tmp_path / "run", seeds)
    resumed.run()
    assert len(resumed.learner.seen) == 5
    assert_same(toy_trained(config, tmp_path / "run", seeds), toy_trained(config, tmp_path / "whole", seeds))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
