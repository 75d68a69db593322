"""`16_anm_verdict`: the best honest case for mined negatives, tuned on dev and confirmed on fresh seeds.

Plain denoising, stock negatives and mined ones are each tuned with the same number of candidates (all there are, where
these are fewer: plain denoising has six) and the same seeds, by successive halving (Jamieson & Talwalkar 2016) on the
dev stream: every candidate with the first tuning seed, the best few with the others. The winners are then trained on
seeds that took no part in the choice, and scored on the test stream at equal steps and at equal time, with fresh
problems in every step and with a small fixed set of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from anm_nb import files, store
from anm_nb.bounds import (
    Count,
    Counts,
    Decay,
    Examples,
    Fraction,
    LearningRate,
    Records,
    Seeds,
    Size,
    Steps,
    Threads,
    Width,
)
from anm_nb.config import ParameterError, Parameters
from anm_nb.energy.train import EnergyConfig
from anm_nb.files import replace_whole
from anm_nb.studies.reference_settings import TaskNames
from anm_nb.studies.search_space import Choice, Family, as_written, families
from anm_nb.tasks import task_class
from anm_nb.tasks.base import DenoisingTask
from anm_nb.training.loop import NonFiniteLoss
from anm_nb.training.seeds import generator
from anm_nb.training.timing import step_seconds

Training = Literal["unlimited", "fixed"]  # fresh problems in every step, or a fixed set
TRAININGS: tuple[Training, ...] = ("unlimited", "fixed")
LARGER = (2, 4, 8, 16)  # times the batch at which a step of plain denoising is timed
COST_ROUNDS = 40


class VerdictTraining(Parameters):
    """How one task of the study is trained and tested."""

    size: Size = 3
    task_options: dict[str, Any] = Field(default_factory=dict)
    network: str | None = None  # None: the task's published one
    width: Width = 32
    batch: Examples = 32
    steps: Steps = 20
    training_examples: Examples = 64  # of the fixed set
    dev_examples: Examples = 64
    test_examples: Annotated[Examples, Field(ge=2)] = 100


class AnmVerdict(VerdictTraining):
    """Which tasks are studied, how widely is tuned, on which seeds is confirmed; `per_task` replaces single values."""

    notebook: ClassVar[str] = "16_anm_verdict"

    tasks: TaskNames = ("inverse",)
    per_task: dict[str, dict[str, Any]] = Field(default_factory=dict)
    candidates: Count = 2
    survivors: Count = 1
    tuning_seeds: Seeds = (100, 101)
    seeds: Seeds = (0, 1, 2)
    lr: LearningRate = 2e-3
    lr_final: Fraction = 0.05
    ema_decay: Decay = 0.9
    records: Records = 3
    test_inner_steps: Counts = (1,)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Threads = 1
    jobs: Threads = 2

    @model_validator(mode="after")
    def _usable(self) -> AnmVerdict:
        for task in self.per_task:
            task_class(task)
        if shared := set(self.seeds) & set(self.tuning_seeds):
            raise ParameterError(f"seeds and tuning_seeds share {sorted(shared)}: what confirms must not have chosen")
        if self.survivors > self.candidates:
            raise ParameterError(f"survivors = {self.survivors}: at most candidates = {self.candidates}")
        if len(self.tuning_seeds) < 2:
            raise ParameterError(f"tuning_seeds = {list(self.tuning_seeds)}: needs one to sift by and one to choose by")
        for task in self.tasks:
            if not issubclass(task_class(task), DenoisingTask):
                raise ParameterError(f"tasks: '{task}' has no flat target, which the energy family needs")
            for name, family in self.families(task).items():
                self.config(task, "unlimited", name, family.default, self.seeds)
        return self

    def training(self, task: str) -> VerdictTraining:
        """The values for one task."""
        shared = {name: getattr(self, name) for name in VerdictTraining.model_fields}
        try:
            return VerdictTraining(**shared | self.per_task.get(task, {}))
        except ParameterError as error:
            raise error.within(f"per_task.{task}") from None

    def families(self, task: str) -> dict[str, Family]:
        """What is tuned for a task."""
        values = self.training(task)
        made = task_class(task)(size=values.size, **values.task_options)
        assert isinstance(made, DenoisingTask)
        return families(made)

    def config(
        self, task: str, training: Training, family: str, choice: Choice, seeds: Sequence[int], **changes: Any
    ) -> EnergyConfig:
        """The run of one choice; `changes` replace single values, and `tested` asks for a final evaluation."""
        values = self.training(task)
        if not changes.pop("tested", False):
            changes |= {"test_examples": None, "test_inner_steps": ()}
        weight = choice.get("weight", 1.0) * task_class(task).contrastive_weight  # type: ignore[attr-defined]
        share = choice.get("weight_end", 1.0)
        chosen: dict[str, Any] = {
            "lr": choice["lr_factor"] * self.lr,
            "head": choice["head"],
            "negatives": self.families(task)[family].negatives(choice),
            "contrastive_weight": weight,
            "contrastive_weight_end": None if share == 1 else share * weight,
            "contrast_from": choice.get("contrast_from", 0.0),
            "soft_label": choice.get("soft_label", False) or choice.get("legitimacy") == "soft_label",
            "training_examples": values.training_examples if training == "fixed" else None,
        }
        return EnergyConfig.of(self, values, task=task, seeds=tuple(seeds), **chosen | changes)


@dataclass(frozen=True)
class Plan:
    """What was chosen for one task and kind of training, and what equal time means there."""

    task: str
    training: Training
    chosen: dict[str, Choice]  # by family
    step_ms: dict[str, float]  # median milliseconds of a step: by family, and `none×2` … for larger batches
    longer: dict[str, int]  # steps of `none` and `stock` in the time that the mined run takes
    larger_batch: int  # batch of `none` with which the mined run's steps take the mined run's time


@dataclass(frozen=True)
class Study:
    """A finished study: every tuning run, what was chosen, and the confirmatory runs."""

    tuning: pd.DataFrame  # a row for each (task, training, family, candidate, seed): dev error and choice
    plans: list[Plan]
    confirmed: dict[tuple[str, Training, str], store.Run]  # by (task, training, method)


def study(settings: AnmVerdict) -> Study:
    """Tune, plan and confirm; every run comes from the store where it is there, so that a killed study goes on."""
    candidates = {
        (task, family): made.candidates(settings.candidates, generator(settings.tuning_seeds[0], f"{task}/{family}"))
        for task in settings.tasks
        for family, made in settings.families(task).items()
    }
    everything = [(task, family, i) for (task, family), choices in candidates.items() for i in range(len(choices))]
    sifting, choosing = settings.tuning_seeds[:1], settings.tuning_seeds[1:]
    sifted = _tune(settings, candidates, "unlimited", everything, sifting)
    survivors = _best(sifted, settings.survivors)
    again = sorted({*survivors, *((task, family, 0) for task, family in candidates)})
    compared = _tune(settings, candidates, "unlimited", survivors, choosing)
    fixed = _tune(settings, candidates, "fixed", again, settings.tuning_seeds)
    tuning = pd.concat([sifted, compared, fixed], ignore_index=True)
    plans = [
        _plan(settings, task, training, _winners(tuning, candidates, task, training, len(settings.tuning_seeds)))
        for task in settings.tasks
        for training in TRAININGS
    ]
    return Study(tuning, plans, _confirm(settings, plans))


def dev_error(run: store.Run) -> pd.Series:
    """The dev error at the end of training, by seed: the mean squared error, or 1 − balanced accuracy or the like."""
    assert isinstance(run.config, EnergyConfig)
    metric = task_class(run.config.task).metric
    last = run.metrics.groupby("seed").last()[metric]
    return last if metric == "mse" else 1 - last


def methods(settings: AnmVerdict, plan: Plan) -> dict[str, EnergyConfig]:
    """The confirmatory runs of a plan by method; those as published only where problems never run out."""
    task, training = plan.task, plan.training
    known = settings.families(task)

    def run(family: str, choice: Choice, **changes: Any) -> EnergyConfig:
        return settings.config(task, training, family, choice, settings.seeds, tested=True, **changes)

    configs = {f"{family}_tuned": run(family, choice) for family, choice in plan.chosen.items()}
    for family, steps in plan.longer.items():
        configs[f"{family}_longer"] = run(family, plan.chosen[family], steps=steps)
    configs["none_larger_batch"] = run("none", plan.chosen["none"], batch=plan.larger_batch)
    if training == "unlimited":
        configs["stock"] = run("stock", known["stock"].default)
        configs["anm"] = run("anm", as_written(known["anm"]))
    return configs


def _tune(
    settings: AnmVerdict,
    candidates: Mapping[tuple[str, str], Sequence[Choice]],
    training: Training,
    chosen: Sequence[tuple[str, str, int]],
    seeds: Sequence[int],
) -> pd.DataFrame:
    """Dev errors of some candidates; infinite where training or its samples diverged."""
    configs = {
        (task, family, i): settings.config(task, training, family, candidates[task, family][i], seeds)
        for task, family, i in chosen
    }
    trained = train_all(configs.values(), settings.jobs)
    rows = []
    for ((task, family, i), config), done in zip(configs.items(), trained, strict=True):
        errors = dev_error(store.get_or_train(config)) if done else pd.Series(math.inf, index=list(seeds))
        errors = errors.fillna(math.inf)
        choice = json.dumps(candidates[task, family][i])
        rows += [(task, training, family, i, seed, error, choice) for seed, error in errors.items()]
    return pd.DataFrame(rows, columns=["task", "training", "family", "candidate", "seed", "dev_error", "choice"])


def _best(table: pd.DataFrame, n: int) -> list[tuple[str, str, int]]:
    """The n candidates with the least mean error of each task and family."""
    means = table.groupby(["task", "family", "candidate"], sort=False)["dev_error"].mean()
    ranked = means.sort_values(kind="stable").groupby(level=["task", "family"], sort=False).head(n)
    return [(str(task), str(family), int(i)) for task, family, i in ranked.sort_index().index]


def _winners(
    tuning: pd.DataFrame,
    candidates: Mapping[tuple[str, str], Sequence[Choice]],
    task: str,
    training: Training,
    seeds: int,
) -> dict[str, Choice]:
    """The choice of each family with the least mean error among the candidates that saw every tuning seed."""
    rows = tuning[(tuning["task"] == task) & (tuning["training"] == training)]
    full = rows.groupby(["family", "candidate"]).filter(lambda group: group["seed"].nunique() == seeds)
    return {family: candidates[task, family][i] for _, family, i in _best(full, 1)}


def _plan(settings: AnmVerdict, task: str, training: Training, chosen: dict[str, Choice]) -> Plan:
    """Time a step of each, once: the plan is kept in a file, so that a study that goes on keeps to it."""
    values = settings.training(task)
    path = _plan_path(settings, task, training, chosen)
    if path.exists():
        return Plan(**json.loads(path.read_text(encoding="utf-8")))
    step_ms = _step_ms(settings, task, training, chosen)
    longer = {family: round(values.steps * step_ms["anm"] / step_ms[family]) for family in ("none", "stock")}
    sizes = [values.batch] + [factor * values.batch for factor in LARGER]
    times = [step_ms["none"]] + [step_ms[f"none×{factor}"] for factor in LARGER]
    larger_batch = batch_of_equal_time(sizes, times, step_ms["anm"])
    plan = Plan(task, training, chosen, step_ms, longer, larger_batch)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_whole(path, json.dumps(asdict(plan), indent=1).encode())
    return plan


def batch_of_equal_time(sizes: Sequence[int], times: Sequence[float], target: float) -> int:
    """The batch whose step takes `target`, by the straight line through the times of some sizes and within these."""
    slope, intercept = np.polyfit(sizes, times, 1)
    return int(np.clip(round((target - intercept) / slope), sizes[0], sizes[-1])) if slope > 0 else sizes[-1]


def _step_ms(settings: AnmVerdict, task: str, training: Training, chosen: Mapping[str, Choice]) -> dict[str, float]:
    """Median milliseconds of a training step, methods taken in turn; averaged over what changes during training."""
    values = settings.training(task)

    def config(family: str, choice: Choice, **changes: Any) -> EnergyConfig:
        return settings.config(task, training, family, choice, settings.tuning_seeds[:1], **changes)

    steady = {family: dict(choice) for family, choice in chosen.items()}
    for each in steady.values():
        each["contrast_from"] = 0.0
        if each.get("mined_share") == "rising":
            each["mined_share"] = "half"
    configs = {family: config(family, choice) for family, choice in steady.items()}
    configs |= {f"none×{factor}": config("none", steady["none"], batch=factor * values.batch) for factor in LARGER}
    seconds = step_seconds(configs, COST_ROUNDS).median() * 1000
    step_ms = {str(name): float(value) for name, value in seconds.items()}
    for family, choice in chosen.items():  # the warm-up is as cheap as plain denoising
        warm = choice.get("contrast_from", 0.0)
        step_ms[family] = warm * step_ms["none"] + (1 - warm) * step_ms[family]
    return step_ms


def _plan_path(settings: AnmVerdict, task: str, training: Training, chosen: Mapping[str, Choice]) -> Path:
    key = "-".join(
        store.run_key(settings.config(task, training, family, choice, settings.tuning_seeds))[:6]
        for family, choice in chosen.items()
    )
    return files.outputs_root() / AnmVerdict.notebook / "plans" / f"{task}-{training}-{key}.json"


def _confirm(settings: AnmVerdict, plans: Iterable[Plan]) -> dict[tuple[str, Training, str], store.Run]:
    """The confirmatory runs of all plans, the longest first. Raises `NonFiniteLoss` where one diverges."""
    configs = {
        (plan.task, plan.training, method): config
        for plan in plans
        for method, config in methods(settings, plan).items()
    }
    train_all(configs.values(), settings.jobs)
    return {key: store.get_or_train(config) for key, config in configs.items()}


def train_all(configs: Iterable[EnergyConfig], jobs: int) -> list[bool]:
    """Train what the store does not have, in so many processes; whether each came to its end without diverging."""
    from joblib import Parallel, delayed

    return Parallel(n_jobs=jobs, batch_size=1)(delayed(_trained)(config) for config in configs)


def _trained(config: EnergyConfig) -> bool:
    try:
        store.get_or_train(config)
    except NonFiniteLoss:
        return False
    return True
