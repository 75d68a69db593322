"""Ranking losses against their formulas in float64, for extreme scores, and without observed pairs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anm_nb.config import ParameterError
from anm_nb.ranking.losses import (
    combined_ranking_loss,
    listnet_loss,
    pointer_loss,
    ranknet_loss,
    soft_sort_loss,
)

LOSSES = [ranknet_loss, listnet_loss, soft_sort_loss, combined_ranking_loss]
every_loss = pytest.mark.parametrize("loss", LOSSES)


@st.composite
def problems(draw):
    """Scores, ranks and a mask of one row, in float64."""
    items = draw(st.integers(2, 6))
    scores = draw(st.lists(st.floats(-3, 3), min_size=items, max_size=items))
    ranks = draw(st.permutations(range(items)))
    mask = draw(st.lists(st.booleans(), min_size=items, max_size=items))
    return torch.tensor(scores, dtype=torch.float64), torch.tensor(ranks), torch.tensor(mask)


def ranknet(ordered):
    pairs = [ordered[j] - ordered[i] for i in range(len(ordered)) for j in range(i + 1, len(ordered))]
    return np.mean(np.log1p(np.exp(pairs)))


def listnet(ordered):
    true, predicted = np.exp(-np.arange(len(ordered))), np.exp(ordered)
    return -(true / true.sum() * np.log(predicted / predicted.sum())).sum()


def soft_sort(ordered):
    ahead = 1 / (1 + np.exp(-(ordered[None, :] - ordered[:, None])))
    soft_ranks = ahead.sum(1) - 0.5  # an item is not ahead of itself
    return np.mean(((soft_ranks - np.arange(len(ordered))) / (len(ordered) - 1)) ** 2)


FORMULAS = {ranknet_loss: ranknet, listnet_loss: listnet, soft_sort_loss: soft_sort}
FORMULAS[combined_ranking_loss] = lambda ordered: ranknet(ordered) + listnet(ordered) + soft_sort(ordered)


@every_loss
@given(problems())
def test_each_loss_matches_its_formula_on_the_observed_scores_in_true_order(loss, problem):
    scores, ranks, mask = problem
    ordered = np.array([float(scores[i]) for i in ranks.argsort() if mask[i]])
    expected = FORMULAS[loss](ordered) if len(ordered) > 1 else 0.0
    assert float(loss(scores, ranks, mask)) == pytest.approx(expected, abs=1e-9)


@every_loss
@pytest.mark.parametrize("observed", [0, 1])
def test_without_an_observed_pair_loss_and_gradient_are_exactly_zero(loss, observed):
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[:, :observed] = True
    scores = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = loss(scores, torch.arange(4).expand(2, 4), mask)
    value.backward()
    assert value.item() == 0
    assert torch.equal(scores.grad, torch.zeros(2, 4))


@every_loss
@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_extreme_scores_give_finite_losses_and_gradients(loss, scale):
    scores = (scale * torch.tensor([[1.0, -1.0, 0.5, -0.5]])).requires_grad_()
    for ranks in ([0, 3, 1, 2], [3, 0, 2, 1]):
        for mask in (None, torch.tensor([[True, True, False, False]]), torch.zeros(1, 4, dtype=torch.bool)):
            value = loss(scores, torch.tensor([ranks]), mask)
            (gradient,) = torch.autograd.grad(value, scores)
            assert torch.isfinite(value)
            assert torch.isfinite(gradient).all()


@every_loss
def test_rows_are_independent_and_rows_without_a_pair_do_not_dilute_the_mean(loss):
    source = torch.Generator().manual_seed(0)
    scores, ranks = torch.randn(3, 2, 4, generator=source), torch.randn(3, 1, 4, generator=source).argsort(-1)
    mask = torch.tensor([[[1, 1, 1, 1]], [[1, 0, 1, 1]], [[0, 0, 0, 1]]])
    rows = loss(scores, ranks, mask, reduction="none")
    assert rows.shape == (3, 2)
    for i in range(3):
        for t in range(2):
            torch.testing.assert_close(rows[i, t], loss(scores[i, t], ranks[i, 0], mask[i, 0]))
    assert (rows[2] == 0).all()
    torch.testing.assert_close(loss(scores, ranks, mask), rows[:2].mean())


@given(problems())
def test_the_pointer_loss_is_the_mean_surprise_of_observed_items(problem):
    _, ranks, mask = problem
    items = len(ranks)
    logits = torch.randn(items, items, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    order = ranks.argsort()
    surprises = [float(-logits[rank].log_softmax(0)[order[rank]]) for rank in range(items) if bool(mask[order[rank]])]
    assert float(pointer_loss(logits, ranks, mask)) == pytest.approx(np.mean(surprises) if surprises else 0.0)
    published = torch.nn.functional.cross_entropy(logits, order)
    assert float(pointer_loss(logits, ranks)) == pytest.approx(float(published))


@every_loss
def test_wrong_shapes_are_refused_by_name(loss):
    scores, ranks = torch.zeros(2, 4), torch.zeros(2, 4)
    with pytest.raises(ParameterError, match=r"ranks has shape \(2, 5\)"):
        loss(scores, torch.zeros(2, 5))
    with pytest.raises(ParameterError, match=r"obs_mask has shape \(2, 3\)"):
        loss(scores, ranks, torch.ones(2, 3))
