"""A result names the commit of this checkout, or none and why; git never costs a training."""

import os
import subprocess

import pytest
from stored_training import Line

from anm_nb import files
from anm_nb.files import checkout_state
from anm_nb.store import get_or_train


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


def test_the_commit_and_whether_the_checkout_differs_from_it_whatever_repository_a_hook_names(
    checkout, tmp_path, monkeypatch
):
    repository(checkout)
    git(checkout, "tag", "v1")
    own = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(repository(tmp_path / "other") / ".git"))
    assert checkout_state() == {"commit": own, "dirty": False}
    (checkout / "pyproject.toml").write_text("2")
    assert checkout_state() == {"commit": own, "dirty": True}


def test_an_archive_in_another_repository_has_no_commit(checkout):
    repository(checkout.parent)
    with pytest.warns(UserWarning, match="results carry no commit: .*not a git repository"):
        state = checkout_state()
    assert (state["commit"], state["dirty"]) == (None, None)  # nobody knows; not that the checkout was clean


def test_without_git_a_run_is_trained_and_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.warns(UserWarning, match="results carry no commit: git cannot be run"):
        run = get_or_train(Line())
    assert run.summary["commit"] is run.provenance["commit"] is run.provenance["dirty"] is None
    assert "git cannot be run" in run.provenance["no_commit"]
