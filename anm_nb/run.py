"""A finished run: its files, and the manifest with its key, identity and summary, and every file's checksum.

The manifest begins with the checksum of the rest of itself, so that no changed byte of it goes unseen.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, ValidationError
from typing_extensions import TypedDict

from anm_nb.config import ParameterError
from anm_nb.files import replace_whole, sha256_of, write_through
from anm_nb.identity import CONFIGS, key_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from anm_nb.training.run import Trained

MANIFEST = "manifest.json"
FORMAT: Literal[2] = 2  # 1 had neither key nor identity
FAMILIES = {"energy": "anm_nb.energy.train", "ranking": "anm_nb.ranking.train"}  # where their configs are defined
CELLS = 10**8  # of a table of metrics; more is no run of ours
_WRITTEN = re.compile(rb'\{"sha256": "([0-9a-f]{64})",(.*)', re.DOTALL)


class CorruptRun(RuntimeError):
    """A stored run is not as it was written; the message names the file, what was expected and what was found."""


class StoredFile(BaseModel, strict=True, extra="forbid"):
    """What a file has to be: its SHA-256 in hexadecimal, and its size in bytes."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: NonNegativeInt


class Summary(TypedDict):
    """What lists show of a run."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)  # type: ignore[misc]

    family: str
    task: str | None
    method: str | None
    seeds: list[int]
    steps: NonNegativeInt
    finished: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    finished_ns: NonNegativeInt
    wall_seconds: NonNegativeFloat
    resumed: bool
    commit: str | None
    dirty: bool | None


class Manifest(BaseModel, strict=True):
    """Key, identity (what the key is made of), summary and files of a run."""

    format: Literal[1, 2] = FORMAT
    key: str | None = None
    identity: dict[str, Any] | None = None
    summary: Summary
    files: dict[Annotated[str, Field(pattern=r"^[^/\\.][^/\\]*$")], StoredFile]

    @classmethod
    def of(cls, contents: Mapping[str, bytes], identity: dict[str, Any], summary: dict[str, Any]) -> Manifest:
        """The manifest of files by name."""
        files = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in contents.items()
        }
        return cls.model_validate({"key": key_of(identity), "identity": identity, "summary": summary, "files": files})

    def write(self, folder: Path) -> None:
        """Put the manifest into a folder, atomically: this makes a run of it."""
        body = json.dumps(self.model_dump(), indent=1)[1:].encode() + b"\n"
        replace_whole(folder / MANIFEST, f'{{"sha256": "{hashlib.sha256(body).hexdigest()}",'.encode() + body)

    def check(self, folder: Path, name: str, content: bool = True) -> None:
        """Compare a file with what it has to be: its size, and by default every byte. Raises `CorruptRun`."""
        path = f"{folder}/{name}"
        if name not in self.files:
            raise CorruptRun(f"{path} is not in the run's manifest")
        expected = self.files[name]
        try:
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):
                raise CorruptRun(f"{path} is no file")
            if found.st_size != expected.size:
                raise CorruptRun(f"{path}: expected {expected.size} bytes, found {found.st_size}")
            if content and (checksum := sha256_of(Path(path))) != expected.sha256:
                raise CorruptRun(f"{path}: expected sha256 {expected.sha256}, found {checksum}")
        except FileNotFoundError:
            raise CorruptRun(f"{path} is missing: expected {expected.size} bytes") from None
        except OSError as error:
            raise CorruptRun(f"{path} cannot be read ({error.strerror})") from None


def write_run(
    folder: Path, identity: dict[str, Any], trained: Trained, provenance: dict[str, Any], summary: dict[str, Any]
) -> None:
    """Write a run's files into a folder, and last its manifest."""
    from safetensors.torch import save

    contents = {
        "config.json": json.dumps(identity, indent=1).encode(),
        "metrics.parquet": trained.metrics.to_parquet(path=None),
        "trace.safetensors": save(trained.trace),
        "checkpoint.safetensors": save(trained.weights),
        "provenance.json": json.dumps(provenance, indent=1).encode(),
    }
    for name, data in contents.items():
        write_through(folder / name, data)
    Manifest.of(contents, identity, summary).write(folder)


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest in a folder, checked against itself, the folder's name and its identity. Raises `CorruptRun`."""
    path = f"{folder}/{MANIFEST}"
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.readall()
    except FileNotFoundError:
        raise CorruptRun(f"{path} is missing, so the run in this folder was never finished") from None
    except OSError as error:
        raise CorruptRun(f"{path} cannot be read ({error.strerror})") from None
    if (written := _WRITTEN.fullmatch(data)) is None:
        raise CorruptRun(f"{path} is no manifest")
    expected, found = written[1].decode(), hashlib.sha256(written[2]).hexdigest()
    if found != expected:
        raise CorruptRun(f"{path}: expected sha256 {expected}, found {found}")
    try:
        manifest = Manifest.model_validate_json(b"{" + written[2])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise CorruptRun(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    name = os.path.basename(folder)
    if manifest.format == FORMAT:
        if manifest.key != name:
            raise CorruptRun(f"{path} is of run {str(manifest.key)[:40]}: a copy or a link under another name")
        if manifest.identity is None or key_of(manifest.identity) != manifest.key:
            raise CorruptRun(f"{path}: its identity is not that of its key")
    return manifest


def faults(folder: Path) -> list[str]:
    """Whatever is wrong with a stored run, all its bytes read: each manifest, missing and corrupted file by name."""
    found = []
    try:
        manifest = read_manifest(folder)
        for name in manifest.files:
            try:
                manifest.check(folder, name)
            except CorruptRun as error:
                found.append(str(error))
    except CorruptRun as error:
        return [str(error)]
    return found


def verify(path: Path) -> list[str]:
    """What `faults` finds, and files that are none of the run's, each named."""
    if wrong := faults(path):
        return wrong
    foreign = set(os.listdir(path)) - {MANIFEST, *read_manifest(path).files}
    return [f"{path / name} is not in the run's manifest" for name in sorted(foreign)]


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
        """What lists show: `Summary`."""
        return cast("dict[str, Any]", self.manifest.summary)

    @property
    def title(self) -> str:
        """Family, task and method, as far as the run has them."""
        return ", ".join(str(self.summary[name]) for name in ("family", "task", "method") if self.summary[name])

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
    def config(self) -> Any:
        """The config as the object it was. Raises `ParameterError` where a class in it is not registered."""
        return self.config_with()

    def config_with(self, **settings: Any) -> Any:
        """The config with other plain values for some fields: with `negatives="none"` it needs no strategy's class."""
        path = self._identity["class"]
        if path not in CONFIGS:
            for module in FAMILIES.values():
                import_module(module)
        if path not in CONFIGS:
            known = ", ".join(sorted(CONFIGS))
            raise ParameterError(f"run {self.key}: class '{path}' is not registered; import what defines it ({known})")
        try:
            return CONFIGS[path].model_validate_json(json.dumps(self.settings | settings))
        except ValidationError as error:
            said = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
            raise ParameterError(f"run {self.key}: {said}") from None

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


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names, the groups beside what is in them."""
    values = {prefix + name: value for name, value in settings.items()}
    for name, value in settings.items():
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {}
    return values
