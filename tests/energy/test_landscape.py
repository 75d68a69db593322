"""Section E against closed forms: quadratics, a double well, the energy of a perfect denoiser."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anm_nb.config import ParameterError
from anm_nb.energy.landscape import SCAN_GRID, barrier, curvature, directional_derivative, line_scan, optimal_energy
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.training.seeds import generator

BATCH, DIM, LEVELS = 6, 4, 10
SCHEDULE = NoiseSchedule.cosine(LEVELS)


def points(seed=0):
    return torch.randn(2, BATCH, DIM, generator=generator(seed, "points"), dtype=torch.float64).unbind(0)


def pairs(seed=0):
    """Clean x, y⁺, y⁻ and ε in float64."""
    source = generator(seed, "pairs")
    x, y_pos, shift, eps = torch.randn(4, BATCH, DIM, generator=source, dtype=torch.float64)
    return x, y_pos, y_pos + shift, eps


def quadratic(seed):
    """½zᵀAz + bᵀz + c with any symmetric A, as a function and as its NumPy coefficients."""
    source = np.random.default_rng(seed)
    half, b, c = source.normal(size=(DIM, DIM)), source.normal(size=DIM), source.normal()
    a = half + half.T
    a_, b_ = torch.from_numpy(a), torch.from_numpy(b)
    return lambda z: 0.5 * ((z @ a_) * z).sum(1) + z @ b_ + c, a, b, c


def double_well(z):
    """(z² − 1)² in one dimension: minima at ±1, a barrier of 1 between them, second derivative 8 at the minima."""
    return (z.square() - 1).square().sum(1)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_measures_of_a_quadratic_match_its_formula(seed):
    energy, a, b, c = quadratic(seed)
    start, end = points(seed)
    s, shift = start.numpy(), (end - start).numpy()
    on_line = s[:, None] + SCAN_GRID.numpy()[:, None] * shift[:, None]
    expected = 0.5 * np.einsum("btd,de,bte->bt", on_line, a, on_line) + on_line @ b + c
    profile = line_scan(energy, start, end)
    np.testing.assert_allclose(profile, expected, atol=1e-10)
    rise = expected[:, 10:31] - expected[:, 10:11]  # where the grid is 0 … 1
    np.testing.assert_allclose(barrier(profile, SCAN_GRID), rise.max(1), atol=1e-10)
    bend = np.einsum("bd,de,be->b", shift, a, shift)
    length = np.linalg.norm(shift, axis=1)
    np.testing.assert_allclose(curvature(energy, start, end), bend, atol=1e-10)
    slope = np.einsum("bd,bd->b", s @ a + b, shift) / length
    np.testing.assert_allclose(directional_derivative(energy, start, end), slope, atol=1e-10)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), level=st.integers(0, LEVELS - 2))
def test_measures_of_a_perfect_denoiser_match_their_closed_forms(seed, level):
    """Barrier max(0, m*) with m* from `optimal_margin`, curvature 1/σ in every direction u, derivative ε·u."""
    x, y_pos, y_neg, eps = pairs(seed)
    noise = SharedNoise(SCHEDULE, torch.full((BATCH,), level), eps)
    start, end = (noise.noised(y).as_subclass(torch.Tensor) for y in (y_pos, y_neg))
    energy, t = (lambda z: optimal_energy(SCHEDULE, y_pos)(x, z, noise.k)), SCAN_GRID[10:31]
    margin = noise.optimal_margin(y_pos, y_neg).clamp_min(0)
    torch.testing.assert_close(barrier(line_scan(energy, start, end, t), t), margin, atol=1e-6, rtol=0)
    bend, distance = curvature(energy, start, end), (end - start).norm(dim=1)
    torch.testing.assert_close(bend / distance**2, 1 / SCHEDULE.sigma(noise.k).flatten().double(), rtol=1e-6, atol=0)
    unit = (y_neg - y_pos) / (y_neg - y_pos).norm(dim=1, keepdim=True)
    slope = directional_derivative(energy, start, end)
    torch.testing.assert_close(slope, (unit * eps).sum(1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("measure", [line_scan, curvature, directional_derivative])
def test_a_negative_equal_to_the_truth_is_refused(measure):
    start, end = points()
    end[4] = start[4]
    with pytest.raises(ParameterError, match=r"0\.0 apart at example 4"):
        measure(double_well, start, end)
    end[2, 0] = float("nan")
    with pytest.raises(ParameterError, match="nan apart at example 2"):
        measure(double_well, start, end)
