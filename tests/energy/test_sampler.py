"""Descent never raises the energy; with the optimal energy in place of a network the sampler finds the truth."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from anm_nb.energy.sampler import descend, sample
from anm_nb.energy.schedule import NoiseSchedule
from anm_nb.training.seeds import generator


class OptimalEnergy(nn.Module):
    """E*(x, ỹ, k) = ‖ỹ − √ᾱ_k y(x)‖²/(2σ_k) with the truth y(x) = sin x."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def forward(self, x, y, k):
        return ((y - self.schedule.signal(k) * x.sin()).square() / (2 * self.schedule.sigma(k))).sum(1)


def test_sampler_finds_the_truth_of_an_analytic_energy():
    schedule = NoiseSchedule.cosine(10)
    x = torch.randn(50, 6, generator=generator(0, "x"))
    levels = []
    energy, source = OptimalEnergy(schedule), generator(1, "sampling")
    y = sample(energy, schedule, x, 6, source, callback=lambda k, y: levels.append(k))
    torch.testing.assert_close(y, x.sin(), atol=1e-4, rtol=0)
    assert levels == list(range(9, -1, -1))


def test_sampler_stays_within_its_clamp():
    schedule = NoiseSchedule.cosine(10)
    y = sample(OptimalEnergy(schedule), schedule, torch.ones(4, 3), 3, generator(0, "sampling"), clamp=0.5)
    assert y.abs().max() <= 0.5 + 1e-6


@given(seed=st.integers(0, 10**6), step=st.floats(1e-3, 50.0), steps=st.integers(1, 6))
def test_descent_never_raises_the_energy_and_keeps_to_its_bound(seed, step, steps):
    source = generator(seed, "test")
    curvature = torch.rand(8, 4, generator=source) * 10
    start = torch.randn(8, 4, generator=source).clamp(-1, 1)

    def energy(z):
        return (curvature * z.square()).sum(1) + z.sin().sum(1)

    column = torch.ones(8, 1)
    end = descend(energy, start, step * column, column, steps)
    assert (energy(end) <= energy(start) + 1e-6).all()
    assert end.abs().max() <= 1


def test_one_small_step_is_plain_gradient_descent():
    start = torch.tensor([[0.3, -0.2]])
    end = descend(lambda z: z.square().sum(1), start, torch.tensor([[0.1]]), torch.tensor([[1.0]]), 1)
    torch.testing.assert_close(end, start * 0.8)
