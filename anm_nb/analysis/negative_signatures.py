"""Failure signatures of negatives and of the miner that makes them, each a function of a run's metrics (section K)."""

from __future__ import annotations

from collections.abc import Callable
from math import log

import pandas as pd

from anm_nb.analysis.findings import EARLY, Finding, find_rows
from anm_nb.analysis.prescription import Times

MOSTLY_ILLEGITIMATE = 0.5  # beyond it the contrastive loss contradicts the score more often than not
NO_DISTANCE = 1e-4  # of y⁻ from y⁺, in the targets' units; what rounding leaves is far below it
MANY_REFUSED = 0.5  # more trials refused than taken; a first step of the right length is refused now and then
MANY_HITS = 0.25  # every fourth example ends for having been refused too often in a row
ARMIJO_TOLERANCE = 1e-3  # of the energy; projection and rounding stay far below it, an untested step does not
SATURATED_LOSS = 0.01  # nats; a pair then weighs σ(−m) ≈ 1 %, against 50 % for an undecided one
SATURATED_MARGIN = -log(SATURATED_LOSS)  # … which is a margin of 4.6 nats
EASY_RATIO = 1.0  # E⁻ − E⁺ above |E⁺|: for E = ‖ỹ − √ᾱy⁺‖²/2σ, further off than the noise itself
OFF_SCALE = 3.0  # ‖y⁻‖/‖y⁺‖; a negative at distance ‖y⁺‖ in a random direction has √2
DRIFT = 3.0  # growth of ‖y⁻ − y⁺‖ since the early steps, where the scale of the data is not recorded


def illegitimate(metrics: pd.DataFrame) -> Finding | None:
    """Most negatives lie nearer the truth than the noised positive (m* < 0), so that the two losses contradict."""
    seen = find_rows(metrics, ["illegitimate_fraction"], lambda m: m["illegitimate_fraction"] > MOSTLY_ILLEGITIMATE)
    if seen is None:
        return None
    return seen.finding(
        "mostly illegitimate negatives",
        "keep y⁻ − y⁺ orthogonal to the shared noise (of discrete answers, forbid each decision with m* ≤ 0), so that "
        "m* > 0 always; the document knows no such limit, and without it a miner takes the positive's noise away "
        "instead of finding an error",
        {"negatives.orthogonal_to_noise": True, "negatives.legitimate": True},
        "K, legitimacy",
    )


def second_noising(metrics: pd.DataFrame) -> Finding | None:
    """Positive and negative carry different noise."""
    columns = ["shared_noise_residual", "shared_noise_rounding"]
    seen = find_rows(metrics, columns, lambda m: m[columns[0]] > m[columns[1]], never=True)
    if seen is None:
        return None
    return seen.finding(
        "negative noised a second time, or with other noise",
        "noise every negative once, after mining, with the noise of its positive; never noise the mined one again",
        {},
        "C",
    )


def ema_gradient(metrics: pd.DataFrame) -> Finding | None:
    """A gradient reached the averaged weights that the miner descends on."""
    seen = find_rows(metrics, ["ema_gradient"], lambda m: m["ema_gradient"] > 0, never=True)
    if seen is None:
        return None
    return seen.finding(
        "gradient in the EMA weights",
        "mine with the EMA in eval mode, without gradients to its weights; detach the negative, and take both energies "
        "of the loss from the network in training",
        {},
        "B, H",
    )


def no_distance(metrics: pd.DataFrame) -> Finding | None:
    """Negatives that are their positives: every margin is 0, and the loss ln 2, whatever is learnt."""
    seen = find_rows(metrics, ["wrongness"], lambda m: m["wrongness"] < NO_DISTANCE)
    if seen is None:
        return None
    return seen.finding(
        "negatives equal to the truth",
        "see that the loss is given the mined tensor, and not the positive or a copy of it that clues or a projection "
        "have taken back; then a larger eps and start",
        {"negatives.miner.eps": 1.0, "negatives.miner.start": 0.5, "negatives.eps": 1.0},
        "B, K",
        also=("margin_mean", "loss_con"),
    )


