"""What the document's whole grid of ranking runs takes: projected from one full config, and trained to the ceiling."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from anm_nb.bench.measure import timed
from anm_nb.bench.ranking import document_config, grid
from anm_nb.bench.scaling import stacked_step
from anm_nb.ranking.train import RankingConfig, RankingLearner
from anm_nb.studies.ranking_cost import model_cost
from anm_nb.training.epochs import batches_per_epoch
from anm_nb.training.loop import cpu_threads

NEAR_CEILING = 0.99  # of τ over observed pairs on dev, whose ceiling is 1; the last of the milestones of time-to-τ


def evaluation_seconds(device: str = "cpu", tiny: bool = False, rounds: int = 5) -> float:
    """Seconds of the evaluation on dev that ends each epoch of the full config, on one thread; the median."""
    learner = RankingLearner(document_config(tiny, device), 1, device)
    with cpu_threads(1):
        losses = learner.losses(0, learner.network)
        return median(timed(lambda: learner.measure(0, learner.network, losses), device) for _ in range(rounds))


def stacked_seconds(config: RankingConfig, rounds: int = 20) -> float:
    """Seconds of a training step of all the config's seeds, stacked, on its device; the median."""
    step = stacked_step(config, config.seeds, config.device_kind())
    for _ in range(3):
        step()  # compiled, and captured, where the config asks for it
    return median(timed(step, config.device_kind()) for _ in range(rounds))


def projected(step: float, evaluation: float, at_a_time: int) -> dict[str, Any]:
    """Hours of the grid from seconds of the full config's step and evaluation, each of so many seeds at a time.

    Another config's step and evaluation are taken to cost in proportion to the operations counted for it. That flatters
    small ones, of whose time less is products: the baseline, the smallest by far, is given 1.5 % of the whole.
    """
    configs, full = grid(), document_config()
    epoch = batches_per_epoch(full.train_samples, full.batch) * step + evaluation
    whole = model_cost(full).training_flops
    epochs = sum(each.epochs * len(each.seeds) * model_cost(each).training_flops / whole for each in configs)
    return {
        "configs": len(configs),
        "runs": sum(len(each.seeds) for each in configs),
        "epoch_seconds": epoch,
        "epochs_of_the_full_config": epochs,
        "at_a_time": at_a_time,
        "hours": epochs * epoch / at_a_time / 3600,
    }


def trained_to_ceiling(tiny: bool = False) -> dict[str, Any]:
    """Minutes in which the whole grid trains when each seed stops at `NEAR_CEILING`, and how many reach it."""
    configs = [document_config(tiny).changed(epochs=2)] if tiny else grid()
    began, epochs, reached, processes = time.perf_counter(), 0.0, 0, 1
    with tempfile.TemporaryDirectory() as folder:
        for place, config in enumerate(configs):
            workdir = Path(folder, str(place))
            workdir.mkdir()
            trained = config.changed(stop_at_score=NEAR_CEILING, device="cpu").train(workdir)
            last = trained.metrics.groupby("seed").last()
            epochs, reached = epochs + float(last["epoch"].sum()), reached + int(last["score_reached"].sum())
            processes = max(processes, trained.processes)
    runs = sum(len(config.seeds) for config in configs)
    minutes = (time.perf_counter() - began) / 60
    found = {"minutes": minutes, "runs": runs, "reached": reached, "score": NEAR_CEILING}
    return found | {"epochs_a_run": epochs / runs, "processes": processes}
