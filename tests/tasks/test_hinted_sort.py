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
from anm_nb.tasks.ordering import STREAMS, PartialSort
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


def test_hints_come_at_their_rate_and_codes_say_nothing():
    task = hinted(size=10, hint_rate=0.3)
    batch = task.sample(5000, generator=generator(0, "test"))
    may = ~batch.known & (batch.y > 0)
    assert float(batch.x[..., 2][may].mean()) == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / int(may.sum())))
    codes = batch.x[..., 3 : 3 + task.options.code_width]
    assert codes.mean(0).abs().max() < 5 / math.sqrt(5000)
    ranked = codes.gather(1, batch.y.argsort(1).unsqueeze(-1).expand_as(codes))
    assert ranked.mean(0).abs().max() < 5 / math.sqrt(5000)
    assert (ranked[:, 1:] * ranked[:, :-1]).mean((0, 1)).abs().max() < 0.03  # neighbours' codes are unrelated


@given(size=st.integers(3, 20), mask_rate=mask_rates, rate=rates, seed=seeds)
def test_reordering_items_reorders_everything(size, mask_rate, rate, seed):
    task = hinted(size=size, mask_rate=mask_rate, hint_rate=rate)
    batch = task.sample(4, generator=generator(seed, "test"))
    turn = torch.randperm(size, generator=generator(seed, "turn"))
    turned = Batch(batch.x[:, turn], batch.y[:, turn], batch.known[:, turn])
    pointers, after = task.pointers(batch), task.pointers(turned)
    assert torch.equal(torch.where(after < 0, after, turn[after]), pointers[:, turn])
    assert torch.equal(task.solve(turned), task.solve(batch)[:, turn])
    assert torch.equal(task.fingerprint(turned), task.fingerprint(batch))
    assert torch.allclose(task.ceilings(turned), task.ceilings(batch))


@settings(max_examples=8)
@given(size=st.integers(3, 5), mask_rate=st.floats(0.3, 0.9), numbers=st.tuples(st.integers(0, 99), st.integers(0, 99)))
def test_streams_never_overlap_whatever_the_hints(size, mask_rate, numbers):
    tasks = [
        hinted(size=size, mask_rate=mask_rate, hint_rate=0.0),
        hinted(size=size, mask_rate=mask_rate, hint_rate=0.5),
        hinted(size=size, mask_rate=mask_rate, hints="shuffled"),
        hinted(size=size, mask_rate=mask_rate, chain_length=1),
    ]
    seen = {
        stream: {
            frozenset(row[known].tolist())
            for task, seed in itertools.product(tasks, numbers)
            for batch in [task.sample(200, generator=generator(seed, "same for all"), stream=stream)]
            for row, known in zip(task.values(batch), batch.known, strict=True)
        }
        for stream in STREAMS
    }
    for first, second in itertools.combinations(seen.values(), 2):
        assert not first & second


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


def test_ranks_are_hidden_uniformly_over_masks_and_independently_of_values():
    task = hinted(size=5, mask_rate=0.5, chain_length=2)
    batch = task.sample(12_000, generator=generator(0, "test"))
    visible = [tuple(sorted(ranks[known].tolist())) for ranks, known in zip(batch.y, batch.known, strict=True)]
    possible = [places for places in itertools.combinations(range(5), 2) if longest_run(places, 5) == 2]
    assert set(visible) == set(possible)
    for places in possible:
        assert visible.count(places) / 12_000 == pytest.approx(1 / len(possible), abs=0.02)
    assert (batch.known.double().mean(0) - 0.4).abs().max() < 0.025  # nor is any position preferred


@pytest.mark.parametrize("mask_rate", [0.5, 0.75, 0.9])
@pytest.mark.parametrize("harder", [False, True])
def test_with_all_hints_chains_of_pointers_order_everything(mask_rate, harder):
    task = hinted(size=20, mask_rate=mask_rate)
    batch = task.sample(300, generator=generator(0, "test"), harder=harder)
    assert (kendall_tau(task.solve(batch), batch.y) == 1).all()
    assert (task.ceilings(batch) == 1).all()
    assert task.all_pairs_ceiling(harder=harder) == 1


@pytest.mark.parametrize("chain_length", [1, 3, 10])
def test_with_all_hints_any_chain_length_is_decidable(chain_length):
    task = hinted(size=20, chain_length=chain_length)
    batch = task.sample(200, generator=generator(0, "test"))
    assert (kendall_tau(task.solve(batch), batch.y) == 1).all()
    assert task.all_pairs_ceiling() == 1


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


def test_shuffling_the_pointers_destroys_their_gain():
    true, shuffled, none = (
        hinted(size=20, mask_rate=0.75, **options) for options in ({}, {"hints": "shuffled"}, {"hint_rate": 0.0})
    )
    tau = {}
    for name, task in {"true": true, "shuffled": shuffled, "none": none}.items():
        batch = task.sample(1500, generator=generator(0, "test"))
        tau[name] = float(kendall_tau(task.solve(batch), batch.y).mean())
    assert tau["true"] == 1
    assert tau["shuffled"] < tau["none"] + 0.005
    assert shuffled.all_pairs_ceiling() == none.all_pairs_ceiling() < 0.26
    batch = shuffled.sample(10, generator=generator(0, "test"))
    plain = none.sample(10, generator=generator(0, "test"))
    assert torch.equal(shuffled.ceilings(batch), none.ceilings(plain))


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


