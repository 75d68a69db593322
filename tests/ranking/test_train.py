"""Training a ranking model: every fix does what it says, and a run is a function of its config."""

import copy
import math

import numpy as np
import pytest
import torch

from anm_nb import store
from anm_nb.config import ParameterError
from anm_nb.ranking.cost import model_cost
from anm_nb.ranking.fixes import FIXES, ablations, only_fix, published, without_fix
from anm_nb.ranking.losses import ranknet_loss
from anm_nb.ranking.train import RankingConfig, RankingLearner, supervision_weights
from anm_nb.tasks import get_task
from anm_nb.tasks.kendall import index_space_tau, kendall_tau
from anm_nb.training.epochs import batch_indices
from anm_nb.training.loop import SeedTraining
from anm_nb.training.seeds import generator

SMALL = {
    "size": 6,
    "width": 8,
    "n_heads": 2,
    "controller_width": 4,
    "max_inner_iters": 3,
    "hrm_period": 2,
    "train_samples": 40,
    "dev_samples": 20,
    "test_samples": 30,
    "batch": 16,
    "epochs": 2,
    "seeds": (0, 1),
    "seeds_at_once": "loop",
}


def config(**options):
    return RankingConfig(**(SMALL | options))


def training(settings, seed=0):
    learner = settings.learner(seed, "cpu")
    assert isinstance(learner, RankingLearner)
    return learner, SeedTraining(learner, settings.loop, seed, "cpu")


def step(state, count=1):
    for _ in range(count):
        state.update(state.losses())
        state.step += 1


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


def test_a_resumed_training_is_bit_identical(small_run, tmp_path, monkeypatch):
    """Killed in the middle of an epoch, after a checkpoint that does not lie at its beginning."""
    settings = config(checkpoint_every=2)
    losses = RankingLearner.losses

    def killed(self, step, averaged):
        if step == 5 and self.seed == 1:
            raise KeyboardInterrupt
        return losses(self, step, averaged)

    monkeypatch.setattr(RankingLearner, "losses", killed)
    with pytest.raises(KeyboardInterrupt):
        settings.train(tmp_path)
    monkeypatch.setattr(RankingLearner, "losses", losses)
    resumed = settings.train(tmp_path)
    assert resumed.metrics.equals(small_run.metrics)
    assert all(torch.equal(resumed.weights[name], tensor) for name, tensor in small_run.weights.items())
    assert all(torch.equal(resumed.trace[name], tensor) for name, tensor in small_run.trace.items())


def test_models_of_one_seed_see_the_same_data():
    hrm, baseline = (settings.learner(3, "cpu") for settings in (config(), config().baseline()))
    for name in ("training", "dev", "test"):
        first, second = getattr(hrm, name), getattr(baseline, name)
        assert torch.equal(first.x, second.x)
        assert torch.equal(first.y, second.y)


def test_runs_enter_the_store_and_come_back(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    settings = config(epochs=1, seeds=(0,))
    run = store.get_or_train(settings)
    stored = store.Run(run.path)
    assert stored.config == settings
    assert store.get_or_train(settings).path == run.path
    assert stored.trace["test_known"].dtype == torch.bool
    assert stored.metrics["tau_obs"].notna().all()


# ---- the fixes ---------------------------------------------------------------------------------------------------
def test_a_frozen_controller_stays_for_five_epochs_and_then_moves():
    learner, state = training(config(epochs=7, warmup_epochs=5))
    controller, encoder = learner.network.controller_parameters(), learner.network.encoder_parameters()
    start = snapshot(controller)
    for epoch in range(7):
        before, encoder_before = snapshot(controller), snapshot(encoder)
        step(state, count=3)
        assert same(before, controller) == (epoch < 5)
        assert not same(encoder_before, encoder)
    assert not same(start, controller)


@pytest.mark.parametrize("two", [True, False])
def test_each_group_has_the_learning_rate_and_clipping_of_the_document(two):
    learner, state = training(config(two_optimisers=two, warmup_epochs=0))
    step(state)
    settings = {group.name: (group.optimiser.param_groups[0], group.clip_norm) for group in learner.groups}
    assert settings["encoder"][0]["lr"] == 3e-4
    assert settings["encoder"][1] == 1.0
    assert settings["controller"][0]["lr"] == (1e-4 if two else 3e-4)
    assert settings["controller"][1] == (0.5 if two else 1.0)
    assert all(isinstance(group.optimiser, torch.optim.AdamW) for group in learner.groups)
    assert all(group["weight_decay"] == 0.01 for group, _ in settings.values())


def test_learning_rates_stay_constant():
    learner, state = training(config(warmup_epochs=0))
    step(state, count=6)
    assert [group.optimiser.param_groups[0]["lr"] for group in learner.groups] == [3e-4, 1e-4]


def test_the_temperature_falls_as_scheduled_in_model_and_average():
    settings = config(epochs=30)
    assert [settings.temperature_at(epoch) for epoch in (0, 1, 10, 17, 18, 99)] == pytest.approx(
        [2.0, 1.9, 2 * 0.95**10, 2 * 0.95**17, 0.8, 0.8]
    )
    learner, state = training(settings)
    for epoch in range(3):
        for _ in range(3):
            state.losses()
            for model in (learner.network, state.averaged.module):
                assert float(model.controller.temperature) == pytest.approx(2 * 0.95**epoch)
            step(state)


def test_the_entropy_weight_halves_every_five_epochs():
    weights = [config().entropy_weight_at(epoch) for epoch in (0, 4, 5, 9, 10, 50)]
    assert weights == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 1e-3 / 1024])
    assert config().baseline().entropy_weight_at(0) == 0


