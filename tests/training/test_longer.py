"""Continuing a finished run gives the same bits as one long run, if no step depends on the total length."""

import pytest
from families import Own
from stored_training import CONFIGS, energy
from toy import assert_same

from anm_nb import store
from anm_nb.training import OutOfTime, time_limit
from anm_nb.training.loop import Training
from anm_nb.training.run import Trained

EVEN = {"steps": 6, "record_every": 4, "lr_final": 1.0}
RANKING = CONFIGS["ranking"]


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "one"))


def longer(config, factor=2):
    return config.model_copy(update={config.length: factor * getattr(config, config.length)})


def trained(run):
    return Trained(run.metrics, run.trace, run.weights)


@pytest.mark.parametrize(
    "config",
    [
        energy("anm", **EVEN, keep_weights=True, test_examples=4),
        RANKING.changed(patience=1, encoder_lr=1e-6),  # stops early
        RANKING.changed(lr_warmup=6, epochs=3),  # the warm-up is longer than the shorter run
    ],
    ids=["energy", "patience", "warm-up"],
)
def test_a_continued_training_gives_the_same_bits_as_one_from_the_start(config, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # two free cores, so the first seed is resumed twice
    short = store.get_or_train(config)
    steps, take = [], Training.losses

    def counted(self, inputs, kind):
        steps.append(self.step)
        return take(self, inputs, kind)

    monkeypatch.setattr(Training, "losses", counted)
    run = store.get_or_train(longer(config))
    assert run.provenance["goes_on_from"] == short.key
    assert 0 not in steps
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "other"))
    whole = store.get_or_train(longer(config))
    assert whole.provenance["goes_on_from"] == ""
    assert_same(trained(run), trained(whole))
    assert run.manifest["files"].keys() == whole.manifest["files"].keys()


def test_a_continued_training_that_is_interrupted_keeps_its_origin():
    config = energy("stock", **EVEN)
    short = store.get_or_train(config)
    with time_limit(-1), pytest.raises(OutOfTime):
        store.get_or_train(longer(config))
    run = store.get_or_train(longer(config))
    assert run.provenance["resumed"]
    assert run.provenance["goes_on_from"] == short.key


@pytest.mark.parametrize(
    "config",
    [
        energy("stock", record_every=4),  # the learning rate falls until the last step
        energy("stock", lr_final=1.0),  # record steps depend on the number of steps
        energy(Own(), **EVEN),  # a user's strategy may depend on the share of steps done
        RANKING.changed(mask_rate_start=0.2),
    ],
    ids=["learning rate", "records", "strategy", "curriculum"],
)
def test_configs_that_depend_on_the_total_length_cannot_be_extended(config):
    assert not config.can_be_extended()
