"""Probes of a training step and a recorder for any trainer (checklist, A to D and I). Nothing waits for the device."""

from collections.abc import Iterable, Mapping

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from anm_nb.config import ParameterError
from anm_nb.energy.schedule import Levels, NoiseSchedule, Points

Scale = Tensor | float | int  # a number, one per example, or any shape that broadcasts to that of the targets
ROUNDINGS = 8  # of two products, two sums, two differences and both coefficients


@torch.no_grad()
def energy_columns(e_pos: Tensor, e_neg: Tensor) -> dict[str, Tensor]:
    """Scalar hardness and margins (section A). `e_pos` is [b] or [b, 1], `e_neg` [b] or [b, n]; or `ParameterError`."""
    if e_pos.numel() != len(e_neg):
        raise ParameterError(f"e_pos has shape {(*e_pos.shape,)} and e_neg {(*e_neg.shape,)}: need [b] and [b, …]")
    positive, negative = _plain(e_pos).reshape(-1, 1), _plain(e_neg).reshape(len(e_neg), -1)
    margin = (negative - positive).flatten()
    finite = torch.cat([positive.flatten(), negative.flatten()]).isfinite()
    return {
        "p_hard": (margin < 0).float().mean(),
        "margin_mean": margin.mean(),
        **{f"margin_q{per_cent}": margin.quantile(per_cent / 100) for per_cent in (25, 50, 75)},
        "loss_con": F.softplus(-margin).mean(),
        "e_pos": positive.mean(),
        "e_neg": negative.mean(),
        "non_finite_energies": (~finite).float().mean(),
    }


@torch.no_grad()
def noising_columns(
    noised_pos: Tensor, noised_neg: Tensor, y_pos: Tensor, y_neg: Tensor, signal: Scale, sigma: Scale
) -> dict[str, Tensor]:
    """Scalars of one noising of positives and negatives [b, …] (checklist, sections B.4, C and I.1).

    `signal` is √ᾱ_k and `sigma` σ_k. `shared_noise_residual` is max |(ỹ⁺ − √ᾱy⁺) − (ỹ⁻ − √ᾱy⁻)|, and at most
    `shared_noise_rounding` if only rounding differs. The optimal margin is m* = (‖√ᾱΔ‖²/2 + √ᾱΔ·n)/σ with Δ = y⁻ − y⁺
    and n = ỹ⁺ − √ᾱy⁺ = σε, as in `SharedNoise.optimal_margin`. Raises `ParameterError` unless all shapes are equal.
    """
    tensors = (noised_pos, noised_neg, y_pos, y_neg)
    if len(set(shapes := [tuple(t.shape) for t in tensors])) > 1:
        raise ParameterError(f"noised_pos, noised_neg, y_pos, y_neg have shapes {shapes}: all four need the same")
    precision = max(torch.finfo(t.dtype).eps for t in tensors if t.is_floating_point())
    tilde_pos, tilde_neg, pos, neg = map(_plain, tensors)
    factor, spread = _coefficient("signal", signal, pos), _coefficient("sigma", sigma, pos)
    noise, shift = tilde_pos - factor * pos, factor * (neg - pos)
    difference = noise - (tilde_neg - factor * neg)
    largest = torch.stack([t.abs().amax() for t in (tilde_pos, tilde_neg, factor * pos, factor * neg)]).amax()
    optimal_margin = ((shift.square() / 2 + shift * noise) / spread).flatten(1).sum(1)
    return {
        "shared_noise_residual": difference.abs().amax(),
        "shared_noise_rounding": ROUNDINGS * precision * largest,
        "optimal_margin_mean": optimal_margin.mean(),
        "illegitimate_fraction": (optimal_margin < 0).float().mean(),
        "wrongness": (neg - pos).flatten(1).norm(dim=1).mean(),
        "negative_scale": neg.flatten(1).norm(dim=1).mean() / pos.flatten(1).norm(dim=1).mean(),
    }


def gradient_columns(loss_mse: Tensor, loss_con: Tensor, parameters: Iterable[Tensor]) -> dict[str, Tensor]:
    """Gradient norms g of both losses, [] or [S], weights included, and r = g_con/(g_con + g_mse) (sections D, I.3)."""
    trainable = [p for p in parameters if p.requires_grad]

    def norm(loss: Tensor) -> Tensor:
        if not (loss.requires_grad and trainable):
            return torch.zeros_like(loss)
        gradients = torch.autograd.grad(loss.sum(), trainable, retain_graph=True, allow_unused=True)
        norms = [each.reshape(*loss.shape, -1).norm(dim=-1) for each in gradients if each is not None]
        return torch.stack(norms).norm(dim=0) if norms else torch.zeros_like(loss)

    mse, con = norm(loss_mse), norm(loss_con)
    return {"grad_norm_mse": mse, "grad_norm_con": con, "grad_share_contrast": con / (con + mse + 1e-12)}


