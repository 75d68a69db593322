"""Balls that a mined negative has to stay in, each with its exact projection (ANM checklist, section B)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anm_nb.config import ParameterError


@dataclass(frozen=True)
class Ball:
    """Points around `center` whose distance from it, in some norm, is at most `radius` [batch].

    With `normal`, only those with (y − center) ⟂ normal; with `fixed`, only those equal to the centre in those entries.
    Raises `ParameterError` for a radius that is not positive, by example.
    """

    center: Float[Tensor, "b d"]
    radius: Float[Tensor, " b"]
    normal: Float[Tensor, "b d"] | None = None
    fixed: Bool[Tensor, "b d"] | None = None

    def __post_init__(self) -> None:
        refused = ~(self.radius > 0)
        if bool(refused.any()):
            example = int(refused.nonzero()[0])
            raise ParameterError(f"radius of example {example} = {float(self.radius[example])}: should be positive")

    def project(self, y: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """The nearest point of the set, row by row.

        Fixed entries leave the problem altogether: what remains is the projection in the space of the others.
        """
        shift, normal = y - self.center, self.normal
        if self.fixed is not None:
            shift = shift.masked_fill(self.fixed, 0)
            normal = None if normal is None else normal.masked_fill(self.fixed, 0)
        return self.center + self._shortened(shift, normal)

    def residual(self, y: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """‖y − Π(y)‖, zero up to rounding for a feasible y."""
        return (y - self.project(y)).norm(dim=1)

    def _shortened(self, shift: Tensor, normal: Tensor | None) -> Tensor:
        """The projection of a shift from the centre."""
        raise NotImplementedError


@dataclass(frozen=True)
class L2Ball(Ball):
    """Points within `radius` of `center` in the Euclidean norm.

    The centre lies in the hyperplane, so projecting onto the hyperplane and then onto the ball is the projection onto
    their intersection.
    """

    def _shortened(self, shift: Tensor, normal: Tensor | None) -> Tensor:
        if normal is not None:
            squared = normal.square().sum(1, keepdim=True).clamp_min(1e-30)  # zero where every entry is fixed
            shift = shift - (shift * normal).sum(1, keepdim=True) / squared * normal
        length = shift.norm(dim=1, keepdim=True)
        # min(1, r/length), written so that a zero shift stays zero
        return shift * (self.radius.unsqueeze(1) / length.clamp_min(1e-30)).clamp_max(1.0)


@dataclass(frozen=True)
class LinfBall(Ball):
    """Points no entry of which is further than `radius` from that of `center`: a box.

    With a normal a the projection is clip(shift − μa, ±radius) for the root μ of the dual's slope
    g(μ) = a·clip(shift − μa, ±radius), which never rises and is linear between breakpoints (Brucker 1984,
    "An O(n) algorithm for quadratic knapsack problems"; here by sorting and bisection over the sorted breakpoints).
    """

    def _shortened(self, shift: Tensor, normal: Tensor | None) -> Tensor:
        radius = self.radius.unsqueeze(1)
        if normal is None:
            return torch.clamp(shift, -radius, radius)
        largest = normal.abs().amax(1, keepdim=True).clamp_min(1e-30)  # zero where every entry is fixed
        normal = normal / largest
        return torch.clamp(shift - _root(shift, normal, radius) * normal, -radius, radius)


def _root(shift: Float[Tensor, "b d"], normal: Float[Tensor, "b d"], radius: Float[Tensor, "b 1"]) -> Tensor:
    """A root μ [b, 1] of g(μ) = normal · clip(shift − μ normal, ±radius), for normals with entries in [−1, 1]."""
    flat = normal.abs() < 1e-30
    divisor = normal.masked_fill(flat, 1.0)
    ends = torch.cat([(shift - radius) / divisor, (shift + radius) / divisor], dim=1)
    breaks = ends.masked_fill(torch.cat([flat, flat], dim=1), 0.0).sort(dim=1).values

    def slope(mu: Tensor) -> Tensor:
        return (normal * torch.clamp(shift - mu * normal, -radius, radius)).sum(1, keepdim=True)

    below = torch.zeros(len(shift), 1, dtype=torch.long, device=shift.device)  # g ≥ 0 at the first breakpoint …
    above = below + breaks.shape[1] - 1  # … and ≤ 0 at the last
    for _ in range((breaks.shape[1] - 1).bit_length()):
        middle = (below + above) // 2
        positive = slope(breaks.gather(1, middle)) > 0
        below, above = torch.where(positive, middle, below), torch.where(positive, above, middle)
    left, right = breaks.gather(1, below), breaks.gather(1, above)
    inner = left + (right - left) / 2
    moving = ((shift - inner * normal).abs() < radius) & ~flat
    clipped = torch.clamp(shift - inner * normal, -radius, radius)
    steepness = (normal.square() * moving).sum(1, keepdim=True)
    root = (normal * torch.where(moving, shift, clipped)).sum(1, keepdim=True) / steepness
    return torch.where(steepness > 0, torch.clamp(root, left, right), inner)  # where g is flat, any μ is a root
