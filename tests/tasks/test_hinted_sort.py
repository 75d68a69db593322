"""Hinted sorting is partial_sort with pointers that tell the truth, or nothing, and its ceilings are exact."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tasks.hint_reference import ceilings_by_enumeration, longest_run

from anm_nb.config import ParameterError
from anm_nb.tasks import get_task
from anm_nb.tasks.base import Batch
from anm_nb.tasks.hinted_sort import draw_longest_run, follow
from anm_nb.tasks.kendall import kendall_tau
from anm_nb.tasks.ordering import PartialSort
from anm_nb.training.seeds import generator

seeds = st.integers(0, 10**6)
mask_rates = st.floats(0, 0.95)
rates = st.floats(0.01, 1)


def hinted(**options):
    return get_task("hinted_sort", **options)


def predecessors(batch: Batch) -> list[list[int]]:
    """The item of rank one less than each item's, −1 for rank 0, found by search."""
    return [[row.index(rank - 1) if rank > 0 else -1 for rank in row] for row in batch.y.tolist()]


@given(
    size=st.integers(2, 40),
    mask_rate=mask_rates,
    encoding=st.sampled_from(["scaled", "raw"]),
    harder=st.booleans(),
    stream=st.sampled_from([None, "train", "dev", "test"]),
    hints=st.sampled_from(["true", "shuffled"]),
    seed=seeds,
)
def test_without_hints_it_is_partial_sort_bit_for_bit(size, mask_rate, encoding, harder, stream, hints, seed):
    options = {"size": size, "mask_rate": mask_rate, "encoding": encoding}
    mine, other = generator(seed, "test"), generator(seed, "test")
    task, plain = hinted(**options, hint_rate=0.0, hints=hints), get_task("partial_sort", **options)
    assert task.x_dim == plain.x_dim
    for _ in range(2):
        if stream is not None and size < 8:
            stream = None  # too few distinct problems in some streams
        batch = task.sample(6, generator=mine, harder=harder, stream=stream)
        expected = plain.sample(6, generator=other, harder=harder, stream=stream)
        assert torch.equal(batch.x, expected.x)
        assert torch.equal(batch.y, expected.y)
        assert torch.equal(batch.known, expected.known)
    assert torch.equal(mine.get_state(), other.get_state())
    assert torch.equal(task.solve(batch), plain.solve(expected))
    assert task.all_pairs_ceiling(harder=harder) == plain.all_pairs_ceiling(harder=harder)


@settings(max_examples=30)
@given(mask_rate=mask_rates, rate=rates, seed=seeds)
def test_hints_are_drawn_beside_the_same_arrays_and_fewer_are_some_of_more(mask_rate, rate, seed):
    numbers = {"none": 0.0, "few": rate / 2, "many": rate}
    tasks = {name: hinted(size=9, mask_rate=mask_rate, hint_rate=number) for name, number in numbers.items()}
    tasks["control"] = hinted(size=9, mask_rate=mask_rate, hint_rate=rate, hints="shuffled")
    sources = {name: generator(seed, "test") for name in tasks}
    for stream in (None, "dev", "test", "train"):
        batches = {name: task.sample(7, generator=sources[name], stream=stream) for name, task in tasks.items()}
        for batch in batches.values():
            assert torch.equal(batch.x[..., :2], batches["none"].x)
            assert torch.equal(batch.y, batches["none"].y)
            assert torch.equal(batch.known, batches["none"].known)
        few, many = (tasks[name].pointers(batches[name]) for name in ("few", "many"))
        assert torch.equal(few[few >= 0], many[few >= 0])


@given(size=st.integers(2, 48), mask_rate=mask_rates, rate=rates, width=st.integers(8, 40), seed=seeds)
def test_pointers_of_hidden_items_name_their_predecessors(size, mask_rate, rate, width, seed):
    task = hinted(size=size, mask_rate=mask_rate, hint_rate=rate, code_width=width)
    batch = task.sample(5, generator=generator(seed, "test"))
    assert batch.x.shape == (5, size, task.x_dim) == (5, size, 3 + 2 * width)
    points, codes, shown = batch.x[..., 2].bool(), batch.x[..., 3 : 3 + width], batch.x[..., 3 + width :]
    assert not (points & batch.known).any()
    assert (codes.abs() == 1).all()
    assert (shown[~points] == 0).all()
    pointers = task.pointers(batch)
    for row, expected in enumerate(predecessors(batch)):
        assert len(set(map(tuple, codes[row].tolist()))) == size
        for item in range(size):
            assert pointers[row, item] == (expected[item] if points[row, item] else -1)
            if points[row, item]:
                assert torch.equal(shown[row, item], codes[row, expected[item]])
    if rate == 1:
        assert torch.equal(points, ~batch.known & (batch.y > 0))


