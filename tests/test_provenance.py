"""A result names the commit of this checkout, or none and why; git never costs a training."""

import os
import subprocess
import warnings

import pytest
from stored_training import Line

from anm_nb import provenance
from anm_nb.provenance import checkout_state, describe_environment
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


@pytest.fixture(autouse=True)
def forgotten():
    provenance._warn_once.cache_clear()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "package_root", lambda: tmp_path / "checkout")
    (tmp_path / "checkout").mkdir()
    return tmp_path / "checkout"


def no_commit(why):
    with pytest.warns(UserWarning, match=f"results carry no commit: .*{why}"):
        state = checkout_state()
    assert (state["commit"], state["dirty"]) == (None, None)  # nobody knows; not that the checkout was clean
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkout_state() == state  # said once
    return state["no_commit"]


def test_the_commit_and_whether_the_checkout_differs_from_it(checkout):
    repository(checkout)
    assert checkout_state() == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}
    (checkout / "pyproject.toml").write_text("2")
    assert checkout_state()["dirty"] is True


def test_an_archive_in_another_repository_has_no_commit(checkout):
    (checkout / "pyproject.toml").write_text("1")
    repository(checkout.parent)
    no_commit("is no checkout of its own, but lies in the repository")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_checkout_of_somebody_else_has_no_commit(checkout, monkeypatch):
    repository(checkout)
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.setenv("HOME", str(checkout.parent))  # no safe.directory of the person who tests
    for path in (checkout, *checkout.rglob("*")):
        os.chown(path, 12345, 12345)
    no_commit("dubious ownership")


def test_a_repository_that_a_hook_names_is_not_ours(checkout, tmp_path, monkeypatch):
    other = repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(checkout))
    no_commit("not a git repository")
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_WORK_TREE")
    repository(checkout)
    own = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert checkout_state()["commit"] == own


def test_without_git_a_run_is_trained_and_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.warns(UserWarning, match="results carry no commit: git cannot be run"):
        run = get_or_train(Line())
    assert run.summary["commit"] is run.provenance["commit"] is run.provenance["dirty"] is None
    assert "git cannot be run" in run.provenance["no_commit"]


def test_what_a_gpu_trained_is_described_where_there_is_none(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert describe_environment("cuda")["device"].startswith("cuda ")


def test_a_command_has_no_folders_of_the_machine(tmp_path, monkeypatch):
    argv = [tmp_path / "ours", "--of", tmp_path / "theirs.json", f"--in={tmp_path}/others.json", "--rate=0.5"]
    monkeypatch.setattr("sys.argv", [str(each) for each in argv])
    assert describe_environment("cpu")["command"] == "ours --of theirs.json --in=others.json --rate=0.5"
