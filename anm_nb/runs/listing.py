"""What is in the store, read from manifests alone: a look into each folder and one small file of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anm_nb.runs.manifest import MANIFEST, CorruptRun, Manifest
from anm_nb.runs.places import store_root
from anm_nb.runs.store import Run


@dataclass(frozen=True)
class Listed:
    """A finished run as lists show it: its folder, its manifest's summary, and its size in bytes."""

    path: Path
    summary: dict[str, Any]
    size: int
    modified_ns: int

    @property
    def key(self) -> str:
        """The run's name in the store."""
        return self.path.name


def run_folders() -> list[Path]:
    """Every folder of the store that is a run or is meant to be one, by name."""
    root = store_root()
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.name[0] != "." and entry.is_dir())


def listed(folder: Path) -> Listed:
    """A run as lists show it. Raises `CorruptRun` where its manifest is not valid or a file has not its size."""
    with os.scandir(folder) as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries}
    manifest = Manifest.read(folder)
    manifest.check_sizes(folder, sizes)
    size = sizes[MANIFEST] + sum(file.size for file in manifest.files.values())
    return Listed(folder, manifest.summary, size, folder.stat().st_mtime_ns)


def scan() -> tuple[list[Listed], dict[Path, str]]:
    """The finished runs, oldest first, and what is wrong with each folder that is none."""
    found, broken = [], {}
    for folder in run_folders():
        try:
            found.append(listed(folder))
        except FileNotFoundError:  # removed while the store was being read
            continue
        except CorruptRun as error:
            broken[folder] = str(error)
    return sorted(found, key=lambda run: (run.summary.get("finished") or "", run.modified_ns)), broken


def finished_runs() -> list[Run]:
    """Every finished run in the store, oldest first."""
    return [Run(run.path) for run in scan()[0]]
