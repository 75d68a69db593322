"""Variants: each changes what it says and nothing else, and counts match as nearly as they can."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anm_nb.config import ParameterError
from anm_nb.ranking.losses import ranknet_loss
from anm_nb.ranking.networks import OWN_FEATURES_GAIN, ModelConfig, RankingModel
from anm_nb.ranking.routing import Controller
from anm_nb.ranking.train import RankingConfig
from anm_nb.ranking.variants import FIXES, ablations, comparators, published
from anm_nb.tasks import get_task
from anm_nb.training.learner import Member
from anm_nb.training.loop import Training
from anm_nb.training.seeds import batch_indices, generator, initialise

ITEMS, WIDTH, HEADS, STATE, ITERATIONS, CODE = 6, 8, 2, 4, 3, 9


def config(**options):
    small = {
        "size": ITEMS, "width": WIDTH, "n_heads": HEADS, "controller_width": STATE, "max_inner_iters": ITERATIONS,
        "hrm_period": 2, "train_samples": 40, "dev_samples": 20, "test_samples": 30, "batch": 16, "epochs": 3,
        "warmup_epochs": 1, "seeds": (0,), "task": "hinted_sort", "task_options": {"code_width": CODE},
    }  # fmt: skip
    return RankingConfig(**small | options)


NAMES = list(comparators(config()))


def model(features=2, seed=0, **options):
    small = {"width": 8, "n_heads": 2, "max_inner_iters": 4, "hrm_period": 2, "controller_width": 6}
    module = RankingModel(ModelConfig(**small | options), features=features)
    initialise(module, generator(seed, "weights"))
    return module.double()


def inputs(batch=3, items=5, features=2, seed=0):
    x = torch.rand(batch, items, features, dtype=torch.float64, generator=generator(seed, "x")) * 2 - 1
    x[..., 1] = (x[..., 1] > 0).double()
    return x


def trained(settings, steps, folder):
    state = Training(settings.learner(0))
    network = state.model.members[0]
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    for state.step in range(steps):
        state.take(state.learner.inputs(state.step), state.kind(state.step, recorded=False))
    return network, before


def learner_of(settings):
    return settings.make_learner([Member(settings, 0)], "cpu")


def key(settings):
    """What the store tells configs apart by."""
    return settings.model_dump_json()


# ---- what they are -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_all_train_on_the_same_data_for_as_many_iterations(name, tmp_path):
    derived = comparators(config())[name]
    learner, full = (learner_of(each) for each in (derived, config()))
    for ours, theirs in ((learner.x, full.x), (learner.dev[0].x, full.dev[0].x), (learner.test[0].x, full.test[0].x)):
        assert torch.equal(ours, theirs)
    scores = learner.model(learner.dev[0].x).scores
    assert scores.shape == (20, 1 if name == "no iteration" else ITERATIONS, ITEMS)
    network, before = trained(derived, 4, tmp_path)  # of which three with the controller frozen
    after = network.state_dict()
    blocks = [key for key in before if key.startswith(("block.", "later_blocks."))]
    assert not any(torch.equal(before[key], after[key]) for key in blocks)


def test_what_a_comparator_does_not_use_makes_no_run_of_its_own():
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
def test_comparators_are_of_a_whole_model_only(name, value):
    with pytest.raises(ParameterError, match=f"{name} = {value!r}: comparators are of a whole HRM model"):
        comparators(config(hrm_period=1, **{name: value}))


def test_uniform_routing_is_the_weight_tied_model():
    """A controller that says nothing, its logits 0, is no controller."""
    routed = model()
    with torch.no_grad():
        for parameter in routed.controller.logits.parameters():
            parameter.zero_()
    tied = model(routing="uniform")
    weights = {name: weight for name, weight in routed.state_dict().items() if not name.startswith("controller.")}
    tied.load_state_dict(weights)
    torch.testing.assert_close(routed(inputs()).scores, tied(inputs()).scores)


def test_untied_blocks_that_are_alike_are_the_tied_model():
    tied, untied = model(routing="uniform"), model(routing="uniform", tied=False)
    own = {name: weight for name, weight in tied.state_dict().items()}
    for later in range(3):
        own |= {f"later_blocks.{later}.{n.removeprefix('block.')}": w for n, w in own.items() if n.startswith("block.")}
    untied.load_state_dict(own)
    torch.testing.assert_close(untied(inputs()).scores, tied(inputs()).scores)
    with torch.no_grad():
        untied.later_blocks[1].out.bias[0] += 1
    changed = (untied(inputs()).scores - tied(inputs()).scores).abs().amax((0, 2))
    assert [float(each) > 1e-6 for each in changed.detach()] == [False, False, True, True]


# ---- routing that is not learned ---------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["random α", "untrained controller"])
def test_frozen_routing_stays_as_it_was_drawn(name, tmp_path):
    derived = comparators(config(entropy_weight=10.0))[name]
    network, before = trained(derived, 7, tmp_path)
    after = network.state_dict()
    routing = [key for key in before if key.startswith("controller.") and not key.endswith("temperature")]
    assert routing
    assert all(torch.equal(before[key], after[key]) for key in routing)
    assert [group.name for group in learner_of(derived).groups] == ["encoder"]
    assert derived.entropy_weight_at(0) == 0  # or the encoder would learn to please the entropy term


def test_random_routing_is_drawn_once_for_each_iteration_and_begins_again():
    module = model(routing="random")
    logits = module.controller.logits.weight
    alphas = module(inputs(), 6).alphas
    for iteration in range(6):
        expected = logits[iteration % 4].exp() / logits[iteration % 4].exp().sum()
        torch.testing.assert_close(alphas[:, iteration], expected.expand(3, 5, 2))
    assert torch.equal(module(inputs(seed=1)).alphas, alphas[:, :4])
    assert not torch.equal(model(seed=1, routing="random")(inputs()).alphas, alphas[:, :4])


def test_without_a_slow_state_the_controller_is_one_gated_cell():
    module = Controller(8, 2, 6, 2, per_sequence=False, slow_state=False).double()
    initialise(module, generator(0, "weights"))
    assert not [name for name, _ in module.named_parameters() if "slow" in name]
    cell = nn.GRUCell(8, 6).double()
    with torch.no_grad():
        cell.weight_ih.copy_(module.fast.input.weight)
        cell.bias_ih.copy_(module.fast.input.bias)
        cell.weight_hh.copy_(module.fast.recurrent.weight)
        cell.bias_hh.copy_(module.fast.recurrent.bias)
    z = torch.randn(7, 8, dtype=torch.float64, generator=generator(0, "z"))
    state, h = module.start(z.unsqueeze(0)), torch.zeros(7, 6, dtype=torch.float64)
    for iteration in range(4):
        alpha, state = module(z.unsqueeze(0), state, iteration)
        h = cell(z, h)
        torch.testing.assert_close(alpha[0], (h @ module.logits.weight.T + module.logits.bias).softmax(-1))


@pytest.mark.parametrize("options", [{}, {"routing": "sequence"}, {"routing": "uniform"}, {"slow_state": False}])
@pytest.mark.parametrize("iterations", [1, 2, 7])
def test_any_number_of_iterations_is_a_model_built_with_so_many(options, iterations):
    module = model(**options)
    built = model(**options | {"max_inner_iters": iterations, "hrm_period": min(2, iterations)})
    built.load_state_dict(module.state_dict())
    if iterations == 1 and built.controller is not None:
        built.controller.period = 2
    for ours, theirs in zip(module(inputs(), iterations), built(inputs()), strict=True):
        torch.testing.assert_close(ours, theirs)
    if iterations > 4:
        torch.testing.assert_close(module(inputs(), iterations).scores[:, :4], module(inputs()).scores)


def test_the_last_of_the_iterations_asked_for_has_the_gradient():
    module = model(gradient="last")
    scores = module(inputs(), 6).scores
    assert torch.autograd.grad(scores[:, -1].sum(), module.block.out.weight, retain_graph=True)[0].abs().max() > 0
    assert torch.autograd.grad(scores[:, -2].sum(), module.block.out.weight)[0].abs().max() == 0


def test_blocks_of_their_own_end_where_training_did():
    module = model(routing="uniform", tied=False)
    torch.testing.assert_close(module(inputs(), 2).scores, module(inputs()).scores[:, :2])
    with pytest.raises(ParameterError, match="iterations = 5: allowed: 1 to 4, as each has a block of its own"):
        module(inputs(), 5)
    for none in (0, -1):
        with pytest.raises(ParameterError, match=f"iterations = {none}: allowed: at least 1"):
            model()(inputs(), none)


@settings(max_examples=20)
@given(st.permutations(range(11)), st.sampled_from(NAMES))
def test_any_number_of_items_in_any_order(order, name):
    short, long = (comparators(config(size=size))[name].make_model() for size in (ITEMS, 11))
    initialise(short, generator(0, "weights"))
    long.load_state_dict(short.state_dict())
    x = inputs(items=11, features=3 + 2 * CODE).float()
    with torch.no_grad():
        torch.testing.assert_close(short(x).scores, long(x).scores)
        torch.testing.assert_close(short(x[:, order]).scores, short(x).scores[..., list(order)], atol=1e-4, rtol=1e-4)


# ---- a task's own features and options ---------------------------------------------------------------------------
def test_own_features_are_added_to_the_items_state_by_a_linear_map():
    module, plain = model(features=6), model(features=2)
    plain.load_state_dict({n: w for n, w in module.state_dict().items() if not n.startswith("own_features.")})
    x = inputs(features=6)
    without = x.clone()
    without[..., 2:] = 0
    assert torch.equal(module(without).scores, plain(x[..., :2]).scores)
    plain.encoder = module.encoder = nn.Identity()
    added = module.begin(x).encoded - plain.begin(x[..., :2]).encoded
    torch.testing.assert_close(added, OWN_FEATURES_GAIN * x[..., 2:] @ module.own_features.weight.T)


def test_the_tasks_options_reach_the_task():
    task = config(task_options={"code_width": 8, "hint_rate": 0.5}).make_task()
    assert (task.options.hint_rate, task.options.size, task.x_dim) == (0.5, ITEMS, 3 + 16)
    assert config(task_options={"hint_rate": 0.0}).make_model().own_features is None
    with pytest.raises(ParameterError, match="unknown parameter 'hintrate'"):
        config(task_options={"hintrate": 1.0})
    with pytest.raises(ParameterError, match="task_options: mask_rate, size: set by the config's field"):
        config(task_options={"size": 4, "mask_rate": 0.2})


def test_the_loss_compares_and_dev_selects_by_what_the_tasks_metric_does():
    hinted, sorting = config(), config(task="partial_sort", task_options={})
    for each, observed_only, aware in ((hinted, False, True), (sorting, True, True), (sorting, False, False)):
        learner = learner_of(each.changed(mask_aware=aware))
        training = learner.task.sample(40, generator=generator(0, "train"), stream="train")
        rows = batch_indices(40, 16, 0, 0)
        ranks, known = training.y, training.known
        scores = learner.model.members[0](training.x[rows]).scores
        losses = [ranknet_loss(scores[:, t], ranks[rows], known[rows] if observed_only else None) for t in range(3)]
        expected = sum((t + 1) * loss for t, loss in enumerate(losses)) / 6
        now = {name: values[0] for name, values in learner.schedules.items()}
        found = learner.losses(learner.inputs(0), now, None, learner.model)
        torch.testing.assert_close(found.parts["loss_rank"], expected.unsqueeze(0))
    assert (learner_of(hinted).selection, learner_of(sorting).selection) == ("tau_all", "tau_obs")
    assert learner_of(hinted.changed(selection="tau_obs")).selection == "tau_obs"


def test_hints_are_learned_from_and_shuffled_ones_are_not(tmp_path):
    """True pointers lift τ far above the ceiling without hints; shuffled ones leave it there, up to chance."""
    ceiling = get_task("partial_sort", size=5, mask_rate=0.5).all_pairs_ceiling()
    reached, errors = {}, {}
    for hints in ("true", "shuffled"):
        settings = RankingConfig(
            task="hinted_sort", task_options={"hints": hints, "code_width": 8}, size=5, mask_rate=0.5, width=16,
            n_heads=2, routing="uniform", max_inner_iters=2, train_samples=2000, batch=50, epochs=10, encoder_lr=5e-3,
            dev_samples=200, test_samples=1000, seeds=(0,),
        )  # fmt: skip
        (tmp_path / hints).mkdir()
        run = settings.train(tmp_path / hints)
        task = settings.make_task()
        test = task.sample(1000, generator=generator(0, "test"), stream="test")
        each = task.scores(run.trace["test_scores"][0, 0, :, -1], test)["tau_all"]
        reached[hints], errors[hints] = float(each.mean()), float(each.std()) / math.sqrt(1000)
        assert run.metrics["test_tau_all"].iloc[-1] == pytest.approx(reached[hints])
    assert reached["true"] > ceiling + 0.1
    assert reached["shuffled"] < ceiling + 3 * errors["shuffled"]
    assert reached["shuffled"] > ceiling - 0.1  # it has learned all the rest


# ---- the document's fixes ----------------------------------------------------------------------------------------
def test_ablations_change_one_fix_at_a_time():
    full = config(task="partial_sort", task_options={})
    configs, raw = ablations(full), published(full)
    assert (raw.encoding, raw.loss) == ("raw", "cross_entropy")
    assert (raw.gradient, raw.deep_supervision, raw.warmup_epochs, raw.entropy_weight) == ("last", False, 0, 0)
    assert {raw.temperature_at(epoch) for epoch in range(50)} == {1.0}
    assert (configs["published"], configs["all"]) == (raw, full)
    for fix, replaced in FIXES.items():
        assert changed_fields(full, configs[f"all but {fix}"]) == set(replaced)
        assert changed_fields(raw, configs[f"only {fix}"]) == set(replaced)
    assert len({key(each) for each in configs.values()}) == 2 + 2 * len(FIXES)


def changed_fields(first, second):
    return {name for name, value in dict(first).items() if getattr(second, name) != value}
