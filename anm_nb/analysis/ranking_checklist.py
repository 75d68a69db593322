"""What the HRM document expects of ranking runs, each a verdict over test τ or routing, paired by seed.

Where the compared models both sit at the ceiling, a claim of a difference is undecided for want of headroom, whatever
the seeds say, and the verdict says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from anm_nb.analysis.ranking_tables import BANDS, SPACES, on_test
from anm_nb.analysis.stats import mean_interval
from anm_nb.analysis.tables import final, rounded
from anm_nb.analysis.tiers import TIERS, TierReport, at_ceiling, evaluate_tiers
from anm_nb.analysis.verdicts import Verdict, judge, judge_band

# What the document says each fix adds to τ ("Implementation Status").
EXPECTED_EFFECTS = {
    "mask-aware metric": "+50–100 %",
    "ranking loss": "+20–30 %",
    "deep supervision": "+15–25 %",
    "temperature schedule": "+10–20 %",
    "entropy regularisation": "+10–20 %",
    "two optimisers": "+5–10 %",
    "controller warm-up": "+5–10 %",
}
DECIMALS = 3  # of τ: a few hundred test arrays resolve no more
INDEX_BOUND = 1.0  # a perfect order has index-space τ 1; with hidden values no order is known to be best there


def ceilings(references: pd.DataFrame) -> dict[str, float]:
    """The best possible τ in each space of `SPACES`."""
    exact = references[references["kind"] == "ceiling"].set_index("metric")["value"]
    return {space: float(exact.get(metric, INDEX_BOUND)) for space, metric in SPACES.items()}


def gain(
    metrics: pd.DataFrame, references: pd.DataFrame, better: str, base: str, space: str, expected: str | None = None
) -> Verdict:
    """The claim that `better` orders the test problems better than `base`, in a space of `SPACES`."""
    scores, ceiling = on_test(metrics, f"test_{SPACES[space]}"), ceilings(references)[space]
    verdict = judge(
        f"{better} has a higher τ than {base} ({space})",
        lower=scores[base],
        higher=scores[better],
        names=(base, better),
        decimals=DECIMALS,
        expected=expected,
    )
    if not all(at_ceiling(mean_interval(scores[method]), ceiling) for method in (base, better)):
        return verdict
    reason = f"no headroom: both sit at the ceiling {rounded(ceiling)}"
    return replace(verdict, state="undecided", measured=f"{verdict.measured}; {reason}")


def tier_reports(metrics: pd.DataFrame, references: pd.DataFrame, hrm: str = "hrm") -> list[TierReport]:
    """The document's tiers in every space, observed pairs first."""
    best = ceilings(references)
    reports = []
    for space, metric in reversed(SPACES.items()):
        scores = on_test(metrics, f"test_{metric}")
        reports.append(evaluate_tiers(scores["baseline"], scores[hrm], space, best[space]))  # type: ignore[arg-type]
    return reports


def tier_gains(metrics: pd.DataFrame, space: str, hrm: str = "hrm") -> list[Verdict]:
    """Whether the HRM model is better by what each tier asks for."""
    scores = on_test(metrics, f"test_{SPACES[space]}")
    return [
        judge(
            f"{hrm} is {100 * tier.gain:.0f} % better than the baseline ({space})",
            lower=(1 + tier.gain) * scores["baseline"],
            higher=scores[hrm],
            names=(f"{1 + tier.gain:.2f} × baseline", hrm),
            decimals=DECIMALS,
            expected=f"yes ({tier.name} tier)",
        )
        for tier in TIERS
    ]


def iteration_gain(by_iteration: pd.DataFrame, method: str, metric: str) -> Verdict:
    """Whether the answer after the last iteration is better than after the first."""
    rows = by_iteration[by_iteration["method"] == method].pivot(index="seed", columns="iteration", values=metric)
    space = next(name for name, column in SPACES.items() if column == metric)
    return judge(
        f"{method} ranks better after its last iteration than after its first ({space})",
        lower=rows.iloc[:, 0],
        higher=rows.iloc[:, -1],
        names=("first", "last"),
        decimals=DECIMALS,
        expected="yes: τ increases, then plateaus",
    )


def routing_bands(metrics: pd.DataFrame, method: str) -> list[Verdict]:
    """The document's healthy bands for mean entropy, Herfindahl index and largest α, at the end of training."""
    names = {"entropy": "routing entropy", "herfindahl": "Herfindahl index", "max_alpha": "largest α"}
    units = {"entropy": "nats", "herfindahl": "", "max_alpha": ""}
    return [
        judge_band(
            f"the {names[quantity]} of {method} ends in its healthy band",
            final(metrics, quantity)[method],
            low=low,
            high=high,
            unit=units[quantity],
            expected=f"below {high:g}" if low == float("-inf") else f"between {low:g} and {high:g}",
        )
        for quantity, (low, high) in BANDS.items()
    ]


def space_verdicts(spaces: pd.DataFrame, method: str) -> list[Verdict]:
    """Whether the published score is low by its metric rather than by its model; `spaces` as of `waterfall`."""
    rows = spaces[spaces["method"] == method]
    taus = rows.pivot(index="seed", columns="space", values="tau")
    return [
        judge_band(
            f"{method} has the published τ in index space",
            taus["index space"],
            low=0.05,
            high=0.14,
            expected="0.091 without iteration, 0.108 with",
        ),
        judge_band(
            f"{method} orders observed pairs almost perfectly",
            taus["observed pairs"],
            low=0.95,
            high=1.0,
            expected="a weak model, τ 0.09 to 0.15",
        ),
        judge(
            f"the same answers of {method} score higher on observed pairs than in index space",
            lower=taus["index space"],
            higher=taus["observed pairs"],
            names=("index space", "observed pairs"),
            decimals=DECIMALS,
        ),
    ]


def fix_verdicts(metrics: pd.DataFrame, references: pd.DataFrame, space: str) -> list[Verdict]:
    """Each fix added alone to the published set-up, then each removed alone from the full one."""
    added = [
        gain(metrics, references, f"only {fix}", "published", space, expected)
        for fix, expected in EXPECTED_EFFECTS.items()
    ]
    removed = [
        gain(metrics, references, "all", f"all but {fix}", space, expected)
        for fix, expected in EXPECTED_EFFECTS.items()
    ]
    return added + removed


def sweep_verdicts(
    metrics: pd.DataFrame, references: pd.DataFrame, compared_with: str, spaces: Sequence[str] = ("observed pairs",)
) -> list[Verdict]:
    """Every value of a sweep against the baseline, and against the one that the document settled on."""
    values = [method for method in metrics["method"].unique() if method != "baseline"]
    verdicts = []
    for space in spaces:
        verdicts += [gain(metrics, references, value, "baseline", space, "yes, by 20 % and more") for value in values]
        verdicts += [
            gain(metrics, references, value, compared_with, space) for value in values if value != compared_with
        ]
    return verdicts
