"""The HRM document's whole grid, five experiments that share their runs: one figure and one table of kept results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anm_nb.analysis.figures import PALETTE, house_style, label, new_figure
from anm_nb.analysis.ranking_figures import TAU_TITLES
from anm_nb.analysis.ranking_tables import on_test, stalled_seeds
from anm_nb.analysis.stats import CONFIDENCE, holm, mean_interval, paired_difference
from anm_nb.analysis.style import points
from anm_nb.analysis.tables import rounded
from anm_nb.analysis.tiers import at_ceiling, evaluate_tiers
from anm_nb.ranking.train import RankingConfig
from anm_nb.store import run_key
from anm_nb.studies.ranking_settings import RankingExperiment

if TYPE_CHECKING:
    from anm_nb.analysis.reference import Reference

METRICS = ("tau_obs", "tau_all")
MILESTONE = 0.99  # of τ on dev
LEAST_SPAN = 0.1  # of τ that a figure shows below the ceiling, so that noise at it does not look like effects
FIELDS = {
    "max_inner_iters": "iterations:",
    "hrm_period": "T =",
    "entropy_weight": "entropy weight",
    "temperature": "temperature",
}
BASELINE, CENTRE = "baseline", "hrm"  # what the others are compared with: no iteration, and what they all vary


def grid_configs(experiments: Iterable[RankingExperiment]) -> dict[str, RankingConfig]:
    """The distinct runs of several experiments by name, the first name of each; experiment 1 has to be the first."""
    named: dict[str, RankingConfig] = {}
    seen = set()
    for experiment in experiments:
        for name, config in experiment.configs().items():
            if (key := run_key(config)) not in seen:
                seen.add(key)
                named[name] = config
    return named


def compared(metrics: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Every model of the grid on test, and beside the two it is compared with, paired by seed.

    Index method; columns mean, low, high (95 % over seeds), seeds, and for each of "baseline" and "hrm" the difference
    from it: `from_<name>`, its interval `…_low` and `…_high`, its p-value corrected by Holm's method over all
    differences from that one, `…_p`, and what would have been found with 80 % power, `…_detectable`.
    """
    scores = on_test(metrics, f"test_{metric}")
    table = pd.DataFrame(
        [(*mean_interval(scores[method]), int(scores[method].count())) for method in scores],
        index=scores.columns,
        columns=["mean", "low", "high", "seeds"],
    )
    for against in (BASELINE, CENTRE):
        pairs = {method: paired_difference(scores[method], scores[against]) for method in scores if method != against}
        rows = pd.DataFrame.from_dict({name: vars(pair) for name, pair in pairs.items()}, orient="index")
        table[f"from_{against}"] = rows["estimate"]
        table[f"from_{against}_low"], table[f"from_{against}_high"] = rows["low"], rows["high"]
        table[f"from_{against}_p"] = pd.Series(holm(rows["p_value"]), index=rows.index)
        table[f"from_{against}_detectable"] = rows["detectable"]
    return table


def epochs_to(metrics: pd.DataFrame, metric: str, milestone: float) -> pd.DataFrame:
    """The first epoch after which dev reached a τ: a row per seed, a column per method, missing where it never did."""
    reached = metrics[metrics[metric] >= milestone].groupby(["seed", "method"])["epoch"].min().unstack("method")
    return reached.reindex(index=metrics["seed"].unique(), columns=metrics["method"].unique())


def grid_figure(metrics: pd.DataFrame, references: pd.DataFrame) -> Figure:
    """τ on test of every model, with its 95 % interval and its seeds, over observed and all pairs, and the ceilings."""
    methods = list(metrics["method"].unique())
    with house_style():
        figure, (row,) = new_figure(1, 2, 0.8 + 0.2 * len(methods), sharey=True, squeeze=False)
        for axes, metric in zip(row, METRICS, strict=True):
            table, scores = compared(metrics, metric), on_test(metrics, f"test_{metric}")
            for place, method in enumerate(methods):
                colour = PALETTE[BASELINE if method == BASELINE else CENTRE]
                axes.plot(
                    scores[method], np.full(len(scores), place + 0.22), ".", color=colour, markersize=3, alpha=0.6
                )
                axes.hlines(place, table.loc[method, "low"], table.loc[method, "high"], color=colour, linewidth=1.6)
                axes.plot(table.loc[method, "mean"], place, "o", color=colour, markersize=4)
            ceiling = _ceiling(references, metric)
            axes.axvline(ceiling, color="black", linewidth=0.7, linestyle=(0, (4, 3)))
            axes.annotate(
                "ceiling",
                (ceiling, 1),
                xycoords=("data", "axes fraction"),
                ha="right",
                va="bottom",
                fontsize=points(6.5),
            )
            axes.xaxis.set_major_locator(MaxNLocator(5))
            least = min(float(scores.to_numpy().min()), float(table["low"].min()), ceiling - LEAST_SPAN)
            most = max(min(float(table["high"].max()), 1) + 0.01, ceiling + LEAST_SPAN / 4)  # no τ is larger than 1
            axes.set(xlabel=f"Kendall τ on test, {TAU_TITLES[metric]}", xlim=(least - 0.01, most))
        row[0].set_yticks(range(len(methods)), [_label(method) for method in methods])
        row[0].invert_yaxis()
    return figure


def _label(method: str) -> str:
    """A model's name as the document would say it."""
    field, _, value = method.partition(" = ")
    return f"{FIELDS[field]} {value}" if field in FIELDS else label(method)


