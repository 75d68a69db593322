"""Runs copied out of the store, as folders or in one zip file, and taken into the store of another machine."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from anm_nb.config import ParameterError
from anm_nb.files import full_disk_named, whole_folder
from anm_nb.run import MANIFEST, CorruptRun, Run, faults, read_manifest
from anm_nb.store import partial_root, store_root, training_lock


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
