"""The manifest of a run: every file's size and checksum, and a summary that lists can be made of.

A folder is a run where it has a valid manifest, and is nothing to a reader where it has not. The manifest begins with
the checksum of the rest of itself, so that no changed byte of it goes unseen.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anm_nb.runs.files import replace_whole, sha256_of

MANIFEST = "manifest.json"
FORMAT = 1
_WRITTEN = re.compile(rb'\{"sha256": "([0-9a-f]{64})",(.*)', re.DOTALL)


class CorruptRun(RuntimeError):
    """A stored run is not as it was written; the message names the file, what was expected and what was found."""


@dataclass(frozen=True)
class StoredFile:
    """What a file has to be: its SHA-256 in hexadecimal, and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """The files of a run, and its summary: family, task, method, seeds, steps, when, how long, from which commit."""

    files: dict[str, StoredFile]
    summary: dict[str, Any]

    @classmethod
    def of(cls, contents: Mapping[str, bytes], summary: Mapping[str, Any]) -> Manifest:
        """The manifest of files by name."""
        files = {name: StoredFile(hashlib.sha256(data).hexdigest(), len(data)) for name, data in contents.items()}
        return cls(files, dict(summary))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in a folder, itself checked and the files not. Raises `CorruptRun`."""
        document = read_document(str(folder))
        return cls({name: StoredFile(**facts) for name, facts in document["files"].items()}, document["summary"])

    def write(self, folder: Path) -> None:
        """Put the manifest into a folder, in one step: this makes a run of it."""
        files = {name: {"sha256": file.sha256, "size": file.size} for name, file in self.files.items()}
        document = {"format": FORMAT, "summary": self.summary, "files": files}
        body = json.dumps(document, indent=1)[1:].encode() + b"\n"
        checksum = hashlib.sha256(body).hexdigest()
        replace_whole(folder / MANIFEST, f'{{"sha256": "{checksum}",'.encode() + body)

    def check(self, folder: Path, name: str) -> None:
        """Compare one file with what it has to be, byte by byte. Raises `CorruptRun`."""
        expected, path = self.files.get(name), folder / name
        if expected is None:
            raise CorruptRun(f"{path} is not in the run's manifest")
        try:
            size = path.stat().st_size
            found = sha256_of(path)
        except FileNotFoundError:
            raise CorruptRun(f"{path} is missing: expected {expected.size} bytes") from None
        if size != expected.size:
            raise CorruptRun(f"{path}: expected {expected.size} bytes, found {size}")
        if found != expected.sha256:
            raise CorruptRun(f"{path}: expected sha256 {expected.sha256}, found {found}")


def read_document(folder: str) -> dict[str, Any]:
    """The manifest in a folder as plain data: `files` and `summary`. Raises `CorruptRun`.

    On its own, and on plain names, because a list of the store asks for thousands.
    """
    path = f"{folder}/{MANIFEST}"
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.readall()
    except (FileNotFoundError, NotADirectoryError):
        raise CorruptRun(f"{path} is missing, so the run in this folder was never finished") from None
    written = _WRITTEN.fullmatch(data)
    if written is None:
        raise CorruptRun(f"{path} is no manifest")
    expected, found = written[1].decode(), hashlib.sha256(written[2]).hexdigest()
    if found != expected:
        raise CorruptRun(f"{path}: expected sha256 {expected}, found {found}")
    document = json.loads(b"{" + written[2])
    if document["format"] != FORMAT:
        raise CorruptRun(f"{path} is of format {document['format']}; this version reads format {FORMAT}")
    if outside := [name for name in document["files"] if "/" in name or os.sep in name or name in ("", ".", "..")]:
        raise CorruptRun(f"{path} names files outside the run's folder: {', '.join(outside)}")
    return document


def faults(folder: Path) -> list[str]:
    """Whatever is wrong with a stored run, all its bytes read: each manifest, missing and corrupted file by name."""
    try:
        manifest = Manifest.read(folder)
    except CorruptRun as error:
        return [str(error)]
    found = []
    for name in manifest.files:
        try:
            manifest.check(folder, name)
        except CorruptRun as error:
            found.append(str(error))
    return found


def strangers(folder: Path) -> list[str]:
    """Files in a run's folder that its manifest does not name. Raises `CorruptRun` where there is no valid one."""
    known = {MANIFEST, *Manifest.read(folder).files}
    return sorted(entry.name for entry in os.scandir(folder) if entry.name not in known)