def test_entropy_regularisation_has_a_gradient_and_lowers_the_entropy():
    def entropy_after(weight):
        learner, state = training(config(entropy_weight=weight, warmup_epochs=0, controller_lr=1e-2))
        step(state, count=40)
        return float(learner.network(learner.dev.x).entropies.mean().detach())

    assert entropy_after(10.0) < entropy_after(0.0) - 0.01
    learner, state = training(config(warmup_epochs=0))
    losses = state.losses()
    gradients = torch.autograd.grad(losses.parts["loss_entropy"], learner.network.controller.logits.parameters())
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients)


def test_deep_supervision_weighs_later_iterations_more():
    assert supervision_weights(config()).tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert supervision_weights(config(supervision_power=0.0)).tolist() == pytest.approx([1 / 3] * 3)
    assert supervision_weights(config(deep_supervision=False)).tolist() == [1.0]


@pytest.mark.parametrize("deep", [True, False])
def test_the_loss_is_the_weighted_mean_over_supervised_iterations(deep):
    learner, state = training(config(deep_supervision=deep))
    loss = state.losses().parts["loss_rank"]
    batch = learner.training
    rows = batch_indices(40, 16, 0, 0)
    scores = learner.network(batch.x[rows]).scores
    by_iteration = [ranknet_loss(scores[:, t], batch.y[rows], batch.known[rows]) for t in range(3)]
    weights = [1 / 6, 2 / 6, 3 / 6] if deep else [0, 0, 1]
    expected = sum(weight * part for weight, part in zip(weights, by_iteration, strict=True))
    torch.testing.assert_close(loss, expected)


def test_an_unaware_loss_sees_hidden_items():
    def loss(mask_aware):
        return float(training(config(mask_aware=mask_aware))[1].losses().parts["loss_rank"].detach())

    learner, _ = training(config())
    hidden_swapped = copy.deepcopy(learner)
    ranks = learner.training.y.clone()
    for row, known in zip(ranks, learner.training.known, strict=True):
        hidden = (~known).nonzero().flatten()[:2]
        row[hidden] = row[hidden.flip(0)]
    object.__setattr__(hidden_swapped.training, "y", ranks)
    before = float(learner.losses(0, learner.network).total.detach())
    assert float(hidden_swapped.losses(0, hidden_swapped.network).total.detach()) == before
    assert loss(True) != loss(False)


@pytest.mark.parametrize("loss", ["ranknet", "listnet", "soft_sort", "combined", "cross_entropy"])
@pytest.mark.parametrize("encoding", ["scaled", "raw"])
def test_every_loss_trains_on_both_encodings(loss, encoding):
    learner, state = training(config(loss=loss, encoding=encoding, warmup_epochs=0, encoder_lr=3e-3))
    first = float(state.losses().parts["loss_rank"].detach())
    step(state, count=30)
    state.step = 0
    assert float(state.losses().parts["loss_rank"].detach()) < first
    assert learner.network.features == (2 if encoding == "scaled" else 1)
    assert all(float(p.grad.abs().max()) > 0 for p in learner.network.decoder.parameters() if p.dim() > 1)


@pytest.mark.parametrize("loss", ["ranknet", "listnet", "soft_sort", "combined", "cross_entropy"])
def test_every_loss_trains_in_bfloat16(loss, tmp_path):
    trained = config(loss=loss, precision="bfloat16", warmup_epochs=0, seeds=(0,)).train(tmp_path)
    assert trained.metrics[["loss_rank", "tau_obs"]].notna().all().all()