def grid_summary(kept: Reference, swept: str | None = None) -> str:
    """τ on test of every model beside the task's references, its differences from the baseline and from HRM, and tiers.

    What else there is to say of a model depends on what its task leaves to gain: beside a baseline at the ceiling how
    soon it got there, otherwise its median and how many of its seeds stalled, which means and intervals would hide.
    With `swept`, of the models that differ in that field only; corrected over the whole grid all the same.
    """
    (metric,) = {run["config"]["selection"] or _metric(run["config"]["task"]) for run in kept.provenance.values()}
    ceiling = _ceiling(kept.references, metric)
    tables = {each: compared(kept.metrics, each) for each in METRICS}
    further = (_how_soon if _stands_at(tables[metric], BASELINE, ceiling) else _stalls)(kept.metrics, metric)
    columns = ["ranking", "kind", *(TAU_TITLES[each] for each in METRICS)]
    columns += [f"against `{against}`, {TAU_TITLES[metric]}" for against in (BASELINE, CENTRE)]
    lines = [_row([*columns, *further]), _row(["---"] * (len(columns) + further.shape[1]))]
    for (kind, name), values in _reference_rows(kept.references):
        lines.append(_row([name, kind, *(f"{value:z.3f}" for value in values), *[""] * (2 + further.shape[1])]))
    for method in kept.provenance:
        if swept is None or method in (BASELINE, CENTRE) or f"{swept} =" in method:
            taus = [_interval(tables[each], method, "mean", "") for each in METRICS]
            differences = [_difference(tables[metric], method, against, ceiling) for against in (BASELINE, CENTRE)]
            lines.append(_row([f"`{method}`", "measured", *taus, *differences, *further.loc[method]]))
    return "\n".join([*lines, "", _tiers(kept.metrics, metric, ceiling)])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _how_soon(metrics: pd.DataFrame, metric: str) -> pd.DataFrame:
    """When dev reached the milestone, and τ over all pairs there after the last epoch, as text: index method."""
    soon = epochs_to(metrics, metric, MILESTONE).apply(_reached)
    last = metrics[metrics["epoch"] == metrics.groupby(["method", "seed"])["epoch"].transform("max")]
    lasting = last.groupby("method")["tau_all"].apply(lambda taus: _text(mean_interval(taus)))
    return pd.DataFrame({f"epochs to {MILESTONE}": soon, f"{TAU_TITLES['tau_all']}, dev, last epoch": lasting})


def _stalls(metrics: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The median on test and how many seeds stalled, as text: index method."""
    scores = on_test(metrics, f"test_{metric}")
    stalled = stalled_seeds(scores, BASELINE).astype(str).reindex(scores.columns, fill_value="")
    medians = scores.median().map("{:z.3f}".format)
    return pd.DataFrame({f"median, {TAU_TITLES[metric]}": medians, f"stalled seeds, of {len(scores)}": stalled})


def _tiers(metrics: pd.DataFrame, metric: str, ceiling: float) -> str:
    """The document's tiers for HRM beside the baseline, by the means, and what their difference decides."""
    scores = on_test(metrics, f"test_{metric}")
    report = evaluate_tiers(scores[BASELINE], scores[CENTRE], TAU_TITLES[metric], ceiling)
    tiers = [
        f"{row.tier} {'reached' if row.reached else 'not reached'}{'' if row.reachable else ' (out of reach)'}"
        for row in report.table.itertuples()
    ]
    return f"The document's tiers over {report.space}, by the means: {', '.join(tiers)}. {report.verdict}."


def _reference_rows(references: pd.DataFrame) -> list[tuple[tuple[str, str], list[float]]]:
    """Kind and name of every reference, the worst kind first, and its value of each metric."""
    rows = []
    for kind in ("trivial", "classical", "ceiling"):
        wide = references[references["kind"] == kind].pivot(index="name", columns="metric", values="value")
        values = wide[list(METRICS)].to_numpy(float).tolist()
        rows += [((kind, str(name)), value) for name, value in zip(wide.index, values, strict=True)]
    return rows


def _reached(epochs: pd.Series) -> str:
    """The median epoch of the seeds that got there, and how many they are."""
    there = epochs.dropna()
    return f"{there.median():.0f} ({len(there)} of {len(epochs)} seeds)" if len(there) else "never"


def _ceiling(references: pd.DataFrame, metric: str) -> float:
    """The best possible value of a metric."""
    return float(references.set_index(["kind", "metric"])["value"]["ceiling", metric])


def _stands_at(table: pd.DataFrame, method: str, ceiling: float) -> bool:
    """Whether a model of `compared` sits at the ceiling."""
    mean, low, high = (float(table[column][method]) for column in ("mean", "low", "high"))
    return at_ceiling((mean, low, high), ceiling)


def _metric(task: str) -> str:
    from anm_nb.tasks import task_class

    return task_class(task).metric


def _interval(table: pd.DataFrame, method: str, column: str, sign: str) -> str:
    ends = ("low", "high") if column == "mean" else (f"{column}_low", f"{column}_high")
    return _text((float(table[each][method]) for each in (column, *ends)), sign)


def _text(estimate: Iterable[float], sign: str = "") -> str:
    """A value and the ends of its interval."""
    value, low, high = (f"{each:{sign}z.3f}" for each in estimate)
    return f"{value} [{low}, {high}]"


def _difference(table: pd.DataFrame, method: str, against: str, ceiling: float) -> str:
    """A difference with its interval, and what it decides after Holm's correction, unless both sit at the ceiling."""
    if method == against:
        return ""
    column = f"from_{against}"
    if all(_stands_at(table, each, ceiling) for each in (method, against)):
        return "no headroom"
    text = _interval(table, method, column, "+")
    if table[f"{column}_p"][method] < 1 - CONFIDENCE:
        return f"{text} {'better' if table[column][method] > 0 else 'worse'}"
    return f"{text} undecided (±{rounded(table[f'{column}_detectable'][method], 2)} detectable)"
