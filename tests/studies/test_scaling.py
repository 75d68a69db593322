"""What a step costs: closed forms against torch's counter and against counts by hand, and saved bytes by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anm_nb.config import ParameterError
from anm_nb.energy.networks import EnergyMLP, energy_given, gradient_and_value
from anm_nb.energy.train import EnergyConfig
from anm_nb.ranking.networks import AttentionBlock
from anm_nb.ranking.train import RankingConfig
from anm_nb.studies.scaling import (
    CostAndScaling,
    SavedStorages,
    counted_flops,
    energy_operations,
    linear,
    ranking_operations,
    step_bytes,
    step_operations,
)
from anm_nb.training.timing import fresh_training

FEW = {"train_samples": 6, "dev_samples": 1, "test_samples": 1, "device": "cpu", "warmup_epochs": 0, "batch": 6}
SMALL = {
    "ranking_batches": (1, 2, 3), "items": (2, 3, 4), "iterations": (2, 4, 6), "energy_batches": (1, 2, 3),
    "sides": (2, 3, 4), "seed_counts": (1, 2, 3), "batch": 2, "size": 4, "max_inner_iters": 2, "width": 8,
    "n_heads": 2, "energy_batch": 3, "side": 2, "energy_width": 8, "rounds": 3, "device": "cpu",
}  # fmt: skip


@settings(max_examples=40)
@given(
    size=st.integers(2, 9),
    width=st.sampled_from([1, 4, 12]),
    iterations=st.integers(1, 7),
    period=st.integers(1, 4),
    controller=st.integers(1, 9),
    routing=st.sampled_from(["token", "sequence", "uniform", "random"]),
    gradient=st.sampled_from(["full", "last"]),
    deep=st.booleans(),
    slow_state=st.booleans(),
    tied=st.booleans(),
    hinted=st.booleans(),
)
def test_the_ranking_step_s_closed_form_is_what_torch_counts(
    size, width, iterations, period, controller, routing, gradient, deep, slow_state, tied, hinted
):
    config = RankingConfig(
        **FEW,
        size=size,
        width=width,
        n_heads=1 if width == 1 else 4,
        max_inner_iters=iterations,
        hrm_period=min(period, iterations),
        controller_width=controller,
        routing=routing,
        gradient=gradient,
        deep_supervision=deep and gradient == "full",
        slow_state=slow_state,
        tied=tied,
        task="hinted_sort" if hinted else "partial_sort",
        task_options={"code_width": 9} if hinted else {},
    )
    assert step_operations(fresh_training(config, [0])) == ranking_operations(config)


@settings(max_examples=15)
@given(size=st.integers(1, 7), width=st.integers(1, 20), batch=st.integers(1, 9), levels=st.integers(2, 12))
def test_the_energy_step_s_closed_form_is_what_torch_counts(size, width, batch, levels):
    config = EnergyConfig(size=size, width=width, levels=levels, dev_examples=1, batch=batch)
    assert step_operations(fresh_training(config, [0])) == energy_operations(config)


def test_attention_makes_the_cost_of_items_quadratic():
    """Second differences over L: 4w a block and iteration forward, twice that backward, and nothing else."""
    at = [ranking_operations(RankingConfig(**FEW, size=size, width=16, max_inner_iters=3)) for size in (10, 20, 30)]
    blocks, batch = 1 + 3, 6
    assert at[0] - 2 * at[1] + at[2] == 3 * batch * blocks * 4 * 16 * (10**2 - 2 * 20**2 + 30**2)


def test_seeds_multiply_the_operations():
    settings = CostAndScaling(**SMALL)
    for config in (settings.ranking(), settings.energy()):
        one, three = (step_operations(fresh_training(config, range(count))) for count in (1, 3))
        assert three == 3 * one


def test_operations_under_func_s_gradient_are_those_counted_by_hand():
    b, x_dim, y_dim, w, levels = 7, 6, 4, 16, 10
    network = EnergyMLP(x_dim, y_dim, w, levels=levels)
    x, y, k = torch.ones(b, x_dim), torch.ones(b, y_dim), torch.zeros(b, dtype=torch.long)

    @torch.no_grad()
    def score():
        gradient_and_value(energy_given(network, x, k), y)

    of_levels = levels * (2 * 128 * 128 + 2 * 128 * 2 * w)  # the embedding's two layers, two modulations
    once = b * x_dim * w  # the product with x, which no gradient goes through
    twice = b * (y_dim * w + 2 * w * w + w * y_dim)  # forward, and backward to y
    assert counted_flops(score) == 2 * (of_levels + once + 2 * twice)


def test_attention_counts_its_two_products():
    block, z = AttentionBlock(8, 2), torch.ones(3, 5, 8)
    projections = 3 * 5 * (8 * 24 + 8 * 8 + 2 * 8 * 16)
    with torch.no_grad():
        assert counted_flops(lambda: block(z)) == 2 * (projections + 2 * 3 * 5 * 5 * 8)


def test_the_counter_counts_a_product_by_hand():
    """[5, 7] × [7, 3], differentiable by the second only."""
    weights = torch.ones(7, 3, requires_grad=True)
    counted = counted_flops(lambda: (torch.ones(5, 7) @ weights).sum().backward())
    assert counted == 2 * linear(5, 7, 3) == 2 * (2 * 5 * 7 * 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "addition"}, "task = 'addition': the closed form is that of task = 'inverse'"),
        ({"head": "scalar"}, "head = 'scalar'"),
        ({"negatives": "stock"}, "negatives = 'stock'"),
        ({"network": "graph"}, "network = 'graph'"),
    ],
)
def test_energies_it_does_not_cover_are_refused(changes, message):
    with pytest.raises(ParameterError, match=message):
        energy_operations(EnergyConfig(**changes))


def test_rankings_it_does_not_cover_are_refused():
    with pytest.raises(ParameterError, match="score decoder"):
        ranking_operations(RankingConfig(loss="cross_entropy"))
    with pytest.raises(ParameterError, match="trained_routing = False"):
        ranking_operations(RankingConfig(trained_routing=False))


def test_saved_storages_are_counted_once_and_known_ones_never():
    known = torch.ones(3, 4, requires_grad=True)
    x = torch.ones(5, 3)
    saved = SavedStorages([known])
    with saved:
        h = x @ known  # saves x, 5·3, for the gradient of the weights, and the weights, which are known
        e = h.exp()  # saves its answer, 5·4 …
        product = e[:2] * e[2:4]  # … of which two views are saved here
        product.sum()  # saves nothing
    assert saved.bytes == 4 * (5 * 3 + 5 * 4)


def test_what_needs_no_gradient_is_not_saved():
    x = torch.ones(5, 3)
    saved = SavedStorages([])
    with saved:
        x.exp().square().sum()
    assert saved.bytes == 0


def test_an_iteration_without_gradient_keeps_its_routing_weights_only():
    """α, α clamped and ln α of the entropy term, in float32, for every token and head."""
    settings = CostAndScaling(**SMALL)
    own = settings.ranking(gradient="last", deep_supervision=False)
    more = own.changed(max_inner_iters=own.max_inner_iters + 2)
    added = step_bytes(fresh_training(more, [0])) - step_bytes(fresh_training(own, [0]))
    assert added == 2 * 3 * 4 * own.batch * own.size * own.n_heads


def test_tables_have_a_row_for_each_size_and_seed_or_round():
    study = CostAndScaling(**SMALL)
    operations, times, seed_times, memory = study.operations(), study.step_times(), study.seed_times(), study.memory()
    assert len(operations) == 5 * 3 * 3
    assert (operations["counted"] == operations["closed_form"]).all()
    assert times.groupby(["model", "dimension", "size"])["round"].nunique().eq(3).all()
    assert set(times["size"][times["dimension"] == "side"]) == {2, 3, 4}
    assert len(seed_times) == 2 * 2 * 3 * 3
    assert set(seed_times["way"]) == {"in turn", "stacked"}
    assert set(seed_times["size"]) == {1, 2, 3}
    assert (times["seconds"] > 0).all()
    assert (seed_times["seconds"] > 0).all()
    assert memory.groupby(["gradient", "iterations"])["bytes"].nunique().eq(1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": (8, 4, 16)}, "sizes have to ascend"),
        ({"sides": (4, 8)}, "sides = .* at least 3"),
        ({"iterations": (1, 2, 4)}, "hrm_period = 2: with max_inner_iters = 1"),
        ({"width": 10, "n_heads": 4}, "n_heads = 4: has to divide width = 10"),
        ({"rounds": 2}, "rounds = 2"),
        ({"side": 0}, "side = 0"),
        ({"itmes": (1, 2, 3)}, "did you mean 'items'"),
    ],
)
def test_sizes_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ParameterError, match=message):
        CostAndScaling(**changes)
