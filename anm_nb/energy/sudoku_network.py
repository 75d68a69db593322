"""The published energy of Sudoku: a convolutional residual network over the grid."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from anm_nb.config import ParameterError
from anm_nb.energy.networks import EnergyNetwork, Head, LevelEmbedding, energy_of, gain_and_bias, register_network
from anm_nb.tasks.base import DenoisingTask

SIZES = {size**3: size for size in (4, 9)}  # rows, columns and digits by the number of one-hot entries


class SudokuBlock(nn.Module):
    """h ↦ h + swish(C₂ swish(C₁h)·(1 + gain_k) + bias_k) with 5 × 5 convolutions C₁, C₂."""

    def __init__(self, width: int, level_dim: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 5, padding=2)
        self.second = nn.Conv2d(width, width, 5, padding=2)
        self.modulation = nn.Linear(level_dim, 2 * width)

    def forward(
        self, h: Float[Tensor, "b width size size"], embedded: Float[Tensor, "levels dim"], k: Int[Tensor, " b"]
    ) -> Float[Tensor, "b width size size"]:
        gain, bias = (each[:, :, None, None] for each in gain_and_bias(self.modulation, embedded, k))
        return h + F.silu(self.second(F.silu(self.first(h))) * (1 + gain) + bias)


@register_network
class SudokuEnergy(EnergyNetwork):
    """IRED's energy of Sudoku (arXiv 2406.11179, appendix A), 44.6 million weights at its published width of 384.

    x and ỹ are one-hot grids of size × size, flattened cell by cell with the digit last. Stacked to 2·size channels, 18
    as published, they pass a 3 × 3 convolution with swish, six `SudokuBlock`s and a 1 × 1 convolution: `squared_norm`
    (published) sums the squares of its `size` channels over all cells; `scalar` has one channel and sums it, unbounded
    below. A board of 4 × 4 goes through the same convolutions, which then see all of it at every cell.
    """

    name = "sudoku_conv"

    def __init__(self, width: int = 384, head: Head = "squared_norm", levels: int = 10, size: int = 9) -> None:
        super().__init__()
        level_dim = 64
        self.head, self.size = head, size
        self.level = LevelEmbedding(levels, level_dim)
        self.input = nn.Conv2d(2 * size, width, 3, padding=1)
        self.blocks = nn.ModuleList(SudokuBlock(width, level_dim) for _ in range(6))
        self.output = nn.Conv2d(width, size if head == "squared_norm" else 1, 1)

    @classmethod
    def for_task(cls, task: DenoisingTask, width: int, head: Head, levels: int) -> SudokuEnergy:
        """Suits tasks whose inputs and targets are one-hot 4 × 4 or 9 × 9 grids; `ParameterError` for any other."""
        if task.x_dim != task.y_dim or task.y_dim not in SIZES:
            grids = " or ".join(f"{entries} ({size} × {size} cells × {size} digits)" for entries, size in SIZES.items())
            raise ParameterError(
                f"network 'sudoku_conv': needs as many entries in x as in y, {grids}; "
                f"this task has {task.x_dim} and {task.y_dim}"
            )
        return cls(width, head, levels, SIZES[task.y_dim])

    def forward(
        self, x: Float[Tensor, "b entries"], y: Float[Tensor, "b entries"], k: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Energies [batch] of noised grids y at levels k."""
        embedded = self.level()
        grids = torch.cat([each.unflatten(1, 3 * [self.size]).permute(0, 3, 1, 2) for each in (x, y)], dim=1)
        h = F.silu(self.input(grids))
        for block in self.blocks:
            h = block(h, embedded, k)
        return energy_of(self.output(h), self.head)
