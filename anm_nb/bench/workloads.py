"""All workloads by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from anm_nb.bench.energy import EnergyStep, Mining, Sampling, Scanning
from anm_nb.bench.generation import MakingArrays, MakingInverses, MakingSudokus
from anm_nb.bench.ranking import RankingStep, document_config
from anm_nb.bench.workload import MakePair
from anm_nb.config import ParameterError, unknown_name


@dataclass(frozen=True)
class Workload:
    """A pair, what it is, and in how many processes at the same time it is measured, each with one thread."""

    name: str
    title: str
    make: MakePair
    processes: int = 1


def ranking_step(device: str, tiny: bool) -> RankingStep:
    """The HRM model's step."""
    config = document_config(tiny, device)
    return RankingStep(config, device, config.seeds[0])


def baseline_step(device: str, tiny: bool) -> RankingStep:
    """The step of the same model without iteration."""
    config = document_config(tiny, device).baseline()
    return RankingStep(config, device, config.seeds[0])


def energy_step(negatives: str) -> MakePair:
    """IRED's step with those negatives."""
    return lambda device, tiny: EnergyStep(negatives, device, tiny)


WORKLOADS = {
    each.name: each
    for each in (
        Workload("ranking_baseline", "ranking step, one pass", baseline_step),
        Workload("ranking_12", "ranking step, 12 iterations", ranking_step),
        Workload("ranking_two_seeds", "the same, two seeds in two processes", ranking_step, processes=2),
        Workload("ired_none", "IRED step, 20×20, batch 2048, plain denoising", energy_step("none")),
        Workload("ired_stock", "the same with stock negatives (landscape supervision)", energy_step("stock")),
        Workload("ired_anm", "the same with mined negatives", energy_step("anm")),
        Workload("sampler", "sampler, 10 levels × 5 steps, 256 problems", Sampling),
        Workload("line_scan", "line scan, 41 places, 256 pairs", Scanning),
        Workload("mining", "mining, 3 steps, 2048 negatives", Mining),
        Workload("data_inverse", "data: 2048 matrices of 20×20 and their inverses", MakingInverses),
        Workload("data_sudoku", "data: 64 Sudokus from the pool", MakingSudokus),
        Workload("data_partial_sort", "data: 1000 arrays of 20 items", MakingArrays),
    )
}


def chosen(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The known names among which some were asked for, or all where none was. Raises `ParameterError` for others."""
    known, names = list(known), list(names)
    for name in names:
        if name not in known:
            raise ParameterError(unknown_name("workload", name, known))
    return [name for name in known if name in names] if names else known
