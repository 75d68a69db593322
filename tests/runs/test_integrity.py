"""What is not as it was written is seen, named, set aside and trained anew; keys that were served are noted."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from stored_training import Line

import anm_nb
from anm_nb.runs import CorruptRun, Run, finished_runs, get_or_train, store_root
from anm_nb.runs.manifest import MANIFEST, Manifest, faults, strangers

FILES = ("config.json", "metrics.parquet", "trace.safetensors", "checkpoint.safetensors", "provenance.json", MANIFEST)
READ = dict(zip(FILES, ("settings", "metrics", "trace", "weights", "provenance", "manifest"), strict=True))


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
    manifest = Manifest.read(run.path)
    assert {*manifest.files, MANIFEST} == set(FILES) == {path.name for path in run.path.iterdir()}
    assert json.loads((run.path / MANIFEST).read_text())["format"] == 1
    assert faults(run.path) == strangers(run.path) == []
    summary = manifest.summary
    assert (summary["seeds"], summary["steps"], summary["resumed"]) == ([0], 6, False)


@pytest.mark.parametrize("place", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_in_any_file_is_named_warned_of_and_trained_anew(name, place, run):
    flip(run.path / name, place)
    (wrong,) = faults(run.path)
    assert str(run.path / name) in wrong
    with pytest.raises(CorruptRun, match=re.escape(str(run.path / name))):
        getattr(Run(run.path), READ[name])
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
    expected = Manifest.read(run.path).files["metrics.parquet"].sha256
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


def test_a_manifest_names_no_files_elsewhere(run, tmp_path):
    Manifest.of({"../../secret": b""}, {}).write(tmp_path)
    with pytest.raises(CorruptRun, match=r"outside the run's folder: \.\./\.\./secret"):
        Manifest.read(tmp_path)


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
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"pickle|torch\.(save|load)\b|joblib\.(dump|load)|allow_pickle|\bshelve\b|\bdill\b|marshal", line)
    ]
    assert found == []


COUNTED = """
import collections, sys
seen = collections.Counter()
def hook(event, arguments):
    if event in ("open", "os.scandir") and str(arguments[0]).startswith(sys.argv[1]):
        seen[event] += 1
sys.addaudithook(hook)
from anm_nb.runs.listing import scan
runs, broken = scan()
heavy = [name for name in ("torch", "pandas", "numpy", "safetensors", "pyarrow") if name in sys.modules]
print(len(runs), len(broken), seen["open"], seen["os.scandir"], heavy)
"""


def copies(run: Run, count: int) -> None:
    for number in range(count):
        shutil.copytree(run.path, run.path.with_name(f"{number:016x}"))


def test_listing_opens_one_small_file_of_each_run_and_loads_nothing_heavy(run):
    copies(run, 7)
    (store_root() / "unfinished").mkdir()
    command = [sys.executable, "-c", COUNTED, str(store_root())]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert answer.split(maxsplit=4) == ["8", "1", "9", "10", "[]\n"]  # nine folders, one of them no run; and the root


@pytest.mark.slow
def test_ten_thousand_runs_are_listed(run, capsys):
    """Prints what it takes; the store's promise is 2 s."""
    import resource
    import time

    copies(run, 9_999)
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "anm_nb.cli", "runs", "ls"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with capsys.disabled():
        print(
            f"\nrunning `anm-nb runs ls` over 10,000 runs: {time.monotonic() - started:.2f} s, of them CPU {cpu:.2f} s"
        )
    assert "10000 of 10000 runs" in answer
