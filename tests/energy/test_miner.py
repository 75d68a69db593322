"""The miner matches a plain reference, stays in its set, keeps its distance from the truth, and always ends."""

import numpy as np
import pytest
import torch

from anm_nb.config import ParameterError
from anm_nb.energy.constraints import L2Ball, LinfBall
from anm_nb.energy.miner import RESTARTS, MinerConfig, mine
from anm_nb.energy.networks import EnergyMLP
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.training.seeds import RowDraws, generator, initialise

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


RULES = ("armijo", "fixed", "barzilai_borwein")


def one_by_one(energy, center, radius, start, config):
    """The miner for one example in plain float64 NumPy, written from the document, without the distance δ."""
    project = lambda z: center + (z - center) * min(1.0, radius / max(np.linalg.norm(z - center), 1e-30))  # noqa: E731
    y, (value, gradient) = start, energy(start)
    alpha = first = config.step_size * np.linalg.norm(center) / np.linalg.norm(gradient)
    accepted = streak = 0
    while accepted < config.steps and streak < config.max_backtracks:
        trial = project(y - alpha * gradient)
        trial_value, trial_gradient = energy(trial)
        if config.rule != "fixed" and trial_value > value - config.armijo_c / alpha * np.sum((trial - y) ** 2):
            alpha, streak = alpha / 2, streak + 1
            continue
        step, change = trial - y, trial_gradient - gradient
        if config.rule == "barzilai_borwein":
            alpha = step @ step / (step @ change) if step @ change > 0 else np.inf
            alpha = np.clip(alpha, first / 10, first * 10)
        y, value, gradient, accepted, streak = trial, trial_value, trial_gradient, accepted + 1, 0
    return y, value, accepted


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(2))
def test_the_batched_miner_matches_the_plain_one(rule, seed):
    source = generator(seed, "test")
    y_pos = torch.randn(12, DIM, generator=source, dtype=torch.float64)
    matrix = torch.randn(12, DIM, DIM, generator=source, dtype=torch.float64)
    matrix = matrix @ matrix.mT

    def energy(y):  # not convex: a quadratic plus ripples
        return torch.einsum("bi,bij,bj->b", y, matrix, y) + 5 * torch.cos(2 * y).sum(1)

    config = MinerConfig(steps=7, delta=0.0, rule=rule, armijo_c=0.2, turns=100)
    trials = []
    mined = mine(energy, y_pos, L2Ball(y_pos, y_pos.norm(dim=1)), config, source, callback=trials.append)
    for i in range(12):
        center, a = y_pos[i].numpy(), matrix[i].numpy()

        def single(z, a=a):
            return z @ a @ z + 5 * np.cos(2 * z).sum(), 2 * a @ z - 10 * np.sin(2 * z)

        y, value, accepted = one_by_one(single, center, np.linalg.norm(center), trials[0].y[i].numpy(), config)
        np.testing.assert_allclose(mined.y_neg[i], y, atol=1e-7)
        assert float(mined.log["e_mined"][i]) == pytest.approx(value)
        assert int(mined.log["miner_accepted"][i]) == accepted


def test_examples_cut_off_after_the_turns_keep_their_points_and_are_marked():
    y_pos, ball, _ = problem()
    _, energy = network_energy()
    options = {"steps": 6, "delta": 0.4, "step_size": 4.0}
    trials = []
    whole = mine(energy, y_pos, ball, MinerConfig(**options, turns=200), generator(1, "test"), trials.append)
    short = mine(energy, y_pos, ball, MinerConfig(**options, turns=8), generator(1, "test"))
    going = sum((trial.starting | trial.accepted | trial.rejected).long() for trial in trials) > 8
    assert not whole.log["miner_cut"].any()
    assert torch.equal(short.log["miner_cut"], going)
    assert going.any()
    assert not going.all()
    assert torch.equal(short.y_neg[~going], whole.y_neg[~going])
    last = trials[7]
    stood = torch.where((last.accepted | last.starting).unsqueeze(1), last.y, last.previous)
    assert torch.equal(short.y_neg, stood)
    assert (short.log["miner_accepted"][going] < 6).all()


