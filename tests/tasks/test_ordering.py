"""Partial-observation sorting is the document's task, its streams never overlap, and its ceilings are exact."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anm_nb.config import ParameterError
from anm_nb.tasks import get_task
from anm_nb.tasks.kendall import kendall_tau
from anm_nb.tasks.ordering import STREAMS
from anm_nb.training.seeds import generator

mask_rates = st.floats(0, 0.99)


@given(size=st.integers(2, 60), mask_rate=mask_rates, harder=st.booleans(), seed=st.integers(0, 10**6))
def test_arrays_are_distinct_integers_with_exactly_the_visible_ones_shown(size, mask_rate, harder, seed):
    task, raw = (get_task("partial_sort", size=size, mask_rate=mask_rate, encoding=each) for each in ("scaled", "raw"))
    batch, raw_batch = (each.sample(4, generator=generator(seed, "test"), harder=harder) for each in (task, raw))
    items, known, values = size * (2 if harder else 1), batch.known, raw_batch.x[..., 0]
    assert (batch.x.shape, raw_batch.x.shape) == ((4, items, 2), (4, items, 1))
    assert (known.sum(1) == max(2, int(items * (1 - mask_rate)))).all()
    assert torch.equal(batch.x[..., 1], (~known).float())
    assert (batch.x[..., 0][~known] == 0).all()
    assert batch.x[..., 0].abs().max() <= 1
    assert (values[~known] == -999).all()
    assert ((values >= -100) & (values <= 99) | ~known).all()
    assert torch.equal(task.values(batch)[known], values[known].long())
    assert all(len(set(row[seen].tolist())) == int(seen.sum()) for row, seen in zip(values, known, strict=True))
    assert torch.equal(batch.y.sort(1).values, torch.arange(items).expand(4, items))
    assert (kendall_tau(-values, raw_batch.y, known) == 1).all()  # the smallest value has rank 0


@settings(max_examples=10)
@given(size=st.integers(2, 4), mask_rate=mask_rates, seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)))
def test_streams_never_overlap_whatever_the_seeds(size, mask_rate, seeds):
    """At this size, unlike at 20, independent draws would collide."""
    task, seen = get_task("partial_sort", size=size, mask_rate=mask_rate), {}
    for stream, seed in itertools.product(STREAMS, seeds):
        batch = task.sample(300, generator=generator(seed, "same for all"), stream=stream)
        shown = zip(task.values(batch), batch.known, strict=True)
        seen.setdefault(stream, set()).update(frozenset(row[known].tolist()) for row, known in shown)
    for first, second in itertools.combinations(seen.values(), 2):
        assert not first & second


@pytest.mark.parametrize("values", [5, 6, 8])
def test_the_closed_form_of_mixed_pairs_is_that_of_every_visible_set(values, monkeypatch):
    monkeypatch.setattr("anm_nb.tasks.ordering.VALUES", values)
    for seen in range(2, values):
        task = get_task("partial_sort", size=values, mask_rate=1 - (seen + 0.5) / values)
        agreements, hidden = [], values - seen
        for visible in itertools.combinations(range(values), seen):
            unseen = [value for value in range(values) if value not in visible]
            below = [sum(other < value for other in unseen) for value in visible]
            agreements += [abs(hidden - 2 * each) / hidden for each in below]
        expected = (math.comb(seen, 2) + seen * hidden * np.mean(agreements)) / math.comb(values, 2)
        (found,) = task.ceilings(task.sample(1, generator=generator(0, "test")))
        assert float(found) == pytest.approx(expected, abs=1e-12)


def test_reference_scores_at_the_published_setting():
    scores = get_task("partial_sort", size=20).reference_scores(4000, generator=generator(0, "test"))
    value = scores.set_index(["name", "metric"])["value"]
    assert set(scores["kind"]) == {"trivial", "classical", "ceiling"}
    for name, metric in itertools.product(("random scores", "input order"), ("tau_obs", "tau_all")):
        assert abs(value[name, metric]) < 0.02
    classical = "value, hidden ones at the median"
    assert value[classical, "tau_obs"] == value["best possible", "tau_obs"] == 1
    # 10 of 20 visible, 190 values not seen: (45 + 100·192/382)/190
    assert value["best possible", "tau_all"] == pytest.approx((45 + 100 * 192 / 382) / 190)
    assert value[classical, "tau_all"] == pytest.approx(value["best possible", "tau_all"], abs=0.006)
    assert 0.04 < value[classical, "tau_index"] < 0.07  # why a perfect ranking was reported as a failure


def test_more_items_than_there_are_values_are_refused():
    with pytest.raises(ParameterError, match="size = 201: there are only 200 distinct values"):
        get_task("partial_sort", size=201)