@given(
    size=st.integers(4, 30), mask_rate=st.floats(0.2, 0.9), data=st.data(), hints=st.sampled_from(["true", "shuffled"])
)
def test_chain_length_is_the_longest_run_of_every_problem(size, mask_rate, data, hints):
    seen = hinted(size=size, mask_rate=mask_rate).visible(size)
    hidden = size - seen
    longest = data.draw(st.integers(-(-hidden // (seen + 1)), hidden))
    options = {"size": size, "mask_rate": mask_rate, "chain_length": longest, "hints": hints}
    source = generator(data.draw(seeds), "test")
    state = source.get_state()
    batch = hinted(**options, hint_rate=0.7).sample(5, generator=source)
    unlimited = hinted(size=size, mask_rate=mask_rate).sample(5, generator=source.set_state(state))
    assert torch.equal(batch.y, unlimited.y)
    assert torch.equal(batch.known, hinted(**options, hint_rate=0.0).sample(5, generator=source.set_state(state)).known)
    for ranks, known in zip(batch.y, batch.known, strict=True):
        assert int(known.sum()) == seen
        assert longest_run(tuple(sorted(ranks[known].tolist())), size) == longest


@pytest.mark.parametrize("mask_rate", [0.5, 0.75, 0.9])
@pytest.mark.parametrize("harder", [False, True])
def test_with_all_hints_chains_of_pointers_order_everything(mask_rate, harder):
    task = hinted(size=20, mask_rate=mask_rate)
    batch = task.sample(300, generator=generator(0, "test"), harder=harder)
    assert (kendall_tau(task.solve(batch), batch.y) == 1).all()
    assert (task.ceilings(batch) == 1).all()
    assert task.all_pairs_ceiling(harder=harder) == 1


@pytest.mark.parametrize("chain_length", [None, 3])
def test_shuffled_pointers_look_like_true_ones_and_are_independent_of_the_order(chain_length):
    options = {"size": 8, "hint_rate": 0.8, "chain_length": chain_length}
    shapes, batches = {}, {}
    for hints in ("true", "shuffled"):
        task = hinted(**options, hints=hints)
        batch = batches[hints] = task.sample(20_000, generator=generator(0, hints))
        pointers = task.pointers(batch)
        ends, lengths = follow(task.pointers(batch))
        at_visible = batch.known.gather(1, pointers.clamp(min=0))[pointers >= 0]
        shapes[hints] = torch.tensor(
            [
                (pointers >= 0).double().mean(),
                at_visible.double().mean(),
                lengths.max(1).values.double().mean(),
                lengths.double().square().mean(),
                batch.known.gather(1, ends).double().mean(),
            ]
        )
        targeted = torch.zeros_like(pointers).scatter_add_(1, pointers.clamp(min=0), (pointers >= 0).long())
        assert targeted.max() == 1
    assert torch.allclose(shapes["true"], shapes["shuffled"], atol=0.03)
    task, batch = hinted(**options, hints="shuffled"), batches["shuffled"]
    pointers = task.pointers(batch)
    after = (batch.y > batch.y.gather(1, pointers.clamp(min=0)))[pointers >= 0].double()
    assert float(after.mean()) == pytest.approx(0.5, abs=0.01)  # of true pointers it is 1
    for rank in range(8):  # nor does it tell the rank who points or is pointed at, beyond being hidden or visible
        hidden_here = (batch.y == rank) & ~batch.known
        overall = (pointers >= 0)[~batch.known].double().mean()
        assert float((pointers >= 0)[hidden_here].double().mean()) == pytest.approx(float(overall), abs=0.02)


@given(size=st.integers(2, 30), mask_rate=mask_rates, rate=rates, wrong=st.floats(0.01, 0.9), seed=seeds)
def test_wrong_pointers_lead_elsewhere_and_all_else_is_the_same(size, mask_rate, rate, wrong, seed):
    options = {"size": size, "mask_rate": mask_rate, "hint_rate": rate}
    true, noisy, noisier = (hinted(**options, wrong_rate=each) for each in (0.0, wrong, wrong + 0.09))
    batches = [task.sample(5, generator=generator(seed, "test")) for task in (true, noisy, noisier)]
    shown = 3 + true.options.code_width
    for batch in batches[1:]:
        assert torch.equal(batch.x[..., :shown], batches[0].x[..., :shown])
        assert torch.equal(batch.y, batches[0].y)
    aims, some, more = (task.pointers(batch) for task, batch in zip((true, noisy, noisier), batches, strict=True))
    pointing = aims >= 0
    assert torch.equal(some >= 0, pointing)
    assert not (some == torch.arange(size))[pointing].any()
    assert torch.equal(more[some != aims], some[some != aims])


def observation(task, batch: Batch, row: int):
    """What the enumeration calls a problem: visible values, and whom hidden items point at, numbered as there."""
    known, true = batch.known[row].tolist(), predecessors(batch)[row]
    values, points = task.values(batch)[row].tolist(), batch.x[row, :, 2].bool().tolist()
    seen = sorted((item for item in range(len(known)) if known[item]), key=lambda item: values[item])
    hidden = [item for item in range(len(known)) if not known[item]]
    number = {item: place for place, item in enumerate(seen + hidden)}
    shown = tuple(number[true[item]] if points[item] else None for item in hidden)
    return tuple(values[item] for item in seen), shown


@pytest.mark.parametrize(("rate", "chain_length"), [(0.3, None), (0.8, None), (0.6, 1), (0.6, 3), (1.0, 2)])
def test_ceilings_of_drawn_problems_are_those_of_an_enumeration(rate, chain_length, monkeypatch):
    """Also their mean over drawn problems is the enumeration's, so that problems are drawn as they are there."""
    for module in ("ordering", "hinted_sort"):
        monkeypatch.setattr(f"anm_nb.tasks.{module}.VALUES", 7)
        monkeypatch.setattr(f"anm_nb.tasks.{module}.LOWEST", 0)
    task = hinted(size=5, mask_rate=0.6, hint_rate=rate, chain_length=chain_length)
    found = ceilings_by_enumeration(7, 5, 2, rate, chain_length)
    batch = task.sample(3000, generator=generator(0, "test"))
    ceilings = task.ceilings(batch)
    for row in range(300):
        assert float(ceilings[row]) == pytest.approx(found[observation(task, batch, row)][0], abs=1e-9)
    mean = sum(best * weight for best, _, weight in found.values())
    error = float(ceilings.std()) / math.sqrt(3000)
    assert float(ceilings.mean()) == pytest.approx(mean, abs=4 * error + 1e-12)
    reached = kendall_tau(task.solve(batch), batch.y)
    assert float(reached.mean()) <= mean + 4 * float(reached.std()) / math.sqrt(3000) + 1e-12


def test_reference_scores_give_an_averaged_ceiling_its_interval():
    task = hinted(size=8, mask_rate=0.75, hint_rate=0.5)
    rows = task.reference_scores(200, generator=generator(0, "test")).set_index(["name", "metric"])
    value, low, high = rows.loc[("best possible", "tau_all"), ["value", "low", "high"]]
    more = float(task.ceilings(task.sample(3000, generator=generator(1, "test"))).mean())
    assert low < value < high
    assert value - 2 * (value - low) < more < value + 2 * (high - value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hint_rate": 1.5}, "hint_rate = 1.5"),
        ({"hints": "shufled"}, "hints = 'shufled'.*did you mean 'shuffled'"),
        ({"encoding": "raw"}, "encoding = 'raw': has no room for pointers; allowed with hint_rate = 1.0: 'scaled'"),
        ({"code_width": 7}, "code_width = 7"),
        ({"chain_length": 0}, "chain_length = 0"),
        ({"mask_rate": 0.9, "chain_length": 5}, "chain_length = 5: with 2 of 20 items visible .* 6 to 18"),
        ({"chain_length": 11}, "chain_length = 11: with 10 of 20 items visible .* 1 to 10"),
        ({"mask_rate": 0.0, "chain_length": 1}, "chain_length = 1: none of the 20 items is hidden"),
        ({"size": 201}, "size = 201: there are only 200 distinct values"),
        ({"wrong_rate": 1.0}, "wrong_rate = 1.0"),
        ({"wrong_rate": 0.1, "hint_rate": 0}, "wrong_rate = 0.1: there are no true pointers .* hint_rate = 0"),
        ({"wrong_rate": 0.1, "hints": "shuffled"}, "wrong_rate = 0.1: .*hints = 'shuffled'; allowed: 0"),
        ({"chain_lenght": 2}, "unknown parameter 'chain_lenght' .did you mean 'chain_length'"),
    ],
)
def test_options_it_cannot_use_are_refused_by_name(options, message):
    with pytest.raises(ParameterError, match=message):
        hinted(**options)


# Masks with a given longest run


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


@pytest.mark.parametrize("links", [0, 1, 2, 5])
def test_chains_cut_short_stand_at_the_median_and_others_where_they_end(links):
    task = get_task("hinted_sort", size=8, mask_rate=0.75)
    batch = task.sample(50, generator=generator(0, "cut"))
    scores, whole, pointers = task.solve(batch, links), task.solve(batch), task.pointers(batch)
    for row in range(50):
        for item in range(8):
            place, steps = item, 0
            while pointers[row, place] >= 0:
                place, steps = int(pointers[row, place]), steps + 1
            if steps <= links:
                assert scores[row, item] == pytest.approx(float(whole[row, item]))
            else:
                assert scores[row, item] == pytest.approx(float(PartialSort.solve(task, batch)[row, item]))
