"""What a ranking model does on held-out problems, after each of as many iterations as one likes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anm_nb.config import ParameterError
from anm_nb.ranking.networks import SCORE_DECIMALS, RankingModel
from anm_nb.ranking.routing import herfindahl, routing_entropy
from anm_nb.store import Run
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
def assess(model: nn.Module, batch: Batch, iterations: int | None = None) -> Assessment:
    """Mean τ over observed and over all pairs of the ranking after every iteration; problems without a pair skipped.

    `iterations` may be more, or less, than the model was trained with (`RankingModel.refine`), and the problems may
    have another number of items. Scores are taken to `SCORE_DECIMALS`: hidden items are alike to a model, and what
    tells their scores apart is the order in which a machine sums. Rounded, they are the ties that they are, and τ over
    all pairs does not depend on it.
    """
    output = model(batch.x, iterations)
    scores = output.scores.float().round(decimals=SCORE_DECIMALS)
    ranks = batch.y.unsqueeze(1)
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


def trained_ranking(run: Run, seed: int) -> RankingModel:
    """The model of a finished run with the weights selected on dev, the temperature among them; on the CPU, frozen.

    Raises `ParameterError` for a run that is not of this family, and for a seed that it does not have.
    """
    from anm_nb.ranking.train import RankingConfig  # which imports this module

    config = run.config
    if not isinstance(config, RankingConfig):
        raise ParameterError(f"run {run.key}: its config is {type(config).__name__}, which trains no ranking")
    if seed not in config.seeds:
        raise ParameterError(f"seed = {seed}: run {run.key} has {', '.join(map(str, config.seeds))}")
    prefix = f"seed{seed}.selected."
    weights = {name.removeprefix(prefix): tensor for name, tensor in run.weights.items() if name.startswith(prefix)}
    model = config.make_model()
    model.load_state_dict(weights)
    return model.requires_grad_(False).eval()
