"""What a training step keeps for its backward pass, against the number of iterations."""

from __future__ import annotations

import numpy as np

from anm_nb.bench.ranking import document_config
from anm_nb.bench.saved_memory import step_bytes

ITERATIONS = (1, 2, 4, 8, 12, 16)


def by_iterations(tiny: bool = False) -> dict[str, dict[int, float]]:
    """MiB kept by the HRM model's step at each number of iterations, with `full` and with `last` gradients."""
    config = document_config(tiny)
    kept: dict[str, dict[int, float]] = {}
    for gradient in ("full", "last"):
        for count in ITERATIONS:
            period = min(count, config.hrm_period)
            varied = {"max_inner_iters": count, "hrm_period": period, "gradient": gradient}
            own = config.changed(**varied, deep_supervision=gradient == "full", dev_samples=1, test_samples=1)
            kept.setdefault(gradient, {})[count] = step_bytes(own.learner(own.seeds[0], "cpu")) / 2**20
    return kept


def growth(kept: dict[int, float]) -> dict[str, float]:
    """A line through memory against iterations: MiB an iteration, MiB at none, and the largest deviation from it."""
    counts, values = np.array(list(kept), dtype=float), np.array(list(kept.values()))
    slope, intercept = np.polyfit(counts, values, 1)
    deviation = float(np.abs(values - (slope * counts + intercept)).max())
    return {"mib_an_iteration": float(slope), "mib_at_none": float(intercept), "largest_deviation": deviation}
