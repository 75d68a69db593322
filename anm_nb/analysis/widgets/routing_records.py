"""The routing that a finished ranking run has recorded, and the dev problems it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from anm_nb.analysis.ranking_tables import probe_problems
from anm_nb.ranking.routing import routing_entropy
from anm_nb.store import Run


@dataclass(frozen=True)
class Sample:
    """One dev problem at one epoch, after every iteration; items in true order, the visible ones first."""

    alphas: np.ndarray  # [iterations, items, heads]
    entropy: np.ndarray  # [iterations], nats, mean over the problem's items
    mean_entropy: np.ndarray  # [iterations], nats, mean over all dev problems
    tau: dict[str, np.ndarray]  # tau_obs and tau_all [iterations], means over dev
    names: list[str]  # the true rank of each item from 1, in brackets where it is hidden
    known: np.ndarray  # [items], whether its value is visible


class RoutingRecords:
    """Arrays of a ranking run: routing weights [seeds, records, samples, iterations, items, heads], and curves."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.seeds: list[int] = run.settings["seeds"]
        self.alphas = run.trace["alphas"].float().numpy()
        self.samples, self.iterations, _, self.heads = self.alphas.shape[2:]
        self.largest = float(np.nanmax(self.alphas))
        self.problems = cache(lambda place: probe_problems(run, place))

    def epochs(self, seed_place: int) -> list[int]:
        """The recorded epochs of a seed, by its place among the seeds."""
        metrics = self.run.metrics
        return [int(epoch) for epoch in metrics.loc[metrics["seed"] == self.seeds[seed_place], "epoch"]]

    def sample(self, seed_place: int, record: int, sample: int) -> Sample:
        """What was recorded of a problem, by the places of seed, record and sample."""
        alphas = self.alphas[seed_place, record, sample]
        entropy = routing_entropy(torch.from_numpy(alphas)).mean(-1).numpy()
        curves = {
            name: self.run.trace[name][seed_place, record].double().numpy()
            for name in ("entropies", "tau_obs", "tau_all")
        }
        ranks, known = (each[sample] for each in self.problems(seed_place))
        order = np.lexsort((ranks, ~known))
        names = [str(rank + 1) if visible else f"({rank + 1})" for rank, visible in zip(ranks, known, strict=True)]
        taus = {name: curves[name] for name in ("tau_obs", "tau_all")}
        return Sample(alphas[:, order], entropy, curves["entropies"], taus, [names[i] for i in order], known[order])
