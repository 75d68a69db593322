"""Energy networks E(x, ỹ, k) and their score ∇_ỹE. Bring your own by subclassing `EnergyNetwork`.

A task names its published network (`DenoisingTask.network`): `get_network(task.network).for_task(task, …)` builds it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from anm_nb.parameters import ParameterError, unknown_name
from anm_nb.tasks.base import DenoisingTask

Head = Literal["squared_norm", "scalar"]


class EnergyNetwork(nn.Module, ABC):
    """An energy. Set `name`, implement `for_task` and `forward`, and register the class.

    `forward` has to be twice differentiable by ỹ, as training follows the gradient of a loss of ∇_ỹE, and to let no
    row of the batch see another. `anm_nb.training.seeds.initialise` draws its weights and says which layers it knows.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def for_task(cls, task: DenoisingTask, width: int, head: Head, levels: int) -> EnergyNetwork:
        """The network for problems of that task. Raises `ParameterError` where it does not suit them."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "b x_dim"], y: Float[Tensor, "b y_dim"], k: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Energies [batch], in float32 or better, of noised targets y at levels k, 0 ≤ k < levels."""


# Built-in networks by name, those of modules of their own imported when asked for.
_NETWORKS: dict[str, str | type[EnergyNetwork]] = {
    "graph": "anm_nb.energy.graph_network:GraphEnergy",
    "sudoku_conv": "anm_nb.energy.sudoku_network:SudokuEnergy",
}


def register_network(network: type[EnergyNetwork]) -> type[EnergyNetwork]:
    """Class decorator: makes a network known by its `name`. Defining it again replaces it, as notebooks do."""
    _NETWORKS[network.name] = network
    return network


def network_names() -> list[str]:
    """The names `get_network` knows."""
    return sorted(_NETWORKS)


def get_network(name: str) -> type[EnergyNetwork]:
    """The class of that name. Raises `ParameterError` naming the nearest one for a name that does not exist."""
    if name not in _NETWORKS:
        raise ParameterError(unknown_name("energy network", name, network_names()))
    entry = _NETWORKS[name]
    if isinstance(entry, str):
        module, attribute = entry.split(":")
        _NETWORKS[name] = entry = getattr(import_module(module), attribute)
    return entry


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


def gain_and_bias(
    modulation: nn.Linear, embedded: Float[Tensor, "levels dim"], k: Int[Tensor, " b"]
) -> tuple[Float[Tensor, "b channels"], Float[Tensor, "b channels"]]:
    """gain_k and bias_k of a layer h ↦ h·(1 + gain_k) + bias_k; `modulation` maps dim to 2·channels.

    They are computed once for each level and looked up, not once for each example of the batch.
    """
    gain, bias = F.embedding(k, modulation(embedded)).chunk(2, dim=1)
    return gain, bias


def energy_of(output: Float[Tensor, "b ..."], head: Head) -> Float[Tensor, " b"]:
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

    def forward(
        self, h: Float[Tensor, "b width"], embedded: Float[Tensor, "levels dim"], k: Int[Tensor, " b"]
    ) -> Float[Tensor, "b width"]:
        gain, bias = gain_and_bias(self.modulation, embedded, k)
        return F.silu(self.linear(h) * (1 + gain) + bias)


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
        self.first = FiLMLayer(width)
        self.second = FiLMLayer(width)
        self.output = nn.Linear(width, y_dim if head == "squared_norm" else 1)

    @classmethod
    def for_task(cls, task: DenoisingTask, width: int, head: Head, levels: int) -> EnergyMLP:
        """Suits every task."""
        return cls(task.x_dim, task.y_dim, width, head, levels)

    def forward(
        self, x: Float[Tensor, "b x_dim"], y: Float[Tensor, "b y_dim"], k: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Energies [batch] of noised targets y at levels k."""
        embedded = self.level()
        h = F.silu(self.input(torch.cat([x, y], dim=1)))
        h = self.second(self.first(h, embedded, k), embedded, k)
        return energy_of(self.output(h), self.head)


def score_and_energy(
    energy: nn.Module, x: Float[Tensor, "b x_dim"], y: Float[Tensor, "b y_dim"], k: Int[Tensor, " b"]
) -> tuple[Float[Tensor, "b y_dim"], Float[Tensor, " b"]]:
    """∇_ỹE and E from one evaluation; both differentiable by the network's weights."""
    return gradient_and_value(lambda point: energy(x, point, k), y)


def gradient_and_value(
    function: Callable[[Tensor], Tensor], y: Float[Tensor, "b d"]
) -> tuple[Float[Tensor, "b d"], Float[Tensor, " b"]]:
    """Gradient [b, d] and values [b] of a function of each row of y, where rows do not see one another."""

    def summed(point: Tensor) -> tuple[Tensor, Tensor]:
        values = function(point)
        return values.sum(), values

    plain = y if type(y) is Tensor else y.as_subclass(Tensor)  # a call that torch.compile cannot trace
    return torch.func.grad(summed, has_aux=True)(plain)
