"""Runs in the store: read with every file checked against its checksum, and trained where there is none."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from anm_nb.runs.files import flush_folder, full_disk_named, replace_whole, write_through
from anm_nb.runs.keys import RunConfig, config_from, identity, run_key, source_digest, users_classes
from anm_nb.runs.manifest import Manifest, faults
from anm_nb.runs.places import partial_root, store_root
from anm_nb.runs.provenance import describe_environment

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from anm_nb.training.loop import Trained

RUNS_USED = "ANM_NB_RUNS_USED"  # names the file that takes the keys of the runs a process was served
METHOD_NAMES = ("method", "routing")  # what the families call the thing they compare


@dataclass(frozen=True)
class Run:
    """A finished run in the store.

    Whatever is read of it is compared with the manifest first; raises `CorruptRun` where it is not as it was written.
    """

    path: Path

    @property
    def key(self) -> str:
        """The run's name in the store."""
        return self.path.name

    @cached_property
    def manifest(self) -> Manifest:
        """Sizes and checksums of the run's files, and its summary."""
        return Manifest.read(self.path)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The config as plain data, readable without the classes it was made of."""
        return json.loads(self.file("config.json").read_text())["config"]

    @cached_property
    def config(self) -> RunConfig:
        """The config as the object it was; needs every user-defined class in it to be registered."""
        return config_from(json.loads(self.file("config.json").read_text()))

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Tidy metrics: one row for each seed and recorded step."""
        import pandas as pd

        return pd.read_parquet(self.file("metrics.parquet"))

    @cached_property
    def trace(self) -> dict[str, Tensor]:
        """Arrays recorded over training, each [seeds, records, …]."""
        return _load_tensors(self.file("trace.safetensors"))

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Weights: `seed<s>.model.…`, `seed<s>.averaged.…` and, where the loop selected any, `seed<s>.selected.…`."""
        return _load_tensors(self.file("checkpoint.safetensors"))

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Versions, commit and dirtiness, device, threads, wall time, peak memory and command of the training.

        Wall time, memory (of the largest process) and `processes` (that trained at a time, each on `threads` threads)
        are of the process that finished it; `resumed` says whether it had begun in another one. `training_seconds` is
        by seed: the time spent in steps before each row of its metrics, whoever trained them.
        """
        return json.loads(self.file("provenance.json").read_text())

    def file(self, name: str) -> Path:
        """The path of one of the run's files, its bytes compared with the manifest's checksum."""
        self.manifest.check(self.path, name)
        return self.path / name


def get_or_train(config: RunConfig) -> Run:
    """The stored run of a config, trained first where there is none.

    A second process asking for the same run waits for the first, or takes over from its checkpoints if it died. A
    stored run of which a byte has changed is set aside under `.corrupt/`, with a warning, and trained anew. Raises
    `DiskFull` where there is no room; nothing is lost then. The key is appended, as a line, to the file that
    $ANM_NB_RUNS_USED names, if it is set.
    """
    key = run_key(config)
    path = store_root() / key
    if faults(path):
        with full_disk_named(path, "nothing was lost: training goes on from where it was when there is room"):
            partial = partial_root() / key
            partial.mkdir(parents=True, exist_ok=True)
            with training_lock(key):
                if path.exists() and (wrong := faults(path)):
                    _set_aside(path, wrong)
                if not path.exists():
                    _train_into(path, partial, config)
    with full_disk_named(path, f"run {key} itself is stored"):
        _note_use(key)
    run = Run(path)
    run.__dict__["config"] = config  # spares reading back what is at hand
    return run


@contextmanager
def training_lock(key: str, wait: bool = True) -> Iterator[None]:
    """Hold the right to train, set aside or remove a run; the system takes it back from a process that dies.

    Raises `filelock.Timeout` where another process holds it and this one does not want to wait.
    """
    lock = FileLock(partial_root() / f"{key}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise
        warnings.warn(f"run {key} is being trained by another process; waiting for it", stacklevel=4)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def move_away(path: Path, folder: Path) -> Path:
    """Rename a folder into another one, under a name of its own that begins with its old one; returns its new path."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{path.name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{time.time_ns() % 10**9:09d}"
    os.rename(path, target)
    return target


def _set_aside(path: Path, wrong: list[str]) -> None:
    target = move_away(path, store_root() / ".corrupt")
    warnings.warn(
        f"run {path.name} cannot be trusted: {'; '.join(wrong)}. It was moved to {target} and is trained anew",
        stacklevel=3,
    )


def _train_into(path: Path, partial: Path, config: RunConfig) -> None:
    started, sources = time.monotonic(), source_digest(config)
    resumed = (partial / "config.json").exists()
    if not resumed:
        begun = {"sources": sources, "users_classes": users_classes(config)}
        replace_whole(partial / "config.json", _json(identity(config) | begun))
    trained = config.train(partial)
    provenance = describe_environment(config) | {"sources": sources, "resumed": resumed}
    provenance |= {"processes": trained.processes, "training_seconds": trained.seconds}
    provenance["wall_seconds"] = time.monotonic() - started
    with full_disk_named(path, "nothing was lost: training is over, and the run is stored when there is room"):
        complete = partial / "complete"
        shutil.rmtree(complete, ignore_errors=True)
        complete.mkdir()
        contents = _contents(config, trained, provenance)
        for name, data in contents.items():
            write_through(complete / name, data)
        Manifest.of(contents, _summary(config, trained, provenance)).write(complete)
        os.replace(complete, path)
        flush_folder(path.parent)
    shutil.rmtree(partial, ignore_errors=True)


def _contents(config: RunConfig, trained: Trained, provenance: dict[str, Any]) -> dict[str, bytes]:
    """The files of a run, by name."""
    from safetensors.torch import save

    return {
        "config.json": _json(identity(config)),
        "metrics.parquet": trained.metrics.to_parquet(path=None),
        "trace.safetensors": save(trained.trace),
        "checkpoint.safetensors": save(trained.weights),
        "provenance.json": _json(provenance),
    }


def _summary(config: RunConfig, trained: Trained, provenance: dict[str, Any]) -> dict[str, Any]:
    """What lists show of a run, so that they need not open its other files."""
    module = type(config).__module__.split(".")
    named = [getattr(config, name, None) for name in METHOD_NAMES]
    return {
        "class": identity(config)["class"],
        "family": module[1] if module[0] == "anm_nb" else module[0],
        "task": getattr(config, "task", None),
        "method": next((name for name in named if name is not None), None),
        "seeds": [int(seed) for seed in trained.metrics["seed"].unique()],
        "steps": int(trained.metrics["step"].max()),
        "users_classes": users_classes(config),
        "finished_ns": time.time_ns(),
        **{name: provenance[name] for name in ("finished", "wall_seconds", "resumed", "commit", "dirty", "sources")},
    }


def _note_use(key: str) -> None:
    """Append the key, in one write, to the file that whoever started this process asked for."""
    if file := os.environ.get(RUNS_USED):
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, f"{key}\n".encode())
        finally:
            os.close(descriptor)


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=1).encode()


def _load_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)
