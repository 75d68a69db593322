"""Variants: each changes only the stated fields, and matched models have the nearest possible cost."""

import pytest
import torch
from notebook_cells import names_of

from anm_nb.config import ParameterError
from anm_nb.ranking.train import RankingConfig, at_values, comparators, model_cost
from anm_nb.training.loop import Training

ITEMS, WIDTH, HEADS, STATE, ITERATIONS, CODE = 6, 8, 2, 4, 3, 9


def config(**options):
    small = {
        "size": ITEMS, "width": WIDTH, "n_heads": HEADS, "controller_width": STATE, "max_inner_iters": ITERATIONS,
        "hrm_period": 2, "train_samples": 40, "dev_samples": 20, "test_samples": 30, "batch": 16, "epochs": 3,
        "warmup_epochs": 1, "seeds": (0,), "task": "hinted_sort", "task_options": {"code_width": CODE},
    }  # fmt: skip
    return RankingConfig(**small | options)


def sorting(**options):
    return config(task="partial_sort", task_options={}, **options)


NAMES = list(comparators(config()))


def trained(settings, steps):
    """The network after some steps, and its weights before them."""
    state = Training(settings.learner(0))
    network = state.model.members[0]
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    for state.step in range(steps):
        state.take(state.learner.inputs(state.step), state.kind(state.step))
    return network, before


def key(settings):
    """The config as text, by which the store tells configs apart."""
    return settings.model_dump_json()


# ---- comparators -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_each_comparator_ranks_and_trains_its_blocks_and_any_learned_routing(name):
    derived = comparators(config(entropy_weight=10.0))[name]
    network, before = trained(derived, 4)  # the first three with a frozen controller
    assert network(torch.rand(2, ITEMS, network.features)).scores.shape == (
        2,
        1 if name == "no iteration" else ITERATIONS,
        ITEMS,
    )
    moved = {each for each, weight in network.state_dict().items() if not torch.equal(before[each], weight)}
    assert moved >= {each for each in before if each.startswith(("block.", "later_blocks."))}
    routing = {each for each in before if each.startswith("controller.") and not each.endswith("temperature")}
    assert routing.isdisjoint(moved) == (not derived.learns_routing)
    if not derived.learns_routing:
        assert derived.at_epoch(0)["entropy_weight"] == 0  # else the encoder would optimise the entropy term


def test_unused_fields_of_a_comparator_do_not_make_another_run():
    variants = [config(), config(entropy_weight=0.1), config(warmup_epochs=0, controller_lr=1e-3)]
    for name in ("no iteration", "deep untied", "weight-tied", "random α", "untrained controller"):
        assert len({key(comparators(each)[name]) for each in variants}) == 1
    variants = [config(), config(hrm_period=3)]
    assert len({key(comparators(each)["one timescale"]) for each in variants}) == 1
    assert len({key(each) for each in comparators(config()).values()}) == len(NAMES)


@pytest.mark.parametrize(
    ("name", "value"),
    {"routing": "uniform", "trained_routing": False, "slow_state": False, "tied": False, "max_inner_iters": 1}.items(),
)
def test_comparators_need_a_whole_model(name, value):
    with pytest.raises(ParameterError, match=f"{name} = {value!r}: comparators need a whole HRM model"):
        comparators(config(hrm_period=1, **{name: value}))


# ---- the document's fixes and grid -------------------------------------------------------------------------------
def test_ablations_change_one_fix_at_a_time():
    full = sorting()
    names = names_of("02_kendall_forensics", "cell-04", keep=False)
    configs, FIXES = names["ablations"](full), names["FIXES"]
    raw = configs["published"]
    assert (raw.encoding, raw.loss) == ("raw", "cross_entropy")
    assert (raw.gradient, raw.deep_supervision, raw.warmup_epochs, raw.entropy_weight) == ("last", False, 0, 0)
    assert {raw.at_epoch(epoch)["temperature"] for epoch in range(50)} == {1.0}
    assert configs["all"] == full
    for fix, replaced in FIXES.items():
        assert changed_fields(full, configs[f"all but {fix}"]) == set(replaced)
        assert changed_fields(raw, configs[f"only {fix}"]) == set(replaced)
    assert len({key(each) for each in configs.values()}) == 2 + 2 * len(FIXES)


def changed_fields(first, second):
    return {name for name, value in dict(first).items() if getattr(second, name) != value}


def test_values_of_one_field_stand_beside_the_baseline():
    configs = at_values(config(), "hrm_period", (1, 2))
    assert list(configs) == ["baseline", "hrm_period = 1", "hrm_period = 2"]
    assert configs["hrm_period = 2"] == config()
    with pytest.raises(ParameterError, match=r"values = \[1, 3\]: hrm_period = 2 must be among them"):
        at_values(config(), "hrm_period", (1, 3))


# ---- cost --------------------------------------------------------------------------------------------------------


def test_no_other_width_matches_the_cost_more_closely():
    derived = comparators(config())["deep untied"]
    match = names_of("25_where_iteration_helps", "matched")["matched"](derived, config(), "operations")
    assert match == derived.changed(width=match.width)
    wanted = model_cost(config())["training_flops"]
    near = range(max(HEADS, match.width - HEADS), match.width + HEADS + 1, HEADS)  # operations grow with the width
    off = {width: abs(model_cost(derived.changed(width=width))["training_flops"] - wanted) for width in near}
    assert off[match.width] == min(off.values())
