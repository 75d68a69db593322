"""What is measured of the miner's descent (ANM checklist, section B), on an energy that is trained or known.

Every measurement is of the same problems, noise and starting points for every energy, method and option of the miner.
Unless said otherwise it is made in float64: at the noisiest levels, margins are below float32's rounding.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anm_nb.energy.landscape import optimal_energy
from anm_nb.energy.miner import Mined, MinerConfig, Rule, Trial, mine
from anm_nb.energy.negatives import Anm, MiningProblem, get_negatives
from anm_nb.energy.networks import gradient_and_value
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.energy.train import EnergyConfig
from anm_nb.training.run import cpu_threads
from anm_nb.training.seeds import RowDraws, generator

RULES: tuple[Rule, ...] = ("fixed", "armijo", "barzilai_borwein")
ROUNDING = 64 * torch.finfo(torch.float32).eps  # relative; sums of a hundred squares stay well below it


class OptimalEnergy(nn.Module):
    """`landscape.optimal_energy` of known answers [b, d] in the place of a network: E* where x has one answer."""

    def __init__(self, schedule: NoiseSchedule, y_pos: Float[Tensor, "b d"]) -> None:
        super().__init__()
        self._energy = optimal_energy(schedule, y_pos)

    def forward(
        self, x: Float[Tensor, "b x_dim"], y: Float[Tensor, "b d"], k: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """E*(ỹ) = ‖ỹ − √ᾱ_k y⁺‖²/(2σ_k)."""
        return self._energy(x, y, k)


def mining_problem(
    config: EnergyConfig, network: nn.Module | None, n: int, seed: int, dtype: torch.dtype = torch.float64
) -> MiningProblem:
    """n test problems with noise of every level in turn, whose `energy` is the network's, or E* where there is none.

    The same problems and noise for every network and, up to rounding, every dtype.
    """
    task, source = config.make_task(), generator(seed, "mined problems")
    batch = task.stream("test").sample(n, generator=source)
    eps = torch.randn(batch.y.shape, generator=source)
    clues = task.clues(batch)
    single = NoiseSchedule.cosine(config.levels)
    schedule = NoiseSchedule(single.alphas_cumprod.to(dtype), single.betas.to(dtype))
    y_pos = batch.y.to(dtype)
    eps = (eps if clues is None else eps.masked_fill(clues.mask, 0.0)).to(dtype)
    energy = OptimalEnergy(schedule, y_pos) if network is None else copy.deepcopy(network).to(dtype)
    noise = SharedNoise(schedule, torch.arange(n) % config.levels, eps)
    draws = RowDraws([generator(seed, "mining")], "cpu")
    return MiningProblem(task, batch.x.to(dtype), y_pos, noise, energy, energy, draws, clues)


def mined(
    problem: MiningProblem,
    method: str,
    miner: MinerConfig,
    seed: int,
    callback: Callable[[Trial], None] | None = None,
) -> Mined:
    """Negatives mined from starting points that depend on the seed alone, as far as the method's set allows them.

    Unless the miner has its own limit of `turns`, every descent is followed to its end.
    """
    constraint, source = _strategy(method, miner).constraint(problem), generator(seed, "mining")
    return mine(problem.energy, problem.y_pos, constraint, miner.to_the_end(), source, callback)


@dataclass(frozen=True)
class InnerPath:
    """Where every example stood after each turn of the miner, which is one evaluation of the energy and its gradient.

    An example that has ended stays where it is.
    """

    y: Float[Tensor, "turns b d"]
    value: Float[Tensor, "turns b"]
    first_alpha: Float[Tensor, " b"]


def follow(problem: MiningProblem, method: str, miner: MinerConfig, seed: int, turns: int) -> InnerPath:
    """The first so many turns of the miner, without a limit on accepted steps, nor a least distance δ from the truth.

    δ would have some examples start anew, and their paths rise. An example stationary to 1e-6 ends: beyond that, what
    distinguishes it from the truth may be rounding.
    """
    trials: list[Trial] = []
    mined(problem, method, with_options(miner, steps=turns, turns=turns + 1, delta=0.0, tol=1e-6), seed, trials.append)
    shown = [trials[min(turn, len(trials) - 1)] for turn in range(turns)]
    moved = [trial.accepted | trial.starting for trial in shown]
    y = [torch.where(went.unsqueeze(1), trial.y, trial.previous) for went, trial in zip(moved, shown, strict=True)]
    value = [torch.where(went, trial.value, trial.previous_value) for went, trial in zip(moved, shown, strict=True)]
    return InnerPath(torch.stack(y), torch.stack(value), trials[1].alpha)


def energy_left(value: Float[Tensor, "turns b"], lowest: Float[Tensor, " b"]) -> Float[Tensor, "turns b"]:
    """(E − E_lowest)/(E_start − E_lowest): 1 where descent starts, 0 at the lowest energy known of the example."""
    return (value - lowest) / (value[0] - lowest).clamp_min(torch.finfo(value.dtype).tiny)


def path_frame(problem: MiningProblem, method: str, miner: MinerConfig, seed: int, turns: int) -> pd.DataFrame:
    """Section B along the inner path: a row for each number of evaluations, means over the examples.

    `energy_left` is relative to the lowest energy of the path itself. `gm_norm` is ‖y − Π(y − α₁∇E)‖/‖y⁺‖ with the
    first trial's step α₁ throughout, as the document's 1/L: it cannot fall because α shrank. `cosine` is that of the
    displacement y − y⁺ and −ε; `p_hard` the share with E(y) < E(y⁺), `illegitimate` that with m* < 0.
    """
    path = follow(problem, method, miner, seed, turns)
    constraint = _strategy(method, miner).constraint(problem)
    y_pos, noise = problem.y_pos, problem.noise
    with torch.no_grad():
        e_pos = problem.energy(y_pos)
    left = energy_left(path.value, path.value.amin(0)).mean(1)
    rows = []
    for turn, (y, value) in enumerate(zip(path.y, path.value, strict=True)):
        gradient, _ = gradient_and_value(problem.energy, y)
        step = y - constraint.project(y - path.first_alpha.unsqueeze(1) * gradient.detach())
        row = {
            "energy_left": left[turn],
            "gm_norm": (step.norm(dim=1) / y_pos.norm(dim=1)).mean(),
            "cosine": torch.cosine_similarity(y - y_pos, -noise.eps).mean(),
            "p_hard": (value < e_pos).double().mean(),
            "illegitimate": (noise.optimal_margin(y_pos, y) < 0).double().mean(),
        }
        rows.append({"evaluations": turn + 1} | {name: float(number) for name, number in row.items()})
    return pd.DataFrame(rows)


def mined_rows(problem: MiningProblem, method: str, miner: MinerConfig, seed: int) -> pd.DataFrame:
    """What one mining left of every example: its level, the miner's log, and these columns.

    `drop` is E_start − E_mined in nats, `p_hard` and `illegitimate` are 0 or 1, `cosine` is of y⁻ − y⁺ and −ε.
    `wrongness`, `gm_norm` and `feasibility_residual` are in units of ‖y⁺‖.
    """
    found, noise, y_pos = mined(problem, method, miner, seed), problem.noise, problem.y_pos
    with torch.no_grad():
        margin = problem.energy(found.y_neg) - problem.energy(y_pos)
    scale = y_pos.norm(dim=1)
    lengths = {name: found.log[name] / scale for name in ("wrongness", "gm_norm", "feasibility_residual")}
    columns = found.log | lengths
    columns |= {
        "level": noise.k,
        "drop": found.log["e_start"] - found.log["e_mined"],
        "p_hard": margin < 0,
        "illegitimate": noise.optimal_margin(y_pos, found.y_neg) < 0,
        "cosine": torch.cosine_similarity(found.y_neg - y_pos, -noise.eps),
    }
    return pd.DataFrame({name: values.double().numpy() for name, values in columns.items()}).astype({"level": int})


def rule_frame(problem: MiningProblem, method: str, miner: MinerConfig, seed: int, turns: int) -> pd.DataFrame:
    """Each rule's mean `energy_left` against evaluations of the energy: a row per (rule, evaluations).

    An example's lowest energy is the lowest that any rule finds within twice as many evaluations.
    """
    paths = {rule: follow(problem, method, with_options(miner, rule=rule), seed, 2 * turns).value for rule in RULES}
    lowest = torch.stack([value.amin(0) for value in paths.values()]).amin(0)
    parts = []
    for rule, value in paths.items():
        left = energy_left(value[:turns], lowest).mean(1).numpy()
        parts.append(pd.DataFrame({"rule": rule, "evaluations": range(1, turns + 1), "energy_left": left}))
    return pd.concat(parts, ignore_index=True)


def armijo_check(
    single: MiningProblem, double: MiningProblem, method: str, miner: MinerConfig, seed: int
) -> dict[str, int | float]:
    """Mines `single`, as trainings do, and holds every accepted step against Armijo's bound in `double`'s precision.

    `accepted` steps; `violations`, those that end above the bound by more than `ROUNDING` of the energy; and `worst`,
    the largest excess in units of the energy at the point left, below 0 where every step kept its bound.
    """
    trials: list[Trial] = []
    mined(single, method, miner, seed, trials.append)
    excesses = []
    for trial in trials:
        y, previous, alpha = (part.double() for part in (trial.y, trial.previous, trial.alpha))
        with torch.no_grad():
            before, after = double.energy(previous), double.energy(y)
        bound = before - miner.armijo_c / alpha * (y - previous).square().sum(1)
        excesses.append(((after - bound) / before.abs().clamp_min(1e-12))[trial.accepted])
    excess = torch.cat(excesses)
    worst = float(excess.max()) if len(excess) else float("nan")
    return {"accepted": len(excess), "violations": int((excess > ROUNDING).sum()), "worst": worst}


def mining_seconds(
    config: EnergyConfig, network: nn.Module, method: str, batches: Sequence[int], threads: int, rounds: int = 7
) -> pd.DataFrame:
    """Seconds of mining one batch in float32: a row per round, a column per batch size, taken in turn after a warm-up.

    Every size has the same fixed step rule and number of steps, so that the evaluations are equally many.
    """
    miner = MinerConfig(rule="fixed", delta=0.0)
    problems = {n: mining_problem(config, network, n, 0, torch.float32) for n in batches}
    rows = []
    with cpu_threads(threads):
        for _ in range(rounds + 1):
            row = {}
            for n, problem in problems.items():
                started = time.perf_counter()
                mined(problem, method, miner, 0)
                row[n] = time.perf_counter() - started
            rows.append(row)
    return pd.DataFrame(rows[1:])


def _strategy(method: str, miner: MinerConfig) -> Anm:
    strategy = get_negatives(method, miner=miner)
    assert isinstance(strategy, Anm)
    return strategy


def with_options(miner: MinerConfig, **options: Any) -> MinerConfig:
    """The miner with some options changed. Raises `ParameterError` where they cannot be."""
    return MinerConfig(**miner.model_dump() | options)
