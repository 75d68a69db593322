"""Search or model? What a search found beside the truth, who is to blame, and the energy as a verifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor

from anm_nb.energy.search import Problem, Search


@dataclass(frozen=True)
class Found:
    """What a search found for b problems: n answers with their energies, what each cost, and the truth's energy."""

    answers: Float[Tensor, "n b d"]
    energies: Float[Tensor, "n b"]
    costs: Float[np.ndarray, " n"]  # forward passes a problem, all up to that answer
    truth: Float[Tensor, " b"]
    right: Bool[Tensor, "n b"]

    def of(self, rows: slice) -> Found:
        """What was found for some of the problems."""
        return Found(self.answers[:, rows], self.energies[:, rows], self.costs, self.truth[rows], self.right[:, rows])

    @property
    def best(self) -> Int[Tensor, "n b"]:
        """After each answer, the place of the lowest energy so far."""
        lowest = self.energies.cummin(0)
        return lowest.indices


def search(
    way: Search,
    problem: Problem,
    generator: torch.Generator,
    accepted: Callable[[Tensor], Tensor],
    budget: float = float("inf"),
) -> Found:
    """Run a search; each answer is judged by its energy, which is counted. `accepted(y)` [b] says which are right.

    A point between the answers of a discrete task stands for the nearest, and is judged as that: relaxed points may
    have energies that no answer has. What is found after the `budget` is spent, in forward passes a problem, does not
    count; the first answer always does.
    """
    problem.cost = 0.0
    answers: list[Tensor] = []
    energies, costs, right = [], [], []
    for point in way.answers(problem, generator):
        y = problem.answer(point)
        energy = problem.energy(y)
        if answers and problem.cost > budget:
            break
        answers.append(y)
        energies.append(energy)
        costs.append(problem.cost)
        right.append(accepted(y).bool())
    spent = problem.cost
    truth = problem.energy(problem.batch.y)
    problem.cost = spent
    return Found(torch.stack(answers), torch.stack(energies), np.array(costs), truth, torch.stack(right))


def score_by_cost(found: Found) -> pd.DataFrame:
    """After each answer: cost; solved by the answer of lowest energy, by any (oracle@N) and by most of them."""
    places = torch.arange(found.right.shape[1], device=found.right.device)
    chosen = found.right[found.best, places]
    rows = {
        "answers": np.arange(1, len(found.costs) + 1),
        "cost": found.costs,
        "solved": chosen.double().mean(1).cpu().numpy(),
        "oracle": found.right.long().cummax(0).values.double().mean(1).cpu().numpy(),
        "majority": [majority(found, n) for n in range(1, len(found.costs) + 1)],
    }
    return pd.DataFrame(rows)


def majority(found: Found, n: int) -> float:
    """The share of problems whose most frequent answer (by the signs of its entries) among the first n is right."""
    signs = (found.answers[:n] > 0).transpose(0, 1).cpu().numpy()
    solved = []
    for problem, own in enumerate(signs):
        _, first, count = np.unique(own, axis=0, return_index=True, return_counts=True)
        solved.append(bool(found.right[first[count.argmax()], problem]))
    return float(np.mean(solved))


def blame(found: Found, strongest: Found | None = None) -> pd.Series:
    """Each problem [b] as "solved", "search error" or "model error".

    A failure is the model's where a wrong answer whose energy is at or below the truth's is known, from this search or
    from the strongest of all; else the search's: the truth, or something better than what it returned, was there.
    """
    chosen = found.right.gather(0, found.best[-1:])[0]
    wrong_below = torch.zeros_like(chosen)
    for each in filter(None, (found, strongest)):
        wrong_below |= (~each.right & (each.energies <= each.truth)).any(0)
    named = np.where(chosen.cpu(), "solved", np.where(wrong_below.cpu(), "model error", "search error"))
    return pd.Series(named, name="blame")


def verifier_auc(found: Found) -> float:
    """The chance that of two answers of one problem the right one has the lower energy; a tie counts half.

    The mean over problems with wrong answers, the truth among the right ones (Mann–Whitney U over its maximum).
    """
    values = []
    for place in range(found.right.shape[1]):
        right = np.append(found.energies[found.right[:, place], place].cpu(), found.truth[place].cpu())
        wrong = found.energies[~found.right[:, place], place].cpu().numpy()
        if len(wrong):
            values.append(1 - stats.mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong)))
    return float(np.mean(values)) if values else float("nan")
