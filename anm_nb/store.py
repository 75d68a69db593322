"""The run store: each config is trained once; after that, its run is read from disk.

A run is a folder `outputs/runs/<key>/`. Training writes to `.partial/<key>`, the manifest last, and one rename moves
the finished folder into place. A folder that differs from its manifest is moved to `.corrupt/` before retraining.
"""

import difflib
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anm_nb import files
from anm_nb.config import ParameterError
from anm_nb.identity import CONFIGS, RunConfig, identity_of, key_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

MANIFEST = "manifest.json"


class CorruptRun(RuntimeError):
    """A stored run has changed since it was written. The message names the file, the expected and the found state."""


def run_key(config: RunConfig) -> str:
    """The key of a config's run: 16 hexadecimal digits."""
    return key_of(identity_of(config))


def store_root() -> Path:
    """The folder of the run store."""
    return files.outputs_root() / "runs"


def partial_root() -> Path:
    """The folder of unfinished runs and of their locks."""
    return store_root() / ".partial"


def write_manifest(folder: Path, contents: Mapping[str, bytes], identity: Mapping[str, Any], summary: Any) -> None:
    """Write the manifest of a folder's files, given as name → bytes, atomically; this turns the folder into a run.

    The manifest begins with the SHA-256 of everything after its first comma: the run's key, the identity that the key
    is computed from, the summary for lists of runs, and the size and SHA-256 of each file.
    """
    found = {n: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for n, data in contents.items()}
    manifest = {"format": 2, "key": key_of(identity), "identity": identity, "summary": summary, "files": found}
    body = json.dumps(manifest, indent=1)[1:].encode() + b"\n"
    files.replace_whole(folder / MANIFEST, f'{{"sha256": "{hashlib.sha256(body).hexdigest()}",'.encode() + body)


@dataclass(frozen=True)
class Run:
    """A finished run. Everything read from it is checked against its manifest; a difference raises `CorruptRun`."""

    path: Path

    @property
    def key(self) -> str:
        """The run's name in the store."""
        return self.path.name

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest, checked against its own checksum and the folder's name."""
        path = self.path / MANIFEST
        try:
            manifest = json.loads(data := path.read_bytes())
            expected, found = manifest.pop("sha256"), hashlib.sha256(data.partition(b",")[2]).hexdigest()
        except OSError as error:
            raise CorruptRun(f"{path} cannot be read ({error.strerror}): the run was never finished") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CorruptRun(f"{path} is not a manifest") from None
        if found != expected:
            raise CorruptRun(f"{path}: expected sha256 {expected}, found {found}")
        if manifest["key"] != self.key:
            raise CorruptRun(f"{path} belongs to run {manifest['key']}: a copy or a link under another name")
        return manifest

    @property
    def summary(self) -> dict[str, Any]:
        """Facts for lists of runs: family, task, method, seeds, steps, finished, commit."""
        return self.manifest["summary"]

    @property
    def title(self) -> str:
        """Family, task and method, without those that the run lacks."""
        return ", ".join(str(self.summary[name]) for name in ("family", "task", "method") if self.summary[name])

    @property
    def settings(self) -> dict[str, Any]:
        """The config as plain data, readable without the classes that it was made from."""
        return self.manifest["identity"]["config"]

    def faults(self, content: bool = True) -> list[str]:
        """Everything wrong with the run: a bad manifest, or each file whose size (or, by default, any byte) differs."""
        try:
            return [fault for name in self.manifest["files"] if (fault := self._fault(name, content))]
        except CorruptRun as error:
            return [str(error)]

    def _fault(self, name: str, content: bool = True) -> str | None:
        path, expected = self.path / name, self.manifest["files"][name]
        try:
            if (size := os.stat(path).st_size) != expected["size"]:
                return f"{path}: expected {expected['size']} bytes, found {size}"
            if content and (found := files.sha256_of(path)) != expected["sha256"]:
                return f"{path}: expected sha256 {expected['sha256']}, found {found}"
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"
        return None

    @cached_property
    def config(self) -> Any:
        """The config as an object. Raises `ParameterError` if one of its classes is not registered."""
        return self.config_with()

    def config_with(self, **settings: Any) -> Any:
        """The config with some fields replaced: `negatives="none"` reads a run whose strategy is not registered.

        If any field is replaced, fields that the class no longer has are dropped, so that old runs can still be shown.
        """
        for family in ("energy", "ranking"):
            import_module(f"anm_nb.{family}.train")
        if (config := CONFIGS.get(path := self.manifest["identity"]["class"])) is None:
            known = ", ".join(sorted(CONFIGS))
            raise ParameterError(f"run {self.key}: class '{path}' is unknown; import its module (known: {known})")
        fields = config.model_fields if settings else self.settings
        try:
            return config(**{name: value for name, value in (self.settings | settings).items() if name in fields})
        except ParameterError as error:
            raise error.within(f"run {self.key}") from None

    @cached_property
    def metrics(self) -> "pd.DataFrame":
        """Tidy metrics: one row per seed and recorded step."""
        import pandas as pd

        return pd.read_parquet(self.file("metrics.parquet"))

    @cached_property
    def trace(self) -> "dict[str, Tensor]":
        """Arrays recorded over training, each [seeds, records, …]."""
        from safetensors.torch import load_file

        return load_file(self.file("trace.safetensors"))

    @cached_property
    def weights(self) -> "dict[str, Tensor]":
        """Weights: `seed<s>.model.…`, `seed<s>.averaged.…` and, if the loop selected weights, `seed<s>.selected.…`."""
        from safetensors.torch import load_file

        return load_file(self.file("checkpoint.safetensors"))

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Versions, commit, device, threads and times, recorded by the process that finished the training.

        `resumed` says whether another process began it. `training_seconds` lists, by seed, the time spent in steps
        before each row of the metrics, summed over all processes.
        """
        return json.loads(self.file("provenance.json").read_text("utf-8"))

    def file(self, name: str) -> Path:
        """The path of one of the run's files, after its bytes were checked against the manifest."""
        if fault := self._fault(name):
            raise CorruptRun(fault)
        return self.path / name


