"""Runs copied out of the store, as folders or in one zip file, for the store of another machine to read."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from anm_nb.config import ParameterError
from anm_nb.runs.files import full_disk_named, whole_folder
from anm_nb.runs.manifest import MANIFEST, CorruptRun, faults
from anm_nb.runs.store import Run


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
        if zipped:
            _write_zip(runs, out)
        else:
            out.mkdir(exist_ok=True)
            for run, target in zip(runs, targets, strict=True):
                _copy(run, target)
    return targets


def _write_zip(runs: Sequence[Run], out: Path) -> None:
    partial = out.with_name(f".{out.name}.partial")
    try:
        with zipfile.ZipFile(partial, "w") as file:
            for run in runs:
                for name in _names(run):
                    file.write(run.path / name, f"{run.key}/{name}")
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)


def _copy(run: Run, target: Path) -> None:
    with whole_folder(target) as folder:
        for name in _names(run):
            shutil.copy2(run.path / name, folder / name)


def _names(run: Run) -> list[str]:
    """The run's files, its manifest last: a copy that is cut off is no run."""
    return [*run.manifest.files, MANIFEST]
