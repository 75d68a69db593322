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
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from anm_nb.config import ParameterError, Parameters
from anm_nb.files import (
    flush_folder,
    full_disk_named,
    outputs_root,
    replace_whole,
    results_roots,
    whole_folder,
    write_through,
)
from anm_nb.locks import Held, locked
from anm_nb.manifest import MANIFEST, CorruptRun, Manifest, faults, key_of, read_manifest
from anm_nb.provenance import checkout_state, describe_environment
from anm_nb.user_code import classes_of_the_user, code_digest

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from anm_nb.training.loop import Trained

RUNS_USED = "ANM_NB_RUNS_USED"  # names the file that takes the keys of the runs a process was served
FAMILIES = {"energy": "anm_nb.energy.train", "ranking": "anm_nb.ranking.train"}  # where their configs are defined
CELLS = 10**8  # of a table of metrics; more is no run of ours
UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
_CONFIGS: dict[str, type[RunConfig]] = {}


class RunConfig(Parameters):
    """A config that can train itself, the base of every family's; subclasses are registered by name."""

    family: ClassVar[str] = "own"
    version: ClassVar[int] = 1  # of the family's numerics: raise it when the same config gives other numbers

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        _CONFIGS[_path_of(cls)] = cls

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
    """The key of a config's run: 16 hexadecimal digits of the SHA-256 of its identity."""
    return key_of(identity(config))


