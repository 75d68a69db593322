"""What may be tuned for plain denoising, for stock and for mined negatives: named choices, the first the default."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from anm_nb.energy.miner import MinerConfig
from anm_nb.energy.negatives import Anm, AnmSimplex, DiscreteTask, Mixed, NegativeStrategy, Stock
from anm_nb.tasks.base import DenoisingTask

Choice = Mapping[str, Any]  # one value for each name of a space
Space = dict[str, tuple[Any, ...]]

LEARNING: Space = {
    "lr_factor": (1.0, 0.5, 2.0),  # on the learning rate of the settings
    "head": ("squared_norm", "scalar"),
}
CONTRAST: Space = {
    "weight": (1.0, 0.1, 0.3, 3.0),  # λ, in units of the weight published for the task
    "weight_end": (1.0, 0.0),  # what is left of it at the end of training: all, or annealed to nothing
    "contrast_from": (0.0, 0.25, 0.5),  # warm-up: share of the steps before the first contrast
}
MINING: Space = {
    "eps": (1.0, 0.5, 0.25),  # radius, in units of ‖y⁺‖; descent starts at half of it
    "steps": (3, 1, 5),
    "rule": ("armijo", "barzilai_borwein"),
    "distance_weight": (0.0, 0.3),
    "mined_share": ("all", "half", "rising"),  # of the negatives, the rest stock; rising: from none to all
}
SHARES = {"all": (1.0, 1.0), "half": (0.5, 0.5), "rising": (0.0, 1.0)}


@dataclass(frozen=True)
class Family:
    """One way to train that is tuned as a whole: its choices, and the negatives that a choice stands for."""

    space: Space
    negatives: Callable[[Choice], NegativeStrategy | None]

    @property
    def default(self) -> Choice:
        """The first value of every name."""
        return {name: values[0] for name, values in self.space.items()}

    def candidates(self, n: int, generator: torch.Generator) -> list[Choice]:
        """The default and n − 1 other choices, drawn at random without repeats; all there are where that is fewer."""
        sizes = [len(values) for values in self.space.values()]
        drawn = {(0,) * len(sizes): None}
        while len(drawn) < min(n, math.prod(sizes)):
            drawn.setdefault(tuple(int(torch.randint(size, (), generator=generator)) for size in sizes))
        return [
            {name: values[i] for i, (name, values) in zip(index, self.space.items(), strict=True)} for index in drawn
        ]


def families(task: DenoisingTask) -> dict[str, Family]:
    """What is tuned for a task, by the name of its negatives."""
    discrete = isinstance(task, DiscreteTask)
    legitimacy = ("legitimate" if discrete else "orthogonal", "soft_label", "none")
    # the stock negatives of a discrete task have nothing to choose: they change 5 % of the answer
    stock: Space = {"soft_label": (False, True)}
    continuous: Space = {"noise_factor": (3.0, 1.5, 6.0), "descent_steps": (2, 1, 5)}
    return {
        "none": Family(LEARNING, lambda _: None),
        "stock": Family(LEARNING | CONTRAST | stock | ({} if discrete else continuous), _stock),
        "anm": Family(
            LEARNING | CONTRAST | {"legitimacy": legitimacy} | MINING, _mined_discrete if discrete else _mined
        ),
    }


def as_written(family: Family) -> Choice:
    """The default without any constraint on legitimacy, as the ANM checklist has it (section B)."""
    return {**family.default, "legitimacy": "none"}


def _stock(choice: Choice) -> NegativeStrategy:
    return Stock(**{name: choice[name] for name in ("noise_factor", "descent_steps") if name in choice})


def _mined(choice: Choice) -> NegativeStrategy:
    return _mixed(Anm(orthogonal_to_noise=choice["legitimacy"] == "orthogonal", miner=_miner(choice)), choice)


def _mined_discrete(choice: Choice) -> NegativeStrategy:
    return _mixed(AnmSimplex(legitimate=choice["legitimacy"] == "legitimate", miner=_miner(choice)), choice)


def _mixed(mined: NegativeStrategy, choice: Choice) -> NegativeStrategy:
    start, end = SHARES[choice["mined_share"]]
    return mined if start == end == 1 else Mixed(first=mined, fraction=end, fraction_at_start=start)


def _miner(choice: Choice) -> MinerConfig:
    names = ("eps", "steps", "rule", "distance_weight")
    half = choice["eps"] / 2
    return MinerConfig(**{name: choice[name] for name in names}, start=half, step_size=half)
