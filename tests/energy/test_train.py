"""Runs record the right columns, margins before the update and gradient shares; configs survive JSON."""

import math

import numpy as np
import pytest
import torch
from first_step import begun, losses_at

from anm_nb.config import ParameterError
from anm_nb.energy.losses import info_nce
from anm_nb.energy.miner import Mined, MinerConfig, MiningProblem
from anm_nb.energy.negatives import Anm, Random, get_negatives
from anm_nb.energy.schedule import SharedNoise
from anm_nb.energy.train import EnergyConfig
from anm_nb.training.seeds import RowDraws, generator

# Column names fixed by the design; notebooks read them.
CONTRAST = {
    "p_hard", "margin_mean", "margin_q25", "margin_q50", "margin_q75", "loss_con", "grad_share_contrast",
    "illegitimate_fraction", "e_pos", "e_neg",
}  # fmt: skip
MINER = {"miner_accepted", "miner_backtracks", "gm_norm", "feasibility_residual", "wrongness"}


def config(negatives, **options):
    small = {"size": 2, "width": 8, "levels": 4, "dev_examples": 8, "seeds": [0], "inner_steps": 1}
    return EnergyConfig(**small | {"steps": 4, "batch": 16, "records": 3} | options, negatives=negatives)


def replayed(learner):
    """A learner's first batch and its noise, drawn again from the seed."""
    batch = learner.task.sample(learner.config.batch, generator=generator(0, "data"))
    return batch, SharedNoise.draw(learner.schedule, batch.y, RowDraws([generator(0, "noise")], "cpu"))


@pytest.mark.parametrize(
    ("negatives", "options"),
    [
        ("none", {}),
        ("stock", {"task": "addition", "head": "scalar", "contrastive_weight": 0.0}),
        ({"name": "random", "eps": 0.3, "orthogonal_to_noise": True}, {"seeds": (5, 0, 2)}),
        (Anm(orthogonal_to_noise=True, miner=MinerConfig(steps=7, delta=0.0, distance_weight=0.5)), {}),
        ({"name": "anm_orthogonal", "steps": 2}, {"lr": 3e-4, "precision": "bfloat16"}),
    ],
)
def test_a_config_reads_back_from_json(negatives, options):
    given = config(negatives, **options)
    back = EnergyConfig.model_validate_json(given.model_dump_json())
    assert back == given
    assert type(back.negatives) is type(given.negatives)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "partial_sort"}, "flat target"),
        ({"task": "sudoku", "size": 9, "task_options": {"poool": 3}}, "task_options: unknown parameter 'poool'"),
        ({"network": "grahp"}, "unknown energy network 'grahp' (did you mean 'graph'?)"),
        ({"contrastive_weight": math.nan}, "contrastive_weight = nan"),
    ],
)
def test_unusable_configs_are_refused_by_name(options, message):
    with pytest.raises(ParameterError) as refusal:
        EnergyConfig(**options)
    assert message in str(refusal.value)


def test_columns_have_the_names_of_the_design(tmp_path_factory):
    names = ("none", "stock", "anm")
    tables = {name: config(name).train(tmp_path_factory.mktemp(name)).metrics for name in names}
    always = {"seed", "step", "loss_mse", "mse", "dev_margin_mean", "dev_p_hard", "grad_norm_energy"}
    assert set(tables["none"]) == always
    assert always | CONTRAST <= set(tables["stock"])
    assert not set(tables["stock"]) & (MINER - {"wrongness"})
    assert always | CONTRAST | MINER <= set(tables["anm"])
    for table in tables.values():
        assert np.isfinite(table.drop(columns="grad_norm_energy").to_numpy()).all()


