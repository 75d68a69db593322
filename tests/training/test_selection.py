"""The loop keeps the best measured weights, says when it stops early, and evaluates once with what it kept."""

import math

import pytest
import torch
from torch import nn

from anm_nb.training.learner import Measurement, ParameterGroup, StepLosses
from anm_nb.training.loop import LoopConfig, train
from anm_nb.training.seeds import generator, initialise


class Counter:
    """Learns nothing but to count: its one weight is the number of updates made; dev scores are dictated."""

    def __init__(self, seed, scores, evaluations=None):
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        optimiser = torch.optim.SGD(self.model.parameters(), lr=1.0)
        self.groups = [ParameterGroup("all", list(self.model.parameters()), optimiser, clip_norm=10.0)]
        self.generators = {}
        self.scores = scores[seed]
        self.evaluations = [] if evaluations is None else evaluations

    def losses(self, step, averaged):
        return StepLosses(-self.model.weight.sum())

    def measure(self, step, averaged, losses):
        return Measurement({"dev": self.scores[step]}, {"weight": averaged.weight}, self.scores[step])

    def evaluate(self, selected):
        self.evaluations.append(float(selected.weight.detach()))
        return Measurement({"test": float(selected.weight.detach())}, {"test_array": selected.weight})


def counting(tmp_path, scores, **options):
    steps = len(next(iter(scores.values()))) - 1
    config = LoopConfig(steps=steps, lr_final=1.0, ema_decay=0.0, record_every=1, **options)
    evaluations = []
    trained = train(lambda seed, device: Counter(seed, scores, evaluations), config, list(scores), tmp_path)
    return trained, evaluations


def test_the_best_measurement_is_kept_and_the_earliest_of_equals(tmp_path):
    trained, evaluations = counting(tmp_path, {0: [0.1, 0.5, 0.3, 0.5, 0.2]})
    assert trained.weights["seed0.selected.weight"].item() == 1
    assert trained.weights["seed0.averaged.weight"].item() == 4
    assert evaluations == [1]
    last = trained.metrics.iloc[-1]
    assert (last["selected_step"], last["stopped_early"], last["test"]) == (1, 0, 1)
    assert trained.metrics["test"].notna().sum() == 1
    assert trained.trace["test_array"].shape == (1, 1, 1, 1)


def test_a_score_that_is_not_a_number_is_never_the_best(tmp_path):
    trained, _ = counting(tmp_path, {0: [math.nan, -3.0, math.nan, -4.0]})
    assert trained.metrics.iloc[-1]["selected_step"] == 1


def test_without_a_selection_score_the_last_weights_are_evaluated(tmp_path):
    class Unselected(Counter):
        def measure(self, step, averaged, losses):
            return Measurement({})

    config = LoopConfig(steps=3, lr_final=1.0, ema_decay=0.0, patience=1)
    trained = train(lambda seed, device: Unselected(seed, {0: []}), config, [0], tmp_path)
    assert trained.metrics.iloc[-1]["test"] == 3
    assert "selected_step" not in trained.metrics
    assert not [name for name in trained.weights if "selected" in name]


def test_an_early_stop_is_said_and_its_arrays_end_in_nan(tmp_path):
    scores = {0: [0.1, 0.5, 0.4, 0.4, 0.9, 0.9], 1: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}
    with pytest.warns(UserWarning, match=r"seed 0 stopped at step 3 of 5: .* than at step 1 in 2 measurements"):
        trained, evaluations = counting(tmp_path, scores, patience=2)
    ends = trained.metrics.groupby("seed").last()
    assert ends["step"].tolist() == [3, 5]
    assert ends["stopped_early"].tolist() == [1, 0]
    assert evaluations == [1, 5]
    weights = trained.trace["weight"].flatten(1)
    assert weights.shape == (2, 6)
    assert torch.isnan(weights[0]).tolist() == [False] * 4 + [True] * 2
    assert weights[1].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.filterwarnings("error")
