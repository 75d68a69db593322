"""A tuning study: learning rate × method, then each method's own options, chosen on dev and confirmed on fresh seeds.

Every method is tried with as many settings. Where the best one lies on an edge of the learning rates or contrastive
weights that were tried, the grid grows there. What differs in these two numbers and in seeds trains as one stack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import pandas as pd
from pydantic import AfterValidator, Field, model_validator

from anm_nb.bounds import Decay, Distinct, Examples, Fraction, LearningRate, Records, Seeds, Size, Steps, Width
from anm_nb.config import ParameterError, Parameters, unknown_name
from anm_nb.energy.stacked_runs import NamedConfig, multiply_adds, train_stacks
from anm_nb.energy.train import EnergyConfig

WEIGHT_FACTORS = (0.5, 2.0, 4.0)  # on the published contrastive weight, which the first stage has


def _negatives(name: str, **options: Any) -> dict[str, Any]:
    return {"negatives": {"name": name, **options}}


_HALF = {"eps": 0.5, "start": 0.25, "step_size": 0.25}  # the miner's radius, ‖y⁺‖/2, and what goes with it
# Fields of `EnergyConfig` by method and option, "" being the method as it is. Beyond the learning rate each method has
# five settings: three contrastive weights and two options, or five options.
METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "none": {
        "": {"negatives": "none"},
        "EMA decay 0.999": {"ema_decay": 0.999},
        "EMA decay 0.97": {"ema_decay": 0.97},
        "clip norm 0.3": {"clip_norm": 0.3},
        "decay to 0.5 %": {"lr_final": 0.005},
        "scalar head": {"head": "scalar"},
    },
    "stock": {
        "": _negatives("stock"),
        "noise 1.5 ε": _negatives("stock", noise_factor=1.5),
        "one descent step": _negatives("stock", descent_steps=1),
    },
    "anm": {
        "": _negatives("anm"),
        "radius ‖y‖/2": _negatives("anm", miner=_HALF),
        "soft label": {"soft_label": True},
    },
    "anm_orthogonal": {
        "": _negatives("anm_orthogonal"),
        "radius ‖y‖/2": _negatives("anm_orthogonal", miner=_HALF),
        "5 inner steps": _negatives("anm_orthogonal", miner={"steps": 5}),
    },
    "random_orthogonal": {
        "": _negatives("random", orthogonal_to_noise=True),
        "radius ‖y‖/2": _negatives("random", orthogonal_to_noise=True, eps=0.5),
        "radius ‖y‖/4": _negatives("random", orthogonal_to_noise=True, eps=0.25),
    },
    "mrncl": {
        "": _negatives("mrncl"),
        "radius ‖y‖/2": _negatives("mrncl", eps=0.5),
        "least slope 4": _negatives("mrncl", least_slope=4.0),
    },
}


def _known(name: str) -> str:
    if name not in METHODS:
        raise ParameterError(unknown_name("method", name, METHODS))
    return name


class Setting(NamedTuple):
    """What is tuned of a method: the name of an option ("" for none), learning rate, contrastive weight (0: none)."""

    method: str
    option: str
    lr: float
    weight: float


class Tuning(Parameters):
    """One study of one task; `steps`, `batch` and `width` are the same for all methods."""

    task: str = "inverse"
    size: Size = 5
    width: Width = 128
    batch: Examples = 128
    steps: Steps = 2000
    methods: Annotated[
        tuple[Annotated[str, AfterValidator(_known)], ...], Field(strict=False, min_length=1), Distinct
    ] = tuple(METHODS)
    lrs: Annotated[tuple[LearningRate, ...], Field(strict=False, min_length=1), Distinct] = tuple(
        0.001 * 2**i for i in range(7)
    )
    lr_final: Fraction = 0.05
    ema_decay: Decay = 0.99
    n_options: Annotated[int, Field(ge=0, le=5)] = 5  # of each method, the same number, beside the learning rate
    tuning_seeds: Seeds = (100, 101, 102)
    growth: Annotated[int, Field(ge=0, le=10)] = 4  # times that the grid may grow at the edges, in each stage
    seeds: Seeds = tuple(range(200, 212))
    records: Records = 25
    dev_examples: Examples = 512
    test_examples: Examples = 1000

    @model_validator(mode="after")
    def _usable(self) -> Tuning:
        if shared := set(self.seeds) & set(self.tuning_seeds):
            raise ParameterError(f"seeds and tuning_seeds share {sorted(shared)}: they must be disjoint")
        configs = [self.config(setting, self.seeds) for setting in self.grid()]
        self.config(self.grid()[0], self.seeds, test_examples=self.test_examples)  # refuses what no memory holds
        if (metric := configs[0].make_task().metric) != "mse":
            raise ParameterError(f"task = '{self.task}': is scored by {metric}, and the study minimises an mse")
        return self

    def config(self, setting: Setting, seeds: Sequence[int], **changes: Any) -> EnergyConfig:
        """The run of a setting, measured at its start and end only unless `changes` say otherwise."""
        options = METHODS[setting.method]
        fields = {"record_every": self.steps, "checkpoint_every": 10**6} | options[""] | options[setting.option]
        fields |= {"contrastive_weight": setting.weight} if setting.weight else {}
        fields |= {"test_examples": None, "lr": setting.lr, "seeds": tuple(seeds)} | changes
        return cast(EnergyConfig, EnergyConfig.of(self, **fields))

    def grid(self) -> list[Setting]:
        """Every method as it is, at every learning rate."""
        found = []
        for method in self.methods:
            config = EnergyConfig.of(self, test_examples=None, **METHODS[method][""])
            found += [Setting(method, "", lr, config.weight) for lr in self.lrs]
        return found

    def options(self, best: Sequence[Setting]) -> list[Setting]:
        """Each method's own options and weights, at its best learning rate, half and double that."""
        found = []
        for each in best:
            own = [each._replace(option=option) for option in METHODS[each.method] if option]
            own += [each._replace(weight=factor * each.weight) for factor in WEIGHT_FACTORS if each.weight]
            found += [one._replace(lr=factor * each.lr) for one in own[: self.n_options] for factor in (0.5, 1.0, 2.0)]
        return found


