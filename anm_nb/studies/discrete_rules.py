"""Rules of discrete tasks: what an answer may not do, whether or not it is the right one (ANM checklist, section G).

A rule can be checked without knowing the answer, so an answer that breaks none may still be wrong.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anm_nb.config import ParameterError
from anm_nb.tasks import task_class
from anm_nb.tasks.base import Batch, DenoisingTask


@runtime_checkable
class Rules(Protocol):
    """What a discrete task brings for its constraint violations to be counted."""

    def violation_rate(self, task: DenoisingTask, answers: Tensor, batch: Batch) -> Tensor:
        """The share [n] of constraints that answers [n, y_dim] in {−1, 1} break, in [0, 1]."""

    def excluded_mass(self, y: Tensor, batch: Batch) -> Tensor:
        """The probability [n] that relaxed answers [n, y_dim] give to what the problem alone already excludes.

        p = (y + 1)/2; a mean over the decisions it could be wrong in, so in [0, 1] for a feasible y.
        """


class SudokuRules:
    """Rows, columns and boxes hold every digit once; an empty cell cannot hold the digit of a clue that it sees."""

    def violation_rate(
        self, task: DenoisingTask, answers: Float[Tensor, "n entries"], batch: Batch
    ) -> Float[Tensor, " n"]:
        """The share of rows, columns and boxes that do not hold every digit once: the task's own metric."""
        return task.scores(answers, batch)["violation_rate"].to(answers.dtype)

    def excluded_mass(self, y: Float[Tensor, "n entries"], batch: Batch) -> Float[Tensor, " n"]:
        """The mean over empty cells of the probability of digits given in the cell's row, column or box."""
        size = round(y.shape[1] ** (1 / 3))
        clues = (batch.x > 0).to(y.dtype).unflatten(1, (-1, size))
        excluded = torch.einsum("cp,npd->ncd", _peers(size, y.device).to(y.dtype), clues) > 0
        empty = clues.sum(2) == 0
        mass = (((y + 1) / 2).unflatten(1, (-1, size)) * excluded).sum(2)
        return (mass * empty).sum(1) / empty.sum(1).clamp_min(1)


class ConnectivityRules:
    """Reachability is symmetric and transitive and contains every edge; each node reaches itself.

    The smallest relation of that kind is the right answer. "All nodes are connected" breaks no rule either.
    """

    def violation_rate(
        self, task: DenoisingTask, answers: Float[Tensor, "n pairs"], batch: Batch
    ) -> Float[Tensor, " n"]:
        """The share of ordered pairs i ≠ j that break a rule: an edge denied, i→j but not j→i, or a detour denied.

        A detour is a node m with i→m and m→j. The diagonal is taken as reached, as the task's scores take it.
        """
        nodes = math.isqrt(answers.shape[1])
        diagonal = torch.eye(nodes, dtype=torch.bool, device=answers.device)
        reached = (answers > 0).unflatten(1, (nodes, nodes)) | diagonal
        edges = (batch.x > 0).unflatten(1, (nodes, nodes))
        detour = reached.to(answers.dtype) @ reached.to(answers.dtype) > 0
        broken = (~reached & (edges | detour)) | (reached != reached.mT)
        return broken[:, ~diagonal].to(answers.dtype).mean(1)

    def excluded_mass(self, y: Float[Tensor, "n pairs"], batch: Batch) -> Float[Tensor, " n"]:
        """The mean over edges and the diagonal of the probability of "not reached"."""
        nodes = math.isqrt(y.shape[1])
        diagonal = torch.eye(nodes, dtype=torch.bool, device=y.device).flatten()
        settled = ((batch.x > 0) | diagonal).to(y.dtype)
        return ((1 - y) / 2 * settled).sum(1) / settled.sum(1)


RULES: dict[str, Rules] = {"connectivity": ConnectivityRules(), "sudoku": SudokuRules()}  # a user's task adds its own


def rules_of(name: str) -> Rules:
    """The rules of a task by its name. Raises `ParameterError` for a task that does not exist, or that has none."""
    task_class(name)
    if name not in RULES:
        raise ParameterError(
            f"task = '{name}': its answers follow no discrete rules; allowed: {', '.join(sorted(RULES))}"
        )
    return RULES[name]


def _peers(size: int, device: torch.device) -> Bool[Tensor, "cells cells"]:
    """Which cells of a size × size board see each other: by row, column or box."""
    box = math.isqrt(size)
    row, column = torch.cartesian_prod(*2 * [torch.arange(size, device=device)]).unbind(1)
    units = (row, column, row // box * box + column // box)
    seen = torch.stack([unit.unsqueeze(0) == unit.unsqueeze(1) for unit in units]).any(0)
    return seen & ~torch.eye(size**2, dtype=torch.bool, device=device)
