"""Relaxed discrete answers: projections against scipy, clues in place, entropies against closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from scipy.stats import entropy

from anm_nb.config import ParameterError
from anm_nb.energy.constraints import MaskedSimplex, SignBox
from anm_nb.tasks.base import Clues
from anm_nb.training.seeds import generator

BATCH, GROUPS = 3, 4


def one_hot(classes, source):
    chosen = torch.randint(classes, (BATCH, GROUPS), generator=source)
    return (2.0 * torch.nn.functional.one_hot(chosen, classes) - 1).double().flatten(1)


def example(seed, classes, dtype=torch.float64):
    """A simplex with some classes disallowed and some groups given whole, and points far and near."""
    source = generator(seed, "test")
    answers = one_hot(classes, source)
    allowed = (torch.rand(answers.shape, generator=source) < 0.7) | (answers > 0)
    given_groups = torch.rand(BATCH, GROUPS, 1, generator=source) < 0.3
    clues = Clues(given_groups.expand(-1, -1, classes).flatten(1), answers.to(dtype))
    spread = 10.0 ** torch.randint(-2, 3, (BATCH, 1), generator=source)
    y = answers + spread * torch.randn(answers.shape, generator=source, dtype=torch.float64)
    return MaskedSimplex(allowed, classes, clues), y.to(dtype)


def probabilities(y, classes):
    return ((y + 1) / 2).unflatten(1, (-1, classes))


sizes = st.integers(1, 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(seed=st.integers(0, 10**6), classes=sizes)
def test_projection_is_feasible_and_idempotent(dtype, seed, classes):
    simplex, y = example(seed, classes, dtype)
    projected = simplex.project(y)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    p = probabilities(projected, classes)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum(2), torch.ones_like(p[..., 0]), atol=tolerance, rtol=0)
    clues = simplex.fixed
    assert torch.equal(projected[clues.mask], clues.values[clues.mask])
    assert (projected[~simplex.allowed & ~clues.mask] == -1).all()
    assert (simplex.log(projected)["invalid_mass"] == 0).all()
    torch.testing.assert_close(simplex.project(projected), projected, atol=tolerance, rtol=0)
    assert simplex.residual(projected).max() < 10 * tolerance


@given(seed=st.integers(0, 10**6), classes=sizes)
def test_every_group_is_the_root_of_its_own_equation(seed, classes):
    """An independent reference: the threshold τ of Σ max(p − τ, 0) = 1, found by scipy, group by group."""
    simplex, y = example(seed, classes)
    projected = probabilities(simplex.project(y), classes)
    free = (simplex.allowed & ~simplex.fixed.mask).unflatten(1, (-1, classes))
    for row, group in np.ndindex(BATCH, GROUPS):
        held = free[row, group]
        if not held.any():
            continue
        p = probabilities(y, classes)[row, group][held].numpy()
        root = brentq(lambda tau, p=p: np.maximum(p - tau, 0).sum() - 1, p.max() - 1.5, p.max(), xtol=1e-14)
        np.testing.assert_allclose(projected[row, group][held], np.maximum(p - root, 0), atol=1e-10)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 5))
def test_no_feasible_point_is_nearer(seed, classes):
    simplex, y = example(seed, classes)
    free = (simplex.allowed & ~simplex.fixed.mask)[0].numpy().reshape(GROUPS, classes)
    target = probabilities(y, classes)[0].numpy()
    ours = probabilities(simplex.project(y), classes)[0].numpy()
    for group in range(GROUPS):
        held = free[group]
        if not held.any():
            continue
        best = minimize(
            lambda p, t=target[group][held]: ((p - t) ** 2).sum(),
            np.full(held.sum(), 1 / held.sum()),
            bounds=[(0, 1)] * held.sum(),
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        distance = np.sqrt(((ours[group] - target[group])[held] ** 2).sum())
        assert distance == pytest.approx(np.sqrt(best.fun), rel=1e-5, abs=1e-5)


def test_a_group_given_in_part_shares_what_is_left():
    p, shared, vertex = torch.tensor([[[0.9, 0.3, 0.2]], [[0.6, 0.25, 0.15]], [[0.6, 0.4, 0.0]]])
    clues = Clues(torch.tensor([[True, False, False]]), 2 * vertex - 1)
    simplex = MaskedSimplex(torch.ones(1, 3, dtype=torch.bool), 3, clues)
    torch.testing.assert_close(simplex.project(2 * p - 1), 2 * shared - 1)
    torch.testing.assert_close(simplex.nearest_vertex(2 * p - 1), 2 * vertex - 1)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), classes=st.integers(1, 4))
def test_the_nearest_vertex_is_the_nearest_of_all(seed, classes):
    simplex, y = example(seed, classes)
    found = probabilities(simplex.nearest_vertex(y), classes)
    free = (simplex.allowed & ~simplex.fixed.mask).unflatten(1, (-1, classes))
    for row, group in np.ndindex(BATCH, GROUPS):
        candidates = [c for c in range(classes) if free[row, group, c]]
        if candidates:
            given_ = probabilities(y, classes)[row, group].numpy()
            nearest = min(candidates, key=lambda c: np.linalg.norm(given_ - np.eye(classes)[c]))
            assert np.array_equal(found[row, group], np.eye(classes)[nearest])
    assert torch.equal(simplex.project(simplex.nearest_vertex(y)), simplex.nearest_vertex(y))
    open_to_all = MaskedSimplex(torch.ones_like(simplex.allowed), classes)
    expected = torch.nn.functional.one_hot(probabilities(y, classes).argmax(2), classes) * 2.0 - 1
    assert torch.equal(open_to_all.nearest_vertex(y), expected.double().flatten(1))


def test_entropies_are_scipy_s_over_groups_with_a_choice():
    allowed = torch.tensor([[True] * 3, [True, True, False], [True, False, False]]).flatten().unsqueeze(0)
    p = torch.tensor([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    simplex = MaskedSimplex(allowed, 3)
    y = (2 * p - 1).flatten().unsqueeze(0)
    expected = [entropy([0.5, 0.3, 0.2]), entropy([0.9, 0.1])]  # the third group has no choice
    assert float(simplex.log(y)["entropy"]) == pytest.approx(np.mean(expected))
    relative = np.mean([expected[0] / math.log(3), expected[1] / math.log(2)])
    assert float(simplex.log(y)["relative_entropy"]) == pytest.approx(relative)
    nothing_free = MaskedSimplex(allowed, 3, Clues(torch.ones_like(allowed), y))
    assert float(nothing_free.log(y)["entropy"]) == 0


def test_invalid_mass_is_what_lies_on_disallowed_entries_and_against_clues():
    allowed = torch.tensor([[True, True, False, True, True, True]])
    clues = Clues(torch.tensor([[False] * 3 + [True] * 3]), torch.tensor([[0.0, 0, 0, 1.0, -1, -1]]))
    simplex = MaskedSimplex(allowed, 3, clues)
    y = 2 * torch.tensor([[0.5, 0.2, 0.3, 0.6, 0.3, 0.1]]) - 1
    torch.testing.assert_close(simplex.log(y)["invalid_mass"], torch.tensor([0.3 + 0.3 + 0.1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "classes = 0: a simplex needs at least 1 class"),
        ({"classes": 4}, "classes = 4: does not divide 6 entries"),
        ({"closed": slice(3, 6)}, "example 1, group 1: no allowed class is left for a probability of 1"),
        ({"given": [0.9, 0.9, 0.0]}, "example 1, group 0: no allowed class is left for a probability of -0.8"),
    ],
)
def test_sets_without_a_point_are_refused_by_name(options, message):
    allowed = torch.ones(2, 6, dtype=torch.bool)
    allowed[1, options.pop("closed", slice(0, 0))] = False
    clues = None
    if "given" in options:
        values = torch.zeros(2, 6)
        values[1, :3] = 2 * torch.tensor(options.pop("given")) - 1
        mask = torch.zeros(2, 6, dtype=torch.bool)
        mask[1, :3] = True
        clues = Clues(mask, values)
    with pytest.raises(ParameterError, match=message):
        MaskedSimplex(**{"allowed": allowed, "classes": 3, "fixed": clues} | options)


def test_a_sign_box_holds_its_clues_and_reports_binary_entropies():
    answers = torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]])
    fixed = torch.tensor([[True, False, False], [True, True, True]])
    box = SignBox.around(answers, fixed)
    y = torch.tensor([[-0.5, 0.5, 3.0], [0.0, 0.0, 0.0]])
    assert torch.equal(box.project(y), torch.tensor([[1.0, 0.5, 1.0], [-1.0, -1.0, 1.0]]))
    assert torch.equal(box.nearest_vertex(y), torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 1.0]]))
    assert box.decisions_changed(box.nearest_vertex(y), answers).tolist() == [1, 0]
    log = box.log(y)
    binary = float(entropy([0.75, 0.25]))
    torch.testing.assert_close(log["entropy"], torch.tensor([binary / 2, 0.0]))
    torch.testing.assert_close(log["relative_entropy"], torch.tensor([binary / 2 / math.log(2), 0.0]))
    torch.testing.assert_close(log["invalid_mass"], torch.tensor([(1.5 + 2) / 2, 1.5]))
    assert (box.log(box.project(y))["invalid_mass"] == 0).all()
