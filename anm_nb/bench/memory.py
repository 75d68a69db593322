"""What a training step keeps for its backward pass, against the number of iterations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from anm_nb.bench.ranking import document_config
from anm_nb.ranking.train import RankingConfig, RankingLearner

ITERATIONS = (1, 2, 4, 8, 12, 16)


def saved_bytes(forward: Callable[[], Tensor], leaves: list[Tensor]) -> int:
    """Bytes of the tensors that a forward pass keeps for its backward pass, each storage once, leaves not counted.

    Exact and the same on every machine, where resident memory depends on the allocator.
    """
    held = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total = forward()  # alive until counted, so that no address is used twice
    assert total.requires_grad
    return sum(kept.values())


def by_iterations(tiny: bool = False) -> dict[str, dict[int, float]]:
    """MiB kept by the HRM model's step at each number of iterations, with `full` and with `last` gradients."""
    config = document_config(tiny)
    kept: dict[str, dict[int, float]] = {}
    for gradient in ("full", "last"):
        for count in ITERATIONS:
            period = min(count, config.hrm_period)
            varied = {"max_inner_iters": count, "hrm_period": period, "gradient": gradient}
            bytes_kept = _step_bytes(config.changed(**varied, deep_supervision=gradient == "full"))
            kept.setdefault(gradient, {})[count] = bytes_kept / 2**20
    return kept


def _step_bytes(config: RankingConfig) -> int:
    learner = RankingLearner(config.changed(dev_samples=1, test_samples=1), config.seeds[0], "cpu")
    return saved_bytes(lambda: learner.losses(0, learner.network).total, list(learner.network.parameters()))


def growth(kept: dict[int, float]) -> dict[str, float]:
    """A line through memory against iterations: MiB an iteration, MiB at none, and the largest deviation from it."""
    counts, values = np.array(list(kept), dtype=float), np.array(list(kept.values()))
    slope, intercept = np.polyfit(counts, values, 1)
    deviation = float(np.abs(values - (slope * counts + intercept)).max())
    return {"mib_an_iteration": float(slope), "mib_at_none": float(intercept), "largest_deviation": deviation}
