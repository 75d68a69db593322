"""Energy networks E(x, ỹ, k) and their score ∇_ỹE. Bring your own by subclassing `EnergyNetwork`.

A task names its published network (`DenoisingTask.network`): `get_network(task.network).for_task(task, …)` builds it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from anm_nb.config import Registry
from anm_nb.energy.schedule import Levels, Points, Values
from anm_nb.tasks.base import DenoisingTask
from anm_nb.training.stack import Stack

Head = Literal["squared_norm", "scalar"]
Model = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x, ỹ, k) to energies [b], as an `EnergyNetwork`
Inputs = Float[Tensor, "b x_dim"]
Targets = Float[Tensor, "b y_dim"]


class EnergyNetwork(nn.Module, ABC):
    """An energy. Set `name`, implement `for_task` and `forward`, and register the class.

    In place of `forward` it may implement `prepare` and `energy`: many points are evaluated for one x and k, and what
    does not depend on ỹ is computed once. Training follows the gradient of a loss of ∇_ỹE, so it has to be twice
    differentiable by ỹ under torch.func's vmap and vjp, as plain PyTorch code is, and no row of a batch may see
    another. `anm_nb.training.seeds.initialise` draws its weights and says which layers it knows.
    """

    name: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in vars(cls) and "energy" not in vars(cls):  # not what a parent prepares for its own energy
            cls.prepare, cls.energy = EnergyNetwork.prepare, EnergyNetwork.energy  # type: ignore[method-assign]
        if cls.forward is EnergyNetwork.forward and cls.energy is EnergyNetwork.energy:
            raise TypeError(f"{cls.__qualname__}: needs `forward`, or `prepare` and `energy`")

    @classmethod
    @abstractmethod
    def for_task(cls, task: DenoisingTask, width: int, head: Head, levels: int) -> EnergyNetwork:
        """The network for problems of that task. Raises `ParameterError` where it does not suit them."""

    def forward(self, x: Inputs, y: Targets, k: Levels) -> Values:
        """Energies [batch], in float32 or better, of noised targets y at levels k, 0 ≤ k < levels."""
        return self.energy(self.prepare(x, k), y)

    def prepare(self, x: Inputs, k: Levels) -> tuple[Tensor, ...]:
        """What `energy` needs of x and k."""
        return x, k

    def energy(self, prepared: tuple[Tensor, ...], y: Targets) -> Values:
        """Energies [batch], as of `forward`, from what `prepare` gave."""
        x, k = prepared
        return self(x, y, k)


# Built-in networks of modules of their own are imported when asked for.
NETWORKS: Registry[EnergyNetwork] = Registry(
    "energy network",
    {"graph": "anm_nb.energy.grid_networks:GraphEnergy", "sudoku_conv": "anm_nb.energy.grid_networks:SudokuEnergy"},
)
register_network, get_network, network_names = NETWORKS.register, NETWORKS.get, NETWORKS.names


class LevelEmbedding(nn.Module):
    """Every noise level 0 … levels − 1 to a vector: sinusoids, then Linear, GELU, Linear."""

    sinusoids: Tensor

    def __init__(self, levels: int, dim: int = 128, sinusoids: int = 128) -> None:
        super().__init__()
        half = sinusoids // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half) / (half - 1))
        angles = torch.arange(levels).unsqueeze(1) * frequencies
        self.register_buffer("sinusoids", torch.cat([angles.sin(), angles.cos()], dim=1), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(sinusoids, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self) -> Float[Tensor, "levels dim"]:
        return self.mlp(self.sinusoids)


def scale_and_bias(modulation: nn.Linear, embedded: Float[Tensor, "levels dim"], k: Levels) -> tuple[Tensor, Tensor]:
    """1 + gain_k and bias_k, both [b, channels]; computed once for each level and looked up, not for each example."""
    gain, bias = F.embedding(k, modulation(embedded)).chunk(2, dim=1)
    return 1 + gain, bias


def energy_of(output: Float[Tensor, "b ..."], head: Head) -> Values:
    """A network's output to energies: `squared_norm` (published) sums its squares, `scalar` sums it, unbounded below.

    In float32 or better: margins are small differences of large energies.
    """
    output = output.to(torch.promote_types(output.dtype, torch.float32)).flatten(1)
    return output.square().sum(1) if head == "squared_norm" else output.sum(1)


class FiLMLayer(nn.Module):
    """h ↦ swish((W h)·(1 + gain_k) + bias_k)."""

    def __init__(self, width: int, level_dim: int = 128) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.modulation = nn.Linear(level_dim, 2 * width)

    def forward(self, h: Float[Tensor, "b width"], scale: Tensor, bias: Tensor) -> Float[Tensor, "b width"]:
        return F.silu(torch.addcmul(bias, self.linear(h), scale))


@register_network
class EnergyMLP(EnergyNetwork):
    """The published energy of the continuous tasks (IRED, arXiv 2406.11179, appendix A).

    h = swish(W₁[x; ỹ]), two FiLM layers conditioned on k < levels, then the head: `squared_norm` (published) gives
    ‖W₄h‖² with W₄: width → y_dim; `scalar` gives w₄·h, unbounded below.
    """

    name = "mlp"

    def __init__(
        self, x_dim: int, y_dim: int, width: int = 512, head: Head = "squared_norm", levels: int = 100
    ) -> None:
        super().__init__()
        self.head = head
        self.level = LevelEmbedding(levels)
        self.input = nn.Linear(x_dim + y_dim, width)
        self.first, self.second = FiLMLayer(width), FiLMLayer(width)
        self.output = nn.Linear(width, y_dim if head == "squared_norm" else 1)

    @classmethod
    def for_task(cls, task: DenoisingTask, width: int, head: Head, levels: int) -> EnergyMLP:
        return cls(task.x_dim, task.y_dim, width, head, levels)

    def prepare(self, x: Inputs, k: Levels) -> tuple[Tensor, ...]:
        """W₁'s product with x and its part for ỹ, then gains and biases of both layers at levels k."""
        of_x, of_y = self.input.weight.split([x.shape[1], self.input.in_features - x.shape[1]], dim=1)
        from_x = F.linear(x, of_x, self.input.bias)
        of_levels, layers = self.level(), (self.first, self.second)
        return from_x, of_y, *(part for each in layers for part in scale_and_bias(each.modulation, of_levels, k))

    def energy(self, prepared: tuple[Tensor, ...], y: Targets) -> Values:
        from_x, of_y, *first, scale, bias = prepared
        h = F.silu(torch.addmm(from_x, y, of_y.mT))
        return energy_of(self.output(self.second(self.first(h, *first), scale, bias)), self.head)


