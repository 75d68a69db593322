"""Epochs over a fixed set: every example once, in an order that seed and epoch decide."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from anm_nb.training.seeds import batch_indices, batches_per_epoch


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 3), st.integers(0, 99))
def test_an_epoch_takes_every_example_once(examples, batch, epoch, seed):
    steps = batches_per_epoch(examples, batch)
    batches = [batch_indices(examples, batch, epoch * steps + i, seed) for i in range(steps)]
    assert [len(indices) for indices in batches[:-1]] == [batch] * (steps - 1)
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(examples))


def test_the_order_changes_with_epoch_and_seed_and_with_nothing_else():
    first = batch_indices(100, 100, 0, seed=0)
    assert torch.equal(first, batch_indices(100, 100, 0, seed=0))
    assert not torch.equal(first, batch_indices(100, 100, 1, seed=0))
    assert not torch.equal(first, batch_indices(100, 100, 0, seed=1))