def beyond(tried: Sequence[Setting], best: Setting, names: Sequence[str] = ("lr", "weight")) -> list[Setting]:
    """The settings just beyond the edges of learning rates and weights that a best setting lies on; none if on none."""
    found = []
    for name in names:
        value, most = getattr(best, name), {"lr": 1.0, "weight": 1000.0}[name]
        values = [getattr(each, name) for each in tried if each._replace(**{name: value}) == best]
        if value == min(values):
            found.append(best._replace(**{name: value / 2}))
        if value == max(values):
            found.append(best._replace(**{name: min(2 * value, most)}))
    return [each for each in dict.fromkeys(found) if each not in tried]


def tune(study: Tuning, folder: Path, log: Callable[[str], None] = print) -> pd.DataFrame:
    """All runs on the tuning seeds: a row for each setting, seed and record, with the stage it belongs to.

    What is trained is kept in `folder`, so that a study that was interrupted goes on.
    """
    tables: list[pd.DataFrame] = []
    tried: list[Setting] = []

    def run(settings: Sequence[Setting], stage: str) -> list[Setting]:
        new = [setting for setting in dict.fromkeys(settings) if setting not in tried]
        configs = [(setting._asdict(), study.config(setting, study.tuning_seeds)) for setting in new]
        tables.append(train_stacks(configs, stage, folder, study.test_examples, log))
        tried.extend(new)
        return best_settings(pd.concat(tables, ignore_index=True))

    best = run(study.grid(), "learning rate")
    for stage, edges in (("learning rate", ("lr",)), ("options", ("lr", "weight"))):
        if stage == "options":
            best = run(study.options(best), stage)
        for _ in range(study.growth):
            if not (more := [each for one in best for each in beyond(tried, one, edges)]):
                break
            best = run(more, f"{stage}: edges")
    return pd.concat(tables, ignore_index=True)