@pytest.mark.parametrize(("method", "weight"), [("stock", None), ("random", 2.0), ("anm", 0.05)])
def test_a_record_describes_the_weights_before_the_update(method, weight):
    """Margins, legitimacy and gradient share, recomputed from weights, batch and noise that the seed gives."""
    given = config(method, contrastive_weight=weight)
    training = begun(given)
    learner, losses = training.learner, losses_at(training)
    (measured,) = learner.measure(training, losses)
    batch, noise = replayed(learner)
    y_neg, norms = losses.detail.mined.y_neg, []
    for name in ("contrast", "denoising"):
        model = given.learner(0).model
        point = noise.noised(batch.y).as_subclass(torch.Tensor).requires_grad_()
        e_pos = model(batch.x, point, noise.k)
        e_neg = model(batch.x, noise.noised(y_neg).as_subclass(torch.Tensor), noise.k)
        if name == "contrast":
            loss = (0.5 if weight is None else weight) * torch.log1p(torch.exp(e_pos - e_neg)).mean()
        else:
            (score,) = torch.autograd.grad(e_pos.sum(), point, create_graph=True)
            loss = (score - noise.eps).square().mean()
        loss.backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        norms.append(float(torch.cat(gradients).norm()))
    torch.testing.assert_close(measured.arrays["margins"].as_subclass(torch.Tensor), e_neg - e_pos)
    assert float(losses.parts["loss_con"].detach()) == pytest.approx(float(info_nce(e_pos, e_neg).mean()), rel=1e-5)
    assert measured.scalars["grad_share_contrast"] == pytest.approx(norms[0] / sum(norms), rel=1e-4)
    shift, signal, sigma = y_neg - batch.y, learner.schedule.signal(noise.k), learner.schedule.sigma(noise.k)
    legitimate = (signal**2 * shift**2 / (2 * sigma) + signal * shift * noise.eps).sum(1)
    assert measured.scalars["illegitimate_fraction"] == pytest.approx(float((legitimate < 0).float().mean()))


def test_held_out_scores_use_the_averaged_weights_and_no_generator():
    training = begun(config("anm"))
    learner, losses = training.learner, losses_at(training)
    states = {name: source.get_state() for name, (source,) in learner.generators.items()}
    measured = []
    for averaged in (training.averaged, training.averaged, config("anm").learner(9).model):
        training.averaged = averaged
        measured += learner.measure(training, losses)
    one, again, different = measured
    assert one.scalars == again.scalars
    assert one.scalars["mse"] != different.scalars["mse"]
    assert one.scalars["dev_margin_mean"] != different.scalars["dev_margin_mean"]
    assert one.scalars["margin_mean"] == different.scalars["margin_mean"]
    assert all(torch.equal(states[name], source.get_state()) for name, (source,) in learner.generators.items())
    assert all(parameter.grad is None for parameter in learner.model.parameters())


def test_held_out_problems_are_shared_by_all_methods_and_not_trained_on():
    learner, *others = [config(name).learner(0) for name in ("none", "stock", "anm")]
    assert all(torch.equal(learner.dev.x, other.dev.x) for other in others)
    batch, _ = replayed(learner)
    assert not any(torch.equal(row, held) for row in batch.x for held in learner.dev.x)
    assert not torch.equal(learner.dev.x, config("none").learner(1).dev.x)


@pytest.mark.parametrize(("method", "expected"), [("anm", "averaged"), ("stock", "model")])
def test_the_miner_uses_the_average_and_stock_the_model_in_training(method, expected):
    """ANM mines against the EMA (section B); IRED's negatives descend on the network in training."""
    training = begun(config(method))
    learner, averaged = training.learner, config(method).learner(1).model.requires_grad_(False).eval()
    batch, noise = replayed(learner)
    training.averaged = averaged
    y_neg = losses_at(training).detail.mined.y_neg
    model = {"model": learner.model, "averaged": averaged}[expected]
    draws = RowDraws([generator(0, "negatives")], "cpu")
    problem = MiningProblem(learner.task, batch.x, batch.y, noise, model, model, draws)
    torch.testing.assert_close(y_neg, get_negatives(method).propose(problem).y_neg)


def test_without_weight_a_step_is_plain_denoising_and_only_records_have_negatives(tmp_path):
    plain, idle = begun(config("none")), begun(config("stock", contrastive_weight=0.0))
    totals = [[float(losses_at(each, step, False).total.detach()) for step in range(3)] for each in (plain, idle)]
    assert totals[0] == totals[1]
    metrics = config("stock", contrastive_weight=0.0).train(tmp_path).metrics
    assert (metrics["contrastive_weight"] == 0).all()
    assert metrics["p_hard"].notna().all()


def test_negatives_of_another_shape_are_refused(monkeypatch):
    monkeypatch.setattr(Random, "propose", lambda _, problem: Mined(problem.y_pos[:, :3]))
    with pytest.raises(ValueError, match=r"'random' returned negatives of shape \(16, 3\); the targets have \(16, 4\)"):
        losses_at(begun(config("random")))