def test_wrong_pointers_come_at_their_rate_and_lead_to_any_other_item_alike():
    task = hinted(size=6, mask_rate=0.5, wrong_rate=0.4)
    batch = task.sample(20000, generator=generator(0, "test"))
    pointers = task.pointers(batch)
    led_to = batch.y.gather(1, pointers.clamp(min=0))
    for rank in range(1, 6):
        chosen = led_to[(pointers >= 0) & (batch.y == rank)]
        shares = torch.bincount(chosen, minlength=6) / len(chosen)
        expected = torch.full((6,), 0.4 / 4)
        expected[rank - 1], expected[rank] = 0.6, 0.0
        assert (shares - expected).abs().max() < 5 * math.sqrt(0.24 / len(chosen))


def test_the_ceiling_with_wrong_pointers_is_that_without_them():
    noisy, fewer = hinted(size=9, mask_rate=0.75, wrong_rate=0.25), hinted(size=9, mask_rate=0.75, hint_rate=0.75)
    batch = noisy.sample(40, generator=generator(3, "test"))
    truth = torch.tensor(predecessors(batch))
    right = (noisy.pointers(batch) == truth) & (truth >= 0)
    x = batch.x.clone()
    x[..., 2] *= right
    x[..., 3 + noisy.options.code_width :] *= right.unsqueeze(-1)
    expected = fewer.ceilings(Batch(x, batch.y, batch.known))
    assert torch.equal(noisy.ceilings(batch), expected)
    names = noisy.reference_scores(50, generator=generator(0, "test")).set_index("kind").loc["ceiling", "name"]
    assert set(names) == {"best possible, wrong pointers taken out"}


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


@pytest.mark.parametrize(("size", "mask_rate"), [(20, 0.5), (20, 0.9), (7, 0.4)])
def test_without_information_the_mean_of_ceilings_is_the_closed_form(size, mask_rate):
    task = hinted(size=size, mask_rate=mask_rate, hints="shuffled")
    ceilings = task.ceilings(task.sample(1500, generator=generator(0, "test")))
    error = float(ceilings.std()) / math.sqrt(1500)
    assert float(ceilings.mean()) == pytest.approx(task.all_pairs_ceiling(), abs=4 * error)


def test_chains_of_pointers_score_between_no_pointers_and_the_ceiling():
    task = hinted(size=20, mask_rate=0.75, hint_rate=0.5)
    batch = task.sample(1000, generator=generator(0, "test"))
    best = task.ceilings(batch)
    tau = kendall_tau(task.solve(batch), batch.y)
    error = float((tau - best).std()) / math.sqrt(1000)
    assert 0.35 < float(tau.mean()) < float(best.mean()) + 3 * error
    assert (kendall_tau(task.solve(batch), batch.y, batch.known) == 1).all()


def test_more_hints_never_lower_the_mean_ceiling():
    means = []
    for rate in (0.0, 0.25, 0.5, 0.75, 1.0):
        task = hinted(size=12, mask_rate=0.75, hint_rate=rate)
        means.append(float(task.ceilings(task.sample(300, generator=generator(0, "test"))).mean()))
    assert means == sorted(means)
    assert means[-1] == 1


def test_reference_scores_with_all_hints():
    scores = hinted(size=20, mask_rate=0.75).reference_scores(2000, generator=generator(0, "test"))
    assert list(scores) == ["name", "kind", "metric", "value", "low", "high"]
    value = scores.set_index(["name", "metric"])["value"]
    assert set(scores["kind"]) == {"trivial", "classical", "ceiling"}
    for name in ("random scores", "input order"):
        assert abs(value[name, "tau_all"]) < 0.02
    unhinted = get_task("partial_sort", size=20, mask_rate=0.75).all_pairs_ceiling()
    assert value["value, hidden ones at the median", "tau_all"] == pytest.approx(unhinted, abs=0.01)
    assert value["chains of pointers", "tau_all"] == 1
    assert value["best possible", "tau_all"] == value["best possible", "tau_obs"] == 1


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


def test_harder_problems_that_no_mask_fits_are_refused():
    with pytest.raises(ParameterError, match="chain_length = 6: with 3 of 40 items visible"):
        hinted(mask_rate=0.9, chain_length=6).sample(1, generator=generator(0, "test"), harder=True)


def test_a_mean_ceiling_without_a_closed_form_is_not_made_up():
    with pytest.raises(ParameterError, match=r"hint_rate = 0\.5.*average `ceilings`"):
        hinted(hint_rate=0.5).all_pairs_ceiling()
    with pytest.raises(ParameterError, match="chain_length = 4"):
        hinted(hint_rate=0.0, chain_length=4).all_pairs_ceiling()


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
