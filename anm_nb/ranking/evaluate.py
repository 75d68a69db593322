"""What a ranking model does on held-out problems, after each of as many iterations as one likes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from anm_nb.ranking.networks import SCORE_DECIMALS, RankingOutput
from anm_nb.ranking.routing import herfindahl, routing_entropy
from anm_nb.tasks.base import Batch
from anm_nb.tasks.kendall import index_space_tau, kendall_tau


@dataclass(frozen=True)
class Assessment:
    """What a model does on held-out problems, after every iteration."""

    scores: Float[Tensor, "n iters items"]
    alphas: Float[Tensor, "n iters items heads"]
    tau_obs: Float[Tensor, " iters"]
    tau_all: Float[Tensor, " iters"]
    tau_index: float  # of the last iteration, for forensics only

    def last(self) -> dict[str, float]:
        """τ of the model's answer, the ranking after the last iteration, by name."""
        by_iteration = {"tau_obs": self.tau_obs, "tau_all": self.tau_all}
        return {name: float(tau[-1]) for name, tau in by_iteration.items()} | {"tau_index": self.tau_index}


@torch.no_grad()
def assess(output: RankingOutput, batch: Batch) -> Assessment:
    """Mean τ over observed and over all pairs of the ranking after every iteration; problems without a pair skipped.

    Scores are taken to `SCORE_DECIMALS`: hidden items are alike to a model, and what tells their scores apart is the
    order in which a machine sums. Rounded, they are the ties that they are, and τ over all pairs does not depend on it.
    """
    scores, ranks = output.scores.float().round(decimals=SCORE_DECIMALS), batch.y.unsqueeze(1)
    observed = None if batch.known is None else batch.known.unsqueeze(1)
    return Assessment(
        scores,
        output.alphas,
        kendall_tau(scores, ranks, observed).nanmean(0),
        kendall_tau(scores, ranks).nanmean(0),
        float(index_space_tau(scores[:, -1], batch.y).nanmean()),
    )


def routing_arrays(alphas: Float[Tensor, "n iters items heads"]) -> dict[str, Tensor]:
    """Mean routing entropy, Herfindahl index and largest α of every iteration."""
    return {
        "entropies": routing_entropy(alphas).mean((0, 2)),
        "herfindahl": herfindahl(alphas).mean((0, 2)),
        "max_alpha": alphas.amax(-1).mean((0, 2)),
    }
