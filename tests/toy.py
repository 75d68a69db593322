"""A learner small enough to compute by hand, for tests of the training loop: two layers on fresh points."""

from typing import ClassVar

import torch
from torch import nn

from anm_nb.config import Seeds
from anm_nb.training import Learner, Measurement, Member, StepLosses, TrainingConfig
from anm_nb.training.loop import Training
from anm_nb.training.run import assemble, train
from anm_nb.training.seeds import RowDraws
from anm_nb.training.stack import ParameterGroup


class Killed(Exception):
    """Stands for a kill; nothing in the loop handles it."""


class ToyConfig(TrainingConfig):
    """How the toy is trained: the learning rates fall linearly to the fraction `lr_final`."""

    family: ClassVar[str] = "toy"
    scheduled: ClassVar = ("slope",)

    steps: int = 12
    lr: float = 0.1
    lr_final: float = 0.25
    decay: float = 0.9
    every: int = 1
    record_every: int = 3
    slope: float = 1.0  # of the loss, a scheduled number
    seeds: Seeds = (0,)

    def total_steps(self):
        return self.steps

    def record_steps(self):
        return sorted({*range(0, self.steps, self.record_every), self.steps})

    def lr_factor(self, step):
        return 1 + (self.lr_final - 1) * step / self.steps

    def averaging(self):
        return self.decay, self.every

    def make_learner(self, members, device):
        return Toy(members, device)

    def train(self, workdir):
        return train(self, workdir)


class Toy(Learner):
    """The first layer is trained by AdamW, the second by Adam; `changes` are slopes of the loss by seed and step.

    `scores` are dev scores by seed and step. A kill comes in step `die_at`, after its data are drawn.
    """

    suspects = "Toy"

    def __init__(self, members, device, clip=1e9, frozen=0, changes=None, scores=None, die_at=None):
        super().__init__(members, device, lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))
        self.seeds, self.scores, self.die_at = [each.seed for each in members], scores, die_at
        config = self.config
        first, second = ([*self.model.members[0][layer].parameters()] for layer in (0, 2))
        decay = {"weight_decay": 0.1}
        self.groups = [
            ParameterGroup("first", self.model, first, torch.optim.AdamW, config.lr, clip, options=decay),
            ParameterGroup("second", self.model, second, torch.optim.Adam, 2 * config.lr, clip, frozen),
        ]
        self.generators = {"data": self.sources("data")}
        slopes = torch.tensor([[each.config.slope for each in members]] * (config.steps + 1), device=device)
        for seed, changed in (changes or {}).items():
            for step, slope in changed.items():
                slopes[step, self.seeds.index(seed)] = slope
        self.schedules = {"slope": slopes, "taken": torch.arange(1.0, config.steps + 2, device=device)}
        self.seen = []  # the weights of every seed before each step
        self.evaluated = {}

    def inputs(self, step):
        x = RowDraws(self.generators["data"], self.device).normal((8 * len(self.seeds), 3))
        if step == self.die_at:
            raise Killed
        return {"x": x}

    def losses(self, inputs, now, branch, averaged):
        assert self.model.training
        assert not averaged.training
        assert not any(parameter.requires_grad for parameter in averaged.parameters())
        self.seen.append([weights_of(network) for network in self.model.members])
        loss = now["slope"] * squares(self.model, inputs["x"]).unflatten(0, (len(self.seeds), -1)).mean(1)
        return StepLosses(loss, {"fit": loss, "steps_so_far": now["taken"].expand(len(self.seeds))})

    def measure(self, training, losses):
        measured = []
        for seed, network in zip(self.seeds, training.averaged.members, strict=True):
            weight = network[0].weight  # still being trained: the trace must keep its value at this step
            score = None if self.scores is None else self.scores[seed][training.step]
            measured.append(Measurement({"error": float(weight.norm())}, {"slope": weight}, score))
        return measured

    def evaluate(self, place, selected):
        self.evaluated[self.seeds[place]] = weights_of(selected)
        return Measurement({"end": float(selected[0].weight.norm())}, {"end": selected[0].weight})


def squares(network, x):
    """Squared errors [batch] of a network that should sum its inputs."""
    return (network(x).squeeze(-1) - x.sum(1)).square()


def weights_of(network):
    """A copy of the network's weights, by name."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def toy_training(config, folder, seeds=(0,), host=None, device="cpu", **options):
    """A training of the toy, ready to run."""
    folder.mkdir(parents=True, exist_ok=True)
    members = [Member(config, seed) for seed in seeds]
    return Training(Toy(members, device, **options), [folder] * len(seeds), host)


def toy_trained(config, folder, seeds=(0,), **options):
    """The result of such a training."""
    return assemble(toy_training(config, folder, seeds, **options).run())


def assert_same(one, other):
    """Check that two trainings have the same metrics, trace and weights, to the last bit."""
    assert list(one.metrics) == list(other.metrics)
    assert one.metrics.to_json(double_precision=15) == other.metrics.to_json(double_precision=15)
    assert one.metrics.equals(other.metrics)
    for found, expected in ((one.trace, other.trace), (one.weights, other.weights)):
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].numpy().tobytes() == tensor.numpy().tobytes(), name
