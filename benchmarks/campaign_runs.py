"""The campaign's runs: configs by priority, trained one stack at a time until the time is up."""

from __future__ import annotations

import itertools
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from campaign_log import Log
from campaign_steps import CONFIGS, clear_memory, config_class

from anm_nb import store
from anm_nb.files import locked
from anm_nb.training import NonFiniteLoss, OutOfTime, time_limit
from anm_nb.training.run import train_together

LEAST_S = 2.0  # seconds; with less left, no stack is started
ENTRY = {"name", "family", "base", "grid", "cases", "tiny"}


@dataclass(frozen=True)
class Stack:
    """Configs by their names in the log that train together: they differ only in seeds and scheduled numbers.

    `entry` is the index of their entry in the list.
    """

    entry: int
    configs: dict[str, Any]

    @property
    def name(self) -> str:
        """All names."""
        return "; ".join(self.configs)


def plan(path: Path, tiny: bool, log: Log) -> list[Stack]:
    """The stacks of a list, in order. An entry with an invalid family or invalid values is logged and skipped."""
    found: list[Stack] = []
    for place, entry in enumerate(yaml.safe_load(path.read_text("utf-8"))):
        try:
            if unknown := entry.keys() - ENTRY:
                raise ValueError(f"{', '.join(sorted(unknown))}: allowed are {', '.join(sorted(ENTRY))}")
            stacks: dict[str, dict[str, Any]] = {}
            for name, config in _configs(entry, tiny):
                store.run_key(config)  # raises if the device is missing
                stacks.setdefault(config.stack_key(), {})[name] = config
            found += [Stack(place, configs) for configs in stacks.values()]
        except Exception:
            log.failure(f"to plan '{entry.get('name')}' of {path.name}, which is skipped")
    return found


def _configs(entry: dict[str, Any], tiny: bool) -> Iterator[tuple[str, Any]]:
    """Every config of an entry with its name: the product of the grid and the cases."""
    if entry["family"] not in CONFIGS:
        raise ValueError(f"family = '{entry['family']}': allowed are {', '.join(CONFIGS)}")
    grid, made = entry.get("grid", {}), config_class(entry["family"])
    for point in itertools.product(*grid.values()):
        for case in entry.get("cases", [{}]):
            chosen = dict(zip(grid, point, strict=True)) | case
            baseline = chosen.pop("baseline", False)
            values = entry.get("base", {}) | chosen | (entry.get("tiny", {}) if tiny else {})
            config = made(**values)
            settings = " ".join(f"{name}={value}" for name, value in chosen.items())
            yield (
                " ".join(filter(None, (entry["name"], "baseline" if baseline else "", settings))),
                (config.baseline() if baseline else config),
            )


def is_finished(config: Any) -> bool:
    """Whether the store has the config's run."""
    return (store.store_root() / store.run_key(config) / "manifest.json").exists()


def train_stack(stack: Stack, seconds: float) -> list[Any]:
    """The finished runs of a stack. Missing ones are trained together, continuing where an earlier campaign stopped.

    Raises `OutOfTime` after saving the state, and `NonFiniteLoss` after storing all configs with finite losses.
    """
    missing = [config for config in stack.configs.values() if not is_finished(config)]
    lost = []
    with time_limit(seconds):
        if missing:
            folders = [store.partial_root() / store.run_key(config) for config in missing]
            with ExitStack() as held:
                for folder in folders:
                    folder.mkdir(parents=True, exist_ok=True)
                    held.enter_context(locked(folder.with_suffix(".lock"), f"run {folder.name} is being trained"))
                try:
                    train_together(missing, folders)
                except NonFiniteLoss as error:  # names the seeds; configs without one of them can still be stored
                    lost.append(str(error))
        runs = []
        for config in stack.configs.values():  # all seeds have ended: this only reads their checkpoints
            try:
                runs.append(store.get_or_train(config))
            except NonFiniteLoss:
                if not lost:
                    raise
    if lost:
        raise NonFiniteLoss(lost[0])
    return runs


def train(stack: Stack, left: float, attempt: Callable[[str], bool], log: Log) -> str:
    """Train a stack for at most `left` seconds. Returns "kept" (unchanged), "trained", or "failed".

    Running out of time and non-finite losses are results too and do not count as failures.
    """
    if all(map(is_finished, stack.configs.values())):
        log(f"finished before: {stack.name}")
        return "kept"
    if left < LEAST_S:
        log(f"no time left for: {stack.name}")
        return "kept"
    if not attempt(stack.name):
        return "kept"
    log(f"trains for at most {left:.0f} s: {stack.name}")
    try:
        for run in train_stack(stack, left):
            log(f"finished {run.key}: {_result(run)}")
    except OutOfTime as error:
        log(f"continues next time: {error}")
    except NonFiniteLoss as error:
        log(f"NOT FINITE {stack.name}: {error}")
    except Exception:
        log.failure(stack.name)
        return "failed"
    finally:
        clear_memory()
    return "trained"


def _result(run: Any) -> str:
    """The run's final scores in one line: mean over seeds ± standard deviation."""
    last, metric = run.metrics.groupby("seed").last(), run.config.make_task().metric
    shown = [name for name in (f"same/{metric}/model", f"harder/{metric}/model", f"test_{metric}") if name in last]
    return ", ".join(f"{name} {last[name].mean():.5f} ± {last[name].std():.5f}" for name in shown)


def unpack(archives: Sequence[Path], log: Log) -> None:
    """Add the runs of an earlier campaign that the store lacks; their contents are checked when they are read."""
    for archive in archives:
        try:
            with zipfile.ZipFile(archive) as file:
                names = [name for name in file.namelist() if re.fullmatch(r"[0-9a-f]{16}/[\w-][\w.-]*", name)]
                keys = {name.partition("/")[0] for name in names}
                missing = sorted(key for key in keys if not (store.store_root() / key).exists())
                file.extractall(store.store_root(), [name for name in names if name.partition("/")[0] in missing])
            if missing:
                log(f"{archive.name}: runs {', '.join(missing)} are taken from it")
        except Exception:
            log.failure(f"to read {archive.name}")
