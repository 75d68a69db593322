"""All experiments at a glance, as tables to read: what there is, final scores, paired differences, success tiers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from anm_nb.analysis.experiment import Comparison, Experiment, compared, metric_text
from anm_nb.analysis.grouping import ONE_PASS, WHOLE_HRM
from anm_nb.analysis.ranking import SPACES, ceiling_of
from anm_nb.analysis.stats import RESOLUTION, holm, mean_interval, paired_difference
from anm_nb.analysis.tables import rounded, skill
from anm_nb.analysis.tiers import TierReport, at_ceiling, evaluate_tiers
from anm_nb.analysis.verdicts import LEAST_SEEDS

ALPHA = 0.05
SHOWN_METHODS = 9  # of an experiment in the overview; a sweep may have dozens
ROUNDING = 1e-9  # of differences: scores and errors in per cent are of order 1 to 100


def overview(experiments: Iterable[Experiment]) -> pd.DataFrame:
    """What there is: a row for each experiment, with its methods, seeds, commits (+: of changed files) and last day."""
    rows = []
    for each in experiments:
        runs = each.provenance.values()
        commits = dict.fromkeys(_commit(run.get("commit"), run.get("dirty")) for run in runs)
        methods = [*each.settings]
        more = [f"… {len(methods) - SHOWN_METHODS} more"] if len(methods) > SHOWN_METHODS else []
        seeds = sorted({len(of.dropna()) for _, of in next(iter(each.scores.values())).items()})
        rows.append(
            {
                "experiment": each.name,
                "family": each.family,
                "task": each.common["task"],
                "size": each.common["size"],
                "methods": ", ".join(methods[:SHOWN_METHODS] + more),
                "seeds": "–".join(str(count) for count in dict.fromkeys((seeds[0], seeds[-1]))),
                "commit": ", ".join(commits),
                "finished": max(str(run.get("finished", "–")) for run in runs)[:10],
            }
        )
    columns = ["experiment", "family", "task", "size", "methods", "seeds", "commit", "finished"]
    return pd.DataFrame(rows, columns=columns).set_index("experiment")


def _commit(commit: str | None, dirty: bool | None) -> str:
    return f"{commit[:7]}{'+' if dirty else ''}" if commit else "–"


def scores(experiments: Iterable[Experiment]) -> pd.DataFrame:
    """Final scores: experiment, metric, on, method, mean, low, high (95 %), seeds, and what they are read against.

    The latter are the values and names of the best trivial and classical reference, the ceiling, and `skill`.
    """
    rows = []
    for each in experiments:
        for metric in each.metrics:
            trivial, classical, ceiling = (each.known(metric, kind) for kind in ("trivial", "classical", "ceiling"))
            beside = {
                "trivial": trivial[1],
                "best trivial": trivial[0],
                "classical": classical[1],
                "best classical": classical[0],
                "ceiling": ceiling[1],
            }
            for method, values in each.scores[metric].items():
                mean, low, high = mean_interval(values)
                row = {"experiment": each.name, "metric": metric, "on": each.measured_on, "method": method}
                row |= {"mean": mean, "low": low, "high": high, "seeds": int(values.count())}
                rows.append(row | beside | {"skill": float(skill(mean, trivial[1], ceiling[1]))})
    return pd.DataFrame(rows)


def records(table: pd.DataFrame) -> Iterator[Any]:
    """The rows of a table, their values as attributes; `itertuples` of which a type checker asks nothing."""
    return table.itertuples()


def shown_scores(table: pd.DataFrame) -> pd.DataFrame:
    """`scores` as text, a row for each method."""
    if table.empty:
        return pd.DataFrame()
    text = table[["experiment", "method"]].copy()
    text["metric"] = [f"{metric_text(row.metric)}, {row.on}" for row in records(table)]
    text["score [95 %]"] = [f"{rounded(row.mean)} [{rounded(row.low)}, {rounded(row.high)}]" for row in records(table)]
    text["seeds"] = table["seeds"]
    text["skill"] = table["skill"].map("{:z.2f}".format).str.replace("nan", "–")
    for kind in ("trivial", "classical"):
        pairs = zip(table[kind], table[f"best {kind}"], strict=True)
        text[f"best {kind}"] = [f"{rounded(value)} ({name})" for value, name in pairs]
    text["ceiling"] = table["ceiling"].map(rounded)
    return text.set_index(["experiment", "metric", "method"])


def against_baselines(experiments: Iterable[Experiment]) -> list[Comparison]:
    """Every method of every experiment with a baseline against it, in each of its `metrics`, where seeds are shared."""
    found = [
        compared(each, metric, method, each.baseline)
        for each in experiments
        if each.baseline is not None
        for metric in each.metrics
        for method in each.settings
        if method != each.baseline
    ]
    return [each for each in found if each.pairs]


def differences(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Paired differences method − against, with 95 % intervals, p-values, and what was decided, one row each.

    Columns: experiment, metric, part, method, against, difference, low, high, p_value, p_holm (over all rows),
    detectable (with 80 % power), seeds, room (what the comparator leaves to gain, NaN where no ceiling is known), and
    `decided`: better or worse where p_holm < 0.05 with at least 3 seeds, "no headroom" where both are rankings at the
    ceiling, undecided otherwise.
    """
    rows = []
    for each in comparisons:
        found = paired_difference(each.first, each.second)
        row = {name: getattr(each, name) for name in ("experiment", "metric", "part", "method", "against")}
        scale = np.nanmax(np.abs([each.first, each.second]))
        estimate = 0.0 if abs(found.estimate) <= RESOLUTION * scale else found.estimate  # of 1 − accuracy, for one
        row |= {"difference": estimate, "low": found.low, "high": found.high, "p_value": found.p_value}
        room = abs(each.ceiling - float(np.nanmean(each.second)))
        rows.append(row | {"detectable": found.detectable, "seeds": found.pairs, "room": room})
    columns = ["experiment", "metric", "part", "method", "against", "difference", "low", "high", "p_value"]
    table = pd.DataFrame(rows, columns=[*columns, "detectable", "seeds", "room"])
    table.insert(len(columns), "p_holm", holm(table["p_value"]))
    up = np.array([each.more_is_better for each in comparisons], bool)
    significant = (table["p_holm"] < ALPHA) & (table["seeds"] >= LEAST_SEEDS)
    decided = np.where(significant, np.where((table["difference"] > 0) == up, "better", "worse"), "undecided")
    full = [_no_headroom(each) for each in comparisons]
    return table.assign(decided=np.where(full, "no headroom", decided))


