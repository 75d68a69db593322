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
import shutil
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from anm_nb.config import ParameterError, Parameters
from anm_nb.files import (
    flush_folder,
    full_disk_named,
    outputs_root,
    replace_whole,
    results_roots,
    write_through,
)
from anm_nb.locks import Held, locked
from anm_nb.provenance import checkout_state, describe_environment
from anm_nb.run import CONFIGS, CorruptRun, Manifest, Run, faults, file_contents, key_of, read_manifest
from anm_nb.user_code import classes_of_the_user, code_digest

if TYPE_CHECKING:
    from anm_nb.training.run import Trained

RUNS_USED = "ANM_NB_RUNS_USED"  # names the file that takes the keys of the runs a process was served
KEPT = "kept:"  # before the name of a kept result there
UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


class RunConfig(Parameters):
    """A config that can train itself, the base of every family's; subclasses are registered by name."""

    family: ClassVar[str] = "own"
    version: ClassVar[int] = 1  # of the family's numerics: raise it when the same config gives other numbers

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        CONFIGS[_path_of(cls)] = cls

    @abstractmethod
    def train(self, workdir: Path) -> Trained:
        """Train, resuming from what an interrupted training left in `workdir`, whose name is the run's key."""

    @abstractmethod
    def device_kind(self) -> str:
        """The kind of device that `train` would use here: cpu or cuda."""

    def plugins(self) -> list[type]:
        """Classes that take part in training and may be a user's own."""
        return []


def identity(config: RunConfig) -> dict[str, Any]:
    """What decides a run, as plain data: class, values, version, device kind, and a digest of the user's own code."""
    plugins = [type(config), *config.plugins()]
    document = {
        "class": _path_of(type(config)),
        "config": config.model_dump(mode="json"),
        "version": config.version,
        "device": config.device_kind(),
        "users_classes": classes_of_the_user(plugins),
        "code": code_digest(plugins),
    }
    return json.loads(json.dumps(document))


def run_key(config: RunConfig) -> str:
    """The key of a config's run: 16 hexadecimal digits."""
    return key_of(identity(config))


