"""One process holds a lock; where the file system has none a marker stands in; a store one cannot write says so."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from stored_training import Line

from anm_nb.config import ParameterError
from anm_nb.files import Held, locked
from anm_nb.store import get_or_train, store_root


@pytest.fixture
def no_locks(monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", flock)


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


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_marker_stands_in_and_no_dead_process_keeps_it(tmp_path):
    path = tmp_path / "lock"
    program = "import filelock, os, sys; lock = filelock.SoftFileLock(sys.argv[1]); lock.acquire(); os._exit(0)"
    subprocess.run([sys.executable, "-c", program, f"{path}.held"], check=True)
    assert Path(f"{path}.held").exists()
    lock = locked(path, "thing")
    with pytest.warns(UserWarning, match=f"the file system of {tmp_path} has no locks"):
        lock.__enter__()
    said = rf"thing by another process \(if you know it to be dead, remove {path}.held\)"
    with (
        pytest.warns(UserWarning, match="has no locks"),
        pytest.raises(Held, match=said),
        locked(path, "thing", wait=False),
    ):
        pass
    lock.__exit__(None, None, None)
    assert not Path(f"{path}.held").exists()


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
