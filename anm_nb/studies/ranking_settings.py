"""The settings of the ranking notebooks: what their parameter cells may say, and the runs that follow from it.

Every notebook starts from one HRM config; what two of them train alike is the same config, hence one run in the store.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import pandas as pd
from pydantic import AfterValidator, Field, model_validator

from anm_nb import store
from anm_nb.bounds import (
    Count,
    Counts,
    Distinct,
    Epochs,
    Examples,
    LearningRate,
    Rate,
    Seeds,
    Size,
    Temperature,
    Threads,
    Weight,
    Width,
)
from anm_nb.config import ParameterError, Parameters
from anm_nb.ranking.train import RankingConfig
from anm_nb.ranking.variants import ablations, published
from anm_nb.tasks import TASKS
from anm_nb.training.seeds import generator

TaskName = Annotated[str, AfterValidator(TASKS.known)]


class RankingSettings(Parameters):
    """What all ranking notebooks can set: problems, architecture and training of the HRM model, and its seeds."""

    size: Annotated[Size, Field(ge=2)] = 10
    mask_rate: Rate = 0.5
    width: Width = 32
    n_heads: Count = 4
    max_inner_iters: Count = 3
    hrm_period: Count = 2
    temperature: Temperature = 2.0
    entropy_weight: Weight = 1e-3
    entropy_every: Epochs = 1
    warmup_epochs: Annotated[int, Field(ge=0, le=10**5)] = 1
    encoder_lr: LearningRate = 5e-3
    controller_lr: LearningRate = 2e-3
    batch: Examples = 32
    epochs: Epochs = 3
    stop_at_score: Annotated[float, Field(gt=-1, le=1)] | None = None
    train_samples: Examples = 160
    dev_samples: Examples = 100
    test_samples: Examples = 200
    seeds: Seeds = (1, 2, 3)
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Threads = 1

    @model_validator(mode="after")
    def _usable(self) -> RankingSettings:
        self.configs()  # what no model or task can be made of is refused here
        return self

    def hrm(self) -> RankingConfig:
        """The HRM model with every fix on."""
        return RankingConfig(**{name: value for name, value in self if name in RankingConfig.model_fields})

    def configs(self) -> dict[str, RankingConfig]:
        """The runs of the notebook by name."""
        return {"baseline": self.hrm().baseline(), "hrm": self.hrm()}

    def get_or_train(self) -> dict[str, store.Run]:
        """The finished runs by name, trained where the store has none."""
        return {name: store.get_or_train(config) for name, config in self.configs().items()}

    def reference_scores(self, n: int = 2000) -> pd.DataFrame:
        """The task's trivial, classical and best-possible τ; what is measured of it, on n arrays."""
        return self.hrm().make_task().reference_scores(n, generator=generator(0, "references"))


class KendallForensics(RankingSettings):
    """The published set-up with and without iteration, each fix added alone, each removed alone, and all of them."""

    notebook: ClassVar[str] = "02_kendall_forensics"

    def configs(self) -> dict[str, RankingConfig]:
        """The ablation of `variants.ablations`, and the published set-up without iteration."""
        return {"published baseline": published(self.hrm()).baseline(), **ablations(self.hrm())}


class RankingExperiment(RankingSettings):
    """An experiment of the HRM document, on its own task or another one that is answered by an order."""

    task: TaskName = "partial_sort"


class HrmVsBaseline(RankingExperiment):
    """Experiment 1: the HRM model against the same model without iteration, all fixes on."""

    notebook: ClassVar[str] = "20_hrm_vs_baseline"


class Sweep(RankingExperiment):
    """Experiments 2–5: one field of the HRM model at several values, beside the baseline.

    The field's own setting has to be among the `values`: it is the run that the others are compared with.
    """

    swept: ClassVar[str]

    values: Annotated[tuple[float, ...], Field(strict=False, min_length=1), Distinct]

    def configs(self) -> dict[str, RankingConfig]:
        """The baseline, and the HRM model at each value in turn."""
        if getattr(self, self.swept) not in self.values:
            raise ParameterError(
                f"values = {list(self.values)}: {self.swept} = {getattr(self, self.swept)} has to be among them, "
                "as the others are compared with it"
            )
        hrm = self.hrm()
        varied = {self.name_of(value): hrm.changed(**{self.swept: value}) for value in self.values}
        return {"baseline": hrm.baseline(), **varied}

    def name_of(self, value: int | float) -> str:
        """What the run at a value is called."""
        return f"{self.swept} = {value:g}"

    def compared_with(self) -> str:
        """The name of the run at the field's own setting."""
        return self.name_of(getattr(self, self.swept))


class HrmIterations(Sweep):
    """Experiment 2: the number of iterations."""

    notebook: ClassVar[str] = "21_hrm_iterations"
    swept: ClassVar[str] = "max_inner_iters"

    values: Counts = (2, 3, 4, 6)


class HrmPeriod(Sweep):
    """Experiment 3: the iterations between updates of the controller's slow state."""

    notebook: ClassVar[str] = "22_hrm_period"
    swept: ClassVar[str] = "hrm_period"

    values: Counts = (1, 2, 3)


class HrmEntropy(Sweep):
    """Experiment 4: the weight of the routing entropy in the loss."""

    notebook: ClassVar[str] = "23_hrm_entropy"
    swept: ClassVar[str] = "entropy_weight"

    values: Annotated[tuple[Weight, ...], Field(strict=False, min_length=1), Distinct] = (5e-4, 1e-3, 2e-3)


class HrmTemperature(Sweep):
    """Experiment 5: the routing temperature that training starts from."""

    notebook: ClassVar[str] = "24_hrm_temperature"
    swept: ClassVar[str] = "temperature"

    values: Annotated[tuple[Temperature, ...], Field(strict=False, min_length=1), Distinct] = (1.5, 2.0, 2.5)
