"""The failure signatures of a run, most important first (ANM checklist, section K, and what runs here added)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import log
from typing import Any, NamedTuple

import pandas as pd

EARLY, LATE, LAST_QUARTER = 0.2, 0.5, 0.75  # shares of the steps; section J calls the first 20 % early
LARGEST_FACTOR = 1000.0  # on a weight, at a time: a share beyond it has another cause than the weight


class Times(NamedTuple):
    """A factor on the present value of a parameter."""

    factor: float

    def __str__(self) -> str:
        return f"present × {self.factor:g}"


class Sign(NamedTuple):
    """One way in which a signature shows.

    `shows` tells the rows that show it, as an expression over the columns it needs, or a function and `needs`; these
    columns are the evidence. Rows up to the share `start` of the steps are left out; what may `never` happen is seen in
    any single row, from the first on. A name ending in _rise or _growth is made of the column before it.
    """

    shows: str | Callable[[pd.DataFrame], pd.Series]
    needs: str = ""
    start: float = EARLY
    never: bool = False

    @property
    def columns(self) -> list[str]:
        """The columns needed."""
        return list(dict.fromkeys(self.needs.split() or re.findall(r"[a-z]\w+(?!\w|\()", str(self.shows))))


class Signature(NamedTuple):
    """A failure signature: its signs, its remedy, and the signatures (`unless`) that explain it where they are.

    `change` maps dotted names of parameters to values, to a `Times`, or to a function from the rows to a `Times`.
    """

    name: str
    section: str
    signs: Sequence[Sign]
    remedy: str
    change: Mapping[str, Any] = {}
    also: str = ""  # columns that are told beside the evidence
    unless: tuple[str, ...] = ()


def to_share(share: float, at_most: float = LARGEST_FACTOR) -> Callable[[pd.DataFrame], Times]:
    """The factor on the contrastive weight that brings its median share r of the gradient there: r/(1 − r) grows so."""

    def factor(m: pd.DataFrame) -> Times:
        present = float(m[SHARE].median())
        wanted = share / (1 - share) * (1 - present) / max(present, 1e-12)
        return Times(float(f"{min(max(wanted, 1 / LARGEST_FACTOR), at_most):.1e}"))

    return factor


def _swapped(m: pd.DataFrame) -> pd.Series:
    """The loss trained on is a multiple of log(1 + e^m) = m + log(1 + e^−m), and not of log(1 + e^−m)."""

    def misfit(loss: pd.Series) -> pd.Series:
        weight = (m["loss_con_weighted"] / loss).groupby(m["seed"]).transform("median")
        return (m["loss_con_weighted"] - weight * loss).abs() / m["loss_con_weighted"].abs().clip(lower=1e-12)

    # float32 rounds a loss to far below 1e-4 of it
    return (misfit(m["loss_con"] + m["margin_mean"]) < 1e-4) & (misfit(m["loss_con"]) > 1e-3)


def _worse_than_a_coin(m: pd.DataFrame) -> pd.Series:
    """Above ln 2, which a tossed coin costs; negatives mined against the network keep the loss somewhat above it."""
    mined = (m["miner_accepted"] > 0).any() or (m["mined_drop"] > 0).any()
    return (m["loss_con"] > (2 if mined else 1.05) * log(2)) & ~(
        (m["illegitimate_fraction"] > 0.5) | (m["p_hard"] <= 0.5)
    )


def _risen(m: pd.DataFrame) -> pd.Series:
    """Both energies are half as high again (and by a nat) since the middle of training, and the score no better."""
    least = (0.5 * (m["e_pos"] - m["e_pos_rise"]).abs()).clip(lower=1.0)
    both = (m["e_pos_rise"] > least) & (m["e_neg_rise"] > least) & (m["e_neg_rise"] < 1.5 * m["e_pos_rise"])
    return both & ~(m["loss_mse_rise"] <= -0.1 * (m["loss_mse"] - m["loss_mse_rise"]))


OWN = "the task's own"
SMALLER_BALL = {f"negatives.{name}": Times(0.5) for name in ("miner.eps", "miner.start", "miner.delta", "eps")}
SURE = f"{-log(0.01):.4g}"  # nats of margin at which a pair weighs σ(−m) = 1 %, against 50 % for an undecided one
OFF, EQUAL = "contrastive loss switched off", "negatives equal to the truth"
SHARE = "grad_share_contrast"

SIGNATURES: tuple[Signature, ...] = (
    Signature(
        "mostly illegitimate negatives",
        "K, legitimacy",
        [Sign("illegitimate_fraction > 0.5")],
        "keep y⁻ − y⁺ orthogonal to the shared noise (of discrete answers, forbid each decision with m* ≤ 0), so that "
        "m* > 0 always; the document knows no such limit, and without it a miner takes the positive's noise away "
        "instead of finding an error",
        {"negatives.orthogonal_to_noise": True, "negatives.legitimate": True},
    ),
    Signature(
        "negative noised a second time, or with other noise",
        "C",
        [Sign("shared_noise_residual > shared_noise_rounding", never=True)],
        "noise every negative once, after mining, with the noise of its positive; never noise the mined one again",
    ),
    Signature(
        "gradient in the EMA weights",
        "B, H",
        [Sign("ema_gradient > 0", never=True)],
        "mine with the EMA in eval mode, without gradients to its weights; detach the negative, and take both energies "
        "of the loss from the network in training",
    ),
    Signature(
        EQUAL,
        "B, K",
        [Sign("wrongness < 0.0001")],  # what rounding leaves is far below it
        "see that the loss is given the mined tensor, and not the positive or a copy of it that clues or a projection "
        "have taken back; then a larger eps and start",
        {"negatives.miner.eps": 1.0, "negatives.miner.start": 0.5, "negatives.eps": 1.0},
        also="margin_mean loss_con",
    ),
    Signature(
        OFF,
        "D, K",
        [Sign(f"{name} == 0", start=LAST_QUARTER) for name in ("loss_con_weighted", "contrastive_weight", SHARE)],
        "a weight above 0 (0.5 in IRED for matrices, 0.05 for boards and graphs) if it is to count; with one, see that "
        "both energies of the loss carry gradients to the network that is trained",
        {"contrastive_weight": OWN},
        also="loss_con",
        unless=(EQUAL,),
    ),
    Signature(
        "pairs ranked the wrong way round",
        "A, K",
        [Sign(_swapped, "loss_con loss_con_weighted margin_mean"), Sign(_worse_than_a_coin, "loss_con", start=LATE)],
        "see the labels and signs of the loss: low energy is for the truth, so the logits are (−E⁺, −E⁻) and the first "
        "is right; if they are, the negatives are too hard: fewer inner steps, or a smaller eps",
        also="p_hard margin_mean",
        unless=(OFF,),
    ),
    Signature(
        "mined toward higher energy",
        "B",
        [Sign("mined_drop < 0", start=-1.0)],
        "a negative is to have low energy: step against ∇E, and take a trial only when its energy is lower by Armijo's "
        "rule",
    ),
    Signature(
        "unstable miner",
        "K",
        [
            Sign("miner_backtracks > miner_accepted"),
            Sign("miner_limit_hits > 0.25"),
            # against Armijo's rule by more than projection and rounding, though not upward on the whole
            Sign("(armijo_slack < -0.001 * (1 + abs(e_neg))) & ~(mined_drop < 0)", "armijo_slack e_neg"),
            Sign("miner_non_finite > 0", never=True),
            Sign("non_finite_energies > 0", never=True),
        ],
        "a shorter first step (the document's alpha), a smaller eps, gradient clipping, and Armijo's rule on",
        {"negatives.miner.rule": "armijo", "negatives.miner.step_size": Times(0.25), **SMALLER_BALL},
    ),
    Signature(
        "gradient collapse",  # pushing E⁺ = ‖h‖² down shrinks ∇E with it; predicting 0 costs E[ε²] = 1
        "D, K",
        [Sign(f"(loss_mse > 0.8) & ({SHARE} > 0.7)", start=LATE)],
        "a lower weight of the contrastive loss, until the score is learnt again; a scalar head does not tie ∇E to E",
        {"contrastive_weight": to_share(0.7, at_most=0.5)},
        also="e_pos grad_norm_mse",
    ),
    Signature(
        "contrastive loss dominates",
        "D, K",
        [Sign(f"{SHARE} > 0.7", start=LATE)],
        "a lower weight of the contrastive loss, here the most that brings r to the upper end of 0.3 to 0.7 at the "
        "gradients seen",
        {"contrastive_weight": to_share(0.7)},
        also="loss_mse loss_con_weighted",
        unless=("gradient collapse",),
    ),
    Signature(
        "miner off the data scale",
        "B, K",
        [Sign("negative_scale > 3"), Sign("wrongness_growth > 3")],  # √2 is at distance ‖y⁺‖ in any direction
        "a smaller eps: keep the negative within a ball around the truth of at most its own length",
        SMALLER_BALL,
        also="wrongness",
    ),
    Signature(
        "too-easy negatives",  # for E = ‖ỹ − √ᾱy⁺‖²/2σ further off than the noise itself
        "K",
        [Sign(f"(margin_mean > abs(e_pos)) & (margin_mean > {SURE})")],
        "a smaller eps and fewer inner steps. (The document also names its distance term λ; but minimising E − λ‖y − "
        "y⁺‖² drives negatives further away, so that no λ is proposed here)",
        {**SMALLER_BALL, "negatives.miner.steps": Times(0.5)},
        also="e_neg",
    ),
    Signature(
        "contrastive loss saturated",  # the levels of most noise keep the mean loss up: so the lower quartile as well
        "A, K",
        [Sign(f"(margin_q25 > {SURE}) | (loss_con < 0.01)")],
        "harder negatives (nearer the truth, or mined and legitimate); otherwise leave the loss out and save its time",
        SMALLER_BALL,
    ),
    Signature(
        "flat margins and tiny gradient share",
        "K",
        [Sign(f"({SHARE} < 0.05) & (margin_mean_growth < 0.5)")],
        "a higher weight of the contrastive loss, here the least that brings r to the lower end of 0.3 to 0.7 at the "
        "gradients seen; then a larger eps or one or two more inner steps; see that mining uses the EMA and shares ε",
        {"contrastive_weight": to_share(0.3)},
        also="margin_mean",
        unless=(OFF, EQUAL),
    ),
    Signature(
        "energies rise uniformly",
        "K",
        [Sign(_risen, "e_pos_rise e_neg_rise e_pos e_neg", start=LAST_QUARTER)],
        "more weight on the supervision of the positive (here: less on the contrastive loss beside it), and weight "
        "decay on the network",
        {"contrastive_weight": Times(0.5)},
        also="loss_mse",
    ),
)
# Every column that a sign, its function or its evidence reads.
COLUMNS = {name for each in SIGNATURES for sign in each.signs for name in (*sign.columns, *each.also.split())}
