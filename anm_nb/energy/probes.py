"""A recorder for anybody's own trainer, which knows tensors only, and probes (ANM checklist, sections A to D and I).

What returns tensors never waits for a device, and may stand in a step that is captured as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from anm_nb.config import ParameterError
from anm_nb.energy.schedule import Levels, NoiseSchedule, Points, SharedNoise

Scale = Tensor | float | int  # one number, one per example, or any shape that broadcasts to the targets'
ROUNDINGS = 8  # two products, two sums and two differences round once each, and coefficients may have been rounded too


@torch.no_grad()
def energy_columns(e_pos: Tensor, e_neg: Tensor) -> dict[str, Tensor]:
    """Hardness and margins of contrastive pairs (checklist, section A), each a scalar.

    `e_pos` holds one energy for each example ([b] or [b, 1]), `e_neg` one or more ([b] or [b, n]). `loss_con` is the
    two-way InfoNCE log(1 + e^−m) without its weight; `non_finite_energies` the share of energies that are NaN or ±∞.
    Raises `ParameterError` when there is not one positive for each example.
    """
    if e_pos.numel() != len(e_neg):
        raise ParameterError(f"e_pos has shape {tuple(e_pos.shape)} and e_neg {tuple(e_neg.shape)}: need [b] and [b]")
    positive, negative = _plain(e_pos).reshape(-1, 1), _plain(e_neg).reshape(len(e_neg), -1)
    margin = (negative - positive).flatten()
    finite = torch.cat([positive.flatten(), negative.flatten()]).isfinite()
    return {
        "p_hard": (margin < 0).float().mean(),
        "margin_mean": margin.mean(),
        **{f"margin_q{per_cent}": _quantile(margin, per_cent / 100) for per_cent in (25, 50, 75)},
        "loss_con": F.softplus(-margin).mean(),
        "e_pos": positive.mean(),
        "e_neg": negative.mean(),
        "non_finite_energies": (~finite).float().mean(),
    }


@torch.no_grad()
def noising_columns(
    noised_pos: Tensor, noised_neg: Tensor, y_pos: Tensor, y_neg: Tensor, signal: Scale, sigma: Scale
) -> dict[str, Tensor]:
    """What one noising of positives and negatives [b, …] shows (checklist, sections B.4, C and I.1), each a scalar.

    `signal` is √ᾱ_k and `sigma` σ_k. `shared_noise_residual` is max |(ỹ⁺ − √ᾱy⁺) − (ỹ⁻ − √ᾱy⁻)|, and
    `shared_noise_rounding` what rounding may make of it in the coarsest precision handed over. With n = ỹ⁺ − √ᾱy⁺ = σε
    and Δ = y⁻ − y⁺ the optimal margin is m* = (‖√ᾱΔ‖²/2 + √ᾱΔ·n)/σ; a negative with m* < 0 is illegitimate. `wrongness`
    is the mean ‖Δ‖, `negative_scale` the mean ‖y⁻‖ by the mean ‖y⁺‖. Raises `ParameterError` for shapes that differ.
    """
    given = (noised_pos, noised_neg, y_pos, y_neg)
    shapes = [tuple(t.shape) for t in given]
    if len(set(shapes)) > 1:
        raise ParameterError(f"noised_pos, noised_neg, y_pos, y_neg have shapes {shapes}: all four need the same")
    precision = max(torch.finfo(t.dtype).eps for t in given if t.is_floating_point())
    tilde_pos, tilde_neg, pos, neg = map(_plain, given)
    factor, spread = _coefficient("signal", signal, pos), _coefficient("sigma", sigma, pos)
    noise = tilde_pos - factor * pos
    difference = noise - (tilde_neg - factor * neg)
    largest = torch.stack([t.abs().amax() for t in (tilde_pos, tilde_neg, factor * pos, factor * neg)]).amax()
    shift = factor * (neg - pos)
    optimal_margin = ((shift.square() / 2 + shift * noise) / spread).flatten(1).sum(1)
    return {
        "shared_noise_residual": difference.abs().amax(),
        "shared_noise_rounding": ROUNDINGS * precision * largest,
        "optimal_margin_mean": optimal_margin.mean(),
        "illegitimate_fraction": (optimal_margin < 0).float().mean(),
        "wrongness": (neg - pos).flatten(1).norm(dim=1).mean(),
        "negative_scale": neg.flatten(1).norm(dim=1).mean() / pos.flatten(1).norm(dim=1).mean(),
    }


def gradient_norm(loss: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """‖∇loss‖ over all parameters, 0 where it reaches none; of losses [S], over each one's slices of stacks [S, …].

    The graph is kept and no `.grad` is touched.
    """
    learnt = [p for p in parameters if p.requires_grad]
    if not (loss.requires_grad and learnt):
        return torch.zeros_like(loss)
    found = torch.autograd.grad(loss.sum(), learnt, retain_graph=True, allow_unused=True)
    norms = [gradient.reshape(*loss.shape, -1).norm(dim=-1) for gradient in found if gradient is not None]
    return torch.stack(norms).norm(dim=0) if norms else torch.zeros_like(loss)


def grad_shares(loss_con: Tensor, loss_mse: Tensor, stacks: Iterable[Tensor]) -> Tensor:
    """r = g_con/(g_con + g_mse) of two losses' gradient norms, in [0, 1] (ANM checklist, sections D and I.3).

    Of each seed, where losses are [S] and parameters stacked [S, …]. The contrastive loss is that with its weight on.
    """
    learnt = list(stacks)
    con, mse = gradient_norm(loss_con, learnt), gradient_norm(loss_mse, learnt)
    return con / (con + mse + 1e-12)


def grad_share(loss_con: Tensor, loss_mse: Tensor, parameters: Iterable[Tensor]) -> float:
    """The same of one seed, as a number."""
    return float(grad_shares(loss_con, loss_mse, parameters))


def shared_noise_residual(
    noised_pos: Points, noised_neg: Points, y_pos: Points, y_neg: Points, schedule: NoiseSchedule, k: Levels
) -> float:
    """max |(ỹ⁺ − √ᾱ_k y⁺) − (ỹ⁻ − √ᾱ_k y⁻)|: zero up to rounding when both carry the same noise (checklist, I.1)."""
    signal = schedule.signal(k)
    return float(((noised_pos - signal * y_pos) - (noised_neg - signal * y_neg)).abs().max())


@contextmanager
def noisings() -> Iterator[list[Tensor]]:
    """Collects every clean tensor that a step noises (each negative once: section C), and no point on a miner's way."""
    seen: list[Tensor] = []
    original = SharedNoise.noised

    def noised(self: SharedNoise, y: Tensor) -> Tensor:
        seen.append(y)
        return original(self, y)

    with patch.object(SharedNoise, "noised", noised):
        yield seen


