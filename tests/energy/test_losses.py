"""Losses against closed forms and float64 references."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from anm_nb.energy.losses import info_nce, monotonic_regression, soft_info_nce

energies = st.floats(-1e4, 1e4, width=32)


@given(e_pos=energies, e_neg=energies)
def test_info_nce_and_its_gradients_are_the_closed_forms(e_pos, e_neg):
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
    """−q log σ(m) − (1 − q) log σ(−m), q = σ(m*), in NumPy's float64; its gradient by m is σ(m) − σ(m*)."""
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


def test_monotonic_regression_is_the_line_of_numpy():
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
