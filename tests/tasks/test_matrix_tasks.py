"""Tasks give the problems their documents describe, and the reference scores measured for them."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anm_nb.config import ParameterError
from anm_nb.tasks import get_task, register_task, task_names
from anm_nb.tasks.base import MatrixTask
from anm_nb.training.seeds import generator


@given(size=st.integers(1, 12), harder=st.booleans(), seed=st.integers(0, 10**6))
def test_inverse_targets_invert_their_inputs(size, harder, seed):
    batch = get_task("inverse", size=size).sample(4, generator=generator(seed, "test"), harder=harder)
    x, y = (t.double().unflatten(1, (size, size)) for t in (batch.x, batch.y))
    identity = torch.eye(size, dtype=torch.float64).expand(4, size, size)
    torch.testing.assert_close(x @ y, identity, atol=1e-3, rtol=0)
    assert torch.linalg.eigvalsh(x).min() > (0.1 if harder else 0.5) - 1e-4
    assert torch.equal(x, x.mT)


@given(size=st.integers(1, 12), harder=st.booleans(), seed=st.integers(0, 10**6))
def test_addition_targets_are_sums_of_uniform_matrices(size, harder, seed):
    batch = get_task("addition", size=size).sample(8, generator=generator(seed, "test"), harder=harder)
    first, second = batch.x[:, : size**2], batch.x[:, size**2 :]
    assert torch.equal(batch.y, first + second)
    assert batch.x.abs().max() <= (2.5 if harder else 1.0)


@cache
def references(task, harder):
    return get_task(task, size=20).reference_scores(2000, generator=generator(0, "test"), harder=harder)


@pytest.mark.parametrize(
    ("task", "harder", "name", "value", "tolerance"),
    [
        ("addition", False, "zero", 2 / 3, 0.003),  # variance of a sum of two U(−1, 1)
        ("addition", True, "zero", 2 * 2.5**2 / 3, 0.02),
        ("inverse", False, "zero", 0.0207, 0.0007),
        ("inverse", True, "zero", 0.254, 0.02),
        ("inverse", False, "mean target", 0.0142, 0.0007),
        ("inverse", False, "exact solution", 0.0, 1e-9),
        ("lowrank", False, "zero", 10 / 20**2 + 0.1**2, 0.0005),  # variance of an entry
        ("lowrank", True, "zero", 10 / 5**2 + 0.1**2, 0.008),
        ("lowrank", False, "mean target", 0.0350, 0.0005),
        ("lowrank", False, "copy the observed", 0.0175, 0.0003),
        ("lowrank", True, "copy the observed", 0.205, 0.005),
        ("lowrank", False, "soft-impute", 0.0162, 0.0003),
        ("lowrank", True, "soft-impute", 0.158, 0.004),
        ("lowrank", False, "noise floor", 0.005, 0.0001),
        ("lowrank", True, "noise floor", 0.005, 0.0001),
    ],
)
def test_reference_scores_at_20_by_20(task, harder, name, value, tolerance):
    scores = references(task, harder)
    assert set(scores["kind"]) == {"trivial", "classical", "ceiling"}
    row = scores.set_index("name").loc[name]
    assert row["value"] == pytest.approx(value, abs=tolerance)
    assert row["low"] <= row["value"] <= row["high"]


@pytest.mark.parametrize("harder", [False, True])
def test_a_classical_method_completes_matrices_better_than_copying_does(harder):
    scores = references("lowrank", harder).set_index("name")
    assert scores.loc["soft-impute", "high"] < scores.loc["copy the observed", "low"]
    assert scores.index.tolist() == ["zero", "mean target", "copy the observed", "soft-impute", "noise floor"]


def test_metric_is_the_mean_squared_error():
    task = get_task("addition", size=2)
    batch = task.sample(5, generator=generator(0, "test"))
    y_hat = torch.randn(5, 4, generator=generator(1, "test"))
    expected = np.mean((y_hat.numpy().astype(float) - batch.y.numpy().astype(float)) ** 2)
    assert task.metrics(y_hat, batch)["mse"] == pytest.approx(expected, rel=1e-6)


def test_batches_are_a_function_of_the_generator():
    task = get_task("inverse", size=3)
    first = task.sample(6, generator=generator(5, "data"))
    again = task.sample(6, generator=generator(5, "data"))
    other = task.sample(6, generator=generator(5, "dev"))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)


def test_names_and_options_are_checked():
    with pytest.raises(ParameterError, match=r"unknown task 'adition'.*did you mean 'addition'"):
        get_task("adition")
    with pytest.raises(ParameterError, match=r"unknown parameter 'sise'.*did you mean 'size'"):
        get_task("inverse", sise=3)
    with pytest.raises(ParameterError, match="size = 0: should be greater than 0"):
        get_task("inverse", size=0)


def test_a_task_of_your_own_is_found_by_name(monkeypatch):
    monkeypatch.setattr("anm_nb.tasks.TASKS.entries", {})

    @register_task
    class Transpose(type(get_task_class())):
        name = "transpose"

    assert task_names() == ["transpose"]
    assert isinstance(get_task("transpose", size=3), MatrixTask)


def get_task_class():
    from anm_nb.tasks.addition import Addition

    return Addition(size=2)
