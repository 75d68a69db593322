"""The shape of an energy between the truth and a negative (ANM checklist, section E).

An energy maps noised points [b, d] to nats [b], and is twice differentiable, also under torch.func.vmap. `start` is the
noised positive ỹ⁺, `end` the noised negative ỹ⁻ with the same noise, and Δ̃ = ỹ⁻ − ỹ⁺. `ParameterError` if start equals
end. `optimal_energy` has barrier max(0, m*) (`SharedNoise.optimal_margin`), φ''(0) = ‖Δ̃‖²/σ_k and directional
derivative ε·Δ̃/‖Δ̃‖.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from anm_nb.config import ParameterError
from anm_nb.energy.networks import Energy, Model, gradient_and_value
from anm_nb.energy.schedule import NoiseSchedule, Points, Values

Grid = Float[Tensor, " T"]

SCAN_GRID = torch.arange(-10, 31, dtype=torch.float64) / 20  # t from −0.5 to 1.5, with the exact values 0 and 1
POINTS_AT_ONCE = 1024  # energies evaluated in one call, whatever the grid; at least the b points at one t


@torch.no_grad()
def line_scan(energy: Energy, start: Points, end: Points, t: Grid = SCAN_GRID) -> Float[Tensor, "b T"]:
    """φ(t) = E((1 − t)·ỹ⁺ + t·ỹ⁻), so φ(0) is the truth's energy and φ(1) the negative's (section E.1)."""
    start, end, chunk = start.as_subclass(Tensor), end.as_subclass(Tensor), max(1, POINTS_AT_ONCE // len(start))
    _length(end - start)
    phi = torch.func.vmap(lambda at: energy((1 - at) * start + at * end), out_dims=1, chunk_size=chunk)
    return phi(t.to(start))


def barrier(profile: Float[Tensor, "b T"], t: Grid) -> Values:
    """max over 0 ≤ t ≤ 1 of φ(t) − φ(0) (section E.1). Raises `ParameterError` unless the grid contains 0 and 1."""
    for value in (0, 1):
        if value != (nearest := float(t[(t - value).abs().argmin()])):
            raise ParameterError(f"t: the grid has to contain {value} exactly; its nearest value is {nearest!r}")
    return profile[:, (t >= 0) & (t <= 1)].amax(1) - profile[:, t == 0].squeeze(1)


@torch.no_grad()
def curvature(energy: Energy, start: Points, end: Points) -> Values:
    """φ''(0) = Δ̃ᵀHΔ̃, which scales with ‖Δ̃‖² (section E.1), from one Hessian-vector product (Pearlmutter 1994)."""
    start, shift = start.as_subclass(Tensor).detach().requires_grad_(), (end - start).as_subclass(Tensor)
    _length(shift)
    with torch.enable_grad():
        gradient, _ = gradient_and_value(energy, start)
    (product,) = torch.autograd.grad(gradient, start, shift)
    return (shift * product).sum(1)


@torch.no_grad()
def directional_derivative(energy: Energy, start: Points, end: Points) -> Values:
    """g = ∇E(ỹ⁺)·Δ̃/‖Δ̃‖, in nats per unit of length. Below 0 the negative lies downhill (section E.2)."""
    shift = (end - start).as_subclass(Tensor)
    distance, (gradient, _) = _length(shift), gradient_and_value(energy, start)
    return (gradient * shift).sum(1) / distance


def optimal_energy(schedule: NoiseSchedule, y_pos: Points) -> Model:
    """E*(ỹ) = ‖ỹ − √ᾱ_k y⁺‖²/(2σ_k), the energy of a perfect denoiser: a reference for every measure above."""
    return lambda x, point, k: ((point - schedule.signal(k) * y_pos).square() / (2 * schedule.sigma(k))).sum(1)


def _length(shift: Points) -> Values:
    length = shift.norm(dim=1)
    if bool((refused := ~((length > 0) & length.isfinite())).any()):
        where = f"truth and negative are {float(length[refused][0])} apart at example {int(refused.nonzero()[0])}"
        raise ParameterError(f"{where}; their distance has to be finite and greater than 0")
    return length
