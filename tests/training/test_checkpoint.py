"""Checkpoints are restored bit for bit, and a failed write leaves the previous checkpoint intact."""

import errno
from pathlib import Path

import pytest
import torch

from anm_nb.files import DiskFull
from anm_nb.training.checkpoint import before, good_checkpoints, save_checkpoint

WHOLE = torch.arange(4000.0)
TENSORS = {
    "transposed": torch.arange(6.0).view(2, 3).T,  # not contiguous, which an optimiser's state may be
    "nan": torch.tensor([float("nan"), -0.0, 1e-45]),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "state": torch.Generator().manual_seed(5).get_state(),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "view": WHOLE[1:3],  # shares memory
}


def steps(path):
    """The steps of the checkpoints with a valid checksum."""
    return [state["step"] for state in good_checkpoints(path)]


@pytest.fixture
def path(tmp_path):
    """Two checkpoints, of steps 4 and 8."""
    path = tmp_path / "4567" / "seed-0.pt"
    path.parent.mkdir()
    for step in (4, 8):
        save_checkpoint(path, TENSORS | {"step": step})
    return path


def test_tensors_and_facts_are_restored_exactly(tmp_path):
    facts = {"step": 7, "rows": [{"loss": 0.1 + 0.2, "grad_norm": float("nan"), "tiny": 5e-324}]}
    save_checkpoint(tmp_path / "a", {"tensors": TENSORS, "facts": facts, "step": 7})
    (state,) = good_checkpoints(tmp_path / "a")
    assert state["tensors"].keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert state["tensors"][name].dtype == tensor.dtype
        one, other = (each.reshape(-1).view(torch.uint8) for each in (state["tensors"][name], tensor))
        assert torch.equal(one, other)  # as bytes, so that NaN equals NaN and −0 does not equal 0
    assert repr(state["facts"]) == repr(facts)
    assert (tmp_path / "a").stat().st_size < 10_000  # a view is stored without its base tensor


def test_any_changed_byte_and_any_truncation_is_detected(path):
    whole = path.read_bytes()
    places = range(0, len(whole), 19)
    spoiled = [whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :] for place in places]
    before(path).unlink()
    for data in [*spoiled, b"", whole[:8], whole[:100], whole[:-1]]:
        path.write_bytes(data)
        with pytest.warns(UserWarning, match=f"{path} has changed since it was written"):
            assert steps(path) == []


def test_a_corrupt_checkpoint_is_set_aside_for_the_previous_one(path):
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=rf"{path}.*continues from the previous checkpoint"):
        assert steps(path) == [4]
    assert path.with_name(f"{path.name}.corrupt").exists()  # kept as evidence
    save_checkpoint(path, TENSORS | {"step": 8})
    assert steps(path) == [8, 4]
    for each in (path, before(path)):
        each.write_bytes(b"")
    with pytest.warns(UserWarning, match="or from the beginning"):
        assert steps(path) == []
    assert steps(path) == []  # warned of once, not at every start


@pytest.mark.parametrize(("code", "refused"), [(errno.ENOSPC, DiskFull), (errno.EIO, OSError)])
def test_a_failed_write_keeps_the_previous_checkpoint_and_names_a_full_disk(code, refused, path, monkeypatch):
    write = Path.write_bytes

    def dying(target, data):
        write(target, data[: len(data) // 2])
        raise OSError(code, "input/output error")

    monkeypatch.setattr(Path, "write_bytes", dying)
    message = "continues from its last checkpoint" if refused is DiskFull else "input/output error"
    for _ in range(2):
        with pytest.raises(refused, match=message):
            save_checkpoint(path, TENSORS | {"step": 12})
        assert steps(path) == [8]
    assert [each.name for each in path.parent.iterdir()] == [before(path).name]
