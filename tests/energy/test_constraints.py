"""Projections onto balls: feasible, idempotent, and no feasible point is nearer (scipy's SLSQP in float64 says so)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from anm_nb.config import ParameterError
from anm_nb.energy.constraints import L2Ball, LinfBall
from anm_nb.training.seeds import generator

BALLS = {L2Ball: 2, LinfBall: float("inf")}  # and their norms
kinds = st.sampled_from(list(BALLS))


def ball(kind, seed, with_normal, with_fixed, batch=3, dim=5, dtype=torch.float32):
    source = generator(seed, "test")
    center, normal = torch.randn(2, batch, dim, generator=source, dtype=dtype)
    radius = torch.rand(batch, generator=source, dtype=dtype) + 0.1
    fixed = torch.rand(batch, dim, generator=source) < 0.3
    y = center + 3 * torch.randn(batch, dim, generator=source, dtype=dtype) * torch.rand(batch, 1, generator=source)
    return kind(center, radius, normal if with_normal else None, fixed if with_fixed else None), y


@given(kind=kinds, seed=st.integers(0, 10**6), with_normal=st.booleans(), with_fixed=st.booleans())
def test_projection_is_feasible_and_idempotent(kind, seed, with_normal, with_fixed):
    constraint, y = ball(kind, seed, with_normal, with_fixed, dim=12)
    projected = constraint.project(y)
    shift = projected - constraint.center
    assert (torch.linalg.vector_norm(shift, BALLS[kind], dim=1) <= constraint.radius * (1 + 1e-5)).all()
    if with_normal:
        assert (shift * constraint.normal).sum(1).abs().max() < 1e-4
    if with_fixed:
        assert torch.equal(projected[constraint.fixed], constraint.center[constraint.fixed])
    torch.testing.assert_close(constraint.project(projected), projected, atol=1e-5, rtol=1e-5)
    assert constraint.residual(projected).max() < 1e-5


@settings(max_examples=60)
@given(kind=kinds, seed=st.integers(0, 10**6), with_normal=st.booleans(), with_fixed=st.booleans())
def test_no_feasible_point_is_nearer(kind, seed, with_normal, with_fixed):
    constraint, y = ball(kind, seed, with_normal, with_fixed, batch=1, dtype=torch.float64)
    center, radius, target = (t[0].numpy() for t in (constraint.center, constraint.radius, y))
    conditions, bounds = [], None
    if kind is L2Ball:
        conditions.append({"type": "ineq", "fun": lambda p: radius**2 - ((p - center) ** 2).sum()})
    else:
        bounds = list(zip(center - radius, center + radius, strict=True))
    if with_normal:
        normal = constraint.normal[0].numpy()
        conditions.append({"type": "eq", "fun": lambda p: (p - center) @ normal})
    if with_fixed:
        held = constraint.fixed[0].numpy()
        conditions.append({"type": "eq", "fun": lambda p: (p - center)[held]})
    best = minimize(
        lambda p: ((p - target) ** 2).sum(),
        center,
        bounds=bounds,
        constraints=conditions,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    ours = np.linalg.norm(constraint.project(y)[0].numpy() - target)
    assert ours == pytest.approx(np.sqrt(best.fun), abs=1e-5)


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_a_box_with_a_plane_is_projected_onto_at_every_scale_and_with_ties(seed, scale):
    """Optimality itself (KKT): y − Π(y) − μ·normal is zero inside and points outwards at every face, for some μ."""
    source = generator(seed, "test")
    normal = torch.randint(-2, 3, (4, 30), generator=source).double()  # many equal and many zero entries
    shift = scale * torch.randint(-3, 4, (4, 30), generator=source).double()
    box = LinfBall(torch.zeros(4, 30, dtype=torch.float64), torch.full((4,), scale, dtype=torch.float64), normal)
    z = box.project(shift)
    assert (z.abs() <= scale * (1 + 1e-12)).all()
    assert (z * normal).sum(1).abs().max() < 1e-9 * scale
    for given_, found, a in zip(shift.numpy(), z.numpy(), normal.numpy(), strict=True):
        gap, bent = given_ - found, a != 0
        high, low = found >= scale * (1 - 1e-12), found <= -scale * (1 - 1e-12)
        assert (gap[~bent & ~high] <= 1e-9 * scale).all()
        assert (gap[~bent & ~low] >= -1e-9 * scale).all()
        # gap ≥ μa at the upper face, ≤ at the lower, = between: an interval for μ from every entry, and one in common
        at_most = (high & (a > 0)) | (low & (a < 0))  # entries whose ratio bounds μ from above
        at_least = (high & (a < 0)) | (low & (a > 0))
        ratio = np.divide(gap, a, out=np.zeros_like(gap), where=bent)
        upper, lower = ratio[bent & ~at_least], ratio[bent & ~at_most]
        assert max(lower, default=-np.inf) <= min(upper, default=np.inf) + 1e-9 * scale


@pytest.mark.parametrize("kind", BALLS)
def test_residual_is_the_distance_from_the_set(kind):
    constraint = kind(torch.zeros(2, 2), torch.tensor([1.0, 1.0]))
    distance = {L2Ball: 4.0, LinfBall: (2**2 + 3**2) ** 0.5}[kind]
    torch.testing.assert_close(
        constraint.residual(torch.tensor([[3.0, 4.0], [0.3, 0.4]])), torch.tensor([distance, 0.0])
    )


@pytest.mark.parametrize("kind", BALLS)
def test_the_centre_itself_is_a_fixed_point_even_where_every_entry_is_held(kind):
    constraint, y = ball(kind, 0, True, False)
    assert torch.equal(constraint.project(constraint.center), constraint.center)
    held = kind(constraint.center, constraint.radius, constraint.normal, torch.ones_like(y, dtype=torch.bool))
    assert torch.equal(held.project(y), constraint.center)


@pytest.mark.parametrize("kind", BALLS)
@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan")])
def test_a_radius_that_is_not_positive_is_refused_by_example(kind, radius):
    with pytest.raises(ParameterError, match=rf"radius of example 1 = {radius}: should be positive"):
        kind(torch.zeros(3, 2), torch.tensor([1.0, radius, 0.0]))
