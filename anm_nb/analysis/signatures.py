"""The failure signatures of a run, in the order in which they are reported (ANM checklist, section K)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from anm_nb.analysis import loss_signatures as loss
from anm_nb.analysis import negative_signatures as negatives
from anm_nb.analysis.findings import Finding


@dataclass(frozen=True)
class Signature:
    """A failure signature by name: how it is judged, and the sets of columns any one of which lets it be judged."""

    name: str
    judge: Callable[[pd.DataFrame], Finding | None]
    needs: tuple[frozenset[str], ...]

    def lacking(self, metrics: pd.DataFrame) -> frozenset[str]:
        """The columns missing, or without any number, of the set that lacks fewest; empty where it can be judged."""
        there = set(metrics.columns[metrics.notna().any()])
        return min((needed - there for needed in self.needs), key=len)


def _signature(name: str, judge: Callable[[pd.DataFrame], Finding | None], *needs: str) -> Signature:
    return Signature(name, judge, tuple(frozenset(columns.split()) for columns in needs))


SIGNATURES: tuple[Signature, ...] = (
    _signature("mostly illegitimate negatives", negatives.illegitimate, "illegitimate_fraction"),
    _signature(
        "negative noised a second time, or with other noise",
        negatives.second_noising,
        "shared_noise_residual shared_noise_rounding",
    ),
    _signature("gradient in the EMA weights", negatives.ema_gradient, "ema_gradient"),
    _signature("negatives equal to the truth", negatives.no_distance, "wrongness"),
    _signature(
        "contrastive loss switched off",
        loss.contrast_off,
        "loss_con_weighted",
        "contrastive_weight",
        "grad_share_contrast",
    ),
    _signature("pairs ranked the wrong way round", loss.wrong_way_round, "loss_con"),
    _signature("mined toward higher energy", negatives.mined_upward, "mined_drop"),
    _signature(
        "unstable miner",
        negatives.unstable_miner,
        "miner_backtracks miner_accepted",
        "miner_limit_hits",
        "armijo_slack e_neg",
        "miner_non_finite",
    ),
    _signature("gradient collapse", loss.collapse, "loss_mse grad_share_contrast"),
    _signature("contrastive loss dominates", loss.dominance, "grad_share_contrast"),
    _signature("miner off the data scale", negatives.off_scale, "negative_scale", "wrongness"),
    _signature("too-easy negatives", negatives.too_easy, "margin_mean e_pos e_neg"),
    _signature("contrastive loss saturated", loss.saturation, "margin_q25 loss_con"),
    _signature("flat margins and tiny gradient share", loss.flat_margins, "grad_share_contrast margin_mean"),
    _signature("energies rise uniformly", loss.uniform_rise, "e_pos e_neg"),
)
