"""What is in the store, read from manifests alone: a look into each folder and one small file of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anm_nb.runs.manifest import MANIFEST, CorruptRun, read_document
from anm_nb.runs.places import store_root
from anm_nb.runs.store import Run

SEEDS_NAMED = 4  # of more, how many there are


@dataclass(frozen=True)
class Listed:
    """A finished run as lists show it: its key, its folder's path, its manifest's summary, and its size in bytes."""

    key: str
    folder: str
    summary: dict[str, Any]
    size: int

    @property
    def path(self) -> Path:
        """The run's folder."""
        return Path(self.folder)


def shown(summary: dict[str, Any]) -> dict[str, str]:
    """Family, task, method, seeds and commit of a manifest's summary as lists show them; a dash where there is none.

    Few seeds are named and more are counted; a commit has 8 digits, and says if files were changed since.
    """
    names = {name: str(summary.get(name) or "–") for name in ("family", "task", "method")}
    seeds = summary["seeds"]
    commit = (summary["commit"] or "–")[:8]
    return names | {
        "seeds": ", ".join(map(str, seeds)) if len(seeds) <= SEEDS_NAMED else f"{len(seeds)} of them",
        "commit": f"{commit}, dirty" if summary["dirty"] else commit,
    }


def run_folders() -> list[Path]:
    """Every folder of the store that is a run or is meant to be one, by name."""
    return [Path(folder) for _, folder in _folders()]


def scan() -> tuple[list[Listed], dict[Path, str]]:
    """The finished runs, oldest first, and what is wrong with each folder that is none."""
    found, broken = [], {}
    for key, folder in _folders():
        try:
            found.append(_listed(key, folder))
        except FileNotFoundError:  # removed while the store was being read
            continue
        except CorruptRun as error:
            broken[Path(folder)] = str(error)
    return sorted(found, key=lambda run: run.summary["finished_ns"]), broken


def _folders() -> list[tuple[str, str]]:
    """Name and path of every folder of the store but the hidden ones, by name."""
    root = store_root()
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        return sorted((entry.name, entry.path) for entry in entries if entry.name[0] != "." and entry.is_dir())


def _listed(key: str, folder: str) -> Listed:
    """Raises `CorruptRun` where the manifest is not valid or a file has not its size."""
    with os.scandir(folder) as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries}
    document = read_document(folder)
    size = sizes[MANIFEST]
    for name, facts in document["files"].items():
        if sizes.get(name) != facts["size"]:
            found = f"found {sizes[name]}" if name in sizes else "it is missing"
            raise CorruptRun(f"{folder}/{name}: expected {facts['size']} bytes, {found}")
        size += facts["size"]
    return Listed(key, folder, document["summary"], size)


def finished_runs() -> list[Run]:
    """Every finished run in the store, oldest first."""
    return [Run(run.path) for run in scan()[0]]
