"""Matrix tasks and their reference scores are those of their documents; soft-impute minimises what it says."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anm_nb.config import ParameterError
from anm_nb.tasks import TASKS, get_task, register_task, task_names
from anm_nb.tasks.base import MatrixTask
from anm_nb.tasks.matrices import Inverse, gibbs_mean, shrunk, soft_impute
from anm_nb.training.seeds import generator

shapes = st.tuples(st.integers(1, 6), st.integers(1, 6))
seeds = st.integers(0, 10**6)
fractions = st.floats(0.1, 0.95)  # of the spectral norm, at which the solution becomes 0


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


def test_names_and_options_are_checked():
    with pytest.raises(ParameterError, match=r"unknown task 'adition'.*did you mean 'addition'"):
        get_task("adition")
    with pytest.raises(ParameterError, match=r"unknown parameter 'sise'.*did you mean 'size'"):
        get_task("inverse", sise=3)
    with pytest.raises(ParameterError, match="size = 0: should be greater than 0"):
        get_task("inverse", size=0)


def test_a_task_of_your_own_is_found_by_name(monkeypatch):
    monkeypatch.setattr(TASKS, "entries", {})

    @register_task
    class Own(Inverse):
        name = "own"

    assert task_names() == ["own"]
    assert isinstance(get_task("own", size=3), MatrixTask)


def cases(seed, shape, n=3, share=0.6):
    """n zero-filled matrices and their masks, in double precision."""
    source = np.random.default_rng(seed)
    known = source.random((n, *shape)) < share
    return torch.from_numpy(source.standard_normal((n, *shape)) * known), torch.from_numpy(known)


@settings(max_examples=40)
@given(seed=seeds, shape=shapes, fraction=fractions)
def test_soft_impute_meets_the_conditions_of_a_minimum(seed, shape, fraction):
    """The residual R over known entries is λ times a subgradient of ‖Z‖_*: ‖R‖₂ ≤ λ and ⟨R, Z⟩ = λ‖Z‖_*."""
    observed, known = cases(seed, shape)
    shrinkage = fraction * float(torch.linalg.matrix_norm(observed, 2).max().clamp_min(1e-3))
    z = soft_impute(observed, known, shrinkage, tolerance=1e-24, max_iterations=20_000).numpy()
    residual = (observed.numpy() - z) * known.numpy()
    assert (np.linalg.norm(residual, 2, axis=(1, 2)) <= shrinkage * (1 + 1e-5)).all()
    nuclear = np.linalg.norm(z, "nuc", axis=(1, 2))
    np.testing.assert_allclose((residual * z).sum((1, 2)), shrinkage * nuclear, rtol=1e-5, atol=1e-9)


def test_the_gibbs_mean_is_that_of_the_posterior_on_a_grid():
    """2 × 2 of rank 1 with one hidden entry: the posterior over u, v ∈ ℝ² summed over a grid, in double precision."""
    x, known = torch.tensor([[[0.9, -0.6], [0.7, 0.0]]]).double(), torch.tensor([[[True, True], [True, False]]])
    axis = torch.linspace(-4, 4, 41, dtype=torch.float64)
    u, v = torch.cartesian_prod(*4 * [axis]).split(2, dim=1)
    product = u.unsqueeze(2) * v.unsqueeze(1) / 1.5
    misfit = (torch.where(known, product - x, 0.0).square() / 0.5**2).sum((1, 2))
    weight = (-(u.square().sum(1) + v.square().sum(1) + misfit) / 2).exp()
    exact = (weight[:, None, None] * product).sum(0) / weight.sum()
    many = gibbs_mean(x.expand(2000, 2, 2), known.expand(2000, 2, 2), 1, 1.5, 0.5, generator(0, "gibbs"), 120, 40)
    torch.testing.assert_close(many.mean(0), exact, atol=0.01, rtol=0)


def test_the_posterior_mean_is_the_reachable_ceiling():
    task = get_task("lowrank", size=6)
    row = task.bayes_reference(300, generator=generator(0, "test")).iloc[0]
    assert (row["kind"], row["metric"]) == ("ceiling", "mse")
    assert 0.005 < row["low"] < 0.0425 < row["high"]  # measured on more problems


@given(seed=seeds, shape=shapes, fraction=st.floats(0.01, 1.2))
def test_shrinking_lowers_the_singular_values(seed, shape, fraction):
    matrices, _ = cases(seed, shape, share=1.0)
    largest = float(torch.linalg.matrix_norm(matrices, 2).max())
    by = fraction * largest
    u, s, vt = np.linalg.svd(matrices.numpy(), full_matrices=False)
    expected = u * np.maximum(s - by, 0)[:, None] @ vt
    np.testing.assert_allclose(shrunk(matrices, by).numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(shrunk(matrices.float(), by).numpy(), expected, atol=1e-3 * largest)


@pytest.mark.parametrize("shrinkage", [0.0, -1.0, float("nan")])
def test_a_shrinkage_that_moves_nothing_is_refused(shrinkage):
    with pytest.raises(ParameterError, match=f"shrinkage = {shrinkage}: should be greater than 0"):
        soft_impute(*cases(0, (3, 3)), shrinkage)


@given(size=st.integers(1, 12), harder=st.booleans(), seed=seeds)
def test_inputs_are_the_observed_entries_of_a_noisy_low_rank_matrix(size, harder, seed):
    task = get_task("lowrank", size=size)
    batch = task.sample(6, generator=generator(seed, "test"), harder=harder)
    assert batch.x.shape == batch.y.shape == batch.clean.shape == (6, size**2)
    assert batch.known.dtype == torch.bool
    assert torch.equal(batch.x[batch.known], batch.y[batch.known])
    assert (batch.x[~batch.known] == 0).all()
    ranks = torch.linalg.matrix_rank(batch.clean.double().unflatten(1, (size, size)), rtol=1e-5)
    assert (ranks <= max(1, size // 2)).all()
    assert task.clues(batch) is None  # x carries them, and nothing puts them back
