"""Where iteration helps: the models of notebook 25 at several maskings, training sizes, lengths and noise in hints.

Only what is trained is here. All else that the study varies (iterations at test time, chain lengths, noise, longer
arrays) is asked of the trained models on fresh problems.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from anm_nb.bounds import Count, Counts, Distinct, Epochs, Examples, Rate, Rates, Size, Width
from anm_nb.config import ParameterError
from anm_nb.ranking.train import RankingConfig
from anm_nb.ranking.variants import comparators
from anm_nb.studies.ranking_settings import RankingExperiment, TaskName

# The models that are trained for every question; the others isolate parts of HRM once.
MODELS = ("no iteration", "deep untied", "weight-tied", "HRM per token")

Length = Annotated[Size, Field(ge=2)]  # items
Varied = tuple[str, float]  # the name of a setting and its value


class WhereIterationHelps(RankingExperiment):
    """All comparators of one HRM model, and the four of `MODELS` again with one setting changed.

    Codes should be narrower than a head (width / n_heads): in trials with as many signs as a head has dimensions some
    seeds stalled before they had learned to match them, whatever the learning rate.
    A smaller training set is seen as often as makes for as many steps, with all that goes by epochs stretched alike.
    """

    notebook: ClassVar[str] = "25_where_iteration_helps"

    task: TaskName = "hinted_sort"
    code_width: Width = 8
    size: Annotated[Size, Field(ge=2)] = 8
    mask_rate: Rate = 0.75
    max_inner_iters: Annotated[Count, Field(ge=2)] = 3
    mask_rates: Rates = (0.5,)
    train_sizes: Annotated[tuple[Examples, ...], Field(strict=False, min_length=1), Distinct] = (128,)
    train_length: Length = 6
    test_lengths: Annotated[tuple[Length, ...], Field(strict=False, min_length=1), Distinct] = (6, 8, 12)
    test_iterations: Counts = (1, 2, 3, 4, 6, 8)
    chain_lengths: Counts = (2, 4, 6)
    train_wrong_rate: Rate = 0.2
    wrong_rates: Rates = (0.0, 0.2, 0.4)
    patiences: Counts = (1, 2)
    problems: Examples = 100
    epochs: Epochs = 2
    train_samples: Examples = 256

    @model_validator(mode="after")
    def _can_be_asked(self) -> WhereIterationHelps:
        """What the trained models will be asked has to exist before they are trained."""
        hrm = self.hrm()
        asked: dict[str, list[dict[str, Any]]] = {
            "chain_lengths": [{"task_options": hrm.task_options | {"chain_length": n}} for n in self.chain_lengths],
            "test_lengths": [{"size": length} for length in self.test_lengths],
            "wrong_rates": [{"task_options": hrm.task_options | {"wrong_rate": rate}} for rate in self.wrong_rates],
        }
        for name, changes in asked.items():
            for change in changes:
                try:
                    hrm.changed(**change)
                except ParameterError as error:
                    raise error.within(name) from None
        return self

    def hrm(self) -> RankingConfig:
        """The HRM model with every fix on, on problems with codes of that width."""
        return super().hrm().changed(task_options={"code_width": self.code_width})

    def comparators(self) -> dict[str, RankingConfig]:
        """All comparators at the settings as they are."""
        return comparators(self.hrm())

    def varied(self, name: str, value: float) -> dict[str, RankingConfig]:
        """The models of `MODELS`, by the name of their run, with mask_rate, train_samples, size or wrong_rate changed.

        Where the value is the setting's own they are those of `comparators`. Raises `ParameterError` for a number of
        `train_samples` that does not divide the setting's own.
        """
        derived = comparators(_CHANGES[name](self.hrm(), value))
        return {self.name_of(model, (name, value)): derived[model] for model in MODELS}

    def control(self) -> dict[str, RankingConfig]:
        """HRM on pointers that follow another order than the true one."""
        hrm = self.hrm()
        shuffled = hrm.changed(task_options=hrm.task_options | {"hints": "shuffled"})
        return {"HRM per token, shuffled hints": comparators(shuffled)["HRM per token"]}

    def configs(self) -> dict[str, RankingConfig]:
        """Every run of the study by name."""
        trained = self.comparators()
        for name, value in self.variations():
            trained |= self.varied(name, value)
        return trained | self.control()

    def variations(self) -> list[Varied]:
        """What is changed in turn."""
        return [
            *(("mask_rate", rate) for rate in self.mask_rates),
            *(("train_samples", count) for count in self.train_sizes),
            ("size", self.train_length),
            ("wrong_rate", self.train_wrong_rate),
        ]

    def name_of(self, model: str, changed: Varied) -> str:
        """The name of a model's run with a setting changed."""
        name, value = changed
        own = 0.0 if name == "wrong_rate" else getattr(self, name)
        return model if value == own else f"{model}, {name} = {value:g}"


def _with_samples(config: RankingConfig, count: float) -> RankingConfig:
    """As many steps on so many problems."""
    if config.train_samples % count:
        raise ParameterError(
            f"train_sizes: {count:g} does not divide train_samples = {config.train_samples}, so that as many steps "
            "would not be whole epochs"
        )
    times = config.train_samples // int(count)
    return config.changed(
        train_samples=int(count),
        epochs=times * config.epochs,
        warmup_epochs=times * config.warmup_epochs,
        entropy_every=times * config.entropy_every,
        temperature_decay=config.temperature_decay ** (1 / times),
    )


def _with_wrong_pointers(config: RankingConfig, rate: float) -> RankingConfig:
    options: dict[str, Any] = {"wrong_rate": rate} if rate else {}
    return config.changed(task_options=config.task_options | options)


_CHANGES = {
    "mask_rate": lambda config, rate: config.changed(mask_rate=rate),
    "train_samples": _with_samples,
    "size": lambda config, size: config.changed(size=int(size)),
    "wrong_rate": _with_wrong_pointers,
}
