"""One process holds a lock; where the file system has none, a marker stands in, and no dead process keeps it."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
import warnings

import pytest
from stored_training import Line

from anm_nb import locks
from anm_nb.config import ParameterError
from anm_nb.locks import Held, locked
from anm_nb.store import finished_runs, get_or_train, store_root


@pytest.fixture
def no_locks(monkeypatch):
    def refused(code):
        def flock(descriptor, operation):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, "flock", flock)
        monkeypatch.setattr(locks, "POLL_SECONDS", 0.01)

    return refused


def marker(path, host=None, pid=None):
    document = {"host": host or socket.gethostname(), "pid": pid or os.getpid(), "at": 1}
    path.with_name(f"{path.name}.held").write_text(json.dumps(document))


def test_a_lock_is_held_once_and_the_second_waits(tmp_path):
    path, order = tmp_path / "lock", []

    def second():
        with pytest.warns(UserWarning, match="thing by another process; waiting for it"), locked(path, "thing"):
            order.append("second")

    with locked(path, "thing"):
        thread = threading.Thread(target=second)
        thread.start()
        with pytest.raises(Held, match="thing by another process"), locked(path, "thing", wait=False):
            pass
        time.sleep(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_a_marker_stands_in_and_is_said_once(code, no_locks, tmp_path):
    no_locks(code)
    path = tmp_path / "lock"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with locked(path, "thing"):
            assert json.loads((tmp_path / "lock.held").read_text())["pid"] == os.getpid()
            said_by = f"by process {os.getpid()} on {socket.gethostname()}"
            with pytest.raises(Held, match=said_by), locked(path, "thing", wait=False):
                pass
    (first, *_) = [str(each.message) for each in said]
    assert f"the file system of {tmp_path} has no locks ({os.strerror(code)})" in first
    assert "$ANM_NB_OUTPUTS" in first
    assert not (tmp_path / "lock.held").exists()


@pytest.mark.filterwarnings("ignore:the file system of")
def test_a_dead_processs_marker_is_taken_over_and_ones_own_is_renewed(no_locks, tmp_path, monkeypatch):
    no_locks(errno.ENOLCK)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    marker(tmp_path / "lock", pid=dead.pid)
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.02)
    with locked(tmp_path / "lock", "thing", wait=False):
        assert json.loads((tmp_path / "lock.held").read_text())["pid"] == os.getpid()
        os.utime(tmp_path / "lock.held", (1, 1))
        time.sleep(0.3)
        assert (tmp_path / "lock.held").stat().st_mtime > 1


@pytest.mark.filterwarnings("ignore:the file system of")
def test_the_marker_of_another_machine_is_named_and_taken_over_when_it_is_not_renewed(no_locks, tmp_path, monkeypatch):
    no_locks(errno.ENOLCK)
    marker(tmp_path / "lock", "elsewhere", 7)
    said = r"by process 7 on elsewhere \(taken over when .*lock.held is not renewed for 10 minutes; .*remove that\)"
    with pytest.raises(Held, match=said), locked(tmp_path / "lock", "thing", wait=False):
        pass
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.3)
    renewed = threading.Timer(0.2, os.utime, [tmp_path / "lock.held"])
    renewed.start()
    started = time.monotonic()
    with pytest.warns(UserWarning, match="process 7 on elsewhere; waiting for it"), locked(tmp_path / "lock", "thing"):
        assert time.monotonic() - started > 0.45  # counted anew from when it was renewed
    renewed.join()


def test_a_run_is_trained_without_locks_and_where_folders_cannot_be_flushed(no_locks, tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    no_locks(errno.EOPNOTSUPP)
    flush = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.warns(UserWarning, match="has no locks"):
        run = get_or_train(Line())
    assert [each.key for each in finished_runs()] == [run.key]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_store_that_cannot_be_written_is_one_error_with_the_remedy(code, tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    kept = get_or_train(Line())

    def refuse(path, *arguments, **options):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr(os, "open", refuse)
    assert get_or_train(Line()).key == kept.key  # nothing has to be written for what is there
    with pytest.raises(ParameterError, match=rf"{store_root()}.* cannot be written .*set \$ANM_NB_OUTPUTS") as caught:
        get_or_train(Line(steps=4))
    assert "\n" not in str(caught.value)
