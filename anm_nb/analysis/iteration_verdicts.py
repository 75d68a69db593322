"""Which component carries the gain: what each part of HRM is worth on fresh test problems, and the document's tiers.

τ is over all pairs throughout. `scores` holds one row for each seed and one column for each comparator, as
`iteration_tables.at_trained` makes it.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from anm_nb.analysis.iteration_tables import HINTS, references_at, wide
from anm_nb.analysis.ranking_checklist import DECIMALS
from anm_nb.analysis.ranking_tables import stalled_seeds
from anm_nb.analysis.stats import POWER, holm, mean_interval, paired_difference, ratio_interval
from anm_nb.analysis.tiers import AT_CEILING, TIERS, Tier, at_ceiling, evaluate_tiers
from anm_nb.analysis.verdicts import LEAST_SEEDS, State, Verdict

ALPHA = 0.05
CEILING = 1.0  # with a pointer at every hidden item, see `HintedSort.all_pairs_ceiling`
Met = Literal["met", "not met", "undecided"]


class Component(NamedTuple):
    """A part of the model, and the two comparators that differ in nothing else."""

    name: str
    better: str  # with it
    base: str  # without it


COMPONENTS = (
    Component("iteration", "weight-tied", "no iteration"),
    Component("tying", "weight-tied", "deep untied"),
    Component("routing", "HRM per token", "weight-tied"),
    Component("two time scales", "HRM per token", "one timescale"),
    Component("routing by token", "HRM per token", "HRM per sequence"),
)
# What else a difference could be due to.
BESIDE = (
    Component("routing, against chance", "HRM per token", "random α"),
    Component("routing, against an untrained controller", "HRM per token", "untrained controller"),
    Component("a slower state, not only a second one", "HRM per token", "equal timescales"),
)
BASELINE, TIED, HRM = "no iteration", "weight-tied", "HRM per token"
CREDITED = (HRM, TIED)  # in the place of the document's HRM model: what plain weight tying reaches is not routing's
BESIDE_TIERS = ("trivial", "classical", "ceiling")


def component_effects(scores: pd.DataFrame, ceiling: float = CEILING) -> pd.DataFrame:
    """What each of `COMPONENTS` and `BESIDE` adds to τ, paired by seed.

    Columns: component, better, base, better_tau, base_tau (means), gain, low, high (95 %), p_value, detectable (with
    80 % power), seeds, headroom (whether either stays below the ceiling), p_holm (over all rows), state: supported or
    refuted by the sign where p_holm < 0.05 with at least 3 seeds and there is headroom, undecided otherwise.
    """
    rows = []
    for component in (*COMPONENTS, *BESIDE):
        better, base = scores[component.better], scores[component.base]
        found = paired_difference(better, base)
        headroom = not all(at_ceiling(mean_interval(taus), ceiling) for taus in (better, base))
        row: dict[str, Any] = {"component": component.name, "better": component.better, "base": component.base}
        row |= {"better_tau": better.mean(), "base_tau": base.mean(), "gain": found.estimate}
        tested = {"low": found.low, "high": found.high, "p_value": found.p_value, "detectable": found.detectable}
        rows.append(row | tested | {"seeds": found.pairs, "headroom": headroom})
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p_value"])
    decided = (table["p_holm"] < ALPHA) & (table["seeds"] >= LEAST_SEEDS) & table["headroom"]
    sign = np.where(table["gain"] > 0, "supported", "refuted")
    return table.assign(state=np.where(decided, sign, "undecided"))


def component_verdicts(effects: pd.DataFrame, among: tuple[Component, ...] = COMPONENTS) -> list[Verdict]:
    """One sentence each of `component_effects`: the gain, its interval, both p-values, seeds and power."""
    tests = int(effects["p_value"].notna().sum())
    names = [component.name for component in among]
    return [_sentence(row, tests) for row in effects.itertuples() if row.component in names]


def credit(scores: pd.DataFrame) -> Verdict:
    """Whether HRM beats the one-pass baseline, and in the same sentence whether plain weight tying does."""
    hrm, tied = (paired_difference(scores[model], scores[BASELINE]) for model in CREDITED)
    between = paired_difference(scores[HRM], scores[TIED])
    too = _state(tied.low, tied.high, tied.pairs) == "supported"
    but = "but so does plain weight tying" if too else "plain weight tying is not shown to"
    return Verdict(
        claim=f"HRM beats the one-pass baseline; {but}",
        measured=(
            f"HRM {_gain_text(hrm.estimate, hrm.low, hrm.high)}, weight tying "
            f"{_gain_text(tied.estimate, tied.low, tied.high)}, HRM − weight tying "
            f"{_gain_text(between.estimate, between.low, between.high)}, {hrm.pairs} seeds"
        ),
        state=_state(hrm.low, hrm.high, hrm.pairs),
        estimate=hrm.estimate,
        interval=(hrm.low, hrm.high),
        p_value=hrm.p_value,
        detectable=hrm.detectable,
        seeds=hrm.pairs,
        expected="gains of 20, 35 and 50 %, credited to HRM",
    )


def control_verdict(control: pd.DataFrame, references: pd.DataFrame) -> Verdict:
    """Whether shuffled pointers destroy HRM's gain: it falls, to no more than what is possible without pointers.

    `control` as `by_hints` makes it. The interval is of what is lost, paired by seed.
    """
    by_hints = {str(hints): wide(rows) for hints, rows in control.groupby("hints")}
    true, shuffled = by_hints["true"], by_hints["shuffled"]
    retrained = next(name for name in true if "shuffled" in str(name))
    known = references_at(references, "hints", HINTS.index("shuffled")).set_index("kind")
    bound = float(known["tau_all"]["ceiling"])
    lost = paired_difference(true[HRM], shuffled[retrained])
    left = mean_interval(shuffled[retrained])
    state = _state(lost.low, lost.high, lost.pairs)
    return Verdict(
        claim="shuffling the pointers destroys HRM's gain",
        measured=(
            f"{HRM} {true[HRM].mean():z.{DECIMALS}f} with true pointers (one pass "
            f"{true[BASELINE].mean():z.{DECIMALS}f}), {_interval(*left)} trained and tested on shuffled ones, "
            f"{shuffled[HRM].mean():z.{DECIMALS}f} trained on true and tested on shuffled ones; without pointers the "
            f"ceiling is {bound:.{DECIMALS}f}; lost {_gain_text(lost.estimate, lost.low, lost.high)}, "
            f"{lost.pairs} seeds"
        ),
        state="undecided" if state == "supported" and left[1] > bound + AT_CEILING else state,
        estimate=lost.estimate,
        interval=(lost.low, lost.high),
        p_value=lost.p_value,
        detectable=lost.detectable,
        seeds=lost.pairs,
    )


def tier_table(mask_rates: pd.DataFrame, references: pd.DataFrame) -> pd.DataFrame:
    """The document's tiers over all pairs at every mask rate, for HRM and for plain weight tying in its place.

    Columns: mask_rate, model, tier, baseline and tau (each with _low and _high), gain (tau/baseline − 1, with _low and
    _high by `ratio_interval`), difference (with _low and _high), seeds, by_means (met or not met: what the document's
    criteria say of the means), by_intervals (met or not met where the 95 % intervals of all three lie wholly on that
    side, undecided otherwise), reachable (whether a perfect ranking would meet it beside this baseline), and the
    references' τ: trivial, classical (the one that makes no use of pointers), ceiling.
    """
    rows = []
    for rate, part in mask_rates.groupby("mask_rate"):
        scores, known = wide(part), references_at(references, "mask_rate", float(rate))  # type: ignore[arg-type]
        ceiling = float(known.loc[known["kind"] == "ceiling", "tau_all"].iloc[0])
        beside = {
            "trivial": float(known.loc[known["kind"] == "trivial", "tau_all"].max()),
            "classical": float(known.loc[known["kind"] == "classical", "tau_all"].min()),
            "ceiling": ceiling,
        }
        for model in CREDITED:
            baseline, taus = scores[BASELINE], scores[model]
            measured = _tier_measures(baseline, taus)
            report = evaluate_tiers(baseline, taus, "all pairs", ceiling).table.set_index("tier")
            for tier in TIERS:
                row = {"mask_rate": rate, "model": model, "tier": tier.name, **measured}
                row["by_means"] = "met" if report.loc[tier.name, "reached"] else "not met"
                row["by_intervals"] = _tier_by_intervals(tier, measured)
                rows.append(row | {"reachable": bool(report.loc[tier.name, "reachable"])} | beside)
    return pd.DataFrame(rows)


def shown_comparators(scores: pd.DataFrame, references: pd.DataFrame) -> pd.DataFrame:
    """τ of every comparator as text beside the references of the task (as `reference_scores` gives them)."""
    known = references[references["metric"] == "tau_all"].sort_values("kind", ascending=False)
    count = f"stalled seeds, of {len(scores)}"
    rows: list[dict[str, Any]] = [
        {"ranking": row.name, "kind": row.kind, "τ, all pairs [95 %]": f"{row.value:z.2f}", "median": "", count: ""}
        for row in known.itertuples(index=False)
    ]
    stalled = stalled_seeds(scores, BASELINE)
    for model in scores:
        row: dict[str, Any] = {
            "ranking": model,
            "kind": "measured",
            "τ, all pairs [95 %]": _interval(*mean_interval(scores[model])),
        }
        row["median"] = f"{scores[model].median():z.{DECIMALS}f}"
        rows.append(row | {count: str(stalled.get(model, ""))})
    return pd.DataFrame(rows)


def shown_effects(effects: pd.DataFrame) -> pd.DataFrame:
    """`component_effects` as text to read."""
    text = pd.DataFrame({"component": effects["component"]})
    text["compared"] = effects["better"] + " − " + effects["base"]
    text["τ"] = [f"{row.better_tau:z.{DECIMALS}f} − {row.base_tau:z.{DECIMALS}f}" for row in effects.itertuples()]
    text["gain [95 %]"] = [_gain_text(*gain) for gain in effects[["gain", "low", "high"]].to_numpy()]
    text["p"] = effects["p_value"].map(_p_text)
    text["p, Holm"] = effects["p_holm"].map(_p_text)
    text["detectable"] = effects["detectable"].map(lambda value: f"{value:.{DECIMALS}f}")
    text["seeds"] = effects["seeds"]
    no_headroom = np.where(effects["headroom"], "", " (no headroom)")
    text["verdict"] = effects["state"] + no_headroom
    return text


def shown_tiers(tiers: pd.DataFrame) -> pd.DataFrame:
    """`tier_table` as text: a row for each mask rate and model, a column for each tier, by means and by intervals."""
    rows = []
    for (rate, model), part in tiers.groupby(["mask_rate", "model"], sort=False):
        one = part.iloc[0]
        row = {"hidden": f"{100 * float(rate):.0f} %", "model": model}  # type: ignore[arg-type]
        row["baseline τ [95 %]"] = _interval(one["baseline"], one["baseline_low"], one["baseline_high"])
        row["τ [95 %]"] = _interval(one["tau"], one["tau_low"], one["tau_high"])
        percents = [f"{100 * one[name]:+z.0f}" for name in ("gain", "gain_low", "gain_high")]
        row["gain [95 %]"] = f"{percents[0]} % [{percents[1]}, {percents[2]}]"
        row |= {str(tier["tier"]): _tier_text(tier) for tier in part.to_dict("records")}  # type: ignore[arg-type]
        rows.append(row | {"trivial, classical, ceiling": ", ".join(f"{one[kind]:z.2f}" for kind in BESIDE_TIERS)})
    return pd.DataFrame(rows)


def _sentence(row: Any, tests: int) -> Verdict:
    measured = (
        f"{row.base} {row.base_tau:z.{DECIMALS}f}, {row.better} {row.better_tau:z.{DECIMALS}f}; gain "
        f"{_gain_text(row.gain, row.low, row.high)}, {row.seeds} seeds, p = {_p_text(row.p_value)}, "
        f"{_p_text(row.p_holm)} by Holm over {tests} comparisons"
    )
    if not row.headroom:
        measured += f"; no headroom: both sit at the ceiling {CEILING:g}"
    if row.state != "undecided":
        measured += f"; {row.detectable:.{DECIMALS}f} would have been found with {100 * POWER:.0f} % power"
    return Verdict(
        claim=f"{row.component}: {row.better} has a higher τ than {row.base}",
        measured=measured,
        state=row.state,
        estimate=row.gain,
        interval=(row.low, row.high),
        p_value=row.p_value,
        detectable=row.detectable,
        seeds=row.seeds,
    )


def _tier_measures(baseline: pd.Series, taus: pd.Series) -> dict[str, float]:
    """Means, gain and difference with their intervals, as `tier_table` names them."""
    found = paired_difference(taus, baseline)
    ratio = np.subtract(ratio_interval(taus, baseline), 1.0)
    measures = {
        "baseline": mean_interval(baseline),
        "tau": mean_interval(taus),
        "gain": ratio,
        "difference": (found.estimate, found.low, found.high),
    }
    ends = ("", "_low", "_high")
    flat = {
        f"{name}{end}": float(value)
        for name, values in measures.items()
        for end, value in zip(ends, values, strict=True)
    }
    return flat | {"seeds": found.pairs}


def _tier_by_intervals(tier: Tier, measured: dict[str, float]) -> Met:
    """Whether the intervals of both τ and of the gain lie wholly on one side of what the tier asks for."""
    asked = {"baseline": tier.baseline, "tau": tier.hrm, "gain": tier.gain}
    if measured["seeds"] < LEAST_SEEDS:
        return "undecided"
    if any(measured[f"{name}_high"] < least for name, least in asked.items()):
        return "not met"
    return "met" if all(measured[f"{name}_low"] > least for name, least in asked.items()) else "undecided"


def _tier_text(tier: dict[str, object]) -> str:
    by_means, by_intervals = tier["by_means"], tier["by_intervals"]
    text = f"{by_means}" if by_means == by_intervals else f"{by_means} by the means, {by_intervals} by the intervals"
    return text if tier["reachable"] else f"{text}; out of reach even at the ceiling"


def _state(low: float, high: float, seeds: int) -> State:
    if seeds < LEAST_SEEDS or not low * high > 0:
        return "undecided"
    return "supported" if low > 0 else "refuted"


def _gain_text(estimate: float, low: float, high: float) -> str:
    return f"{estimate:+z.{DECIMALS}f} [{low:+z.{DECIMALS}f}, {high:+z.{DECIMALS}f}]"


def _interval(mean: float, low: float, high: float) -> str:
    return f"{mean:z.{DECIMALS}f} [{low:z.{DECIMALS}f}, {high:z.{DECIMALS}f}]"


def _p_text(p: float) -> str:
    if np.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
