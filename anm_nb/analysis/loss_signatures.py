"""Failure signatures of the contrastive loss and its weight, each a function of a run's metrics (section K)."""

from __future__ import annotations

from math import log

import pandas as pd

from anm_nb.analysis.findings import EARLY, LATE, Finding, Seen, find_rows
from anm_nb.analysis.negative_signatures import (
    MOSTLY_ILLEGITIMATE,
    SATURATED_LOSS,
    SATURATED_MARGIN,
    no_distance,
    smaller_ball,
)
from anm_nb.analysis.prescription import Times

TINY_SHARE = 0.05  # r = 0.05: the contrastive gradient turns the sum of both by at most 3 degrees
BAND = (0.3, 0.7)  # section D's healthy r
LASTING_LOSS = 1.05 * log(2)  # nats; a tossed coin costs ln 2 a pair, and means of small batches scatter …
MINED_LOSS = 2 * log(2)  # … and negatives mined against the network keep it somewhat above
ROUNDED = 1e-4  # relative; what float32 makes of a loss is far below it
LARGEST_FACTOR = 1000.0  # on a weight, at a time: a share beyond it has another cause than the weight
FLAT_GROWTH = 0.5  # nats; σ(0.5) = 0.62, still close to the tossed coin that an untrained energy is
RISE = 0.5  # energies half as high again after the middle of training, while the score is no better for it
RISE_NATS = 1.0  # … and by a nat, as energies near 0 double for nothing
RISE_FROM = 0.75  # share of the steps from which a rise is judged
NULL_LOSS = 0.8  # predicting 0 costs E[ε²] = 1; batches of a few hundred numbers scatter by 0.1 around it


def contrast_off(metrics: pd.DataFrame) -> Finding | None:
    """The contrastive loss is computed and counts for nothing: its weight, or all of its gradient, is 0."""

    def zero(column: str) -> Seen | None:
        return find_rows(metrics, [column], lambda m: m[column] == 0, start=RISE_FROM)

    seen = zero("loss_con_weighted") or zero("contrastive_weight") or zero("grad_share_contrast")
    if seen is None or no_distance(metrics) is not None:
        return None
    return seen.finding(
        "contrastive loss switched off",
        "a weight above 0 (0.5 in IRED for matrices, 0.05 for boards and graphs) if it is to count; with one, see that "
        "both energies of the loss carry gradients to the network that is trained",
        {"contrastive_weight": None},
        "D, K",
        also=("loss_con",),
    )


def wrong_way_round(metrics: pd.DataFrame) -> Finding | None:
    """Truth and negative change places in the loss, or are told apart worse than by a tossed coin.

    Illegitimate negatives, which make the same of a right loss, are a finding of their own.
    """
    seen = _swapped_labels(metrics) or _lasting_loss(metrics)
    if seen is None or contrast_off(metrics) is not None:
        return None
    return seen.finding(
        "pairs ranked the wrong way round",
        "see the labels and signs of the loss: low energy is for the truth, so the logits are (−E⁺, −E⁻) and the first "
        "is right; if they are, the negatives are too hard: fewer inner steps, or a smaller eps",
        {},
        "A, K",
        also=("p_hard", "margin_mean"),
    )


def _swapped_labels(metrics: pd.DataFrame) -> Seen | None:
    """The loss trained on is a multiple of log(1 + e^m) = m + log(1 + e^−m), and not of log(1 + e^−m)."""
    columns = ["loss_con_weighted", "loss_con", "margin_mean"]
    if not set(columns) <= set(metrics):
        return None

    def misfit(m: pd.DataFrame, loss: pd.Series) -> pd.Series:
        weight = (m["loss_con_weighted"] / loss).groupby(m["seed"]).transform("median")
        return (m["loss_con_weighted"] - weight * loss).abs() / m["loss_con_weighted"].abs().clip(lower=1e-12)

    def shows(m: pd.DataFrame) -> pd.Series:
        swapped = misfit(m, m["loss_con"] + m["margin_mean"])
        return (swapped < ROUNDED) & (misfit(m, m["loss_con"]) > 10 * ROUNDED)

    return find_rows(metrics, columns, shows)


def _lasting_loss(metrics: pd.DataFrame) -> Seen | None:
    """A loss above ln 2 in the second half; mining against the network keeps it a little above by itself."""
    mined = any((metrics[name] > 0).any() for name in ("miner_accepted", "mined_drop") if name in metrics)

    def shows(m: pd.DataFrame) -> pd.Series:
        worse = m["loss_con"] > (MINED_LOSS if mined else LASTING_LOSS)
        worse &= (m["p_hard"] > 0.5) if "p_hard" in m else True
        return worse & ~(m["illegitimate_fraction"] > MOSTLY_ILLEGITIMATE) if "illegitimate_fraction" in m else worse

    return find_rows(metrics, ["loss_con"], shows, start=LATE)


