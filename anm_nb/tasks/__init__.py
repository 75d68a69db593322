"""Tasks: they draw problems on the device, score answers, and supply training settings and reference scores."""

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

Kind = Literal["trivial", "classical", "ceiling"]  # needs no learning; best known method; best possible score
Stream = Literal["train", "dev", "test"]
SPLITS = {"same": False, "harder": True}  # the training distribution, and the harder one of the same task
Scores = dict[str, Float[Tensor, " n"]]  # metric -> one value per problem
Predictions = Mapping[tuple[str, Kind], Tensor]  # (name, kind) of a reference -> its answers


@dataclass(frozen=True)
class Batch:
    """n problems: inputs x, targets y and, for tasks that reveal entries, the mask `known` of revealed entries."""

    x: Float[Tensor, "n ..."]
    y: Num[Tensor, "n ..."]
    known: Any = None
    clean: Any = None  # y before noise was added; None for a task without noise


def joined(batches: Sequence[Batch], rows: slice = slice(None)) -> Batch:
    """Concatenate the selected rows of every seed's batch into one batch, seed after seed."""
    fields = [name for name, value in vars(batches[0]).items() if value is not None]
    return replace(batches[0], **{name: torch.cat([vars(batch)[name][rows] for batch in batches]) for name in fields})


@dataclass(frozen=True)
class Clues:
    """Entries of the answer that the problem already reveals; they are never noised or moved."""

    mask: Bool[Tensor, "n y_dim"]
    values: Float[Tensor, "n y_dim"]

    def impose(self, y: Float[Tensor, "n y_dim"], signal: Float[Tensor, "n 1"] | float = 1.0) -> Tensor:
        """Reset the revealed entries of y to their values times `signal`, the factor √ᾱ_k of the noise level."""
        return torch.where(self.mask, signal * self.values, y)


class TaskOptions(Parameters):
    """Options shared by all tasks; a task with further options subclasses this."""

    size: PositiveInt = 20


class Task(ABC):
    """A task: predict targets y from inputs x. To add your own, subclass it, set `name` and register the class."""

    name: ClassVar[str]
    metric: ClassVar[str] = "mse"  # the native metric, a key of `metrics`
    options_class: ClassVar[type[TaskOptions]] = TaskOptions
    x_dim: int
    y_dim: int

    def __init__(self, **options: Any) -> None:
        self.options = self.options_class(**options)

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator, device: str = "cpu", harder: bool = False) -> Batch:
        """Draw n fresh problems on `device`, where `generator` must live; `harder` shifts the distribution."""

    @abstractmethod
    def scores(self, y_hat: Tensor, batch: Batch) -> Scores:
        """The native metrics of predictions y_hat, one value per problem; NaN if a problem has no score."""

    @abstractmethod
    def reference_scores(self, n: int, *, generator: torch.Generator, harder: bool = False) -> pd.DataFrame:
        """Reference scores on n fresh problems, in the columns of `reference_table`, for comparison with any model."""

    def metrics(self, y_hat: Tensor, batch: Batch) -> dict[str, float]:
        """Mean of each metric of `scores` over the problems that have a score."""
        return {metric: float(values.double().nanmean()) for metric, values in self.scores(y_hat, batch).items()}


