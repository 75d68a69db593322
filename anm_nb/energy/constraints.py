"""Sets that a mined negative has to stay in, each with its exact projection (ANM checklist, sections B and G).

Balls around the truth, and the relaxed answers of discrete tasks. These are flat and live in {−1, 1}: groups of one-hot
entries (`MaskedSimplex`), or signs (`SignBox`). Values are checked where the host may wait for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.special import entr

from anm_nb.config import ParameterError
from anm_nb.tasks.base import Clues
from anm_nb.training.graph import host_may_wait

ENTROPY_BAND = (0.05, 0.95)  # the checklist's "middle band" (section G), shares of the largest entropy allowed
_MASS_TOLERANCE = 1e-4


class Constraint:
    """A set with its projection."""

    def project(self, y: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """The nearest point of the set, row by row."""
        raise NotImplementedError

    def residual(self, y: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """‖y − Π(y)‖, zero up to rounding for a feasible y."""
        return (y - self.project(y)).norm(dim=1)


@dataclass(frozen=True)
class Ball(Constraint):
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
        if host_may_wait() and bool(refused.any()):
            example = int(refused.nonzero()[0])
            raise ParameterError(f"radius of example {example} = {float(self.radius[example])}: should be positive")


@dataclass(frozen=True)
class L2Ball(Ball):
    """Points within `radius` of `center` in the Euclidean norm.

    The centre lies in the hyperplane, so projecting onto the hyperplane and then onto the ball is the projection onto
    their intersection.
    """

    def project(self, y: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """The nearest point of the set, row by row."""
        shift = self.tangent(y - self.center)
        length = shift.norm(dim=1, keepdim=True)
        # min(1, r/length), written so that a zero shift stays zero
        return self.center + shift * (self.radius.unsqueeze(1) / length.clamp_min(1e-30)).clamp_max(1.0)

    def tangent(self, direction: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """A direction without its fixed entries and its part along `normal`: the set reaches `radius` far along it."""
        if self.fixed is not None:
            direction = direction.masked_fill(self.fixed, 0)
        if self.normal is None:
            return direction
        return direction - (direction * self._unit_normal).sum(1, keepdim=True) * self._unit_normal

    @cached_property
    def _unit_normal(self) -> Float[Tensor, "b d"]:
        """The normal in the space of the entries that are not fixed; zero where every entry is."""
        assert self.normal is not None
        normal = self.normal if self.fixed is None else self.normal.masked_fill(self.fixed, 0)
        return normal / normal.norm(dim=1, keepdim=True).clamp_min(1e-15)


@dataclass(frozen=True)
class LinfBall(Ball):
    """Points no entry of which is further than `radius` from that of `center`: a box.

    With a normal a the projection is clip(shift − μa, ±radius) for the root μ of the dual's slope
    g(μ) = a·clip(shift − μa, ±radius), which never rises and is linear between breakpoints (Brucker 1984,
    "An O(n) algorithm for quadratic knapsack problems"; here by sorting and bisection over the sorted breakpoints).
    """

    def project(self, y: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """The nearest point of the set, row by row.

        Fixed entries leave the problem altogether: what remains is the projection in the space of the others.
        """
        shift, normal = y - self.center, self.normal
        if self.fixed is not None:
            shift = shift.masked_fill(self.fixed, 0)
            normal = None if normal is None else normal.masked_fill(self.fixed, 0)
        return self.center + self._clipped(shift, normal)

    def _clipped(self, shift: Tensor, normal: Tensor | None) -> Tensor:
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


@dataclass(frozen=True)
class MaskedSimplex(Constraint):
    """Groups of `classes` consecutive entries, each a probability simplex scaled from [0, 1] to [−1, 1].

    Entries not `allowed` are at −1, entries `fixed` at their values; what these leave of a group's probability is
    shared by its other entries. Raises `ParameterError` for zero classes, a shape that groups do not fill, and a group
    (named with its example) in which no allowed class can take the probability that is left.
    """

    allowed: Bool[Tensor, "b d"]
    classes: int
    fixed: Clues | None = None

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise ParameterError(f"classes = {self.classes}: a simplex needs at least 1 class")
        if self.allowed.shape[1] % self.classes:
            raise ParameterError(f"classes = {self.classes}: does not divide {self.allowed.shape[1]} entries")
        mass, free = self._mass_left(), self._free()
        refused = (mass < -_MASS_TOLERANCE) | (~free.any(2) & (mass.abs() > _MASS_TOLERANCE))
        if host_may_wait() and bool(refused.any()):
            where = "example {}, group {}".format(*refused.nonzero()[0].tolist())
            left = float(mass[refused][0])
            raise ParameterError(f"{where}: no allowed class is left for a probability of {left:.4g}")

    def project(self, y: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """The nearest point of the set, by sorting (Held, Wolfe & Crowder 1974; Duchi et al. 2008, figure 1).

        A group's allowed free entries p become max(p − τ, 0), with τ such that they sum to the probability left.
        """
        free, mass, p = self._free(), self._mass_left().unsqueeze(2), self._probabilities(y)
        p = p.masked_fill(~free, -torch.inf)
        top = p.amax(2, keepdim=True)
        p = p - torch.where(top.isfinite(), top, 0.0)  # τ moves along, and large entries do not cancel
        descending = p.sort(dim=2, descending=True).values
        present = descending.isfinite()
        excess = descending.masked_fill(~present, 0).cumsum(2) - mass
        rank = torch.arange(1, self.classes + 1, device=y.device)
        support = ((descending * rank > excess) & present).sum(2, keepdim=True).clamp_min(1)
        threshold = excess.gather(2, support - 1) / support
        return self._targets((p - threshold).clamp_min(0))

    def nearest_vertex(self, y: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """One-hot at the largest allowed free entry of each group, the first of equals; given entries as given."""
        p = self._probabilities(y)
        best = p.masked_fill(~self._free(), -torch.inf).argmax(2, keepdim=True)
        return self._targets(torch.zeros_like(p).scatter(2, best, self._mass_left().unsqueeze(2).to(p.dtype)))

    def decisions_changed(self, y: Float[Tensor, "b d"], other: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """Groups [batch] whose largest entry differs."""
        return (self._probabilities(y).argmax(2) != self._probabilities(other).argmax(2)).sum(1).to(y.dtype)

    def log(self, y: Float[Tensor, "b d"]) -> dict[str, Tensor]:
        """The columns of section G.

        entropy: −Σ p log p in nats, the mean over groups with a choice, 0 without one. relative_entropy: over the log
        of the number of allowed classes, to be read against `ENTROPY_BAND`. invalid_mass: Σ|p| over disallowed entries
        and over those given as −1, the mask compliance, 0 when feasible.
        """
        choices, forbidden = self._free().sum(2), ~self.allowed
        if self.fixed is not None:
            forbidden = torch.where(self.fixed.mask, self.fixed.values <= -1, forbidden)
        entropy, counted = entr(self._probabilities(y).clamp_min(0)).sum(2), choices > 1
        groups = counted.sum(1).clamp_min(1)
        return {
            "entropy": (entropy * counted).sum(1) / groups,
            "relative_entropy": (entropy / choices.clamp_min(2).log() * counted).sum(1) / groups,
            "invalid_mass": ((y + 1) / 2 * forbidden).abs().sum(1),
        }

    def _probabilities(self, y: Tensor) -> Float[Tensor, "b groups classes"]:
        return ((y + 1) / 2).unflatten(1, (-1, self.classes))

    def _targets(self, p: Float[Tensor, "b groups classes"]) -> Float[Tensor, "b d"]:
        y = (2 * p - 1).flatten(1)
        return y if self.fixed is None else self.fixed.impose(y)

    def _free(self) -> Bool[Tensor, "b groups classes"]:
        """Entries that may take probability and are not given."""
        free = self.allowed if self.fixed is None else self.allowed & ~self.fixed.mask
        return free.unflatten(1, (-1, self.classes))

    def _mass_left(self) -> Float[Tensor, "b groups"]:
        """The probability of each group that its given entries leave."""
        if self.fixed is None:
            groups = self.allowed.shape[1] // self.classes
            return torch.ones(len(self.allowed), groups, device=self.allowed.device)
        given = self._probabilities(self.fixed.values) * self.fixed.mask.unflatten(1, (-1, self.classes))
        return 1 - given.sum(2)


@dataclass(frozen=True)
class SignBox(LinfBall):
    """[−1, 1]^d: relaxed answers whose every entry is a decision of its own; `fixed` entries stay at the centre."""

    @classmethod
    def around(cls, answers: Float[Tensor, "b d"], fixed: Bool[Tensor, "b d"]) -> SignBox:
        """The box with the entries `fixed` held at those of `answers`."""
        return cls(answers * fixed, torch.ones_like(answers[:, 0]), fixed=fixed)

    def nearest_vertex(self, y: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """The signs of free entries, +1 for zero; fixed entries as they are."""
        signs = torch.where(y < 0, -1.0, 1.0).to(y.dtype)
        return signs if self.fixed is None else torch.where(self.fixed, self.center, signs)

    def decisions_changed(self, y: Float[Tensor, "b d"], other: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """Entries [batch] whose sign differs."""
        return ((y < 0) != (other < 0)).sum(1).to(y.dtype)

    def log(self, y: Float[Tensor, "b d"]) -> dict[str, Tensor]:
        """Mean binary entropy of the free entries, in nats and over log 2; what lies beyond [−1, 1] or left its place.

        The columns of section G, read entry by entry: p = (y + 1)/2 is the probability of +1.
        """
        p = ((y + 1) / 2).clamp(0, 1)
        free = torch.ones_like(y) if self.fixed is None else (~self.fixed).to(y.dtype)
        entropy = ((entr(p) + entr(1 - p)) * free).sum(1) / free.sum(1).clamp_min(1)
        invalid = (y - self.project(y)).abs().sum(1) / 2
        return {"entropy": entropy, "relative_entropy": entropy / math.log(2), "invalid_mass": invalid}


DiscreteSet = MaskedSimplex | SignBox  # convex sets whose vertices are a discrete task's answers
