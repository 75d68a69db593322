"""Training a ranking model: every option has its documented effect, and a run is a function of its config."""

import math

import numpy as np
import pytest
import torch

from anm_nb import store
from anm_nb.config import ParameterError
from anm_nb.energy.train import EnergyConfig
from anm_nb.ranking.losses import ranknet_loss
from anm_nb.ranking.train import RankingConfig, trained_ranking
from anm_nb.tasks import get_task
from anm_nb.tasks.kendall import index_space_tau, kendall_tau
from anm_nb.training.loop import Training
from anm_nb.training.seeds import batch_indices, generator

SMALL = {
    "size": 6, "width": 8, "n_heads": 2, "controller_width": 4, "max_inner_iters": 3, "hrm_period": 2, "batch": 16,
    "train_samples": 40, "dev_samples": 20, "test_samples": 30, "epochs": 2, "seeds": (0, 1), "device": "cpu",
}  # fmt: skip


def config(**options):
    return RankingConfig(**(SMALL | options))


def losses(state):
    return state.losses(state.learner.inputs(state.step), state.kind(state.step))


def step(state, count=1):
    for _ in range(count):
        state.take(state.learner.inputs(state.step), state.kind(state.step))
        state.step += 1


def network_of(state):
    return state.model.members[0]


# ---- the contents of a run ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANM_NB_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        yield store.get_or_train(config())


def test_a_run_records_the_documents_diagnostics_at_every_epoch(run):
    metrics = run.metrics
    assert metrics.groupby("seed")["epoch"].apply(list).tolist() == [[0, 1, 2], [0, 1, 2]]
    named = "tau_obs tau_all entropy herfindahl max_alpha temperature entropy_weight"
    assert metrics[named.split()].notna().all().all()
    assert metrics["grad_norm_encoder"].notna().tolist() == [False, True, True] * 2  # no gradient before step 0
    assert metrics["grad_norm_controller"].isna().all()  # frozen throughout
    shapes = {name: tuple(array.shape) for name, array in run.trace.items()}
    per_iteration = {"entropies", "tau_obs", "tau_all"}
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
    alphas = run.trace["alphas"]
    torch.testing.assert_close(alphas.sum(-1), torch.ones_like(alphas[..., 0]))
    np.testing.assert_allclose(metrics["tau_obs"], run.trace["tau_obs"][:, :, -1].flatten())
    np.testing.assert_allclose(metrics["entropy"], run.trace["entropies"].mean(-1).flatten(), rtol=1e-6)


def test_test_scores_belong_to_the_weights_selected_on_dev(run):
    for index, seed in enumerate(SMALL["seeds"]):
        rows = run.metrics[run.metrics["seed"] == seed]
        last = rows.iloc[-1]
        assert last["selected_step"] == rows.loc[rows["tau_obs"].idxmax(), "step"]
        assert rows["test_tau_obs"].notna().sum() == 1
        model = trained_ranking(run, seed)
        selected = rows[rows["step"] == last["selected_step"]].iloc[0]
        assert float(model.controller.temperature) == pytest.approx(selected["temperature"])
        test = config().make_task().sample(30, generator=generator(seed, "test"), stream="test")
        scores, ranks, known = (run.trace[f"test_{name}"][index, 0] for name in ("scores", "ranks", "known"))
        assert torch.equal(ranks, test.y)
        torch.testing.assert_close(model(test.x).scores, scores, atol=1e-3, rtol=0)  # stored with four decimals
        answer = scores[:, -1]
        assert last["test_tau_obs"] == pytest.approx(float(kendall_tau(answer, ranks, known).mean()))
        assert last["test_tau_all"] == pytest.approx(float(kendall_tau(answer, ranks).mean()))
        assert last["test_tau_index"] == pytest.approx(float(index_space_tau(answer, ranks).mean()))


def test_training_does_not_depend_on_the_global_generator(run, tmp_path):
    torch.manual_seed(12345)
    again = config().train(tmp_path)
    assert again.metrics.equals(run.metrics)
    for kept, found in ((run.weights, again.weights), (run.trace, again.trace)):
        assert all(torch.equal(found[name], tensor) for name, tensor in kept.items())


