"""The verdict on mined negatives: the kept study's confirmatory runs as tables.

They are kept in `outputs/reference/anm_verdict.parquet`, with the tuning runs and the provenance of all beside it. An
error is the mean squared error, or 1 − accuracy for a discrete task: always lower is better.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anm_nb.analysis.reference import reference_root
from anm_nb.analysis.stats import holm, mean_interval, paired_difference
from anm_nb.analysis.tables import rounded
from anm_nb.analysis.verdicts import LEAST_SEEDS
from anm_nb.config import ParameterError
from anm_nb.tasks import task_class

NAME = "anm_verdict"
RUN = ["task", "training", "method"]
ALPHA = 0.05
# What is compared with what: (at equal …, method, comparator).
COMPARED = (
    ("steps", "anm_tuned", "none_tuned"),
    ("steps", "anm_tuned", "stock_tuned"),
    ("time", "anm_tuned", "none_longer"),
    ("time", "anm_tuned", "none_larger_batch"),
    ("time", "anm_tuned", "stock_longer"),
    ("steps", "anm", "stock"),
)
COMPARATORS = {
    "none_tuned": "no negatives",
    "stock_tuned": "stock",
    "none_longer": "no negatives, more steps",
    "none_larger_batch": "no negatives, larger batch",
    "stock_longer": "stock, more steps",
}
TRAINING_LABELS = {"unlimited": "fresh problems in every step", "fixed": "a small fixed training set"}
FAMILIES = ("stock", "anm")
INSTRUMENTS = ("illegitimate_fraction", "p_hard", "margin_mean", "grad_share_contrast", "dev_margin_mean")


@dataclass(frozen=True)
class KeptVerdict:
    """The kept study; `folder` holds `anm_verdict.parquet`, `anm_verdict_tuning.parquet` and `anm_verdict.json`."""

    folder: Path

    @cached_property
    def confirmed(self) -> pd.DataFrame:
        """A row for each confirmatory run and seed: task, training, method, seed, cost, and the last record."""
        return pd.read_parquet(self.folder / f"{NAME}.parquet")

    @cached_property
    def tuning(self) -> pd.DataFrame:
        """A row for each tuning run and seed: its dev error and the choice it was trained with."""
        return pd.read_parquet(self.folder / f"{NAME}_tuning.parquet")

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Settings, plans, and for each confirmatory run its key, config, versions, commit and machine."""
        return json.loads((self.folder / f"{NAME}.json").read_text(encoding="utf-8"))


def load_verdict() -> KeptVerdict:
    """The kept study. Raises `ParameterError` that says how to make it where there is none."""
    kept = KeptVerdict(reference_root())
    if not (kept.folder / f"{NAME}.json").exists():
        raise ParameterError(f"no kept verdict in {kept.folder.name}")
    return kept


def errors(confirmed: pd.DataFrame, split: str = "same", predictor: str = "model") -> pd.DataFrame:
    """Test errors: task, training, method, seed, error; `predictor` as `final_scores` names it."""
    parts = []
    for task, rows in confirmed.groupby("task", sort=False):
        metric = task_class(str(task)).metric
        score = rows[f"{split}/{metric}/{predictor}"]
        parts.append(rows[[*RUN, "seed"]].assign(error=score if metric == "mse" else 1 - score))
    return pd.concat(parts, ignore_index=True)


def comparisons(confirmed: pd.DataFrame, split: str = "same", predictor: str = "model") -> pd.DataFrame:
    """Each of `COMPARED` on each task and kind of training, paired by seed, in per cent of the comparator's mean error.

    Columns difference, low, high (95 %), p_value, p_holm (over all rows), detectable (with 80 % power), seeds, and
    `decided`: better or worse when p_holm < 0.05 with at least 3 seeds, undecided otherwise.
    """
    rows = []
    for (task, training), group in errors(confirmed, split, predictor).groupby(["task", "training"], sort=False):
        by_method = group.pivot(index="seed", columns="method", values="error")
        for budget, method, against in COMPARED:
            if not {method, against} <= set(by_method.columns):
                continue
            unit = by_method[against].mean() / 100
            found = paired_difference(by_method[method] / unit, by_method[against] / unit)
            values = {"difference": found.estimate, "low": found.low, "high": found.high, "p_value": found.p_value}
            names = {"task": task, "training": training, "equal": budget, "method": method, "against": against}
            rows.append(names | values | {"detectable": found.detectable, "seeds": found.pairs})
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p_value"])
    sign = np.where(table["difference"] < 0, "better", "worse")
    decided = (table["p_holm"] < ALPHA) & (table["seeds"] >= LEAST_SEEDS)
    return table.assign(decided=np.where(decided, sign, "undecided"))


