"""The schedule is the published one; noised tensors cannot be noised again; m* is the margin of E*."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anm_nb.energy.schedule import Noised, NoiseSchedule, SharedNoise
from anm_nb.training.seeds import RowDraws, generator


@pytest.mark.parametrize("levels", [2, 10, 100])
def test_cosine_schedule_is_the_published_formula(levels):
    def f(t):
        return math.cos((t / levels + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(0.999, 1 - f(k + 1) / f(k)) for k in range(levels)]
    expected = np.cumprod([1 - beta for beta in betas])
    schedule = NoiseSchedule.cosine(levels)
    np.testing.assert_allclose(schedule.alphas_cumprod, expected, atol=1e-6)
    np.testing.assert_allclose(schedule.betas, betas, atol=1e-6)


def draw(seed=0, batch=16, dim=5):
    source = generator(seed, "test")
    y = torch.randn(batch, dim, generator=source)
    return y, SharedNoise.draw(NoiseSchedule.cosine(10), y, RowDraws([source], "cpu")), source


@pytest.mark.parametrize(
    "change",
    [
        lambda z: z,
        lambda z: z - 0.1 * torch.ones_like(z),
        lambda z: torch.where(z > 0, z, -z),
        lambda z: torch.cat([z[:8], z[8:]]),
    ],
)
def test_noising_twice_raises_after_any_arithmetic_in_between(change):
    y, noise, _ = draw()
    noised = change(noise.noised(y))
    assert isinstance(noised, Noised)
    with pytest.raises(TypeError, match="noised already"):
        noise.noised(noised)


@given(seed=st.integers(0, 10**6))
def test_optimal_margin_is_the_margin_of_the_optimal_energy(seed):
    """E*(ỹ) = ‖ỹ − √ᾱ y⁺‖²/(2σ) in float64: its gradient at ỹ⁺ is ε, and its margin is m*."""
    y, noise, source = draw(seed)
    y_neg = y + torch.randn(y.shape, generator=source)
    y, y_neg, eps = y.double(), y_neg.double(), noise.eps.double()
    abar = noise.schedule.alphas_cumprod.double()[noise.k].unsqueeze(1)
    sigma = (1 - abar).sqrt()

    def energy(z):
        return ((z - abar.sqrt() * y).square() / (2 * sigma)).sum(1)

    positive = (abar.sqrt() * y + sigma * eps).requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(energy(positive).sum(), positive)[0], eps)
    margin = energy(abar.sqrt() * y_neg + sigma * eps) - energy(positive)
    computed = noise.optimal_margin(y.float(), y_neg.float()).double()
    torch.testing.assert_close(computed, margin.detach(), atol=1e-4, rtol=1e-3)
