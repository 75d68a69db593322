"""Masks with a given longest run are drawn uniformly, and lengths that no mask has are refused."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from tasks.hint_reference import longest_run

from anm_nb.config import ParameterError
from anm_nb.tasks.masked_runs import draw_longest_run
from anm_nb.training.seeds import generator


@pytest.mark.parametrize(("hidden", "visible", "longest"), [(5, 4, 2), (5, 4, 3), (4, 4, 1), (5, 2, 2), (5, 3, 5)])
def test_every_mask_is_as_likely_as_any_other(hidden, visible, longest):
    size = hidden + visible
    possible = [
        places for places in itertools.combinations(range(size), visible) if longest_run(places, size) == longest
    ]
    drawn = draw_longest_run(
        400 * len(possible), hidden=hidden, visible=visible, longest=longest, generator=generator(0, "masks")
    )
    index = {places: place for place, places in enumerate(possible)}
    counts = torch.zeros(len(possible))
    for row in drawn:
        counts[index[tuple(row.nonzero().flatten().tolist())]] += 1
    assert chisquare(counts.numpy()).pvalue > 0.001


@given(visible=st.integers(0, 30), hidden=st.integers(1, 60), data=st.data(), seed=st.integers(0, 10**6))
def test_the_longest_run_is_what_was_asked_for(visible, hidden, data, seed):
    longest = data.draw(st.integers(-(-hidden // (visible + 1)), hidden))
    drawn = draw_longest_run(5, hidden=hidden, visible=visible, longest=longest, generator=generator(seed, "masks"))
    for row in drawn:
        places = tuple(row.nonzero().flatten().tolist())
        assert len(places) == visible
        assert longest_run(places, hidden + visible) == longest


@pytest.mark.parametrize(
    ("hidden", "visible", "longest", "message"),
    [
        (18, 2, 5, "chain_length = 5: with 2 of 20 items visible .* has 6 to 18; .* nearest: 6"),
        (10, 10, 11, "chain_length = 11: .* has 1 to 10; .* nearest: 10"),
        (0, 10, 1, "chain_length = 1: none of the 10 items is hidden"),
    ],
)
def test_lengths_that_no_mask_has_are_refused(hidden, visible, longest, message):
    with pytest.raises(ParameterError, match=message):
        draw_longest_run(1, hidden=hidden, visible=visible, longest=longest, generator=generator(0, "masks"))
