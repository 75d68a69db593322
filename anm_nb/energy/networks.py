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

from anm_nb.config import ParameterError, unknown_name
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

    def given(self, x: Float[Tensor, "b x_dim"], k: Int[Tensor, " b"]) -> Callable[[Tensor], Tensor]:
        """ỹ ↦ E(x, ỹ, k), for evaluating many ỹ: override it to compute only once what does not depend on ỹ."""
        return lambda y: self(x, y, k)


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

    def given(self, embedded: Float[Tensor, "levels dim"], k: Int[Tensor, " b"]) -> Callable[[Tensor], Tensor]:
        """The layer at levels k as a function of h [b, width]."""
        gain, bias = gain_and_bias(self.modulation, embedded, k)
        scale = 1 + gain
        return lambda h: F.silu(torch.addcmul(bias, self.linear(h), scale))


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
        return self.given(x, k)(y)

    def given(self, x: Float[Tensor, "b x_dim"], k: Int[Tensor, " b"]) -> Callable[[Tensor], Tensor]:
        """ỹ ↦ E(x, ỹ, k). W₁'s product with x and the gains and biases of all levels are computed here."""
        of_x, of_y = self.input.weight.split([x.shape[1], self.input.in_features - x.shape[1]], dim=1)
        from_x = F.linear(x, of_x, self.input.bias)
        embedded = self.level()
        first, second = self.first.given(embedded, k), self.second.given(embedded, k)

        def energy(y: Tensor) -> Tensor:
            h = F.silu(torch.addmm(from_x, y, of_y.mT))
            return energy_of(self.output(second(first(h))), self.head)

        return energy


def energy_given(
    model: Callable[[Tensor, Tensor, Tensor], Tensor], x: Float[Tensor, "b x_dim"], k: Int[Tensor, " b"]
) -> Callable[[Tensor], Tensor]:
    """ỹ ↦ E(x, ỹ, k) of any energy: an `EnergyNetwork`'s own (`given`), or a plain call each time."""
    return model.given(x, k) if isinstance(model, EnergyNetwork) else lambda y: model(x, y, k)


def score_and_energy(
    energy: nn.Module, x: Float[Tensor, "b x_dim"], y: Float[Tensor, "b y_dim"], k: Int[Tensor, " b"]
) -> tuple[Float[Tensor, "b y_dim"], Float[Tensor, " b"]]:
    """∇_ỹE and E from one evaluation; both differentiable by the network's weights."""
    return gradient_and_value(energy_given(energy, x, k), y)


def gradient_and_value(
    function: Callable[[Tensor], Tensor], y: Float[Tensor, "b d"]
) -> tuple[Float[Tensor, "b d"], Float[Tensor, " b"]]:
    """Gradient [b, d] and values [b] of a function of each row of y, where rows do not see one another.

    Under `torch.no_grad` the gradient is not prepared to be differentiated again, which makes it cheaper.
    """
    plain = y if type(y) is Tensor else y.as_subclass(Tensor)  # a call that torch.compile cannot trace
    values, pull_back = torch.func.vjp(function, plain)[:2]
    (gradient,) = pull_back(torch.ones_like(values))
    return gradient, values
