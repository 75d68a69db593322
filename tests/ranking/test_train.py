"""Training a ranking model: every fix does what it says, and a run is a function of its config."""

import math

import numpy as np
import pytest
import torch

from anm_nb.config import ParameterError
from anm_nb.ranking.learner import RankingLearner
from anm_nb.ranking.losses import ranknet_loss
from anm_nb.ranking.train import RankingConfig
from anm_nb.tasks import get_task
from anm_nb.tasks.kendall import index_space_tau, kendall_tau
from anm_nb.training.learner import Member
from anm_nb.training.loop import Training
from anm_nb.training.seeds import batch_indices, generator

SMALL = {
    "size": 6, "width": 8, "n_heads": 2, "controller_width": 4, "max_inner_iters": 3, "hrm_period": 2, "batch": 16,
    "train_samples": 40, "dev_samples": 20, "test_samples": 30, "epochs": 2, "seeds": (0, 1),
}  # fmt: skip


def config(**options):
    return RankingConfig(**(SMALL | options))


def training(settings, folder, seeds=(0,)):
    members = [Member(settings, seed) for seed in seeds]
    learner = settings.make_learner(members, "cpu")
    assert isinstance(learner, RankingLearner)
    return learner, Training(learner, members, [folder] * len(members), "cpu")


def losses(state):
    return state.losses(state.learner.inputs(state.step), state.kind(state.step, recorded=True))


def step(state, count=1):
    for _ in range(count):
        state.take(state.learner.inputs(state.step), state.kind(state.step, recorded=False))
        state.step += 1


def network_of(learner):
    return learner.model.members[0]


def snapshot(parameters):
    return [parameter.detach().clone() for parameter in parameters]


def same(before, after):
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


# ---- what a run leaves -------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    return config().train(tmp_path_factory.mktemp("run"))


def test_a_run_records_the_documents_diagnostics_at_every_epoch(small_run):
    metrics = small_run.metrics
    assert metrics.groupby("seed")["epoch"].apply(list).tolist() == [[0, 1, 2], [0, 1, 2]]
    named = "tau_obs tau_all entropy herfindahl max_alpha temperature entropy_weight"
    assert metrics[named.split()].notna().all().all()
    assert metrics["grad_norm_encoder"].notna().tolist() == [False, True, True] * 2  # no step before the first
    assert metrics["grad_norm_controller"].isna().all()  # frozen throughout
    shapes = {name: tuple(array.shape) for name, array in small_run.trace.items()}
    per_iteration = {"entropies", "herfindahl", "max_alpha", "tau_obs", "tau_all"}
    assert {shapes.pop(name) for name in per_iteration} == {(2, 3, 3)}
    assert shapes == {
        "alphas": (2, 3, 4, 3, 6, 2),
        "test_scores": (2, 1, 30, 3, 6),
        "test_ranks": (2, 1, 30, 6),
        "test_known": (2, 1, 30, 6),
        "probe_x": (2, 1, 4, 6, 2),
        "probe_ranks": (2, 1, 4, 6),
        "probe_known": (2, 1, 4, 6),
    }
    alphas = small_run.trace["alphas"]
    torch.testing.assert_close(alphas.sum(-1), torch.ones_like(alphas[..., 0]))
    last = small_run.trace["tau_obs"][:, :, -1].flatten()
    np.testing.assert_allclose(metrics["tau_obs"], last)
    np.testing.assert_allclose(metrics["entropy"], small_run.trace["entropies"].mean(-1).flatten(), rtol=1e-6)


def test_test_scores_are_those_of_the_weights_selected_on_dev(small_run):
    settings = config()
    for index, seed in enumerate(settings.seeds):
        rows = small_run.metrics[small_run.metrics["seed"] == seed]
        last = rows.iloc[-1]
        assert last["selected_step"] == rows.loc[rows["tau_obs"].idxmax(), "step"]
        assert rows["test_tau_obs"].notna().sum() == 1
        model = settings.make_model()
        prefix = f"seed{seed}.selected."
        model.load_state_dict(
            {name.removeprefix(prefix): t for name, t in small_run.weights.items() if name.startswith(prefix)}
        )
        test = settings.make_task().sample(30, generator=generator(seed, "test"), stream="test")
        scores, ranks, known = (small_run.trace[f"test_{name}"][index, 0] for name in ("scores", "ranks", "known"))
        assert torch.equal(ranks, test.y)
        torch.testing.assert_close(model(test.x).scores.detach(), scores, atol=1e-3, rtol=0)  # kept to three decimals
        answer = scores[:, -1]
        assert last["test_tau_obs"] == pytest.approx(float(kendall_tau(answer, ranks, known).mean()))
        assert last["test_tau_all"] == pytest.approx(float(kendall_tau(answer, ranks).mean()))
        assert last["test_tau_index"] == pytest.approx(float(index_space_tau(answer, ranks).mean()))


