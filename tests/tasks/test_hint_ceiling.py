"""The ceilings of hinted sorting agree with enumerations: of all worlds and rankings, and of all interleavings."""

from itertools import pairwise

import pytest
from tasks.hint_reference import ceilings_by_enumeration

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
