"""A finished run, and its manifest, which begins with the checksum of the rest of itself."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError

from anm_nb.config import ParameterError
from anm_nb.files import replace_whole, sha256_of
from anm_nb.identity import CONFIGS, key_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

MANIFEST = "manifest.json"
SCORES = ("tau_all", "board_accuracy", "balanced_accuracy", "accuracy", "mse")  # on dev; the first that a run has
FAMILIES = ("anm_nb.energy.train", "anm_nb.ranking.train")  # where configs are defined
_WRITTEN = re.compile(rb'\{"sha256": "([0-9a-f]{64})",(.*)', re.DOTALL)


class CorruptRun(RuntimeError):
    """A stored run is not as it was written; the message names the file, what was expected and what was found."""


class StoredFile(BaseModel):
    """What a file has to be: its SHA-256 in hexadecimal, and its size in bytes."""

    sha256: str
    size: int


class Manifest(BaseModel):
    """Key, identity (what the key is made of), summary (what lists show) and files of a run."""

    format: Literal[2] = 2
    key: str
    identity: dict[str, Any]
    summary: dict[str, Any]
    files: dict[str, StoredFile]

    @classmethod
    def of(cls, contents: Mapping[str, bytes], identity: dict[str, Any], summary: dict[str, Any]) -> Manifest:
        """The manifest of files by name."""
        files = {n: StoredFile(sha256=hashlib.sha256(data).hexdigest(), size=len(data)) for n, data in contents.items()}
        return cls(key=key_of(identity), identity=identity, summary=summary, files=files)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in a folder, checked against itself and the folder's name. Raises `CorruptRun`."""
        path = folder / MANIFEST
        try:
            expected, body = _WRITTEN.fullmatch(path.read_bytes()).groups()  # type: ignore[union-attr]
            if (found := hashlib.sha256(body).hexdigest()) != expected.decode():
                raise CorruptRun(f"{path}: expected sha256 {expected.decode()}, found {found}")
            manifest = cls.model_validate_json(b"{" + body)
        except OSError as error:
            raise CorruptRun(f"{path} cannot be read ({error.strerror}): the run was never finished") from None
        except (AttributeError, ValidationError):  # or of another format
            raise CorruptRun(f"{path} is no manifest") from None
        if manifest.key != folder.name:
            raise CorruptRun(f"{path} is of run {manifest.key}: a copy or a link under another name")
        return manifest

    def write(self, folder: Path) -> None:
        """Put the manifest into a folder, atomically: this makes a run of it."""
        body = json.dumps(self.model_dump(), indent=1)[1:].encode() + b"\n"
        replace_whole(folder / MANIFEST, f'{{"sha256": "{hashlib.sha256(body).hexdigest()}",'.encode() + body)


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
        return Manifest.read(self.path)

    @property
    def summary(self) -> dict[str, Any]:
        """What lists show: family, task, method, seeds, steps, finished, wall_seconds, resumed, commit, dirty."""
        return self.manifest.summary

    @property
    def title(self) -> str:
        """Family, task and method, as far as the run has them."""
        return ", ".join(str(self.summary[name]) for name in ("family", "task", "method") if self.summary[name])

    @property
    def settings(self) -> dict[str, Any]:
        """The config as plain data, readable without the classes it was made of."""
        return self.manifest.identity["config"]

    def faults(self, content: bool = True) -> list[str]:
        """Whatever is wrong with the run: its manifest, or each file whose size or, by default, any byte differs."""
        try:
            return [fault for name in self.manifest.files if (fault := self._fault(name, content))]
        except CorruptRun as error:
            return [str(error)]

    def _fault(self, name: str, content: bool = True) -> str | None:
        path, expected = self.path / name, self.manifest.files[name]
        try:
            if (size := os.stat(path).st_size) != expected.size:
                return f"{path}: expected {expected.size} bytes, found {size}"
            if content and (found := sha256_of(path)) != expected.sha256:
                return f"{path}: expected sha256 {expected.sha256}, found {found}"
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"
        return None

    @cached_property
    def config(self) -> Any:
        """The config as the object it was. Raises `ParameterError` where a class in it is not registered."""
        return self.config_with()

    def config_with(self, **settings: Any) -> Any:
        """The config with other plain values for some fields: with `negatives="none"` it needs no strategy's class.

        With any, fields that the class has no more are left out: runs of older versions can still be shown.
        """
        for module in FAMILIES:
            import_module(module)
        if (config := CONFIGS.get(path := self.manifest.identity["class"])) is None:
            known = ", ".join(sorted(CONFIGS))
            raise ParameterError(f"run {self.key}: class '{path}' is not registered; import what defines it ({known})")
        fields = config.model_fields if settings else self.settings
        try:
            values = {name: value for name, value in (self.settings | settings).items() if name in fields}
            return config.model_validate_json(json.dumps(values))
        except ValidationError as error:
            said = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
            raise ParameterError(f"run {self.key}: {said}") from None

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Tidy metrics: one row for each seed and recorded step."""
        import pandas as pd

        return pd.read_parquet(self.file("metrics.parquet"))

    @cached_property
    def trace(self) -> dict[str, Tensor]:
        """Arrays recorded over training, each [seeds, records, …]."""
        return self.tensors("trace.safetensors")

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Weights: `seed<s>.model.…`, `seed<s>.averaged.…` and, where the loop selected any, `seed<s>.selected.…`."""
        return self.tensors("checkpoint.safetensors")

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Versions, commit, device, threads, wall time, peak memory and command of the training.

        Times and memory are of the process that finished it; `resumed` says whether another one began it.
        `training_seconds` is by seed: the time spent in steps before each row of its metrics, whoever trained them.
        """
        return json.loads(self.file("provenance.json").read_text("utf-8"))

    @property
    def score(self) -> tuple[str, float] | None:
        """The first of `SCORES` that it has on dev, and its mean over seeds at their last records."""
        last = self.metrics.groupby("seed").last()
        scores = [name for name in SCORES if name in last and last[name].notna().any()]
        return (scores[0], float(last[scores[0]].mean())) if scores else None

    def file(self, name: str) -> Path:
        """The path of one of the run's files, its bytes compared with the manifest's checksum."""
        if fault := self._fault(name):
            raise CorruptRun(fault)
        return self.path / name

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What a file of tensors holds, by name."""
        from safetensors.torch import load_file

        return load_file(self.file(name))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names, the groups beside what is in them."""
    values = {prefix + name: value for name, value in settings.items()}
    for name, value in settings.items():
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {}
    return values


def differences(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """For each run the values of its config, by dotted name, that are not the same in all runs that have them."""
    own = [{n: v for n, v in flat(run.settings).items() if not isinstance(v, Mapping)} for run in runs]
    count = Counter(name for name, _ in {(name, repr(value)) for values in own for name, value in values.items()})
    return [{name: value for name, value in values.items() if count[name] > 1} for values in own]
