"""Finished ranking runs as tables: τ in every space and after every iteration, effects of fixes, routing of a probe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from anm_nb.analysis.stats import paired_difference
from anm_nb.config import ParameterError
from anm_nb.ranking.variants import FIXES
from anm_nb.store import Run
from anm_nb.tasks.kendall import index_space_tau, kendall_tau

# Where τ can be measured, from the published mistake to what the task asks for, and its name in metrics.
SPACES = {"index space": "tau_index", "all pairs": "tau_all", "observed pairs": "tau_obs"}
# The document's healthy bands, as open intervals ("Validation checks", 3).
BANDS = {"entropy": (0.5, 2.0), "herfindahl": (float("-inf"), 0.5), "max_alpha": (0.3, 0.6)}
MILESTONES = (0.25, 0.9, 0.99)  # of τ over observed pairs on dev


def check_bands(measured: Mapping[str, float]) -> pd.DataFrame:
    """Whether mean entropy, Herfindahl index and largest α lie in the document's bands: a report, never an exception.

    `measured` maps those three names to numbers (a row of a run's metrics will do). Columns: quantity, value, low,
    high, inside; a quantity that is missing or not a number is not inside.
    """
    rows = []
    for quantity, (low, high) in BANDS.items():
        value = float(measured.get(quantity, float("nan")))
        rows.append((quantity, value, low, high, low < value < high))
    return pd.DataFrame(rows, columns=["quantity", "value", "low", "high", "inside"])


def on_test(metrics: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of the one evaluation on test: a row per seed, a column per method, in their order of appearance."""
    rows = metrics.dropna(subset=[column])
    return rows.pivot(index="seed", columns="method", values=column)[list(metrics["method"].unique())]


def stalled_seeds(scores: pd.DataFrame, baseline: str) -> pd.Series:
    """How many seeds of each model are no better than the best seed of the baseline, one pass: those that have stalled.

    `scores`: τ, a row per seed, a column per method, among them the baseline. Index the other methods.
    """
    return (scores.drop(columns=baseline) <= scores[baseline].max()).sum()


def waterfall(runs: Mapping[str, Run]) -> pd.DataFrame:
    """τ of the same test predictions in each space: columns method, seed, space, tau. Trains nothing."""
    rows = []
    for method, run in runs.items():
        for seed, scores, ranks, known in _test_predictions(run):
            taus = {
                "index space": index_space_tau(scores[:, -1], ranks),
                "all pairs": kendall_tau(scores[:, -1], ranks),
                "observed pairs": kendall_tau(scores[:, -1], ranks, known),
            }
            rows += [(method, seed, space, float(tau.nanmean())) for space, tau in taus.items()]
    return pd.DataFrame(rows, columns=["method", "seed", "space", "tau"])


def spaces_on_test(metrics: pd.DataFrame) -> pd.DataFrame:
    """The same table from the metrics alone, where a run's predictions are not at hand."""
    columns = {f"test_{metric}": space for space, metric in SPACES.items()}
    tested = metrics.dropna(subset=[*columns]).rename(columns=columns)
    return tested.melt(["method", "seed"], list(SPACES), var_name="space", value_name="tau")


def tau_by_iteration(runs: Mapping[str, Run]) -> pd.DataFrame:
    """τ on test of the ranking after each iteration (1 = first): columns method, seed, iteration, tau_obs, tau_all."""
    rows = []
    for method, run in runs.items():
        for seed, scores, ranks, known in _test_predictions(run):
            observed = kendall_tau(scores, ranks.unsqueeze(1), known.unsqueeze(1)).nanmean(0)
            everything = kendall_tau(scores, ranks.unsqueeze(1)).nanmean(0)
            for iteration, taus in enumerate(zip(observed.tolist(), everything.tolist(), strict=True), start=1):
                rows.append((method, seed, iteration, *taus))
    return pd.DataFrame(rows, columns=["method", "seed", "iteration", "tau_obs", "tau_all"])


def time_to_tau(runs: Mapping[str, Run], milestones: Sequence[float] = MILESTONES) -> pd.DataFrame:
    """When training first measured each τ over observed pairs on dev, after its last iteration.

    Columns: method, seed, tau (the milestone), epoch, step, seconds (spent in training steps until then, without
    measurements); missing where it never did. Epoch 0 is before training: a random network's τ may be high by chance.
    """
    rows = []
    for method, run in runs.items():
        seconds = run.provenance["training_seconds"]
        for seed, of_seed in run.metrics.groupby("seed", sort=False):
            for milestone in milestones:
                reached = np.flatnonzero(of_seed["tau_obs"] >= milestone)
                row = {"method": method, "seed": seed, "tau": milestone}
                if len(reached):
                    first = of_seed.iloc[reached[0]]
                    spent = seconds[str(seed)][reached[0]] if seconds else np.nan
                    row |= {"epoch": first["epoch"], "step": first["step"], "seconds": spent}
                rows.append(row)
    table = pd.DataFrame(rows, columns=["method", "seed", "tau", "epoch", "step", "seconds"])
    return table.astype({"epoch": "Int64", "step": "Int64", "seconds": float})


def reached_by(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of `time_to_tau` at a glance: a row per method and τ, a column per seed, "never" where it did not."""
    wide = table.pivot(index=["method", "tau"], columns="seed", values=column)
    methods = table["method"].unique()
    return wide.reindex(methods, level="method").astype(object).where(wide.notna(), "never")


def fix_effects(metrics: pd.DataFrame) -> pd.DataFrame:
    """What each fix does to τ on test, paired by seed; a positive effect is in favour of the fix.

    Columns: fix, how ("added" to the published set-up, or "removed" from the full one), metric, estimate, low, high
    (95 %), p_value, detectable (with 80 % power), seeds.
    """
    rows = []
    for metric in ("tau_obs", "tau_all"):
        scores = on_test(metrics, f"test_{metric}")
        for fix in FIXES:
            for how, with_it, without_it in (
                ("added", f"only {fix}", "published"),
                ("removed", "all", f"all but {fix}"),
            ):
                d = paired_difference(scores[with_it], scores[without_it])
                rows.append((fix, how, metric, d.estimate, d.low, d.high, d.p_value, d.detectable, d.pairs))
    columns = ["fix", "how", "metric", "estimate", "low", "high", "p_value", "detectable", "seeds"]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class Probe:
    """Routing of one dev problem at the end of training; items are in true order, the visible ones first."""

    alphas: np.ndarray  # [iterations, items, heads]
    ranks: np.ndarray  # true rank of each item
    known: np.ndarray  # whether its value is visible


def probe(run: Run, example: int = 0) -> Probe:
    """The routing weights of a kept dev problem of the run's first seed, after its last epoch."""
    ranks, known = (each[example] for each in probe_problems(run, 0))
    order = np.lexsort((ranks, ~known))
    first_seed = run.settings["seeds"][0]
    last = (run.metrics["seed"] == first_seed).sum() - 1  # the trace goes on where another seed trained longer
    alphas = run.trace["alphas"][0, last, example].numpy()
    return Probe(alphas[:, order], ranks[order], known[order])


def probe_problems(run: Run, place: int) -> tuple[np.ndarray, np.ndarray]:
    """True ranks, and which are visible, of the dev problems of a seed, by its place: both [problems, items].

    Those whose routing the trace keeps. Raises `ParameterError` for a run of an older version, whose trace lacks them.
    """
    if "probe_ranks" not in run.trace:
        raise ParameterError(f"run {run.key}: its trace lacks the problems that its routing belongs to; train it again")
    ranks, known = (run.trace[f"probe_{name}"][place] for name in ("ranks", "known"))
    return ranks.flatten(0, -2).numpy(), known.flatten(0, -2).bool().numpy()


def _test_predictions(run: Run) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """For each seed: scores [n, iterations, items], ranks [n, items] and mask [n, items] of its test problems."""
    arrays = (run.trace[f"test_{name}"][:, 0] for name in ("scores", "ranks", "known"))
    yield from zip(run.settings["seeds"], *arrays, strict=True)
