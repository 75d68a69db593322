"""Sets that a mined negative has to stay in, each with its exact projection (ANM checklist, section B)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class L2Ball:
    """Points within `radius` [batch] of `center`; with `normal`, only those with (y − center) ⟂ normal.

    The centre lies in the hyperplane, so projecting onto the hyperplane and then onto the ball is the projection onto
    their intersection.
    """

    center: Float[Tensor, "b d"]
    radius: Float[Tensor, " b"]
    normal: Float[Tensor, "b d"] | None = None

    def project(self, y: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """The nearest point of the set, row by row."""
        shift = y - self.center
        if self.normal is not None:
            along = (shift * self.normal).sum(1, keepdim=True) / self.normal.square().sum(1, keepdim=True)
            shift = shift - along * self.normal
        length = shift.norm(dim=1, keepdim=True)
        # min(1, r/length), written so that a zero shift stays zero
        return self.center + shift * (self.radius.unsqueeze(1) / length.clamp_min(1e-30)).clamp_max(1.0)

    def residual(self, y: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """‖y − Π(y)‖, zero up to rounding for a feasible y."""
        return (y - self.project(y)).norm(dim=1)