def test_training_is_bit_identical_whatever_the_global_generator(small_run, tmp_path):
    torch.manual_seed(12345)
    again = config().train(tmp_path)
    assert again.metrics.equals(small_run.metrics)
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in small_run.weights.items())
    assert all(torch.equal(again.trace[name], tensor) for name, tensor in small_run.trace.items())


def test_the_problems_of_the_kept_routing_weights_are_kept_with_them(small_run):
    settings = config()
    for index, seed in enumerate(settings.seeds):
        dev = settings.make_task().sample(20, generator=generator(seed, "dev"), stream="dev")
        for name, expected in {"x": dev.x, "ranks": dev.y, "known": dev.known}.items():
            assert torch.equal(small_run.trace[f"probe_{name}"][index, 0], expected[:4])
        model = settings.make_model()
        prefix = f"seed{seed}.averaged."
        model.load_state_dict({n.removeprefix(prefix): t for n, t in small_run.weights.items() if n.startswith(prefix)})
        shown = model(small_run.trace["probe_x"][index, 0]).alphas.detach()
        torch.testing.assert_close(small_run.trace["alphas"][index, -1], shown)


def test_models_of_one_seed_see_the_same_data():
    hrm, baseline = (each.make_learner([Member(each, 3)], "cpu") for each in (config(), config().baseline()))
    assert torch.equal(hrm.x, baseline.x)
    assert torch.equal(hrm.ranks, baseline.ranks)
    for name in ("dev", "test"):
        (first,), (second,) = getattr(hrm, name), getattr(baseline, name)
        assert torch.equal(first.x, second.x)
        assert torch.equal(first.y, second.y)


def test_a_frozen_controller_stays_for_five_epochs_and_then_moves(tmp_path):
    learner, state = training(config(epochs=7, warmup_epochs=5), tmp_path)
    groups = {group.name: group.parameters for group in learner.groups}
    start = snapshot(groups["controller"])
    for epoch in range(7):
        before, encoder_before = snapshot(groups["controller"]), snapshot(groups["encoder"])
        step(state, count=3)
        assert same(before, groups["controller"]) == (epoch < 5)
        assert not same(encoder_before, groups["encoder"])
    assert not same(start, groups["controller"])


@pytest.mark.parametrize("two", [True, False])
def test_each_group_has_the_learning_rate_and_clipping_of_the_document(two):
    settings = config(two_optimisers=two, warmup_epochs=0)
    learner = settings.make_learner([Member(settings, 0)], "cpu")
    groups = {group.name: (group.lr, group.clip_norm) for group in learner.groups}
    assert groups == {"encoder": (3e-4, 1.0), "controller": (1e-4, 0.5) if two else (3e-4, 1.0)}
    assert all(group.optimiser is torch.optim.AdamW for group in learner.groups)
    assert all(group.options == {"weight_decay": 0.01} for group in learner.groups)
    assert {settings.lr_factor(step) for step in range(settings.total_steps() + 1)} == {1.0}
    together = [id(parameter) for group in learner.groups for parameter in group.parameters]
    assert sorted(together) == sorted(id(parameter) for parameter in network_of(learner).parameters())


def test_the_temperature_falls_as_scheduled_in_model_and_average(tmp_path):
    settings = config(epochs=30)
    assert [settings.temperature_at(epoch) for epoch in (0, 1, 10, 17, 18, 99)] == pytest.approx(
        [2.0, 1.9, 2 * 0.95**10, 2 * 0.95**17, 0.8, 0.8]
    )
    _, state = training(settings, tmp_path, seeds=(0, 1))
    for epoch in range(3):
        for _ in range(3):
            losses(state)
            for member in (*state.model.members, *state.averaged.members):
                assert float(member.controller.temperature) == pytest.approx(2 * 0.95**epoch)
            step(state)


def test_the_entropy_weight_halves_every_five_epochs():
    weights = [config().entropy_weight_at(epoch) for epoch in (0, 4, 5, 9, 10, 50)]
    assert weights == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 1e-3 / 1024])
    assert config().baseline().entropy_weight_at(0) == 0


