"""`anm-nb runs`: what it lists, names, removes and copies, and what it refuses."""

import json
import os
import time
import zipfile

import pytest
from stored_training import Line, energy
from typer.testing import CliRunner

from anm_nb.cli import app
from anm_nb.runs import Manifest, Run, get_or_train, store_root
from anm_nb.runs.manifest import MANIFEST
from anm_nb.runs.store import training_lock
from anm_nb.sweep import Outcome, write_outcomes
from anm_nb.sweep.batch import folder_of_results


def runs(*arguments):
    return CliRunner().invoke(app, ["runs", *map(str, arguments)])


def remade(run, key, config=None, **facts):
    """The same run under another key, with other facts in its summary and another config."""
    path = run.path.with_name(key)
    path.mkdir()
    contents = {name: (run.path / name).read_bytes() for name in Manifest.read(run.path).files}
    if config:
        identity = {"class": "anm_nb.energy.train:EnergyConfig", "config": config.model_dump(mode="json")}
        contents["config.json"] = json.dumps(identity).encode()
    for name, data in contents.items():
        (path / name).write_bytes(data)
    Manifest.of(contents, Manifest.read(run.path).summary | facts).write(path)
    return Run(path)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Three runs: a line, and two that look like energy runs; nothing is named by the checkout's own references."""
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setattr("anm_nb.runs.places.clone", lambda: tmp_path)
    line = get_or_train(Line())
    facts = {"family": "energy", "task": "inverse"}
    old = {"finished": "2020-01-02T03:04:05Z", "finished_ns": 1}
    remade(line, "aaaa", energy("anm"), method="anm", **facts, **old)
    remade(line, "aabb", energy("stock", size=3), method="stock", **facts)
    return line


def listed(*filters):
    result = runs("ls", "--json", *filters)
    assert result.exit_code == 0, result.output
    return [row["key"] for row in json.loads(result.stdout)]


