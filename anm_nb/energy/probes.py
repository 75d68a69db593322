"""Small probes to drop into a training step (ANM checklist, sections C, D and I)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anm_nb.energy.recorder import Recorder, gradient_norm
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise

__all__ = ["Recorder", "count_of", "grad_share", "noisings", "shared_noise_residual"]


def shared_noise_residual(
    noised_pos: Float[Tensor, "b d"],
    noised_neg: Float[Tensor, "b d"],
    y_pos: Float[Tensor, "b d"],
    y_neg: Float[Tensor, "b d"],
    schedule: NoiseSchedule,
    k: Int[Tensor, " b"],
) -> float:
    """max |(ỹ⁺ − √ᾱ_k y⁺) − (ỹ⁻ − √ᾱ_k y⁻)|: zero up to rounding when both carry the same noise (checklist, I.1)."""
    signal = schedule.signal(k)
    return float(((noised_pos - signal * y_pos) - (noised_neg - signal * y_neg)).abs().max())


def grad_share(loss_con: Tensor, loss_mse: Tensor, parameters: Sequence[Tensor]) -> float:
    """r = g_con/(g_con + g_mse) of the two losses' gradient norms, in [0, 1] (ANM checklist, sections D and I.3).

    Hand over the contrastive loss with its weight on it. Neither graph is freed and no `.grad` is touched.
    """
    con, mse = gradient_norm(loss_con, parameters), gradient_norm(loss_mse, parameters)
    return float(con / (con + mse + 1e-12))


@contextmanager
def noisings() -> Iterator[list[Tensor]]:
    """Collects every clean tensor that a training step noises while the context is open.

    Each negative must come up once (checklist, section C). Points whose energy a miner looks up on its way are not
    negatives yet, and are not collected.
    """
    seen: list[Tensor] = []
    original = SharedNoise.noised

    def recording(self: SharedNoise, y: Tensor) -> Tensor:
        seen.append(y)
        return original(self, y)

    with patch.object(SharedNoise, "noised", recording):
        yield seen


def count_of(y: Float[Tensor, "b d"], seen: Sequence[Tensor]) -> int:
    """How many of the collected tensors equal y."""
    return sum(other.shape == y.shape and bool(torch.equal(other, y)) for other in seen)


def grad_shares(loss_con: Tensor, loss_mse: Tensor, model) -> Tensor:
    """temp"""
    norms = []
    for loss in (loss_con, loss_mse):
        ps = [p for p in model.network.parameters()]
        g = torch.autograd.grad(loss.sum(), ps, retain_graph=True, allow_unused=True)
        norms.append(torch.stack([torch.linalg.vector_norm(model.by_seed(x).flatten(1), dim=1) for x in g if x is not None]).norm(dim=0))
    return norms[0] / (norms[0] + norms[1] + 1e-12)