def count_of(y: Points, seen: Sequence[Tensor]) -> int:
    """How many of the collected tensors equal y."""
    return sum(other.shape == y.shape and bool(torch.equal(other, y)) for other in seen)


class Recorder:
    """The checklist's columns from one-line calls in a training step; every call may be left out, and so its columns.

    Nothing that a call is handed is changed. Numbers stay on their device until `frame`. `every` is the number of steps
    from one row to the next, `gradients_every` that for gradient norms, which cost a backward pass for each loss;
    `armijo_c` is the miner's c. While `training` is False only `score` records: set it where the same functions
    evaluate a network. A second call of one kind in a step replaces the first, except for `trial`. Raises
    `ParameterError` for steps below 1 and `armijo_c` outside (0, 1).
    """

    def __init__(
        self, every: int = 5, gradients_every: int = 20, armijo_c: float = 1e-4, seed: int | None = None
    ) -> None:
        if min(every, gradients_every) < 1:
            raise ParameterError(f"every = {every}, gradients_every = {gradients_every}: at least 1 step each")
        if not 0 < armijo_c < 1:
            raise ParameterError(f"armijo_c = {armijo_c}: should lie in (0, 1)")
        self.every, self.gradients_every, self.armijo_c, self.seed = every, gradients_every, armijo_c, seed
        self.step, self.training = 0, True
        self._row: dict[str, Tensor | float] = {}
        self._trials: list[Tensor] = []  # each [5, examples]: the arguments of `trial`
        self._rows: list[tuple[dict[str, float], list[str], Tensor]] = []

    def energies(self, e_pos: Tensor, e_neg: Tensor) -> None:
        """The energies of the contrastive pairs before the update: see `energy_columns`."""
        if self._recording(self.every):
            self._row |= energy_columns(e_pos, e_neg)

    def noising(
        self, noised_pos: Tensor, noised_neg: Tensor, y_pos: Tensor, y_neg: Tensor, signal: Scale, sigma: Scale
    ) -> None:
        """What the network is fed, what it was made of, and √ᾱ_k and σ_k example by example: see `noising_columns`."""
        if self._recording(self.every):
            self._row |= noising_columns(noised_pos, noised_neg, y_pos, y_neg, signal, sigma)

    def losses(self, loss_mse: Tensor, weighted_loss_con: Tensor, parameters: Iterable[Tensor]) -> None:
        """The two scalar losses, the contrastive one with its weight on it, before `backward` (sections D and I.3).

        Columns `loss_mse` and `loss_con_weighted`; every `gradients_every` steps gradient norms and their share.
        """
        if self._recording(self.every):
            self._row |= {"loss_mse": _copy(loss_mse), "loss_con_weighted": _copy(weighted_loss_con)}
        if self._recording(self.gradients_every):
            learnt = list(parameters)
            mse, con = (_copy(gradient_norm(loss, learnt)) for loss in (loss_mse, weighted_loss_con))
            self._row |= {"grad_norm_mse": mse, "grad_norm_con": con, "grad_share_contrast": con / (con + mse + 1e-12)}

    @torch.no_grad()
    def trial(
        self, energy_before: Tensor, energy_trial: Tensor, step: Scale, gradient_norm: Scale, accepted: Scale
    ) -> None:
        """One trial of the miner, for the examples still being mined (sections B.1 and I.4); once for each trial.

        `step` and `gradient_norm` are α and ‖∇E‖ at the point left; all are [b], [b, 1] or one number. Columns, per
        example: `miner_accepted`, `miner_backtracks` and `miner_non_finite` trials, and `mined_drop`, the energy lost
        over accepted ones. `armijo_slack` is their least E − E_trial − cα‖∇E‖²: not negative under Armijo's rule.
        """
        if self._recording(self.every):
            before = _plain(energy_before).flatten()
            named = {"energy_trial": energy_trial, "step": step, "gradient_norm": gradient_norm, "accepted": accepted}
            others = [_coefficient(name, value, before).to(before.dtype) for name, value in named.items()]
            self._trials.append(torch.stack([before, *others]))

    @torch.no_grad()
    def ema(self, parameters: Iterable[Tensor]) -> None:
        """The averaged weights, after `backward` (B.5, H, I.2): `ema_gradient`, their gradient's norm, ideally 0."""
        if self._recording(self.every):
            found = [p.grad.detach().norm().float() for p in parameters if p.grad is not None]
            self._row["ema_gradient"] = torch.stack(found).norm() if found else 0.0

    def score(self, name: str, value: Tensor | float) -> None:
        """Any score of the task, as a column of that name. Raises `ParameterError` for "seed" and "step"."""
        if name in ("seed", "step"):
            raise ParameterError(f"score '{name}': that column is the recorder's own")
        self._row[name] = _copy(value) if isinstance(value, Tensor) else float(value)

    def next_step(self) -> None:
        """End the row of this step."""
        if self._row or self._trials:
            self._rows.append(self._finished_row())
        self._row, self._trials = {}, []
        self.step += 1

    def frame(self) -> pd.DataFrame:
        """One row for each recorded step, an unfinished one included if it is more than trials; NaN where one lacks."""
        rows = self._rows + ([self._finished_row()] if self._row else [])
        table = [numbers | dict(zip(names, values.tolist(), strict=True)) for numbers, names, values in rows]
        return pd.DataFrame(table) if table else pd.DataFrame(columns=["step"])

    def _recording(self, every: int) -> bool:
        return self.training and self.step % every == 0

    def _finished_row(self) -> tuple[dict[str, float], list[str], Tensor]:
        seed = {} if self.seed is None else {"seed": self.seed}
        row: dict[str, Tensor | float] = {**seed, "step": self.step, **self._row, **self._mining()}
        tensors = {name: value.float() for name, value in row.items() if isinstance(value, Tensor)}
        device = next((value.device for value in tensors.values()), None)
        values = torch.stack([value.to(device) for value in tensors.values()]) if tensors else torch.empty(0)
        return {n: v for n, v in row.items() if not isinstance(v, Tensor)}, list(tensors), values

    def _mining(self) -> dict[str, Tensor]:
        """The step's trials in sum, per mined example."""
        if not (examples := max((trial.shape[1] for trial in self._trials), default=0)):
            return {}
        before, after, alpha, slope, took = torch.cat(self._trials, dim=1)
        slack = before - after - self.armijo_c * alpha * slope.square()
        counted = slack.isfinite() & (took > 0)
        drop, least = torch.where(counted, before - after, 0.0), torch.where(counted, slack, torch.inf).amin()
        columns = ("miner_accepted", "miner_backtracks", "mined_drop", "miner_non_finite")
        sums = zip(columns, (took, 1 - took, drop, ~slack.isfinite()), strict=True)
        return {name: each.sum() / examples for name, each in sums} | {
            "armijo_slack": torch.where(least.isfinite(), least, torch.nan)
        }


