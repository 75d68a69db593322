"""Parameters and operations as counted by hand, and comparators matched to a model as nearly as they can be."""

import pytest

from anm_nb.ranking.cost import matched, model_cost, parameter_count, training_flops
from anm_nb.ranking.train import RankingConfig
from anm_nb.ranking.variants import comparators

ITEMS, WIDTH, HEADS, STATE, ITERATIONS, CODE = 6, 8, 2, 4, 3, 9


def config(**options):
    small = {
        "size": ITEMS, "width": WIDTH, "n_heads": HEADS, "controller_width": STATE, "max_inner_iters": ITERATIONS,
        "hrm_period": 2, "task": "hinted_sort", "task_options": {"code_width": CODE},
    }  # fmt: skip
    return RankingConfig(**small | options)


def test_parameters_are_those_counted_by_hand():
    w, c, heads = WIDTH, STATE, HEADS
    block = (3 * w * w + 3 * w) + (w * w + w) + (2 * w * w + 2 * w) + (2 * w * w + w) + 2 * 2 * w
    embedding = (w // 2 + w // 2) + (w // 2 * w + w) + w + (1 + 2 * CODE) * w  # value, hidden, and what hints add
    plain = embedding + block + (w + 1)
    cell = 3 * c * c + 3 * c  # of a gated cell, by each of what it reads
    fast_alone = (3 * c * w + 3 * c) + cell
    full = fast_alone + 3 * c * c + 2 * cell + (2 * c * heads + heads)
    expected = {
        "no iteration": plain + block,
        "deep untied": plain + ITERATIONS * block,
        "weight-tied": plain + block,
        "random α": plain + block + ITERATIONS * heads,
        "untrained controller": plain + block + full,
        "one timescale": plain + block + fast_alone + (c * heads + heads),
        "equal timescales": plain + block + full,
        "HRM per token": plain + block + full,
        "HRM per sequence": plain + block + full,
    }
    counted = {name: parameter_count(each) for name, each in comparators(config()).items()}
    assert counted == expected
    assert counted == {name: model_cost(each).parameters for name, each in comparators(config()).items()}
    untrained = {"random α": ITERATIONS * heads, "untrained controller": full}
    assert {name: model_cost(each).trained_parameters for name, each in comparators(config()).items()} == {
        name: count - untrained.get(name, 0) for name, count in expected.items()
    }


def test_weights_of_their_own_cost_no_operation():
    costs = {name: model_cost(each) for name, each in comparators(config()).items()}
    for name in ("deep untied", "random α"):
        assert costs[name].forward_flops == costs["weight-tied"].forward_flops
        assert costs[name].training_flops == costs["weight-tied"].training_flops
    assert costs["untrained controller"].forward_flops == costs["HRM per token"].forward_flops
    growing = [costs[name].forward_flops for name in ("no iteration", "weight-tied", "one timescale", "HRM per token")]
    assert growing == sorted(set(growing))


def test_costs_are_those_counted_by_hand():
    settings = config(task="partial_sort", task_options={})
    cost, baseline = model_cost(settings), model_cost(settings.baseline())
    controller = (3 * 4 * (8 + 4) + 12) + (3 * 4 * 4 + 12) + 2 * (3 * 4 * 4 + 12) + (2 * 4 * 2 + 2)
    assert cost.controller_parameters == controller
    assert baseline.controller_parameters == 0
    assert cost.parameters == baseline.parameters + controller
    assert cost.parameters == sum(p.numel() for p in settings.make_model().parameters())
    block = 6 * 2 * (3 + 1 + 2 + 2) * 8 * 8 + 2 * 2 * 6 * 6 * 8  # linear layers, and attention's two products
    embedding, decoder = 6 * 2 * (4 + 4 * 8), 6 * 2 * 8
    assert baseline.forward_flops == embedding + 2 * block + decoder
    fast, slow, logits = 6 * 2 * 12 * (12 + 4), 6 * 2 * 12 * 8, 6 * 2 * 8 * 2
    assert cost.forward_flops == embedding + 4 * block + 3 * (fast + logits) + slow + 3 * decoder
    assert 2 < cost.training_flops / cost.forward_flops < 3.5


@pytest.mark.parametrize(("by", "count"), [("parameters", parameter_count), ("operations", training_flops)])
@pytest.mark.parametrize("name", ["no iteration", "deep untied", "weight-tied", "one timescale"])
def test_no_other_width_is_nearer(name, by, count):
    derived = comparators(config())[name]
    match = matched(derived, to=config(), by=by)
    assert match == derived.changed(width=match.width)
    others = [count(derived.changed(width=width)) for width in range(HEADS, 31, HEADS)]
    assert abs(count(match) - count(config())) == min(abs(other - count(config())) for other in others)


def test_matching_a_model_to_itself_changes_nothing():
    assert matched(config(), to=config(), by="parameters") == config()
