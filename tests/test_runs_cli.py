"""`anm-nb runs` lists, verifies and copies runs, and refuses corrupted ones."""

import re
import shutil
import zipfile
from dataclasses import dataclass

import pandas as pd
import pytest
from stored_training import Line, energy
from typer.testing import CliRunner

from anm_nb.cli import app
from anm_nb.config import ParameterError
from anm_nb.identity import key_of
from anm_nb.store import MANIFEST, Run, find, get_or_train, store_root, write_manifest

pytestmark = pytest.mark.usefixtures("quick_disk")


def runs(*arguments):
    return CliRunner().invoke(app, ["runs", *map(str, arguments)])


def remade(run, config=None, **facts):
    """A copy of the run under another config and summary; `version` makes its key different."""
    identity = run.manifest["identity"] | {"version": facts.pop("version", 9)}
    if config:
        identity |= {"class": "anm_nb.energy.train:EnergyConfig", "config": config.model_dump(mode="json")}
    path = run.path.with_name(key_of(identity))
    shutil.copytree(run.path, path)
    contents = {name: (run.path / name).read_bytes() for name in run.manifest["files"]}
    write_manifest(path, contents, identity, run.summary | facts)
    return Run(path)


@dataclass(frozen=True)
class Stored:
    line: Run
    anm: Run
    stock: Run


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Three runs: a toy run, and two that look like energy runs."""
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))
    line = get_or_train(Line())
    facts = {"family": "energy", "task": "inverse"}
    old = {"finished": "2020-01-02T03:04:05Z", "finished_ns": 1}
    anm = remade(line, energy("anm"), method="anm", **facts, **old)
    return Stored(line, anm, remade(line, energy("stock", size=3), method="stock", **facts))


def scored(store, strategy, error):
    """A run of two seeds with this final error."""
    metrics = pd.DataFrame({"seed": [0, 0, 1, 1], "step": [0, 5, 0, 5], "mse": [9, error, 9, error + 0.02]})
    metrics.assign(p_hard=0.5, gone=float("nan")).to_parquet(store.line.path / "metrics.parquet")
    config = energy(strategy, lr=error / 100)
    return remade(store.line, config, method=strategy, family="energy", task="inverse", version=7)


def test_a_list_shows_the_score_and_what_differs_the_newest_last(store):
    anm, stock = scored(store, "anm", 0.25), scored(store, "stock", 0.5)
    oldest, *lines = runs("ls").stdout.splitlines()[1:-1]
    assert store.anm.key in oldest
    rows = {line.split()[0]: line for line in lines}
    assert re.search(r" mse +0.26 .* lr=0.0025", rows[anm.key])
    assert re.search(r" mse +0.51 .* lr=0.005", rows[stock.key])
    assert "width" not in rows[anm.key]  # the same in all


def test_a_key_is_found_by_its_beginning_and_an_ambiguous_beginning_is_refused(store):
    for asked in (store.line.key[:6], str(store.line.path)):
        assert find(asked) == store.line
    nearly = store.stock.key[:-1] + ("0" if store.stock.key[-1] != "0" else "1")
    with pytest.raises(ParameterError, match=f"unknown run '{nearly}'.*nearest: {store.stock.key}"):
        find(nearly)
    keys = {remade(store.line, version=version).key for version in range(20, 37)}  # more keys than hexadecimal digits
    twice = next(key for key in keys if sum(each[0] == key[0] for each in keys) > 1)
    with pytest.raises(ParameterError, match=f"keys begin with '{twice[0]}': .*{twice}"):
        find(twice[0])


def test_verify_names_every_fault(store):
    assert runs("verify").exit_code == 0
    (store.anm.path / "trace.safetensors").unlink()
    (store.line.path / MANIFEST).write_text("{}")
    result = runs("verify")
    assert result.exit_code == 1
    assert f"{store.anm.key}/trace.safetensors cannot be read (No such file or directory)" in result.stdout
    assert f"{store.line.key}/{MANIFEST} is not a manifest" in result.stdout
    assert "1 of 3 runs" in result.stdout
    listed = runs("ls")
    assert store.stock.key in listed.stdout
    assert "2 more are not finished runs; anm-nb runs verify" in listed.stderr


def keys():
    return {path.name for path in store_root().glob("[!.]*")}


def test_exported_runs_are_read_by_another_store(store, tmp_path, monkeypatch):
    out = tmp_path / "runs.zip"
    assert runs("export", store.line.key, store.anm.key, "--out", out).exit_code == 0
    again = runs("export", store.line.key, "--out", out)
    assert (again.exit_code, "already exists" in again.stderr) == (2, True)
    assert {each.name for each in tmp_path.iterdir()} == {"outputs", "runs.zip"}  # no temporary files
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "there"))
    for _ in range(2):  # existing runs stay
        assert runs("import", out).exit_code == 0
    served = get_or_train(Line())
    assert served.path == tmp_path / "there" / "runs" / store.line.key
    assert served.summary == store.line.summary  # not trained again
    assert runs("verify").exit_code == 0
    assert keys() == {store.anm.key, store.line.key}


def test_a_corrupted_run_is_neither_exported_nor_imported(store, tmp_path, monkeypatch):
    for file in ("metrics.parquet", "config.json"):
        (store.line.path / file).write_bytes((store.line.path / file).read_bytes()[:-1] + b"x")
    result = runs("export", store.line.key, "--out", tmp_path / "out.zip")
    assert (result.exit_code, "metrics.parquet: expected sha256" in result.stderr) == (2, True)
    assert not (tmp_path / "out.zip").exists()
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        for each in store.line.path.iterdir():
            file.write(each, f"{store.line.key}/{each.name}")
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "there"))
    result = runs("import", tmp_path / "bad.zip")
    assert (result.exit_code, "metrics.parquet: expected sha256" in result.stderr) == (2, True)
    assert keys() == set()


def test_a_zip_file_writes_nothing_outside_the_store(store, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as file:
        for name in ("../evil", "/evil", f"{store.line.key}/../../evil", "0" * 16 + "/big"):
            file.writestr(name, b"x")
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "there"))
    before = sorted(tmp_path.rglob("*evil*"))
    assert "contains no exported runs" in runs("import", tmp_path / "evil.zip").stderr
    assert sorted(tmp_path.rglob("*evil*")) == before
    assert keys() == set()
