"""Strategies propose in clean y-space; the trainer noises each negative exactly once, with the positive's noise."""

import pytest
import torch

from anm_nb.energy.constraints import L2Ball
from anm_nb.energy.miner import Mined
from anm_nb.energy.negatives import (
    MiningProblem,
    NegativeStrategy,
    Random,
    get_negatives,
    register_negatives,
)
from anm_nb.energy.probes import count_of, grad_share, noisings
from anm_nb.energy.schedule import SharedNoise
from anm_nb.energy.train import EnergyConfig
from anm_nb.parameters import ParameterError
from anm_nb.training.loop import LoopConfig
from anm_nb.training.seeds import generator

LOOP = LoopConfig(steps=3, batch=16, records=3)


def config(negatives, **options):
    return EnergyConfig(size=2, width=16, negatives=negatives, loop=LOOP, seeds=[0], dev_examples=8, **options)


def problem(learner):
    batch = learner.task.sample(16, generator=generator(0, "test"))
    noise = SharedNoise.draw(learner.schedule, batch.y, generator(1, "test"))
    return MiningProblem(learner.task, batch.x, batch.y, noise, learner.model, learner.model, generator(2, "test"))


def test_stock_negatives_are_the_published_recipe():
    """3ε, two descent steps with rejection, clamp at ±2√ᾱ, back to y-space, clamp at ±2: written out plainly."""
    learner = config("stock").learner(0, "cpu")
    given = problem(learner)
    abar = learner.schedule.alphas_cumprod[given.noise.k].unsqueeze(1)
    beta = learner.schedule.betas[given.noise.k].unsqueeze(1)
    z = abar.sqrt() * given.y_pos + (1 - abar).sqrt() * 3 * given.noise.eps
    for _ in range(2):
        point = z.clone().requires_grad_()
        energy = learner.model(given.x, point, given.noise.k)
        (slope,) = torch.autograd.grad(energy.sum(), point)
        trial = torch.clamp(z - beta / (1 - abar).sqrt() * slope, -2 * abar.sqrt(), 2 * abar.sqrt())
        better = learner.model(given.x, trial, given.noise.k) <= energy
        z = torch.where(better.unsqueeze(1), trial, z).detach()
    expected = (z / abar.sqrt()).clamp(-2, 2)
    torch.testing.assert_close(get_negatives("stock").propose(given).y_neg, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_random_negatives_keep_their_distance_and_their_right_angle(orthogonal):
    given = problem(config("stock").learner(0, "cpu"))
    shift = Random(eps=0.7, orthogonal_to_noise=orthogonal).propose(given).y_neg - given.y_pos
    torch.testing.assert_close(shift.norm(dim=1), 0.7 * given.y_pos.norm(dim=1))
    assert ((shift * given.noise.eps).sum(1).abs().max() < 1e-5) == orthogonal


def test_orthogonal_mining_is_legitimate_and_free_mining_may_not_be():
    given = problem(config("stock").learner(0, "cpu"))
    mined = get_negatives("anm_orthogonal").propose(given)
    assert ((mined.y_neg - given.y_pos) * given.noise.eps).sum(1).abs().max() < 1e-5
    assert (given.noise.optimal_margin(given.y_pos, mined.y_neg) > 0).all()
    assert L2Ball(given.y_pos, given.y_pos.norm(dim=1)).residual(mined.y_neg).max() < 1e-5


def test_a_strategy_of_your_own_trains_without_touching_the_package(monkeypatch):
    monkeypatch.setattr("anm_nb.energy.negatives._STRATEGIES", {})

    @register_negatives
    class Shuffled(NegativeStrategy):
        name = "shuffled"
        shift: int = 1

        def propose(self, problem: MiningProblem) -> Mined:
            return Mined(problem.y_pos.roll(self.shift, dims=0))

    learner = config("shuffled").learner(0, "cpu")
    losses = learner.losses(0, learner.model)
    data = learner.task.sample(16, generator=generator(0, "data"))  # the learner's first batch
    assert torch.equal(losses.contrast.mined.y_neg, data.y.roll(1, dims=0))
    assert set(losses.parts) == {"loss_mse", "loss_con"}
    assert config({"name": "shuffled", "shift": 2}).negatives.shift == 2


def test_the_negative_is_noised_exactly_once_and_with_the_positive_s_noise():
    learner = config("anm").learner(0, "cpu")
    with noisings() as seen:
        losses = learner.losses(0, learner.model)
    assert count_of(losses.contrast.mined.y_neg, seen) == 1
    assert len(seen) == 2  # the positive, and the negative
    # the energies that were trained on are those of the shared noise, drawn again from the same generators
    data = learner.task.sample(16, generator=generator(0, "data"))
    noise = SharedNoise.draw(learner.schedule, data.y, generator(0, "noise"))
    for y, energy in ((data.y, losses.contrast.e_pos), (losses.contrast.mined.y_neg, losses.contrast.e_neg)):
        torch.testing.assert_close(learner.model(data.x, noise.noised(y), noise.k), energy)


def test_a_second_noising_is_counted():
    learner = config("random").learner(0, "cpu")
    given = problem(learner)
    with noisings() as seen:
        given.noise.noised(given.y_pos)
        given.noise.noised(given.y_pos.clone())
    assert count_of(given.y_pos, seen) == 2


@pytest.mark.parametrize(
    ("y_neg", "error", "message"),
    [
        (lambda p: p.noise.noised(p.y_pos), TypeError, "noised already"),
        (lambda p: p.noise.noised(p.y_pos) * 0.5 + 1, TypeError, "noised already"),
        (lambda p: p.y_pos[:, :2], ValueError, r"shape \(16, 2\); the targets have \(16, 4\)"),
    ],
)
def test_what_a_strategy_must_not_return_is_refused(y_neg, error, message, monkeypatch):
    monkeypatch.setattr("anm_nb.energy.negatives._STRATEGIES", {})

    @register_negatives
    class Wrong(NegativeStrategy):
        name = "wrong"

        def propose(self, problem: MiningProblem) -> Mined:
            return Mined(y_neg(problem))

    learner = config("wrong").learner(0, "cpu")
    with pytest.raises(error, match=message):
        learner.losses(0, learner.model)


def test_unknown_strategies_and_options_are_refused_by_name():
    with pytest.raises(ParameterError, match=r"unknown negative strategy 'anm_ortogonal'.*'anm_orthogonal'"):
        get_negatives("anm_ortogonal")
    with pytest.raises(ParameterError, match=r"unknown parameter 'epss'.*did you mean 'eps'"):
        get_negatives("random", epss=1.0)


def test_grad_share_is_the_ratio_of_norms_and_leaves_no_gradient():
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    unused = torch.tensor([1.0], requires_grad=True)
    con, mse = 3 * w.norm(), w.sum() * 2**0.5 / 2
    assert grad_share(con, mse, [w, unused]) == pytest.approx(3 / 4)
    assert w.grad is None
    assert grad_share(0 * w.sum(), mse, [w]) == 0