def comparison_text(row: Any) -> str:
    """One comparison to read: the difference, its interval, and what was decided or could have been found."""
    middle, low, high, detectable = (
        f"{value:+.0f}" if abs(value) >= 10 else f"{value:+z.1f}"
        for value in (row.difference, row.low, row.high, row.detectable)
    )
    if row.detectable == 0 and row.difference == 0:
        return "0 % in every seed"
    text = f"{middle} % [{low}, {high}] {row.decided}"
    return f"{text} (±{detectable.removeprefix('+')} detectable)" if row.decided == "undecided" else text


def comparison_grid(table: pd.DataFrame) -> pd.DataFrame:
    """`comparisons` as text: a row for each task and kind of training, a column for each comparison."""
    text = table.assign(
        text=[comparison_text(row) for row in table.itertuples()],
        what=[compared_label(*names) for names in zip(table["equal"], table["method"], table["against"], strict=True)],
    )
    grid = text.pivot(index=["task", "training"], columns="what", values="text")
    rows = pd.MultiIndex.from_frame(table[["task", "training"]].drop_duplicates())
    columns = [compared_label(*names) for names in COMPARED]
    return grid.reindex(index=rows, columns=[name for name in columns if name in grid.columns]).fillna("–")


def compared_label(budget: str, method: str, against: str) -> str:
    """What a comparison is called: `stock (equal steps)`, with tuned mining as what is compared with it."""
    if method != "anm_tuned":
        return f"{method} as written against {against} as published"
    return f"{COMPARATORS[against]} (equal {budget})"


def score_grid(
    confirmed: pd.DataFrame, references: Mapping[str, Mapping[str, str]], split: str = "same"
) -> pd.DataFrame:
    """Mean errors as text, a row for each task and kind of training: the references, then every method.

    `references` is the kind of each reference by task and name.
    """
    means = errors(confirmed, split).groupby(RUN, sort=False)["error"].apply(mean_interval)
    grid = means.map(lambda each: f"{rounded(each[0])} [{rounded(each[1])}, {rounded(each[2])}]").unstack("method")
    order = list(dict.fromkeys(confirmed["method"]))
    grid = grid[order].fillna("–")
    for place, kind in enumerate(("trivial", "classical", "ceiling")):
        known = [reference_errors(confirmed, references[task], task, kind, split) for task, _ in grid.index]
        grid.insert(place, kind if kind == "ceiling" else f"best {kind}", known)
    return grid


def reference_errors(confirmed: pd.DataFrame, kinds: Mapping[str, str], task: str, kind: str, split: str) -> str:
    """The least mean error of a kind of reference on the same test problems, with its name; `kinds` by name."""
    rows = confirmed[confirmed["task"] == task]
    named = [name for name, own in kinds.items() if own == kind]
    means = {name: float(errors(rows, split, name)["error"].mean()) for name in named}
    best = min(means, key=lambda name: means[name])
    return rounded(means[best]) if kind == "ceiling" else f"{rounded(means[best])} ({best})"


def summary(kept: KeptVerdict) -> str:
    """The comparisons and the scores as two Markdown tables."""
    grids = [comparison_grid(comparisons(kept.confirmed)), score_grid(kept.confirmed, kept.provenance["references"])]
    return "\n\n".join(markdown(grid) for grid in grids)


def markdown(grid: pd.DataFrame) -> str:
    """A grid on its side, so that what there is most of goes down the page."""
    table = grid.T
    table.columns = [f"{task}, {training}" for task, training in grid.index]
    table = table.rename_axis(index="test error" if "ceiling" in table.index else "tuned mining against").reset_index()
    lines: Iterable[Any] = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
