"""Descent never raises the energy, and the sampler finds the minima of analytic energies."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anm_nb.energy.sampler import descend, sample
from anm_nb.energy.schedule import NoiseSchedule
from anm_nb.tasks import Clues
from anm_nb.training.seeds import generator

SCHEDULE = NoiseSchedule.cosine(10)


class Trajectory(list):
    """A callback that keeps every state; attributes stack one part of all states."""

    def __call__(self, *state):
        self.append(state)

    def __getattr__(self, name):
        place = ("level", "step", "y", "energy", "accepted").index(name)
        return torch.stack([torch.as_tensor(state[place]) for state in self])


class OptimalEnergy(nn.Module):
    """E*(x, ỹ, k) = ‖ỹ − √ᾱ_k y(x)‖²/(2σ_k) with the truth y(x) = sin x."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def forward(self, x, y, k):
        return ((y - self.schedule.signal(k) * x.sin()).square() / (2 * self.schedule.sigma(k))).sum(1)


class Counting(OptimalEnergy):
    """An energy that counts its evaluations and how many of them need a gradient."""

    evaluations = gradients = 0

    def forward(self, x, y, k):
        self.evaluations += 1
        self.gradients += y.requires_grad
        return super().forward(x, y, k)


@pytest.mark.parametrize("watched", [True, False])
def test_the_sampler_finds_the_optimum_evaluates_no_point_twice_and_reports_every_step(watched):
    """Each of ten levels has one score, one starting point and four steps, the last without a gradient."""
    model, trajectory, x = Counting(SCHEDULE), Trajectory(), torch.randn(50, 6, generator=generator(0, "x"))
    y = sample(model, SCHEDULE, x, 6, generator(1, "s"), 4, callback=trajectory if watched else None)
    torch.testing.assert_close(y, x.sin(), atol=1e-4, rtol=0)
    assert (model.evaluations, model.gradients) == (10 * 6, 10 * 5)
    if watched:
        assert trajectory.energy.shape == trajectory.accepted.shape == (50, 50)
        assert trajectory.level.tolist() == [level for level in range(9, -1, -1) for _ in range(5)]
        assert trajectory.step.tolist() == list(range(5)) * 10
        assert torch.equal(trajectory.y[-1], y)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), step=st.floats(1e-3, 50.0), steps=st.integers(1, 6), more=st.integers(0, 4))
def test_descent_never_raises_the_energy_and_stays_within_its_bound(seed, step, steps, more):
    source = generator(seed, "test")
    curvature = torch.rand(8, 4, generator=source) * 10

    def energy(z):  # with many minima
        return (curvature * z.square()).sum(1) + z.sin().sum(1)

    start, column = torch.randn(8, 4, generator=source).clamp(-1, 1), torch.ones(8, 1)
    end = descend(energy, start, step * column, column, steps)
    later = descend(energy, start, step * column, column, steps + more)
    assert (energy(end) <= energy(start) + 1e-6).all()
    assert (energy(later) <= energy(end) + 1e-6).all()
    assert end.abs().max() <= 1


def coupled(seed=0, batch=4, dim=6):
    """H, m and clues for E = ½(y − m)ᵀH(y − m): all entries are coupled, and half of them given."""
    source = generator(seed, "test")
    factor = torch.rand(dim, dim, generator=source, dtype=torch.float64)
    hessian = factor @ factor.mT + torch.eye(dim, dtype=torch.float64)
    middle = torch.rand(batch, dim, generator=source, dtype=torch.float64) - 0.5
    mask = torch.tensor([[True, False, True, False, False, True]]).expand(batch, -1)
    # Some given values lie beyond the clamp, which only bounds sampled entries.
    values = torch.randn(batch, dim, generator=source, dtype=torch.float64) * mask * 3
    return hessian, middle, Clues(mask, values)


class Coupled(nn.Module):
    def __init__(self, hessian):
        super().__init__()
        self.hessian = hessian

    def forward(self, x, y, k):
        shift = y / SCHEDULE.signal(k) - x
        energy = ((shift @ self.hessian) * shift).sum(1) / 2
        return energy * (SCHEDULE.signal(k).square() / SCHEDULE.step_size(k)).squeeze(1) / 12


def reduced_sampler(hessian, middle, clues, noise, steps):
    """Algorithm 2 in NumPy for the free entries alone, with the gradient of their quadratic energy."""
    free = ~clues.mask[0].numpy()
    h, m, v = hessian.numpy(), middle.numpy(), clues.values.numpy()
    push = (v - m)[:, ~free] @ h[np.ix_(~free, free)]  # what the given entries add to the gradient

    def energy(y, c):
        shift = y - m[:, free]
        return c * ((shift @ h[np.ix_(free, free)] * shift).sum(1) / 2 + (push * shift).sum(1))

    noised = noise.numpy()[:, free]
    for level in range(9, -1, -1):
        k = torch.tensor([level])
        s, sigma, size = (float(of(k)) for of in (SCHEDULE.signal, SCHEDULE.sigma, SCHEDULE.step_size))
        c = s**2 / size / 12

        def slope(y, c=c, s=s):
            return c / s * ((y - m[:, free]) @ h[np.ix_(free, free)] + push)

        y = np.clip((noised - sigma * slope(noised / s)) / s, -2, 2)
        for _ in range(steps):
            trial = np.clip(y - size * slope(y) / s, -2, 2)
            y = np.where((energy(trial, c) <= energy(y, c))[:, None], trial, y)
        if level:
            noised = float(SCHEDULE.signal(k - 1)) * y
    return y


@pytest.mark.parametrize("steps", [1, 5])
def test_with_clues_the_free_entries_are_sampled_as_in_the_reduced_problem(steps):
    hessian, middle, clues = coupled()
    noise = torch.randn(4, 6, generator=generator(1, "s"), dtype=torch.float64)
    expected = reduced_sampler(hessian, middle, clues, noise, steps)
    y = sample(Coupled(hessian), SCHEDULE, middle, 6, generator(1, "s"), steps, clues=clues)
    np.testing.assert_allclose(y[:, ~clues.mask[0]], expected, atol=1e-5)
    blind = sample(Coupled(hessian), SCHEDULE, middle, 6, generator(1, "s"), steps)
    assert np.abs(blind[:, ~clues.mask[0]].numpy() - expected).max() > 0.1
