"""Pointers of hinted sorting are correct, or unrelated to the order if shuffled; notebook 25's ceilings are exact."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from notebook_cells import names_of

from anm_nb.config import ParameterError
from anm_nb.tasks import get_task
from anm_nb.tasks.kendall import kendall_tau
from anm_nb.tasks.ordering import follow
from anm_nb.training.seeds import generator

seeds = st.integers(0, 10**6)
mask_rates = st.floats(0, 0.95)
rates = st.floats(0.01, 1)


def hinted(**options):
    return get_task("hinted_sort", **options)


def predecessors(batch):
    """For each item, the item ranked just before it, found by search; −1 for rank 0."""
    return [[row.index(rank - 1) if rank > 0 else -1 for rank in row] for row in batch.y.tolist()]


def longest_run(visible, size):
    """The longest run of ranks that are not in `visible`."""
    return max(after - before - 1 for before, after in itertools.pairwise([-1, *visible, size]))


@settings(max_examples=40)
@given(size=st.integers(2, 48), mask_rate=mask_rates, rate=rates, width=st.integers(8, 40), seed=seeds)
def test_pointers_of_hidden_items_name_their_predecessors(size, mask_rate, rate, width, seed):
    task = hinted(size=size, mask_rate=mask_rate, hint_rate=rate, code_width=width)
    batch = task.sample(3, generator=generator(seed, "test"))
    assert batch.x.shape == (3, size, task.x_dim) == (3, size, 3 + 2 * width)
    points, codes, shown = batch.x[..., 2].bool(), batch.x[..., 3 : 3 + width], batch.x[..., 3 + width :]
    assert not (points & batch.known).any()
    assert (codes.abs() == 1).all()
    assert (shown[~points] == 0).all()
    pointers, expected = task.pointers(batch), torch.tensor(predecessors(batch))
    assert torch.equal(pointers, torch.where(points, expected, -1))
    for row in range(3):
        assert len(set(map(tuple, codes[row].tolist()))) == size
        assert torch.equal(shown[row][points[row]], codes[row][pointers[row][points[row]]])
    if rate == 1:
        assert torch.equal(points, ~batch.known & (batch.y > 0))


NOTEBOOK = "25_where_iteration_helps"


@pytest.fixture(scope="module")
def chains():
    return names_of(NOTEBOOK, "longest-run", "chain-problems")["Chains"]


@settings(max_examples=20)
@given(size=st.integers(4, 30), mask_rate=st.floats(0.2, 0.9), seed=seeds, data=st.data())
def test_chain_length_is_the_longest_run_of_every_problem(chains, size, mask_rate, seed, data):
    unlimited = hinted(size=size, mask_rate=mask_rate)
    seen = unlimited.visible(size)
    longest = data.draw(st.integers(-(-(size - seen) // (seen + 1)), size - seen))
    batch = chains(size=size, mask_rate=mask_rate, chain_length=longest).sample(5, generator=generator(seed, "test"))
    assert torch.equal(batch.y, unlimited.sample(5, generator=generator(seed, "test")).y)
    for ranks, known in zip(batch.y, batch.known, strict=True):
        assert int(known.sum()) == seen
        assert longest_run(sorted(ranks[known].tolist()), size) == longest


def test_shuffled_pointers_look_like_true_ones_and_are_independent_of_the_order():
    shapes = {}
    for hints in ("true", "shuffled"):
        task = hinted(size=8, hint_rate=0.8, hints=hints)
        batch = task.sample(8000, generator=generator(0, hints))
        pointers = task.pointers(batch)
        pointing, targets = pointers >= 0, pointers.clamp(min=0)
        ends, lengths = follow(pointers)
        flags = (pointing, batch.known.gather(1, targets)[pointing], batch.known.gather(1, ends))
        moments = [flag.double().mean() for flag in flags]
        shapes[hints] = torch.stack([*moments, lengths.max(1).values.double().mean(), (lengths**2).double().mean()])
        assert torch.zeros_like(pointers).scatter_add_(1, targets, pointing.long()).max() == 1
    assert torch.allclose(shapes["true"], shapes["shuffled"], atol=0.03)
    after = (batch.y > batch.y.gather(1, targets))[pointing].double()
    assert float(after.mean()) == pytest.approx(0.5, abs=0.01)  # true pointers give 1
    for rank in range(8):  # which hidden items point does not depend on their rank
        here = pointing[(batch.y == rank) & ~batch.known].double().mean()
        assert float(here) == pytest.approx(float(pointing[~batch.known].double().mean()), abs=0.02)


# Ceilings by enumeration, which shares no code with the package
def worlds(values, size, seen, rate):
    """Every problem, as its observation, the ranks of its items and its probability up to a factor.

    The observation is the visible values and the item that each hidden item points at. Visible items are numbered by
    value, then come hidden items in any order, because positions carry no information.
    """
    for chosen in itertools.combinations(range(values), size):
        for visible in itertools.combinations(range(size), seen):
            hidden = [rank for rank in range(size) if rank not in visible]
            may_point = [rank for rank in hidden if rank > 0]
            for pointing in itertools.product((False, True), repeat=len(may_point)):
                points = dict(zip(may_point, pointing, strict=True))
                weight = math.prod(rate if does else 1 - rate for does in pointing)
                for turned in itertools.permutations(hidden):
                    ranks = (*visible, *turned)
                    item_at = {rank: item for item, rank in enumerate(ranks)}
                    shown = tuple(item_at[rank - 1] if points.get(rank) else None for rank in turned)
                    yield (tuple(chosen[rank] for rank in visible), shown), ranks, weight


def ceilings_by_enumeration(values, size, seen, rate):
    """For each observation: the expected τ of the best ranking, the bound from single pairs, and its probability."""
    sums, weights = defaultdict(lambda: np.zeros((size, size))), defaultdict(float)
    for observation, ranks, weight in worlds(values, size, seen, rate):
        if weight > 0:
            sums[observation] += weight * np.sign(np.subtract.outer(ranks, ranks).T)
            weights[observation] += weight
    orders = np.array([np.sign(np.subtract.outer(row, row).T) for row in itertools.permutations(range(size))])
    total, pairs = sum(weights.values()), size * (size - 1)
    found = {}
    for observation, weight in weights.items():
        expected = sums[observation] / weight
        best = np.tensordot(orders, expected).max()
        found[observation] = float(best / pairs), float(np.abs(expected).sum() / pairs), weight / total
    return found


def observation(task, batch, row):
    """A problem as the enumeration's observation: visible values, and where hidden items truly point."""
    known, true = batch.known[row].tolist(), predecessors(batch)[row]
    values, pointers = task.values(batch)[row].tolist(), task.pointers(batch)[row].tolist()
    seen = sorted((item for item in range(len(known)) if known[item]), key=lambda item: values[item])
    hidden = [item for item in range(len(known)) if not known[item]]
    number = {item: place for place, item in enumerate(seen + hidden)}
    shown = tuple(number[true[item]] if pointers[item] == true[item] >= 0 else None for item in hidden)
    return tuple(values[item] for item in seen), shown


