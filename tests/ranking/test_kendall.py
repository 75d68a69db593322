"""Kendall's τ against SciPy and NumPy, over random ties and masks."""

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


@settings(max_examples=60)
@given(rankings())
def test_both_match_scipys_somers_d_of_prediction_given_target(case):
    pred, target, mask = case
    taus = kendall_tau(*map(torch.tensor, case))
    assert taus.shape == (len(pred),)
    np.testing.assert_allclose(taus, kendall_tau_numpy(*case), rtol=1e-14)
    unmasked = kendall_tau(*map(torch.tensor, (pred, target)))
    np.testing.assert_allclose(unmasked, kendall_tau_numpy(pred, target), rtol=1e-14)
    for scores, ranks, observed, tau in zip(pred, target, mask, taus.tolist(), strict=True):
        if len(set(ranks[observed])) < 2:
            assert np.isnan(tau)
        elif len(set(scores[observed])) < 2:  # undefined in SciPy
            assert tau == 0
        else:
            assert tau == pytest.approx(stats.somersd(ranks[observed], -scores[observed]).statistic, abs=1e-12)


def test_a_nan_score_counts_as_a_tie():
    ranks = torch.tensor([0, 1, 2])
    assert float(kendall_tau(torch.tensor([2.0, torch.nan, 0.0]), ranks)) == pytest.approx(1 / 3)


@pytest.mark.parametrize("tau", [kendall_tau, kendall_tau_numpy])
def test_mismatched_numbers_of_items_are_refused_by_name(tau):
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
