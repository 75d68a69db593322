"""Problems: batches made on the device, native metrics, a part of a training recipe, and tables of reference scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import NormalDist
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
import torch
from jaxtyping import Bool, Float, Num
from pydantic import AfterValidator, Field, PositiveInt
from torch import Tensor

from anm_nb.config import Distinct, Parameters, Registry
from anm_nb.training import seeds
from anm_nb.training.seeds import RowDraws

Kind = Literal["trivial", "classical", "ceiling"]  # no learning; the best known method; the best possible
Stream = Literal["train", "dev", "test"]
SPLITS = {"same": False, "harder": True}  # the distribution a model is trained on, and the task's harder one
Scores = dict[str, Float[Tensor, " n"]]  # by metric, problem by problem
Predictions = Mapping[tuple[str, Kind], Tensor]  # by name and kind of the reference


@dataclass(frozen=True)
class Batch:
    """n problems: inputs x, targets y, and, where a task has one, a mask of what is given (1 = given)."""

    x: Float[Tensor, "n ..."]
    y: Num[Tensor, "n ..."]
    known: Any = None
    clean: Any = None  # y before its noise, where it has some


def joined(batches: Sequence[Batch], rows: slice = slice(None)) -> Batch:
    """Some rows of the batches of all seeds as one batch, seed after seed."""
    names = [name for name, each in vars(batches[0]).items() if each is not None]
    return replace(batches[0], **{name: torch.cat([vars(batch)[name][rows] for batch in batches]) for name in names})


@dataclass(frozen=True)
class Clues:
    """Entries of an answer that the problem gives away: never noised, moved or scored."""

    mask: Bool[Tensor, "n y_dim"]
    values: Float[Tensor, "n y_dim"]

    def impose(self, y: Float[Tensor, "n y_dim"], signal: Float[Tensor, "n 1"] | float = 1.0) -> Tensor:
        """y with its given entries put back, scaled by `signal`, the factor √ᾱ_k of a noise level."""
        return torch.where(self.mask, signal * self.values, y)


class TaskOptions(Parameters):
    """Options of every task; one with options of its own subclasses them."""

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
    def scores(self, y_hat: Tensor, batch: Batch) -> Scores:
        """The task's native metrics of predictions y_hat, problem by problem; NaN where a problem has no score."""

    @abstractmethod
    def reference_scores(self, n: int, *, generator: torch.Generator, harder: bool = False) -> pd.DataFrame:
        """Scores on n fresh problems to read any other score against, as `reference_table` has them."""

    def metrics(self, y_hat: Tensor, batch: Batch) -> dict[str, float]:
        """Means of `scores` over problems, those without a score left out."""
        return {metric: float(values.double().nanmean()) for metric, values in self.scores(y_hat, batch).items()}


class DenoisingTask(Task):
    """A task that an energy diffusion can learn, x [n, x_dim] and y [n, y_dim], with its part of IRED's recipe."""

    network: ClassVar[str] = "mlp"  # the published architecture, a name of `anm_nb.energy.networks`
    contrastive_weight: ClassVar[float]  # published weight of the contrastive loss
    sample_clamp: ClassVar[float]  # samples stay within ±√ᾱ_k times this at level k
    harder_clamp: ClassVar[float | None] = None  # the same for harder problems, where their answers are larger
    inner_steps: ClassVar[int] = 5  # published descent steps of the sampler at each level
    classes: int  # of a task of decisions alone: entries that are one decision, one-hot; 1 where each is a sign

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.x_dim = self.y_dim = self.options.size**2

    def clamp(self, harder: bool) -> float:
        """Where samples are clamped: answers to harder problems may lie outside the published ±`sample_clamp`."""
        return (self.harder_clamp if harder else None) or self.sample_clamp

    @abstractmethod
    def corrupt(self, y: Tensor, settle: Callable[[], Tensor], draws: RowDraws) -> Tensor:
        """IRED's stock negatives for targets [rows, y_dim], seeds in blocks; `settle()`: those of continuous tasks."""

    @abstractmethod
    def references(self, training: Batch, test: Batch) -> Predictions:
        """Predictions for the test problems; what needs data takes it from the training problems."""

    def clues(self, batch: Batch) -> Clues | None:
        """The entries of the answers that the recipe keeps fixed, as the problems give them away; no host waits."""
        return None

    def stream(self, name: Stream) -> DenoisingTask:
        """The task restricted to one stream of problems. Tasks that never run out of fresh ones are their own."""
        return self

    def reference_scores(self, n: int, *, generator: torch.Generator, harder: bool = False) -> pd.DataFrame:
        """Every entry of `references` on n test problems, learning from n training problems that are never harder."""
        device = str(generator.device)
        training = self.stream("train").sample(n, generator=generator, device=device)
        test = self.stream("test").sample(n, generator=generator, device=device, harder=harder)
        return reference_table({n: self.scores(y_hat, test) for n, y_hat in self.references(training, test).items()})


