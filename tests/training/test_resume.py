"""A training that was killed or ran out of time resumes to the same bits, for one seed and for a stack."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_training import CONFIGS, energy
from toy import Killed, ToyConfig, assert_same, toy_trained, toy_training

from anm_nb.training import OutOfTime, loop, time_limit
from anm_nb.training.loop import Training
from anm_nb.training.run import train_together

CONFIG = ToyConfig(every=2, checkpoint_every=4, keep_weights=True)


@settings(max_examples=8)
@given(
    die_at=st.integers(0, 12), every=st.integers(1, 14), host=st.booleans(), seeds=st.sampled_from([(1,), (0, 1, 2)])
)
def test_resuming_is_exact_after_a_kill_at_any_step(die_at, every, host, seeds, tmp_path_factory):
    config = CONFIG.model_copy(update={"checkpoint_every": every})
    folder = tmp_path_factory.mktemp("resumed")
    whole = toy_trained(config, tmp_path_factory.mktemp("whole"), seeds, frozen=5)
    with pytest.raises(Killed):
        toy_trained(config, folder, seeds, frozen=5, die_at=die_at, host=host)
    resumed = toy_training(config, folder, seeds, frozen=5)
    resumed.run()
    assert len(resumed.learner.seen) == 13 - die_at // every * every  # no step before the checkpoint is repeated
    assert_same(toy_trained(config, folder, seeds, frozen=5), whole)


@pytest.mark.parametrize(("files", "ended"), [(0, True), (1, False), (2, True), (3, False)])
def test_a_kill_between_the_files_of_one_save_falls_back_to_the_previous_one(files, ended, tmp_path, monkeypatch):
    """This also holds if the first seed has ended, so that its file is newer than the others'."""
    scores = {0: [0.9 if ended and step == 6 else 0.0 for step in range(13)], 1: [0.0] * 13, 2: [0.0] * 13}
    config = CONFIG.model_copy(update={"stop_at_score": 0.9})
    whole = toy_trained(config, tmp_path / "whole", (0, 1, 2), scores=scores)
    saved, save = [], loop.save_checkpoint

    def dying(path, state):
        if state["step"] == 8 and len([each for each in saved if each == 8]) == files:
            raise Killed
        saved.append(state["step"])
        save(path, state)

    monkeypatch.setattr(loop, "save_checkpoint", dying)
    dies_later = {"die_at": 9} if files == 3 else {}
    with pytest.raises(Killed):
        toy_trained(config, tmp_path / "killed", (0, 1, 2), scores=scores, **dies_later)
    monkeypatch.undo()
    resumed = toy_training(config, tmp_path / "killed", (0, 1, 2), scores=scores)
    resumed.run()
    assert len(resumed.learner.seen) == (5 if files == 3 else 9)
    assert_same(toy_trained(config, tmp_path / "killed", (0, 1, 2), scores=scores), whole)


# ---- limited time ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seeds", [(1,), (0, 1, 2)])
def test_a_training_out_of_time_names_its_step_and_resumes_to_the_same_bits(seeds, tmp_path, monkeypatch):
    config = CONFIG.model_copy(update={"checkpoint_every": 1000})
    whole = toy_trained(config, tmp_path / "whole", seeds)
    seconds = iter(range(10**6))
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(seconds))  # one second per call, one call per step
    for step in (5, 10):
        with time_limit(5), pytest.raises(OutOfTime, match=f"run again to continue from step {step} of 12"):
            toy_trained(config, tmp_path / "run", seeds)
    with time_limit(5):
        assert_same(toy_trained(config, tmp_path / "run", seeds), whole)


# ---- the families ------------------------------------------------------------------------------------------------
CASES = {"energy": energy("anm", ema_every=2, soft_label=True, keep_weights=True), "ranking": CONFIGS["ranking"]}


@pytest.mark.parametrize("name", CASES)
def test_a_stack_of_either_family_resumes_to_the_same_bits(name, tmp_path, monkeypatch):
    """test_store_kill kills trainings of single seeds with a real signal."""
    config = CASES[name]

    def trained(folder):
        folder.mkdir(exist_ok=True)
        return train_together([config], [folder])[0]

    whole, update = trained(tmp_path / "whole"), Training.update

    def dying(self, losses, kind):
        if self.step == 7:
            raise Killed  # all generators have moved on
        update(self, losses, kind)

    monkeypatch.setattr(Training, "update", dying)
    with pytest.raises(Killed):
        trained(tmp_path / "killed")
    monkeypatch.setattr(Training, "update", update)
    assert_same(trained(tmp_path / "killed"), whole)
