"""Search or model? What a search found beside the truth, and who is to blame for each failure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anm_nb.energy.search import Problem, Search


@dataclass(frozen=True)
class Found:
    """What a search found for b problems: n answers, their energies, what each cost, and the truth's energy."""

    answers: Float[Tensor, "n b d"]
    energies: Float[Tensor, "n b"]
    costs: Float[np.ndarray, " n"]  # forward passes a problem, all up to that answer
    truth: Float[Tensor, " b"]
    right: Bool[Tensor, "n b"]

    def of(self, rows: slice) -> Found:
        """What was found for some of the problems."""
        return Found(self.answers[:, rows], self.energies[:, rows], self.costs, self.truth[rows], self.right[:, rows])

    def chosen(self, values: Tensor) -> Tensor:
        """Of values [n, b], those of the answer of lowest energy so far, after each answer."""
        return values.gather(0, self.energies.cummin(0).indices)


def search(
    way: Search, problem: Problem, generator: torch.Generator, accepted: Callable, budget: float = math.inf
) -> Found:
    """Run a search; each answer is judged by its energy, which is counted. `accepted(y)` [b] says which are right.

    A point between the answers of a discrete task stands for the nearest, and is judged as that: relaxed points may
    have energies that no answer has. What is found after the `budget` is spent, in forward passes a problem, does not
    count; the first answer always does.
    """
    problem.cost, rows = 0.0, list[tuple[Tensor, Tensor, float, Tensor]]()
    for point in way(problem, generator):
        y = problem.answer(point)
        energy = problem.energy(y)
        if rows and problem.cost > budget:
            break
        rows.append((y, energy, problem.cost, accepted(y).bool()))
    answers, energies, costs, right = zip(*rows, strict=True)
    truth = problem.energy(problem.batch.y)
    return Found(torch.stack(answers), torch.stack(energies), np.array(costs), truth, torch.stack(right))


def blame(found: Found, strongest: Found | None = None) -> pd.Series:
    """Each problem [b] as "solved", "search error" or "model error".

    A failure is the model's where a wrong answer whose energy is at or below the truth's is known, from this search or
    from the strongest of all; else the search's: the truth, or something better than what it returned, was there.
    """
    known = [(~each.right & (each.energies <= each.truth)).any(0) for each in (found, strongest or found)]
    failed = np.where((known[0] | known[1]).cpu(), "model error", "search error")
    return pd.Series(np.where(found.chosen(found.right)[-1].cpu(), "solved", failed), name="blame")
