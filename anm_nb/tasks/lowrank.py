"""Low-rank completion: fill in a matrix half of whose entries are hidden (IRED, arXiv 2406.11179, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from anm_nb.tasks.base import Batch, Kind, MatrixTask
from anm_nb.tasks.soft_impute import soft_impute

NOISE = 0.1  # standard deviation of what is added to every entry
SEEN = 0.5  # probability that an entry is observed

# Candidates for the shrinkage of soft-impute, in units of `LowRank.noise_norm`, each started from the one before. Over
# sizes 5 … 30 and both distributions the best one was measured to lie between 0.4 and 1.1, and at 20 × 20 at 0.8 (0.9
# when harder).
SHRINKAGES = (1.6, 1.3, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
TUNING_MATRICES = 300


@dataclass(frozen=True, kw_only=True)
class LowRankBatch(Batch):
    """Problems with their matrices before the noise."""

    clean: Float[Tensor, "n y_dim"]


class LowRank(MatrixTask):
    """y = U Vᵀ/size + N(0, 0.1²), entries of U, V [size, max(1, size // 2)] from N(0, 1); divisor size/4 when harder.

    Each entry is observed with probability 1/2 (`known`); x holds the observed entries of y, and 0 elsewhere. As
    published, they are no clues: methods have to predict them too.
    """

    name = "lowrank"
    harder_clamp: ClassVar[float | None] = 10.0  # fifteen standard deviations of an entry at 20 × 20
    solver: ClassVar[str] = "soft-impute"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.x_dim = self.y_dim

    @property
    def noise_norm(self) -> float:
        """About the spectral norm of the noise where it is observed: NOISE·(√size + √size)·√SEEN."""
        return NOISE * 2 * (self.options.size * SEEN) ** 0.5

    def sample(self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False) -> LowRankBatch:
        """n matrices and what is seen of them."""
        size = self.options.size
        left, right = torch.randn(2, n, size, max(1, size // 2), generator=generator, device=device)
        clean = (left @ right.mT).flatten(1) / (size / 4 if harder else size)
        y = clean + NOISE * torch.randn(n, self.y_dim, generator=generator, device=device)
        known = torch.rand(n, self.y_dim, generator=generator, device=device) < SEEN
        return LowRankBatch(torch.where(known, y, 0.0), y, known, clean=clean)

    def solve(self, x: Float[Tensor, "n x_dim"], shrinkage: float = 0.8) -> Float[Tensor, "n y_dim"]:
        """Observed entries as they are, hidden ones by soft-impute with `shrinkage` in units of `noise_norm`.

        An entry of exactly 0 counts as hidden. The default is the best of `SHRINKAGES` at 20 × 20.
        """
        return torch.where(x != 0, x, self._estimate(x, shrinkage))

    def tuned_shrinkage(self, training: Batch) -> float:
        """The one of `SHRINKAGES` that predicts the hidden entries of the first training problems best.

        What fits is one shrinkage for all problems, as the noise is the same in all of them, and not a fraction of each
        matrix's own spectral norm: at 20 × 20 that is no better on the distribution it is chosen on, and 0.17 instead
        of 0.16 on harder problems, whose entries are larger and whose noise is not.
        """
        x, y = training.x[:TUNING_MATRICES], training.y[:TUNING_MATRICES]
        errors: dict[float, float] = {}
        estimate = None
        for shrinkage in SHRINKAGES:
            estimate = self._estimate(x, shrinkage, estimate)
            errors[shrinkage] = float(torch.where(x != 0, 0.0, estimate - y).square().sum())
        return min(errors, key=errors.__getitem__)

    def references(self, training: Batch, test: Batch) -> dict[tuple[str, Kind], Tensor]:
        """The zero and the mean predictor, the input itself, soft-impute, and the least error any method can expect.

        That floor, a mean squared error of NOISE²·(1 − SEEN) = 0.005, is reached by knowing every hidden entry but for
        its noise.
        """
        assert isinstance(test, LowRankBatch)
        return {
            ("zero", "trivial"): torch.zeros_like(test.y),
            ("mean target", "trivial"): training.y.mean(0).expand_as(test.y),
            ("copy the observed", "trivial"): test.x,
            (self.solver, "classical"): self.solve(test.x, self.tuned_shrinkage(training)),
            ("noise floor", "ceiling"): torch.where(test.x != 0, test.y, test.clean),
        }

    def _estimate(self, x: Tensor, shrinkage: float, start: Tensor | None = None) -> Float[Tensor, "n y_dim"]:
        """What soft-impute makes of all entries, from a `start` [n, y_dim] or from 0."""
        shape = (self.options.size, self.options.size)
        observed = x.unflatten(1, shape)
        begun = None if start is None else start.unflatten(1, shape)
        return soft_impute(observed, observed != 0, shrinkage * self.noise_norm, start=begun).flatten(1)
