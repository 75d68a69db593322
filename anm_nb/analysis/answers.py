"""The two questions over all experiments: does mining negatives pay, and where does iteration help, by what part of it.

Both are answered by paired comparisons; `overview.differences` turns them into numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from anm_nb.analysis import anm_verdict
from anm_nb.analysis.anm_verdict import COMPARATORS, KeptVerdict, comparison_text
from anm_nb.analysis.collecting import Collection
from anm_nb.analysis.experiment import Comparison, Experiment, compared, metric_text
from anm_nb.analysis.grouping import NO_NEGATIVES, ONE_PASS, WHOLE_HRM, Settings
from anm_nb.analysis.overview import differences, records
from anm_nb.analysis.tables import rounded
from anm_nb.analysis.verdicts import State, Verdict

MINED = "anm"  # what the names of mined negatives begin with
RIVALS = (NO_NEGATIVES, "stock")
PERCENT = "% of the comparator's error"


class Component(NamedTuple):
    """A part of the model, and the two comparators that differ in nothing else."""

    name: str
    better: str  # with it
    base: str  # without it


WHOLE = Component("all of HRM", WHOLE_HRM, ONE_PASS)
COMPONENTS = (
    Component("iteration", "weight-tied", "no iteration"),
    Component("tying", "weight-tied", "deep untied"),
    Component("routing", "HRM per token", "weight-tied"),
    Component("two time scales", "HRM per token", "one timescale"),
    Component("routing by token", "HRM per token", "HRM per sequence"),
)


def is_mined(settings: Settings) -> bool:
    """Whether any of a run's negatives are mined."""
    negatives = settings.get("negatives")
    if not isinstance(negatives, dict):
        return False
    parts = ({"negatives": negatives.get(name)} for name in ("first", "second"))
    return str(negatives["name"]).startswith(MINED) or any(map(is_mined, parts))


def mining_comparisons(experiments: Iterable[Experiment]) -> list[Comparison]:
    """Every mined method of every experiment against no negatives and against stock ones, at equal steps.

    In per cent of the comparator's mean error, where it makes any; an accuracy counts as the error 1 − accuracy.
    """
    found = []
    for each in experiments:
        if each.family != "energy":
            continue
        rivals = {kind: rival for kind in RIVALS if (rival := each.of_kind(kind)) is not None}
        mined = [method for method, settings in each.settings.items() if is_mined(settings)]
        found += [
            compared(each, each.metrics[0], one, rival, f"against {kind}")
            for one in mined
            for kind, rival in rivals.items()
        ]
    return [percent for each in found if each.pairs and (percent := in_percent(each)).pairs]


def headline_of_mining(collection: Collection) -> list[Comparison]:
    """Those of the kept study, where it is read; else of every mined run."""
    return tuned_comparisons(collection.study) if collection.study else mining_comparisons(collection.experiments)


def tuned_comparisons(kept: KeptVerdict) -> list[Comparison]:
    """Every comparison of `anm_verdict.COMPARED` in the kept study, in per cent, in the order of its `comparisons`."""
    found = []
    for (task, training), rows in anm_verdict.errors(kept.confirmed).groupby(["task", "training"], sort=False):
        errors = rows.pivot(index="seed", columns="method", values="error")
        for budget, method, against in anm_verdict.COMPARED:
            if not {method, against} <= set(errors):
                continue
            names = (f"{task}, {training}", "mse", *_as_compared(budget, method, against))
            pair = (errors[method].to_numpy(float), errors[against].to_numpy(float))
            found.append(in_percent(Comparison(*names, *pair, more_is_better=False, part=f"equal {budget}")))
    return found


def _as_compared(budget: str, method: str, against: str) -> tuple[str, str]:
    if method != "anm_tuned":
        return "mining as written", "stock as published"
    return "tuned mining", f"{COMPARATORS[against]}, equal {budget}"


def in_percent(each: Comparison) -> Comparison:
    """Errors in per cent of the comparator's mean error over the seeds that both have."""
    first, second = (1 - side if each.more_is_better else side for side in (each.first, each.second))
    unit = np.mean(second[np.isfinite(first - second)]) / 100
    names = (each.experiment, PERCENT, each.method, each.against)
    with np.errstate(divide="ignore", invalid="ignore"):  # a comparator without any error leaves no finite value
        return Comparison(*names, first / unit, second / unit, more_is_better=False, part=each.part)


def iteration_comparisons(experiments: Iterable[Experiment]) -> list[Comparison]:
    """What HRM as a whole, and each component of it, adds to τ over observed and over all pairs, wherever it was run.

    Of several methods of one kind, such as a sweep's, the one with the usual values is compared (`Experiment.of_kind`).
    """
    found = []
    for each in experiments:
        if each.family != "ranking":
            continue
        for part in (WHOLE, *COMPONENTS):
            better, base = each.of_kind(part.better), each.of_kind(part.base)
            if better is not None and base is not None:
                found += [compared(each, metric, better, base, part.name) for metric in each.metrics]
    return [each for each in found if each.pairs]


def verdicts_of_mining(collection: Collection) -> list[Verdict]:
    """Of the kept study, where it is read, one for each task, training and budget; else one for each comparison."""
    if collection.study:
        return mining_verdicts(anm_verdict.comparisons(collection.study.confirmed))
    return difference_verdicts(differences(mining_comparisons(collection.experiments)))


def mining_verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Whether tuned mining beats every rival, for each task, kind of training and budget of `anm_verdict.comparisons`.

    Supported where it is better than each of them, refuted where one of them is better, by p-values corrected over all
    comparisons. Estimate and interval are those of the strongest rival.
    """
    verdicts = []
    tuned = table[table["method"] == "anm_tuned"]
    for (task, training, budget), rows in tuned.groupby(["task", "training", "equal"], sort=False):
        strongest = rows.iloc[int(rows["difference"].argmax())]
        decided = set(rows["decided"])
        state: State = "supported" if decided == {"better"} else "refuted" if "worse" in decided else "undecided"
        against = [f"{COMPARATORS[row.against]} {comparison_text(row)}" for row in records(rows)]
        verdicts.append(
            Verdict(
                claim=(
                    f"{task}, {anm_verdict.TRAINING_LABELS[str(training)]}: "
                    f"tuned mining beats every rival at equal {budget}"
                ),
                measured=f"test error against {'; '.join(against)}; {strongest.seeds} seeds",
                state=state,
                estimate=float(strongest.difference),
                interval=(float(strongest.low), float(strongest.high)),
                p_value=float(strongest.p_holm),
                detectable=float(strongest.detectable),
                seeds=int(strongest.seeds),
                unit="%",
            )
        )
    return verdicts


def difference_verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Each row of `overview.differences` as a verdict on the claim that the method is better than the other one."""
    states: dict[str, State] = {"better": "supported", "worse": "refuted"}
    return [
        Verdict(
            claim=(
                f"{row.experiment}: {row.method} is better than {row.against} ({row.part}; {metric_text(row.metric)})"
            ),
            measured=(
                f"difference {rounded(row.difference)} [{rounded(row.low)}, {rounded(row.high)}], "
                f"{row.seeds} seeds, p = {row.p_holm:.2g} by Holm over {len(table)} comparisons"
                f"{'; no headroom: both sit at the ceiling' if row.decided == 'no headroom' else ''}"
            ),
            state=states.get(str(row.decided), "undecided"),
            estimate=float(row.difference),
            interval=(float(row.low), float(row.high)),
            p_value=float(row.p_holm),
            detectable=float(row.detectable),
            seeds=int(row.seeds),
        )
        for row in records(table)
    ]
