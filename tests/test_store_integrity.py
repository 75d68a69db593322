"""A run that changed since it was written is detected, named, set aside and trained again."""

import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from stored_training import Line

from anm_nb.config import ParameterError
from anm_nb.store import MANIFEST, CorruptRun, Run, get_or_train, scan, store_root, write_manifest

pytestmark = pytest.mark.usefixtures("quick_disk")

FILES = ("config.json", "metrics.parquet", "trace.safetensors", "checkpoint.safetensors", "provenance.json", MANIFEST)
READ = dict(zip(FILES, (None, "metrics", "trace", "weights", "provenance", "manifest"), strict=True))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))
    return get_or_train(Line())


def flip(path: Path, place: float) -> None:
    """Flip one bit of a file, at a place given as a fraction of its length."""
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("place", [0.0, 0.6])
@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_in_any_file_is_named_with_a_warning_and_trained_again(name, place, run):
    flip(run.path / name, place)
    (wrong,) = Run(run.path).faults()
    assert str(run.path / name) in wrong
    if name != MANIFEST:
        expected = run.manifest["files"][name]["sha256"]
        assert re.search(rf"expected sha256 {expected}, found (?!{expected})[0-9a-f]{{64}}", wrong)
    with pytest.raises(CorruptRun, match=re.escape(str(run.path / name))):
        _ = getattr(Run(run.path), READ[name]) if READ[name] else Run(run.path).file(name)
    said = rf"run {run.key} cannot be trusted: .*{re.escape(name)}.*\.corrupt/{run.key}-.* trained again"
    with pytest.warns(UserWarning, match=said):
        again = get_or_train(Line())
    assert Run(again.path).faults() == []
    pd.testing.assert_frame_equal(again.metrics, run.metrics, check_exact=True)
    (aside,) = (store_root() / ".corrupt").iterdir()
    assert {path.name for path in aside.iterdir()} == set(FILES)  # the finished files are still there
    assert [each.key for each in scan()[0]] == [run.key]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda path, other: (shutil.rmtree(path), path.write_text("")), "cannot be read"),
        (lambda path, other: (shutil.rmtree(path), path.symlink_to("nowhere")), "never finished"),
        (lambda path, other: (shutil.rmtree(path), path.mkdir()), "never finished"),
        (lambda path, other: (path / MANIFEST).unlink(), "never finished"),
        (lambda path, other: (path / "metrics.parquet").unlink(), "metrics.parquet cannot be read"),
        (lambda path, other: os.truncate(path / "metrics.parquet", 9), "metrics.parquet: expected .* found 9"),
        (lambda path, other: ((path / MANIFEST).unlink(), (path / MANIFEST).mkdir()), "cannot be read"),
        (lambda path, other: ((path / "config.json").unlink(), (path / "config.json").mkdir()), "config.json"),
        (lambda path, other: (shutil.rmtree(path), shutil.copytree(other, path)), "a copy or a link under another"),
        (lambda path, other: (shutil.rmtree(path), os.symlink(other, path)), "a copy or a link under another"),
    ],
)
def test_one_bad_folder_is_named_and_does_not_affect_other_runs(spoil, named, run):
    other = get_or_train(Line(steps=4))
    spoil(other.path, run.path)
    runs, broken = scan()
    assert [each.key for each in runs] == [run.key]
    assert list(broken) == [other.path]
    assert re.search(named, broken[other.path])
    with pytest.warns(UserWarning, match=f"run {other.key} cannot be trusted: .*{named}"):
        again = get_or_train(Line(steps=4))
    assert again.metrics["step"].max() == 4
    assert [Run(each.path).faults() for each in scan()[0]] == [[], []]


def test_a_manifests_class_is_looked_up_and_never_imported(run, tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text("raise SystemExit('planted')")
    monkeypatch.syspath_prepend(tmp_path)
    contents = {name: (run.path / name).read_bytes() for name in run.manifest["files"]}
    planted = run.manifest["identity"] | {"class": "planted:Config"}
    monkeypatch.setattr("anm_nb.store.key_of", lambda identity: run.key)
    write_manifest(run.path, contents, planted, run.summary)
    with pytest.raises(ParameterError, match="class 'planted:Config' is unknown; import its module"):
        _ = Run(run.path).config
