"""A tuning study: learning rate × method, then each method's own options, chosen on dev and confirmed on fresh seeds.

Every method is tried with as many settings. Where the best one lies on an edge of the learning rates or contrastive
weights that were tried, the grid grows there. What differs in these two numbers and in seeds trains as one stack.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple, cast

import pandas as pd
import torch
from pydantic import Field, model_validator

from anm_nb import store
from anm_nb.bounds import Decay, Distinct, Examples, Fraction, LearningRate, Records, Seeds, Size, Steps, Width
from anm_nb.config import ParameterError, Parameters, unknown_name
from anm_nb.energy.evaluate import predict
from anm_nb.energy.train import EnergyConfig, joined
from anm_nb.files import replace_whole
from anm_nb.tasks.base import SPLITS
from anm_nb.training.checkpoint import by_prefix
from anm_nb.training.learner import Member, resolve_device
from anm_nb.training.loop import NonFiniteLoss, Training
from anm_nb.training.run import arithmetic, counted_flops, next_step_seconds
from anm_nb.training.seeds import generator

WEIGHT_FACTORS = (0.5, 2.0, 4.0)  # on the published contrastive weight, which the first stage has
_HALF = {"eps": 0.5, "start": 0.25, "step_size": 0.25}  # the miner's radius, ‖y⁺‖/2, and what goes with it
# By method and option what is set beyond the strategy of that name, "" being the method as it is: fields of
# `EnergyConfig`, all others of the strategy. Beyond the learning rate each method has five settings: three contrastive
# weights and two options, or five options.
METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "none": {
        "EMA decay 0.999": {"ema_decay": 0.999},
        "EMA decay 0.97": {"ema_decay": 0.97},
        "clip norm 0.3": {"clip_norm": 0.3},
        "decay to 0.5 %": {"lr_final": 0.005},
        "scalar head": {"head": "scalar"},
    },
    "stock": {"noise 1.5 ε": {"noise_factor": 1.5}, "one descent step": {"descent_steps": 1}},
    "anm": {"radius ‖y‖/2": {"miner": _HALF}, "soft label": {"soft_label": True}},
    "anm_orthogonal": {"radius ‖y‖/2": {"miner": _HALF}, "5 inner steps": {"miner": {"steps": 5}}},
    "random_orthogonal": {
        "": {"name": "random", "orthogonal_to_noise": True},
        "radius ‖y‖/2": {"eps": 0.5},
        "radius ‖y‖/4": {"eps": 0.25},
    },
    "mrncl": {"radius ‖y‖/2": {"eps": 0.5}, "least slope 4": {"least_slope": 4.0}},
}
Named = tuple[Mapping[str, Any], EnergyConfig]  # columns that name a run, and the run
LearningRates = Annotated[tuple[LearningRate, ...], Field(strict=False, min_length=1), Distinct]
Log = Callable[[str], None]


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
    methods: Annotated[tuple[str, ...], Field(strict=False, min_length=1), Distinct] = tuple(METHODS)
    lrs: LearningRates = tuple(0.001 * 2**i for i in range(7))
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
        for method in self.methods:
            if method not in METHODS:
                raise ParameterError(f"methods: {unknown_name('method', method, METHODS)}")
        if shared := set(self.seeds) & set(self.tuning_seeds):
            raise ParameterError(f"seeds and tuning_seeds share {sorted(shared)}: they must be disjoint")
        first, *_ = [self.config(setting, self.seeds, test_examples=self.test_examples) for setting in self.grid()]
        if (metric := first.make_task().metric) != "mse":
            raise ParameterError(f"task = '{self.task}': is scored by {metric}, and the study minimises an mse")
        return self

    def config(self, setting: Setting, seeds: Sequence[int], **changes: Any) -> EnergyConfig:
        """The run of a setting, measured at its start and end only unless `changes` say otherwise."""
        options = METHODS[setting.method]
        given = {"name": setting.method, **options.get("", {}), **options.get(setting.option, {})}
        of_config = {name: given.pop(name) for name in list(given) if name in EnergyConfig.model_fields}
        fields = {"record_every": self.steps, "checkpoint_every": 10**6, "negatives": given} | of_config
        fields |= {"contrastive_weight": setting.weight} if setting.weight else {}
        fields |= {"test_examples": None, "lr": setting.lr, "seeds": tuple(seeds)} | changes
        return cast(EnergyConfig, EnergyConfig.of(self, **fields))

    def grid(self) -> list[Setting]:
        """Every method as it is, at every learning rate."""
        plain = [Setting(method, "", lr, 0.0) for method in self.methods for lr in self.lrs]
        return [each._replace(weight=self.config(each, self.seeds).weight) for each in plain]

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
        found += [best._replace(**{name: value / 2})] if value == min(values) else []
        found += [best._replace(**{name: min(2 * value, most)})] if value == max(values) else []
    return [each for each in dict.fromkeys(found) if each not in tried]


def tune(study: Tuning, folder: Path, log: Log = print) -> pd.DataFrame:
    """All runs on the tuning seeds: a row for each setting, seed and record, with the stage it belongs to.

    What is trained is kept in `folder`, so that a study that was interrupted goes on.
    """
    table, tried = pd.DataFrame(), list[Setting]()

    def run(settings: Sequence[Setting], stage: str) -> list[Setting]:
        nonlocal table
        new = [setting for setting in dict.fromkeys(settings) if setting not in tried]
        runs = [(setting._asdict(), study.config(setting, study.tuning_seeds)) for setting in new]
        table = pd.concat([table, train_stacks(runs, stage, folder, study.test_examples, log)], ignore_index=True)
        tried.extend(new)
        return settings_of(choices(table))

    best = run(study.grid(), "learning rate")
    for stage, edges in (("learning rate", ["lr"]), ("options", ["lr", "weight"])):
        if stage == "options":
            best = run(study.options(best), stage)
        for _ in range(study.growth):
            if not (more := [each for one in best for each in beyond(tried, one, edges)]):
                break
            best = run(more, f"{stage}: edges")
    return table


def errors(table: pd.DataFrame) -> pd.DataFrame:
    """Mean dev and test errors of each setting over its seeds, infinite where one of them did not come to its end.

    Columns: those of `Setting`, dev, test_same, test_harder, stage.
    """
    last = table.sort_values("step").groupby([*Setting._fields, "seed"], as_index=False, sort=False).tail(1)
    names, ended = ["dev", "test_same", "test_harder"], last["step"] == last["steps"]
    last = last.assign(**{name: last[name].where(ended).fillna(math.inf) for name in names})
    groups = last.groupby(list(Setting._fields), sort=False, as_index=False)
    return groups.agg(dict.fromkeys(names, "mean") | {"stage": "first"})


def choices(table: pd.DataFrame) -> pd.DataFrame:
    """The setting of each method with the least mean dev error, the first of equals: a row of `errors`.

    Beside it stand how many settings were tried, and whether it lies on an edge of them.
    """
    means = errors(table)
    best = means.loc[means.groupby("method", sort=False)["dev"].idxmin()].reset_index(drop=True)
    edges = [bool(beyond(settings_of(means), each)) for each in settings_of(best)]
    return best.assign(settings_tried=best["method"].map(means["method"].value_counts()), on_an_edge=edges)


def settings_of(table: pd.DataFrame) -> list[Setting]:
    """The settings that rows of `choices` or `errors` are of."""
    return [Setting(*row) for row in table[list(Setting._fields)].itertuples(index=False)]


def confirmation(study: Tuning, chosen: Sequence[Setting]) -> list[Named]:
    """The runs on fresh seeds: every chosen setting, and plain denoising and stock negatives at equal compute.

    `budget` is "steps" for runs of equal length. "multiply-adds" is that of the dearest mined method (one whose name
    begins with anm): plain denoising and stock negatives with as many more steps, plain with as much larger a batch.
    """

    def run(setting: Setting, what: str = "", budget: str = "steps", **changes: Any) -> Named:
        named = {**setting._asdict(), "method": setting.method + what, "budget": budget}
        return named, study.config(setting, study.seeds, record_every=None, records=study.records, **changes)

    runs = [run(each) for each in chosen]
    macs = {each.method: multiply_adds(config) for each, (_, config) in zip(chosen, runs, strict=True)}
    most = max((count for name, count in macs.items() if name.startswith("anm")), default=max(macs.values()))
    for each in (each for each in chosen if each.method in ("none", "stock")):
        ratio = most / macs[each.method]
        runs.append(run(each, ", more steps", "multiply-adds", steps=round(ratio * study.steps)))
        if each.method == "none":
            runs.append(run(each, ", larger batch", "multiply-adds", batch=round(ratio * study.batch)))
    return runs


def confirm(study: Tuning, runs: Sequence[Named], folder: Path, log: Log = print) -> pd.DataFrame:
    """Train what `confirmation` lists, with records all along: a row for each method, seed and record.

    Columns beside the metrics: multiply_adds, of one seed up to that step; step_ms, of all seeds together.
    """
    table = train_stacks(runs, "confirmation", folder, study.test_examples, log, timed=True)
    per_step = {name["method"]: multiply_adds(config) for name, config in runs}
    return table.assign(multiply_adds=table["method"].map(per_step) * table["step"])


def train_stacks(
    runs: Sequence[Named], stage: str, folder: Path, n_test: int, log: Log, timed: bool = False
) -> pd.DataFrame:
    """A row for each run, seed and record: those that can be one stack train together.

    Finished stacks come from `folder`, and unfinished ones go on from their checkpoints there.
    """
    tables = []
    for own in dict.fromkeys(config.stack_key() for _, config in runs):
        stack = [(named, config) for named, config in runs if config.stack_key() == own]
        keys = " ".join(store.run_key(config) for _, config in stack)
        path = folder / f"{hashlib.sha256(f'{stage} {keys}'.encode()).hexdigest()[:16]}.parquet"
        if not path.exists():
            table = train_stack(stack, folder, n_test, timed).assign(stage=stage)
            replace_whole(path, table.to_parquet())
            names = ", ".join(dict.fromkeys(f"{named['method']} {named['option']}".strip() for named, _ in stack))
            log(f"{stage}: {names}: {len(stack)} settings")
        tables.append(pd.read_parquet(path))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def train_stack(stack: Sequence[Named], folder: Path, n_test: int, timed: bool) -> pd.DataFrame:
    """Metrics of every seed and record of one stack; a seed whose loss became NaN ends early.

    Columns beside them: what names a config, `steps` in all, `dev` (the task's metric), test_same and test_harder in
    each seed's last row, and `step_ms`, the median time of the whole stack's step, NaN unless `timed`.
    """
    first = stack[0][1]
    device = resolve_device(first.device)
    members = [Member(config, seed) for _, config in stack for seed in config.seeds]
    folders = [folder / store.run_key(config) for _, config in stack for _ in config.seeds]
    for each in folders:
        each.mkdir(parents=True, exist_ok=True)
    with arithmetic(first):
        training, step_ms = Training(first.make_learner(members, device), folders), math.nan
        with suppress(NonFiniteLoss):  # such a seed has no row of the last step
            training.run()
        tested = errors_on_test(training, n_test)
        if timed and (device == "cuda" or not any(record.failure for record in training.records)):
            step_ms = 1000 * median(next_step_seconds(training) for _ in range(min(128, first.steps)))
    names, tables = [named for named, config in stack for _ in config.seeds], []
    for named, record, (same, harder) in zip(names, training.records, tested, strict=True):
        own = pd.DataFrame(record.rows).assign(**named, task=first.task, steps=first.steps, step_ms=step_ms)
        own = own.assign(dev=own[first.make_task().metric], test_same=math.nan, test_harder=math.nan)
        own.loc[len(own) - 1, ["test_same", "test_harder"]] = same, harder
        tables.append(own)
    return pd.concat(tables, ignore_index=True)


def errors_on_test(training: Training, n: int) -> list[tuple[float, ...]]:
    """The sampler's errors of every seed's averaged weights on n test problems of its own, the usual and harder."""
    learner: Any = training.learner
    task, device = learner.task, training.device
    for record, member in zip(training.records, training.averaged.members, strict=True):
        if own := by_prefix(record.weights, "averaged."):
            member.load_state_dict(own)
    found, stream = [], task.stream("test")
    for split, harder in SPLITS.items():
        sources = [generator(seed, f"test/{split}", device) for seed in learner.seeds]
        batches = [stream.sample(n, generator=source, device=device, harder=harder) for source in sources]
        how = learner.schedule, learner.sampler, learner.seeds, task.clamp(harder)
        with torch.no_grad():
            answers = predict(training.averaged, task, joined(batches), *how).chunk(len(batches))
        found.append([task.metrics(*each)[task.metric] for each in zip(answers, batches, strict=True)])
    return list(zip(*found, strict=True))


def multiply_adds(config: EnergyConfig) -> int:
    """Multiply-adds of matrix products in one training step of one seed, its problems included, as on a GPU."""
    small = EnergyConfig(**dict(config) | {"device": "cpu", "dev_examples": 2, "seeds": config.seeds[:1]})
    training = Training(small.learner(small.seeds[0]), host=False)
    return counted_flops(lambda: training.take(training.learner.inputs(0), training.kind(0))) // 2