class DenoisingTask(Task):
    """A task that an energy diffusion can learn, with its part of IRED's recipe; x is [n, x_dim] and y [n, y_dim]."""

    network: ClassVar[str] = "mlp"  # published architecture, by its name in `anm_nb.energy.networks`
    contrastive_weight: ClassVar[float]  # published weight of the contrastive loss
    sample_clamp: ClassVar[float]  # at level k, samples are clamped to ±√ᾱ_k times this
    harder_clamp: ClassVar[float | None] = None  # for harder problems, if their answers are larger
    inner_steps: ClassVar[int] = 5  # published number of the sampler's descent steps per level
    classes: int  # discrete tasks only: entries per one-hot decision; 1 if every entry is a decision, by its sign

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.x_dim = self.y_dim = self.options.size**2

    def clamp(self, harder: bool) -> float:
        """The sampler's clamp; answers to harder problems may lie outside the published ±`sample_clamp`."""
        return (self.harder_clamp if harder else None) or self.sample_clamp

    @abstractmethod
    def corrupt(self, y: Tensor, settle: Callable[[], Tensor], draws: RowDraws) -> Tensor:
        """IRED's stock negatives for y [rows, y_dim], a block of rows per seed; `settle()` makes continuous ones."""

    @abstractmethod
    def references(self, training: Batch, test: Batch) -> Predictions:
        """Answers of the reference methods to the test problems; methods that fit data use the training problems."""

    def clues(self, batch: Batch) -> Clues | None:
        """The answer entries that the recipe holds fixed; None if there are none. Must not make the host wait."""
        return None

    def stream(self, name: Stream) -> "DenoisingTask":
        """The task restricted to one stream of problems; tasks with unlimited fresh problems return themselves."""
        return self

    def reference_scores(self, n: int, *, generator: torch.Generator, harder: bool = False) -> pd.DataFrame:
        """Score every entry of `references` on n test problems; its n training problems are never harder ones."""
        device = str(generator.device)
        training = self.stream("train").sample(n, generator=generator, device=device)
        test = self.stream("test").sample(n, generator=generator, device=device, harder=harder)
        return reference_table({key: self.scores(y, test) for key, y in self.references(training, test).items()})


class MatrixTask(DenoisingTask):
    """A regression onto a flattened size × size matrix: IRED's continuous tasks (arXiv 2406.11179, section 4.1)."""

    contrastive_weight = 0.5
    sample_clamp = 2.0
    solver: ClassVar[str] = "exact solution"  # name of the method `solve` in tables

    @abstractmethod
    def solve(self, x: Float[Tensor, "n x_dim"]) -> Float[Tensor, "n y_dim"]:
        """Solve the problems with the best classical method."""

    def corrupt(self, y: Tensor, settle: Callable[[], Tensor], draws: RowDraws) -> Tensor:
        return settle().clamp(-self.sample_clamp, self.sample_clamp)

    def scores(self, y_hat: Tensor, batch: Batch) -> Scores:
        """`mse`: the squared error, averaged over entries."""
        return {"mse": (y_hat - batch.y).double().square().mean(1)}

    def references(self, training: Batch, test: Batch) -> Predictions:
        """Three constants (one is the best possible for these test problems), the classical method and the truth."""
        return {
            ("zero", "trivial"): torch.zeros_like(test.y),
            ("mean target", "trivial"): training.y.mean(0).expand_as(test.y),
            ("best constant", "trivial"): test.y.mean(0).expand_as(test.y),
            (self.solver, "classical"): self.solve(test.x),
            ("truth", "ceiling"): test.y,
        }


def reference_scores(tasks: Mapping[str, Task], problems: int, seed: int) -> pd.DataFrame:
    """Reference scores of several tasks on fresh problems of both splits, led by columns task, split and seed."""
    tables = []
    for name, (split, harder) in product(tasks, SPLITS.items()):
        source = seeds.generator(seed, f"references/{split}")
        table = tasks[name].reference_scores(problems, generator=source, harder=harder)
        tables.append(pd.DataFrame({"task": name, "split": split, "seed": seed, **table}))
    return pd.concat(tables, ignore_index=True)


def reference_table(scores: Mapping[tuple[str, Kind], Mapping[str, Float[Tensor, " n"]]]) -> pd.DataFrame:
    """Means over problems and their normal 95 % intervals, NaNs ignored: name, kind, metric, value, low, high."""
    rows = []
    for (name, kind), by_metric in scores.items():
        for metric, values in by_metric.items():
            problems = pd.Series(values.double().cpu().numpy())
            mean, half = problems.mean(), NormalDist().inv_cdf(0.975) * problems.std() / problems.count() ** 0.5
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
    """Create a task by name: `get_task("inverse", size=20)`. Raises `ParameterError` for unknown names and options."""
    return TASKS.get(name)(**options)
