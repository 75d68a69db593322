"""The energy family's workloads: a training step, the sampler, a line scan, and mining, at 20×20 and width 512."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anm_nb.bench.plain import plain_module
from anm_nb.bench.training_step import TrainingStep
from anm_nb.energy.landscape import SCAN_GRID, line_scan
from anm_nb.energy.miner import MinerConfig
from anm_nb.energy.negatives import Anm, MiningProblem, named_negatives
from anm_nb.energy.networks import EnergyMLP, energy_given
from anm_nb.energy.sampler import sample
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.energy.train import EnergyConfig
from anm_nb.training.loop import LoopConfig, SeedTraining
from anm_nb.training.seeds import RowDraws, generator, initialise

SEED = 0


@dataclass(frozen=True)
class Sizes:
    """Rows of a matrix, width of the network, examples a step, and examples at a time elsewhere."""

    size: int = 20
    width: int = 512
    batch: int = 2048
    examples: int = 256


TINY = Sizes(size=3, width=16, batch=16, examples=4)


def sizes(tiny: bool) -> Sizes:
    """The published sizes, or tiny ones."""
    return TINY if tiny else Sizes()


def plain_network(network: nn.Module, size: int, width: int) -> nn.Module:
    """The plain network with the same weights, on the same device."""
    plain = plain_module("plain_energy").PlainEnergy(size**2, size**2, width)
    plain.load_state_dict(network.state_dict())
    return plain.to(next(network.parameters()).device)


def paper_config(negatives: str, tiny: bool, device: str = "cpu") -> EnergyConfig:
    """IRED's published training of inversion; negatives "none", "stock" or "anm"."""
    of = sizes(tiny)
    loop = LoopConfig(steps=50_000, batch=of.batch, lr=1e-4, lr_final=1.0, ema_decay=0.995, ema_every=10, device=device)  # type: ignore[arg-type]
    return EnergyConfig(
        task="inverse",
        size=of.size,
        width=of.width,
        negatives=named_negatives(negatives),
        dev_examples=2,
        loop=loop,
        seeds=(SEED,),
    )


class EnergyStep(TrainingStep):
    """A whole training step: data, noise, negatives, losses, backward, clipping, Adam, EMA."""

    def __init__(self, negatives: str, device: str, tiny: bool) -> None:
        of, config = sizes(tiny), paper_config(negatives, tiny, device)
        learner = config.learner(SEED, device)
        self.training = SeedTraining(learner, config.loop, SEED, device)
        self.network = learner.model
        self.plain_training = plain_module("plain_energy").PlainTraining(
            plain_network(learner.model, of.size, of.width),
            *_schedule(device),
            {purpose: generator(SEED, purpose, device) for purpose in learner.generators},
            negatives,
            of.size,
            of.batch,
        )

    def plain(self) -> Mapping[str, Tensor]:
        """The losses, before the step."""
        return self.plain_training.step()

    def gradients(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The clipped gradients of the last step, ours and the plain one's, by the same names."""
        ours, plain = (
            {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
            for network in (self.network, self.plain_training.energy)
        )
        return ours, plain


class Fixed:
    """A network that is not trained, on problems that stay the same; both ways draw anew from equal generators."""

    def __init__(self, device: str, tiny: bool, count: int | None = None) -> None:
        of = sizes(tiny)
        network = EnergyMLP(of.size**2, of.size**2, of.width, levels=10)
        initialise(network, generator(SEED, "weights"))
        self.network = network.to(device)
        self.reference = plain_network(self.network, of.size, of.width)
        self.functions = plain_module("plain_energy")
        self.schedule = NoiseSchedule.cosine(10, device=device)
        task = paper_config("none", tiny).make_task()
        self.task, source = task, generator(SEED, "problems", device)
        self.problems = task.sample(count or of.examples, generator=source, device=device)
        self.noise = SharedNoise.draw(self.schedule, self.problems.y, RowDraws([source], device))
        self.sources = [generator(SEED, "draws", device) for _ in range(2)]
        self.alphas, self.betas = self.schedule.alphas_cumprod, self.schedule.betas


class Sampling(Fixed):
    """Ten levels of five descent steps each, for 256 problems."""

    def ours(self) -> Mapping[str, Tensor]:
        """The answers."""
        x, y = self.problems.x, self.problems.y
        return {"y": sample(self.network, self.schedule, x, y.shape[1], self.sources[0])}

    def plain(self) -> Mapping[str, Tensor]:
        """The answers."""
        y = self.problems.y
        noise = torch.randn(y.shape, generator=self.sources[1], device=y.device)
        return {"y": self.functions.sampled(self.reference, self.problems.x, noise, self.alphas, self.betas)}


class Scanning(Fixed):
    """The energy at 41 places on the lines from 256 truths to a negative each."""

    def __init__(self, device: str, tiny: bool) -> None:
        super().__init__(device, tiny)
        y = self.problems.y
        self.start = self.noise.noised(y).as_subclass(Tensor)
        self.end = self.noise.noised(y.roll(1, 0)).as_subclass(Tensor)

    def ours(self) -> Mapping[str, Tensor]:
        """The profiles."""
        energy = energy_given(self.network, self.problems.x, self.noise.k)
        return {"profile": line_scan(energy, self.start, self.end)}

    def plain(self) -> Mapping[str, Tensor]:
        """The profiles."""
        x, k = self.problems.x, self.noise.k
        return {"profile": self.functions.scanned(self.reference, x, self.start, self.end, k, SCAN_GRID.float())}


class Mining(Fixed):
    """Negatives for a training batch, three accepted descent steps each."""

    def __init__(self, device: str, tiny: bool) -> None:
        super().__init__(device, tiny, sizes(tiny).batch)

    def ours(self) -> Mapping[str, Tensor]:
        """The negatives."""
        x, y = self.problems.x, self.problems.y
        draws = RowDraws(self.sources[:1], x.device)
        problem = MiningProblem(self.task, x, y, self.noise, self.network, self.network, draws)
        return {"y_neg": Anm(miner=MinerConfig()).propose(problem).y_neg}

    def plain(self) -> Mapping[str, Tensor]:
        """The negatives."""
        x, y, noise = self.problems.x, self.problems.y, self.noise
        mined = self.functions.mined_negatives
        return {"y_neg": mined(self.reference, x, y, noise.k, noise.eps, self.alphas, self.sources[1])}


def _schedule(device: str) -> tuple[Tensor, Tensor]:
    schedule = NoiseSchedule.cosine(10, device=device)
    return schedule.alphas_cumprod, schedule.betas