@pytest.mark.parametrize(
    ("values", "size", "seen", "rate", "wrong"),
    [(6, 4, 2, 0.8, 0.4), (7, 5, 2, 0.8, 0.0), (7, 5, 3, 1.0, 0.0)],
)
def test_ceilings_are_those_of_an_enumeration_of_worlds_and_rankings(values, size, seen, rate, wrong, monkeypatch):
    """Their mean over sampled problems is the enumeration's, too, so problems are sampled with its probabilities."""
    monkeypatch.setattr("anm_nb.tasks.ordering.VALUES", values)
    monkeypatch.setattr("anm_nb.tasks.ordering.LOWEST", 0)
    task = hinted(size=size, mask_rate=1 - (seen + 0.5) / size, hint_rate=rate, wrong_rate=wrong)
    found = ceilings_by_enumeration(values, size, seen, rate * (1 - wrong))
    batch = task.sample(500, generator=generator(0, "test"))
    ceilings = names_of(NOTEBOOK, "longest-run", "exact-orders", "exact-ceiling")["ceilings"](task, batch)
    assert rate < 1 or torch.equal(ceilings, task.ceilings(batch))
    for row in range(100):
        best, by_pairs, _ = found[observation(task, batch, row)]
        assert float(ceilings[row]) == pytest.approx(by_pairs, abs=1e-9)
        assert best == pytest.approx(by_pairs, abs=1e-9)  # at this size, the pairs' best orders never form a circle
    mean = sum(best * weight for best, _, weight in found.values())
    error = 4 / math.sqrt(500)
    assert float(ceilings.mean()) == pytest.approx(mean, abs=error * float(ceilings.std()) + 1e-12)
    reached = kendall_tau(task.solve(batch), batch.y)
    assert float(reached.mean()) <= mean + error * float(reached.std()) + 1e-12


def test_values_as_published_are_refused_by_name():
    with pytest.raises(ParameterError, match="encoding = 'raw': should be 'scaled'"):
        hinted(encoding="raw")


@pytest.mark.parametrize(("mask_rate", "length", "allowed"), [(0.9, 5, "6 to 18"), (0.0, 1, "0 to 0")])
def test_a_chain_length_that_no_problem_has_is_refused_by_name(chains, mask_rate, length, allowed):
    with pytest.raises(ParameterError, match=f"chain_length = {length}: with .* of 20 items visible .* {allowed}"):
        chains(mask_rate=mask_rate, chain_length=length)
