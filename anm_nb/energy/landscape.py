"""The energy's shape around the truth, towards a negative (ANM checklist, section E).

An energy is a function of noised points [b, d] with values [b] in nats, twice differentiable also under torch's vmap;
`start` is the noised positive ỹ⁺, `end` the noised negative ỹ⁻ with the same noise, Δ̃ = ỹ⁻ − ỹ⁺. All raise
`ParameterError` where start equals end. Of `optimal_energy` the barrier is max(0, m*) (`SharedNoise.optimal_margin`),
φ''(0) is ‖Δ̃‖²/σ_k and the directional derivative ε·Δ̃/‖Δ̃‖.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from anm_nb.config import ParameterError
from anm_nb.energy.networks import Model, gradient_and_value
from anm_nb.energy.schedule import NoiseSchedule, Points, Values

Energy = Callable[[Tensor], Tensor]  # noised points [b, d] to energies [b]
Grid = Float[Tensor, " T"]

SCAN_GRID = torch.arange(-10, 31, dtype=torch.float64) / 20  # −0.5 … 1.5, the truth at 0 and the negative at 1 exactly
POINTS_AT_ONCE = 1024  # whose energies are computed together, however fine a grid; at least the b of one place


@torch.no_grad()
def line_scan(energy: Energy, start: Points, end: Points, t: Grid = SCAN_GRID) -> Float[Tensor, "b T"]:
    """φ(t) = E((1 − t)·ỹ⁺ + t·ỹ⁻) (ANM checklist, section E.1): φ(0) is the truth's energy, φ(1) the negative's."""
    start, end, chunk = start.as_subclass(Tensor), end.as_subclass(Tensor), max(1, POINTS_AT_ONCE // len(start))
    _length(end - start)
    phi = torch.func.vmap(lambda at: energy((1 - at) * start + at * end), out_dims=1, chunk_size=chunk)
    return phi(t.to(start))


def barrier(profile: Float[Tensor, "b T"], t: Grid) -> Values:
    """max over 0 ≤ t ≤ 1 of φ(t) − φ(0) (section E.1). Raises `ParameterError` unless the grid holds 0 and 1."""
    for value in (0, 1):
        if value != (nearest := float(t[(t - value).abs().argmin()])):
            raise ParameterError(f"t: the grid has to hold {value} exactly; the nearest on it is {nearest!r}")
    return profile[:, (t >= 0) & (t <= 1)].amax(1) - profile[:, t == 0].squeeze(1)


@torch.no_grad()
def curvature(energy: Energy, start: Points, end: Points) -> Values:
    """φ''(0) = Δ̃ᵀHΔ̃ per unit of t, so in ‖Δ̃‖² (section E.1), by a product with H (Pearlmutter 1994)."""
    start, shift = start.as_subclass(Tensor).detach().requires_grad_(), (end - start).as_subclass(Tensor)
    _length(shift)
    with torch.enable_grad():
        gradient, _ = gradient_and_value(energy, start)
    (product,) = torch.autograd.grad(gradient, start, shift)
    return (shift * product).sum(1)


@torch.no_grad()
def directional_derivative(energy: Energy, start: Points, end: Points) -> Values:
    """g = ∇E(ỹ⁺)·(ỹ⁻ − ỹ⁺)/‖ỹ⁻ − ỹ⁺‖, in nats per unit of length: below 0 the negative lies downhill (section E.2)."""
    shift = (end - start).as_subclass(Tensor)
    distance, (gradient, _) = _length(shift), gradient_and_value(energy, start)
    return (gradient * shift).sum(1) / distance


def optimal_energy(schedule: NoiseSchedule, y_pos: Points) -> Model:
    """E*(ỹ) = ‖ỹ − √ᾱ_k y⁺‖²/(2σ_k), the energy of a perfect denoiser: the reference for all numbers here."""
    return lambda x, point, k: ((point - schedule.signal(k) * y_pos).square() / (2 * schedule.sigma(k))).sum(1)


def _length(shift: Points) -> Values:
    length = shift.norm(dim=1)
    if bool((refused := ~((length > 0) & length.isfinite())).any()):
        where = f"truth and negative are {float(length[refused][0])} apart at example {int(refused.nonzero()[0])}"
        raise ParameterError(f"{where}; a direction needs a distance that is finite and greater than 0")
    return length
