"""Projections are feasible, idempotent and nearest (checked with scipy), keep clues, and log scipy's entropies."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from scipy.stats import entropy

from anm_nb.config import ParameterError
from anm_nb.energy.constraints import L2Ball, LinfBall, MaskedSimplex, SignBox
from anm_nb.tasks import Clues
from anm_nb.training.seeds import generator

BALLS = {L2Ball: 2, LinfBall: float("inf")}  # with the orders of their norms
BATCH, GROUPS = 3, 4
seeds, sizes = st.integers(0, 10**6), st.integers(1, 9)


def ball(kind, seed, with_normal, with_fixed, batch=3, dim=5, dtype=torch.float32):
    source = generator(seed, "test")
    center, normal = torch.randn(2, batch, dim, generator=source, dtype=dtype)
    radius = torch.rand(batch, generator=source, dtype=dtype) + 0.1
    fixed = torch.rand(batch, dim, generator=source) < 0.3
    y = center + 3 * torch.randn(batch, dim, generator=source, dtype=dtype) * torch.rand(batch, 1, generator=source)
    plane = {"normal": normal if with_normal else None} if kind is L2Ball else {}
    return kind(center, radius, fixed=fixed if with_fixed else None, **plane), y, plane.get("normal")


@settings(max_examples=30)
@given(kind=st.sampled_from(list(BALLS)), seed=seeds, with_normal=st.booleans(), with_fixed=st.booleans())
def test_projection_onto_a_ball_is_the_nearest_feasible_point(kind, seed, with_normal, with_fixed):
    constraint, y, normal = ball(kind, seed, with_normal, with_fixed, batch=1, dtype=torch.float64)
    projected = constraint.project(y)
    torch.testing.assert_close(constraint.project(projected), projected)
    assert torch.equal(constraint.project(constraint.center), constraint.center)
    shift = (projected - constraint.center)[0]
    assert torch.linalg.vector_norm(shift, BALLS[kind]) <= constraint.radius * (1 + 1e-9)
    center, radius, target = (t[0].numpy() for t in (constraint.center, constraint.radius, y))
    conditions, bounds = [], None
    if kind is L2Ball:
        conditions.append({"type": "ineq", "fun": lambda p: radius**2 - ((p - center) ** 2).sum()})
    else:
        bounds = list(zip(center - radius, center + radius, strict=True))
    if normal is not None:
        conditions.append({"type": "eq", "fun": lambda p: (p - center) @ normal[0].numpy()})
        assert float(shift @ normal[0]) == pytest.approx(0, abs=1e-9)
    if with_fixed:
        held = constraint.fixed[0].numpy()
        conditions.append({"type": "eq", "fun": lambda p: (p - center)[held]})
        assert (shift[held] == 0).all()
    options = {"method": "SLSQP", "options": {"ftol": 1e-14, "maxiter": 500}}
    best = minimize(lambda p: ((p - target) ** 2).sum(), center, bounds=bounds, constraints=conditions, **options)
    assert float(constraint.residual(y)) == pytest.approx(np.sqrt(best.fun), abs=1e-5)


@pytest.mark.parametrize("kind", BALLS)
@pytest.mark.parametrize("radius", [0.0, float("nan")])
def test_a_radius_that_is_not_positive_is_refused_with_its_example(kind, radius):
    with pytest.raises(ParameterError, match=rf"radius of example 1 = {radius}: should be positive"):
        kind(torch.zeros(3, 2), torch.tensor([1.0, radius, 0.0]))


def example(seed, classes, dtype=torch.float64):
    """A simplex with some disallowed classes and some given groups, and points far from it and near it."""
    source = generator(seed, "test")
    chosen = torch.randint(classes, (BATCH, GROUPS), generator=source)
    answers = (2.0 * torch.nn.functional.one_hot(chosen, classes) - 1).double().flatten(1)
    allowed = (torch.rand(answers.shape, generator=source) < 0.7) | (answers > 0)
    given_groups = torch.rand(BATCH, GROUPS, 1, generator=source) < 0.3
    clues = Clues(given_groups.expand(-1, -1, classes).flatten(1), answers.to(dtype))
    spread = 10.0 ** torch.randint(-2, 3, (BATCH, 1), generator=source)
    y = answers + spread * torch.randn(answers.shape, generator=source, dtype=torch.float64)
    return MaskedSimplex(allowed, classes, clues), y.to(dtype)


def probabilities(y, classes):
    return ((y + 1) / 2).unflatten(1, (-1, classes))


@settings(max_examples=25)
@given(seed=seeds, classes=sizes, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_projection_onto_simplices_is_feasible_and_idempotent(seed, classes, dtype):
    simplex, y = example(seed, classes, dtype)
    projected, clues = simplex.project(y), simplex.fixed
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    p = probabilities(projected, classes)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum(2), torch.ones_like(p[..., 0]), atol=tolerance, rtol=0)
    assert torch.equal(projected[clues.mask], clues.values[clues.mask])
    assert (simplex.log(projected)["invalid_mass"] == 0).all()
    assert simplex.residual(projected).max() < 10 * tolerance


@settings(max_examples=25)
@given(seed=seeds, classes=sizes)
def test_simplex_projections_match_a_root_finder_and_vertices_are_nearest(seed, classes):
    """References, group by group: τ from Σ max(p − τ, 0) = 1 by scipy, and the nearest of all vertices."""
    simplex, y = example(seed, classes)
    points, vertex = (probabilities(of(y), classes) for of in (simplex.project, simplex.nearest_vertex))
    free = (simplex.allowed & ~simplex.fixed.mask).unflatten(1, (-1, classes))
    for row, group in np.ndindex(BATCH, GROUPS):
        held = free[row, group]
        if not held.any():
            continue
        p = probabilities(y, classes)[row, group].numpy()
        p_held = p[held.numpy()]
        root = brentq(lambda tau, p=p_held: np.maximum(p - tau, 0).sum() - 1, p_held.max() - 1.5, p_held.max())
        np.testing.assert_allclose(points[row, group][held], np.maximum(p_held - root, 0), atol=1e-10)
        best = min(np.flatnonzero(held), key=lambda c, p=p: np.linalg.norm(p - np.eye(classes)[c]))
        assert np.array_equal(vertex[row, group], np.eye(classes)[best])


def test_an_empty_simplex_is_refused_with_its_example_and_group():
    allowed = torch.ones(2, 6, dtype=torch.bool)
    allowed[1, 3:6] = False
    with pytest.raises(ParameterError, match="example 1, group 1: `allowed` and the clues leave no class"):
        MaskedSimplex(allowed, 3)


def test_a_sign_box_keeps_its_clues_and_logs_binary_entropies():
    answers = torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]])
    fixed = torch.tensor([[True, False, False], [True, True, True]])
    box = SignBox(answers * fixed, torch.ones(2), fixed)
    y = torch.tensor([[-0.5, 0.5, 3.0], [0.0, 0.0, 0.0]])
    assert torch.equal(box.project(y), torch.tensor([[1.0, 0.5, 1.0], [-1.0, -1.0, 1.0]]))
    assert torch.equal(box.nearest_vertex(y), torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 1.0]]))
    log = box.log(y)
    binary = float(entropy([0.75, 0.25]))
    torch.testing.assert_close(log["entropy"], torch.tensor([binary / 2, 0.0]))
    torch.testing.assert_close(log["relative_entropy"], torch.tensor([binary / 2 / math.log(2), 0.0]))
    torch.testing.assert_close(log["invalid_mass"], torch.tensor([(1.5 + 2) / 2, 1.5]))
