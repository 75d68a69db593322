"""One seed gets exactly torch's draws, several seeds each their own block; an epoch uses every example once."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from anm_nb.training.seeds import RowDraws, batch_indices, generator


def sources(*seeds):
    return [generator(seed, "draws") for seed in seeds]


def drawn(draws, rows):
    """Uniform, normal and integer numbers for a batch, drawn in sequence as in a step."""
    return [draws.uniform((rows, 3)), draws.normal((rows, 2, 2)), draws.integers(9, (rows,)), draws.uniform((rows,))]


def test_one_seed_gets_the_draws_of_torch():
    (source,) = sources(5)
    expected = [
        torch.rand((6, 3), generator=source),
        torch.randn((6, 2, 2), generator=source),
        torch.randint(9, (6,), generator=source),
        torch.rand((6,), generator=source),
    ]
    for found, plain in zip(drawn(RowDraws(sources(5), "cpu"), 6), expected, strict=True):
        assert torch.equal(found, plain)


def test_each_seed_draws_its_own_block_of_rows():
    together = drawn(RowDraws(sources(5, 6, 7), "cpu"), 12)
    for place, seed in enumerate((5, 6, 7)):
        for stacked, alone in zip(together, drawn(RowDraws(sources(seed), "cpu"), 4), strict=True):
            assert torch.equal(stacked[4 * place : 4 * place + 4], alone)


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 3), st.integers(0, 99))
def test_an_epoch_takes_every_example_once(examples, batch, epoch, seed):
    steps = -(-examples // batch)
    batches = [batch_indices(examples, batch, epoch * steps + i, seed) for i in range(steps)]
    assert [len(indices) for indices in batches[:-1]] == [batch] * (steps - 1)
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(examples))
