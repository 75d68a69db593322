"""What a run records is what happened: columns, margins before the update, gradient shares; a config reads back."""

import math

import numpy as np
import pytest
import torch
from first_step import begun, losses_at

from anm_nb.config import ParameterError
from anm_nb.energy.losses import info_nce
from anm_nb.energy.miner import MinerConfig
from anm_nb.energy.negatives import Anm, MiningProblem, get_negatives
from anm_nb.energy.schedule import SharedNoise
from anm_nb.energy.train import EnergyConfig
from anm_nb.training.run import cpu_threads
from anm_nb.training.seeds import RowDraws, generator

# What the design fixes: other families and notebooks read these columns.
CONTRAST = {
    "p_hard", "margin_mean", "margin_q25", "margin_q50", "margin_q75", "loss_con", "grad_share_contrast",
    "illegitimate_fraction", "e_pos", "e_neg",
}  # fmt: skip
MINER = {"miner_accepted", "miner_backtracks", "gm_norm", "feasibility_residual", "wrongness"}


@pytest.fixture(autouse=True)
def one_thread():
    """As in training; on small tensors a second thread costs more than it gives."""
    with cpu_threads(1):
        yield


def config(negatives, **options):
    small = {"size": 2, "width": 8, "levels": 4, "dev_examples": 8, "seeds": [0], "inner_steps": 1}
    return EnergyConfig(**small | {"steps": 4, "batch": 16, "records": 3} | options, negatives=negatives)


def replayed(learner, seed=0):
    """The first batch of a learner and its noise, drawn again from the seed."""
    settings = learner.config
    batch = learner.task.sample(settings.batch, generator=generator(seed, "data"))
    return batch, SharedNoise.draw(learner.schedule, batch.y, RowDraws([generator(seed, "noise")], "cpu"))


# the config


