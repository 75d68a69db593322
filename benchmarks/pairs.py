"""Pairs of equal work, by the package and by the plain references, with equal weights and equal generators.

The n-th calls of both return the same up to rounding, independently of the order of calls. Sizes are the published
ones: the HRM document's for ranking, IRED's inversion of 20×20 matrices for energies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import plain_energy
import plain_ranking
import torch
from torch import Tensor, nn

from anm_nb.energy.landscape import SCAN_GRID, line_scan
from anm_nb.energy.miner import MinerConfig, MiningProblem
from anm_nb.energy.negatives import Anm, get_negatives
from anm_nb.energy.networks import EnergyMLP, energy_given
from anm_nb.energy.sampler import sample
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.energy.train import EnergyConfig
from anm_nb.ranking.networks import FEEDFORWARD
from anm_nb.ranking.train import RankingConfig
from anm_nb.tasks import get_task
from anm_nb.tasks.kendall import kendall_tau
from anm_nb.tasks.ordering import VALUES, PartialSort
from anm_nb.tasks.sudoku import Sudoku
from anm_nb.tasks.sudoku_solver import shuffled, stored_pool
from anm_nb.training.loop import Training
from anm_nb.training.seeds import RowDraws, batch_indices, generator, initialise

SEED = 1
LEVELS = 10
Results = Mapping[str, Tensor]


@dataclass(frozen=True)
class Pair:
    """Two functions that do the same work; for training steps, `networks` are the two trained networks."""

    ours: Callable[[], Results]
    plain: Callable[[], Results]
    networks: tuple[nn.Module, nn.Module] | None = None
    translated: Callable[[dict[str, Tensor]], dict[str, Tensor]] = field(default=lambda tensors: tensors)

    def gradients(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The clipped gradients of the last step, ours and the plain ones, by the plain network's names."""
        assert self.networks is not None
        ours, plain = (
            {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
            for network in self.networks
        )
        return self.translated(ours), plain


def steps_of(training: Training) -> Callable[[], Results]:
    """A function that takes one training step per call and returns its losses."""

    def step() -> Results:
        kind = training.kind(training.step)
        losses = training.losses(training.learner.inputs(training.step), kind)
        training.update(losses, kind)
        training.step += 1
        return {name: part.detach()[0] for name, part in losses.parts.items()}

    return step


def ranking_step(tiny: bool, baseline: bool = False) -> Pair:
    """A training step of the HRM model with a trained controller: two losses, optimisers and clippings."""
    sizes = {"size": 20, "width": 128, "max_inner_iters": 12, "hrm_period": 4, "batch": 32, "train_samples": 1000}
    if tiny:
        sizes = {"size": 4, "width": 8, "max_inner_iters": 4, "hrm_period": 2, "batch": 4, "train_samples": 12}
    few = {"epochs": 100, "warmup_epochs": 0, "dev_samples": 1, "test_samples": 1, "seeds": (SEED,), "device": "cpu"}
    config = RankingConfig(**sizes, **few, n_heads=2 if tiny else 4)
    config = config.baseline() if baseline else config
    training, routed = Training(config.learner(SEED)), config.has_controller
    learner, network = training.learner, training.model.members[0]
    heads, blocks = config.n_heads, (FEEDFORWARD, config.max_inner_iters, config.hrm_period, config.controller_width)
    reference = plain_ranking.PlainRanking(config.width, heads, *blocks, routed)
    reference.load_state_dict(plain_ranking.translated(network.state_dict(), heads), strict=routed)
    clips = config.encoder_clip, config.controller_clip
    rates = config.encoder_lr, config.controller_lr
    steps = plain_ranking.PlainTraining(reference, *rates, clips, config.weight_decay)
    done = 0

    def plain() -> Results:
        nonlocal done
        rows = batch_indices(config.train_samples, config.batch, done, SEED, "cpu")
        epoch = done // config.steps_per_epoch()
        batch = (part[0][rows] for part in (learner.x, learner.ranks, learner.compared))  # type: ignore[attr-defined]
        done += 1
        return steps.step(*batch, *config.at_epoch(epoch).values())

    return Pair(
        steps_of(training), plain, (network, reference), lambda tensors: plain_ranking.translated(tensors, heads)
    )


def ired_step(tiny: bool, negatives: str) -> Pair:
    """A training step by IRED's recipe: fresh problems, noise, negatives, losses, clipping, Adam, EMA."""
    size, width, batch = (3, 16, 16) if tiny else (20, 512, 2048)
    published: dict[str, Any] = {"lr": 1e-4, "lr_final": 1.0, "ema_decay": 0.995, "ema_every": 10}
    published |= {"contrastive_weight": 0.5}
    config = EnergyConfig(
        task="inverse", size=size, width=width, batch=batch, negatives=get_negatives(negatives), levels=LEVELS,
        steps=50_000, dev_examples=2, seeds=(SEED,), device="cpu", **published,
    )  # fmt: skip
    training, schedule = Training(config.learner(SEED)), NoiseSchedule.cosine(LEVELS)
    network = training.model.members[0]
    reference = plain_network(network, size, width)
    sources = {purpose: generator(SEED, purpose) for purpose in training.learner.generators}
    alphas, betas = schedule.alphas_cumprod, schedule.betas
    steps = plain_energy.PlainTraining(reference, alphas, betas, sources, negatives, size, batch)
    return Pair(steps_of(training), steps.step, (network, reference))


def plain_network(network: nn.Module, size: int, width: int) -> plain_energy.PlainEnergy:
    """The plain network with the same weights."""
    plain = plain_energy.PlainEnergy(size**2, size**2, width)
    plain.load_state_dict(network.state_dict())
    return plain


class Untrained:
    """An untrained network and fixed problems."""

    def __init__(self, tiny: bool, count: int) -> None:
        size, width, count = (3, 16, 4) if tiny else (20, 512, count)
        self.network = EnergyMLP(size**2, size**2, width, levels=LEVELS)
        initialise(self.network, generator(SEED, "weights"))
        self.reference = plain_network(self.network, size, width)
        self.schedule = NoiseSchedule.cosine(LEVELS)
        self.task, source = get_task("inverse", size=size), generator(SEED, "problems")
        problems = self.task.sample(count, generator=source)
        self.x, self.y = problems.x, problems.y
        self.noise = SharedNoise.draw(self.schedule, self.y, RowDraws([source], "cpu"))
        self.sources = [generator(SEED, "draws") for _ in range(2)]


def sampling(tiny: bool) -> Pair:
    """Sampling in ten levels of five descent steps."""
    case = Untrained(tiny, 256)
    alphas, betas = case.schedule.alphas_cumprod, case.schedule.betas

    def plain() -> Results:
        noise = torch.randn(case.y.shape, generator=case.sources[1])
        return {"y": plain_energy.sampled(case.reference, case.x, noise, alphas, betas)}

    return Pair(lambda: {"y": sample(case.network, case.schedule, case.x, case.y.shape[1], case.sources[0])}, plain)


def scanning(tiny: bool) -> Pair:
    """The energy at 41 points on the line from each truth to a negative."""
    case, grid = Untrained(tiny, 256), SCAN_GRID.float()
    start, end = (case.noise.noised(y).as_subclass(Tensor) for y in (case.y, case.y.roll(1, 0)))
    return Pair(
        lambda: {"profile": line_scan(energy_given(case.network, case.x, case.noise.k), start, end)},
        lambda: {"profile": plain_energy.scanned(case.reference, case.x, start, end, case.noise.k, grid)},
    )


def mining(tiny: bool) -> Pair:
    """Mining negatives for a training batch, with three accepted descent steps each."""
    case, strategy = Untrained(tiny, 2048), Anm(miner=MinerConfig())
    draws, alphas = RowDraws(case.sources[:1], "cpu"), case.schedule.alphas_cumprod

    def ours() -> Results:
        problem = MiningProblem(case.task, case.x, case.y, case.noise, case.network, case.network, draws)  # type: ignore[arg-type]
        return {"y_neg": strategy.propose(problem).y_neg}

    def plain() -> Results:
        noise = case.noise.k, case.noise.eps
        return {"y_neg": plain_energy.mined_negatives(case.reference, case.x, case.y, *noise, alphas, case.sources[1])}

    return Pair(ours, plain)


def matrices(tiny: bool) -> Pair:
    """Drawing 20×20 matrices and their inverses."""
    count, size = (3, 4) if tiny else (2048, 20)
    task, (first, second) = get_task("inverse", size=size), [generator(SEED, "data") for _ in range(2)]

    def ours() -> Results:
        batch = task.sample(count, generator=first)
        return {"x": batch.x, "y": batch.y}

    return Pair(ours, lambda: dict(zip("xy", plain_energy.inverses(count, size, second), strict=True)))


def sudokus(tiny: bool) -> Pair:
    """Drawing puzzles from a pool of 100; a larger pool costs the same."""
    count, pool = (3, 3) if tiny else (64, 100)
    task, (first, second) = Sudoku(pool=pool), [generator(SEED, "data") for _ in range(2)]
    boards = stored_pool(task.options.size, pool, task.options.pool_seed, harder=False)

    def ours() -> Results:
        batch = task.sample(count, generator=first)
        return {"x": batch.x, "y": batch.y}

    def plain() -> Results:
        rows = shuffled(len(boards.puzzles), count, second)
        puzzles, solutions = boards.puzzles[rows], boards.solutions[rows]
        return {"x": plain_ranking.one_hot_boards(puzzles), "y": plain_ranking.one_hot_boards(solutions)}

    return Pair(ours, plain)


def arrays(tiny: bool) -> Pair:
    """Drawing arrays of 20 items, half of them hidden."""
    count, task = 3 if tiny else 1000, PartialSort(size=20)
    first, second = (generator(SEED, "data") for _ in range(2))

    def ours() -> Results:
        batch = task.sample(count, generator=first)
        assert batch.known is not None
        return {"x": batch.x, "ranks": batch.y, "known": batch.known}

    def plain() -> Results:
        keys, turns = (torch.rand(count, n, generator=second) for n in (VALUES, 20))
        made = plain_ranking.partial_sorts(keys, turns, task.visible(20))
        return dict(zip(("x", "ranks", "known"), made, strict=True))

    return Pair(ours, plain)


def taus(tiny: bool) -> Pair:
    """Kendall's τ over the observed pairs of arrays of 20 items, half of them hidden."""
    source = generator(SEED, "data")
    batch = PartialSort(size=20).sample(3 if tiny else 1000, generator=source)
    assert batch.known is not None
    scores, ranks, known = torch.rand(batch.y.shape, generator=source), batch.y, batch.known
    return Pair(
        lambda: {"tau": kendall_tau(scores, ranks, known)},
        lambda: {"tau": plain_ranking.kendall_taus(scores, ranks, known)},
    )


PAIRS: dict[str, tuple[str, Callable[[bool], Pair]]] = {
    "ranking_baseline": ("ranking step, one pass", lambda tiny: ranking_step(tiny, baseline=True)),
    "ranking_12": ("ranking step, 12 iterations", ranking_step),
    "ired_none": ("IRED step, 20×20, batch 2048, plain denoising", lambda tiny: ired_step(tiny, "none")),
    "ired_stock": ("IRED step with stock negatives", lambda tiny: ired_step(tiny, "stock")),
    "ired_anm": ("IRED step with mined negatives", lambda tiny: ired_step(tiny, "anm")),
    "sampler": ("sampler, 10 levels × 5 steps, 256 problems", sampling),
    "line_scan": ("line scan, 41 places, 256 pairs", scanning),
    "mining": ("mining, 3 steps, 2048 negatives", mining),
    "data_inverse": ("data: 2048 matrices of 20×20 and their inverses", matrices),
    "data_sudoku": ("data: 64 Sudokus from the pool", sudokus),
    "data_partial_sort": ("data: 1000 arrays of 20 items", arrays),
    "kendall_tau": ("Kendall's τ of 1000 arrays of 20 items", taus),
}
