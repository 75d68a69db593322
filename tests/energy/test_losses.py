"""Losses against closed forms and float64 references."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from notebook_cells import names_of
from torch import nn

from anm_nb.energy.losses import info_nce, monotonic_regression, soft_info_nce
from anm_nb.energy.miner import MiningProblem
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.tasks import Clues
from anm_nb.tasks.matrices import Inverse
from anm_nb.training.seeds import RowDraws, generator
from anm_nb.training.stack import Stack

energies = st.floats(-1e4, 1e4, width=32)


@given(e_pos=energies, e_neg=energies)
def test_info_nce_and_its_gradients_match_their_closed_forms(e_pos, e_neg):
    positive = torch.tensor([e_pos], dtype=torch.float64, requires_grad=True)
    negative = torch.tensor([e_neg], dtype=torch.float64, requires_grad=True)
    loss = info_nce(positive, negative)
    margin = e_neg - e_pos
    np.testing.assert_allclose(loss.detach(), [np.logaddexp(0, -margin)], rtol=1e-8, atol=1e-8)
    loss.sum().backward()
    sigmoid = np.exp(-np.logaddexp(0, margin))  # σ(−m)
    np.testing.assert_allclose(positive.grad, [sigmoid], atol=1e-8)
    np.testing.assert_allclose(negative.grad, [-sigmoid], atol=1e-8)


margins = st.floats(-1e3, 1e3, width=32)


@given(m=margins, optimal=margins)
def test_soft_info_nce_is_the_cross_entropy_with_the_optimal_label(m, optimal):
    """−q log σ(m) − (1 − q) log σ(−m) with q = σ(m*), in float64 NumPy; the gradient in m is σ(m) − σ(m*)."""
    positive = torch.zeros(1, requires_grad=True)
    negative = torch.tensor([m], requires_grad=True)
    loss = soft_info_nce(positive, negative, torch.tensor([optimal]))
    q, not_q = np.exp(-np.logaddexp(0, -optimal)), np.exp(-np.logaddexp(0, optimal))
    expected = q * np.logaddexp(0, -m) + not_q * np.logaddexp(0, m)
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-5, atol=1e-30)
    loss.sum().backward()
    slope = np.exp(-np.logaddexp(0, -m)) - q
    np.testing.assert_allclose(negative.grad, [slope], atol=1e-6)
    np.testing.assert_allclose(positive.grad, [-slope], atol=1e-6)


def test_monotonic_regression_matches_numpy_s_fitted_line():
    """By hand: energies 0, 1, 1 at 0, ½, 1 have slope 1 and residuals −1/6, 1/3, −1/6."""
    by_hand = torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([[0.0, 0.5, 1.0]])
    for least, expected in ((1.0, 1 / 18), (2.0, 19 / 18)):
        torch.testing.assert_close(monotonic_regression(*by_hand, least), torch.tensor([expected]))
    energies, distances = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = []
    for e, d in zip(energies.numpy(), distances.numpy(), strict=True):
        slope, intercept = np.polyfit(d, e, 1)
        expected.append(max(0, 1 - slope) + np.mean((e - slope * d - intercept) ** 2))
    np.testing.assert_allclose(monotonic_regression(energies, distances, 1.0), expected)


class Quadratic(nn.Module):
    """E = ‖W ỹ − c_k‖²/2, whose score is Wᵀ(W ỹ − c_k)."""

    def __init__(self, weight, centres):
        super().__init__()
        self.weight, self.centres = nn.Parameter(weight), centres

    def forward(self, x, y, k):
        return (y @ self.weight.T - self.centres[k]).square().sum(1) / 2


@pytest.mark.parametrize("clued", [False, True])
def test_the_kl_term_matches_a_sampling_chain_written_out(clued):
    """Value and gradient for two seeds in float64. Gradients through the energy or the whole chain would differ."""
    schedule, source, rows = NoiseSchedule.cosine(4), torch.Generator().manual_seed(0), 12
    weights, centres = torch.randn(2, 9, 9, generator=source) / 4, torch.randn(4, 9, generator=source)
    y = torch.randn(rows, 9, generator=source)
    clues = Clues((torch.arange(9) < 1).expand(rows, 9), y) if clued else None
    noise = SharedNoise(schedule, torch.arange(rows) % 4, torch.zeros_like(y))
    stack = Stack([Quadratic(weight.clone(), centres) for weight in weights])
    draws = [RowDraws([generator(seed, "negatives") for seed in (3, 5)], "cpu") for _ in range(2)]
    problem = MiningProblem(Inverse(size=3), torch.zeros(rows, 9), y, noise, stack, stack, draws[0], clues)
    found = names_of("16_anm_verdict", "kl", "kl-method")["sampling_divergence"](problem)
    (gradient,) = torch.autograd.grad(found.sum(), list(stack.network.parameters()))

    signal, sigma = (f(torch.arange(4)).double().flatten() for f in (schedule.signal, schedule.sigma))
    clamp, starts = problem.task.sample_clamp, draws[1].normal(y.shape).double().chunk(2)

    def expected(live, whole_chain, frozen):
        values = []
        for seed, start in enumerate(starts):
            samples = []
            for row, point in enumerate(start, 6 * seed):
                for k in (3, 2, 1, 0)[: 4 - row % 4]:
                    w = live[seed] if whole_chain or k == row % 4 else live[seed].detach()
                    given = [y[row, :1].double() * signal[k]] if clued else []
                    noised = torch.cat([*given, point[len(given) :]])
                    clean = (noised - sigma[k] * w.T @ (w @ noised - centres[k].double())) / signal[k]
                    sample = torch.cat([*given, (signal[k] * clean.clamp(-clamp, clamp))[len(given) :]])
                    point = signal[k - 1] / signal[k] * sample
                samples.append(sample)
            for place, sample in enumerate(samples):
                energy = (frozen[seed] @ sample - centres[(6 * seed + place) % 4].double()).square().sum() / 2
                gaps = [(sample - other.detach()).norm() for at, other in enumerate(samples) if at != place]
                values.append(energy - 9 * torch.stack(gaps).amin().log())
        return torch.stack(values)

    live = weights.double().requires_grad_()
    reference = expected(live, False, live.detach())
    (by_hand,) = torch.autograd.grad(reference.sum(), live)
    torch.testing.assert_close(found.double(), reference.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient.double(), by_hand, rtol=1e-3, atol=1e-3)
    for wrong in (expected(live, False, live), expected(live, True, live.detach())):
        (other,) = torch.autograd.grad(wrong.sum(), live)
        assert float((other - by_hand).abs().max()) > 0.1
