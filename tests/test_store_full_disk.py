"""A disk that fills up at any point leaves no broken run, gives a clear error, and costs no work."""

import errno
import os
from pathlib import Path

import pandas as pd
import pytest
import torch
from stored_training import Line

from anm_nb.files import DiskFull
from anm_nb.store import Run, get_or_train, scan, store_root

pytestmark = pytest.mark.usefixtures("quick_disk")

CONFIG = Line(steps=3)
# All functions by which the store takes up space.
CALLS = {"write_bytes": Path} | dict.fromkeys(("open", "fsync", "replace", "mkdir"), os)


class Disk:
    """Allows `room` calls that take up space and fails the next one; a failing write writes half of its data."""

    def __init__(self, patch: pytest.MonkeyPatch, room: float) -> None:
        self.room, self.calls, self.real = room, 0, {name: getattr(owner, name) for name, owner in CALLS.items()}
        for name, owner in CALLS.items():
            patch.setattr(owner, name, self.call(name))

    def call(self, name):
        def limited(first, *arguments, **options):
            self.calls += 1
            if self.calls > self.room:
                if name == "write_bytes":
                    self.real[name](first, arguments[0][: len(arguments[0]) // 2])
                where = first if name != "write_bytes" and isinstance(first, str | os.PathLike) else None
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *([where] if where else []))
            return self.real[name](first, *arguments, **options)

        return limited


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run without a full disk, and the number of calls that it takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANM_NB_OUTPUTS", str(tmp_path_factory.mktemp("whole")))
        disk = Disk(patch, float("inf"))
        run = get_or_train(CONFIG)
        return run, disk.calls


def assert_whole(run, expected):
    assert run.key == expected.key
    pd.testing.assert_frame_equal(run.metrics, expected.metrics, check_exact=True)
    for stored, other in ((run.weights, expected.weights), (run.trace, expected.trace)):
        assert all(torch.equal(stored[name], tensor) for name, tensor in other.items())


def test_a_full_disk_at_any_point_loses_nothing(whole, tmp_path, monkeypatch):
    run, calls = whole
    assert calls > 30
    said = []
    for room in range(calls):
        monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / str(room)))
        with monkeypatch.context() as patch:
            Disk(patch, room)
            try:
                get_or_train(CONFIG)
            except DiskFull as full:
                said.append(str(full))
                assert f"no space left on the device while writing {tmp_path / str(room)}" in said[-1]
            else:  # only the removal of temporary files failed
                assert len(scan()[0]) == 1
        stored = scan()[0]
        assert [Run(folder).faults() for folder in store_root().glob("[!.]*")] == [[]] * len(stored)
        again = get_or_train(CONFIG)
        assert_whole(again, run)
        assert stored or not list((store_root() / ".partial").glob("*/*"))
    assert len(said) > 30
    assert any("continues from its last checkpoint, or the beginning, once there is room" in each for each in said)
    assert any("nothing was lost: training is over, and the run is stored once there is room" in each for each in said)
