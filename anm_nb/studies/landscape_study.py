"""Trained energies side by side: their shape around the truth at several noise levels and steps (checklist, section E).

Every number is of finished runs' stored weights, in float64, and stands beside that of a perfect denoiser, which goes
through the same functions under the method name "optimal". Numbers are means over held-out problems, the same for every
method with the same seed, towards one of three `DIRECTIONS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, model_validator
from torch import Tensor, nn

from anm_nb.bounds import Examples, Records, Size, Steps, Width
from anm_nb.config import ParameterError, unknown_name
from anm_nb.energy.evaluate import kept_steps, trained_energy
from anm_nb.energy.landscape import (
    SCAN_GRID,
    Energy,
    barrier,
    curvature,
    directional_derivative,
    line_scan,
    optimal_energy,
    plane_scan,
)
from anm_nb.energy.learner import EnergyLearner
from anm_nb.energy.miner import MinerConfig
from anm_nb.energy.negatives import MiningProblem, get_negatives
from anm_nb.energy.networks import energy_given
from anm_nb.energy.schedule import SharedNoise
from anm_nb.energy.train import EnergyConfig
from anm_nb.store import Run
from anm_nb.studies.energy_settings import AnmVsCorruption
from anm_nb.tasks.base import DenoisingTask
from anm_nb.training.seeds import RowDraws, generator

OPTIMAL = "optimal"  # the method name of the perfect denoiser
# Towards what an energy is looked at, and the strategy that finds it. "held_out" is one fixed set of pairs whose
# negatives are legitimate by construction (`DEV_NEGATIVES`); the others are mined anew against each energy.
DIRECTIONS: dict[str, str | None] = {"held_out": None, "mined": "anm", "mined_orthogonal": "anm_orthogonal"}
PLANE = {"s": torch.arange(-4, 13, dtype=torch.float64) / 8, "t": torch.arange(-8, 9, dtype=torch.float64) / 8}


class LandscapeScans(AnmVsCorruption):
    """The runs of `AnmVsCorruption` with the weights of every record kept, and where their landscapes are looked at."""

    notebook: ClassVar[str] = "13_landscape_line_scans"

    size: Size = 4
    steps: Steps = 80
    batch: Examples = 64
    width: Width = 64
    records: Records = 5
    dev_examples: Examples = 48
    noise_levels: Annotated[tuple[NonNegativeInt, ...], Field(strict=False, min_length=1)] = (0, 3, 6)
    level: NonNegativeInt = 3  # the one of them that is shown in detail, and that verdicts are about

    @model_validator(mode="after")
    def _levels_exist(self) -> LandscapeScans:
        last = next(iter(self.configs().values())).levels - 1
        if len(set(self.noise_levels)) != len(self.noise_levels) or max(self.noise_levels) > last:
            given = list(self.noise_levels)
            raise ParameterError(f"noise_levels = {given}: should be different levels from 0 to {last}")
        if self.level not in self.noise_levels:
            raise ParameterError(f"level = {self.level}: should be one of noise_levels = {list(self.noise_levels)}")
        return self

    def configs(self) -> dict[str, EnergyConfig]:
        """One run for each strategy, alike in everything else, with the weights of every record."""
        return {name: config.model_copy(update={"keep_weights": True}) for name, config in super().configs().items()}


@dataclass(frozen=True)
class HeldOut:
    """Held-out problems of one seed, each noised at every level asked for, in float64: what every energy is shown.

    Rows are level after level, the same problems with the same ε in each.
    """

    task: DenoisingTask
    seed: int
    x: Float[Tensor, "b x_dim"]
    y_pos: Float[Tensor, "b y_dim"]
    y_neg: Float[Tensor, "b y_dim"]
    noise: SharedNoise

    @classmethod
    def of(cls, config: EnergyConfig, seed: int, levels: Sequence[int]) -> HeldOut:
        """The problems, noise and negatives that the run's own dev margins were measured on, at levels of choice."""
        learner = config.learner(seed, "cpu")
        assert isinstance(learner, EnergyLearner)
        tensors = (learner.dev.x, learner.dev.y, learner.dev_negatives, learner.dev_problem.noise.eps)
        x, y_pos, y_neg, eps = (each.double().repeat(len(levels), 1) for each in tensors)
        k = torch.tensor(levels).repeat_interleave(config.dev_examples)
        return cls(learner.task, seed, x, y_pos, y_neg, SharedNoise(learner.schedule, k, eps))

    def energy(self, model: nn.Module) -> Energy:
        """The energy of noised points alone."""
        return energy_given(model, self.x, self.noise.k)

    def noised(self, y: Float[Tensor, "b y_dim"]) -> Float[Tensor, "b y_dim"]:
        """ỹ with the problems' own noise."""
        return self.noise.noised(y).as_subclass(Tensor)

    def negatives(self, model: nn.Module, direction: str) -> Float[Tensor, "b y_dim"]:
        """The negatives of one of the `DIRECTIONS` for an energy, mined from the same starting points for all.

        Raises `ParameterError` for a direction that does not exist.
        """
        if direction not in DIRECTIONS:
            raise ParameterError(unknown_name("direction", direction, DIRECTIONS))
        strategy = DIRECTIONS[direction]
        if strategy is None:
            return self.y_neg
        draws = RowDraws([generator(self.seed, f"landscape/{direction}")], "cpu")
        problem = MiningProblem(self.task, self.x, self.y_pos, self.noise, model, model, draws)
        return get_negatives(strategy, miner=MinerConfig().to_the_end()).propose(problem).y_neg


