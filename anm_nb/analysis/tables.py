"""Tables of finished runs, and numbers as readable text."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from anm_nb.analysis.stats import Interval, bounded_interval, mean_interval
from anm_nb.store import Run

# Prefixes or suffixes of the names of bounded metrics, with their bounds.
BOUNDED = {"tau": (-1.0, 1.0), "accuracy": (0.0, 1.0), "rate": (0.0, 1.0), "fraction": (0.0, 1.0), "p_hard": (0.0, 1.0)}
SCORES = ("tau_all", "board_accuracy", "balanced_accuracy", "accuracy", "mse")  # on dev, in order of preference
UNREACHABLE = ("noise floor",)  # ceilings beyond any predictor: they use information that x lacks


def collect(runs: Mapping[str, Any]) -> pd.DataFrame:
    """Join the `metrics` of several runs into one tidy table: a `method` column, one row per (method, seed, step)."""
    return pd.concat([run.metrics.assign(method=method) for method, run in runs.items()], ignore_index=True)


def final(metrics: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return one column at each training's own last step: a row per seed, a column per method."""
    last = metrics.groupby(["method", "seed"])["step"].transform("max")
    return metrics[metrics["step"] == last].pivot(index="seed", columns="method", values=column)


def early_area(metrics: pd.DataFrame, column: str, start: float = 0.0) -> pd.DataFrame:
    """Average a column over 20 % of the steps from `start` (trapezoid rule): a row per seed, a column per method.

    With `start` = 0 this is the area under the early learning curve divided by its length (ANM checklist, section J).
    NaN with fewer than two records in that window.
    """
    early = metrics[metrics["step"].between(start, start + 0.2 * metrics["step"].max())]

    def mean_height(curve: pd.DataFrame) -> float:
        steps, values = curve["step"].to_numpy(float), curve[column].to_numpy(float)
        return float(np.trapezoid(values, steps) / (steps[-1] - steps[0])) if len(steps) > 1 else np.nan

    return early.sort_values("step").groupby(["seed", "method"])[["step", column]].apply(mean_height).unstack("method")


def steps_to(metrics: pd.DataFrame, column: str, threshold: float, larger_is_better: bool = False) -> pd.DataFrame:
    """Return the first recorded step at which a column reaches a threshold; infinite if it never does.

    A row per seed, a column per method; NaN for a seed that a method lacks.
    """
    good = metrics[column] >= threshold if larger_is_better else metrics[column] <= threshold
    first = metrics["step"].where(good, np.inf).groupby([metrics["seed"], metrics["method"]]).min()
    return first.astype(float).unstack("method")


def ceilings_apart(references: pd.DataFrame) -> pd.DataFrame:
    """Give the kind "unreachable" to those reference ceilings that no predictor can attain."""
    return references.assign(kind=references["kind"].where(~references["name"].isin(UNREACHABLE), "unreachable"))


def best_reference(
    references: pd.DataFrame, metric: str, kinds: Sequence[str], larger_is_better: bool = False
) -> float:
    """Return the best reference of the given kinds, NaN if there is none; values of equal name are averaged."""
    known = ceilings_apart(references[references["metric"] == metric])
    values = known[known["kind"].isin(kinds)].groupby("name")["value"].mean()
    return float(values.max() if larger_is_better else values.min())


def score_interval(values: ArrayLike, metric: str) -> Interval:
    """Mean over seeds and 95 % interval, within the metric's bounds if `BOUNDED` has it and all scores respect them."""
    scores = np.asarray(values, float)
    for name, (lowest, highest) in BOUNDED.items():
        if (metric.startswith(name) or metric.endswith(name)) and not ((scores < lowest) | (scores > highest)).any():
            return bounded_interval(scores, lowest, highest)
    return mean_interval(scores)


def skill(score: ArrayLike, trivial: ArrayLike, ceiling: ArrayLike) -> np.ndarray:
    """Score relative to the trivial one: 0 is no better than not learning, 1 is perfect; float64, broadcast.

    A ceiling below the trivial score means an error measure, whose best value is 0 even if noise keeps the ceiling
    above 0: 1 − score/trivial. A ceiling above it means that larger is better (accuracy, τ): the share of the distance
    from the trivial score to the ceiling. NaN if the two are equal, as the better direction is then unknown.
    """
    score, trivial, ceiling = (np.asarray(value, float) for value in (score, trivial, ceiling))
    with np.errstate(all="ignore"):
        share = (score - trivial) / (ceiling - trivial)
        return np.where(ceiling < trivial, 1 - score / trivial, np.where(ceiling > trivial, share, np.nan))


def score_table(scores: pd.DataFrame, references: pd.DataFrame, metric: str = "mse") -> pd.DataFrame:
    """Tabulate scores [seeds × methods] beside their references: mean, 95 % interval, number of seeds, and `skill`.

    A reference's kind is trivial, classical, ceiling (the best reachable score) or unreachable (a bound that depends on
    noise unknown to any predictor). Skill is relative to the trivial reference nearest to the ceiling, or to the bound
    without a ceiling, or to 0 (a perfect error) without both. Measured intervals are over seeds. Reference intervals
    are over problems, and missing if `references` has no columns low and high.
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
    """Format the given columns with `digits` significant digits, and missing values in all columns as a dash."""
    shown = table.astype(object).where(table.notna(), "–")
    return shown.assign(**{column: [rounded(value, digits) for value in table[column]] for column in columns})


def rounded(value: float, digits: int = 3) -> str:
    """Format a number with `digits` significant digits, as a power of ten only outside [1e-4, 1e6); NaN is a dash."""
    if value != value:
        return "–"
    magnitude = abs(value)
    if magnitude and not 1e-4 <= magnitude < 1e6:
        return f"{value:.{digits - 1}e}"
    text = f"{value:#.{digits}g}"
    return f"{float(text):.0f}" if "e" in text else text.rstrip(".")


def score(run: Run) -> tuple[str, float] | None:
    """Return the first of `SCORES` that a run recorded on dev, and the mean of its last values over seeds."""
    last = run.metrics.groupby("seed").last()
    scores = [name for name in SCORES if name in last and last[name].notna().any()]
    return (scores[0], float(last[scores[0]].mean())) if scores else None


def differences(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """For each run, the config values by dotted name that are not equal in all runs with that field."""
    configs: list[dict[Any, Any]] = [pd.json_normalize(run.settings).to_dict("records")[0] for run in runs]
    distinct = {(name, repr(value)) for config in configs for name, value in config.items()}
    count = Counter(name for name, _ in distinct)
    return [{name: value for name, value in config.items() if count[name] > 1} for config in configs]
