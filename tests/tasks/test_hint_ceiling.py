"""The ceilings of hinted sorting agree with enumerations: of all worlds and rankings, and of all interleavings."""

from fractions import Fraction
from itertools import pairwise
from math import comb

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tasks.hint_reference import ceiling_by_interleavings, ceilings_by_enumeration

from anm_nb.tasks.hint_ceiling import Knowledge, ceiling


def knowledge(observation, values: int) -> Knowledge:
    """What an observation of the enumeration shows, chains followed one by one."""
    visible, shown = observation
    seen = len(visible)
    followers = {target: seen + item for item, target in enumerate(shown) if target is not None}

    def chain(item: int) -> int:
        length = 1
        while item in followers:
            item, length = followers[item], length + 1
        return length

    fence = (-1, *visible, values)
    return Knowledge(
        unseen=tuple(above - below - 1 for below, above in pairwise(fence)),
        tails=tuple(chain(item) - 1 for item in range(seen)),
        loose=tuple(chain(seen + item) for item, target in enumerate(shown) if target is None),
    )


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize(
    ("values", "size", "seen", "chain_length"),
    [
        (4, 2, 1, None),
        (5, 3, 0, None),
        (6, 3, 1, None),
        (6, 3, 2, None),
        (6, 4, 1, None),
        (6, 4, 2, None),
        (7, 4, 2, 1),
        (7, 4, 2, 2),
        (6, 5, 1, None),
        (7, 5, 2, None),
        (7, 5, 3, None),
        (6, 5, 2, 1),
        (6, 5, 2, 2),
        (6, 5, 2, 3),
    ],
)
def test_every_small_problem_has_the_ceiling_of_an_enumeration(values, size, seen, rate, chain_length):
    found = ceilings_by_enumeration(values, size, seen, rate, chain_length)
    for observation, (best, _, _) in found.items():
        mine = ceiling(knowledge(observation, values), hint_rate=rate, chain_length=chain_length)
        assert mine == pytest.approx(best, abs=1e-12), observation
    if rate == 1:
        assert all(best == pytest.approx(1) for best, _, _ in found.values())


@settings(max_examples=150)
@given(data=st.data(), rate=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
def test_larger_problems_have_the_ceiling_of_all_their_interleavings(data, rate):
    visible = data.draw(st.integers(0, 3))
    unseen = tuple(data.draw(st.lists(st.integers(0, 12), min_size=visible + 1, max_size=visible + 1)))
    tails = tuple(data.draw(st.lists(st.integers(0, 3), min_size=visible, max_size=visible)))
    loose = tuple(data.draw(st.lists(st.integers(1, 4), max_size=5 - visible)))
    chain_length = data.draw(st.none() | st.integers(1, 5))
    assume(visible + sum(tails) + sum(loose) > 1)
    expected = ceiling_by_interleavings(unseen, tails, loose, rate, chain_length)
    shown = Knowledge(unseen, tails, loose)
    if expected is None and loose:
        with pytest.raises(ValueError, match="no problem drawn with these options"):
            ceiling(shown, hint_rate=rate, chain_length=chain_length)
    elif expected is not None:
        assert ceiling(shown, hint_rate=rate, chain_length=chain_length) == pytest.approx(expected[0], abs=1e-10)


def test_no_ranking_need_attain_the_likelier_order_of_every_pair():
    """Loose chains of 3, 2 and 1 items and a visible one are each likelier before the next, in a circle."""
    unseen, tails, loose = (5, 2, 1, 2), (0, 0, 0), (3, 2, 1)
    best, bound = ceiling_by_interleavings(unseen, tails, loose, 0.75, None)
    assert bound > best + 0.001
    assert ceiling(Knowledge(unseen, tails, loose), hint_rate=0.75) == pytest.approx(best, abs=1e-12)


def test_a_loose_chain_beside_one_visible_value_by_hand():
    """g unseen values below and h above: the chain of l is below with odds C(g, l)/(1 − p) to C(h, l)."""
    below, above = Fraction(comb(7, 3)) / (1 - Fraction(3, 4)), Fraction(comb(9, 3))
    preference = float(abs(below - above) / (below + above))
    expected = (3 + 3 * preference) / 6
    assert ceiling(Knowledge((7, 9), (0,), (3,)), hint_rate=0.75) == pytest.approx(expected)


def test_whatever_hangs_on_visible_items_is_certain():
    assert ceiling(Knowledge((3, 4, 5), (2, 1)), hint_rate=0.1, chain_length=2) == 1.0


def test_a_problem_of_two_hundred_values_does_not_overflow():
    shown = Knowledge((60, 40), (20,), (1,) * 30 + (2,) * 5 + (5, 9))
    assert 0 < ceiling(shown, hint_rate=0.5, chain_length=None) < 1
