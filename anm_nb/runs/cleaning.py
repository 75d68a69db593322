"""What of the store may go: stale and old runs, and remains; never what a reference or a sweep names."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from filelock import Timeout

from anm_nb.config import ParameterError
from anm_nb.runs.keys import config_class, config_from, package_digest, source_digest
from anm_nb.runs.listing import Listed, scan
from anm_nb.runs.manifest import CorruptRun
from anm_nb.runs.places import partial_root, results_roots, store_root, sweeps_elsewhere
from anm_nb.runs.store import Run, move_away, training_lock

CHANGED = "its training sources have changed since"
OUTCOMES = "outcomes.json"  # of a sweep
BY_AGE = "goes by --older-than only"
Kind = Literal["run", "unfinished training", "folder without a valid manifest", "quarantined run", "remains"]


@dataclass(frozen=True)
class Candidate:
    """A folder of the store that has a reason to go; `kept` says why it stays all the same, and is None if it goes."""

    path: Path
    key: str
    kind: Kind
    size: int  # bytes
    reason: str
    kept: str | None = None


def candidates(older_than: timedelta | None = None) -> list[Candidate]:
    """Whatever has a reason to go, and what keeps it: runs first, then what is none.

    Raises `ParameterError` where a file that could name runs cannot be read: nothing is safe to remove then.
    """
    named = names_kept()
    return [_protected(candidate, named) for candidate in _Look(older_than).around()]


def remove(candidate: Candidate) -> str | None:
    """Remove a folder: readers see all of it or nothing. Returns why it was not, where a training holds it."""
    try:
        partial_root().mkdir(parents=True, exist_ok=True)
        with training_lock(candidate.key, wait=False):
            gone = candidate.path
            if candidate.kind != "remains":
                gone = move_away(candidate.path, store_root() / ".removed")
    except Timeout:
        return "it is being trained"
    shutil.rmtree(gone)
    return None


def names_kept() -> dict[str, Path]:
    """The keys that references and sweeps name, each with the file that does. Raises `ParameterError`."""
    named: dict[str, Path] = {}
    files = [folder / OUTCOMES for folder in sweeps_elsewhere() if (folder / OUTCOMES).exists()]
    for root in results_roots():
        files += [*sorted((root / "reference").rglob("*.json")), *sorted(root.glob(f"*/{OUTCOMES}"))]
    for file in files:
        named |= dict.fromkeys(_keys_in(_read(file)), file)
    return named


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ParameterError(
            f"{file} cannot be read ({error}), so the runs it names are not known, and nothing is removed"
        ) from None


def _keys_in(document: Any) -> Iterator[str]:
    """Every text called `key` or in a list called `runs`, at any depth."""
    if isinstance(document, dict):
        named = [document.get("key"), *(document.get("runs") or [])]
        yield from (each for each in named if isinstance(each, str))
        document = list(document.values())
    if isinstance(document, list):
        for each in document:
            yield from _keys_in(each)


def _protected(candidate: Candidate, named: Mapping[str, Path]) -> Candidate:
    if candidate.key in named and candidate.kind not in ("unfinished training", "remains"):
        return replace(candidate, kept=f"named by {named[candidate.key]}")
    if candidate.kept is None and _is_trained(candidate.key):
        return replace(candidate, kept="it is being trained")
    return candidate


def _is_trained(key: str) -> bool:
    if not (partial_root() / f"{key}.lock").exists():
        return False
    try:
        with training_lock(key, wait=False):
            return False
    except Timeout:
        return True


class _Look:
    """One look around the store for whatever has a reason to go."""

    def __init__(self, older_than: timedelta | None) -> None:
        self.earliest = time.time() - older_than.total_seconds() if older_than else None
        self.digests: dict[str, str] = {}  # of the present sources, by class

    def around(self) -> Iterator[Candidate]:
        runs, broken = scan()
        finished = {run.key for run in runs}
        found = [self.run(run) for run in runs]
        found += [self.unfinished(folder, finished) for folder in _folders(partial_root())]
        yield from (candidate for candidate in found if candidate)
        yield from (self.by_age(folder, "folder without a valid manifest") for folder in broken)
        yield from (self.by_age(folder, "quarantined run") for folder in _folders(store_root() / ".corrupt"))
        for folder in _folders(store_root() / ".removed"):
            yield Candidate(folder, _key(folder), "remains", _size(folder), "left by a removal that was cut off")

    def run(self, run: Listed) -> Candidate | None:
        """A run, where it is older than asked or its sources have changed."""
        finished = datetime.strptime(run.summary["finished"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
        if self.earliest is not None and finished < self.earliest:
            return Candidate(run.path, run.key, "run", run.size, f"finished {run.summary['finished']}")
        reason, kept = self.changed(run.summary, lambda: json.loads(Run(run.path).file("config.json").read_text()))
        return Candidate(run.path, run.key, "run", run.size, reason, kept) if reason else None

    def unfinished(self, folder: Path, finished: set[str]) -> Candidate | None:
        """An unfinished training, where it is not to be resumed: over, old, or of changed or unknown sources."""
        reason, kept = "its run is finished", None
        if folder.name not in finished:
            try:
                begun = json.loads((folder / "config.json").read_text())
                reason, kept = self.changed(begun, lambda: begun)
            except (OSError, ValueError, KeyError):
                reason = "it does not say what it was of"
            if self.is_old(folder):
                reason, kept = f"last written {_last_written(folder)}", None
        return Candidate(folder, folder.name, "unfinished training", _size(folder), reason, kept) if reason else None

    def by_age(self, folder: Path, kind: Kind) -> Candidate:
        """What nothing reads: it goes when it is older than asked, and is named otherwise."""
        kept = None if self.is_old(folder) else BY_AGE
        return Candidate(folder, _key(folder), kind, _size(folder), f"last written {_last_written(folder)}", kept)

    def is_old(self, folder: Path) -> bool:
        """Whether nothing in a folder was written since the time asked for."""
        return self.earliest is not None and _last_written(folder).timestamp() < self.earliest

    def changed(self, facts: Mapping[str, Any], stored: Callable[[], Any]) -> tuple[str, str | None]:
        """Why a training is stale, empty where it is not; and why that cannot be told here, if it cannot.

        The digest of the sources is compared and not the key, in which there is the device too: what was trained on
        a GPU is no less good where there is none.
        """
        try:
            if facts["users_classes"]:
                now = source_digest(config_from(stored()))
            else:
                name = facts["class"]
                now = self.digests[name] = self.digests.get(name) or package_digest(config_class(name).sources)
        except (ImportError, AttributeError, ParameterError, CorruptRun) as error:
            return "whether its sources have changed cannot be told here", str(error).splitlines()[0]
        return (CHANGED if now != facts["sources"] else ""), None


def _folders(root: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(root) if entry.is_dir()) if root.is_dir() else []


def _key(folder: Path) -> str:
    return folder.name.partition("-")[0]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _last_written(folder: Path) -> datetime:
    return datetime.fromtimestamp(max(path.stat().st_mtime for path in [folder, *folder.rglob("*")]), UTC).replace(
        microsecond=0
    )