def _no_headroom(each: Comparison) -> bool:
    """Whether both of two rankings sit at the ceiling; how near an error is to it depends on its unit."""
    if np.isnan(each.ceiling) or not each.metric.startswith("tau"):
        return False
    return all(at_ceiling(mean_interval(taus), each.ceiling) for taus in (each.first, each.second))


def shown_differences(table: pd.DataFrame) -> pd.DataFrame:
    """`differences` as text."""
    if table.empty:
        return pd.DataFrame()
    text = table[["experiment"]].copy()
    text["metric"] = table["metric"].map(metric_text)
    text["compared"] = table["method"] + " − " + table["against"]
    text["difference [95 %]"] = [
        f"{signed(row.difference)} [{signed(row.low)}, {signed(row.high)}]" for row in records(table)
    ]
    text["p"], text["p, Holm"] = table["p_value"].map(p_text), table["p_holm"].map(p_text)
    text["detectable"] = table["detectable"].map(detectable_text)
    text["seeds"], text["verdict"] = table["seeds"], table["decided"]
    return text.set_index(["experiment", "metric", "compared"])


def signed(value: float) -> str:
    """A difference with its sign and three significant digits; what is left of one by rounding is none."""
    if abs(value) < ROUNDING:
        value = 0.0
    return f"+{rounded(value)}" if value > 0 else rounded(value)


def detectable_text(value: float) -> str:
    """What could have been found; a dash where all seeds have the same difference, which says nothing of it."""
    return f"±{rounded(value, 2)}" if value > 0 else "–"


def p_text(p: float) -> str:
    """A p-value to read."""
    if np.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def tier_reports(experiments: Iterable[Experiment]) -> dict[str, list[TierReport]]:
    """The HRM document's tiers in every space, observed pairs first, of each experiment with a baseline and HRM."""
    reports = {}
    for each in experiments:
        if each.family != "ranking":
            continue
        baseline, hrm = each.of_kind(ONE_PASS), each.of_kind(WHOLE_HRM)
        if baseline is None or hrm is None:
            continue
        reports[each.name] = [
            evaluate_tiers(taus[baseline], taus[hrm], space, ceiling_of(each.references, metric))  # type: ignore[arg-type]
            for space, metric in reversed(SPACES.items())
            if (taus := each.scores.get(metric)) is not None
        ]
    return reports


def shown_tiers(reports: dict[str, list[TierReport]]) -> pd.DataFrame:
    """`tier_reports` as text: a row for each experiment and space, a column for each tier."""
    rows = []
    for name, several in reports.items():
        for report in several:
            row = {"experiment": name, "measured in": report.space, "ceiling": f"{report.ceiling:.3f}"}
            row |= {"baseline τ": f"{report.baseline[0]:z.3f}", "HRM τ": f"{report.hrm[0]:z.3f}"}
            for tier, reached, reachable in report.table[["tier", "reached", "reachable"]].to_numpy():
                row[tier] = f"{'reached' if reached else 'not reached'}{'' if reachable else ', out of reach'}"
            rows.append(row | {"verdict": report.verdict})
    return pd.DataFrame(rows).set_index(["experiment", "measured in"]) if rows else pd.DataFrame()
