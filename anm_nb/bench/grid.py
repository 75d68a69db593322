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
    """Hours of the grid from the measured step of the full config, `step.processes` seeds at a time.

    Another config's step and evaluation are taken to cost in proportion to the operations counted for it. That flatters
    small ones, of whose time less is products: the baseline, the smallest by far, is given 1.5 % of the whole.
    """
    configs, full = grid(), document_config()
    epoch = batches_per_epoch(full.train_samples, full.batch) * step.seconds + evaluation
    whole = model_cost(full).training_flops
    epochs = sum(each.epochs * len(each.seeds) * model_cost(each).training_flops / whole for each in configs)
    return {
        "configs": len(configs),
        "runs": sum(len(each.seeds) for each in configs),
        "epoch_seconds": epoch,
        "epochs_of_the_full_config": epochs,
        "at_a_time": step.processes,
        "hours": epochs * epoch / step.processes / 3600,
    }
