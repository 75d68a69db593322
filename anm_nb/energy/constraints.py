"""Constraint sets for mined negatives, each with its exact projection (ANM checklist, sections B and G)."""

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


def at_length(direction: Points, length: Values) -> Points:
    """Rescale every direction to its length; zero vectors stay zero."""
    return direction * (length / direction.norm(dim=1).clamp_min(1e-30)).unsqueeze(1)


class Constraint(ABC):
    """A closed set of points and its Euclidean projection Π."""

    @abstractmethod
    def project(self, y: Points) -> Points:
        """Nearest points of the set, row by row."""

    def residual(self, y: Points) -> Values:
        """Distance to the set, ‖y − Π(y)‖."""
        return (y - self.project(y)).norm(dim=1)

    def start(self, truth: Points, direction: Points, distance: Values) -> Points:
        """Feasible points in these directions at `distance` from the truth, or nearer if the set ends before that."""
        start = truth + at_length(self.project(truth + at_length(direction, distance)) - truth, distance)
        outside = self.residual(start) > 1e-5 * distance  # by more than rounding
        return torch.where(outside.unsqueeze(1), self.project(start), start)


@dataclass(frozen=True)
class _Ball(Constraint):
    """Points near a centre, equal to it in `fixed` entries. Raises `ParameterError` unless all radii are positive."""

    center: Points
    radius: Values
    fixed: Mask | None = None

    def __post_init__(self) -> None:
        if host_may_wait() and bool((refused := ~(self.radius > 0)).any()):
            example = int(refused.nonzero()[0])
            raise ParameterError(f"radius of example {example} = {float(self.radius[example])}: should be positive")

    def free(self, shift: Points) -> Points:
        """`shift` with zeros in fixed entries."""
        return shift if self.fixed is None else shift.masked_fill(self.fixed, 0)


@dataclass(frozen=True)
class L2Ball(_Ball):
    """‖y − center‖ ≤ `radius` [b], y = center in `fixed` entries, and (y − center) ⟂ `normal` if that is set."""

    normal: Points | None = None

    def project(self, y: Points) -> Points:
        shift = self.tangent(y - self.center)
        length = shift.norm(dim=1, keepdim=True)
        # The factor min(1, radius/length); a zero shift stays zero.
        return self.center + shift * (self.radius.unsqueeze(1) / length.clamp_min(1e-30)).clamp_max(1.0)

    def start(self, truth: Points, direction: Points, distance: Values) -> Points:
        return truth + at_length(self.tangent(direction), distance)  # along tangents the set reaches `radius` far

    def tangent(self, direction: Points) -> Points:
        """The direction without its fixed entries and without its component along `normal`."""
        direction, normal = self.free(direction), self._unit_normal
        return direction if normal is None else direction - (direction * normal).sum(1, keepdim=True) * normal

    @cached_property
    def _unit_normal(self) -> Points | None:
        return None if self.normal is None else F.normalize(self.free(self.normal), eps=1e-15)


@dataclass(frozen=True)
class LinfBall(_Ball):
    """Box: |y_i − center_i| ≤ `radius` [b] for every entry i, and y_i = center_i in `fixed` entries."""

    def project(self, y: Points) -> Points:
        radius = self.radius.unsqueeze(1)
        return self.center + torch.clamp(self.free(y - self.center), -radius, radius)


@dataclass(frozen=True)
class MaskedSimplex(Constraint):
    """Groups of `classes` consecutive entries, each a probability simplex rescaled from [0, 1] to [−1, 1].

    Entries are −1 if they are not `allowed`, are clues (`fixed`) of −1, or share a group with a clue of 1. All others
    are open. Raises `ParameterError` for a group without an open entry.
    """

    allowed: Mask
    classes: int
    fixed: Clues | None = None

    def __post_init__(self) -> None:
        if host_may_wait() and bool((refused := ~self._open.any(2)).any()):
            where = "example {}, group {}".format(*refused.nonzero()[0].tolist())
            raise ParameterError(f"{where}: `allowed` and the clues leave no class")

    def project(self, y: Points) -> Points:
        """Open entries p become max(p − τ, 0), which sum to 1; τ is found by sorting (Duchi et al. 2008, figure 1)."""
        p = self._probabilities(y).masked_fill(~self._open, -torch.inf)
        p = p - p.amax(2, keepdim=True)  # shifts τ alike, and avoids cancellation
        descending = p.sort(dim=2, descending=True).values
        excess, rank = descending.cumsum(2) - 1, torch.arange(1, self.classes + 1, device=y.device)
        support = (descending * rank > excess).sum(2, keepdim=True).clamp_min(1)  # closed entries: −∞ > −∞ is false
        threshold = excess.gather(2, support - 1) / support
        return (2 * (p - threshold).clamp_min(0) - 1).flatten(1)

    def nearest_vertex(self, y: Points) -> Points:
        """One-hot at the largest open entry of each group; the first one in a tie."""
        p = self._probabilities(y)
        best = p.masked_fill(~self._open, -torch.inf).argmax(2, keepdim=True)
        return torch.full_like(p, -1).scatter(2, best, 1.0).flatten(1)

    def log(self, y: Points) -> dict[str, Tensor]:
        """Columns of section G [b]: mean entropy of groups with a choice, in nats and relative to log(open classes)."""
        p, choices = self._probabilities(y), self._open.sum(2)
        entropy, counted = entr(p.clamp_min(0)).sum(2), choices > 1
        by_name = {"entropy": entropy, "relative_entropy": entropy / choices.clamp_min(2).log()}
        log = {name: (each * counted).sum(1) / counted.sum(1).clamp_min(1) for name, each in by_name.items()}
        return log | {"invalid_mass": (p * ~self._open).flatten(1).abs().sum(1)}  # Σ|p| of entries that are not open

    def _probabilities(self, y: Tensor) -> Float[Tensor, "b groups classes"]:
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
    """Box of relaxed answers in which every entry is a decision between ±1; `fixed` entries stay at the centre."""

    def nearest_vertex(self, y: Points) -> Points:
        """Signs of the free entries, +1 for zero; fixed entries equal the centre's."""
        signs = torch.where(y < 0, -1.0, 1.0).to(y.dtype)
        return signs if self.fixed is None else torch.where(self.fixed, self.center, signs)

    def log(self, y: Points) -> dict[str, Tensor]:
        """The columns of `MaskedSimplex.log` over free entries, where p = (y + 1)/2 is the probability of +1."""
        p, free = ((y + 1) / 2).clamp(0, 1), self.free(torch.ones_like(y))
        entropy = ((entr(p) + entr(1 - p)) * free).sum(1) / free.sum(1).clamp_min(1)
        invalid = (y - self.project(y)).abs().sum(1) / 2
        return {"entropy": entropy, "relative_entropy": entropy / math.log(2), "invalid_mass": invalid}
