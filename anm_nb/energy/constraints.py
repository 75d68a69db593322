"""Sets that a mined negative has to stay in, each with its exact projection (ANM checklist, sections B and G)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torch.special import entr

from anm_nb.config import ParameterError
from anm_nb.energy.schedule import Points, Values
from anm_nb.tasks import Clues
from anm_nb.training.stack import host_may_wait

Mask = Bool[Tensor, "b d"]
Groups = Float[Tensor, "b groups classes"]


def at_length(direction: Points, length: Values) -> Points:
    """The directions with these lengths; a zero vector stays zero."""
    return direction * (length / direction.norm(dim=1).clamp_min(1e-30)).unsqueeze(1)


class Constraint(ABC):
    """A set with its projection."""

    @abstractmethod
    def project(self, y: Points) -> Points:
        """The nearest point of the set, row by row."""

    def residual(self, y: Points) -> Values:
        """‖y − Π(y)‖."""
        return (y - self.project(y)).norm(dim=1)

    def start(self, truth: Points, direction: Points, distance: Values) -> Points:
        """Feasible points in these directions, at that distance from the truth, nearer where the set ends before."""
        start = truth + at_length(self.project(truth + at_length(direction, distance)) - truth, distance)
        outside = self.residual(start) > 1e-5 * distance  # beyond rounding
        return torch.where(outside.unsqueeze(1), self.project(start), start)


@dataclass(frozen=True)
class _Ball(Constraint):
    """Points near a centre and, where `fixed`, equal to it. Raises `ParameterError` for radii that are not positive."""

    center: Points
    radius: Values
    fixed: Mask | None = None

    def __post_init__(self) -> None:
        if host_may_wait() and bool((refused := ~(self.radius > 0)).any()):
            example = int(refused.nonzero()[0])
            raise ParameterError(f"radius of example {example} = {float(self.radius[example])}: should be positive")

    def free(self, shift: Points) -> Points:
        return shift if self.fixed is None else shift.masked_fill(self.fixed, 0)


@dataclass(frozen=True)
class L2Ball(_Ball):
    """Points within `radius` [batch] of `center`, equal in `fixed` entries, and (y − center) ⟂ `normal` where given."""

    normal: Points | None = None

    def project(self, y: Points) -> Points:
        shift = self.tangent(y - self.center)
        length = shift.norm(dim=1, keepdim=True)
        # min(1, r/length), written so that a zero shift stays zero
        return self.center + shift * (self.radius.unsqueeze(1) / length.clamp_min(1e-30)).clamp_max(1.0)

    def start(self, truth: Points, direction: Points, distance: Values) -> Points:
        return truth + at_length(self.tangent(direction), distance)  # the set reaches as far in all its directions

    def tangent(self, direction: Points) -> Points:
        """A direction without its fixed entries and its part along `normal`: the set reaches `radius` far along it."""
        direction, normal = self.free(direction), self._unit_normal
        return direction if normal is None else direction - (direction * normal).sum(1, keepdim=True) * normal

    @cached_property
    def _unit_normal(self) -> Points | None:
        return None if self.normal is None else F.normalize(self.free(self.normal), eps=1e-15)


@dataclass(frozen=True)
class LinfBall(_Ball):
    """A box: points no entry of which is further than `radius` [batch] from the centre's, or where `fixed` at all."""

    def project(self, y: Points) -> Points:
        radius = self.radius.unsqueeze(1)
        return self.center + torch.clamp(self.free(y - self.center), -radius, radius)


@dataclass(frozen=True)
class MaskedSimplex(Constraint):
    """Groups of `classes` consecutive entries, each a probability simplex scaled from [0, 1] to [−1, 1].

    Entries not `allowed`, `fixed` at −1, or beside a given 1 are −1. `ParameterError` names a group with no class left.
    """

    allowed: Mask
    classes: int
    fixed: Clues | None = None

    def __post_init__(self) -> None:
        if host_may_wait() and bool((refused := ~self._open.any(2)).any()):
            where = "example {}, group {}".format(*refused.nonzero()[0].tolist())
            raise ParameterError(f"{where}: no class is allowed that is not given as another")

    def project(self, y: Points) -> Points:
        """The nearest point, by sorting (Duchi et al. 2008, figure 1): open entries p to max(p − τ, 0), of sum 1."""
        p = self._probabilities(y).masked_fill(~self._open, -torch.inf)
        p = p - p.amax(2, keepdim=True)  # τ moves along, and large entries do not cancel
        descending = p.sort(dim=2, descending=True).values
        present = descending.isfinite()
        excess = descending.masked_fill(~present, 0).cumsum(2) - 1
        rank = torch.arange(1, self.classes + 1, device=y.device)
        support = ((descending * rank > excess) & present).sum(2, keepdim=True).clamp_min(1)
        threshold = excess.gather(2, support - 1) / support
        return (2 * (p - threshold).clamp_min(0) - 1).flatten(1)

    def nearest_vertex(self, y: Points) -> Points:
        """One-hot at the largest open entry of each group, the first of equals."""
        p = self._probabilities(y)
        best = p.masked_fill(~self._open, -torch.inf).argmax(2, keepdim=True)
        return torch.full_like(p, -1).scatter(2, best, 1.0).flatten(1)

    def log(self, y: Points) -> dict[str, Tensor]:
        """Section G: mean entropy (nats; relative: by log open classes) of groups with a choice, Σ|p| not allowed."""
        p, choices = self._probabilities(y), self._open.sum(2)
        entropy, counted = entr(p.clamp_min(0)).sum(2), choices > 1
        by_name = {"entropy": entropy, "relative_entropy": entropy / choices.clamp_min(2).log()}
        log = {name: (each * counted).sum(1) / counted.sum(1).clamp_min(1) for name, each in by_name.items()}
        return log | {"invalid_mass": (p * ~self._open).flatten(1).abs().sum(1)}

    def _probabilities(self, y: Tensor) -> Groups:
        return ((y + 1) / 2).unflatten(1, (-1, self.classes))

    @cached_property
    def _open(self) -> Bool[Tensor, "b groups classes"]:
        allowed = self.allowed.unflatten(1, (-1, self.classes))
        if self.fixed is None:
            return allowed
        given, true = (each.unflatten(1, (-1, self.classes)) for each in (self.fixed.mask, self.fixed.values > 0))
        decided = (given & true).any(2, keepdim=True)
        return torch.where(decided, given & true, allowed & ~given)


@dataclass(frozen=True)
class SignBox(LinfBall):
    """A box in [−1, 1]^d of relaxed answers whose every entry is a decision; `fixed` entries stay at the centre."""

    def nearest_vertex(self, y: Points) -> Points:
        """The signs of free entries, +1 for zero; fixed entries as they are."""
        signs = torch.where(y < 0, -1.0, 1.0).to(y.dtype)
        return signs if self.fixed is None else torch.where(self.fixed, self.center, signs)

    def log(self, y: Points) -> dict[str, Tensor]:
        """The columns of `MaskedSimplex.log` for free entries, p = (y + 1)/2 being the probability of +1."""
        p, free = ((y + 1) / 2).clamp(0, 1), self.free(torch.ones_like(y))
        entropy = ((entr(p) + entr(1 - p)) * free).sum(1) / free.sum(1).clamp_min(1)
        invalid = (y - self.project(y)).abs().sum(1) / 2
        return {"entropy": entropy, "relative_entropy": entropy / math.log(2), "invalid_mass": invalid}