def get_or_train(config: RunConfig) -> Run:
    """The stored run of a config, trained first if necessary; other processes wait, and take over if this one dies.

    A corrupt run is moved to `.corrupt/` with a warning. Raises `DiskFull` if the disk is full and `ParameterError` if
    the store is not writable.
    """
    identity = identity_of(config)
    path = store_root() / (key := key_of(identity))
    partial, aside = partial_root() / key, store_root() / ".corrupt" / f"{key}-{time.time_ns()}"
    with ExitStack() as stack:
        if Run(path).faults():
            try:
                with files.full_disk_named(path, "nothing was lost"):
                    partial_root().mkdir(parents=True, exist_ok=True)
                    stack.enter_context(files.locked(partial_root() / f"{key}.lock", f"run {key} is being trained"))
                    if os.path.lexists(path) and (wrong := Run(path).faults()):
                        aside.parent.mkdir(exist_ok=True)
                        os.rename(path, aside)
                        reason = f"{'; '.join(wrong)}. It was moved to {aside} and is trained again"
                        warnings.warn(f"run {key} cannot be trusted: {reason}", stacklevel=2)
                    partial.mkdir(exist_ok=True)
            except files.DiskFull:
                raise
            except OSError as error:
                reason = f"{error.filename or path} cannot be written ({error.strerror}), so run {key} cannot be stored"
                raise ParameterError(f"{reason}; set $ANM_NB_OUTPUTS to a writable folder") from None
            if not path.exists():
                _train_into(path, partial, config, identity)
            shutil.rmtree(partial, ignore_errors=True)
    with files.full_disk_named(path, f"run {key} itself is stored"):
        files.note_use(key)
    return Run(path)


def _train_into(path: Path, partial: Path, config: RunConfig, identity: dict[str, Any]) -> None:
    """Train in the folder `partial`, write the run's files there, the manifest last, and move them to `path`."""
    from safetensors.torch import save

    started, checkout, resumed = time.monotonic(), files.checkout_state(), (partial / "config.json").exists()
    written = json.dumps(identity, indent=1).encode()
    with files.full_disk_named(path, "nothing was lost"):
        files.replace_whole(partial / "config.json", written)
    trained = config.train(partial)
    provenance = {
        **files.describe_environment(identity["device"], getattr(config, "threads", None)),
        **checkout,
        "processes": trained.processes,
        "training_seconds": trained.seconds,
        "resumed": resumed,
        "goes_on_from": trained.goes_on_from,
        "wall_seconds": time.monotonic() - started,
    }
    summary = {
        "finished": provenance["finished"],
        "commit": provenance["commit"],
        "family": config.family,
        "task": getattr(config, "task", None),
        "method": getattr(config, "method", getattr(config, "routing", None)),  # the factor that the family compares
        "seeds": [int(seed) for seed in trained.metrics["seed"].unique()],
        "steps": int(trained.metrics["step"].max()),
        "finished_ns": time.time_ns(),
    }
    with files.full_disk_named(path, "nothing was lost: training is over, and the run is stored once there is room"):
        contents = {
            "config.json": written,
            "metrics.parquet": trained.metrics.to_parquet(path=None),
            "trace.safetensors": save(trained.trace),
            "checkpoint.safetensors": save(trained.weights),
            **trained.checkpoints,
            "provenance.json": json.dumps(provenance, indent=1).encode(),
        }
        complete = partial / "complete"
        shutil.rmtree(complete, ignore_errors=True)
        complete.mkdir()
        for name, data in contents.items():
            files.replace_whole(complete / name, data)
        write_manifest(complete, contents, identity, summary)
        os.replace(complete, path)


def scan() -> tuple[list[Run], dict[Path, str]]:
    """The finished runs, oldest first, judged by manifests alone; and every other entry with the reason."""
    faults = {run: run.faults(content=False) for run in map(Run, run_folders())}
    found = sorted((run for run, wrong in faults.items() if not wrong), key=lambda run: run.summary["finished_ns"])
    return found, {run.path: wrong[0] for run, wrong in faults.items() if wrong}


def run_folders() -> list[Path]:
    """All entries of the store except hidden ones, sorted by name."""
    return sorted(store_root().glob("[!.]*"))


def find(name: str) -> Run:
    """The finished run with this key, beginning of a key, or folder. Raises `ParameterError` with the nearest keys."""
    key, runs = Path(name).name, {run.key: run for run in scan()[0]}
    if not runs:
        raise ParameterError(f"no finished runs in {store_root()}; train some: anm-nb demo, or any notebook")
    matches = [each for each in runs if each.startswith(key)]
    if len(matches) > 1:
        raise ParameterError(f"{len(matches)} keys begin with '{key}': {', '.join(matches[:9])}")
    if not matches:
        near = ", ".join(difflib.get_close_matches(key, runs, n=3, cutoff=0.0))
        raise ParameterError(f"unknown run '{key}' in {store_root()} ({len(runs)} runs); nearest: {near}")
    return runs[matches[0]]
