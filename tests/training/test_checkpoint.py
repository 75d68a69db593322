"""A checkpoint comes back bit for bit, and a write that dies leaves the older one standing."""

import errno
import shutil

import pytest
import torch

from anm_nb.files import DiskFull
from anm_nb.training import checkpoint
from anm_nb.training.checkpoint import (
    CorruptCheckpoint,
    before,
    common_checkpoints,
    good_checkpoints,
    load_checkpoint,
    save_checkpoint,
)

TENSORS = {
    "transposed": torch.arange(6.0).view(2, 3).T,  # not contiguous, as an optimiser's state may be
    "nan": torch.tensor([float("nan"), -0.0, 1e-45]),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "state": torch.Generator().manual_seed(5).get_state(),
    "half": torch.ones(2, dtype=torch.bfloat16),
}


def newest(path, seed=0):
    """The newest checkpoint that can be trusted."""
    return next(iter(good_checkpoints(path, seed)), None)


def bits(tensor):
    """The bytes, so that NaN equals NaN and −0 does not equal 0."""
    return tensor.reshape(-1).view(torch.uint8)


def test_tensors_and_facts_come_back_as_they_were(tmp_path):
    rows = [{"step": 0, "seed": 3, "loss": 0.1 + 0.2, "grad_norm": float("nan"), "tiny": 5e-324}]
    save_checkpoint(tmp_path / "a.safetensors", TENSORS, {"step": 7, "rows": rows})
    tensors, facts = load_checkpoint(tmp_path / "a.safetensors")
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(bits(tensors[name]), bits(tensor))
    assert facts["step"] == 7
    assert repr(facts["rows"]) == repr(rows)


def test_tensors_that_share_memory_can_be_saved(tmp_path):
    """Tied weights, and a view into another tensor."""
    whole = torch.arange(4.0)
    save_checkpoint(tmp_path / "a", {"one": whole, "tied": whole, "part": whole[1:3]}, {})
    assert load_checkpoint(tmp_path / "a")[0]["part"].tolist() == [1, 2]


def two_checkpoints(path):
    for step in (4, 8):
        save_checkpoint(path, TENSORS | {"scalar": torch.tensor(step)}, {"step": step, "rows": []})


def test_every_changed_byte_is_seen(tmp_path):
    """In the header, in its checksum, in the facts and in every tensor: never read as good, never another error."""
    path = tmp_path / "a"
    save_checkpoint(path, TENSORS, {"step": 7})
    whole = path.read_bytes()
    for place in range(len(whole)):
        for change in (0x01, 0x80):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            with pytest.raises(CorruptCheckpoint, match=str(path)):
                load_checkpoint(path)


@pytest.mark.parametrize("kept", [0, 8, 100, -1])
def test_a_half_written_checkpoint_gives_way_to_the_one_before_it(kept, tmp_path):
    path = tmp_path / "a.safetensors"
    two_checkpoints(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.warns(UserWarning, match=rf"{path} .*continues from step 4, of the checkpoint before it"):
        tensors, facts = newest(path)
    assert (tensors["scalar"], facts["step"]) == (4, 4)
    save_checkpoint(path, TENSORS, {"step": 8})  # the spoiled one does not take the place of the good one before
    assert newest(path)[1]["step"] == 8
    assert load_checkpoint(before(path))[1]["step"] == 4


def test_a_changed_byte_is_named_with_both_checksums(tmp_path):
    path = tmp_path / "a.safetensors"
    two_checkpoints(path)
    shutil.copy(path, before(path))
    for each in (path, before(path)):
        each.write_bytes(each.read_bytes()[:-1] + b"\x7f")
    with pytest.warns(UserWarning, match=r"expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}; .*from the beginning"):
        assert newest(path) is None
    assert newest(path) is None  # said once, not at every start


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"key": "0123", "seed": 0}, r"belongs to run 0123, not to 4567"),
        ({"key": "4567", "seed": 1}, r"belongs to seed 1, not to 0"),
    ],
)
def test_a_checkpoint_of_another_run_or_seed_is_refused_by_name(facts, said, tmp_path):
    path = tmp_path / "4567" / "seed-0.safetensors"
    path.parent.mkdir()
    save_checkpoint(path, TENSORS, {"key": "4567", "seed": 0, "step": 4})
    save_checkpoint(path, TENSORS, facts | {"step": 8})
    with pytest.warns(UserWarning, match=rf"{path} {said}; .*continues from step 4"):
        assert newest(path, seed=0)[1]["step"] == 4
    assert not path.exists()  # it is kept beside, as evidence
    assert path.with_name(f"{path.name}.corrupt").exists()


def facts_at(path, step, ended=False):
    save_checkpoint(path, TENSORS, {"key": path.parent.name, "step": step, "ended": ended})


def test_seeds_go_on_from_the_newest_step_that_all_of_them_have(tmp_path):
    paths = [tmp_path / f"seed-{seed}.safetensors" for seed in range(3)]
    for path in paths:
        facts_at(path, 4)
    assert [facts["step"] for _, facts in common_checkpoints(paths, range(3))] == [4] * 3
    for path in paths[:2]:  # a kill between the files of one save
        facts_at(path, 8)
    assert [facts["step"] for _, facts in common_checkpoints(paths, range(3))] == [4] * 3
    facts_at(paths[0], 9, ended=True)  # it stands by itself
    assert [facts["step"] for _, facts in common_checkpoints(paths, range(3))] == [9, 4, 4]
    facts_at(paths[1], 12)
    assert common_checkpoints(paths, range(3)) == []
    paths[2].unlink()
    assert common_checkpoints(paths, range(3)) == []


@pytest.mark.parametrize(
    ("standing", "code", "refused", "said"),
    [
        (False, errno.ENOSPC, DiskFull, r"writing .*a\.safetensors.*starts from the beginning when there is room"),
        (True, errno.ENOSPC, DiskFull, r"nothing was lost: training continues from step 8 when there is room"),
        (True, errno.EIO, OSError, "input/output error"),
    ],
)
def test_a_write_that_fails_leaves_the_older_checkpoint_and_a_full_disk_is_named(
    standing, code, refused, said, tmp_path, monkeypatch
):
    path = tmp_path / "a.safetensors"
    if standing:
        two_checkpoints(path)
    before_it = sorted(tmp_path.iterdir())

    def dying(target, data):
        target.write_bytes(data[: len(data) // 2])
        raise OSError(code, "input/output error", str(target))

    monkeypatch.setattr(checkpoint, "write_through", dying)
    with pytest.raises(refused, match=said):
        save_checkpoint(path, TENSORS, {"step": 12})
    assert sorted(tmp_path.iterdir()) == before_it
    assert not standing or load_checkpoint(path)[1]["step"] == 8