class PerfectDenoiser(nn.Module):
    """The energy that the denoising loss asks for (`optimal_energy`), called as a network is."""

    def __init__(self, pairs: HeldOut) -> None:
        super().__init__()
        self.energy = optimal_energy(pairs.noise.schedule, pairs.y_pos)

    def forward(self, x: Tensor, y: Tensor, k: Tensor) -> Tensor:
        """E*(ỹ) [b] for the problems it was made for, row by row; x is not looked at."""
        return self.energy(x, y, k)


def measured(
    runs: Mapping[str, Run], levels: Sequence[int], directions: Sequence[str] = tuple(DIRECTIONS)
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The landscape's numbers, and its profiles φ(t) − φ(0), of every method, seed, kept step, direction and level.

    Numbers: barrier, curvature (per t²), curvature_per_length, dir_derivative and distance as in `landscape_frame`;
    and what a perfect denoiser would have on *these same pairs*: optimal_barrier = max(0, m*), optimal_derivative =
    ε·u, and illegitimate, the share with m* < 0. One row each, means over the problems. Profiles: columns t and value.
    Rows of "optimal" are the same at every step. Raises `ParameterError` for runs that kept no weights, and for a
    direction that does not exist.
    """
    numbers, profiles = [], []
    for place, model, pairs, steps in _energies(runs, levels):
        for direction in directions:
            y_neg = pairs.negatives(model, direction)
            energy, start, end = pairs.energy(model), pairs.noised(pairs.y_pos), pairs.noised(y_neg)
            profile = line_scan(energy, start, end)
            table = _numbers(energy, pairs, y_neg) | {"barrier": barrier(profile, SCAN_GRID)}
            for step in steps:
                where = place | {"step": step, "direction": direction}
                numbers.append(_by_level(table, pairs).assign(**where))
                profiles.append(_mean_rise(profile, pairs).assign(**where))
    return pd.concat(numbers, ignore_index=True), pd.concat(profiles, ignore_index=True)


def plane_slices(runs: Mapping[str, Run], level: int, direction: str = "mined") -> pd.DataFrame:
    """E − E(truth) of the trained energies over the plane of the mined (s) and a random direction (t).

    Columns method, seed, s, t and value, a mean over the problems; the random direction is the same for every method.
    """
    parts = []
    for place, model, pairs, _ in _energies(runs, [level], at_end=True):
        origin = pairs.noised(pairs.y_pos)
        mined = pairs.noised(pairs.negatives(model, direction)) - origin
        other = torch.randn(mined.shape, generator=generator(pairs.seed, "landscape/plane"), dtype=mined.dtype)
        scan = plane_scan(pairs.energy(model), origin, mined, other, PLANE["s"], PLANE["t"])
        rise = scan - scan[:, PLANE["s"] == 0][:, :, PLANE["t"] == 0]
        s, t = torch.cartesian_prod(PLANE["s"], PLANE["t"]).unbind(1)
        parts.append(pd.DataFrame({"s": s, "t": t, "value": rise.mean(0).flatten()}).assign(**place))
    return pd.concat(parts, ignore_index=True)


def finite_curvature(energy: Energy, start: Float[Tensor, "b d"], end: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """The document's (φ(δ) − 2φ(0) + φ(−δ))/δ², per unit of t.

    δ = u^¼·max(1, ‖ỹ⁺‖/‖Δ̃‖), u being the dtype's relative rounding, balances rounding against truncation; float32 has
    few digits left for it, or none.
    """
    delta = torch.finfo(start.dtype).eps ** 0.25 * (start.norm(dim=1) / (end - start).norm(dim=1)).clamp_min(1)
    near = start + delta.unsqueeze(1) * (end - start)
    before, here, after = line_scan(energy, start, near, torch.tensor([-1.0, 0.0, 1.0])).unbind(1)
    return (after - 2 * here + before) / delta.square()


def curvature_check(runs: Mapping[str, Run], levels: Sequence[int]) -> pd.DataFrame:
    """Exact curvature beside finite differences at the end of training, towards the held-out negatives, in float64.

    A row for each method and level: both per unit of length, means over problems and seeds, and relative_difference,
    the largest |finite − exact| relative to the level's mean of |exact|.
    """
    parts = []
    for place, model, pairs, _ in _energies(runs, levels, at_end=True):
        ends = pairs.noised(pairs.y_pos), pairs.noised(pairs.y_neg)
        energy, distance = pairs.energy(model), (ends[1] - ends[0]).norm(dim=1)
        of_unit = {"exact": curvature(energy, *ends), "finite": finite_curvature(energy, *ends)}
        table = pd.DataFrame({how: values / distance.square() for how, values in of_unit.items()})
        parts.append(table.assign(level=pairs.noise.k.numpy(), **place))
    rows = pd.concat(parts)
    rows["difference"] = (rows["finite"] - rows["exact"]).abs()
    rows["size"] = rows["exact"].abs()
    grouped = rows.groupby(["method", "level"], sort=False)
    means = grouped[["exact", "finite"]].mean()
    return means.assign(relative_difference=grouped["difference"].max() / grouped["size"].mean()).reset_index()


def _numbers(energy: Energy, pairs: HeldOut, y_neg: Tensor) -> dict[str, Tensor]:
    """What `measured` tells of each pair, without its barrier."""
    start, end = pairs.noised(pairs.y_pos), pairs.noised(y_neg)
    distance, bend = (end - start).norm(dim=1), curvature(energy, start, end)
    slope, margin = directional_derivative(energy, start, end), pairs.noise.optimal_margin(pairs.y_pos, y_neg)
    return {
        "curvature": bend,
        "curvature_per_length": bend / distance.square(),
        "dir_derivative": slope,
        "distance": distance,
        "optimal_barrier": margin.clamp_min(0),
        "optimal_derivative": (pairs.noise.eps * (end - start)).sum(1) / distance,
        "illegitimate": (margin < 0).double(),
    }


def _by_level(table: dict[str, Tensor], pairs: HeldOut) -> pd.DataFrame:
    """Means over the problems: one row for each level."""
    levels = pairs.noise.k.unique_consecutive()
    means = {name: values.unflatten(0, (len(levels), -1)).mean(1).numpy() for name, values in table.items()}
    # what rounding leaves would be taken for a spread between seeds
    return pd.DataFrame({"level": levels.numpy()} | means).round(12)


def _mean_rise(profile: Float[Tensor, "b T"], pairs: HeldOut) -> pd.DataFrame:
    """φ(t) − φ(0) over the problems: columns level, t and value."""
    levels = pairs.noise.k.unique_consecutive()
    rise = (profile - profile[:, SCAN_GRID == 0]).unflatten(0, (len(levels), -1)).mean(1)
    level, t = torch.cartesian_prod(levels.double(), SCAN_GRID).unbind(1)
    return pd.DataFrame({"level": level.long().numpy(), "t": t.numpy(), "value": rise.flatten().numpy()})


def _energies(
    runs: Mapping[str, Run], levels: Sequence[int], at_end: bool = False
) -> Iterator[tuple[dict[str, Any], nn.Module, HeldOut, list[int]]]:
    """Method and seed, an energy, what to show it, and the steps at which it was what it is (none where at the end)."""
    first = next(iter(runs.values()))
    assert isinstance(first.config, EnergyConfig)
    steps = [] if at_end else kept_steps(first)
    if not (at_end or steps):
        raise ParameterError(f"run {first.key} kept no weights; train with keep_weights")
    for seed in first.config.seeds:
        pairs = HeldOut.of(first.config, seed, levels)
        for method, run in runs.items():
            moments: list[int | None] = [None] if at_end else [*steps]
            for step in moments:
                model = trained_energy(run, seed, step).double()
                yield {"method": method, "seed": seed}, model, pairs, [] if step is None else [step]
        yield {"method": OPTIMAL, "seed": seed}, PerfectDenoiser(pairs), pairs, steps
