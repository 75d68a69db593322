"""Energy networks E(x, ỹ, k) and their scores ∇_ỹE. Subclass `EnergyNetwork` to add one."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from anm_nb.config import ParameterError, Registry
from anm_nb.energy.schedule import Levels, Points, Values
from anm_nb.tasks import DenoisingTask
from anm_nb.training.stack import Stack

Head = Literal["squared_norm", "scalar"]
Model = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x, ỹ, k) to energies [b], as an `EnergyNetwork`
Energy = Callable[[Tensor], Tensor]  # points [b, d] to energies [b]
Inputs = Float[Tensor, "b x_dim"]
Targets = Float[Tensor, "b y_dim"]
Pairs = Float[Tensor, "b n n width"]


class EnergyNetwork(nn.Module, ABC):
    """Base class of energies: set `name`, implement `for_task` and `forward`, and register the class.

    It has to be twice differentiable in ỹ, also under torch.func.vmap, and must not mix rows of a batch. An optional
    method `prepare(x, k)` computes a tuple that does not depend on ỹ; `forward` receives its items after k.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def for_task(cls, task: DenoisingTask, width: int, head: Head, levels: int) -> "EnergyNetwork":
        """Build the network for a task. Raises `ParameterError` if it does not fit the task's shapes."""

    @abstractmethod
    def forward(self, x: Inputs, y: Targets, k: Levels) -> Values:
        """Energies [b], in float32 or better, of noised targets y at levels k, 0 ≤ k < levels."""


NETWORKS: Registry[EnergyNetwork] = Registry("energy network")
register_network, get_network = NETWORKS.register, NETWORKS.get


