"""A lock file that one process holds at a time; on file systems without locks, a marker that its holder renews."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
POLL_SECONDS = 0.2
RENEW_SECONDS = 60.0
STALE_SECONDS = 600.0  # a marker that was not renewed for so long, by the waiter's clock, is of a dead process


class Held(RuntimeError):
    """Another process holds the lock; the message names it as far as it is known."""


@contextmanager
def locked(path: Path, what: str, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`; the system takes it back from a process that dies.

    Where another process holds it: waits with a warning that says `what`, or raises `Held` where `wait` is False.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        problem = _lock(descriptor, fcntl.LOCK_NB)
        if isinstance(problem, BlockingIOError):
            _tell(f"{what} by another process", wait)
            problem = _lock(descriptor)
        if problem is None:
            yield
            return
        warnings.warn(
            f"the file system of {path.parent} has no locks ({problem.strerror}); a marker file stands in for one. "
            "For real locks set $ANM_NB_OUTPUTS to a folder of a local disk",
            stacklevel=4,
        )
        with _marker(path.with_name(f"{path.name}.held"), what, wait):
            yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, option: int = 0) -> OSError | None:
    """Lock an open file; returns why not, where another process holds it or the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | option)
    except OSError as error:
        if not isinstance(error, BlockingIOError) and error.errno not in NO_LOCKS:
            raise
        return error
    return None


def _tell(said: str, wait: bool, then: str = "") -> None:
    if not wait:
        raise Held(said + then)
    warnings.warn(f"{said}; waiting for it{then}", stacklevel=6)


@contextmanager
def _marker(path: Path, what: str, wait: bool) -> Iterator[None]:
    """Hold a marker file, renewed in the background."""
    mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "at": time.time_ns()}).encode()
    seen: tuple[bytes, int] = (b"", 0)
    since = time.monotonic()
    while not _create(path, mine):
        found = _read(path)
        host, pid = _holder(found[0])
        if _is_dead(host, pid) or time.monotonic() - since > STALE_SECONDS:
            _take_away(path, found[0])
            continue
        if pid and found[0] != seen[0]:
            minutes = f"{STALE_SECONDS / 60:g} minutes"
            then = f" (taken over when {path} is not renewed for {minutes}; if you know it to be dead, remove that)"
            _tell(f"{what} by process {pid} on {host}", wait, then)
        if found != seen:
            seen, since = found, time.monotonic()
        time.sleep(POLL_SECONDS)
    over = threading.Event()

    def renew() -> None:
        while not over.wait(RENEW_SECONDS):
            os.utime(path)

    threading.Thread(target=renew, daemon=True).start()
    try:
        yield
    finally:
        over.set()
        if _read(path)[0] == mine:
            path.unlink(missing_ok=True)


def _create(path: Path, content: bytes) -> bool:
    """Whether the marker could be made, as there was none."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
    return True


def _take_away(path: Path, content: bytes) -> None:
    """Remove the marker that was seen; one that another process has made meanwhile goes back."""
    aside = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}")
    try:
        os.rename(path, aside)
        if _read(aside)[0] != content:
            os.link(aside, path)
        aside.unlink()
    except OSError:  # another process was quicker
        return


def _read(path: Path) -> tuple[bytes, int]:
    """What a marker says, and when it was renewed; nothing where there is none."""
    try:
        return path.read_bytes(), path.stat().st_mtime_ns
    except FileNotFoundError:
        return b"", 0


def _holder(content: bytes) -> tuple[str, int]:
    """Host and process of a marker; process 0 while it is being written."""
    try:
        document = json.loads(content)
        return str(document["host"]), int(document["pid"])
    except (ValueError, KeyError, TypeError):
        return "", 0


def _is_dead(host: str, pid: int) -> bool:
    """Whether a process of this machine has ended."""
    if host != socket.gethostname() or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.ESRCH
    return False
