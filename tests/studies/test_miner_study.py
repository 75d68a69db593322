"""The study of the miner compares what it says it does, reads back what was trained, and counts oscillation rightly."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anm_nb import store
from anm_nb.config import ParameterError
from anm_nb.energy.landscape import optimal_energy
from anm_nb.studies.miner_study import (
    MinerConvergence,
    MinerStudy,
    optimal_dev_margin,
    oscillation,
    training_rows,
)

TINY = {
    "size": 2, "width": 8, "seeds": [1, 0], "batch": 8, "network_steps": 4, "problems": 10, "evaluations": 4,
    "step_sizes": [0.1, 9.0], "rule_step_sizes": [0.1, 0.5], "inner_steps": [1, 2], "batches": [2, 4],
    "train_steps": 3, "record_every": 2, "dev_examples": 6, "trained_inner_steps": [1, 3], "ema_decays": [0.0, 0.9],
    "lr_divisors": [1.0, 2.0], "sampler_steps": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANM_NB_OUTPUTS", str(tmp_path_factory.mktemp("study")))
        yield MinerStudy(MinerConvergence(**TINY))


# oscillation


@given(st.lists(st.floats(0, 1e3), min_size=2, max_size=9))
def test_monotone_curves_do_not_oscillate(steps):
    curve = np.cumsum(steps)
    for values in (curve, -curve):
        if np.ptp(curve):
            assert oscillation(values) == pytest.approx(0, abs=1e-9)
        else:
            assert math.isnan(oscillation(values))


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=9), st.floats(0.1, 10), st.floats(-10, 10))
def test_oscillation_has_no_unit_no_direction_and_no_origin(values, factor, shift):
    plain = oscillation(values)
    for other in (factor * np.array(values) + shift, values[::-1]):
        assert oscillation(other) == pytest.approx(plain, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 1, 0, 1], 2), ([0, 2, 1], 0.5), ([0, math.nan, 2, 1], 0.5), ([3, 3], math.nan), ([], math.nan)],
)
def test_oscillation_is_the_total_variation_in_excess_of_the_range(values, expected):
    assert oscillation(values) == pytest.approx(expected, nan_ok=True)


# settings


def test_trainings_differ_in_one_thing_each_and_meet_in_what_they_share():
    settings = MinerConvergence()
    configs = settings.trainings()
    usual = configs["inner_steps", 3.0]
    assert {store.run_key(config) for config in configs.values()} == {
        store.run_key(config) for key, config in configs.items() if key not in [("ema_decay", 0.9), ("lr_divisor", 1.0)]
    }
    assert store.run_key(configs["ema_decay", 0.9]) == store.run_key(usual) == store.run_key(configs["lr_divisor", 1.0])
    for (factor, value), config in configs.items():
        ours, theirs = config.model_dump(mode="json"), usual.model_dump(mode="json")
        if factor == "inner_steps":
            assert ours["negatives"]["miner"].pop("steps") == value
            theirs["negatives"]["miner"].pop("steps")
        elif factor == "ema_decay":
            assert ours.pop("ema_decay") == value
            theirs.pop("ema_decay")
        elif factor == "lr_divisor":
            assert ours.pop("lr") == pytest.approx(settings.lr / value)
            theirs.pop("lr")
        else:
            assert config.method == factor
            ours.pop("negatives"), theirs.pop("negatives")
        assert ours == theirs


# A value other than the default for every setting that training depends on.
CHANGED = {
    "task": "addition", "size": 3, "width": 6, "head": "scalar", "seeds": [7], "batch": 5, "lr": 1e-4, "lr_final": 0.5,
    "ema_decay": 0.5, "dev_examples": 11, "sampler_steps": 3, "threads": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_every_setting_changes_what_is_trained(name):
    plain, changed = MinerConvergence(device="cpu"), MinerConvergence(device="cpu", **{name: CHANGED[name]})
    assert store.run_key(plain.network()) != store.run_key(changed.network())
    key = ("inner_steps", 1.0)
    assert store.run_key(plain.trainings()[key]) != store.run_key(changed.trainings()[key])


def test_the_two_kinds_of_training_have_lengths_of_their_own():
    settings = MinerConvergence(network_steps=7, train_steps=5, record_every=9, strategy="anm")
    assert settings.network().steps == 7
    assert settings.network().method == "none"
    short = settings.trainings()["ema_decay", 0.0]
    assert (short.steps, short.record_steps(), short.method) == (5, [0, 5], "anm")


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"task": "sudoku"}, "task = 'sudoku': this study is of mean squared errors of matrices"),
        ({"step_sizes": [0.1]}, "step_sizes = [0.1]: needs at least 2 item(s)"),
        ({"ema_decays": [1.0]}, "ema_decays.0 = 1.0: should be less than 1"),
        ({"trained_inner_steps": [0]}, "trained_inner_steps.0 = 0: should be greater than 0"),
        ({"strategy": "anm_ortogonal"}, "did you mean 'anm_orthogonal'"),
        ({"stesp": 3}, "unknown parameter 'stesp'"),
    ],
)
def test_unusable_settings_are_refused_when_they_are_made(given_, message):
    with pytest.raises(ParameterError) as refusal:
        MinerConvergence(**given_)
    assert message in str(refusal.value)


# what was trained


def test_networks_are_the_averaged_ones_of_their_seeds(study):
    """The margins that training recorded at its end are those of the network read back."""
    run = store.get_or_train(study.config)
    assert list(study.networks) == [1, 0]
    for seed, network in study.networks.items():
        learner = study.config.learner(seed)
        noise, x, y = learner.dev_problem.noise, learner.dev.x, learner.dev.y
        margin = network(x, noise.noised(learner.dev_negatives), noise.k) - network(x, noise.noised(y), noise.k)
        recorded = run.metrics[run.metrics["seed"] == seed].iloc[-1]["dev_margin_mean"]
        assert float(margin.mean()) == pytest.approx(recorded, rel=1e-4, abs=1e-6)
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_the_optimal_margin_is_that_of_the_optimal_energy_on_the_held_out_pairs(study):
    learner = study.config.learner(1)
    noise, energy = learner.dev_problem.noise, optimal_energy(learner.schedule, learner.dev.y)
    points = (noise.noised(y).as_subclass(torch.Tensor) for y in (learner.dev_negatives, learner.dev.y))
    negative, positive = (energy(learner.dev.x, point, noise.k) for point in points)
    assert optimal_dev_margin(study.config, 1) == pytest.approx(float((negative - positive).mean()), rel=1e-3)


def test_rows_of_a_training_are_its_last_records(study):
    config = study.settings.trainings()["inner_steps", 3.0]
    run = store.get_or_train(config)
    rows = training_rows(run).set_index("seed")
    for seed, records in run.metrics.groupby("seed"):
        assert records["step"].tolist() == [0, 2, 3]
        assert rows.loc[seed, "mse"] == records["mse"].iloc[-1]
        assert rows.loc[seed, "dev_margin"] == records["dev_margin_mean"].iloc[-1]
        assert rows.loc[seed, "oscillation"] == oscillation(records["margin_mean"])
        assert rows.loc[seed, "dev_oscillation"] == oscillation(records["dev_margin_mean"])


def test_tables_hold_every_seed_method_and_value(study):
    shared = {"energy", "method", "seed"}
    paths, log, rules = study.paths(), study.log(), study.rules()
    assert len(paths) == 2 * 2 * 2 * 4
    assert len(log) == 2 * 2 * 2 * 10
    assert len(rules) == 2 * 2 * 2 * 3 * 4  # seeds, methods, first steps, rules, evaluations
    assert set(rules["step_size"]) == {0.1, 0.5}
    lengths, steps = study.by_step_size(), study.by_inner_steps()
    assert len(lengths) == len(steps) == 2 * 2 * 2
    assert set(lengths["step_size"]) == {0.1, 9.0}
    assert set(steps["steps"]) == {1, 2}
    assert (steps.set_index("steps").loc[1, "miner_accepted"] <= 1).all()
    for table in (paths, log, rules, lengths, steps):
        assert shared <= set(table)
        assert set(table["seed"]) == {0, 1}
    armijo = study.armijo()
    assert len(armijo) == 2 * 2 * 2
    assert not armijo["violations"].any()
    assert list(study.seconds().columns) == [2, 4]


def test_short_trainings_come_with_what_varies_and_with_the_baselines(study):
    trained = study.trained()
    assert len(trained) == 2 * (2 + 2 + 2 + 2)
    assert set(trained.loc[trained["value"].isna(), "method"]) == {"none", "stock"}
    assert set(trained.loc[trained["value"].notna(), "method"]) == {"anm_orthogonal"}
    assert trained.loc[trained["method"] != "none", "dev_margin"].notna().all()
    one = trained[trained["seed"] == 1]["dev_margin_optimal"].unique()
    assert one.tolist() == [optimal_dev_margin(study.config, 1)]
    (trivial,) = trained["mse_trivial"].unique()
    assert 0 < trivial < 1  # the mean inverse does better than zero
