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


def test_a_run_holds_what_its_manifest_names(run):
    manifest = run.manifest
    assert {*manifest.files, MANIFEST} == set(FILES) == {path.name for path in run.path.iterdir()}
    assert json.loads((run.path / MANIFEST).read_text())["key"] == run.key == key_of(manifest.identity)
    assert verify(run.path) == []
    summary = manifest.summary
    assert (summary["seeds"], summary["steps"], summary["resumed"]) == ([0], 6, False)


@pytest.mark.parametrize("place", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_in_any_file_is_named_warned_of_and_trained_anew(name, place, run):
    flip(run.path / name, place)
    (wrong,) = faults(run.path)
    assert str(run.path / name) in wrong
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


def test_both_checksums_are_named(run):
    flip(run.path / "metrics.parquet", 0.5)
    expected = run.manifest.files["metrics.parquet"].sha256
    (wrong,) = faults(run.path)
    assert re.search(rf"expected sha256 {expected}, found (?!{expected})[0-9a-f]{{64}}", wrong)


def test_files_that_are_not_read_are_not_checked_and_those_that_are_read_are(run):
    flip(run.path / "trace.safetensors", 0.5)
    stored = Run(run.path)
    assert len(stored.metrics) == len(run.metrics)
    with pytest.raises(CorruptRun, match="trace"):
        _ = stored.trace


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_folder_with_a_missing_or_short_file_is_no_run(name, spoil, run):
    spoil(run.path / name)
    assert finished_runs() == []
    with pytest.warns(UserWarning, match=rf"cannot be trusted.*{re.escape(name)}"):
        get_or_train(Line())
    assert len(finished_runs()) == 1


def crafted(run, **changes) -> None:
    """Another manifest whose checksum is right."""
    document = run.manifest.model_dump() | changes
    body = json.dumps(document)[1:].encode()
    (run.path / MANIFEST).write_bytes(f'{{"sha256": "{hashlib.sha256(body).hexdigest()}",'.encode() + body)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"files": {"../../secret": {"sha256": "0" * 64, "size": 1}}}, r"files\.\.\./\.\./secret"),
        ({"files": {"a": {"sha256": "0" * 64, "size": "much"}}}, r"files\.a\.size"),
        ({"files": 55}, "files: "),
        ({"summary": {"family": "energy"}}, r"summary\.task"),
        ({"summary": None}, "summary"),
        ({"identity": None}, "identity"),
        ({"identity": {"class": "os:system", "config": {}}}, "identity is not that of its key"),
        ({"format": 3}, "format"),
        ({"key": None}, "of run None"),
    ],
)
def test_a_crafted_manifest_is_a_named_fault_and_never_more(changes, named, run):
    crafted(run, **changes)
    (fault,) = verify(run.path)
    assert re.search(rf"{MANIFEST}.*{named}", fault)
    assert scan() == ([], {run.path: fault})


@pytest.mark.parametrize(
    "change", [{"wall_seconds": float("nan")}, {"finished": "yesterday"}, {"seeds": "0"}, {"steps": -1}]
)
def test_a_summary_has_to_be_what_lists_can_show(change, run):
    crafted(run, summary=run.summary | change)
    assert f"summary.{next(iter(change))}" in verify(run.path)[0]


@pytest.mark.parametrize("place", [shutil.copytree, os.symlink])
def test_a_folder_under_another_runs_name_is_refused_by_name(place, run):
    other = get_or_train(Line(steps=4))
    shutil.rmtree(other.path)
    place(run.path, other.path)
    assert f"is of run {run.key}: a copy or a link under another name" in faults(other.path)[0]
    assert [each.key for each in finished_runs()] == [run.key]
    with pytest.warns(UserWarning, match=rf"of run {run.key}: a copy.*trained anew"):
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
        (lambda path: ((path / MANIFEST).unlink(), (path / MANIFEST).symlink_to("nowhere")), "never finished"),
        (spoil_partial, None),
    ],
    ids=["file", "dangling link", "empty", "manifest folder", "file folder", "dangling manifest", "partial file"],
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


def with_table(run, data: bytes) -> Run:
    """The run with other metrics, of the right checksum."""
    (run.path / "metrics.parquet").write_bytes(data)
    files = run.manifest.model_dump()["files"]
    crafted(run, files=files | {"metrics.parquet": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}})
    return Run(run.path)


def test_a_table_that_would_fill_the_memory_is_refused(run, monkeypatch):
    monkeypatch.setattr("anm_nb.run.CELLS", 10**6)
    with_rows = pd.DataFrame({"seed": [0] * 2_000_000}).to_parquet(path=None)
    assert len(with_rows) < 100_000
    with pytest.raises(CorruptRun, match="2000000 rows of 1 columns are no run's metrics"):
        _ = with_table(run, with_rows).metrics
    with pytest.raises(CorruptRun, match="cannot be read as a table"):
        _ = with_table(run, b"PAR1 and more").metrics


def test_a_corrupted_checkpoint_of_an_unfinished_training_is_named_and_training_ends_the_same(run, tmp_path):
    """Both the newest and the one before it: the seed starts over."""
    partial = store_root() / ".partial" / run.key
    shutil.rmtree(run.path)
    partial.mkdir()
    Line().train(partial)
    for checkpoint in partial.glob("seed-0*"):
        flip(checkpoint, 0.9)
    with pytest.warns(UserWarning, match=r"seed-0\.safetensors.*expected sha256 .*starts from the beginning"):
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
        if path != package / "sweep" / "cluster.py"  # Dask sends everything to its workers that way, nothing is kept
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"pickle|torch\.(save|load)\b|joblib\.(dump|load)|allow_pickle|\bshelve\b|\bdill\b|marshal", line)
    ]
    assert found == []


def copies(run: Run, count: int) -> None:
    """Runs of as many configs, made of the files of one."""
    for number in range(count):
        identity = run.manifest.identity | {"version": number + 2}
        copy = run.path.with_name(key_of(identity))
        shutil.copytree(run.path, copy)
        contents = {name: (copy / name).read_bytes() for name in run.manifest.files}
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
    seconds = time.monotonic() - started
    with capsys.disabled():
        print(f"\n`anm-nb runs ls` over 5,000 runs: {seconds:.2f} s")
    assert "5000 of 5000 runs" in answer
    assert seconds < 6  # of a busy machine