def energy_given(model: Model, x: Inputs, k: Levels) -> Callable[[Tensor], Tensor]:
    """ỹ ↦ E(x, ỹ, k), for many ỹ, of any energy (x, ỹ, k) ↦ [b]; of a `Stack`, whose rows are seed after seed."""

    def prepare(model: Any, x: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        return model.prepare(x, k) if isinstance(model, EnergyNetwork) else (x, k)

    def energy(model: Any, y: Tensor, *prepared: Tensor) -> Tensor:
        return model.energy(prepared, y) if isinstance(model, EnergyNetwork) else model(prepared[0], y, prepared[1])

    if isinstance(model, Stack):
        of_seeds = model.rows(prepare, x, k)
        return lambda y: model.rows(energy, y, *of_seeds)
    prepared = prepare(model, x, k)
    return lambda y: energy(model, y, *prepared)


def gradient_and_value(function: Callable[[Tensor], Tensor], y: Points) -> tuple[Points, Values]:
    """Gradient [b, d] and values [b] of a function of each row of y, where rows do not see one another.

    Under `torch.no_grad` the gradient is not prepared to be differentiated again, which makes it cheaper.
    """
    values, pull_back = torch.func.vjp(function, y.as_subclass(Tensor))[:2]
    return pull_back(torch.ones_like(values))[0], values
