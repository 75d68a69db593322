"""Where files lie and results come from; files that are whole or absent, a full disk that names the file, locks."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from anm_nb.config import ParameterError

CHECKOUT = Path(__file__).resolve().parents[1]  # a clone of this project, unless the package was installed as a copy
PACKAGES = ("torch", "numpy", "pandas", "scipy", "pydantic", "safetensors")
FULL = (errno.ENOSPC, errno.EDQUOT)
NOTEBOOK = "ANM_NB_NOTEBOOK"  # in the environment of a notebook that runs: its name
RUNS_USED = "ANM_NB_RUNS_USED"  # names the file that takes the keys of the runs a process was served
KEPT = "kept:"  # before the name of a kept result there


class DiskFull(OSError):
    """No room for a file; the message names it, and says what happens once there is room."""


def project_root() -> Path:
    """The clone, which has what a package does not: notebooks, params, kept results.

    Raises `ParameterError` where the package was installed as a copy.
    """
    if not (CHECKOUT / "pyproject.toml").is_file():
        raise ParameterError(
            f"{CHECKOUT / 'anm_nb'} lies in no clone of anm-nb, and notebooks, params and kept results are in its git "
            "repository only. Clone it, and run `pip install -e .` in the clone"
        )
    return CHECKOUT


def outputs_root() -> Path:
    """The folder of all results: $ANM_NB_OUTPUTS, else `outputs/` of the clone, or of the current directory."""
    home = CHECKOUT if (CHECKOUT / "pyproject.toml").is_file() else Path.cwd()
    return Path(os.environ.get("ANM_NB_OUTPUTS") or home / "outputs").resolve()


def replace_whole(path: Path, data: bytes) -> None:
    """Write a file atomically: readers see the old one or the new one, also after a crash. OSErrors name the file."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(data)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        error.filename = error.filename or str(partial)
        raise


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def full_disk_named(path: Path, then: str) -> Iterator[None]:
    """Raise `DiskFull`, saying what happens `then`, where a write has no room; `path` where the error names no file."""
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFull) or error.errno not in FULL:
            raise
        where = error.filename2 or error.filename or path
        raise DiskFull(error.errno, f"no space left on the device while writing {where}; {then}") from error


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file, which the system takes back from a process that dies; waits with a warning that says `what`."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        warnings.warn(f"{what} by another process; waiting for it", stacklevel=4)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def note_use(what: str) -> None:
    """Append a run's key, or KEPT and a kept result's name, to the file that whoever started this process asked for."""
    if file := os.environ.get(RUNS_USED):
        with open(file, "ab", buffering=0) as used:
            used.write(f"{what}\n".encode())


def describe_environment(device: str, threads: int | None = None) -> dict[str, Any]:
    """Versions, machine, threads and time of a result just computed on a device, cpu or cuda.

    `peak_memory_mib` is of the largest process, this one or one it started that has ended.
    """
    import torch

    peak = max(resource.getrusage(whose).ru_maxrss for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    on_gpu = device == "cuda" and torch.cuda.is_available()
    return {
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if on_gpu else f"{device} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "platform": platform.platform(),
        "peak_memory_mib": peak / (2**20 if sys.platform == "darwin" else 2**10),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def checkout_state() -> dict[str, Any]:
    """`commit` of this checkout and whether it is `dirty`; both None, with a warning, where git knows of none."""
    command = ["git", f"--git-dir={CHECKOUT / '.git'}", f"--work-tree={CHECKOUT}", "--no-optional-locks"]
    command += ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        answer = subprocess.run(command, cwd=CHECKOUT, capture_output=True, timeout=60, check=True, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        warnings.warn(f"results carry no commit: {getattr(error, 'stderr', None) or error}", stacklevel=3)
        return {"commit": None, "dirty": None}
    commit, _, dirty = answer.stdout.strip().partition("-")
    return {"commit": commit, "dirty": bool(dirty)}