def test_entropy_regularisation_has_a_gradient_and_lowers_the_entropy(tmp_path):
    def entropy_after(weight):
        settings = config(entropy_weight=weight, warmup_epochs=0, controller_lr=1e-2, epochs=14)
        learner, state = training(settings, tmp_path)
        step(state, count=40)
        return float(network_of(learner)(learner.dev[0].x).entropies.mean().detach())

    assert entropy_after(10.0) < entropy_after(0.0) - 0.01
    learner, state = training(config(warmup_epochs=0), tmp_path)
    part = losses(state).parts["loss_entropy"].sum()
    gradients = torch.autograd.grad(part, list(network_of(learner).controller.logits.parameters()))
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients)


@pytest.mark.parametrize("deep", [True, False])
def test_the_loss_is_the_weighted_mean_over_supervised_iterations(deep, tmp_path):
    learner, state = training(config(deep_supervision=deep), tmp_path)
    loss = losses(state).parts["loss_rank"]
    rows = batch_indices(40, 16, 0, 0)
    x, ranks, known = (part[0, rows] for part in (learner.x, learner.ranks, learner.compared))
    scores = network_of(learner)(x).scores
    by_iteration = [ranknet_loss(scores[:, t], ranks, known) for t in range(3)]
    weights = [1 / 6, 2 / 6, 3 / 6] if deep else [0, 0, 1]
    expected = sum(weight * part for weight, part in zip(weights, by_iteration, strict=True))
    torch.testing.assert_close(loss, expected.unsqueeze(0))


def test_an_unaware_loss_sees_hidden_items(tmp_path):
    def loss(mask_aware, moved):
        learner, state = training(config(mask_aware=mask_aware), tmp_path)
        if moved:  # the hidden items to the end of the true order
            hidden = learner.x[..., 1] > 0.5
            learner.ranks.copy_((learner.ranks + learner.ranks.shape[-1] * hidden).argsort(-1).argsort(-1))
        return float(losses(state).parts["loss_rank"].detach())

    assert loss(True, moved=True) == loss(True, moved=False)
    assert loss(False, moved=True) != loss(False, moved=False)


@pytest.mark.parametrize("loss", ["ranknet", "listnet", "soft_sort", "combined", "cross_entropy"])
@pytest.mark.parametrize("encoding", ["scaled", "raw"])
def test_every_loss_trains_on_both_encodings(loss, encoding, tmp_path):
    settings = config(loss=loss, encoding=encoding, warmup_epochs=0, encoder_lr=3e-3, epochs=11)
    learner, state = training(settings, tmp_path)
    first = losses(state)
    decoder = [p for p in network_of(learner).decoder.parameters() if p.dim() > 1]
    gradients = torch.autograd.grad(first.total.sum(), decoder)
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients)
    step(state, count=30)
    state.step = 0
    state.counter.zero_()
    assert float(losses(state).parts["loss_rank"].detach()) < float(first.parts["loss_rank"].detach())
    assert network_of(learner).features == (2 if encoding == "scaled" else 1)


# ---- configs -----------------------------------------------------------------------------------------------------
def test_the_fifteen_configs_of_the_document_are_eleven_runs():
    hrm = RankingConfig(max_inner_iters=12, hrm_period=4)
    listed = [hrm.baseline(), hrm]
    listed += [hrm.changed(max_inner_iters=iterations) for iterations in (6, 8, 12, 16)]
    listed += [hrm.changed(hrm_period=period) for period in (3, 4, 6)]
    listed += [hrm.changed(entropy_weight=weight) for weight in (5e-4, 1e-3, 2e-3)]
    listed += [hrm.changed(temperature=temperature) for temperature in (1.5, 2.0, 2.5)]
    assert len(listed) == 15
    assert len({each.model_dump_json() for each in listed}) == 11
    assert len({each.stack_key() for each in listed}) == 7  # what differs in schedules only trains as one stack


