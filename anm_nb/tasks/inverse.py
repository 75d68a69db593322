"""Matrix inversion: invert a well-conditioned symmetric matrix (IRED, arXiv 2406.11179, section 4.1)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from anm_nb.tasks.base import Batch, MatrixTask


class Inverse(MatrixTask):
    """y = M⁻¹ for M = A + Aᵀ + ridge·I, A = B Bᵀ, entries of B from U(−1, 1); the ridge is 0.5, and 0.1 when harder."""

    name = "inverse"
    harder_clamp: ClassVar[float | None] = 10.0  # no eigenvalue of M lies below 0.1

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.x_dim = self.y_dim

    def sample(self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False) -> Batch:
        """n matrices and their inverses, both flattened."""
        size = self.options.size
        factor = torch.rand(n, size, size, generator=generator, device=device).mul_(2).sub_(1)
        product = factor @ factor.mT
        matrix = product + product.mT  # exactly symmetric, which the product alone is not in floating point
        matrix.diagonal(dim1=1, dim2=2).add_(0.1 if harder else 0.5)
        # positive definite as it is made: a check would only wait for the device
        return Batch(matrix.flatten(1), torch.cholesky_inverse(torch.linalg.cholesky_ex(matrix).L).flatten(1))

    def solve(self, x: Float[Tensor, "n x_dim"]) -> Float[Tensor, "n y_dim"]:
        """The inverse by Cholesky factorisation."""
        matrix = x.unflatten(1, (self.options.size, self.options.size))
        return torch.cholesky_inverse(torch.linalg.cholesky(matrix)).flatten(1)
