"""Finished runs as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from anm_nb.analysis.stats import Interval, bounded_interval, mean_interval
from anm_nb.store import Run

# Names of metrics that cannot lie outside these bounds, by how they begin or end.
BOUNDED = {"tau": (-1.0, 1.0), "accuracy": (0.0, 1.0), "rate": (0.0, 1.0), "fraction": (0.0, 1.0), "p_hard": (0.0, 1.0)}
SCORES = ("tau_all", "board_accuracy", "balanced_accuracy", "accuracy", "mse")  # on dev; the first that a run has
UNREACHABLE = ("noise floor",)  # ceilings that no predictor can attain: what they take is not in the problem


def collect(runs: Mapping[str, Any]) -> pd.DataFrame:
    """The `metrics` of several runs as one tidy table with a `method` column: one row per (method, seed, step)."""
    return pd.concat([run.metrics.assign(method=method) for method, run in runs.items()], ignore_index=True)


def final(metrics: pd.DataFrame, column: str) -> pd.DataFrame:
    """One column at the last step of each training, wherever it ended: a row per seed, a column per method."""
    last = metrics.groupby(["method", "seed"])["step"].transform("max")
    return metrics[metrics["step"] == last].pivot(index="seed", columns="method", values=column)


def early_area(metrics: pd.DataFrame, column: str, start: float = 0.0) -> pd.DataFrame:
    """Mean over 20 % of the steps from `start` on (trapezoid rule): a row per seed, a column per method.

    From 0: the area under the early learning curve, divided by its length (ANM checklist, section J). NaN where fewer
    than two records lie there.
    """
    early = metrics[metrics["step"].between(start, start + 0.2 * metrics["step"].max())]

    def mean_height(curve: pd.DataFrame) -> float:
        steps, values = curve["step"].to_numpy(float), curve[column].to_numpy(float)
        return float(np.trapezoid(values, steps) / (steps[-1] - steps[0])) if len(steps) > 1 else np.nan

    heights = early.sort_values("step").groupby(["seed", "method"])[["step", column]].apply(mean_height)
    return heights.unstack("method")


def steps_to(metrics: pd.DataFrame, column: str, threshold: float, larger_is_better: bool = False) -> pd.DataFrame:
    """The first recorded step at which a column is at least as good as a threshold, infinite where it never is.

    A row per seed, a column per method; NaN where a method lacks the seed.
    """
    good = metrics[column] >= threshold if larger_is_better else metrics[column] <= threshold
    first = metrics["step"].where(good, np.inf).groupby([metrics["seed"], metrics["method"]]).min()
    return first.astype(float).unstack("method")


def ceilings_apart(references: pd.DataFrame) -> pd.DataFrame:
    """References with the kind "unreachable" for the ceilings that no predictor can attain."""
    return references.assign(kind=references["kind"].where(~references["name"].isin(UNREACHABLE), "unreachable"))


def best_reference(
    references: pd.DataFrame, metric: str, kinds: Sequence[str], larger_is_better: bool = False
) -> float:
    """The best of the references of some kinds, NaN where there is none; those of one name are averaged."""
    known = ceilings_apart(references[references["metric"] == metric])
    values = known[known["kind"].isin(kinds)].groupby("name")["value"].mean()
    return float(values.max() if larger_is_better else values.min())


def score_interval(values: ArrayLike, metric: str) -> Interval:
    """Mean over seeds and 95 % interval, within the metric's bounds where its name is that of a τ, accuracy or rate."""
    given = np.asarray(values, float)
    for name, (lowest, highest) in BOUNDED.items():
        if (metric.startswith(name) or metric.endswith(name)) and not ((given < lowest) | (given > highest)).any():
            return bounded_interval(given, lowest, highest)
    return mean_interval(given)


def skill(score: ArrayLike, trivial: ArrayLike, ceiling: ArrayLike) -> np.ndarray:
    """What a score is worth beside the trivial one: 0 is no better than not learning, 1 is perfect; float64, broadcast.

    Where the ceiling lies below the trivial score, the score is an error, whose best value is 0 even where noise keeps
    the ceiling above it: 1 − score/trivial. Where it lies above, the score grows (an accuracy, τ): the share of the way
    from the trivial score to the ceiling. NaN where the two are equal, as either way could then be up.
    """
    score, trivial, ceiling = (np.asarray(value, float) for value in (score, trivial, ceiling))
    with np.errstate(all="ignore"):
        grown = (score - trivial) / (ceiling - trivial)
        return np.where(ceiling < trivial, 1 - score / trivial, np.where(ceiling > trivial, grown, np.nan))


def score_table(scores: pd.DataFrame, references: pd.DataFrame, metric: str = "mse") -> pd.DataFrame:
    """Scores [seeds × methods] beside their references: mean, 95 % interval, seeds, and `skill`.

    A reference's kind is trivial, classical, ceiling (the best that can be reached) or unreachable (a bound, as noise
    that no predictor can know). Skill is over the trivial one nearest to the ceiling (else to the bound, else to 0, an
    error's). A measured interval is over seeds; a reference's own, over problems, is missing where `references` has no
    columns low and high.
    """
    columns = ["name", "kind", metric, "low", "high", "seeds"]
    known = ceilings_apart(references[references["metric"] == metric])
    known = known.rename(columns={"value": metric}).reindex(columns=columns)
    of_kind = {kind: rows[metric].to_numpy(float) for kind, rows in known.groupby("kind")}
    ceiling = float(next((of_kind[kind][0] for kind in ("ceiling", "unreachable") if kind in of_kind), 0.0))
    trivial = min(of_kind["trivial"], key=lambda value: abs(value - ceiling))
    measured = [
        (method, "measured", *score_interval(scores[method], metric), int(scores[method].count())) for method in scores
    ]
    rows = [*known.itertuples(index=False, name=None), *measured]
    table = pd.DataFrame(rows, columns=columns).astype({"seeds": "Int64"}).set_index("name")
    return table.assign(skill=skill(table[metric], trivial, ceiling))


def significant(table: pd.DataFrame, columns: Sequence[str], digits: int = 3) -> pd.DataFrame:
    """The table with the given columns as text of `digits` significant digits, missing values as a dash."""
    shown = table.astype(object).where(table.notna(), "–")
    return shown.assign(**{column: [rounded(value, digits) for value in table[column]] for column in columns})


def rounded(value: float, digits: int = 3) -> str:
    """A number with `digits` significant digits and no exponent where that reads well; a dash for NaN."""
    if value != value:
        return "–"
    magnitude = abs(value)
    if magnitude and not 1e-4 <= magnitude < 1e6:
        return f"{value:.{digits - 1}e}"
    text = f"{value:#.{digits}g}"
    return f"{float(text):.0f}" if "e" in text else text.rstrip(".")


def score(run: Run) -> tuple[str, float] | None:
    """The first of `SCORES` that a run has on dev, and its mean over seeds at their last records."""
    last = run.metrics.groupby("seed").last()
    scores = [name for name in SCORES if name in last and last[name].notna().any()]
    return (scores[0], float(last[scores[0]].mean())) if scores else None


def differences(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """For each run the values of its config, by dotted name, that are not the same in all runs that have them."""
    own: list[dict[Any, Any]] = [pd.json_normalize(run.settings).to_dict("records")[0] for run in runs]
    count = Counter(name for name, _ in {(name, repr(value)) for values in own for name, value in values.items()})
    return [{name: value for name, value in values.items() if count[name] > 1} for values in own]
