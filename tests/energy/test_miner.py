"""The miner descends monotonically within its set, keeps its distance, always ends, and leaves weights alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anm_nb.energy.constraints import L2Ball
from anm_nb.energy.miner import MinerConfig, mine
from anm_nb.energy.networks import EnergyMLP
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.parameters import ParameterError
from anm_nb.training.seeds import generator, initialise

BATCH, DIM = 32, 6


def problem(seed=0):
    source = generator(seed, "test")
    y_pos = torch.randn(BATCH, DIM, generator=source)
    return y_pos, L2Ball(y_pos, y_pos.norm(dim=1)), source


def network_energy(seed=0):
    model = EnergyMLP(3, DIM, 32, levels=10)
    initialise(model, generator(seed, "weights"))
    x, k = torch.randn(BATCH, 3, generator=generator(seed, "x")), torch.arange(BATCH) % 10
    return model, lambda y: 100 * model(x, y, k)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), weight=st.sampled_from([0.0, 0.5]))
def test_every_accepted_step_meets_armijo_and_descent_is_monotone(seed, weight):
    y_pos, ball, source = problem(seed)
    _, energy = network_energy(seed)
    config = MinerConfig(steps=5, distance_weight=weight, armijo_c=0.1)
    evaluated = []

    def recording(y):
        values = energy(y)
        evaluated.append(torch.func.debug_unwrap(values).detach() - weight * (plain(y) - y_pos).square().sum(1))
        return values

    mined = mine(recording, y_pos, ball, config, source)
    final = energy(mined.y_neg).detach() - weight * (mined.y_neg - y_pos).square().sum(1)
    assert (final <= evaluated[0] + 1e-4).all()
    assert (mined.log["armijo_slack"] >= 0).all()
    assert (mined.log["miner_accepted"] <= 5).all()
    assert (mined.log["miner_accepted"] > 0).any()


def plain(y):
    return torch.func.debug_unwrap(y).detach()


def test_a_quadratic_is_minimised_over_the_ball():
    """The minimiser over a ball of ‖y − target‖², known in closed form: the target's projection."""
    y_pos, ball, source = problem()
    target = y_pos + 3 * torch.randn(y_pos.shape, generator=source)
    mined = mine(lambda y: (y - target).square().sum(1), y_pos, ball, MinerConfig(steps=200), source)
    torch.testing.assert_close(mined.y_neg, ball.project(target), atol=1e-2, rtol=1e-2)
    assert mined.log["gm_norm"].max() < 1e-2
    assert mined.log["feasibility_residual"].max() < 1e-5


def test_wrongness_is_kept_and_points_that_cannot_keep_it_are_marked_not_looped_on():
    y_pos, ball, source = problem()
    config = MinerConfig(steps=50, delta=0.3, max_restarts=3)
    mined = mine(lambda y: (y - y_pos).square().sum(1), y_pos, ball, config, source)
    near = mined.log["wrongness"] < 0.3 * y_pos.norm(dim=1)
    assert torch.equal(mined.log["too_close"], near)
    assert near.any()
    assert (mined.log["miner_restarts"][near] == 3).all()
    away = mine(lambda y: -(y - y_pos).square().sum(1), y_pos, ball, config, source)
    assert not away.log["too_close"].any()
    assert (away.log["miner_restarts"] == 0).all()


def test_an_energy_that_no_step_lowers_ends_after_the_allowed_backtracks():
    y_pos, ball, source = problem()
    directions = torch.randn(BATCH, DIM, generator=source)
    rising = iter(range(10**6))

    def energy(y):  # every evaluation is higher than the last, whatever the gradient promises
        return (y * directions).sum(1) * 1e-3 + 10.0 * next(rising)

    mined = mine(energy, y_pos, ball, MinerConfig(max_backtracks=4), source)
    assert (mined.log["miner_accepted"] == 0).all()
    assert (mined.log["miner_backtracks"] == 4).all()


def test_mining_leaves_no_gradient_and_no_change_in_the_weights():
    y_pos, ball, source = problem()
    model, energy = network_energy()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mined = mine(energy, y_pos, ball, MinerConfig(), source)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not mined.y_neg.requires_grad
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_optimal_energy_makes_the_document_s_miner_illegitimate_and_the_orthogonal_one_legitimate():
    """With E* in place of a network, low energy means undoing the noise: p_hard → 1 unless the miner stays ⟂ ε."""
    y_pos, _, source = problem()
    y_pos = y_pos.double()  # at the noisiest level margins are below float32's rounding
    single = NoiseSchedule.cosine(10)
    drawn = SharedNoise.draw(single, y_pos, source)
    schedule = NoiseSchedule(single.alphas_cumprod.double(), single.betas.double())
    noise = SharedNoise(schedule, drawn.k, drawn.eps.double())
    signal, sigma = noise.schedule.signal(noise.k), noise.schedule.sigma(noise.k)

    def optimal_energy(y):
        return ((signal * (y - y_pos) + sigma * noise.eps).square() / (2 * sigma)).sum(1)

    config = MinerConfig()
    free = L2Ball(y_pos, y_pos.norm(dim=1))
    orthogonal = L2Ball(y_pos, y_pos.norm(dim=1), noise.eps)
    for constraint, expected in ((free, 1.0), (orthogonal, 0.0)):
        mined = mine(optimal_energy, y_pos, constraint, config, source)
        hard = optimal_energy(mined.y_neg) < optimal_energy(y_pos)
        kept = ~mined.log["too_close"]  # within ε⊥ the truth itself is the minimum; who lands there is marked
        assert kept.sum() >= 5
        assert hard[kept].float().mean() == pytest.approx(expected, abs=0.05)
        assert torch.equal(hard[kept], (noise.optimal_margin(y_pos, mined.y_neg) < 0)[kept])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0.0}, "eps = 0.0: should be greater than 0"),
        ({"delta": 2.0}, "delta = 2.0 ≤ start = 0.5 ≤ eps = 1.0 has to hold"),
        ({"armijo_c": 1.0}, "armijo_c = 1.0: should be less than 1"),
        ({"stesp": 3}, "did you mean 'steps'"),
    ],
)
def test_unusable_options_are_refused(options, message):
    with pytest.raises(ParameterError) as refusal:
        MinerConfig(**options)
    assert message in str(refusal.value)
