"""Locks are exclusive, a read-only store gives a clear error, and results name the commit of this checkout."""

import errno
import os
import subprocess
import threading
import time

import pytest
from stored_training import Line

from anm_nb import files
from anm_nb.config import ParameterError
from anm_nb.files import checkout_state, locked
from anm_nb.store import get_or_train, store_root


def test_a_lock_is_held_once_and_the_second_waits(tmp_path):
    path, order = tmp_path / "lock", []

    def second():
        with pytest.warns(UserWarning, match="thing by another process; waiting for it"), locked(path, "thing"):
            order.append("second")

    with locked(path, "thing"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_store_that_is_not_writable_gives_one_error_with_the_remedy(code, tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    kept = get_or_train(Line())

    def refuse(path, *arguments, **options):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr(os, "open", refuse)
    assert get_or_train(Line()).key == kept.key  # reading a stored run needs no write access
    with pytest.raises(ParameterError, match=rf"{store_root()}.* cannot be written .*set \$ANM_NB_OUTPUTS") as caught:
        get_or_train(Line(steps=4))
    assert "\n" not in str(caught.value)


def git(folder, *arguments):
    names = {f"GIT_{role}_{what}": "someone" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", "-c", "commit.gpgsign=false", *arguments]
    env = os.environ | names
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout.strip()


def repository(folder):
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init")
    (folder / "pyproject.toml").write_text("1")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "x")
    return folder


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHECKOUT", tmp_path / "checkout")
    (tmp_path / "checkout").mkdir()
    return tmp_path / "checkout"


def test_the_commit_and_whether_the_checkout_differs_from_it(checkout):
    repository(checkout)
    git(checkout, "tag", "v1")
    own = git(checkout, "rev-parse", "HEAD")
    assert checkout_state() == {"commit": own, "dirty": False}
    (checkout / "pyproject.toml").write_text("2")
    assert checkout_state() == {"commit": own, "dirty": True}


def test_an_archive_in_another_repository_has_no_commit(checkout):
    repository(checkout.parent)
    with pytest.warns(UserWarning, match="results carry no commit: .*not a git repository"):
        state = checkout_state()
    assert (state["commit"], state["dirty"]) == (None, None)  # unknown, which is not the same as clean


def test_without_git_a_run_is_trained_and_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.warns(UserWarning, match="results carry no commit: .*No such file or directory: 'git'"):
        run = get_or_train(Line())
    assert run.summary["commit"] is run.provenance["commit"] is run.provenance["dirty"] is None
