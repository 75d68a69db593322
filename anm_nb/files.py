"""Paths of outputs, atomic writes, errors for a full disk, locks, and the provenance of results."""

import errno
import hashlib
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from anm_nb.config import ParameterError

CHECKOUT = Path(__file__).resolve().parents[1]  # the clone of this project, unless the package is an installed copy
PACKAGES = ("torch", "numpy", "pandas", "scipy", "pydantic", "safetensors")
FULL = (errno.ENOSPC, errno.EDQUOT)
NOTEBOOK = "ANM_NB_NOTEBOOK"  # environment variable: the name of the notebook that is running
RUNS_USED = "ANM_NB_RUNS_USED"  # environment variable: a file that collects the keys of all runs a process uses
KEPT = "kept:"  # prefix of the names of kept results in that file


class DiskFull(OSError):
    """The disk is full. The message names the file and says how to continue."""


def project_root() -> Path:
    """The clone with notebooks, params and kept results. Raises `ParameterError` for an installed copy."""
    if not (CHECKOUT / "pyproject.toml").is_file():
        raise ParameterError(
            f"{CHECKOUT / 'anm_nb'} is not in a clone of anm-nb, and only its git repository has the notebooks, params "
            "and kept results. Clone it, and run `pip install -e .` in the clone"
        )
    return CHECKOUT


def outputs_root() -> Path:
    """The folder of all results: $ANM_NB_OUTPUTS, or else `outputs/` in the clone or in the current directory."""
    home = CHECKOUT if (CHECKOUT / "pyproject.toml").is_file() else Path.cwd()
    return Path(os.environ.get("ANM_NB_OUTPUTS") or home / "outputs").resolve()


def replace_whole(path: Path, data: bytes) -> None:
    """Write a file atomically: readers see the old or the new one, even after a crash. OSErrors name the file."""
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
    """Turn a disk-full error into `DiskFull`, which names the file (or else `path`) and says what happens `then`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFull) or error.errno not in FULL:
            raise
        where = error.filename2 or error.filename or path
        raise DiskFull(error.errno, f"no space left on the device while writing {where}; {then}") from error


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file, which the system releases if the process dies. Warns with `what` if it has to wait."""
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
    """Append a run's key, or KEPT and a kept result's name, to the file named by $ANM_NB_RUNS_USED, if any."""
    if file := os.environ.get(RUNS_USED):
        with open(file, "ab", buffering=0) as used:
            used.write(f"{what}\n".encode())


def describe_environment(device: str, threads: int | None = None) -> dict[str, Any]:
    """Versions, machine, threads and time, for a result that was just computed on a device (cpu or cuda)."""
    import torch

    on_gpu = device == "cuda" and torch.cuda.is_available()
    return {
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if on_gpu else f"{device} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "platform": platform.platform(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def checkout_state() -> dict[str, Any]:
    """The `commit` of this checkout and whether it is `dirty`; both None, with a warning, if git knows no commit."""
    command = ["git", f"--git-dir={CHECKOUT / '.git'}", f"--work-tree={CHECKOUT}", "--no-optional-locks"]
    command += ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        answer = subprocess.run(command, cwd=CHECKOUT, capture_output=True, timeout=60, check=True, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        warnings.warn(f"results carry no commit: {getattr(error, 'stderr', None) or error}", stacklevel=3)
        return {"commit": None, "dirty": None}
    commit, _, dirty = answer.stdout.strip().partition("-")
    return {"commit": commit, "dirty": bool(dirty)}