def test_a_seed_stops_where_its_score_is_reached_and_says_that_it_was(tmp_path):
    scores = {0: [0.1, 0.5, 0.98, 0.99, 1.0], 1: [0.1, 0.99, 1.0, 1.0, 1.0], 2: [0.1, 0.2, 0.3, 0.4, 0.5]}
    trained, evaluations = counting(tmp_path, scores, stop_at_score=0.99)
    ends = trained.metrics.groupby("seed").last()
    assert ends["step"].tolist() == ends["selected_step"].tolist() == evaluations == [3, 1, 4]
    assert ends["stopped_early"].tolist() == [1, 1, 0]
    assert ends["score_reached"].tolist() == [1, 1, 0]
    assert {seed: len(seconds) for seed, seconds in trained.seconds.items()} == {0: 4, 1: 2, 2: 5}


def test_running_out_of_patience_is_not_reaching_the_score(tmp_path):
    scores = {0: [0.1, 0.5, 0.4, 0.4, 0.4, 0.9], 1: [0.1, 0.5, 0.4, 0.9, 0.9, 0.9]}
    with pytest.warns(UserWarning, match="seed 0 stopped at step 3 of 5") as said:
        trained, _ = counting(tmp_path, scores, patience=2, stop_at_score=0.9)
    assert len(said) == 1
    ends = trained.metrics.groupby("seed").last()
    assert ends["stopped_early"].tolist() == [1, 1]
    assert ends["score_reached"].tolist() == [0, 1]


def test_a_score_reached_at_the_last_step_stops_nothing(tmp_path):
    trained, _ = counting(tmp_path, {0: [0.1, 0.5, 0.9]}, stop_at_score=0.9)
    last = trained.metrics.iloc[-1]
    assert (last["stopped_early"], last["score_reached"]) == (0, 1)


def test_no_score_is_looked_for_unless_asked_for(tmp_path):
    trained, _ = counting(tmp_path, {0: [0.1, 1.0, 1.0]})
    assert trained.metrics.iloc[-1]["step"] == 2
    assert "score_reached" not in trained.metrics


def test_records_come_at_every_interval_and_at_the_end():
    assert LoopConfig(steps=10, record_every=4).record_steps() == [0, 4, 8, 10]
    assert LoopConfig(steps=8, record_every=4).record_steps() == [0, 4, 8]


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("killed_at", [3, 5, 7])
def test_a_resumed_training_selects_and_stops_as_an_uninterrupted_one(tmp_path, killed_at):
    scores = {0: [0.1, 0.2, 0.6, 0.3, 0.4, 0.5, 0.6, 0.7, 0.1]}
    config = LoopConfig(steps=8, lr_final=1.0, ema_decay=0.0, record_every=1, checkpoint_every=2, patience=6)

    class Killed(Counter):
        def losses(self, step, averaged):
            if step == killed_at:
                raise Interrupted
            return super().losses(step, averaged)

    (tmp_path / "whole").mkdir()
    (tmp_path / "resumed").mkdir()
    whole = train(lambda seed, device: Counter(seed, scores), config, [0], tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(lambda seed, device: Killed(seed, scores), config, [0], tmp_path / "resumed")
    for _ in range(2):  # the second time everything is there already
        resumed = train(lambda seed, device: Counter(seed, scores), config, [0], tmp_path / "resumed")
        assert resumed.metrics.equals(whole.metrics)
        assert all(torch.equal(resumed.weights[name], tensor) for name, tensor in whole.weights.items())
        assert all(torch.equal(resumed.trace[name], tensor) for name, tensor in whole.trace.items())
    assert whole.metrics.iloc[-1]["selected_step"] == 7


def test_initial_weights_are_a_function_of_the_generator_alone():
    def weights(global_seed):
        torch.manual_seed(global_seed)
        module = nn.Sequential(nn.Embedding(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
        initialise(module, generator(0, "weights"))
        return list(module.state_dict().values())

    assert all(torch.equal(a, b) for a, b in zip(weights(0), weights(1), strict=True))


def test_a_layer_whose_start_would_be_left_to_chance_is_refused():
    with pytest.raises(TypeError, match="GRUCell: no rule"):
        initialise(nn.Sequential(nn.GRUCell(2, 2)), generator(0, "weights"))
