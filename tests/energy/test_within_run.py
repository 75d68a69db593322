"""The updates compared are the loop's own, from one point; where the energy is linear they match the closed form."""

import pytest
import torch
from first_step import begun, losses_at
from torch import nn

from anm_nb.config import ParameterError
from anm_nb.energy.negatives import Anm, Mixed, Random, Stock, get_negatives
from anm_nb.energy.within_run import WithinRunConfig
from anm_nb.training.stack import ParameterGroup, Stack

NEAR, FAR = Random(eps=0.3), Stock()
COLUMNS = {
    "margin", "illegitimate_fraction", "delta_margin", "delta_loss_con", "update_norm", "delta_loss_mse",
    "delta_dev_margin",
}  # fmt: skip


def config(first=NEAR, second=FAR, **options):
    small = {"size": 2, "width": 8, "levels": 4, "dev_examples": 8, "seeds": [0], "inner_steps": 1}
    loop = {"steps": 4, "batch": 16, "record_every": 2, "lr": 1e-2}
    return WithinRunConfig(**small | loop | options, negatives=Mixed(first=first, second=second))


def test_a_config_reads_back_from_json_and_names_its_kinds():
    given = config(Anm(orthogonal_to_noise=True), Random(eps=0.2), compare_updates=False)
    back = WithinRunConfig.model_validate_json(given.model_dump_json())
    assert back == given
    assert back.kinds == ("anm", "random")
    assert back.updates == ("mixed", "anm", "random", "none")
    assert {Anm, Random, Mixed} <= set(back.plugins())


@pytest.mark.parametrize(
    ("negatives", "message"),
    [
        (Mixed(first=Random(eps=0.1), second=Random(eps=0.2)), "need two different kinds"),
        (Mixed(first=Mixed(), second=Stock()), "neither of them 'mixed'"),
        (Mixed(fraction=0.01), "leaves one kind without a row in a batch of 16"),
        (Stock(), "instance of Mixed"),
        ("stok", "did you mean 'stock'?"),
    ],
)
def test_what_cannot_be_compared_is_refused(negatives, message):
    with pytest.raises(ParameterError) as refusal:
        WithinRunConfig(negatives=negatives, batch=16)
    assert message in str(refusal.value)


@pytest.mark.parametrize("miner", ["anm_orthogonal", "random"])
def test_training_is_bit_identical_with_and_without_the_comparison(miner, tmp_path):
    trained = []
    for compare in (True, False):
        folder = tmp_path / str(compare)
        folder.mkdir()
        trained.append(config(get_negatives(miner), compare_updates=compare).train(folder))
    measured, plain = trained
    assert all(torch.equal(tensor, plain.weights[name]) for name, tensor in measured.weights.items())
    assert measured.metrics.equals(plain.metrics)
    assert {name for name in measured.trace if name not in plain.trace} == {f"within.{column}" for column in COLUMNS}
    assert all(measured.trace[f"within.{column}"].shape == (1, 3, 4, 2) for column in COLUMNS)
    assert all(measured.trace[f"within.{column}"].isfinite().all() for column in COLUMNS)


@pytest.mark.parametrize("steps_before", [0, 3])
def test_the_mixed_update_is_the_one_that_training_goes_on_with(steps_before):
    """Also where Adam has a past and the learning rate has decayed."""
    training = begun(config(steps=6, record_every=1))
    learner = training.learner
    for step in range(steps_before):
        training.update(losses_at(training, step), training.kind(step, recorded=True))
    losses = losses_at(training, steps_before)
    contrast, weight = losses.detail, losses.detail.weight
    forked = learner.updated(training, contrast, contrast.mined.y_neg, weight)
    effects = learner.effects(training, losses)
    before = [parameter.detach().clone() for parameter in learner.model.parameters()]
    training.update(losses, training.kind(steps_before, recorded=True))
    after = list(learner.model.parameters())
    assert all(torch.equal(one, other) for one, other in zip(forked.parameters(), after, strict=True))
    moved = torch.cat([(one - other).flatten() for one, other in zip(before, after, strict=True)]).detach().norm()
    assert float(effects["update_norm"][0, 0, 0]) == pytest.approx(float(moved), rel=1e-5)


