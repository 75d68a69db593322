"""IRED's continuous tasks (arXiv 2406.11179, section 4.1): matrix addition, inversion and low-rank completion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anm_nb.tasks.base import Batch, MatrixTask, Predictions, reference_table

NOISE = 0.1  # standard deviation of what low-rank completion adds to every entry
SEEN = 0.5  # probability that an entry is observed

# Candidates for the shrinkage of soft-impute, in units of `LowRank.noise_norm`, each started from the one before. The
# best one was measured to lie between 0.4 and 1.1 at sizes 5 … 30, and at 0.8 (0.9 when harder) at 20 × 20.
SHRINKAGES = (1.6, 1.3, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
TUNING_MATRICES = 300
SWEEPS, BURN_IN = 150, 50  # of the Gibbs sampler: at 20 × 20 its mean squared error is within 1 % of 300 and 100

Matrices = Float[Tensor, "n rows columns"]
Masks = Bool[Tensor, "n rows columns"]


class Addition(MatrixTask):
    """y = A + B with entries of A, B from U(−1, 1), from U(−2.5, 2.5) when harder; x holds both, flattened."""

    name = "addition"
    harder_clamp = 5.0  # a sum of two entries within ±2.5

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.x_dim = 2 * self.y_dim

    def sample(self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False) -> Batch:
        bound = 2.5 if harder else 1.0
        x = torch.rand(n, self.x_dim, generator=generator, device=device).mul_(2 * bound).sub_(bound)
        return Batch(x, self.solve(x))

    def solve(self, x: Float[Tensor, "n x_dim"]) -> Float[Tensor, "n y_dim"]:
        first, second = x.chunk(2, dim=1)
        return first + second


class Inverse(MatrixTask):
    """y = M⁻¹ for M = A + Aᵀ + ridge·I, A = B Bᵀ, entries of B from U(−1, 1); the ridge is 0.5, and 0.1 when harder."""

    name = "inverse"
    harder_clamp = 10.0  # no eigenvalue of M lies below 0.1

    def sample(self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False) -> Batch:
        size = self.options.size
        factor = torch.rand(n, size, size, generator=generator, device=device).mul_(2).sub_(1)
        product = factor @ factor.mT
        matrix = product + product.mT  # exactly symmetric, which the product alone is not in floating point
        matrix.diagonal(dim1=1, dim2=2).add_(0.1 if harder else 0.5)
        x = matrix.flatten(1)
        return Batch(x, self.solve(x))

    def solve(self, x: Float[Tensor, "n x_dim"]) -> Float[Tensor, "n y_dim"]:
        """The inverse by Cholesky factorisation, for a matrix that is positive definite: a check would wait for it."""
        matrix = x.unflatten(1, (self.options.size, self.options.size))
        return torch.cholesky_inverse(torch.linalg.cholesky_ex(matrix).L).flatten(1)


@dataclass(frozen=True, kw_only=True)
class LowRankBatch(Batch):
    """Problems with their matrices before the noise."""

    clean: Float[Tensor, "n y_dim"]


class LowRank(MatrixTask):
    """y = U Vᵀ/size + N(0, 0.1²), entries of U, V [size, max(1, size // 2)] from N(0, 1); divisor size/4 when harder.

    x holds the entries of y that are observed, each with probability 1/2 (`known`), and 0 elsewhere. As published,
    they are no clues: methods have to predict them too.
    """

    name = "lowrank"
    harder_clamp = 10.0  # fifteen standard deviations of an entry at 20 × 20
    solver = "soft-impute"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        size = self.options.size
        self.shape, self.rank = (size, size), max(1, size // 2)
        self.noise_norm = NOISE * 2 * (size * SEEN) ** 0.5  # about the spectral norm of the noise where it is observed

    def divisor(self, harder: bool) -> float:
        """What U Vᵀ is divided by."""
        return self.options.size / 4 if harder else self.options.size

    def sample(self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False) -> LowRankBatch:
        left, right = torch.randn(2, n, self.options.size, self.rank, generator=generator, device=device)
        clean = (left @ right.mT).flatten(1) / self.divisor(harder)
        y = clean + NOISE * torch.randn(n, self.y_dim, generator=generator, device=device)
        known = torch.rand(n, self.y_dim, generator=generator, device=device) < SEEN
        return LowRankBatch(torch.where(known, y, 0.0), y, known, clean=clean)

    def solve(self, x: Float[Tensor, "n x_dim"], shrinkage: float = 0.8) -> Float[Tensor, "n y_dim"]:
        """Observed entries as they are, hidden ones (0 in x) by soft-impute, `shrinkage` in units of `noise_norm`."""
        observed = x.unflatten(1, self.shape)
        return torch.where(x != 0, x, soft_impute(observed, observed != 0, shrinkage * self.noise_norm).flatten(1))

    def tuned_shrinkage(self, training: Batch) -> float:
        """The one of `SHRINKAGES` that predicts the hidden entries of the first training problems best.

        One for all problems, as their noise is the same: fractions of each spectral norm were no better, harder worse.
        """
        x, y = (each[:TUNING_MATRICES].unflatten(1, self.shape) for each in (training.x, training.y))
        estimate, errors = torch.zeros_like(x), {}
        for shrinkage in SHRINKAGES:
            estimate = soft_impute(x, x != 0, shrinkage * self.noise_norm, start=estimate)
            errors[shrinkage] = float(torch.where(x != 0, 0.0, estimate - y).square().sum())
        return min(errors, key=errors.__getitem__)

    def references(self, training: Batch, test: Batch) -> Predictions:
        """Zero, the mean, the input, soft-impute, and the unreachable noise floor, NOISE²·(1 − SEEN)."""
        assert isinstance(test, LowRankBatch)
        return {
            ("zero", "trivial"): torch.zeros_like(test.y),
            ("mean target", "trivial"): training.y.mean(0).expand_as(test.y),
            ("copy the observed", "trivial"): test.x,
            (self.solver, "classical"): self.solve(test.x, self.tuned_shrinkage(training)),
            ("noise floor", "ceiling"): torch.where(test.x != 0, test.y, test.clean),
        }

    def bayes_reference(self, n: int, *, generator: torch.Generator, harder: bool = False) -> pd.DataFrame:
        """The reachable ceiling, in a row as of `reference_scores`: the posterior mean of n problems (`gibbs_mean`).

        The noise floor cannot be reached, as nobody knows U and V. 100 problems of 20 × 20 take some seconds.
        """
        batch = self.sample(n, generator=generator, device=str(generator.device), harder=harder)
        x, known = (each.unflatten(1, self.shape) for each in (batch.x, batch.given))
        hidden = gibbs_mean(x, known, self.rank, self.divisor(harder), NOISE, generator)
        answer = torch.where(known, x, hidden).flatten(1)
        return reference_table({("posterior mean (Gibbs)", "ceiling"): self.scores(answer, batch)})


def gibbs_mean(
    x: Matrices,
    known: Masks,
    rank: int,
    divisor: float,
    noise: float,
    generator: torch.Generator,
    sweeps: int = SWEEPS,
    burn_in: int = BURN_IN,
) -> Matrices:
    """E[U Vᵀ/divisor | x] for standard normal U, V of that rank and known entries x with normal noise of that size.

    Gibbs sampling of all rows of U given V, then of V given U (Salakhutdinov & Mnih, ICML 2008, with fixed hyper-
    parameters); the mean of E[U | V] Vᵀ over the sweeps after `burn_in` varies less than that of U Vᵀ.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=x.device).to(x)

    mask, data, eye = known.to(x), torch.where(known, x, 0) / noise, torch.eye(rank).to(x)
    factors = [normal(len(x), side, rank) for side in x.shape[1:]]
    total = torch.zeros_like(x)
    for sweep in range(sweeps):
        for side, (seen, seen_data) in enumerate(((mask, data), (mask.mT, data.mT))):
            other = factors[1 - side] / (divisor * noise)
            outer = (other.unsqueeze(3) * other.unsqueeze(2)).flatten(2)
            root = torch.linalg.cholesky((seen @ outer).unflatten(2, (rank, rank)) + eye)
            mean = torch.cholesky_solve((seen_data @ other).unsqueeze(3), root)
            if side == 0 and sweep >= burn_in:
                total += mean.squeeze(3) @ factors[1].mT
            drawn = torch.linalg.solve_triangular(root.mT, normal(*mean.shape), upper=True)
            factors[side] = (mean + drawn).squeeze(3)
    return total / ((sweeps - burn_in) * divisor)


def soft_impute(
    observed: Matrices,
    known: Masks,
    shrinkage: float,
    *,
    start: Matrices | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 200,
) -> Matrices:
    """The matrices Z that minimise ½‖observed − Z‖² over the known entries + shrinkage·‖Z‖_* (nuclear norm), for > 0.

    Each step fills the unknown entries with Z and lowers the singular values of the result by `shrinkage`, from `start`
    (0 by default) until ‖Z − Z_before‖² ≤ tolerance·‖Z_before‖², at most `max_iterations` times (Mazumder, Hastie &
    Tibshirani, JMLR 11, 2010, algorithm 1).
    """
    estimate = torch.zeros_like(observed) if start is None else start.clone()
    moving = torch.arange(len(observed), device=observed.device)
    for _ in range(max_iterations):
        before = estimate[moving]
        estimate[moving] = after = shrunk(torch.where(known[moving], observed[moving], before), shrinkage)
        moving = moving[(after - before).square().sum((1, 2)) > tolerance * before.square().sum((1, 2))]
        if len(moving) == 0:
            break
    return estimate


def shrunk(matrices: Matrices, by: float) -> Matrices:
    """Matrices with every singular value lowered by `by` > 0, to no less than 0: the proximal map of by·‖·‖_*.

    M V diag((σ − by)₊/σ) Vᵀ with the eigenvectors V of MᵀM: twice as fast as a batched singular value decomposition,
    but the relative error of σ grows by (σ_max/σ)²: in float32, `by` should be at least about σ_max/100.
    """
    squares, vectors = torch.linalg.eigh(matrices.mT @ matrices)
    values = squares.clamp(min=0).sqrt()  # rounding can make a square negative
    kept = (1 - by / values).clamp(min=0)
    return (matrices @ vectors * kept.unsqueeze(1)) @ vectors.mT