def grad_share(loss_con: Tensor, loss_mse: Tensor, parameters: Iterable[Tensor]) -> float:
    """r of `gradient_columns` as a number in [0, 1]."""
    return float(gradient_columns(loss_mse, loss_con, parameters)["grad_share_contrast"])


def shared_noise_residual(
    noised_pos: Points, noised_neg: Points, y_pos: Points, y_neg: Points, schedule: NoiseSchedule, k: Levels
) -> float:
    """max |(ỹ⁺ − √ᾱ_k y⁺) − (ỹ⁻ − √ᾱ_k y⁻)|, zero up to rounding if both carry the same noise (checklist, I.1)."""
    columns = noising_columns(noised_pos, noised_neg, y_pos, y_neg, schedule.signal(k), schedule.sigma(k))
    return float(columns["shared_noise_residual"])


class Recorder:
    """The checklist's columns, from one-line calls in any training step. Every call, with its columns, is optional.

    A row is recorded every `every` steps, gradient norms every `gradients_every`. `ParameterError` if one is below 1.
    """

    def __init__(self, every: int = 5, gradients_every: int = 20) -> None:
        if min(every, gradients_every) < 1:
            raise ParameterError(f"every = {every}, gradients_every = {gradients_every}: at least 1 step each")
        self.every, self.gradients_every, self.step = every, gradients_every, 0
        self._rows: dict[int, dict[str, Tensor | float]] = {}  # by step

    def energies(self, e_pos: Tensor, e_neg: Tensor) -> None:
        """Add `energy_columns` of the contrastive pairs, before the update."""
        if self.step % self.every == 0:
            self._add(energy_columns(e_pos, e_neg))

    def noising(
        self, noised_pos: Tensor, noised_neg: Tensor, y_pos: Tensor, y_neg: Tensor, signal: Scale, sigma: Scale
    ) -> None:
        """Add `noising_columns` of the network's noised inputs, their clean targets, and √ᾱ_k and σ_k per example."""
        if self.step % self.every == 0:
            self._add(noising_columns(noised_pos, noised_neg, y_pos, y_neg, signal, sigma))

    def losses(self, loss_mse: Tensor, weighted_loss_con: Tensor, parameters: Iterable[Tensor]) -> None:
        """Add both scalar losses, weights included, and `gradient_columns` where due. Call it before `backward`."""
        if self.step % self.every == 0:
            self._add({"loss_mse": loss_mse, "loss_con_weighted": weighted_loss_con})
        if self.step % self.gradients_every == 0:
            self._add(gradient_columns(loss_mse, weighted_loss_con, parameters))

    def ema(self, parameters: Iterable[Tensor]) -> None:
        """Add `ema_gradient`, the gradient norm of the averaged weights, ideally 0 (B.5, H, I.2), after `backward`."""
        if self.step % self.every == 0:
            norms = [_plain(p.grad).norm() for p in parameters if p.grad is not None]
            self._add({"ema_gradient": torch.stack(norms).norm() if norms else 0.0})

    def score(self, name: str, value: Tensor | float) -> None:
        """Add any column but "seed" or "step" (`ParameterError`). The doctor reads `mined_drop` and `armijo_slack`."""
        if name in ("seed", "step"):
            raise ParameterError(f"score '{name}': this name is reserved; choose another")
        self._add({name: value})

    def next_step(self) -> None:
        """End the row of this step."""
        self.step += 1

    def frame(self) -> pd.DataFrame:
        """One row per recorded step, including an unfinished one; NaN where a step did not record a column."""
        rows = [{"step": step} | {name: float(each) for name, each in row.items()} for step, row in self._rows.items()]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["step"])

    def _add(self, columns: Mapping[str, Tensor | float]) -> None:
        row = self._rows.setdefault(self.step, {})  # holds copies, out of reach of later in-place arithmetic
        row |= {name: _plain(v).clone().reshape(()) if isinstance(v, Tensor) else v for name, v in columns.items()}


def _plain(tensor: Tensor) -> Tensor:
    """Detached plain tensor in float32 or better."""
    plain = tensor.detach().as_subclass(Tensor)
    return plain.to(torch.promote_types(plain.dtype, torch.float32))


def _coefficient(name: str, value: Scale, like: Tensor) -> Tensor:
    """Broadcast a coefficient to the shape of `like` [b, …]; [b] and [b, 1] hold one per example, not per entry."""
    tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device).as_subclass(Tensor)
    if tensor.shape in ((len(like),), (len(like), 1)):
        tensor = tensor.reshape(-1, *[1] * (like.ndim - 1))
    try:
        return tensor.broadcast_to(like.shape)
    except RuntimeError:
        raise ParameterError(f"{name} has shape {(*tensor.shape,)}: should broadcast to {(*like.shape,)}") from None