def test_a_fork_shares_nothing_that_training_changes():
    training = begun(config())
    learner, losses = training.learner, losses_at(training)
    states = {name: source.get_state() for name, (source,) in learner.generators.items()}
    weights = [parameter.detach().clone() for parameter in learner.model.parameters()]
    learner.effects(training, losses)
    assert all(torch.equal(states[name], source.get_state()) for name, (source,) in learner.generators.items())
    assert all(torch.equal(one, other) for one, other in zip(weights, learner.model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in learner.model.parameters())
    assert not training.learner.groups[0].state_of(0)


def test_one_kind_has_its_own_pairs_of_the_batch_and_more_of_its_kind_elsewhere():
    training = begun(config(Random(eps=0.3), Anm()))
    learner, contrast = training.learner, losses_at(training).detail
    first, shown = contrast.mined.log["mined"].bool(), contrast.mined.y_neg
    assert int(first.sum()) == 8
    negatives = learner.negatives_of_updates(0, contrast)
    assert torch.equal(negatives["mixed"], shown)
    y_pos = contrast.problem.y_pos
    for kind, own in (("random", first), ("anm", ~first)):
        assert torch.equal(negatives[kind][own], shown[own])
        assert (negatives[kind][~own] != shown[~own]).any(1).all()
    distance = (negatives["random"] - y_pos).norm(dim=1)
    torch.testing.assert_close(distance, 0.3 * y_pos.norm(dim=1))  # on every row, which no mined one would be


class Linear(nn.Module):
    """E = w·ỹ: its score is w whatever ỹ is."""

    def __init__(self, dim):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-0.4, 0.5, dim))

    def forward(self, x, y, k):
        return y.as_subclass(torch.Tensor) @ self.w


def test_effects_of_sgd_updates_of_a_linear_energy_are_those_of_the_closed_form():
    """With d = ỹ⁻ − ỹ⁺: m = w·d, and one step of η moves w by −η((2/D)(w − mean ε) − λ mean σ(−m) d)."""
    rate, weight = 0.2, 3.0
    learner = config(Random(eps=2.0), FAR, task="addition", contrastive_weight=weight, lr_final=1.0).learner(1)
    model = Linear(4)
    learner.model = Stack([model])
    learner.groups = [ParameterGroup("energy", learner.model, [model.w], torch.optim.SGD, rate, clip_norm=1e9)]
    training = begun(learner.config, 1, learner)
    losses = losses_at(training)
    effects = {column: values[0].double() for column, values in learner.effects(training, losses).items()}

    contrast = losses.detail
    noise, y_pos = contrast.problem.noise, contrast.problem.y_pos
    signal, w = noise.schedule.signal(noise.k), model.w.detach().double()
    negatives = learner.negatives_of_updates(0, contrast) | {"none": y_pos}
    shift = {update: (signal * (y_neg - y_pos)).double() for update, y_neg in negatives.items()}
    own = shift["mixed"]
    first = contrast.mined.log["mined"].bool()
    dev, dev_problem = learner.dev_negatives - learner.dev.y, learner.dev_problem
    dev = (dev_problem.noise.schedule.signal(dev_problem.noise.k) * dev).double()
    for place, d in enumerate(shift.values()):
        denoising = 2 / 4 * (w - noise.eps.double().mean(0))
        gradient = denoising - weight * (torch.sigmoid(-(d @ w)).unsqueeze(1) * d).mean(0)
        moved = -rate * gradient
        expected = {
            "margin": own @ w,
            "delta_margin": own @ moved,
            "delta_loss_con": torch.log1p(torch.exp(-(own @ (w + moved)))) - torch.log1p(torch.exp(-(own @ w))),
            "update_norm": moved.norm().expand(16),
            "delta_loss_mse": (
                (w + moved - noise.eps).square().mean() - (w - noise.eps).square().mean()
            ).expand(16),
            "delta_dev_margin": (dev @ moved).mean().expand(16),
        }  # fmt: skip
        for column, values in expected.items():
            by_kind = torch.stack([values[chosen].mean() for chosen in (first, ~first)])
            torch.testing.assert_close(effects[column][place], by_kind, rtol=1e-3, atol=1e-5, msg=f"{column} {place}")
    for one, other in ((0, 1), (1, 2), (2, 3)):  # the tolerance is small beside the differences between updates
        assert float((effects["delta_margin"][one] - effects["delta_margin"][other]).abs().min()) > 1e-3


def test_before_columns_are_those_of_the_batch_split_by_kind(tmp_path):
    trained = config(get_negatives("anm_orthogonal")).train(tmp_path)
    halves = trained.trace["within.margin"][0, :, 0].double().mean(1)  # equal halves: their mean is the batch's
    torch.testing.assert_close(halves.numpy().tolist(), trained.metrics["margin_mean"].tolist(), rtol=1e-4, atol=1e-6)
    illegitimate = trained.trace["within.illegitimate_fraction"][0]
    assert (illegitimate[..., 0] == 0).all()
    whole = illegitimate[:, 0].double().mean(1)
    assert whole.tolist() == pytest.approx(trained.metrics["illegitimate_fraction"].tolist())