def test_models_missing_from_a_run_are_refused_by_name(run, monkeypatch):
    with pytest.raises(ParameterError, match=r"seed = 7: run \w+ has seeds 0, 1"):
        trained_ranking(run, 7)
    monkeypatch.setitem(vars(run), "config", EnergyConfig())
    with pytest.raises(ParameterError, match="its config is EnergyConfig, which trains no ranking model"):
        trained_ranking(run, 0)


# ---- the training ------------------------------------------------------------------------------------------------
def test_models_of_one_seed_see_the_same_data():
    hrm, baseline = (each.learner(3) for each in (config(), config().baseline()))
    pairs = [(hrm.x, baseline.x), (hrm.ranks, baseline.ranks)]
    pairs += [(getattr(hrm, name)[0].x, getattr(baseline, name)[0].x) for name in ("dev", "test")]
    assert all(torch.equal(*pair) for pair in pairs)


def test_a_frozen_controller_stays_for_its_warm_up_and_then_moves():
    state = Training(config(epochs=4, warmup_epochs=2).learner(0))
    for epoch in range(4):
        before = [[each.detach().clone() for each in group.parameters] for group in state.learner.groups]
        step(state, count=3)
        moved = [
            not all(map(torch.equal, old, group.parameters))
            for old, group in zip(before, state.learner.groups, strict=True)
        ]
        assert moved == [True, epoch >= 2]


@pytest.mark.parametrize("two", [True, False])
def test_each_group_has_the_learning_rate_and_clipping_of_the_document(two):
    settings = config(two_optimisers=two, warmup_epochs=0)
    learner = settings.learner(0)
    groups = {group.name: (group.lr, group.clip_norm) for group in learner.groups}
    assert groups == {"encoder": (3e-4, 1.0), "controller": (1e-4, 0.5) if two else (3e-4, 1.0)}
    assert all(group.optimiser is torch.optim.AdamW for group in learner.groups)
    assert all(group.options == {"weight_decay": 0.01} for group in learner.groups)
    assert {settings.lr_factor(step) for step in range(settings.total_steps() + 1)} == {1.0}
    rates = [settings.changed(lr_warmup=2).lr_factor(step) for step in (0, 5, 60)]
    assert rates == [1 / 6, 1, 1]


def test_temperature_and_entropy_weight_fall_as_scheduled():
    settings = config(epochs=30)
    temperatures = [settings.at_epoch(epoch)["temperature"] for epoch in (0, 1, 10, 17, 18, 99)]
    assert temperatures == pytest.approx([2.0, 1.9, 2 * 0.95**10, 2 * 0.95**17, 0.8, 0.8])
    weights = [settings.at_epoch(epoch)["entropy_weight"] for epoch in (0, 4, 5, 9, 10, 50)]
    assert weights == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 1e-3 / 1024])
    assert settings.baseline().at_epoch(0)["entropy_weight"] == 0
    state = Training(settings.learner(0, 1))
    for epoch in range(2):
        for _ in range(3):
            losses(state)
            for member in (*state.model.members, *state.averaged.members):
                assert float(member.controller.temperature) == pytest.approx(2 * 0.95**epoch)
            step(state)


@pytest.mark.parametrize("deep", [True, False])
def test_the_loss_is_the_weighted_mean_over_supervised_iterations(deep):
    state = Training(config(deep_supervision=deep).learner(0))
    loss = losses(state).parts["loss_rank"]
    rows = batch_indices(40, 16, 0, 0)
    x, ranks, known = (part[0, rows] for part in (state.learner.x, state.learner.ranks, state.learner.compared))
    scores = network_of(state)(x).scores
    by_iteration = [ranknet_loss(scores[:, t], ranks, known) for t in range(3)]
    weights = [1 / 6, 2 / 6, 3 / 6] if deep else [0, 0, 1]
    expected = sum(weight * part for weight, part in zip(weights, by_iteration, strict=True))
    torch.testing.assert_close(loss, expected.unsqueeze(0))