def test_a_quadratic_is_minimised_over_the_ball_and_the_tolerance_ends_descent():
    """The minimiser of ‖y − target‖² over a ball is the target's projection."""
    y_pos, ball, source = problem()
    target = y_pos + 0.8 * torch.randn(y_pos.shape, generator=source)
    options = {"steps": 120, "step_size": 0.2, "delta": 0.0}
    found = {
        tol: mine(lambda y: (y - target).square().sum(1), y_pos, ball, MinerConfig(**options, tol=tol), source)
        for tol in (0.0, 1e-3)
    }
    for mined in found.values():
        torch.testing.assert_close(mined.y_neg, ball.project(target), atol=1e-2, rtol=1e-2)
        assert mined.log["feasibility_residual"].max() < 1e-5
    assert not found[0.0].log["miner_converged"].any()
    assert found[1e-3].log["miner_converged"].all()
    assert (found[1e-3].log["gm_norm"] < 1e-3 * y_pos.norm(dim=1)).all()
    assert (found[1e-3].log["miner_accepted"] < 120).all()


@pytest.mark.parametrize(("rule", "kind"), [*((rule, L2Ball) for rule in RULES), ("armijo", LinfBall)])
def test_points_too_close_to_the_truth_restart_and_are_marked_if_that_fails(rule, kind):
    y_pos, ball, source = problem()
    ball = kind(y_pos, ball.radius)
    config = MinerConfig(steps=50, delta=0.3, rule=rule, turns=200)
    mined = mine(lambda y: (y - y_pos).square().sum(1), y_pos, ball, config, source)
    near = mined.log["wrongness"] < 0.3 * y_pos.norm(dim=1)
    assert torch.equal(mined.log["too_close"], near)
    assert near.any()
    assert (mined.log["miner_restarts"][near] == RESTARTS).all()
    away = mine(lambda y: -(y - y_pos).square().sum(1), y_pos, ball, config, source)
    assert not away.log["too_close"].any()
    assert (away.log["miner_restarts"] == 0).all()


@pytest.mark.parametrize("rule", RULES)
def test_under_the_optimal_energy_the_document_s_miner_is_illegitimate_and_the_orthogonal_one_legitimate(rule):
    """Under E*, a low energy means undoing the noise, so p_hard → 1 unless the miner stays ⟂ ε."""
    y_pos, _, source = problem()
    y_pos = y_pos.double()  # at the noisiest level, margins are smaller than float32 rounding
    single = NoiseSchedule.cosine(10)
    drawn = SharedNoise.draw(single, y_pos, RowDraws([source], "cpu"))
    schedule = NoiseSchedule(single.alphas_cumprod.double(), single.betas.double())
    noise = SharedNoise(schedule, drawn.k, drawn.eps.double())
    signal, sigma = noise.schedule.signal(noise.k), noise.schedule.sigma(noise.k)

    def optimal_energy(y):
        return ((signal * (y - y_pos) + sigma * noise.eps).square() / (2 * sigma)).sum(1)

    config = MinerConfig(rule=rule, delta=1e-3)
    radius = y_pos.norm(dim=1)
    for constraint, expected in ((L2Ball(y_pos, radius), 1.0), (L2Ball(y_pos, radius, normal=noise.eps), 0.0)):
        mined = mine(optimal_energy, y_pos, constraint, config, source)
        hard = optimal_energy(mined.y_neg) < optimal_energy(y_pos)
        kept = ~mined.log["too_close"]  # ⟂ ε the truth is the minimum; examples that land there are marked
        assert kept.sum() >= 5
        assert hard[kept].float().mean() >= 0.95 if expected else not hard[kept].any()
        assert torch.equal(hard[kept], (noise.optimal_margin(y_pos, mined.y_neg) < 0)[kept])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0.0}, "eps = 0.0: should be greater than 0"),
        ({"tol": -1e-5}, "tol = -1e-05: should be greater than or equal to 0"),
        ({"rule": "armjio"}, "did you mean 'armijo'"),
        ({"turns": 3}, "turns = 3: should be more than steps = 3"),
        ({"delta": 2.0}, "delta = 2.0 ≤ start = 0.5 ≤ eps = 1.0 has to hold"),
        ({"stesp": 3}, "did you mean 'steps'"),
    ],
)
def test_unusable_options_are_refused(options, message):
    with pytest.raises(ParameterError) as refusal:
        MinerConfig(**options)
    assert message in str(refusal.value)
