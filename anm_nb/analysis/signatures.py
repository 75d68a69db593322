"""The failure signatures of a run, each a function of its metrics (ANM checklist, section K).

Every signature decides, row by row, whether it shows; rows lacking a column it needs are not judged. It is found in a
run when it shows, on average over seeds, in at least half of the rows judged. Those are the rows after the first 20 %
of the steps: before, a run tells more of its initial weights than of its settings. Only bugs are looked for in all.

Confidence: "high" from 90 % of the judged rows, "medium" from 70 %, else "low"; one less with fewer than 10 rows. What
must never happen, not even once, is "high" wherever it is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import log
from typing import Any, Literal

import pandas as pd

from anm_nb.analysis.prescription import Times
from anm_nb.analysis.tables import rounded

Confidence = Literal["low", "medium", "high"]

EARLY, LATE = 0.2, 0.5  # shares of the steps; section J calls the first 20 % early
FOUND, MEDIUM, HIGH = 0.5, 0.7, 0.9  # shares of judged rows
FEW_ROWS = 10  # a record of nine rows cannot tell 90 % from all

MOSTLY_ILLEGITIMATE = 0.5  # beyond it the contrastive loss contradicts the score more often than not
TINY_SHARE = 0.05  # r = 0.05: the contrastive gradient turns the sum of both by at most 3 degrees
BAND = (0.3, 0.7)  # section D's healthy r
LASTING_LOSS = 1.05 * log(2)  # nats; a tossed coin costs ln 2 a pair, and means of small batches scatter …
MINED_LOSS = 2 * log(2)  # … and negatives mined against the network keep it somewhat above
ROUNDED = 1e-4  # relative; what float32 makes of a loss is far below it
NO_DISTANCE = 1e-4  # of y⁻ from y⁺, in the targets' units; what rounding leaves is far below it
LARGEST_FACTOR = 1000.0  # on a weight, at a time: a share beyond it has another cause than the weight
FLAT_GROWTH = 0.5  # nats; σ(0.5) = 0.62, still close to the tossed coin that an untrained energy is
MANY_REFUSED = 0.5  # more trials refused than taken; a first step of the right length is refused now and then
MANY_HITS = 0.25  # every fourth example ends for having been refused too often in a row
ARMIJO_TOLERANCE = 1e-3  # of the energy; projection and rounding stay far below it, an untested step does not
SATURATED_LOSS = 0.01  # nats; a pair then weighs σ(−m) ≈ 1 %, against 50 % for an undecided one
SATURATED_MARGIN = -log(SATURATED_LOSS)  # … which is a margin of 4.6 nats
EASY_RATIO = 1.0  # E⁻ − E⁺ above |E⁺|: for E = ‖ỹ − √ᾱy⁺‖²/2σ, further off than the noise itself
RISE = 0.5  # energies half as high again after the middle of training, while the score is no better for it
RISE_NATS = 1.0  # … and by a nat, as energies near 0 double for nothing
RISE_FROM = 0.75  # share of the steps from which a rise is judged
NULL_LOSS = 0.8  # predicting 0 costs E[ε²] = 1; batches of a few hundred numbers scatter by 0.1 around it
OFF_SCALE = 3.0  # ‖y⁻‖/‖y⁺‖; a negative at distance ‖y⁺‖ in a random direction has √2
DRIFT = 3.0  # growth of ‖y⁻ − y⁺‖ since the early steps, where the scale of the data is not recorded


@dataclass(frozen=True)
class Finding:
    """A failure signature seen in a run.

    `evidence` names columns, steps and values; `remedy` is the document's; `change` maps dotted names of parameters to
    values (None: the task's own), or to a `Times` where the present value is unknown; empty where no parameter can mend
    it. `section` is that of the ANM checklist, or of these notebooks' own additions to it.
    """

    signature: str
    evidence: str
    remedy: str
    change: Mapping[str, Any]
    confidence: Confidence
    section: str

    def __str__(self) -> str:
        lines = [f"{self.signature.upper()} (section {self.section}, confidence {self.confidence})"]
        lines += [f"  evidence: {self.evidence}", f"  remedy: {self.remedy}"]
        return "\n".join(lines + ([f"  change: {self.changes}"] if self.changes else []))

    @property
    def changes(self) -> str:
        """The change in words."""
        said = {name: "the task's own" if value is None else value for name, value in self.change.items()}
        return ", ".join(f"{name} = {value}" for name, value in said.items())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": str(self)}


@dataclass(frozen=True)
class Seen:
    """Where a signature shows: its columns, the rows that show it, and how many were judged."""

    columns: list[str]
    rows: pd.DataFrame
    judged: int
    share: float  # of the judged rows, the mean over seeds
    seeds: tuple[int, int]  # that show it at all, and in the run
    never: bool

    def finding(
        self, signature: str, remedy: str, change: Mapping[str, Any], section: str, also: Iterable[str] = ()
    ) -> Finding:
        """The finding, its evidence told from the rows."""
        told = [*self.columns, *(column for column in also if column in self.rows)]
        values = ", ".join(f"{column} {self._value(column)}" for column in dict.fromkeys(told))
        steps = self.rows["step"]
        evidence = (
            f"{values} (medians of the {len(self.rows)} of {self.judged} judged rows that show it, "
            f"steps {steps.min():g} to {steps.max():g}, {self.seeds[0]} of {self.seeds[1]} seeds)"
        )
        return Finding(signature, evidence, remedy, change, self._confidence(), section)

    def _value(self, column: str) -> str:
        return rounded(float(self.rows[column].median()), 2)

    def _confidence(self) -> Confidence:
        if self.never:
            return "high"
        grade = (self.share >= MEDIUM) + (self.share >= HIGH) - (self.judged < FEW_ROWS)
        grades: tuple[Confidence, ...] = ("low", "medium", "high")
        return grades[max(0, grade)]


def _seen(
    metrics: pd.DataFrame,
    columns: list[str],
    shows: Callable[[pd.DataFrame], pd.Series],
    *,
    start: float = EARLY,
    settled: bool = True,
    never: bool = False,
) -> Seen | None:
    """Judge the rows that have all columns; None where there are none, or too few show the signature.

    Rows up to the share `start` of the steps are left out, unless not `settled`; what may `never` happen is seen in any
    single row.
    """
    if not set(columns) <= set(metrics):
        return None
    rows = metrics.dropna(subset=columns)
    if settled and not never:
        rows = rows[rows["progress"] > start]
    if rows.empty:
        return None
    mask = shows(rows).astype(bool)
    share = float(mask.groupby(rows["seed"]).mean().mean())
    if not mask.any() or (share < FOUND and not never):
        return None
    seeds = rows.loc[mask, "seed"].nunique(), metrics["seed"].nunique()
    return Seen(columns, rows[mask], len(rows), share, seeds, never)


def illegitimate(metrics: pd.DataFrame) -> Finding | None:
    """Most negatives lie nearer the truth than the noised positive (m* < 0), so that the two losses contradict."""
    seen = _seen(metrics, ["illegitimate_fraction"], lambda m: m["illegitimate_fraction"] > MOSTLY_ILLEGITIMATE)
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
    seen = _seen(metrics, columns, lambda m: m[columns[0]] > m[columns[1]], never=True)
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
    seen = _seen(metrics, ["ema_gradient"], lambda m: m["ema_gradient"] > 0, never=True)
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
    seen = _seen(metrics, ["wrongness"], lambda m: m["wrongness"] < NO_DISTANCE)
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


def contrast_off(metrics: pd.DataFrame) -> Finding | None:
    """The contrastive loss is computed and counts for nothing: its weight, or all of its gradient, is 0."""

    def zero(column: str) -> Seen | None:
        return _seen(metrics, [column], lambda m: m[column] == 0, start=RISE_FROM)

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

    return _seen(metrics, columns, shows)


def _lasting_loss(metrics: pd.DataFrame) -> Seen | None:
    """A loss above ln 2 in the second half; mining against the network keeps it a little above by itself."""
    mined = any((metrics[name] > 0).any() for name in ("miner_accepted", "mined_drop") if name in metrics)

    def shows(m: pd.DataFrame) -> pd.Series:
        worse = m["loss_con"] > (MINED_LOSS if mined else LASTING_LOSS)
        worse &= (m["p_hard"] > 0.5) if "p_hard" in m else True
        return worse & ~(m["illegitimate_fraction"] > MOSTLY_ILLEGITIMATE) if "illegitimate_fraction" in m else worse

    return _seen(metrics, ["loss_con"], shows, start=LATE)


def mined_upward(metrics: pd.DataFrame) -> Finding | None:
    """Mining ends at a higher energy than it started from."""
    seen = _seen(metrics, ["mined_drop"], _upward, settled=False)
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
        _seen(metrics, columns, shows, never=name in ("trials", "energies")) for name, (columns, shows) in signs.items()
    ]
    found = [one for one in seen if one is not None]
    if not found:
        return None
    surest = max(found, key=lambda one: one.share)
    return surest.finding(
        "unstable miner",
        "a shorter first step (the document's alpha), a smaller eps, gradient clipping, and Armijo's rule on",
        {"negatives.miner.rule": "armijo", "negatives.miner.step_size": Times(0.25), **_smaller_ball()},
        "K",
    )


def collapse(metrics: pd.DataFrame) -> Finding | None:
    """Squared-norm head: pushing E⁺ = ‖h‖² down shrinks ∇E with it, until the score is that of the null predictor."""
    columns = ["loss_mse", "grad_share_contrast"]
    seen = _seen(metrics, columns, lambda m: (m[columns[0]] > NULL_LOSS) & (m[columns[1]] > BAND[1]), start=LATE)
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

    seen = _seen(metrics, ["grad_share_contrast"], shows, start=LATE)
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
    seen = _seen(grown, columns, lambda m: (m[columns[0]] < TINY_SHARE) & (m["margin_growth"] < FLAT_GROWTH))
    if seen is None:
        return None
    return seen.finding(
        "flat margins and tiny gradient share",
        "a higher weight of the contrastive loss, here the least that brings r to the lower end of 0.3 to 0.7 at the "
        "gradients seen; then a larger eps or one or two more inner steps; see that mining uses the EMA and shares ε",
        {"contrastive_weight": Times(_to_share(seen, BAND[0]))},
        "K",
    )


def too_easy(metrics: pd.DataFrame) -> Finding | None:
    """E⁻ ≫ E⁺: further from the positive than its own noise, and nothing left to tell apart."""
    columns = ["margin_mean", "e_pos", "e_neg"]
    seen = _seen(
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
        {**_smaller_ball(), "negatives.miner.steps": Times(0.5)},
        "K",
    )


def saturation(metrics: pd.DataFrame) -> Finding | None:
    """For most of training three of four pairs cost nothing: the contrastive loss has no more to teach."""

    def shows(m: pd.DataFrame) -> pd.Series:
        # the levels of most noise hide any negative, and keep the mean loss up: so the lower quartile of margins
        return (m["margin_q25"] > SATURATED_MARGIN) | (m["loss_con"] < SATURATED_LOSS)

    seen = _seen(metrics, ["margin_q25", "loss_con"], shows)
    if seen is None:
        return None
    return seen.finding(
        "contrastive loss saturated",
        "harder negatives (nearer the truth, or mined and legitimate); otherwise leave the loss out and save its time",
        _smaller_ball(),
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

    seen = _seen(risen, ["e_pos_rise", "e_neg_rise", *columns], shows, start=RISE_FROM)
    if seen is None:
        return None
    return seen.finding(
        "energies rise uniformly",
        "more weight on the supervision of the positive (here: less on the contrastive loss beside it), and weight "
        "decay on the network",
        {"contrastive_weight": Times(0.5)},
        "K",
    )


def off_scale(metrics: pd.DataFrame) -> Finding | None:
    """Negatives far larger than the data, or ever further from it."""
    seen = _seen(metrics, ["negative_scale"], lambda m: m["negative_scale"] > OFF_SCALE)
    if seen is None and "wrongness" in metrics:
        early = metrics[metrics["progress"] <= EARLY].groupby("seed")["wrongness"].median()
        grown = metrics.assign(wrongness_growth=metrics["wrongness"] / metrics["seed"].map(early))
        seen = _seen(grown, ["wrongness_growth", "wrongness"], lambda m: m["wrongness_growth"] > DRIFT)
    if seen is None:
        return None
    return seen.finding(
        "miner off the data scale",
        "a smaller eps: keep the negative within a ball around the truth of at most its own length",
        _smaller_ball(),
        "B, K",
        also=("wrongness",),
    )


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
    _signature("mostly illegitimate negatives", illegitimate, "illegitimate_fraction"),
    _signature(
        "negative noised a second time, or with other noise",
        second_noising,
        "shared_noise_residual shared_noise_rounding",
    ),
    _signature("gradient in the EMA weights", ema_gradient, "ema_gradient"),
    _signature("negatives equal to the truth", no_distance, "wrongness"),
    _signature(
        "contrastive loss switched off",
        contrast_off,
        "loss_con_weighted",
        "contrastive_weight",
        "grad_share_contrast",
    ),
    _signature("pairs ranked the wrong way round", wrong_way_round, "loss_con"),
    _signature("mined toward higher energy", mined_upward, "mined_drop"),
    _signature(
        "unstable miner",
        unstable_miner,
        "miner_backtracks miner_accepted",
        "miner_limit_hits",
        "armijo_slack e_neg",
        "miner_non_finite",
    ),
    _signature("gradient collapse", collapse, "loss_mse grad_share_contrast"),
    _signature("contrastive loss dominates", dominance, "grad_share_contrast"),
    _signature("miner off the data scale", off_scale, "negative_scale", "wrongness"),
    _signature("too-easy negatives", too_easy, "margin_mean e_pos e_neg"),
    _signature("contrastive loss saturated", saturation, "margin_q25 loss_con"),
    _signature("flat margins and tiny gradient share", flat_margins, "grad_share_contrast margin_mean"),
    _signature("energies rise uniformly", uniform_rise, "e_pos e_neg"),
)


def _smaller_ball() -> dict[str, Times]:
    """Half the radius, and with it the lengths that have to fit into it."""
    lengths = ("negatives.miner.eps", "negatives.miner.start", "negatives.miner.delta", "negatives.eps")
    return {name: Times(0.5) for name in lengths}


def _upward(metrics: pd.DataFrame) -> pd.Series:
    return metrics["mined_drop"] < 0


def _untested(metrics: pd.DataFrame) -> pd.Series:
    """Accepted against Armijo's rule, though not upward on the whole, which is a signature of its own."""
    violated = metrics["armijo_slack"] < -ARMIJO_TOLERANCE * (1 + metrics["e_neg"].abs())
    return violated & ~_upward(metrics) if "mined_drop" in metrics else violated


def _to_share(seen: Seen, target: float) -> float:
    """The factor on the contrastive weight that would make the gradient share `target`; r/(1 − r) grows with it."""
    share = float(seen.rows["grad_share_contrast"].median())
    wanted = target / (1 - target) * (1 - share) / max(share, 1e-12)
    return float(f"{min(max(wanted, 1 / LARGEST_FACTOR), LARGEST_FACTOR):.1e}")