def test_runs_are_listed_oldest_first_and_filtered(store):
    assert listed()[0] == "aaaa"
    assert sorted(listed()) == sorted(["aaaa", "aabb", store.key])
    assert listed("--family", "energy") == ["aaaa", "aabb"]
    assert listed("--task", "inverse", "--method", "stock") == ["aabb"]
    assert listed("--where", "negatives.name=anm") == ["aaaa"]
    assert listed("--where", "loop.steps=12", "--where", "size=3") == ["aabb"]
    assert listed("--where", "loop.lr=1e-3", "--since", "2021-01-01") == ["aabb"]
    assert listed("--family", "energy", "--since", "1h") == ["aabb"]
    assert listed("--task", "sudoku") == []
    table = runs("ls", "--limit", "1").stdout
    assert "aaaa" not in table
    assert "3 of 3 runs" in table


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ls", "--family", "enrgy"), "unknown family 'enrgy' (did you mean 'energy'?)"),
        (("ls", "--task", "invrse"), "unknown task 'invrse' (did you mean 'inverse'?)"),
        (("ls", "--method", "amn"), "unknown method 'amn' (did you mean 'anm'?)"),
        (("ls", "--where", "loop.step=3"), "unknown config value 'loop.step' (did you mean 'loop.steps'?)"),
        (("ls", "--where", "loop"), "--where loop: needs name=value"),
        (("ls", "--since", "soon"), "'soon' is neither a date"),
        (("gc", "--older-than", "30"), "'30' is no span of time"),
        (("show", "aa"), "'aa' begins 2 keys: aaaa (energy, inverse, anm), aabb (energy, inverse, stock)"),
        (("show", "aabc"), "nearest: aabb (energy, inverse, stock)"),
        (("verify", "aacb"), "unknown run 'aacb'"),
        (("export", "zz", "--out", "x.zip"), "unknown run 'zz'"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_nearest(arguments, said, store):
    result = runs(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_a_run_is_shown(store):
    said = runs("show", store.key[:6]).stdout
    for part in ("steps: 6", "peak_memory_mib", "checkpoint.safetensors", "error", store.key):
        assert part in said


def test_verify_names_every_fault(store):
    assert runs("verify").exit_code == 0
    (store.path.with_name("aaaa") / "trace.safetensors").unlink()
    (store.path.with_name("aabb") / "notes.txt").touch()
    (store.path / MANIFEST).write_text("{}")
    result = runs("verify")
    assert result.exit_code == 1
    for part in ("aaaa/trace.safetensors is missing", "aabb/notes.txt is not in the run's manifest"):
        assert part in result.stdout
    assert f"{store.key}/{MANIFEST} is no manifest" in result.stdout
    assert "0 of 3 runs" in result.stdout
    assert runs("verify", "aaaa").stdout.count("\n") == 2
    assert "2 folders are no finished runs" in runs("ls").stderr


def keys():
    return {path.name for path in store_root().glob("[!.]*")}


def test_gc_removes_the_stale_and_the_old_and_keeps_what_is_named_or_trained(store, tmp_path):
    for key in ("c0de", "cafe", "face", "feed"):
        remade(store, key, sources="other")
    reference = tmp_path / "outputs" / "reference" / "10_anm" / "provenance.json"
    reference.parent.mkdir(parents=True)
    reference.write_text(json.dumps({"anm": {"key": "cafe"}}))
    sweep = tmp_path / "outputs" / "grid" / "outcomes.json"
    sweep.parent.mkdir()
    sweep.write_text(json.dumps([{"name": "a", "status": "done", "runs": ["face", "aaaa"]}, {"name": "b"}]))
    remade(store, "beef", finished="2020-01-02T03:04:05Z")
    before = keys()
    with training_lock("feed"):
        dry = runs("gc", "--older-than", "30d", "--dry-run")
        assert keys() == before
        done = runs("gc", "--older-than", "30d")
    for said in (dry.stdout, done.stdout):
        assert f"kept run cafe ({said.split('kept run cafe (')[1].split(')')[0]})" in said
        assert f"but named by {reference}" in said
        assert f"but named by {sweep}" in said
        assert "feed" in said
        assert "its training sources have changed since, but it is being trained" in said
        assert "2 folders" in said
    assert "removed run c0de" in done.stdout
    assert before - keys() == {"c0de", "beef"}
    assert not list((store_root() / ".removed").iterdir())


def test_gc_keeps_what_a_sweep_names_whose_results_lie_elsewhere(store, tmp_path):
    for key in ("c0de", "face"):
        remade(store, key, sources="other")
    elsewhere = tmp_path / "elsewhere"
    for _ in range(2):
        with folder_of_results(elsewhere):
            write_outcomes([Outcome("a", "done", 1.0, 1.0, runs=("face",))], elsewhere)
    assert f"but named by {elsewhere / 'outcomes.json'}" in runs("gc").stdout
    assert {"c0de", "face"} & keys() == {"face"}
    (elsewhere / "outcomes.json").unlink()
    runs("gc")
    assert "face" not in keys()


def test_gc_keeps_everything_where_it_cannot_read_what_is_named(store, tmp_path):
    remade(store, "c0de", sources="other")
    (tmp_path / "outputs" / "grid").mkdir()
    (tmp_path / "outputs" / "grid" / "outcomes.json").write_text("[{")
    result = runs("gc")
    assert result.exit_code == 2
    assert "outcomes.json cannot be read" in result.stderr
    assert "c0de" in keys()


def test_gc_removes_trainings_that_nothing_resumes(store):
    begun = json.loads((store.path / "config.json").read_text())
    facts = {"users_classes": [], "sources": Manifest.read(store.path).summary["sources"]}
    for key, sources in (("same", {}), ("changed", {"sources": "other"}), (store.key, {})):
        folder = store_root() / ".partial" / key
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(begun | facts | sources))
    (store_root() / ".corrupt" / "dead-1").mkdir(parents=True)
    said = runs("gc").stdout
    assert {path.name for path in (store_root() / ".partial").iterdir() if path.is_dir()} == {"same"}
    assert "kept quarantined run dead-1" in said
    long_ago = time.time() - 90 * 86400
    for path in (store_root() / ".partial" / "same" / "config.json", store_root() / ".partial" / "same"):
        os.utime(path, (long_ago, long_ago))
    runs("gc", "--older-than", "30d")
    assert not (store_root() / ".partial" / "same").exists()


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_exported_runs_are_read_by_another_store(form, store, tmp_path, monkeypatch):
    out = tmp_path / "there" / "runs"
    target = out if form == "folder" else tmp_path / "runs.zip"
    assert runs("export", store.key, "aaaa", "--out", target).exit_code == 0
    again = runs("export", store.key, "--out", target)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    assert runs("export", store.key, "aaaa", "--out", target, "--overwrite").exit_code == 0
    if form == "zip":
        with zipfile.ZipFile(target) as file:
            file.extractall(out)
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "there"))
    monkeypatch.setattr(Line, "train", lambda self, workdir: pytest.fail("trained"))
    assert get_or_train(Line()).path == out / store.key
    assert runs("verify").exit_code == 0
    assert listed() == ["aaaa", store.key]


def test_a_corrupted_run_is_not_exported(store, tmp_path):
    file = store.path / "metrics.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    result = runs("export", store.key, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "metrics.parquet: expected sha256" in result.stderr
    assert not (tmp_path / "out").exists()