def _plain(tensor: Tensor) -> Tensor:
    """A detached plain tensor, at least as precise as float32."""
    plain = tensor.detach().as_subclass(Tensor)
    return plain.to(torch.promote_types(plain.dtype, torch.float32))


def _copy(scalar: Tensor) -> Tensor:
    """A copy that neither later arithmetic in place nor a graph can reach."""
    return _plain(scalar).clone().reshape(())


def _quantile(values: Tensor, share: float) -> Tensor:
    """A quantile of values [n], linear between neighbours, NaN with any NaN; `torch.quantile` waits for the device."""
    place = share * (len(values) - 1)
    low, high = int(place), min(int(place) + 1, len(values) - 1)
    ordered = values.sort().values
    return torch.where(values.isnan().any(), torch.nan, ordered[low].lerp(ordered[high], place - low))


def _coefficient(name: str, value: Scale, like: Tensor) -> Tensor:
    """A coefficient as a tensor like `like` [b, …]; one of shape [b] or [b, 1] belongs to examples, not to entries."""
    if not isinstance(value, Tensor):
        return torch.full_like(like, float(value))  # a copy from the host could not be captured
    given = value.to(like.device).detach().as_subclass(Tensor)
    if given.shape in ((len(like),), (len(like), 1)):
        given = given.reshape(-1, *[1] * (like.ndim - 1))
    try:
        return given.broadcast_to(like.shape).to(torch.promote_types(given.dtype, like.dtype))
    except RuntimeError:
        shapes = f"{tuple(value.shape)}: should broadcast to {tuple(like.shape)}"
        raise ParameterError(f"{name} has shape {shapes}") from None
