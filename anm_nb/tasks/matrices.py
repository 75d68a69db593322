"""IRED's tasks on matrices: addition, inversion, low rank, connectivity (arXiv 2406.11179, sections 4.1 and 4.2)."""

from collections.abc import Callable
from math import isqrt
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from anm_nb.tasks import Batch, DenoisingTask, MatrixTask, Predictions, Scores, TaskOptions
from anm_nb.training.seeds import RowDraws

NOISE = 0.1  # standard deviation of the noise on every entry in low-rank completion
SEEN = 0.5  # probability that an entry is observed
FLIPPED = 0.05  # probability that a stock negative of connectivity flips an entry
# Candidate shrinkages of soft-impute, in units of `LowRank.noise_norm`; the best measured one lies between 0.4 and 1.1.
SHRINKAGES = (1.6, 1.3, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
TUNING_MATRICES = 300  # training matrices on which the shrinkage is chosen

Matrices = Float[Tensor, "n rows columns"]


class Addition(MatrixTask):
    """y = A + B, entries of A and B from U(−1, 1), or U(−2.5, 2.5) if harder; x holds both matrices, flattened."""

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
    """y = M⁻¹ for M = A + Aᵀ + ridge·I with A = B Bᵀ; entries of B from U(−1, 1), ridge 0.5, or 0.1 if harder."""

    name = "inverse"
    harder_clamp = 10.0  # no eigenvalue of M lies below 0.1

    def sample(self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False) -> Batch:
        size = self.options.size
        factor = torch.rand(n, size, size, generator=generator, device=device).mul_(2).sub_(1)
        product = factor @ factor.mT
        matrix = product + product.mT  # exactly symmetric; in floating point, the product alone is not
        matrix.diagonal(dim1=1, dim2=2).add_(0.1 if harder else 0.5)
        return Batch(matrix.flatten(1), self.solve(matrix.flatten(1)))

    def solve(self, x: Float[Tensor, "n x_dim"]) -> Float[Tensor, "n y_dim"]:
        """Invert positive definite matrices by Cholesky factorisation, unchecked: a check would wait for the device."""
        matrix = x.unflatten(1, (self.options.size, self.options.size))
        return torch.cholesky_inverse(torch.linalg.cholesky_ex(matrix).L).flatten(1)


class LowRank(MatrixTask):
    """y = U Vᵀ/size + N(0, 0.1²), entries of U, V [size, max(1, size // 2)] from N(0, 1); divisor size/4 if harder.

    Each entry of y is observed with probability 1/2 (`known`); x holds those and 0 elsewhere. Methods predict all of y.
    """

    name = "lowrank"
    harder_clamp = 10.0  # fifteen standard deviations of an entry at size 20
    solver = "soft-impute"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        size = self.options.size
        self.shape, self.rank = (size, size), max(1, size // 2)
        self.noise_norm = NOISE * 2 * (size * SEEN) ** 0.5  # approximate spectral norm of the observed noise

    def sample(self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False) -> Batch:
        left, right = torch.randn(2, n, self.options.size, self.rank, generator=generator, device=device)
        clean = (left @ right.mT).flatten(1) / (self.options.size / 4 if harder else self.options.size)
        y = clean + NOISE * torch.randn(n, self.y_dim, generator=generator, device=device)
        known = torch.rand(n, self.y_dim, generator=generator, device=device) < SEEN
        return Batch(torch.where(known, y, 0.0), y, known, clean)

    def solve(self, x: Float[Tensor, "n x_dim"], shrinkage: float = 0.8) -> Float[Tensor, "n y_dim"]:
        """Copy observed entries and soft-impute the hidden ones (0 in x); `shrinkage` is in units of `noise_norm`."""
        return torch.where(x != 0, x, soft_impute(x.unflatten(1, self.shape), shrinkage * self.noise_norm).flatten(1))

    def references(self, training: Batch, test: Batch) -> Predictions:
        """Constants, the input, soft-impute tuned on training, and the noise floor NOISE²·(1 − SEEN), out of reach."""
        x, y = (part[:TUNING_MATRICES].unflatten(1, self.shape) for part in (training.x, training.y))
        estimate, errors = torch.zeros_like(x), {}
        for shrinkage in SHRINKAGES:
            estimate = soft_impute(x, shrinkage * self.noise_norm, estimate)
            errors[shrinkage] = float((estimate - y)[x == 0].square().sum())
        tuned = min(errors, key=errors.__getitem__)
        return {
            ("zero", "trivial"): torch.zeros_like(test.y),
            ("mean target", "trivial"): training.y.mean(0).expand_as(test.y),
            ("copy the observed", "trivial"): test.x,
            (self.solver, "classical"): self.solve(test.x, tuned),
            ("noise floor", "ceiling"): torch.where(test.x != 0, test.y, test.clean),
        }


class ConnectivityOptions(TaskOptions):
    """Options of the connectivity task; `size` is the number of nodes."""

    size: Annotated[int, Field(ge=2)] = 12
    edge_probability: Annotated[float, Field(gt=0, lt=1)] = 0.2


class Connectivity(DenoisingTask):
    """Undirected random graphs of `size` nodes; each pair has an edge with `edge_probability`, independently.

    x [n, nodes²]: adjacency, 1 for an edge, −1 for none and on the diagonal. y [n, nodes²]: 1 where a path connects
    two nodes (every node reaches itself), else −1. `harder` graphs have ⌈3·size/2⌉ nodes; `x_dim` stays size².
    """

    name = "connectivity"
    network = "graph"
    metric = "balanced_accuracy"
    contrastive_weight = 0.05
    sample_clamp = 1.0
    classes = 1  # every entry is one decision, its sign
    options: ConnectivityOptions
    options_class = ConnectivityOptions

    def sample(self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False) -> Batch:
        nodes = (3 * self.options.size + 1) // 2 if harder else self.options.size
        draws = torch.rand(n, nodes, nodes, generator=generator, device=device)
        above = (draws < self.options.edge_probability).triu(diagonal=1)
        x = (above | above.mT).flatten(1).float() * 2 - 1
        return Batch(x, self.solve(x))

    def corrupt(self, y: Tensor, settle: Callable[[], Tensor], draws: RowDraws) -> Tensor:
        """Flip each entry with probability 0.05; the public code can only set −1, as its randint(0, 1) is always 0."""
        return torch.where(draws.uniform(y.shape) < FLIPPED, -y, y)

    def scores(self, y_hat: Tensor, batch: Batch) -> Scores:
        """`accuracy` and `balanced_accuracy` of the answers y_hat > 0, over ordered pairs of different nodes.

        Balanced accuracy is (TPR + TNR)/2 over all pairs of the batch, as a connected graph alone has no negatives. A
        graph gets the mean of r + (rightᵢ − r·countᵢ)/mean(count) over both rates r (delta method); the mean over
        graphs is the balanced accuracy.
        """
        pairs = ~torch.eye(isqrt(batch.y.shape[1]), dtype=torch.bool, device=batch.y.device).flatten()
        truth = (batch.y > 0)[:, pairs]
        right = truth == (y_hat > 0)[:, pairs]
        parts = []
        for of_class in (truth, ~truth):
            hits, count = (right & of_class).sum(1).double(), of_class.sum(1).double()
            rate = hits.sum() / count.sum()
            parts.append(rate + (hits - rate * count) / count.mean())
        return {"accuracy": right.double().mean(1), "balanced_accuracy": torch.stack(parts).nanmean(0)}

    def references(self, training: Batch, test: Batch) -> Predictions:
        """The training set's more frequent answer for all pairs, the edges, breadth-first search and the truth."""
        frequent = (training.y.sum(1) - self.options.size).sum().sign()  # without the diagonal, which is always 1
        return {
            ("majority", "trivial"): frequent.expand_as(test.y),
            ("copy the edges", "trivial"): test.x,
            ("breadth-first search", "classical"): self.solve(test.x),
            ("truth", "ceiling"): test.y,
        }

    def solve(self, x: Float[Tensor, "n nodes_squared"]) -> Float[Tensor, "n nodes_squared"]:
        """Find reachable pairs by breadth-first search from all nodes of all graphs at once; any number of nodes."""
        nodes = isqrt(x.shape[1])
        edges = (x > 0).float().unflatten(1, (nodes, nodes))
        reached = edges + torch.eye(nodes, device=x.device)
        while not torch.equal(extended := ((reached @ edges + reached) > 0).float(), reached):
            reached = extended
        return reached.flatten(1) * 2 - 1


def soft_impute(observed: Matrices, shrinkage: float, start: Matrices | None = None) -> Matrices:
    """The matrices Z that minimise ½‖observed − Z‖² over observed entries (≠ 0) + shrinkage·‖Z‖_* (nuclear norm).

    Algorithm 1 of Mazumder, Hastie & Tibshirani (JMLR 11, 2010), from `start` (None: 0): each step fills the hidden
    entries with Z and lowers the singular values by `shrinkage` (> 0; in float32 at least about σ_max/100). A matrix
    stops at ‖Z − Z_before‖² ≤ 1e-6·‖Z_before‖², or after 200 steps. The singular values of the filled matrix M come
    from the eigenvectors of MᵀM.
    """
    estimate = torch.zeros_like(observed) if start is None else start.clone()
    moving = torch.arange(len(observed), device=observed.device)  # matrices that have not converged
    for _ in range(200):
        known, before = observed[moving], estimate[moving]
        filled = torch.where(known != 0, known, before)
        squares, vectors = torch.linalg.eigh(filled.mT @ filled)
        scale = (1 - shrinkage / squares.clamp(min=0).sqrt()).clamp(min=0)  # rounding can make a square negative
        estimate[moving] = after = (filled @ vectors * scale.unsqueeze(1)) @ vectors.mT
        moving = moving[(after - before).square().sum((1, 2)) > 1e-6 * before.square().sum((1, 2))]
        if len(moving) == 0:
            break
    return estimate