def _path_of(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


@dataclass(frozen=True)
class Run:
    """A finished run; whatever is read of it is compared with its manifest. Raises `CorruptRun` where it differs."""

    path: Path

    @property
    def key(self) -> str:
        """The run's name in the store."""
        return self.path.name

    @cached_property
    def manifest(self) -> Manifest:
        """Key, identity, summary, and the size and checksum of every file."""
        return read_manifest(self.path)

    @property
    def summary(self) -> dict[str, Any]:
        """Family, task, method, seeds, steps, when, how long, commit: what lists show."""
        return cast("dict[str, Any]", self.manifest.summary)

    @property
    def size(self) -> int:
        """Bytes of the run's files, without the manifest."""
        return sum(file.size for file in self.manifest.files.values())

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The config as plain data, readable without the classes it was made of."""
        return self._identity["config"]

    @property
    def _identity(self) -> dict[str, Any]:
        return self.manifest.identity or json.loads(self.file("config.json").read_text("utf-8"))

    @cached_property
    def config(self) -> RunConfig:
        """The config as the object it was. Raises `ParameterError` where a class in it is not registered."""
        path = self._identity["class"]
        if path not in _CONFIGS:
            for module in FAMILIES.values():
                import_module(module)
        if path not in _CONFIGS:
            known = ", ".join(sorted(_CONFIGS))
            raise ParameterError(f"run {self.key}: class '{path}' is not registered; import what defines it ({known})")
        return _CONFIGS[path].model_validate_json(json.dumps(self.settings))

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Tidy metrics: one row for each seed and recorded step."""
        import pandas as pd
        from pyarrow import ArrowException, parquet

        path = self.file("metrics.parquet")
        try:
            facts = parquet.read_metadata(path)
            if facts.num_rows * facts.num_columns > CELLS:
                raise CorruptRun(f"{path}: {facts.num_rows} rows of {facts.num_columns} columns are no run's metrics")
            return pd.read_parquet(path)
        except (ArrowException, OSError, ValueError) as error:
            raise CorruptRun(f"{path} cannot be read as a table ({error})") from error

    @cached_property
    def trace(self) -> dict[str, Tensor]:
        """Arrays recorded over training, each [seeds, records, …]."""
        return self._tensors("trace.safetensors")

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Weights: `seed<s>.model.…`, `seed<s>.averaged.…` and, where the loop selected any, `seed<s>.selected.…`."""
        return self._tensors("checkpoint.safetensors")

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Versions, commit, device, threads, wall time, peak memory and command of the training.

        Times and memory are of the process that finished it; `resumed` says whether another one began it.
        `training_seconds` is by seed: the time spent in steps before each row of its metrics, whoever trained them.
        """
        return json.loads(self.file("provenance.json").read_text("utf-8"))

    def file(self, name: str) -> Path:
        """The path of one of the run's files, its bytes compared with the manifest's checksum."""
        self.manifest.check(self.path, name)
        return self.path / name

    def _tensors(self, name: str) -> dict[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.file(name)
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CorruptRun(f"{path} cannot be read as tensors ({error})") from error


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
    if faults(path):
        with ExitStack() as stack:
            with _unwritable_named(path), full_disk_named(path, "nothing was lost"):
                stack.enter_context(training_lock(key))
                if os.path.lexists(path) and (wrong := faults(path)):
                    _set_aside(path, wrong)
                partial = _partial_folder(key)
            if not path.exists():
                _train_into(path, partial, config, decisive)
            shutil.rmtree(partial, ignore_errors=True)
    with full_disk_named(path, f"run {key} itself is stored"):
        _note_use(key)
    run = Run(path)
    run.__dict__["config"] = config  # spares reading back what is at hand
    return run


@contextmanager
def training_lock(key: str, wait: bool = True) -> Iterator[None]:
    """Hold the right to train, set aside or remove a run. Raises `Held` where it is taken and not to be waited for."""
    partial_root().mkdir(parents=True, exist_ok=True)
    with locked(partial_root() / f"{key}.lock", f"run {key} is being trained", wait):
        yield


@contextmanager
def _unwritable_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        where = error.filename or path
        raise ParameterError(
            f"{where} cannot be written ({error.strerror}), so run {path.name} cannot be stored: set $ANM_NB_OUTPUTS "
            "to a folder that can be written to"
        ) from None


def _partial_folder(key: str) -> Path:
    partial = partial_root() / key
    if os.path.lexists(partial) and not partial.is_dir():
        _set_aside(partial, [f"{partial} is no folder"])
    partial.mkdir(exist_ok=True)
    return partial


def _set_aside(path: Path, wrong: Sequence[str]) -> None:
    target = _move_away(path, store_root() / ".corrupt")
    warnings.warn(
        f"run {path.name} cannot be trusted: {'; '.join(wrong)}. It was moved to {target} and is trained anew",
        stacklevel=3,
    )


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
        replace_whole(partial / "config.json", _json(decisive))
    trained = config.train(partial)
    holders = (config, getattr(config, "loop", None))
    threads = next((count for each in holders if (count := getattr(each, "threads", None))), None)
    provenance = describe_environment(decisive["device"], threads) | checkout | {"resumed": resumed}
    provenance |= {"processes": trained.processes, "training_seconds": trained.seconds}
    provenance["wall_seconds"] = time.monotonic() - started
    with full_disk_named(path, "nothing was lost: training is over, and the run is stored when there is room"):
        complete = partial / "complete"
        shutil.rmtree(complete, ignore_errors=True)
        complete.mkdir()
        contents = _contents(decisive, trained, provenance)
        for name, data in contents.items():
            write_through(complete / name, data)
        Manifest.of(contents, decisive, _summary(config, trained, provenance)).write(complete)
        os.replace(complete, path)
        flush_folder(path.parent)


def _contents(decisive: Mapping[str, Any], trained: Trained, provenance: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a run, by name."""
    from safetensors.torch import save

    return {
        "config.json": _json(decisive),
        "metrics.parquet": trained.metrics.to_parquet(path=None),
        "trace.safetensors": save(trained.trace),
        "checkpoint.safetensors": save(trained.weights),
        "provenance.json": _json(provenance),
    }


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
    return sorted(root / name for name in os.listdir(root) if name[0] != ".") if root.is_dir() else []


def verify(path: Path) -> list[str]:
    """Whatever is wrong with a run: manifest, missing, corrupted and foreign files, each named; every byte is read."""
    if wrong := faults(path):
        return wrong
    known = {MANIFEST, *read_manifest(path).files}
    return [f"{path / name} is not in the run's manifest" for name in sorted(os.listdir(path)) if name not in known]


def find(asked: str) -> Run:
    """The finished run of a key, of an unambiguous beginning of one, or in a folder.

    Raises `ParameterError` naming the nearest keys, or those that begin so; for a folder without a finished run; and
    for an empty store, saying what to run.
    """
    folder = Path(asked)
    if os.sep in asked or folder.is_dir():
        try:
            read_manifest(folder.resolve())
        except CorruptRun as error:
            raise ParameterError(f"{folder} is no finished run: {error}") from None
        return Run(folder.resolve())
    stored = {run.key: run for run in finished_runs()}
    return stored[nearest_key(asked, {key: described(run.summary) for key, run in stored.items()})]


def described(summary: Mapping[str, Any]) -> str:
    """Family, task and method of a run, as far as it has them."""
    return ", ".join(str(summary[name]) for name in ("family", "task", "method") if summary.get(name))


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
    hidden = [partial_root(), store_root() / ".corrupt"]
    aside = [
        Path(entry) for root in hidden if root.is_dir() for entry in os.scandir(root) if entry.name[-5:] != ".lock"
    ]
    places = {path.name: path for path in (*aside, *run_folders())}
    path = places[nearest_key(asked, dict.fromkeys(places, ""))]
    if path.parent == store_root() and (naming := named_by(path.name)):
        raise ParameterError(f"run {path.name} is named by {naming}, and stays; remove that first")
    try:
        with training_lock(path.name, wait=False):
            gone = _move_away(path, store_root() / ".removed")
    except Held as error:
        raise ParameterError(f"{error}, and stays") from None
    if gone.is_dir() and not gone.is_symlink():
        shutil.rmtree(gone)
    else:
        gone.unlink()
    return path


def named_by(key: str) -> Path | None:
    """The kept result or the sweep's outcomes that name a run, among the results this checkout knows."""
    files = [file for root in results_roots() for file in (*root.glob("reference/**/*.json"), *root.glob("*/*.json"))]
    return next((file for file in files if file.is_file() and key.encode() in file.read_bytes()), None)


def export(runs: Sequence[Run], out: Path, overwrite: bool = False) -> list[Path]:
    """Copy runs with their manifests into the folder `out`, or into a zip file where it ends in `.zip`.

    Every byte is checked first. Returns what was written: a folder for each run, or the file. Raises `CorruptRun`,
    `DiskFull`, and `ParameterError` where something is in the place and it is not to be replaced.
    """
    if wrong := [fault for run in runs for fault in faults(run.path)]:
        raise CorruptRun("; ".join(wrong))
    zipped = out.suffix == ".zip"
    targets = [out] if zipped else [out / run.key for run in runs]
    if not zipped and out.exists() and not out.is_dir():
        raise ParameterError(f"--out {out} is a file; name a folder, or a file that ends in .zip")
    if (there := [target for target in targets if target.exists()]) and not overwrite:
        raise ParameterError(f"{', '.join(map(str, there))}: exists already; choose another place, or add --overwrite")
    with full_disk_named(out, "nothing of it is in its place"):
        out.parent.mkdir(parents=True, exist_ok=True)
        if not zipped:
            for run, target in zip(runs, targets, strict=True):
                with whole_folder(target) as folder:
                    for name in (*run.manifest.files, MANIFEST):
                        shutil.copy2(run.path / name, folder / name)
            return targets
        partial = out.with_name(f".{out.name}.partial")
        try:
            with zipfile.ZipFile(partial, "w") as file:
                for run in runs:
                    for name in (*run.manifest.files, MANIFEST):
                        file.write(run.path / name, f"{run.key}/{name}")
            os.replace(partial, out)
        finally:
            partial.unlink(missing_ok=True)
    return targets


def import_runs(source: Path) -> list[Run]:
    """Take exported runs, a zip file or a folder of them, into the store; every byte is checked before.

    Runs that the store has already are left as they are. Raises `CorruptRun`, `DiskFull`, and `ParameterError` where
    the source holds no run.
    """
    found = []
    with full_disk_named(store_root(), "runs before it are in the store"), _unpacked(source) as folder:
        for path in sorted(each.parent for each in folder.glob(f"*/{MANIFEST}")):
            if wrong := faults(path):
                raise CorruptRun("; ".join(wrong))
            run = Run(store_root() / path.name)
            with training_lock(run.key):
                if not os.path.lexists(run.path):
                    with whole_folder(run.path) as copy:
                        for name in (*read_manifest(path).files, MANIFEST):
                            shutil.copyfile(path / name, copy / name)
            found.append(run)
    if not found:
        raise ParameterError(f"{source} holds no exported runs; it has to be a zip file or a folder of them")
    return found


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


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names, the groups beside what is in them."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        values[prefix + name] = value
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{name}.")
    return values