def errors(table: pd.DataFrame) -> pd.DataFrame:
    """Mean dev and test errors of each setting over its seeds, infinite where one of them did not come to its end.

    Columns: those of `Setting`, dev, test_same, test_harder, stage.
    """
    last = table.sort_values("step").groupby([*Setting._fields, "seed"], as_index=False, sort=False).tail(1)
    ended = last["step"] == last["steps"]
    names = ["dev", "test_same", "test_harder"]
    last = last.assign(**{name: last[name].where(ended).fillna(math.inf) for name in names})
    groups = last.groupby(list(Setting._fields), sort=False, as_index=False)
    return groups.agg({name: "mean" for name in names} | {"stage": "first"})


def best_settings(table: pd.DataFrame) -> list[Setting]:
    """The setting of each method with the least mean dev error; the first of equals."""
    means = errors(table)
    rows = means.loc[means.groupby("method", sort=False)["dev"].idxmin(), list(Setting._fields)]
    return [Setting(*row) for row in rows.itertuples(index=False)]


def choices(table: pd.DataFrame) -> pd.DataFrame:
    """What was chosen for each method, its dev and test errors, settings tried, and the edges it lies on, if any."""
    means = errors(table)
    tried = [Setting(*row) for row in means[list(Setting._fields)].itertuples(index=False)]
    best = pd.DataFrame(best_settings(table)).merge(means, on=list(Setting._fields))
    edges = [beyond(tried, Setting(*row)) for row in best[list(Setting._fields)].itertuples(index=False)]
    counts = best["method"].map(means["method"].value_counts())
    return best.assign(settings_tried=counts, on_an_edge=[bool(each) for each in edges])


def confirmation(study: Tuning, chosen: Sequence[Setting]) -> list[NamedConfig]:
    """The runs on fresh seeds: every chosen setting, and plain denoising and stock negatives at equal compute.

    `budget` is "steps" for runs of equal length. "multiply-adds" is that of the dearest mined method (one whose name
    begins with anm): plain denoising and stock negatives with as many more steps, plain with as much larger a batch.
    """

    def config(setting: Setting, **changes: Any) -> EnergyConfig:
        return study.config(setting, study.seeds, record_every=None, records=study.records, **changes)

    macs = {each.method: multiply_adds(config(each)) for each in chosen}
    runs: list[NamedConfig] = [({**each._asdict(), "budget": "steps"}, config(each)) for each in chosen]
    most = max((count for name, count in macs.items() if name.startswith("anm")), default=max(macs.values()))
    for each in (each for each in chosen if each.method in ("none", "stock")):
        ratio = most / macs[each.method]
        changes = {"more steps": {"steps": round(ratio * study.steps)}}
        changes |= {"larger batch": {"batch": round(ratio * study.batch)}} if each.method == "none" else {}
        for what, change in changes.items():
            named = {**each._asdict(), "method": f"{each.method}, {what}", "budget": "multiply-adds"}
            runs.append((named, config(each, **change)))
    return runs


def confirm(
    study: Tuning, runs: Sequence[NamedConfig], folder: Path, log: Callable[[str], None] = print
) -> pd.DataFrame:
    """Train what `confirmation` lists, with records all along: a row for each method, seed and record.

    Columns beside the metrics: multiply_adds, of one seed up to that step; step_ms, of all seeds together.
    """
    table = train_stacks(runs, "confirmation", folder, study.test_examples, log, timed=True)
    per_step = {name["method"]: multiply_adds(config) for name, config in runs}
    return table.assign(multiply_adds=table["method"].map(per_step) * table["step"])
