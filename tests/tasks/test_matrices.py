"""Matrix tasks and their reference scores are those of their documents; soft-impute minimises what it says."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anm_nb.config import ParameterError
from anm_nb.tasks import TASKS, get_task, register_task, task_names
from anm_nb.tasks.base import MatrixTask, reference_scores
from anm_nb.tasks.matrices import SHRINKAGES, Inverse, shrunk, soft_impute
from anm_nb.training.seeds import RowDraws, generator

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
    monkeypatch.setattr(TASKS, "entries", {})

    @register_task
    class Own(Inverse):
        name = "own"

    assert task_names() == ["own"]
    assert isinstance(get_task("own", size=3), MatrixTask)


def test_stock_negatives_are_the_settled_points_clamped():
    task = get_task("inverse", size=2)
    settled = torch.tensor([[-3.0, 0.5, 2.5, -1.0]])
    found = task.corrupt(torch.zeros(1, 4), lambda: settled, RowDraws([generator(0, "negatives")], "cpu"))
    assert found.tolist() == [[-2.0, 0.5, 2.0, -1.0]]


def test_scores_are_a_function_of_the_seed():
    tasks = {"inverse": get_task("inverse", size=3)}
    first, again, other = (reference_scores(tasks, 20, seed) for seed in (1, 1, 2))
    assert first.equals(again)
    assert not np.allclose(first["value"], other["value"])


def test_intervals_narrow_with_the_number_of_problems_and_hold_the_mean():
    tasks = {"addition": get_task("addition", size=3)}
    widths = []
    for problems in (100, 10_000):
        zero = reference_scores(tasks, problems, 0).set_index(["name", "split"]).loc[("zero", "same")]
        assert zero["low"] < zero["value"] < zero["high"]
        widths.append(zero["high"] - zero["low"])
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.3)


def test_no_constant_beats_the_best_one():
    scores = reference_scores({"inverse": get_task("inverse", size=4)}, 300, 0)
    values = scores[scores["split"] == "harder"].set_index("name")["value"]
    assert values["best constant"] <= min(values["zero"], values["mean target"])


def cases(seed, shape, n=3, share=0.6):
    """n zero-filled matrices and their masks, in double precision."""
    source = np.random.default_rng(seed)
    known = source.random((n, *shape)) < share
    return torch.from_numpy(source.standard_normal((n, *shape)) * known), torch.from_numpy(known)


def largest(observed):
    return float(np.linalg.norm(observed.numpy(), 2, axis=(1, 2)).max()) or 1.0


def objective(estimate, observed, known, shrinkage):
    """½‖observed − Z‖² over the known entries + shrinkage·‖Z‖_*, for each matrix."""
    z, x, mask = (tensor.numpy() for tensor in (estimate, observed, known))
    return 0.5 * ((x - z) ** 2 * mask).sum((1, 2)) + shrinkage * np.linalg.norm(z, "nuc", axis=(1, 2))


def converged(observed, known, shrinkage):
    """Algorithm 1 for one matrix, by singular values, until nothing moves any more."""
    z = np.zeros_like(observed)
    for _ in range(100_000):
        u, s, vt = np.linalg.svd(np.where(known, observed, z), full_matrices=False)
        z, before = (u * np.maximum(s - shrinkage, 0)) @ vt, z
        if np.abs(z - before).max() < 1e-12:
            break
    return z


@settings(max_examples=40)
@given(seed=seeds, shape=shapes, fraction=fractions)
def test_soft_impute_is_algorithm_1_run_to_convergence(seed, shape, fraction):
    observed, known = cases(seed, shape)
    shrinkage = fraction * largest(observed)
    found = soft_impute(observed, known, shrinkage, tolerance=1e-24, max_iterations=20_000)
    for z, x, mask in zip(found.numpy(), observed.numpy(), known.numpy(), strict=True):
        np.testing.assert_allclose(z, converged(x, mask, shrinkage), atol=1e-6)


@settings(max_examples=40)
@given(seed=seeds, shape=shapes, fraction=fractions)
def test_soft_impute_meets_the_conditions_of_a_minimum(seed, shape, fraction):
    """The residual R over known entries is λ times a subgradient of ‖Z‖_*: ‖R‖₂ ≤ λ and ⟨R, Z⟩ = λ‖Z‖_*."""
    observed, known = cases(seed, shape)
    shrinkage = fraction * largest(observed)
    z = soft_impute(observed, known, shrinkage, tolerance=1e-24, max_iterations=20_000).numpy()
    residual = (observed.numpy() - z) * known.numpy()
    assert (np.linalg.norm(residual, 2, axis=(1, 2)) <= shrinkage * (1 + 1e-5)).all()
    nuclear = np.linalg.norm(z, "nuc", axis=(1, 2))
    np.testing.assert_allclose((residual * z).sum((1, 2)), shrinkage * nuclear, rtol=1e-5, atol=1e-9)


@given(seed=seeds, shape=shapes, fraction=fractions, begin=st.floats(0, 3))
def test_the_objective_never_rises(seed, shape, fraction, begin):
    observed, known = cases(seed, shape)
    shrinkage = fraction * largest(observed)
    estimate = torch.from_numpy(np.random.default_rng(seed).standard_normal(observed.shape)) * begin
    values = [objective(estimate, observed, known, shrinkage)]
    for _ in range(15):
        estimate = soft_impute(observed, known, shrinkage, start=estimate, max_iterations=1)
        values.append(objective(estimate, observed, known, shrinkage))
    assert (np.diff(values, axis=0) <= 1e-9).all()


@given(seed=seeds, shape=shapes, factor=st.floats(1.0001, 5))
def test_a_shrinkage_above_the_spectral_norm_leaves_nothing(seed, shape, factor):
    observed, known = cases(seed, shape)
    assert (soft_impute(observed, known, factor * largest(observed)) == 0).all()


@given(seed=seeds, shape=shapes, fraction=st.floats(0.01, 1.2))
def test_shrinking_lowers_the_singular_values(seed, shape, fraction):
    matrices, _ = cases(seed, shape, share=1.0)
    by = fraction * largest(matrices)
    u, s, vt = np.linalg.svd(matrices.numpy(), full_matrices=False)
    expected = u * np.maximum(s - by, 0)[:, None] @ vt
    np.testing.assert_allclose(shrunk(matrices, by).numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(shrunk(matrices.float(), by).numpy(), expected, atol=1e-3 * largest(matrices))


def test_rank_one_matrices_of_which_most_is_seen_are_recovered():
    source = np.random.default_rng(0)
    left, right = source.choice([-1, 1], (2, 20, 10)) * source.uniform(0.5, 1.5, (2, 20, 10))
    whole = torch.from_numpy(left[:, :, None] * right[:, None, :])
    known = torch.from_numpy(source.random((20, 10, 10)) < 0.8)
    found = soft_impute(torch.where(known, whole, 0.0), known, 1e-3, tolerance=1e-20, max_iterations=20_000)
    assert (~known).sum() > 300
    assert (found - whole).abs().max() < 0.01


def test_every_matrix_stops_on_its_own_wherever_it_began():
    observed, known = cases(0, (6, 6), n=8)
    together = soft_impute(observed, known, 0.5)
    alone = torch.cat([soft_impute(observed[i : i + 1], known[i : i + 1], 0.5) for i in range(8)])
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=0)
    start = soft_impute(observed, known, 0.7)
    kept = start.clone()
    exact = {"tolerance": 1e-22, "max_iterations": 20_000}
    warm, cold = soft_impute(observed, known, 0.5, start=start, **exact), soft_impute(observed, known, 0.5, **exact)
    torch.testing.assert_close(warm, cold, atol=1e-7, rtol=0)
    assert torch.equal(start, kept)


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


@pytest.mark.parametrize(
    ("size", "harder", "divisor"), [(20, False, 20), (20, True, 5), (7, False, 7), (7, True, 1.75)]
)
def test_signal_noise_and_mask_have_the_published_sizes(size, harder, divisor):
    batch = get_task("lowrank", size=size).sample(4000, generator=generator(0, "test"), harder=harder)
    noise = (batch.y - batch.clean).double()
    assert float(noise.std()) == pytest.approx(0.1, rel=0.01)
    assert abs(float(noise.mean())) < 0.001
    assert float(batch.clean.double().square().mean()) == pytest.approx((size // 2) / divisor**2, rel=0.05)
    assert float(batch.known.double().mean()) == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("harder", [False, True])
def test_solve_keeps_what_is_observed_and_predicts_the_rest(harder):
    task = get_task("lowrank", size=20)
    batch = task.sample(100, generator=generator(3, "test"), harder=harder)
    answer = task.solve(batch.x)
    assert torch.equal(answer[batch.known], batch.x[batch.known])
    assert task.metrics(answer, batch)["mse"] < 0.97 * task.metrics(batch.x, batch)["mse"]
    torch.testing.assert_close(answer.double(), task.solve(batch.x.double()), atol=0.02, rtol=0)


@pytest.mark.parametrize("size", [1, 5, 20])
def test_the_tuned_shrinkage_predicts_the_training_problems_best(size):
    task = get_task("lowrank", size=size)
    training = task.sample(300, generator=generator(4, "test"))
    errors = {each: task.metrics(task.solve(training.x, each), training)["mse"] for each in SHRINKAGES}
    assert errors[task.tuned_shrinkage(training)] <= min(errors.values()) * (1 + 1e-3)


def test_the_default_shrinkage_is_about_the_tuned_one():
    task = get_task("lowrank", size=20)
    tuned = [task.tuned_shrinkage(task.sample(300, generator=generator(seed, "train"))) for seed in range(3)]
    assert np.mean(tuned) == pytest.approx(0.8, abs=0.1)
