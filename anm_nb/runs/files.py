"""Files that are whole or not there, written through to the disk, and a full disk called by its name."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFull(OSError):
    """There was no room for a file; the message names it, and says what goes on from where once there is room."""


def write_through(path: Path, data: bytes) -> None:
    """Write a file and return when the disk has it. Raises OSError naming the file; what is there then is no use."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def replace_whole(path: Path, data: bytes) -> None:
    """Write a file in one step: a reader sees the old one or the new one, never half of one, also after a crash."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        write_through(partial, data)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def put_in_place(partial: Path, path: Path) -> None:
    """Let a whole file appear under its name in one step, once it is on the disk."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    flush_folder(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to write into, which takes its place, and that of a folder there, if all goes well.

    Until then what was in the place stays there, whole, also where the process is killed; only between the two renames
    at the end do both stand beside it, under names that begin with a dot, as does what is not finished.
    """
    partial, replaced = (path.with_name(f".{path.name}.{role}") for role in ("partial", "replaced"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            os.replace(path, replaced)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Return when the disk knows of every rename in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def full_disk_named(path: Path, then: str) -> Iterator[None]:
    """Raise `DiskFull`, saying what happens `then`, where a write has no room; `path` where the error names no file."""
    try:
        yield
    except DiskFull:
        raise
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = error.filename2 or error.filename or path
        raise DiskFull(error.errno, f"no space left on the device while writing {where}; {then}") from error
