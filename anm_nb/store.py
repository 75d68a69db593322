"""The run store: a config is trained once, and its run is read from then on.

A run is a folder `outputs/runs/<key>/`, put in place by one rename, its manifest written last; until then it grows in
`.partial/<key>`, where an interrupted training resumes. A folder that is not as its manifest says is no run: it is set
aside under `.corrupt/` when its config is asked for.
"""

from __future__ import annotations

import difflib
import errno
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
from anm_nb.locks import Held, locked
from anm_nb.provenance import checkout_state, describe_environment
from anm_nb.run import MANIFEST, CorruptRun, Run, faults, read_manifest, write_run

RUNS_USED = "ANM_NB_RUNS_USED"  # names the file that takes the keys of the runs a process was served
KEPT = "kept:"  # before the name of a kept result there
UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


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
    """The stored run of a config, trained first where there is none.

    A second process asking for the same run waits for the first, or takes over from its checkpoints if it died. What is
    in the run's place and is no run is set aside under `.corrupt/`, with a warning. Raises `DiskFull` where there is no
    room, and `ParameterError` where the store cannot be written to.
    """
    decisive = identity_of(config)
    path = store_root() / key_of(decisive)
    if _unservable(path):
        with ExitStack() as stack:
            with _unwritable_named(path), files.full_disk_named(path, "nothing was lost"):
                stack.enter_context(training_lock(path.name))
                partial = partial_root() / path.name
                if os.path.lexists(path) and (wrong := _unservable(path)):
                    _set_aside(path, wrong)
                if os.path.lexists(partial) and (not partial.is_dir() or (partial / "config.json").is_dir()):
                    _set_aside(partial, [f"{partial} is no folder of a training"])
                partial.mkdir(exist_ok=True)
            if not path.exists():
                _train_into(path, partial, config, decisive)
            shutil.rmtree(partial, ignore_errors=True)
    with files.full_disk_named(path, f"run {path.name} itself is stored"):
        note_use(path.name)
    run = Run(path)
    run.__dict__["config"] = config  # spares reading back what is at hand
    return run


def training_lock(key: str, wait: bool = True) -> AbstractContextManager[None]:
    """The right to train, set aside or remove a run. Raises `Held` where it is taken and not to be waited for."""
    partial_root().mkdir(parents=True, exist_ok=True)
    return locked(partial_root() / f"{key}.lock", f"run {key} is being trained", wait)


@contextmanager
def _unwritable_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        said = f"{error.filename or path} cannot be written ({error.strerror}), so run {path.name} cannot be stored"
        raise ParameterError(f"{said}: set $ANM_NB_OUTPUTS to a folder that can be written to") from None


def _unservable(path: Path) -> list[str]:
    """Why what is in a run's place cannot be served as that run."""
    return faults(path) or ([] if read_manifest(path).key else [f"{path} has a manifest without a key"])


def _set_aside(path: Path, wrong: Sequence[str]) -> None:
    moved = f"It was moved to {_move_away(path, store_root() / '.corrupt')} and is trained anew"
    warnings.warn(f"run {path.name} cannot be trusted: {'; '.join(wrong)}. {moved}", stacklevel=3)


