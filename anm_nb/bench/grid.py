"""What the document's whole grid of ranking runs would take, projected from one full config."""

from __future__ import annotations

from typing import Any

import torch

from anm_nb.bench.measure import Measured, timed
from anm_nb.bench.ranking import document_config, grid
from anm_nb.ranking.cost import model_cost
from anm_nb.ranking.train import RankingLearner
from anm_nb.training.epochs import batches_per_epoch
from anm_nb.training.loop import cpu_threads


def evaluation_seconds(device: str = "cpu", tiny: bool = False, rounds: int = 5) -> float:
    """Seconds of the evaluation on dev that ends each epoch of the full config, on one thread; the median."""
    learner = RankingLearner(document_config(tiny, device), 1, device)
    with cpu_threads(1):
        losses = learner.losses(0, learner.network)
        once = [timed(lambda: learner.measure(0, learner.network, losses), device) for _ in range(rounds)]
    return float(torch.tensor(once).median())


def projected(step: Measured, evaluation: float) -> dict[str, Any]:
    """Hours of the grid from the measured step of the full config: `step` with as many processes as seeds at a time.

    Each other config's step and evaluation are taken to cost as the operations that are counted for it. That flatters
    small configs, of whose time less is products; the baseline, the smallest, has one share in twelve of the work.
    """
    configs = grid()
    operations = [model_cost(config).training_flops for config in configs]
    full = model_cost(document_config()).training_flops
    one = document_config()
    epoch = batches_per_epoch(one.train_samples, one.batch) * step.seconds + evaluation
    runs = sum(
        config.epochs * len(config.seeds) * count / full for config, count in zip(configs, operations, strict=True)
    )
    return {
        "configs": len(configs),
        "runs": sum(len(config.seeds) for config in configs),
        "epoch_seconds": epoch,
        "epochs_of_the_full_config": runs,
        "at_a_time": step.processes,
        "hours": runs * epoch / step.processes / 3600,
    }
