"""The loop keeps the best measured weights, stops each seed separately, records it, and evaluates the kept weights."""

import math

import pytest
import torch
from toy import Killed, ToyConfig, assert_same, toy_trained, toy_training

NAN = math.nan
CONFIG = ToyConfig(record_every=1, decay=0.6)


def selected(scores, folder, **options):
    """A training with prescribed dev scores, and its records."""
    config = CONFIG.model_copy(update={"steps": len(next(iter(scores.values()))) - 1, **options})
    training = toy_training(config, folder, tuple(scores), scores=scores)
    return training, training.run()


def ends(records, *names):
    """These columns of every seed's last row."""
    return [tuple(record.rows[-1][name] for name in names) for record in records]


def test_the_best_measurement_is_kept_the_earliest_among_equals_and_never_nan(tmp_path):
    scores = {0: [0.1, 0.5, 0.3, 0.5, 0.2], 1: [NAN, -3.0, NAN, -4.0, NAN], 2: [NAN] * 5}
    training, records = selected(scores, tmp_path, keep_weights=True)
    assert ends(records, "selected_step", "stopped_early") == [(1, 0), (1, 0), (0, 0)]
    for place, record in enumerate(records):
        kept = record.weights[f"step{(1, 1, 0)[place]}.averaged.0.weight"]
        assert torch.equal(record.weights["selected.0.weight"], kept)
        assert torch.equal(training.learner.evaluated[record.seed]["0.weight"], kept)
        assert record.rows[-1]["end"] == float(kept.norm())
        assert not torch.equal(kept, record.weights["averaged.0.weight"])
        assert sum("end" in row for row in record.rows) == 1


def test_an_early_stop_is_recorded_and_its_arrays_end_in_nan(tmp_path):
    scores = {0: [0.1, 0.5, 0.4, 0.4, 0.9, 0.9], 1: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}
    config = CONFIG.model_copy(update={"steps": 5, "patience": 2})
    trained = toy_trained(config, tmp_path, (0, 1), scores=scores)
    last = trained.metrics.groupby("seed").last()
    assert last["step"].tolist() == [3, 5]
    assert last["stopped_early"].tolist() == [1, 0]
    slopes = trained.trace["slope"]
    assert slopes.shape == (2, 6, 4, 3)
    assert torch.isnan(slopes).flatten(2).all(2).tolist() == [[False] * 4 + [True] * 2, [False] * 6]
    assert trained.trace["end"].shape == (2, 1, 4, 3)


def test_a_seed_stops_when_it_reaches_the_score(tmp_path):
    scores = {0: [0.1, 0.5, 0.98, 0.99, 1.0], 1: [0.1, 0.99, 1.0, 1.0, 1.0], 2: [0.1, 0.2, 0.3, 0.4, 0.5]}
    _, records = selected(scores, tmp_path, stop_at_score=0.99)
    assert ends(records, "step", "selected_step", "stopped_early") == [(3, 3, 1), (1, 1, 1), (4, 4, 0)]
    assert [len(record.seconds) for record in records] == [4, 2, 5]


# Seed 0 is best at step 1, seed 1 always improves, seed 2 until step 4, seed 3 reaches the score at step 5.
MANY = {
    0: [0.0, 0.5] + [0.1] * 7,
    1: [step / 100 for step in range(9)],
    2: [0.0, 0.1, 0.2, 0.3, 0.4] + [0.0] * 4,
    3: [0.0, 0.1, 0.2, 0.3, 0.4, 0.9, 0.9, 0.9, 0.9],
}
PATIENT = CONFIG.model_copy(update={"steps": 8, "patience": 2, "stop_at_score": 0.9, "checkpoint_every": 2})


@pytest.mark.filterwarnings("ignore:seed . stopped")
@pytest.mark.parametrize("killed_at", [4, 6])
def test_a_resumed_stack_selects_and_stops_like_an_uninterrupted_one(killed_at, tmp_path):
    whole = toy_trained(PATIENT, tmp_path / "whole", tuple(MANY), scores=MANY)
    with pytest.raises(Killed):
        toy_trained(PATIENT, tmp_path / "resumed", tuple(MANY), scores=MANY, die_at=killed_at)
    for _ in range(2):  # the second time everything is already trained
        assert_same(toy_trained(PATIENT, tmp_path / "resumed", tuple(MANY), scores=MANY), whole)