class MatrixTask(DenoisingTask):
    """A regression onto a flattened size × size matrix: IRED's continuous tasks (arXiv 2406.11179, section 4.1)."""

    contrastive_weight = 0.5
    sample_clamp = 2.0
    solver: ClassVar[str] = "exact solution"  # what `solve` is, for tables

    @abstractmethod
    def solve(self, x: Float[Tensor, "n x_dim"]) -> Float[Tensor, "n y_dim"]:
        """The best classical method."""

    def corrupt(self, y: Tensor, settle: Callable[[], Tensor], draws: RowDraws) -> Tensor:
        return settle().clamp(-self.sample_clamp, self.sample_clamp)

    def scores(self, y_hat: Tensor, batch: Batch) -> Scores:
        """{"mse": mean squared error over entries}."""
        return {"mse": (y_hat - batch.y).double().square().mean(1)}

    def references(self, training: Batch, test: Batch) -> Predictions:
        """Constants, among them the best for the test problems, the classical method, and the truth."""
        return {
            ("zero", "trivial"): torch.zeros_like(test.y),
            ("mean target", "trivial"): training.y.mean(0).expand_as(test.y),
            ("best constant", "trivial"): test.y.mean(0).expand_as(test.y),
            (self.solver, "classical"): self.solve(test.x),
            ("truth", "ceiling"): test.y,
        }


def reference_scores(tasks: Mapping[str, Task], problems: int, seed: int) -> pd.DataFrame:
    """Reference scores of tasks on fresh problems, same and harder, with columns task, split and seed in front."""
    tables = []
    for name, (split, harder) in product(tasks, SPLITS.items()):
        source = seeds.generator(seed, f"references/{split}")
        table = tasks[name].reference_scores(problems, generator=source, harder=harder)
        tables.append(pd.DataFrame({"task": name, "split": split, "seed": seed, **table}))
    return pd.concat(tables, ignore_index=True)


def reference_table(scores: Mapping[tuple[str, Kind], Mapping[str, Float[Tensor, " n"]]]) -> pd.DataFrame:
    """Means over problems, NaN left out, and their 95 % intervals: columns name, kind, metric, value, low, high."""
    rows = []
    for (name, kind), by_metric in scores.items():
        for metric, values in by_metric.items():
            each = pd.Series(values.double().cpu().numpy())
            mean, half = each.mean(), NormalDist().inv_cdf(0.975) * each.std() / each.count() ** 0.5
            rows.append((name, kind, metric, mean, mean - half, mean + half))
    return pd.DataFrame(rows, columns=["name", "kind", "metric", "value", "low", "high"])


TASKS: Registry[Task] = Registry(
    "task",
    {
        "addition": "anm_nb.tasks.matrices:Addition",
        "connectivity": "anm_nb.tasks.matrices:Connectivity",
        "hinted_sort": "anm_nb.tasks.ordering:HintedSort",
        "inverse": "anm_nb.tasks.matrices:Inverse",
        "lowrank": "anm_nb.tasks.matrices:LowRank",
        "partial_sort": "anm_nb.tasks.ordering:PartialSort",
        "sudoku": "anm_nb.tasks.sudoku:Sudoku",
    },
)
register_task, task_class = TASKS.register, TASKS.get
TaskName = Annotated[str, AfterValidator(TASKS.known)]
TaskNames = Annotated[tuple[TaskName, ...], Field(strict=False, min_length=1), Distinct]


def get_task(name: str, **options: Any) -> Task:
    """A task by name: `get_task("inverse", size=20)`. Raises `ParameterError` for unknown names and options."""
    return TASKS.get(name)(**options)
