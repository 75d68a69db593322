"""Adaptive halting: a problem is refined until its ranking stays as it is, the others of its batch for longer.

For evaluation only. Nothing is learned about when to stop, so a model can be halted however it was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anm_nb.config import ParameterError
from anm_nb.ranking.networks import SCORE_DECIMALS, RankingModel, Refinement
from anm_nb.ranking.routing import ControllerState
from anm_nb.studies.ranking_cost import forward_flops
from anm_nb.tasks.base import Batch
from anm_nb.tasks.kendall import kendall_tau


class Halted(NamedTuple):
    """The answer to each problem, and after how many iterations it was given."""

    scores: Float[Tensor, "batch items"]  # to SCORE_DECIMALS
    iterations: Int[Tensor, " batch"]


@torch.no_grad()
def refine_until_stable(
    model: RankingModel, x: Float[Tensor, "batch items features"], *, patience: int, iterations: int | None = None
) -> Halted:
    """Refine each problem until `patience` iterations in a row have left its ranking unchanged, ties included.

    At most `iterations`, as for `RankingModel.refine`, and at least patience + 1. Problems that have stopped leave the
    batch: the block is not applied to them any more. Raises `ParameterError` for a patience below 1.
    """
    if patience < 1:
        raise ParameterError(f"patience = {patience}: allowed: at least 1")
    most = model.require_iterations(iterations)
    now = model.begin(x)
    going = torch.arange(len(x), device=x.device)  # problems, as now and the next two have them
    ranking = x.new_full(x.shape[:2], -1, dtype=torch.long)
    unchanged = torch.zeros_like(going)
    answers, used = x.new_empty(x.shape[:2], dtype=torch.float32), torch.zeros_like(going)
    for iteration in range(most):
        now = model.advance(now, iteration)
        scores = model.decoder(now.z).float().round(decimals=SCORE_DECIMALS)
        before, ranking = ranking, ranking_of(scores)
        unchanged = torch.where((ranking == before).all(-1), unchanged + 1, 0)
        answers[going], used[going] = scores, iteration + 1
        kept = (unchanged < patience).nonzero().squeeze(1)
        going, ranking, unchanged, now = going[kept], ranking[kept], unchanged[kept], _rows(now, kept)
        if not len(going):
            break
    return Halted(answers, used)


def _rows(now: Refinement, chosen: Int[Tensor, " chosen"]) -> Refinement:
    state = None if now.state is None else ControllerState(*(part[chosen] for part in now.state))
    return Refinement(now.encoded[chosen], now.z[chosen], now.alpha[chosen], state)


def ranking_of(scores: Float[Tensor, "*batch items"]) -> Int[Tensor, "*batch items"]:
    """How many items are ranked before each one, which says of any two whether they are tied, or which comes first."""
    return (scores.unsqueeze(-2) > scores.unsqueeze(-1)).sum(-1)


def halting_table(
    model: RankingModel, batch: Batch, patiences: Sequence[int], iterations: int | None = None
) -> pd.DataFrame:
    """What halting saves and what it costs: all iterations first, then each patience.

    Columns: patience (missing where there is no halting), tau_obs, tau_all (means over problems), same (share of
    problems ranked as after all iterations), iterations (mean over problems), flops (mean over problems: operations of
    a forward pass of so many iterations) and saved, the share of the operations of all iterations that is not made.
    """
    most = model.require_iterations(iterations)
    with torch.no_grad():
        last = model.decoder(model.refine(batch.x, most)[0][:, -1]).float().round(decimals=SCORE_DECIMALS)
    whole = Halted(last, torch.full(last.shape[:1], most, device=last.device))
    runs = {None: whole} | {
        patience: refine_until_stable(model, batch.x, patience=patience, iterations=most) for patience in patiences
    }
    counts = {used for halted in runs.values() for used in halted.iterations.tolist()}
    flops = {used: forward_flops(model, batch.x[:1], used) for used in counts}
    rows = []
    for patience, halted in runs.items():
        mean_flops = sum(flops[used] for used in halted.iterations.tolist()) / len(halted.iterations)
        rows.append(
            {
                "patience": patience,
                "tau_obs": float(kendall_tau(halted.scores, batch.y, batch.known).nanmean()),
                "tau_all": float(kendall_tau(halted.scores, batch.y).nanmean()),
                "same": float((ranking_of(halted.scores) == ranking_of(last)).all(-1).double().mean()),
                "iterations": float(halted.iterations.double().mean()),
                "flops": mean_flops,
                "saved": 1 - mean_flops / flops[most],
            }
        )
    return pd.DataFrame(rows).astype({"patience": "Int64"})
