"""Projections: feasible, idempotent, and no feasible point is nearer (scipy's SLSQP in float64 says so)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from anm_nb.energy.constraints import L2Ball
from anm_nb.training.seeds import generator


def ball(seed, with_normal, batch=3, dim=4):
    source = generator(seed, "test")
    center, normal = torch.randn(2, batch, dim, generator=source)
    radius = torch.rand(batch, generator=source) + 0.1
    y = center + 3 * torch.randn(batch, dim, generator=source) * torch.rand(batch, 1, generator=source)
    return L2Ball(center, radius, normal if with_normal else None), y


@given(seed=st.integers(0, 10**6), with_normal=st.booleans())
def test_projection_is_feasible_and_idempotent(seed, with_normal):
    constraint, y = ball(seed, with_normal)
    projected = constraint.project(y)
    shift = projected - constraint.center
    assert (shift.norm(dim=1) <= constraint.radius * (1 + 1e-5)).all()
    if with_normal:
        assert (shift * constraint.normal).sum(1).abs().max() < 1e-4
    torch.testing.assert_close(constraint.project(projected), projected, atol=1e-5, rtol=1e-5)
    assert constraint.residual(projected).max() < 1e-5


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), with_normal=st.booleans())
def test_no_feasible_point_is_nearer(seed, with_normal):
    constraint, y = ball(seed, with_normal, batch=1)
    center, radius, target = (t[0].double().numpy() for t in (constraint.center, constraint.radius, y))
    conditions = [{"type": "ineq", "fun": lambda p: radius**2 - ((p - center) ** 2).sum()}]
    if with_normal:
        normal = constraint.normal[0].double().numpy()
        conditions.append({"type": "eq", "fun": lambda p: (p - center) @ normal})
    best = minimize(lambda p: ((p - target) ** 2).sum(), center, constraints=conditions, method="SLSQP")
    ours = np.linalg.norm(constraint.project(y)[0].double().numpy() - target)
    assert ours == pytest.approx(np.sqrt(best.fun), abs=2e-3)


def test_residual_is_the_distance_from_the_set():
    constraint = L2Ball(torch.zeros(2, 2), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(constraint.residual(torch.tensor([[3.0, 4.0], [0.3, 0.4]])), torch.tensor([4.0, 0.0]))


def test_the_centre_itself_is_a_fixed_point():
    constraint, _ = ball(0, True)
    assert torch.equal(constraint.project(constraint.center), constraint.center)
