"""The contrast of a step: negatives proposed, noised once with the positives' noise, and their energies."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from anm_nb.energy.miner import Mined
from anm_nb.energy.negatives import MiningProblem, NegativeStrategy
from anm_nb.energy.probes import count_of, energy_columns, noising_columns, noisings
from anm_nb.training.graph import host_may_wait


class NoisedTwice(RuntimeError):
    """A negative was not noised exactly once in a step (ANM checklist, section C); only `probes` looks for it."""


@dataclass
class Contrast:
    """The energies of positives and negatives of a batch, before the update; rows of all seeds, seed after seed."""

    mined: Mined
    e_pos: Tensor
    e_neg: Tensor
    optimal_margin: Tensor
    problem: MiningProblem
    noised: tuple[Tensor, Tensor]  # positive and negative as the network saw them


def contrast_of(
    problem: MiningProblem, strategy: NegativeStrategy, noised_pos: Tensor, e_pos: Tensor, probes: bool = False
) -> Contrast:
    """Negatives by a strategy, noised here and only here with the positives' own noise, and their energies.

    Raises ValueError for negatives of another shape than the targets, and with `probes` `NoisedTwice`.
    """
    with noisings() if probes and host_may_wait() else nullcontext() as seen:
        with torch.no_grad():
            mined = strategy.propose(problem)
        y_neg, shape = mined.y_neg.detach(), tuple(problem.y_pos.shape)
        if y_neg.shape != shape:
            returned = f"strategy '{strategy.name}' returned negatives of shape {tuple(y_neg.shape)}"
            raise ValueError(f"{returned}; the targets have {shape}")
        y_neg = problem.impose(y_neg)
        noised_neg = problem.noise.noised(y_neg)
    if seen is not None and count_of(y_neg, seen) != 1:
        raise NoisedTwice(f"the negatives of '{strategy.name}' were noised {count_of(y_neg, seen)} times")
    e_neg = problem.noised_energy(noised_neg.as_subclass(Tensor))
    margin = problem.noise.optimal_margin(problem.y_pos, y_neg)
    return Contrast(Mined(y_neg, mined.log), e_pos, e_neg, margin, problem, (noised_pos, noised_neg))


def illegitimate_by_level(contrast: Contrast, rows: slice) -> Tensor:
    """How many negatives of some rows have m* < 0, and how many there are, at each noise level: [2, levels]."""
    noise, margin = contrast.problem.noise, contrast.optimal_margin[rows]
    k, levels = noise.k[rows], len(noise.schedule.betas)
    return torch.stack([torch.bincount(which, minlength=levels) for which in (k[margin < 0], k)]).float()


def contrast_scalars(contrast: Contrast, rows: slice) -> dict[str, float]:
    """Hardness, margins, energies, legitimacy, noise and mining of some rows' negatives (checklist A, B, C, K).

    The columns of the recorder (`energy_columns`, `noising_columns`), and means over examples of the miner's log.
    """
    problem, noise, margin = contrast.problem, contrast.problem.noise, contrast.optimal_margin[rows]
    signal, sigma = noise.schedule.signal(noise.k[rows]), noise.schedule.sigma(noise.k[rows])
    columns = energy_columns(contrast.e_pos[rows].detach(), contrast.e_neg[rows].detach())
    columns.pop("loss_con")  # the loss itself stands beside it
    noised_pos, noised_neg = (each[rows] for each in contrast.noised)
    columns |= noising_columns(noised_pos, noised_neg, problem.y_pos[rows], contrast.mined.y_neg[rows], signal, sigma)
    columns |= {"illegitimate_fraction": (margin < 0).float().mean(), "optimal_margin_mean": margin.mean()}
    log = {name: values[rows].float().nanmean() for name, values in contrast.mined.log.items()}
    if {"e_start", "e_mined"} <= log.keys():
        log["mined_drop"] = log["e_start"] - log["e_mined"]
    return {name: float(value) for name, value in (columns | log).items()}