def collapse(metrics: pd.DataFrame) -> Finding | None:
    """Squared-norm head: pushing E⁺ = ‖h‖² down shrinks ∇E with it, until the score is that of the null predictor."""
    columns = ["loss_mse", "grad_share_contrast"]
    seen = find_rows(metrics, columns, lambda m: (m[columns[0]] > NULL_LOSS) & (m[columns[1]] > BAND[1]), start=LATE)
    if seen is None:
        return None
    return seen.finding(
        "gradient collapse",
        "a lower weight of the contrastive loss, until the score is learnt again; a scalar head does not tie ∇E to E",
        {"contrastive_weight": Times(min(0.5, _to_share(seen, BAND[1])))},
        "D, K",
        also=("e_pos", "grad_norm_mse"),
    )


def dominance(metrics: pd.DataFrame) -> Finding | None:
    """The contrastive loss drowns the score's, which is learnt all the same, or not seen."""

    def shows(m: pd.DataFrame) -> pd.Series:
        return m["grad_share_contrast"] > BAND[1]

    seen = find_rows(metrics, ["grad_share_contrast"], shows, start=LATE)
    if seen is None or collapse(metrics) is not None:
        return None
    return seen.finding(
        "contrastive loss dominates",
        "a lower weight of the contrastive loss, here the most that brings r to the upper end of 0.3 to 0.7 at the "
        "gradients seen",
        {"contrastive_weight": Times(_to_share(seen, BAND[1]))},
        "D, K",
        also=("loss_mse", "loss_con_weighted"),
    )


def flat_margins(metrics: pd.DataFrame) -> Finding | None:
    """The contrastive loss contributes next to nothing to the gradient, and margins stay where they began.

    A finding of its own says so where its weight is 0, or the negatives are the positives.
    """
    if "margin_mean" not in metrics or contrast_off(metrics) is not None or no_distance(metrics) is not None:
        return None
    began = metrics["seed"].map(metrics.groupby("seed")["margin_mean"].first())
    grown = metrics.assign(margin_growth=metrics["margin_mean"] - began)
    columns = ["grad_share_contrast", "margin_growth", "margin_mean"]
    seen = find_rows(grown, columns, lambda m: (m[columns[0]] < TINY_SHARE) & (m["margin_growth"] < FLAT_GROWTH))
    if seen is None:
        return None
    return seen.finding(
        "flat margins and tiny gradient share",
        "a higher weight of the contrastive loss, here the least that brings r to the lower end of 0.3 to 0.7 at the "
        "gradients seen; then a larger eps or one or two more inner steps; see that mining uses the EMA and shares ε",
        {"contrastive_weight": Times(_to_share(seen, BAND[0]))},
        "K",
    )


def saturation(metrics: pd.DataFrame) -> Finding | None:
    """For most of training three of four pairs cost nothing: the contrastive loss has no more to teach."""

    def shows(m: pd.DataFrame) -> pd.Series:
        # the levels of most noise hide any negative, and keep the mean loss up: so the lower quartile of margins
        return (m["margin_q25"] > SATURATED_MARGIN) | (m["loss_con"] < SATURATED_LOSS)

    seen = find_rows(metrics, ["margin_q25", "loss_con"], shows)
    if seen is None:
        return None
    return seen.finding(
        "contrastive loss saturated",
        "harder negatives (nearer the truth, or mined and legitimate); otherwise leave the loss out and save its time",
        smaller_ball(),
        "A, K",
    )


def uniform_rise(metrics: pd.DataFrame) -> Finding | None:
    """E⁺ and E⁻ rise together, while neither margins nor the score gain by it."""
    columns = ["e_pos", "e_neg", *(["loss_mse"] if "loss_mse" in metrics else [])]
    if not set(columns) <= set(metrics):
        return None
    middle = metrics[metrics["progress"].between(EARLY, LATE)].groupby("seed")[columns].median()
    before = middle.reindex(metrics["seed"]).set_index(metrics.index)
    risen = metrics.assign(e_pos_rise=metrics["e_pos"] - before["e_pos"], e_neg_rise=metrics["e_neg"] - before["e_neg"])

    def shows(m: pd.DataFrame) -> pd.Series:
        least = (RISE * before.loc[m.index, "e_pos"].abs()).clip(lower=RISE_NATS)
        both = (m["e_pos_rise"] > least) & (m["e_neg_rise"] > least) & (m["e_neg_rise"] < 1.5 * m["e_pos_rise"])
        return both & (m["loss_mse"] > 0.9 * before.loc[m.index, "loss_mse"]) if "loss_mse" in m else both

    seen = find_rows(risen, ["e_pos_rise", "e_neg_rise", *columns], shows, start=RISE_FROM)
    if seen is None:
        return None
    return seen.finding(
        "energies rise uniformly",
        "more weight on the supervision of the positive (here: less on the contrastive loss beside it), and weight "
        "decay on the network",
        {"contrastive_weight": Times(0.5)},
        "K",
    )


def _to_share(seen: Seen, target: float) -> float:
    """The factor on the contrastive weight that would make the gradient share `target`; r/(1 − r) grows with it."""
    share = float(seen.rows["grad_share_contrast"].median())
    wanted = target / (1 - target) * (1 - share) / max(share, 1e-12)
    return float(f"{min(max(wanted, 1 / LARGEST_FACTOR), LARGEST_FACTOR):.1e}")
