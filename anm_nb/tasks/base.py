"""What a task is: batches, metrics, reference scores, and the few constants a training recipe takes from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float, Num
from pydantic import PositiveInt
from torch import Tensor

from anm_nb.parameters import Parameters


@dataclass(frozen=True)
class Batch:
    """n problems: inputs x, targets y, and, where a task has one, a mask of what is given (1 = given)."""

    x: Float[Tensor, "n ..."]
    y: Num[Tensor, "n ..."]
    known: Tensor | None = None


class TaskOptions(Parameters):
    """Options of a task; a task with options of its own subclasses this."""

    size: PositiveInt = 20


class Task(ABC):
    """A problem: find targets y from inputs x. Subclass it, set `name`, and register it to bring your own."""

    name: ClassVar[str]
    metric: ClassVar[str] = "mse"  # the native metric, a key of `metrics`
    options_class: ClassVar[type[TaskOptions]] = TaskOptions
    x_dim: int
    y_dim: int

    def __init__(self, **options: Any) -> None:
        self.options = self.options_class(**options)

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False) -> Batch:
        """n fresh problems on `device`, drawn from `generator`, which lives there; `harder` shifts the distribution."""

    @abstractmethod
    def metrics(self, y_hat: Tensor, batch: Batch) -> dict[str, float]:
        """The task's native metrics of predictions y_hat."""

    @abstractmethod
    def reference_scores(self, n: int, *, generator: torch.Generator, harder: bool = False) -> pd.DataFrame:
        """Scores on n fresh problems to read any other score against: columns name, kind, metric, value.

        `kind` is trivial (needs no learning), classical (the best known exact or statistical method) or ceiling.
        """


class MatrixTask(Task):
    """A regression onto a size × size matrix, flattened: IRED's continuous tasks (arXiv 2406.11179, section 4.1)."""

    contrastive_weight: ClassVar[float] = 0.5  # weight of the contrastive loss, published for continuous tasks
    sample_clamp: ClassVar[float] = 2.0  # samples stay within ±√ᾱ_k times this at level k

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.y_dim = self.options.size**2

    @abstractmethod
    def solve(self, x: Float[Tensor, "n x_dim"]) -> Float[Tensor, "n y_dim"]:
        """The best classical method."""

    def metrics(self, y_hat: Tensor, batch: Batch) -> dict[str, float]:
        """{"mse": mean squared error over problems and entries}."""
        return {"mse": float((y_hat - batch.y).double().square().mean())}

    def reference_scores(self, n: int, *, generator: torch.Generator, harder: bool = False) -> pd.DataFrame:
        """The zero and the mean predictor (of n training targets, never of harder ones), the exact method, and 0."""
        device = str(generator.device)
        training = self.sample(n, generator=generator, device=device)
        test = self.sample(n, generator=generator, device=device, harder=harder)
        predictions = {
            ("zero", "trivial"): torch.zeros_like(test.y),
            ("mean target", "trivial"): training.y.mean(0).expand_as(test.y),
            ("exact solution", "classical"): self.solve(test.x),
            ("truth", "ceiling"): test.y,
        }
        return pd.DataFrame(
            [
                {"name": name, "kind": kind, "metric": metric, "value": value}
                for (name, kind), y_hat in predictions.items()
                for metric, value in self.metrics(y_hat, test).items()
            ]
        )