@pytest.mark.parametrize(
    ("options", "aware"),
    [({}, True), ({"mask_aware": False}, False), ({"task": "hinted_sort"}, False)],  # hints concern hidden items too
)
def test_loss_and_selection_follow_the_metric_of_the_task(options, aware):
    learner = config(**options).learner(0)
    training = learner.task.sample(40, generator=generator(0, "train"), stream="train")
    assert aware == (learner.compared is not None and torch.equal(learner.compared[0], training.known))
    assert learner.selection == learner.task.metric == ("tau_all" if "task" in options else "tau_obs")
    assert config(selection="tau_index", **options).learner(0).selection == "tau_index"


def test_a_curriculum_hides_more_until_half_way():
    hrm = config(size=8, mask_rate=0.75, mask_rate_start=0.25, epochs=8)
    learner = hrm.learner(1)
    rows = [learner.inputs(epoch * hrm.steps_per_epoch())["rows"] for epoch in range(8)]
    hidden = [learner.x[0, each[0], :, 1].mean().item() for each in rows]
    assert (hidden[0], hidden[2]) == pytest.approx((0.25, 0.5))
    assert hidden[4:] == pytest.approx([0.75] * 4)
    assert torch.equal(hrm.changed(mask_rate_start=None).learner(1).x[0], learner.x[0, -hrm.train_samples :])


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
    assert len({each.stack_key() for each in listed}) == 7  # configs that differ only in schedules share a stack
    assert all(each.changed(max_inner_iters=12, hrm_period=4).baseline() == hrm.baseline() for each in listed[1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 500}, "size = 500: there are only 200"),
        ({"hrm_period": 4}, "hrm_period = 4: with max_inner_iters = 3"),
        ({"n_heads": 3}, "n_heads = 3: must divide width = 8"),
        ({"routing": "tokens"}, "did you mean 'token'"),
        ({"gradient": "last"}, "gradient = 'last': .*deep_supervision"),
        ({"temperature_min": 3.0}, "temperature_min = 3.0: at most temperature = 2.0"),
        ({"loss": "ranknett"}, "loss = 'ranknett'.*did you mean 'ranknet'"),
        ({"task": "inverse"}, "task = 'inverse': the ranking family needs"),
        ({"task": "hinted_sort", "task_options": {"hintrate": 1.0}}, "unknown parameter 'hintrate'"),
        ({"task_options": {"size": 4, "mask_rate": 0.2}}, "task_options: mask_rate, size: set by the config's field"),
    ],
)
def test_configs_that_cannot_train_are_refused_by_name(options, message):
    with pytest.raises(ParameterError, match=message):
        config(**options)


# ---- scores ------------------------------------------------------------------------------------------------------


def test_hints_are_learned_from_and_shuffled_ones_are_not(tmp_path):
    """True pointers lift τ far above the ceiling without hints; shuffled pointers leave it there, up to chance."""
    task = get_task("partial_sort", size=5, mask_rate=0.5)
    ceiling = float(task.ceilings(task.sample(1, generator=generator(0, "test"))))
    reached, errors = {}, {}
    for hints in ("true", "shuffled"):
        settings = RankingConfig(
            task="hinted_sort", task_options={"hints": hints, "code_width": 8}, size=5, mask_rate=0.5, width=16,
            n_heads=2, routing="uniform", max_inner_iters=2, train_samples=3000, batch=100, epochs=3, encoder_lr=1e-2,
            dev_samples=200, test_samples=1000, seeds=(0,),
        )  # fmt: skip
        (tmp_path / hints).mkdir()
        trained = settings.train(tmp_path / hints)
        each = kendall_tau(trained.trace["test_scores"][0, 0, :, -1], trained.trace["test_ranks"][0, 0])
        reached[hints], errors[hints] = float(each.mean()), float(each.std()) / math.sqrt(1000)
    assert reached["true"] > ceiling + 0.1
    assert reached["shuffled"] < ceiling + 3 * errors["shuffled"]
    assert reached["shuffled"] > ceiling - 0.1  # the rest has been learned
