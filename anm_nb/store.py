"""The run store: a config is trained once, and its run is read from then on.

A run is a folder `outputs/runs/<key>/`, put in place by one rename, its manifest written last; until then it grows in
`.partial/<key>`. A folder that is not as its manifest says is set aside under `.corrupt/` when its config is asked for.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import tempfile
import time
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from anm_nb import files
from anm_nb.config import ParameterError
from anm_nb.identity import RunConfig, identity_of, key_of
from anm_nb.run import MANIFEST, CorruptRun, Manifest, Run

RUNS_USED = "ANM_NB_RUNS_USED"  # names the file that takes the keys of the runs a process was served
KEPT = "kept:"  # before the name of a kept result there


def run_key(config: RunConfig) -> str:
    """The key of a config's run: 16 hexadecimal digits."""
    return key_of(identity_of(config))


def store_root() -> Path:
    """The folder of the run store."""
    return files.outputs_root() / "runs"


def partial_root() -> Path:
    """Where runs grow until they are finished, and the locks of their trainings."""
    return store_root() / ".partial"


def get_or_train(config: RunConfig) -> Run:
    """The stored run of a config, trained first where there is none; a second process waits, or takes over from it.

    What is in the run's place and is no run is set aside under `.corrupt/`, with a warning. Raises `DiskFull` where
    there is no room, and `ParameterError` where the store cannot be written to.
    """
    identity = identity_of(config)
    path = store_root() / key_of(identity)
    if Run(path).faults():
        with _own_folder(path) as partial:
            if not path.exists():
                _train_into(path, partial, config, identity)
            shutil.rmtree(partial, ignore_errors=True)
    with files.full_disk_named(path, f"run {path.name} itself is stored"):
        note_use(path.name)
    return Run(path)


@contextmanager
def _own_folder(path: Path) -> Iterator[Path]:
    """The right to train a run, and the folder where it grows. What is in its place and is no run is set aside."""
    key, partial = path.name, partial_root() / path.name
    aside = store_root() / ".corrupt" / f"{key}-{time.time_ns()}"
    with ExitStack() as stack:
        try:
            with files.full_disk_named(path, "nothing was lost"):
                stack.enter_context(training_lock(key))
                if os.path.lexists(path) and (wrong := Run(path).faults()):
                    aside.parent.mkdir(exist_ok=True)
                    os.rename(path, aside)
                    said = f"{'; '.join(wrong)}. It was moved to {aside} and is trained anew"
                    warnings.warn(f"run {key} cannot be trusted: {said}", stacklevel=4)
                partial.mkdir(exist_ok=True)
        except files.DiskFull:
            raise
        except OSError as error:
            said = f"{error.filename or path} cannot be written ({error.strerror}), so run {key} cannot be stored"
            raise ParameterError(f"{said}: set $ANM_NB_OUTPUTS to a folder that can be written to") from None
        yield partial


def training_lock(key: str, wait: bool = True) -> AbstractContextManager[None]:
    """The right to train, set aside or remove a run. Raises `Held` where it is taken and not to be waited for."""
    partial_root().mkdir(parents=True, exist_ok=True)
    return files.locked(partial_root() / f"{key}.lock", f"run {key} is being trained", wait)


def _train_into(path: Path, partial: Path, config: RunConfig, identity: dict[str, Any]) -> None:
    """Train in the folder `partial`, write the run's files there, its manifest last, and put them in their place."""
    from safetensors.torch import save

    started, checkout, resumed = time.monotonic(), files.checkout_state(), (partial / "config.json").exists()
    written = json.dumps(identity, indent=1).encode()
    with files.full_disk_named(path, "nothing was lost"):
        files.replace_whole(partial / "config.json", written)
    trained = config.train(partial)
    provenance = {
        **files.describe_environment(identity["device"], getattr(config, "threads", None)),
        **checkout,
        **{"processes": trained.processes, "training_seconds": trained.seconds, "resumed": resumed},
        **({"goes_on_from": trained.goes_on_from} if trained.goes_on_from else {}),
        "wall_seconds": time.monotonic() - started,
    }
    summary = {name: provenance[name] for name in ("finished", "wall_seconds", "resumed", "commit", "dirty")} | {
        "class": identity["class"],
        "family": config.family,
        "task": getattr(config, "task", None),
        "method": getattr(config, "method", getattr(config, "routing", None)),  # what the families compare
        "seeds": [int(seed) for seed in trained.metrics["seed"].unique()],
        "steps": int(trained.metrics["step"].max()),
        "finished_ns": time.time_ns(),
    }
    with files.full_disk_named(path, "nothing was lost: training is over, and the run is stored when there is room"):
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
        Manifest.of(contents, identity, summary).write(complete)
        os.replace(complete, path)
        files.flush_folder(path.parent)


def note_use(what: str) -> None:
    """Append a run's key, or KEPT and a kept result's name, to the file that whoever started this process asked for."""
    if file := os.environ.get(RUNS_USED):
        with open(file, "ab", buffering=0) as used:
            used.write(f"{what}\n".encode())


