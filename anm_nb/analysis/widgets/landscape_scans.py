"""Line scans and slices of a finished run's energies, each computed when first asked for and kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from anm_nb.energy.evaluate import kept_steps, trained_energy
from anm_nb.energy.landscape import SCAN_GRID, barrier, curvature, directional_derivative, line_scan, plane_scan
from anm_nb.energy.schedule import SharedNoise
from anm_nb.energy.train import EnergyConfig
from anm_nb.store import Run
from anm_nb.studies.landscape_study import PLANE, HeldOut, PerfectDenoiser
from anm_nb.training.seeds import generator

PROBLEMS = 4  # as many as are scanned within the blink that a slider's move may take


@dataclass(frozen=True)
class LandscapeScan:
    """What the first held-out problems show in one direction, as in `landscape_study.measured`, problem by problem.

    `rises` are φ(t) − φ(0) on `SCAN_GRID` [problems, T]; all numbers are [problems]. Those named optimal are a perfect
    denoiser's on the same pairs.
    """

    rises: np.ndarray
    optimal_rises: np.ndarray
    barrier: np.ndarray  # nats
    curvature: np.ndarray  # nats per squared unit of length of ỹ
    slope: np.ndarray  # nats per unit of length of ỹ
    optimal_barrier: np.ndarray
    optimal_curvature: float  # the same in every direction
    optimal_slope: np.ndarray


class RunScans:
    """The energies of a run by seed and kept step; `steps` is empty where only those of the end are kept."""

    def __init__(self, run: Run) -> None:
        assert isinstance(run.config, EnergyConfig)
        self.run, self.config = run, run.config
        self.steps = kept_steps(run)
        self.problems = min(PROBLEMS, self.config.dev_examples)
        self.scan, self.plane = cache(self._scan), cache(self._plane)
        self._held_out, self._energy, self._ends = cache(self._all_held_out), cache(self._trained), cache(self._noised)

    def _scan(self, seed: int, step: int | None, level: int, direction: str) -> LandscapeScan:
        """Profiles and numbers of the first problems."""
        pairs, model = self.pairs(seed, level), self._energy(seed, step)
        energy, (start, end, y_neg) = pairs.energy(model), self._ends(seed, step, level, direction)
        profile = line_scan(energy, start, end)
        optimal = line_scan(pairs.energy(PerfectDenoiser(pairs)), start, end)
        unit = (end - start) / (end - start).norm(dim=1, keepdim=True)
        return LandscapeScan(
            rises=_rise(profile),
            optimal_rises=_rise(optimal),
            barrier=barrier(profile, SCAN_GRID).numpy(),
            curvature=(curvature(energy, start, end) / (end - start).square().sum(1)).numpy(),
            slope=directional_derivative(energy, start, end).numpy(),
            optimal_barrier=pairs.noise.optimal_margin(pairs.y_pos, y_neg).clamp_min(0).numpy(),
            optimal_curvature=1 / float(pairs.noise.schedule.sigma(pairs.noise.k[:1])),
            optimal_slope=(pairs.noise.eps * unit).sum(1).numpy(),
        )

    def _plane(self, seed: int, step: int | None, level: int, direction: str, problem: int) -> np.ndarray:
        """E − E(truth) of one problem on the grid `landscape_study.PLANE`: [T, S], s towards the negative."""
        start, end, _ = (each[problem : problem + 1] for each in self._ends(seed, step, level, direction))
        energy = _rows(self.pairs(seed, level), slice(problem, problem + 1)).energy(self._energy(seed, step))
        shift = end - start
        other = torch.randn(shift.shape, generator=generator(seed, f"landscape/plane/{problem}"), dtype=shift.dtype)
        values = plane_scan(energy, start, shift, other, PLANE["s"], PLANE["t"])[0]
        return (values - values[PLANE["s"] == 0][:, PLANE["t"] == 0]).T.numpy()

    def pairs(self, seed: int, level: int) -> HeldOut:
        """The first held-out problems with their own noise, at a level."""
        first = _rows(self._held_out(seed), slice(0, self.problems))
        noise = SharedNoise(first.noise.schedule, torch.full_like(first.noise.k, level), first.noise.eps)
        return HeldOut(first.task, seed, first.x, first.y_pos, first.y_neg, noise)

    def _noised(self, seed: int, step: int | None, level: int, direction: str) -> tuple[Tensor, Tensor, Tensor]:
        """Noised truths and negatives, and the negatives as they are."""
        pairs = self.pairs(seed, level)
        y_neg = pairs.negatives(self._energy(seed, step), direction)
        return pairs.noised(pairs.y_pos), pairs.noised(y_neg), y_neg

    def _all_held_out(self, seed: int) -> HeldOut:
        return HeldOut.of(self.config, seed, [0])

    def _trained(self, seed: int, step: int | None) -> nn.Module:
        return trained_energy(self.run, seed, step).double()


def _rows(pairs: HeldOut, rows: slice) -> HeldOut:
    """Some of the problems."""
    noise = SharedNoise(pairs.noise.schedule, pairs.noise.k[rows], pairs.noise.eps[rows])
    return HeldOut(pairs.task, pairs.seed, pairs.x[rows], pairs.y_pos[rows], pairs.y_neg[rows], noise)


def _rise(profile: Tensor) -> np.ndarray:
    return (profile - profile[:, SCAN_GRID == 0]).numpy()
