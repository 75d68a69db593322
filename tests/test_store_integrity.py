"""What is not as it was written is seen, named, set aside and trained anew; keys that were served are noted."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from stored_training import Line

import anm_nb
from anm_nb.config import ParameterError
from anm_nb.identity import key_of
from anm_nb.run import MANIFEST, CorruptRun, Manifest, faults, verify
from anm_nb.store import Run, finished_runs, get_or_train, scan, store_root

pytestmark = pytest.mark.usefixtures("quick_disk")

FILES = ("config.json", "metrics.parquet", "trace.safetensors", "checkpoint.safetensors", "provenance.json", MANIFEST)
READ = dict(zip(FILES, (None, "metrics", "trace", "weights", "provenance", "manifest"), strict=True))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))
    return get_or_train(Line())


def flip(path: Path, place: float) -> None:
    """Change one bit of a file, so far into it."""
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)


def crafted(run, **changes) -> None:
    """Another manifest whose checksum is right."""
    body = json.dumps(run.manifest.model_dump() | changes)[1:].encode()
    (run.path / MANIFEST).write_bytes(f'{{"sha256": "{hashlib.sha256(body).hexdigest()}",'.encode() + body)


def test_a_run_holds_what_its_manifest_names(run):
    assert {*run.manifest.files, MANIFEST} == set(FILES) == {path.name for path in run.path.iterdir()}
    assert json.loads((run.path / MANIFEST).read_text())["key"] == run.key == key_of(run.manifest.identity)
    assert verify(run.path) == []
    assert (run.summary["seeds"], run.summary["steps"], run.summary["resumed"]) == ([0], 6, False)


@pytest.mark.parametrize("place", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_in_any_file_is_named_warned_of_and_trained_anew(name, place, run):
    flip(run.path / name, place)
    (wrong,) = faults(run.path)
    assert str(run.path / name) in wrong
    if name != MANIFEST:
        expected = run.manifest.files[name].sha256
        assert re.search(rf"expected sha256 {expected}, found (?!{expected})[0-9a-f]{{64}}", wrong)
    with pytest.raises(CorruptRun, match=re.escape(str(run.path / name))):
        _ = getattr(Run(run.path), READ[name]) if READ[name] else Run(run.path).file(name)
    said = rf"run {run.key} cannot be trusted: .*{re.escape(name)}.*\.corrupt/{run.key}-.* trained anew"
    with pytest.warns(UserWarning, match=said):
        again = get_or_train(Line())
    assert faults(again.path) == []
    pd.testing.assert_frame_equal(again.metrics, run.metrics, check_exact=True)
    (aside,) = (store_root() / ".corrupt").iterdir()
    assert {path.name for path in aside.iterdir()} == set(FILES)  # what was finished is still there
    assert [each.key for each in finished_runs()] == [run.key]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_folder_with_a_missing_or_short_file_is_no_run(name, spoil, run):
    spoil(run.path / name)
    assert finished_runs() == []
    assert name in "".join(faults(run.path))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"files": {"../../secret": {"sha256": "0" * 64, "size": 1}}}, r"files\.\.\./\.\./secret"),
        ({"files": {"a": {"sha256": "0" * 64, "size": "much"}}}, r"files\.a\.size"),
        ({"files": 55}, "files: "),
        ({"summary": {"family": "energy"}}, r"summary\.task"),
        ({"summary": {"wall_seconds": float("nan")}}, r"summary\.wall_seconds"),
        ({"summary": {"finished": "yesterday"}}, r"summary\.finished"),
        ({"summary": {"seeds": "0"}}, r"summary\.seeds"),
        ({"identity": None}, "identity"),
        ({"identity": {"class": "os:system", "config": {}}}, "identity is not that of its key"),
        ({"format": 3}, "format"),
        ({"key": None}, "of run None"),
    ],
)
def test_a_crafted_manifest_is_a_named_fault_and_never_more(changes, named, run):
    if len(only := changes.get("summary", {})) == 1 and "family" not in only:
        changes = {"summary": run.summary | only}
    crafted(run, **changes)
    (fault,) = verify(run.path)
    assert re.search(rf"{MANIFEST}.*{named}", fault)
    assert scan() == ([], {run.path: fault})


@pytest.mark.parametrize("place", [shutil.copytree, os.symlink])
def test_a_folder_under_another_runs_name_is_refused_by_name(place, run):
    other = get_or_train(Line(steps=4))
    shutil.rmtree(other.path)
    place(run.path, other.path)
    with pytest.warns(UserWarning, match=rf"of run {run.key}: a copy or a link under another name.*trained anew"):
        again = get_or_train(Line(steps=4))
    assert again.metrics["step"].max() == 4
    assert faults(run.path) == []


def spoil_partial(path: Path) -> None:
    """A file in the place of the folder where a run grows."""
    shutil.rmtree(path)
    (store_root() / ".partial" / path.name).touch()


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda path: (shutil.rmtree(path), path.write_text("")), "cannot be read"),
        (lambda path: (shutil.rmtree(path), path.symlink_to("nowhere")), "never finished"),
        (lambda path: (shutil.rmtree(path), path.mkdir()), "never finished"),
        (lambda path: ((path / MANIFEST).unlink(), (path / MANIFEST).mkdir()), "cannot be read"),
        (lambda path: ((path / "config.json").unlink(), (path / "config.json").mkdir()), "is no file"),
        (spoil_partial, None),
    ],
    ids=["file", "dangling link", "empty", "manifest folder", "file folder", "partial file"],
)
def test_one_bad_folder_is_named_and_disables_nothing(spoil, named, run):
    other = get_or_train(Line(steps=4))
    spoil(other.path)
    runs, broken = scan()
    assert [each.key for each in runs] == [run.key]
    assert (named is None and broken == {}) or (list(broken) == [other.path] and named in broken[other.path])
    with pytest.warns(UserWarning, match=f"run {other.key} cannot be trusted"):
        get_or_train(Line(steps=4))
    assert len(finished_runs()) == 2


def test_a_manifests_class_is_looked_up_and_never_imported(run, tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text("raise SystemExit('planted')")
    monkeypatch.syspath_prepend(tmp_path)
    identity = run.manifest.identity | {"class": "planted:Config"}
    moved = Run(run.path.with_name(key_of(identity)))
    crafted(run, key=moved.key, identity=identity)
    run.path.rename(moved.path)
    assert faults(moved.path) == []
    with pytest.raises(ParameterError, match="class 'planted:Config' is not registered; import what defines it"):
        _ = moved.config


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pd.DataFrame({"seed": [0] * 2_000_000}).to_parquet(path=None), "2000000 rows of 1 columns are no run's"),
        (b"PAR1 and more", "cannot be read as a table"),
    ],
)
def test_a_table_that_would_fill_the_memory_or_is_none_is_refused(table, said, run, monkeypatch):
    monkeypatch.setattr("anm_nb.run.CELLS", 10**6)
    assert len(table) < 100_000
    (run.path / "metrics.parquet").write_bytes(table)
    files = run.manifest.model_dump()["files"]
    crafted(run, files=files | {"metrics.parquet": {"sha256": hashlib.sha256(table).hexdigest(), "size": len(table)}})
    with pytest.raises(CorruptRun, match=said):
        _ = Run(run.path).metrics


def test_a_corrupted_checkpoint_of_an_unfinished_training_is_named_and_training_ends_the_same(run):
    """Both the newest and the one before it: the seed starts over."""
    partial = store_root() / ".partial" / run.key
    shutil.rmtree(run.path)
    partial.mkdir()
    Line().train(partial)
    for checkpoint in partial.glob("seed-0*"):
        flip(checkpoint, 0.9)
    with pytest.warns(UserWarning, match=r"seed-0\.checkpoint.*expected sha256 .*starts from the beginning"):
        again = get_or_train(Line())
    pd.testing.assert_frame_equal(again.metrics, run.metrics, check_exact=True)


def test_keys_that_were_served_are_noted_trained_or_not(run, tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_RUNS_USED", str(tmp_path / "used"))
    keys = [get_or_train(config).key for config in (Line(), Line(steps=4), Line())]
    assert keys[0] == keys[2] != keys[1]
    assert (tmp_path / "used").read_text() == "".join(f"{key}\n" for key in keys)


def test_nothing_is_pickled():
    package = Path(anm_nb.__file__).parent
    found = [
        f"{path}:{number}"
        for path in package.rglob("*.py")
        if path
        not in (
            package / "sweep" / "cluster.py",
            package / "sweep" / "workers.py",
        )  # Dask sends everything to its workers that way, nothing is kept
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"pickle|torch\.(save|load)\b|joblib\.(dump|load)|allow_pickle|\bshelve\b|\bdill\b|marshal", line)
    ]
    assert found == []


def copies(run: Run, count: int) -> None:
    """Runs of as many configs, made of the files of one."""
    contents = {name: (run.path / name).read_bytes() for name in run.manifest.files}
    for number in range(count):
        identity = run.manifest.identity | {"version": number + 2}
        copy = run.path.with_name(key_of(identity))
        shutil.copytree(run.path, copy)
        Manifest.of(contents, identity, run.summary).write(copy)


COUNTED = """
import collections, sys
seen = collections.Counter()
def hook(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith(sys.argv[1]):
        seen[event] += 1
sys.addaudithook(hook)
from anm_nb.store import scan
runs, broken = scan()
heavy = [name for name in ("torch", "pandas", "numpy", "safetensors", "pyarrow") if name in sys.modules]
print(len(runs), len(broken), seen["open"], heavy)
"""


def test_listing_opens_one_small_file_of_each_run_and_loads_nothing_heavy(run):
    copies(run, 7)
    (store_root() / "unfinished").mkdir()
    command = [sys.executable, "-c", COUNTED, str(store_root())]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert answer.split(maxsplit=3) == ["8", "1", "9", "[]\n"]  # nine folders, one of them no run


@pytest.mark.slow
def test_five_thousand_runs_are_listed_in_time(run, capsys):
    copies(run, 4_999)
    started = time.monotonic()
    command = [sys.executable, "-m", "anm_nb.cli", "runs", "ls"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    with capsys.disabled():
        print(f"\n`anm-nb runs ls` over 5,000 runs: {(seconds := time.monotonic() - started):.2f} s")
    assert "5000 of 5000 runs" in answer
    assert seconds < 6  # of a busy machine