def scan() -> tuple[list[Run], dict[Path, str]]:
    """The finished runs, oldest first, from manifests alone; and why each other thing in the store is none."""
    faults = {run: run.faults(content=False) for run in map(Run, run_folders())}
    found = sorted((run for run, wrong in faults.items() if not wrong), key=lambda run: run.summary["finished_ns"])
    # unless removed meanwhile
    return found, {run.path: wrong[0] for run, wrong in faults.items() if wrong and os.path.lexists(run.path)}


def run_folders() -> list[Path]:
    """Everything in the store that is a run or in the place of one, by name."""
    return sorted(store_root().glob("[!.]*"))


def find(asked: str) -> Run:
    """The finished run of a key, the beginning of one, or a folder; `ParameterError` as `nearest_key`."""
    stored = {run.key: run for run in scan()[0]}
    return stored[nearest_key(Path(asked).name, {key: run.title for key, run in stored.items()})]


def nearest_key(asked: str, stored: Mapping[str, str]) -> str:
    """The key that `asked` begins, among keys with their descriptions. Raises `ParameterError` naming the nearest."""
    if not stored:
        raise ParameterError(f"no finished runs in {store_root()}; train some: anm-nb demo, or any notebook")
    matches = [asked] if asked in stored else [key for key in stored if asked and key.startswith(asked)]
    if len(matches) == 1:
        return matches[0]
    near = matches[:9] or difflib.get_close_matches(asked, stored, n=3, cutoff=0.0)
    named = ", ".join(f"{key} ({stored[key]})" if stored[key] else key for key in near)
    if matches:
        raise ParameterError(f"'{asked}' begins {len(matches)} keys: {named}")
    raise ParameterError(f"unknown run '{asked}' in {store_root()} ({len(stored)} runs); nearest: {named}")


def remove(asked: str) -> Path:
    """Remove the run or remnant of a name or its beginning; `ParameterError` where results name it or it trains."""
    found = (*partial_root().glob("*"), *(store_root() / ".corrupt").glob("*"), *run_folders())
    places = {path.name: path for path in found if ".lock" not in path.name}
    path = places[nearest_key(asked, dict.fromkeys(places, ""))]
    roots = {files.outputs_root(), *(root / "outputs" for root in [files.clone()] if root)}
    results = (file for root in roots for each in ("reference/**/*.json", "*/*.ipynb") for file in root.glob(each))
    for file in results if path.parent == store_root() else ():
        if file.is_file() and path.name.encode() in file.read_bytes():
            raise ParameterError(f"run {path.name} is named by {file}, and stays; remove that first")
    try:
        with training_lock(path.name.partition("-")[0], wait=False):
            if path.is_symlink() or path.is_file():
                path.unlink()
            else:
                (path / MANIFEST).unlink(missing_ok=True)  # first: from here on it is no run
                shutil.rmtree(path)
    except files.Held as error:
        raise ParameterError(f"{error}, and stays") from None
    return path


def export(runs: Sequence[Run], out: Path) -> None:
    """Write checked runs into a zip file. Raises `CorruptRun`, `DiskFull`, and `ParameterError` where `out` exists."""
    _check(runs)
    if out.exists():
        raise ParameterError(f"{out} exists already; choose another place")
    partial = out.with_name(f".{out.name}.partial")
    with files.full_disk_named(out, "nothing of it is in its place"):
        try:
            with zipfile.ZipFile(partial, "w") as file:
                for run in runs:
                    for name in (*run.manifest.files, MANIFEST):
                        file.write(run.path / name, f"{run.key}/{name}")
            files.put_in_place(partial, out)
        finally:
            partial.unlink(missing_ok=True)


def import_runs(source: Path) -> list[Run]:
    """Take checked exported runs into the store, which keeps those it has. `ParameterError` where there is no run."""
    try:
        file = zipfile.ZipFile(source)
    except (OSError, zipfile.BadZipFile) as error:
        raise ParameterError(f"{source} cannot be read as a zip file ({error})") from None
    partial_root().mkdir(parents=True, exist_ok=True)
    with (
        file,
        files.full_disk_named(store_root(), "runs before it are in the store"),
        tempfile.TemporaryDirectory(prefix="import-", dir=partial_root()) as folder,
    ):
        for member in file.namelist():
            if re.fullmatch(r"[0-9a-f]{16}/[\w-][\w.-]*", member):
                file.extract(member, folder)
        _check(runs := [Run(each.parent) for each in sorted(Path(folder).glob(f"*/{MANIFEST}"))])
        for run in runs:
            with training_lock(run.key):
                if not os.path.lexists(store_root() / run.key):
                    os.replace(run.path, store_root() / run.key)
    if not runs:
        raise ParameterError(f"{source} holds no exported runs")
    return [Run(store_root() / run.key) for run in runs]


def _check(runs: Sequence[Run]) -> None:
    if wrong := [fault for run in runs for fault in run.faults()]:
        raise CorruptRun("; ".join(wrong))
