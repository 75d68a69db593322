"""Kendall's τ against SciPy, brute force and NumPy, over random ties and masks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from anm_nb.config import ParameterError
from anm_nb.tasks.kendall import index_space_tau, kendall_tau, kendall_tau_numpy


@st.composite
def rankings(draw):
    """Scores, ranks and a mask [batch, items], with few distinct values so that ties are common."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 7)))
    levels = st.integers(-3, 3)
    pred = draw(hnp.arrays(np.float64, shape, elements=levels.map(float)))
    target = draw(hnp.arrays(np.int64, shape, elements=levels))
    mask = draw(hnp.arrays(np.bool_, shape))
    return pred, target, mask


def brute_force(pred, target, mask):
    """τ of one row, pair by pair, as the contract has it."""
    concordant = discordant = decidable = 0
    for i in range(len(pred)):
        for j in range(i + 1, len(pred)):
            if not (mask[i] and mask[j]) or target[i] == target[j]:
                continue
            decidable += 1
            earlier, later = (i, j) if target[i] < target[j] else (j, i)
            concordant += pred[earlier] > pred[later]
            discordant += pred[earlier] < pred[later]
    return (concordant - discordant) / decidable if decidable else float("nan")


@settings(max_examples=40)
@given(rankings())
def test_both_agree_with_brute_force(case):
    pred, target, mask = case
    expected = [brute_force(*row) for row in zip(pred, target, mask, strict=True)]
    torch_tau = kendall_tau(torch.tensor(pred), torch.tensor(target), torch.tensor(mask))
    assert torch_tau.shape == (len(pred),)
    np.testing.assert_allclose(torch_tau, expected, rtol=1e-14)
    np.testing.assert_allclose(kendall_tau_numpy(pred, target, mask), expected, rtol=1e-14)
    unmasked = [brute_force(*row, np.ones_like(target[0])) for row in zip(pred, target, strict=True)]
    np.testing.assert_allclose(kendall_tau(torch.tensor(pred), torch.tensor(target)), unmasked, rtol=1e-14)


@settings(max_examples=40)
@given(rankings())
def test_it_is_scipys_somers_d_of_prediction_given_target(case):
    pred, target, mask = case
    for scores, ranks, observed in zip(pred, target, mask, strict=True):
        if len(set(ranks[observed])) < 2 or len(set(scores[observed])) < 2:
            continue
        tau = kendall_tau(torch.tensor(scores), torch.tensor(ranks), torch.tensor(observed))
        expected = stats.somersd(ranks[observed], -scores[observed]).statistic
        assert float(tau) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("observed", [[False] * 3, [True, False, False]])
def test_a_row_without_a_decidable_pair_is_skipped(observed):
    ranks, mask = torch.tensor([[0, 1, 2]]), torch.tensor([observed])
    assert torch.isnan(kendall_tau(ranks, ranks, mask)).all()
    assert np.isnan(kendall_tau_numpy(ranks, ranks, mask)).all()
    assert torch.isnan(kendall_tau(torch.tensor([[0, 1]]), torch.tensor([[5, 5]]))).all()
    assert torch.isnan(kendall_tau(torch.tensor([[7.0]]), torch.tensor([[0]]))).all()


def test_a_score_that_is_not_a_number_earns_nothing():
    ranks = torch.tensor([0, 1, 2])
    assert float(kendall_tau(torch.tensor([2.0, torch.nan, 0.0]), ranks)) == pytest.approx(1 / 3)


@pytest.mark.parametrize("tau", [kendall_tau, kendall_tau_numpy])
def test_other_numbers_of_items_are_refused_by_name(tau):
    scores, ranks = torch.zeros(2, 4), torch.zeros(2, 4)
    with pytest.raises(ParameterError, match=r"target has shape \(2, 3\)"):
        tau(scores, ranks[:, :3])
    with pytest.raises(ParameterError, match=r"obs_mask has shape \(2, 3\)"):
        tau(scores, ranks, ranks[:, :3])


def published_tau(pred_order, true_order):
    """The published metric: τ between the index arrays themselves."""
    pairs = [(i, j) for i in range(len(pred_order)) for j in range(i + 1, len(pred_order))]
    signs = [np.sign((pred_order[i] - pred_order[j]) * (true_order[i] - true_order[j])) for i, j in pairs]
    return np.mean(signs)


@given(st.permutations(range(7)), st.permutations(range(7)))
def test_index_space_tau_is_the_published_one(scores, ranks):
    tau = index_space_tau(torch.tensor([scores]), torch.tensor([ranks]))
    assert float(tau) == pytest.approx(published_tau(np.argsort(-np.array(scores)), np.argsort(ranks)))