# ---- configs -----------------------------------------------------------------------------------------------------
def test_the_fifteen_configs_of_the_document_are_eleven_runs():
    hrm = RankingConfig(max_inner_iters=12, hrm_period=4)
    listed = [hrm.baseline(), hrm]
    listed += [hrm.changed(max_inner_iters=iterations) for iterations in (6, 8, 12, 16)]
    listed += [hrm.changed(hrm_period=period) for period in (3, 4, 6)]
    listed += [hrm.changed(entropy_weight=weight) for weight in (5e-4, 1e-3, 2e-3)]
    listed += [hrm.changed(temperature=temperature) for temperature in (1.5, 2.0, 2.5)]
    assert len(listed) == 15
    assert len({store.run_key(each) for each in listed}) == 11


def test_the_baselines_of_configs_that_differ_in_routing_alone_are_one_run():
    variants = [config(), config(entropy_weight=0.1), config(temperature=2.5), config(warmup_epochs=0), config(top_k=1)]
    assert len({store.run_key(each.baseline()) for each in variants}) == 1
    assert store.run_key(config(encoder_lr=1e-3).baseline()) != store.run_key(config().baseline())


def test_ablations_change_one_fix_at_a_time():
    full = config()
    raw = published(full)
    assert (raw.encoding, raw.loss, raw.decoder) == ("raw", "cross_entropy", "pointer")
    assert (raw.gradient, raw.deep_supervision, raw.warmup_epochs, raw.entropy_weight) == ("last", False, 0, 0)
    assert {raw.temperature_at(epoch) for epoch in range(50)} == {1.0}
    for fix, replaced in FIXES.items():
        assert changed_fields(full, without_fix(full, fix)) == set(replaced)
        assert changed_fields(raw, only_fix(full, fix)) == set(replaced)
    assert len({store.run_key(each) for each in ablations(full).values()}) == 2 + 2 * len(FIXES)


def changed_fields(first, second):
    return {name for name, value in dict(first).items() if getattr(second, name) != value}


def test_costs_are_those_counted_by_hand():
    settings = config(width=8, controller_width=4, max_inner_iters=3, hrm_period=2)
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_rate": 1.0}, "mask_rate = 1.0"),
        ({"size": 1}, "size = 1"),
        ({"size": 500}, "size = 500: there are only 200"),
        ({"max_inner_iters": 0}, "max_inner_iters = 0"),
        ({"hrm_period": 4}, "hrm_period = 4: with max_inner_iters = 3"),
        ({"n_heads": 3}, "n_heads = 3: has to divide width = 8"),
        ({"top_k": 3}, "top_k = 3: there are n_heads = 2"),
        ({"gradient": "last"}, "gradient = 'last': .*deep_supervision"),
        ({"temperature_min": 3.0}, "temperature_min = 3.0: at most temperature = 2.0"),
        ({"loss": "ranknett"}, "loss = 'ranknett'.*did you mean 'ranknet'"),
        ({"loss_weights": {"rank": 1.0}}, "loss_weights.*'rank'.*ranknet, listnet, soft_sort"),
        ({"task": "inverse"}, "task = 'inverse': the ranking family needs"),
        ({"task": "partial_sorting"}, "unknown task 'partial_sorting'.*did you mean 'partial_sort'"),
        ({"seeds": (1, 1)}, r"seeds = \(1, 1\): each seed may appear once"),
        ({"entropy_reg": 0.1}, "unknown parameter 'entropy_reg'"),
        ({"device": "cuda:7"}, "device = 'cuda:7'"),
    ],
)
def test_configs_that_cannot_train_are_refused_by_name(options, message):
    with pytest.raises(ParameterError, match=message):
        config(**options)


# ---- what the models reach ---------------------------------------------------------------------------------------
def test_the_easy_regime_is_solved_within_an_epoch_or_two(tmp_path):
    settings = RankingConfig(size=20, train_samples=1000, epochs=2, seeds=(1,), dev_samples=100)
    trained = settings.train(tmp_path)
    assert trained.metrics.iloc[-1]["test_tau_obs"] >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("model", ["hrm", "baseline"])
def test_both_models_sit_at_the_ceiling_within_five_epochs_for_every_seed(model, tmp_path):
    """At the document's setting, on 300 test arrays; and no score exceeds its ceiling beyond sampling error."""
    hrm = RankingConfig(
        size=20,
        mask_rate=0.5,
        width=128,
        max_inner_iters=12,
        hrm_period=4,
        train_samples=1000,
        test_samples=300,
        epochs=5,
        seeds=(1, 2, 3, 4, 5),
    )
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