def _path_of(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def store_root() -> Path:
    """The folder of the run store."""
    return outputs_root() / "runs"


def partial_root() -> Path:
    """Where runs grow until they are finished, and the locks of their trainings."""
    return store_root() / ".partial"


def get_or_train(config: RunConfig) -> Run:
    """The stored run of a config, trained first where there is none.

    A second process asking for the same run waits for the first, or takes over from its checkpoints if it died. What is
    in the run's place and is no run is set aside under `.corrupt/`, with a warning. Raises `DiskFull` where there is no
    room, and `ParameterError` where the store cannot be written to. The key is appended, as a line, to the file that
    $ANM_NB_RUNS_USED names, if it is set.
    """
    decisive = identity(config)
    key = key_of(decisive)
    path = store_root() / key
    if _unservable(path):
        with ExitStack() as stack:
            with _unwritable_named(path), full_disk_named(path, "nothing was lost"):
                stack.enter_context(training_lock(key))
                partial = partial_root() / key
                if os.path.lexists(path) and (wrong := _unservable(path)):
                    _set_aside(path, wrong)
                if os.path.lexists(partial) and (not partial.is_dir() or (partial / "config.json").is_dir()):
                    _set_aside(partial, [f"{partial} is no folder of a training"])
                partial.mkdir(exist_ok=True)
            if not path.exists():
                _train_into(path, partial, config, decisive)
            shutil.rmtree(partial, ignore_errors=True)
    with full_disk_named(path, f"run {key} itself is stored"):
        note_use(key)
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
    started, checkout = time.monotonic(), checkout_state()
    resumed = (partial / "config.json").exists()
    with full_disk_named(path, "nothing was lost"):
        replace_whole(partial / "config.json", json.dumps(decisive, indent=1).encode())
    trained = config.train(partial)
    threads = getattr(config, "threads", None)
    effort = {"processes": trained.processes, "training_seconds": trained.seconds}
    effort |= {"resumed": resumed, "wall_seconds": time.monotonic() - started}
    provenance = describe_environment(decisive["device"], threads) | checkout | effort
    with full_disk_named(path, "nothing was lost: training is over, and the run is stored when there is room"):
        complete = partial / "complete"
        shutil.rmtree(complete, ignore_errors=True)
        complete.mkdir()
        contents = file_contents(decisive, trained, provenance)
        for name, data in contents.items():
            write_through(complete / name, data)
        Manifest.of(contents, decisive, _summary(config, trained, provenance)).write(complete)
        os.replace(complete, path)
        flush_folder(path.parent)


def _summary(config: RunConfig, trained: Trained, provenance: Mapping[str, Any]) -> dict[str, Any]:
    methods = (getattr(config, name, None) for name in ("method", "routing"))  # what the families compare
    return {
        "class": _path_of(type(config)),
        "family": config.family,
        "task": getattr(config, "task", None),
        "method": next((name for name in methods if name is not None), None),
        "seeds": [int(seed) for seed in trained.metrics["seed"].unique()],
        "steps": int(trained.metrics["step"].max()),
        "finished_ns": time.time_ns(),
        **{name: provenance[name] for name in ("finished", "wall_seconds", "resumed", "commit", "dirty")},
    }


def note_use(what: str) -> None:
    """Append a run's key, or KEPT and a kept result's name, to the file that whoever started this process asked for."""
    if file := os.environ.get(RUNS_USED):
        with open(file, "ab", buffering=0) as used:
            used.write(f"{what}\n".encode())


def scan() -> tuple[list[Run], dict[Path, str]]:
    """The finished runs, oldest first, from manifests alone; and why each other thing in the store is none."""
    found, broken = [], {}
    for path in run_folders():
        run = Run(path)
        try:
            for name in run.manifest.files:
                run.manifest.check(path, name, content=False)
        except CorruptRun as error:
            if os.path.lexists(path):  # not removed meanwhile
                broken[path] = str(error)
        else:
            found.append(run)
    return sorted(found, key=lambda run: run.summary["finished_ns"]), broken


def finished_runs() -> list[Run]:
    """Every finished run in the store, oldest first."""
    return scan()[0]


def run_folders() -> list[Path]:
    """Everything in the store that is a run or in the place of one, by name."""
    root = store_root()
    return [root / name for name in sorted(os.listdir(root)) if name[0] != "."] if root.is_dir() else []


def find(asked: str) -> Run:
    """The finished run of a key, of an unambiguous beginning of one, or in a folder.

    Raises `ParameterError` naming the nearest keys, or those that begin so; for a folder without a finished run; and
    for an empty store, saying what to run.
    """
    folder = Path(asked)
    if asked and folder.is_dir():
        try:
            read_manifest(folder.resolve())
        except CorruptRun as error:
            raise ParameterError(f"{folder} is no finished run: {error}") from None
        return Run(folder.resolve())
    stored = {run.key: run for run in finished_runs()}
    return stored[nearest_key(asked, {key: run.title for key, run in stored.items()})]


def nearest_key(asked: str, stored: Mapping[str, str]) -> str:
    """The key that `asked` begins, among keys with their descriptions. Raises `ParameterError` naming the nearest."""
    if not stored:
        raise ParameterError(f"no finished runs in {store_root()}; train some: anm-nb demo, or any notebook")
    matches = [asked] if asked in stored else [key for key in stored if asked and key.startswith(asked)]
    if len(matches) == 1:
        return matches[0]
    near = matches or difflib.get_close_matches(asked, stored, n=3, cutoff=0.0)
    named = ", ".join(f"{key} ({stored[key]})" if stored[key] else key for key in near[:9])
    if matches:
        raise ParameterError(f"'{asked}' begins {len(matches)} keys: {named}")
    raise ParameterError(f"unknown run '{asked}' in {store_root()} ({len(stored)} runs); nearest: {named}")


def remove(asked: str) -> Path:
    """Remove a run, an unfinished training or a set-aside folder, by its name or a beginning of it.

    Readers see all of it or nothing. Raises `ParameterError` where a kept result or a sweep names the run, or where it
    is being trained.
    """
    aside = (*partial_root().glob("*"), *(store_root() / ".corrupt").glob("*"))
    places = {path.name: path for path in (*aside, *run_folders()) if ".lock" not in path.name}
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
    """The kept result or the sweep's outcomes that name a run, among the results this checkout knows."""
    files = [file for root in results_roots() for file in (*root.glob("reference/**/*.json"), *root.glob("*/*.json"))]
    return next((file for file in files if file.is_file() and key.encode() in file.read_bytes()), None)
