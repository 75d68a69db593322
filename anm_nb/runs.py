"""What `anm-nb runs` does with stored runs: what differs between them, removal, export and import."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from anm_nb import files
from anm_nb.config import ParameterError
from anm_nb.store import MANIFEST, CorruptRun, Run, nearest_key, partial_root, run_folders, store_root

SCORES = ("tau_all", "board_accuracy", "balanced_accuracy", "accuracy", "mse")  # on dev; the first that a run has


def score(run: Run) -> tuple[str, float] | None:
    """The first of `SCORES` that a run has on dev, and its mean over seeds at their last records."""
    last = run.metrics.groupby("seed").last()
    scores = [name for name in SCORES if name in last and last[name].notna().any()]
    return (scores[0], float(last[scores[0]].mean())) if scores else None


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested settings by dotted names."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return values


def differences(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """For each run the values of its config, by dotted name, that are not the same in all runs that have them."""
    own = [flat(run.settings) for run in runs]
    count = Counter(name for name, _ in {(name, repr(value)) for values in own for name, value in values.items()})
    return [{name: value for name, value in values.items() if count[name] > 1} for values in own]


def remove(asked: str) -> Path:
    """Remove the run or remnant of a name or its beginning. Raises `ParameterError` where it is being trained."""
    found = [*partial_root().glob("*"), *(store_root() / ".corrupt").glob("*"), *run_folders()]
    places = {path.name: path for path in found if ".lock" not in path.name}
    path = places[nearest_key(asked, places)]
    partial_root().mkdir(exist_ok=True)
    try:
        with FileLock(partial_root() / f"{path.name.partition('-')[0]}.lock", blocking=False):
            shutil.rmtree(path)
    except Timeout:
        raise ParameterError(f"run {path.name} is being trained by another process, and stays") from None
    return path


def export(runs: Sequence[Run], out: Path) -> None:
    """Write checked runs into a zip file. Raises `CorruptRun`, `DiskFull`, and `ParameterError` where `out` exists."""
    _check(runs)
    if out.exists():
        raise ParameterError(f"{out} exists already; choose another place")
    with zipfile.ZipFile(archive := BytesIO(), "w") as file:
        for run in runs:
            for name in (*run.manifest["files"], MANIFEST):
                file.write(run.path / name, f"{run.key}/{name}")
    with files.full_disk_named(out, "nothing of it is in its place"):
        files.replace_whole(out, archive.getvalue())


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
        file.extractall(folder)
        _check(runs := [Run(each.parent) for each in sorted(Path(folder).glob(f"*/{MANIFEST}"))])
        if not runs:
            raise ParameterError(f"{source} holds no exported runs")
        for run in runs:
            if not os.path.lexists(store_root() / run.key):
                os.replace(run.path, store_root() / run.key)
    return [Run(store_root() / run.key) for run in runs]


def _check(runs: Sequence[Run]) -> None:
    if wrong := [fault for run in runs for fault in run.faults()]:
        raise CorruptRun("; ".join(wrong))
