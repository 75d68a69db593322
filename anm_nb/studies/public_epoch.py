"""An epoch of ours against one of the public reference implementation of the ranking model."""

from __future__ import annotations

from anm_nb.ranking.train import RankingConfig
from anm_nb.training.epochs import batches_per_epoch
from anm_nb.training.learner import resolve_device
from anm_nb.training.timing import matmul_rate, step_seconds

# One epoch of the public reference implementation at the document's setting with 12 iterations, and the rate of the
# machine it was timed on: a 1024³ matrix product in float32.
PUBLIC_EPOCH_SECONDS = 6.6
PUBLIC_RATE = 166.0  # GFLOP/s


def public_epoch_ratio(config: RankingConfig, rounds: int = 3) -> dict[str, float]:
    """An epoch of the config against one of the public reference, scaled to this machine by its matrix-product rate.

    Times `rounds` training steps and scales them to an epoch (dev evaluation not included). Seconds, GFLOP/s; a ratio
    below 1 is faster than the reference.
    """
    steps = batches_per_epoch(config.train_samples, config.batch)
    timed = step_seconds({"model": config}, rounds=rounds)
    rate = matmul_rate(config.threads, resolve_device(config.device))
    epoch = float(timed["model"].median()) * steps
    public = PUBLIC_EPOCH_SECONDS * PUBLIC_RATE / rate
    return {"rate": rate, "epoch": epoch, "public_epoch": public, "ratio": epoch / public}