@pytest.mark.parametrize(
    ("negatives", "options"),
    [
        ("none", {}),
        ("stock", {"task": "addition", "head": "scalar", "contrastive_weight": 0.0}),
        ({"name": "random", "eps": 0.3, "orthogonal_to_noise": True}, {"seeds": (5, 0, 2)}),
        (Anm(orthogonal_to_noise=True, miner=MinerConfig(steps=7, delta=0.0, distance_weight=0.5)), {}),
        ({"name": "anm_orthogonal", "miner": {"steps": 2}}, {"lr": 3e-4, "precision": "bfloat16"}),
    ],
)
def test_a_config_reads_back_from_json(negatives, options):
    given = config(negatives, **options)
    back = EnergyConfig.model_validate_json(given.model_dump_json())
    assert back == given
    assert type(back.negatives) is type(given.negatives)
    assert back.method == given.method


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "invers"}, "unknown task 'invers' (did you mean 'inverse'?)"),
        ({"negatives": "stok"}, "unknown negative strategy 'stok' (did you mean 'stock'?)"),
        ({"negatives": {"name": "random", "epss": 1.0}}, "unknown parameter 'epss' (did you mean 'eps'?)"),
        ({"negatives": {"name": "anm", "miner": {"steps": 0}}}, "steps = 0"),
        ({"negatives": {"name": "anm", "miner": MinerConfig(), "orthogonal_to_nois": True}}, "'orthogonal_to_noise'"),
        ({"negatives": 3}, "negatives = 3"),
        ({"seeds": [1, 2, 1]}, "seeds = [1, 2, 1]: each may appear once"),
        ({"seeds": []}, "seeds = []: needs at least 1 item"),
        ({"seed": [1]}, "unknown parameter 'seed' (did you mean 'seeds'?)"),
        ({"contrastive_weight": math.nan}, "contrastive_weight = nan"),
        ({"contrastive_weight": -0.1}, "contrastive_weight = -0.1"),
        ({"levels": 1}, "levels = 1"),
        ({"head": "square"}, "head = 'square'"),
        ({"size": 0}, "size = 0"),
        ({"stpes": 3}, "unknown parameter 'stpes' (did you mean 'steps'?)"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(options, message):
    with pytest.raises(ParameterError) as refusal:
        EnergyConfig(**options)
    assert message in str(refusal.value)


# the columns


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training with each kind of negatives."""
    names = ("none", "stock", "random", "anm", "anm_orthogonal")
    return {name: config(name, seeds=[2, 0]).train(tmp_path_factory.mktemp(name)) for name in names}


def test_columns_are_named_as_the_design_names_them(trained):
    columns = {name: set(one.metrics) for name, one in trained.items()}
    always = {"seed", "step", "loss_mse", "mse", "dev_margin_mean", "dev_p_hard", "grad_norm_energy"}
    assert columns["none"] == always
    for name in ("stock", "random", "anm", "anm_orthogonal"):
        assert always | CONTRAST <= columns[name]
        assert (columns[name] >= MINER) == name.startswith("anm")
        filled = trained[name].metrics.drop(columns="grad_norm_energy")
        assert np.isfinite(filled.to_numpy()).all()


def test_columns_agree_with_one_another_and_with_the_trace(trained):
    for name in ("stock", "random", "anm", "anm_orthogonal"):
        metrics, trace = trained[name].metrics, trained[name].trace
        margins = trace["margins"].flatten(0, 1).double().numpy()  # seeds outside, records inside, as the rows
        np.testing.assert_allclose(metrics["margin_mean"], margins.mean(1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(metrics["margin_mean"], metrics["e_neg"] - metrics["e_pos"], rtol=1e-4, atol=1e-5)
        for column, share in (("margin_q25", 0.25), ("margin_q50", 0.5), ("margin_q75", 0.75)):
            np.testing.assert_allclose(metrics[column], np.quantile(margins, share, axis=1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(metrics["p_hard"], (margins < 0).mean(1), rtol=1e-6)
        np.testing.assert_allclose(metrics["loss_con"], np.logaddexp(0, -margins).mean(1), rtol=1e-5)
        dev = trace["dev_margins"].flatten(0, 1).double().numpy()
        np.testing.assert_allclose(metrics["dev_margin_mean"], dev.mean(1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(metrics["dev_p_hard"], (dev < 0).mean(1), rtol=1e-6)
        for share in ("p_hard", "illegitimate_fraction", "grad_share_contrast", "dev_p_hard"):
            assert metrics[share].between(0, 1).all()


# what the numbers are


@pytest.mark.parametrize("method", ["stock", "random", "anm"])
def test_margins_are_those_before_the_update(method):
    """E⁻ − E⁺ by the weights that the step found, on its own batch, noise and negatives."""
    training = begun(config(method))
    learner, losses = training.learner, losses_at(training)
    (measured,) = learner.measure(training, losses)
    batch, noise = replayed(learner)
    before = learner.config.learner(0).model  # the initial weights, drawn again
    e_pos = before(batch.x, noise.noised(batch.y), noise.k).detach()
    e_neg = before(batch.x, noise.noised(losses.detail.contrast.mined.y_neg), noise.k).detach()
    torch.testing.assert_close(
        measured.arrays["margins"].as_subclass(torch.Tensor), (e_neg - e_pos).as_subclass(torch.Tensor)
    )
    assert measured.scalars["margin_mean"] == pytest.approx(float((e_neg - e_pos).mean()), rel=1e-5)
    assert float(losses.parts["loss_con"].detach()) == pytest.approx(float(info_nce(e_pos, e_neg).mean()), rel=1e-5)
    shift = losses.detail.contrast.mined.y_neg - batch.y
    signal, sigma = learner.schedule.signal(noise.k), learner.schedule.sigma(noise.k)
    legitimate = (signal**2 * shift**2 / (2 * sigma) + signal * shift * noise.eps).sum(1)
    assert measured.scalars["illegitimate_fraction"] == pytest.approx(float((legitimate < 0).float().mean()))


@pytest.mark.parametrize(("method", "weight"), [("stock", None), ("anm", 0.05)])
def test_the_gradient_share_is_that_of_two_plain_backward_passes(method, weight):
    given = config(method, contrastive_weight=weight)
    training = begun(given)
    learner, losses = training.learner, losses_at(training)
    share = learner.measure(training, losses)[0].scalars["grad_share_contrast"]
    y_neg = losses.detail.contrast.mined.y_neg

    batch, noise = replayed(learner)
    norms = []
    for name in ("contrast", "denoising"):
        model = given.learner(0).model
        point = noise.noised(batch.y).as_subclass(torch.Tensor).requires_grad_()
        e_pos = model(batch.x, point, noise.k)
        if name == "contrast":
            e_neg = model(batch.x, noise.noised(y_neg), noise.k)
            loss = (0.5 if weight is None else weight) * torch.log1p(torch.exp(e_pos - e_neg)).mean()
        else:
            (score,) = torch.autograd.grad(e_pos.sum(), point, create_graph=True)
            loss = (score - noise.eps).square().mean()
        loss.backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        norms.append(float(torch.cat(gradients).norm()))
    assert share == pytest.approx(norms[0] / sum(norms), rel=1e-4)


def test_held_out_scores_are_of_the_averaged_weights_and_touch_no_generator():
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


def test_held_out_problems_are_the_same_for_every_method_and_seen_by_no_step():
    learner, *others = [config(name).learner(0) for name in ("none", "stock", "anm")]
    assert all(torch.equal(learner.dev.x, other.dev.x) for other in others)
    batch, _ = replayed(learner)
    assert not any(torch.equal(row, held) for row in batch.x for held in learner.dev.x)
    assert not torch.equal(learner.dev.x, config("none").learner(1).dev.x)


def test_the_miner_is_given_the_average_and_stock_the_model(monkeypatch):
    """ANM mines against the EMA (section B), IRED's own negatives descend on the network in training."""
    for method, expected in (("anm", "averaged"), ("stock", "model")):
        training = begun(config(method))
        learner, averaged = training.learner, config(method).learner(1).model.requires_grad_(False).eval()
        batch = learner.task.sample(16, generator=generator(0, "data"))
        noise = SharedNoise.draw(learner.schedule, batch.y, RowDraws([generator(0, "noise")], "cpu"))
        training.averaged = averaged
        y_neg = losses_at(training).detail.contrast.mined.y_neg
        pair = {"model": (learner.model, learner.model), "averaged": (averaged, averaged)}[expected]
        draws = RowDraws([generator(0, "negatives")], "cpu")
        problem = MiningProblem(learner.task, batch.x, batch.y, noise, *pair, draws)
        torch.testing.assert_close(y_neg, get_negatives(method).propose(problem).y_neg)


# other heads and tasks