def _move_away(path: Path, folder: Path) -> Path:
    """Rename a folder into another one, under a name of its own that begins with its old one; returns its new path."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{path.name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{time.time_ns() % 10**9:09d}"
    os.rename(path, target)
    return target


def _train_into(path: Path, partial: Path, config: RunConfig, decisive: dict[str, Any]) -> None:
    started, checkout, resumed = time.monotonic(), checkout_state(), (partial / "config.json").exists()
    with files.full_disk_named(path, "nothing was lost"):
        files.replace_whole(partial / "config.json", json.dumps(decisive, indent=1).encode())
    trained = config.train(partial)
    provenance = describe_environment(decisive["device"], getattr(config, "threads", None)) | checkout
    provenance |= {"processes": trained.processes, "training_seconds": trained.seconds}
    provenance |= {"resumed": resumed, "wall_seconds": time.monotonic() - started}
    methods = (getattr(config, name, None) for name in ("method", "routing"))  # what the families compare
    summary = {name: provenance[name] for name in ("finished", "wall_seconds", "resumed", "commit", "dirty")}
    summary |= {
        "class": decisive["class"],
        "family": config.family,
        "task": getattr(config, "task", None),
        "method": next((name for name in methods if name is not None), None),
        "seeds": [int(seed) for seed in trained.metrics["seed"].unique()],
        "steps": int(trained.metrics["step"].max()),
        "finished_ns": time.time_ns(),
    }
    with files.full_disk_named(path, "nothing was lost: training is over, and the run is stored when there is room"):
        complete = partial / "complete"
        shutil.rmtree(complete, ignore_errors=True)
        complete.mkdir()
        write_run(complete, decisive, trained, provenance, summary)
        os.replace(complete, path)
        files.flush_folder(path.parent)


def note_use(what: str) -> None:
    """Append a run's key, or KEPT and a kept result's name, to the file that whoever started this process asked for."""
    if file := os.environ.get(RUNS_USED):
        with open(file, "ab", buffering=0) as used:
            used.write(f"{what}\n".encode())


def scan() -> tuple[list[Run], dict[Path, str]]:
    """The finished runs, oldest first, from manifests alone; and why each other thing in the store is none."""
    found, broken = [], {}
    for run in map(Run, run_folders()):
        try:
            for name in run.manifest.files:
                run.manifest.check(run.path, name, content=False)
            found.append(run)
        except CorruptRun as error:
            if os.path.lexists(run.path):  # not removed meanwhile
                broken[run.path] = str(error)
    return sorted(found, key=lambda run: run.summary["finished_ns"]), broken


def finished_runs() -> list[Run]:
    """Every finished run in the store, oldest first."""
    return scan()[0]


def run_folders() -> list[Path]:
    """Everything in the store that is a run or in the place of one, by name."""
    return sorted(store_root().glob("[!.]*"))


def find(asked: str) -> Run:
    """The finished run of a key, of an unambiguous beginning of one, or in a folder.

    Raises `ParameterError` naming the nearest keys or those that begin so, or what to run for an empty store.
    """
    if asked and Path(asked).is_dir():
        run = Run(Path(asked).resolve())
        try:
            _ = run.manifest
        except CorruptRun as error:
            raise ParameterError(f"{asked} is no finished run: {error}") from None
        return run
    stored = {run.key: run for run in finished_runs()}
    return stored[nearest_key(asked, {key: run.title for key, run in stored.items()})]


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
    """Remove a run, an unfinished training or a set-aside folder, by its name or a beginning of it.

    Readers see all of it or nothing. Raises `ParameterError` where a result names the run, or it is being trained.
    """
    found = (*partial_root().glob("*"), *(store_root() / ".corrupt").glob("*"), *run_folders())
    places = {path.name: path for path in found if ".lock" not in path.name}
    path = places[nearest_key(asked, dict.fromkeys(places, ""))]
    if path.parent == store_root() and (naming := named_by(path.name)):
        raise ParameterError(f"run {path.name} is named by {naming}, and stays; remove that first")
    try:
        with training_lock(path.name.partition("-")[0], wait=False):
            gone = _move_away(path, store_root() / ".removed")
    except Held as error:
        raise ParameterError(f"{error}, and stays") from None
    shutil.rmtree(gone) if gone.is_dir() and not gone.is_symlink() else gone.unlink()
    return path


def named_by(key: str) -> Path | None:
    """The kept result or the executed notebook that names a run, among the results this checkout knows."""
    patterns = ("reference/**/*.json", "*/*.ipynb")
    found = (file for root in files.results_roots() for each in patterns for file in root.glob(each))
    return next((file for file in found if file.is_file() and key.encode() in file.read_bytes()), None)


def export(runs: Sequence[Run], out: Path, overwrite: bool = False) -> list[Path]:
    """Copy runs with their manifests into the folder `out`, or into a zip file where it ends in `.zip`.

    Every byte is checked first. Returns what was written. Raises `CorruptRun`, `DiskFull`, and `ParameterError` where
    something is in the place.
    """
    if wrong := [fault for run in runs for fault in faults(run.path)]:
        raise CorruptRun("; ".join(wrong))
    if not (zipped := out.suffix == ".zip") and out.exists() and not out.is_dir():
        raise ParameterError(f"--out {out} is a file; name a folder, or a file that ends in .zip")
    targets = [out] if zipped else [out / run.key for run in runs]
    if (there := [target for target in targets if target.exists()]) and not overwrite:
        raise ParameterError(f"{', '.join(map(str, there))}: exists already; choose another place, or add --overwrite")
    with files.full_disk_named(out, "nothing of it is in its place"):
        out.parent.mkdir(parents=True, exist_ok=True)
        if not zipped:
            for run, target in zip(runs, targets, strict=True):
                _copy(run.path, target)
            return targets
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            with zipfile.ZipFile(Path(folder) / out.name, "w") as file:
                for run in runs:
                    for name in (*run.manifest.files, MANIFEST):
                        file.write(run.path / name, f"{run.key}/{name}")
            files.put_in_place(Path(folder) / out.name, out)
    return targets


def import_runs(source: Path) -> list[Run]:
    """Take exported runs, a zip file or a folder of them, into the store; every byte is checked before.

    Runs that the store has stay. Raises `CorruptRun`, `DiskFull`, and `ParameterError` where the source holds no run.
    """
    found = []
    with files.full_disk_named(store_root(), "runs before it are in the store"), _unpacked(source) as folder:
        for path in sorted(each.parent for each in folder.glob(f"*/{MANIFEST}")):
            if wrong := faults(path):
                raise CorruptRun("; ".join(wrong))
            run = Run(store_root() / path.name)
            with training_lock(run.key):
                if not os.path.lexists(run.path):
                    _copy(path, run.path)
            found.append(run)
    if not found:
        raise ParameterError(f"{source} holds no exported runs; it has to be a zip file or a folder of them")
    return found


def _copy(run: Path, target: Path) -> None:
    with files.whole_folder(target) as folder:
        for name in (*read_manifest(run).files, MANIFEST):
            shutil.copyfile(run / name, folder / name)


@contextmanager
def _unpacked(source: Path) -> Iterator[Path]:
    """The folder of exported runs: the source, or what its zip file holds by plain names of two parts."""
    if source.is_dir():
        yield source
        return
    try:
        file = zipfile.ZipFile(source)
    except (OSError, zipfile.BadZipFile) as error:
        raise ParameterError(f"{source} cannot be read as a zip file or a folder ({error})") from None
    partial_root().mkdir(parents=True, exist_ok=True)
    with file, tempfile.TemporaryDirectory(prefix="import-", dir=partial_root()) as folder:
        for member in file.infolist():
            if re.fullmatch(r"[0-9a-f]{16}/[\w-][\w.-]*", member.filename):
                file.extract(member, folder)
        yield Path(folder)
