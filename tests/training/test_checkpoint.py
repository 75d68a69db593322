"""A checkpoint comes back bit for bit, and a write that dies leaves the older one standing."""

import pytest
import torch

from anm_nb.training import checkpoint
from anm_nb.training.checkpoint import load_checkpoint, save_checkpoint

TENSORS = {
    "transposed": torch.arange(6.0).view(2, 3).T,  # not contiguous, as an optimiser's state may be
    "nan": torch.tensor([float("nan"), -0.0, 1e-45]),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "state": torch.Generator().manual_seed(5).get_state(),
    "half": torch.ones(2, dtype=torch.bfloat16),
}


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


def test_a_write_that_dies_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"x": torch.zeros(2)}, {"step": 1})

    def dying(tensors, target, metadata):
        target.write_bytes(b"half of")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", dying)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {"x": torch.ones(2)}, {"step": 2})
    tensors, facts = load_checkpoint(path)
    assert (tensors["x"].tolist(), facts) == ([0, 0], {"step": 1})