class LevelEmbedding(nn.Module):
    """Embedding of every noise level 0 … levels − 1: sinusoids, then Linear, GELU, Linear."""

    sinusoids: Tensor

    def __init__(self, levels: int, dim: int) -> None:
        super().__init__()
        angles = torch.arange(levels).unsqueeze(1) * torch.exp(-math.log(10000) * torch.arange(64) / 63)
        self.register_buffer("sinusoids", torch.cat([angles.sin(), angles.cos()], dim=1), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(128, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self) -> Float[Tensor, "levels dim"]:
        return self.mlp(self.sinusoids)


def scale_and_bias(modulation: nn.Module, embedded: Float[Tensor, "levels dim"], k: Levels) -> tuple[Tensor, Tensor]:
    """1 + gain_k and bias_k, both [b, channels], computed once per level rather than once per example."""
    gain, bias = F.embedding(k, modulation(embedded)).chunk(2, dim=1)
    return 1 + gain, bias


def energy_of(output: Float[Tensor, "b ..."], head: Head) -> Values:
    """Energies of a network's outputs: their sum of squares for `squared_norm` (published), their sum for `scalar`."""
    output = output.to(torch.promote_types(output.dtype, torch.float32)).flatten(1)  # margins are small differences
    return output.square().sum(1) if head == "squared_norm" else output.sum(1)


@register_network
class EnergyMLP(EnergyNetwork):
    """The published energy of the continuous tasks (IRED, arXiv 2406.11179, appendix A). Maps W include their offsets.

    h = swish(W₁[x; ỹ]), then twice h ↦ swish((W h)·(1 + gain_k) + bias_k). The head `squared_norm` (published) gives
    ‖W₄h‖² with W₄: width → y_dim; `scalar` gives w₄·h, unbounded below.
    """

    name = "mlp"

    def __init__(
        self, x_dim: int, y_dim: int, width: int = 512, head: Head = "squared_norm", levels: int = 100
    ) -> None:
        super().__init__()
        self.head = head
        self.level, self.input = LevelEmbedding(levels, 128), nn.Linear(x_dim + y_dim, width)
        layers = [{"linear": nn.Linear(width, width), "modulation": nn.Linear(128, 2 * width)} for _ in range(2)]
        self.first, self.second = map(nn.ModuleDict, layers)
        self.output = nn.Linear(width, y_dim if head == "squared_norm" else 1)

    @classmethod
    def for_task(cls, task: DenoisingTask, width: int, head: Head, levels: int) -> "EnergyMLP":
        return cls(task.x_dim, task.y_dim, width, head, levels)

    def prepare(self, x: Inputs, k: Levels) -> tuple[Tensor, ...]:
        """W₁'s product with x, its columns for ỹ, then 1 + gain_k and bias_k of both layers."""
        weight_x, weight_y = self.input.weight.split([x.shape[1], self.input.in_features - x.shape[1]], dim=1)
        embedded = self.level()
        first, second = (scale_and_bias(layer["modulation"], embedded, k) for layer in (self.first, self.second))
        return F.linear(x, weight_x, self.input.bias), weight_y, *first, *second

    def forward(self, x: Inputs, y: Targets, k: Levels, *prepared: Tensor) -> Values:
        from_x, weight_y, *modulations = prepared or self.prepare(x, k)
        h = F.silu(torch.addmm(from_x, y, weight_y.mT))
        for layer, scale, bias in zip((self.first, self.second), modulations[::2], modulations[1::2], strict=True):
            h = F.silu(torch.addcmul(bias, layer["linear"](h), scale))
        return energy_of(self.output(h), self.head)


class GraphLayer(nn.Module):
    """Layer on vectors h_ij of ordered pairs of nodes: h_ij ↦ h_ij + swish(g_ij·(1 + gain_k) + bias_k), with

    g_ij = W₁h_ij + W₂h_ji + W₃ tanh(Σ_m (A h_im) ∘ (B h_mj)) + W₄ mean_m h_im + W₅ mean_m h_mj.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own, self.reverse = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.left, self.right = nn.Linear(width, width), nn.Linear(width, width)
        self.triangle, self.row, self.column = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.modulation = nn.Linear(64, 2 * width)

    def forward(self, h: Pairs, embedded: Tensor, k: Levels) -> Pairs:
        scale, bias = (each[:, None, None] for each in scale_and_bias(self.modulation, embedded, k))
        paths = self.left(h).permute(0, 3, 1, 2) @ self.right(h).permute(0, 3, 1, 2)
        g = self.own(h) + self.reverse(h).transpose(1, 2) + self.triangle(paths.tanh().permute(0, 2, 3, 1))
        g = g + self.row(h.mean(2)).unsqueeze(2) + self.column(h.mean(1)).unsqueeze(1)
        return h + F.silu(g * scale + bias)


@register_network
class GraphEnergy(EnergyNetwork):
    """Energy of graphs: x and ỹ have one entry for each ordered pair of n nodes; n may differ from call to call.

    Pairs start from (x_ij, ỹ_ij, [i = j]). Three `GraphLayer`s, each joining two paths, can follow paths of up to 2³
    edges. The head sums over pairs. The published runs used a neural logic machine instead.
    """

    name = "graph"

    def __init__(self, width: int = 32, head: Head = "squared_norm", levels: int = 10) -> None:
        super().__init__()
        self.head, self.level = head, LevelEmbedding(levels, 64)
        self.input = nn.Linear(3, width)
        self.layers = nn.ModuleList(GraphLayer(width) for _ in range(3))
        self.output = nn.Linear(width, 1)

    @classmethod
    def for_task(cls, task: DenoisingTask, width: int, head: Head, levels: int) -> "GraphEnergy":
        if task.x_dim != task.y_dim or math.isqrt(task.y_dim) ** 2 != task.y_dim:
            needs = "needs as many entries in x as in y, one for each ordered pair of n nodes, n² such as 144"
            raise ParameterError(f"network 'graph': {needs}; this task has {task.x_dim} and {task.y_dim}")
        return cls(width, head, levels)

    def forward(self, x: Points, y: Points, k: Levels) -> Values:
        nodes, embedded = math.isqrt(y.shape[1]), self.level()
        diagonal = torch.eye(nodes, device=y.device, dtype=y.dtype).flatten().expand(len(y), -1)
        h = F.silu(self.input(torch.stack([x, y, diagonal], dim=2).unflatten(1, (nodes, nodes))))
        for layer in self.layers:
            h = layer(h, embedded, k)
        return energy_of(self.output(h), self.head)


@register_network
class SudokuEnergy(EnergyNetwork):
    """IRED's Sudoku energy (arXiv 2406.11179, appendix A); 44.6 million weights at the published width of 384.

    x and ỹ are one-hot grids, flattened cell by cell with the digit last. Layers: a 3 × 3 convolution of the 2·size
    channels and swish; six blocks h ↦ h + swish(C₂ swish(C₁h)·(1 + gain_k) + bias_k), C being 5 × 5; 1 × 1 to the head.
    """

    name = "sudoku_conv"

    def __init__(self, width: int = 384, head: Head = "squared_norm", levels: int = 10, size: int = 9) -> None:
        super().__init__()
        self.head, self.size, self.level = head, size, LevelEmbedding(levels, 64)
        self.input = nn.Conv2d(2 * size, width, 3, padding=1)
        conv = partial(nn.Conv2d, width, width, 5, padding=2)
        layers = [{"first": conv(), "second": conv(), "modulation": nn.Linear(64, 2 * width)} for _ in range(6)]
        self.blocks: Any = nn.ModuleList(map(nn.ModuleDict, layers))
        self.output = nn.Conv2d(width, size if head == "squared_norm" else 1, 1)

    @classmethod
    def for_task(cls, task: DenoisingTask, width: int, head: Head, levels: int) -> "SudokuEnergy":
        size = {4**3: 4, 9**3: 9}.get(task.y_dim)
        if size is None or task.x_dim != task.y_dim:
            needs = "needs as many entries in x as in y, 64 (4 × 4 cells × 4 digits) or 729 (9 × 9 cells × 9 digits)"
            raise ParameterError(f"network 'sudoku_conv': {needs}; this task has {task.x_dim} and {task.y_dim}")
        return cls(width, head, levels, size)

    def forward(self, x: Points, y: Points, k: Levels) -> Values:
        h = torch.cat([each.unflatten(1, 3 * [self.size]).permute(0, 3, 1, 2) for each in (x, y)], dim=1)
        h, embedded = F.silu(self.input(h)), self.level()
        for block in self.blocks:
            scale, bias = (each[:, :, None, None] for each in scale_and_bias(block["modulation"], embedded, k))
            h = h + F.silu(block["second"](F.silu(block["first"](h))) * scale + bias)
        return energy_of(self.output(h), self.head)


def energy_given(model: Model, x: Inputs, k: Levels) -> Energy:
    """ỹ ↦ E(x, ỹ, k) with `prepare` evaluated once, for any model (x, ỹ, k) ↦ [b]; rows of a `Stack` are by seed."""
    network: Any = type(model.members[0] if isinstance(model, Stack) else model)
    if "prepare" not in vars(network):  # an inherited `prepare` need not match the `forward` of a subclass
        return lambda y: model(x, y, k)
    prepared = model.rows(network.prepare, x, k) if isinstance(model, Stack) else network.prepare(model, x, k)
    return lambda y: model(x, y, k, *prepared)


def gradient_and_value(function: Energy, y: Points) -> tuple[Points, Values]:
    """Gradient [b, d] and values [b] of a function that treats the rows of y independently.

    Both can be differentiated again, unless the caller has disabled gradients.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        y = y.as_subclass(Tensor)
        y = y if y.requires_grad else y.detach().requires_grad_()
        values = function(y)
        (gradient,) = torch.autograd.grad(values.sum(), y, create_graph=again)
    return gradient, values if again else values.detach()
