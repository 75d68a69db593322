"""Verdicts on what the explorers show: held-out margins and routing, before training and at its end."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from anm_nb.analysis.style import label
from anm_nb.analysis.verdicts import Verdict, judge
from anm_nb.store import Run


def median_margins(run: Run) -> pd.DataFrame:
    """The median margin of each seed's held-out pairs at its first and its last record: columns seed, start and end."""
    rows = []
    for place, (seed, of_seed) in enumerate(run.metrics.groupby("seed", sort=False)):
        medians = np.median(run.trace["dev_margins"][place].numpy(), axis=1)
        rows.append((seed, medians[0], medians[len(of_seed) - 1]))
    return pd.DataFrame(rows, columns=["seed", "start", "end"])


def margin_verdicts(runs: Mapping[str, Run]) -> list[Verdict]:
    """For each method, whether training raises the median margin of the same held-out pairs."""
    medians = {method: median_margins(run) for method, run in runs.items()}
    return [
        judge(
            f"{label(method)}: the median margin of held-out pairs is larger at the end of training than before it",
            lower=table["start"],
            higher=table["end"],
            names=("before", "at the end"),
            unit="nats",
        )
        for method, table in medians.items()
    ]


def routing_verdicts(run: Run) -> list[Verdict]:
    """Whether a run's routing ends less even than uniform, and than it began, and whether later iterations rank better.

    On dev problems: entropy is a mean over iterations, and τ is over observed pairs, at each seed's last record.
    """
    ends = [len(of_seed) - 1 for _, of_seed in run.metrics.groupby("seed", sort=False)]
    places = range(len(ends))
    entropy, tau = run.trace["entropies"].double().numpy(), run.trace["tau_obs"].double().numpy()
    before, after = entropy[:, 0].mean(1), entropy[places, ends].mean(1)
    uniform = np.full(len(ends), np.log(run.trace["alphas"].shape[-1]))
    return [
        judge(
            "routing ends less even than uniform routing",
            lower=after,
            higher=uniform,
            names=("entropy at the end", "uniform"),
            unit="nats",
        ),
        judge(
            "routing is less even at the end of training than before it",
            lower=after,
            higher=before,
            names=("entropy at the end", "before"),
            unit="nats",
        ),
        judge(
            "the ranking after the last iteration is better than after the first, on dev at the end of training",
            lower=tau[places, ends, 0],
            higher=tau[places, ends, -1],
            names=("first", "last"),
            unit="of τ over observed pairs",
        ),
    ]