def test_the_baselines_of_configs_that_differ_in_routing_alone_are_one_run():
    variants = [config(), config(entropy_weight=0.1), config(temperature=2.5), config(warmup_epochs=0)]
    assert all(each.baseline() == config().baseline() for each in variants)
    assert config(encoder_lr=1e-3).baseline() != config().baseline()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_rate": 1.0}, "mask_rate = 1.0"),
        ({"size": 1}, "size = 1"),
        ({"size": 500}, "size = 500: there are only 200"),
        ({"max_inner_iters": 0}, "max_inner_iters = 0"),
        ({"hrm_period": 4}, "hrm_period = 4: with max_inner_iters = 3"),
        ({"n_heads": 3}, "n_heads = 3: has to divide width = 8"),
        ({"gradient": "last"}, "gradient = 'last': .*deep_supervision"),
        ({"temperature_min": 3.0}, "temperature_min = 3.0: at most temperature = 2.0"),
        ({"loss": "ranknett"}, "loss = 'ranknett'.*did you mean 'ranknet'"),
        ({"task": "inverse"}, "task = 'inverse': the ranking family needs"),
        ({"task": "partial_sorting"}, "unknown task 'partial_sorting'.*did you mean 'partial_sort'"),
        ({"seeds": (1, 1)}, r"seeds = \(1, 1\): each may appear once"),
        ({"entropy_reg": 0.1}, "unknown parameter 'entropy_reg'"),
        ({"device": "cuda:7"}, "device = 'cuda:7'"),
    ],
)
def test_configs_that_cannot_train_are_refused_by_name(options, message):
    with pytest.raises(ParameterError, match=message):
        config(**options)


# ---- what the models reach ---------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("model", ["hrm", "baseline"])
def test_both_models_sit_at_the_ceiling_within_five_epochs_for_every_seed(model, tmp_path):
    """At the document's setting, on 300 test arrays; and no score exceeds its ceiling beyond sampling error."""
    hrm = RankingConfig(
        size=20, mask_rate=0.5, width=128, max_inner_iters=12, hrm_period=4, train_samples=1000, test_samples=300,
        epochs=5, seeds=(1, 2, 3, 4, 5),
    )  # fmt: skip
    trained = (hrm if model == "hrm" else hrm.baseline()).train(tmp_path)
    ends = trained.metrics.groupby("seed").last()
    assert (ends["test_tau_obs"] >= 0.99).all()
    ceiling = get_task("partial_sort", size=20, mask_rate=0.5).all_pairs_ceiling()
    scores, ranks, known = (trained.trace[f"test_{name}"][:, 0] for name in ("scores", "ranks", "known"))
    assert (kendall_tau(scores[:, :, -1], ranks, known) <= 1).all()
    all_pairs = kendall_tau(scores[:, :, -1], ranks)
    assert (all_pairs.mean(1) <= ceiling + 4 * all_pairs.std(1) / math.sqrt(300)).all()


def test_a_score_to_stop_at_is_a_tau_and_stops_at_the_first_epoch_that_has_it(tmp_path):
    for impossible in (1.5, -1.0, math.nan):
        with pytest.raises(ParameterError, match="stop_at_score"):
            RankingConfig(stop_at_score=impossible)
    settings = config(epochs=4)
    assert settings.stop_at_score is None
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    whole = settings.train(tmp_path / "whole").metrics
    enough = whole.loc[whole["epoch"] >= 1, "tau_obs"].max()
    stopped = settings.changed(stop_at_score=enough).train(tmp_path / "stopped").metrics
    for seed, rows in whole.groupby("seed"):
        reached = rows.index[rows["tau_obs"] >= enough]
        expected = rows.loc[: reached[0] if len(reached) else None, ["step", "tau_obs"]]
        found = stopped.loc[stopped["seed"] == seed, ["step", "tau_obs"]]
        assert found.to_numpy().tolist() == expected.to_numpy().tolist()


def test_a_curriculum_hides_more_until_half_way():
    hrm = config(size=8, mask_rate=0.75, mask_rate_start=0.25, epochs=8)
    learner = hrm.learner(1)
    rows = [learner.inputs(epoch * hrm.steps_per_epoch())["rows"] for epoch in range(8)]
    hidden = [learner.x[0, each[0], :, 1].mean().item() for each in rows]
    assert (hidden[0], hidden[2]) == pytest.approx((0.25, 0.5))
    assert hidden[4:] == pytest.approx([0.75] * 4)
    assert torch.equal(hrm.changed(mask_rate_start=None).learner(1).x[0], learner.x[0, -hrm.train_samples :])


def test_learning_rates_rise_over_the_warm_up():
    hrm = config(lr_warmup=2)
    warm = 2 * hrm.steps_per_epoch()
    assert [hrm.lr_factor(step) for step in (0, warm - 1, warm, 10 * warm)] == [1 / warm, 1, 1, 1]


def test_with_pre_norm_a_block_that_writes_nothing_leaves_the_state():
    block = config(norm="pre").make_model().block
    for part in (block.out, block.feedforward[-1]):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    z = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(z), z)
