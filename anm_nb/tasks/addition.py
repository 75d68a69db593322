"""Matrix addition: add two matrices of uniform entries (IRED, arXiv 2406.11179, section 4.1)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from anm_nb.tasks.base import Batch, MatrixTask


class Addition(MatrixTask):
    """y = A + B with entries of A, B from U(−1, 1), from U(−2.5, 2.5) when harder; x holds both, flattened."""

    name = "addition"
    harder_clamp: ClassVar[float | None] = 5.0  # a sum of two entries within ±2.5

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.x_dim = 2 * self.y_dim

    def sample(self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False) -> Batch:
        """n pairs of matrices and their sums."""
        bound = 2.5 if harder else 1.0
        x = torch.rand(n, self.x_dim, generator=generator, device=device).mul_(2 * bound).sub_(bound)
        return Batch(x, self.solve(x))

    def solve(self, x: Float[Tensor, "n x_dim"]) -> Float[Tensor, "n y_dim"]:
        """The sum itself."""
        first, second = x.chunk(2, dim=1)
        return first + second