def mined_upward(metrics: pd.DataFrame) -> Finding | None:
    """Mining ends at a higher energy than it started from."""
    seen = find_rows(metrics, ["mined_drop"], _upward, settled=False)
    if seen is None:
        return None
    return seen.finding(
        "mined toward higher energy",
        "a negative is to have low energy: step against ∇E, and take a trial only when its energy is lower by Armijo's "
        "rule",
        {},
        "B",
    )


def unstable_miner(metrics: pd.DataFrame) -> Finding | None:
    """Most trials are refused, or taken untested, or not finite."""
    signs: dict[str, tuple[list[str], Callable[[pd.DataFrame], pd.Series]]] = {
        "refused": (
            ["miner_backtracks", "miner_accepted"],
            lambda m: m["miner_backtracks"] > MANY_REFUSED * (m["miner_accepted"] + m["miner_backtracks"]),
        ),
        "limit": (["miner_limit_hits"], lambda m: m["miner_limit_hits"] > MANY_HITS),
        "untested": (["armijo_slack", "e_neg"], _untested),
        "trials": (["miner_non_finite"], lambda m: m["miner_non_finite"] > 0),
        "energies": (["non_finite_energies"], lambda m: m["non_finite_energies"] > 0),
    }
    seen = [
        find_rows(metrics, columns, shows, never=name in ("trials", "energies"))
        for name, (columns, shows) in signs.items()
    ]
    found = [one for one in seen if one is not None]
    if not found:
        return None
    surest = max(found, key=lambda one: one.share)
    return surest.finding(
        "unstable miner",
        "a shorter first step (the document's alpha), a smaller eps, gradient clipping, and Armijo's rule on",
        {"negatives.miner.rule": "armijo", "negatives.miner.step_size": Times(0.25), **smaller_ball()},
        "K",
    )


def too_easy(metrics: pd.DataFrame) -> Finding | None:
    """E⁻ ≫ E⁺: further from the positive than its own noise, and nothing left to tell apart."""
    columns = ["margin_mean", "e_pos", "e_neg"]
    seen = find_rows(
        metrics,
        columns,
        lambda m: (m["margin_mean"] > EASY_RATIO * m["e_pos"].abs()) & (m["margin_mean"] > SATURATED_MARGIN),
    )
    if seen is None:
        return None
    return seen.finding(
        "too-easy negatives",
        "a smaller eps and fewer inner steps. (The document also names its distance term λ; but minimising E − λ‖y − "
        "y⁺‖² drives negatives further away, so that no λ is proposed here)",
        {**smaller_ball(), "negatives.miner.steps": Times(0.5)},
        "K",
    )


def off_scale(metrics: pd.DataFrame) -> Finding | None:
    """Negatives far larger than the data, or ever further from it."""
    seen = find_rows(metrics, ["negative_scale"], lambda m: m["negative_scale"] > OFF_SCALE)
    if seen is None and "wrongness" in metrics:
        early = metrics[metrics["progress"] <= EARLY].groupby("seed")["wrongness"].median()
        grown = metrics.assign(wrongness_growth=metrics["wrongness"] / metrics["seed"].map(early))
        seen = find_rows(grown, ["wrongness_growth", "wrongness"], lambda m: m["wrongness_growth"] > DRIFT)
    if seen is None:
        return None
    return seen.finding(
        "miner off the data scale",
        "a smaller eps: keep the negative within a ball around the truth of at most its own length",
        smaller_ball(),
        "B, K",
        also=("wrongness",),
    )


def smaller_ball() -> dict[str, Times]:
    """Half the radius, and with it the lengths that have to fit into it."""
    lengths = ("negatives.miner.eps", "negatives.miner.start", "negatives.miner.delta", "negatives.eps")
    return {name: Times(0.5) for name in lengths}


def _upward(metrics: pd.DataFrame) -> pd.Series:
    return metrics["mined_drop"] < 0


def _untested(metrics: pd.DataFrame) -> pd.Series:
    """Accepted against Armijo's rule, though not upward on the whole, which is a signature of its own."""
    violated = metrics["armijo_slack"] < -ARMIJO_TOLERANCE * (1 + metrics["e_neg"].abs())
    return violated & ~_upward(metrics) if "mined_drop" in metrics else violated
