"""Measurements of the miner give the known answers on energies that have some: E*, and quadratics."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from anm_nb.config import ParameterError
from anm_nb.energy.miner import MinerConfig
from anm_nb.energy.networks import EnergyMLP
from anm_nb.energy.train import EnergyConfig
from anm_nb.studies.miner_measurements import (
    OptimalEnergy,
    armijo_check,
    energy_left,
    follow,
    mined,
    mined_rows,
    mining_problem,
    mining_seconds,
    path_frame,
    rule_frame,
    with_options,
)
from anm_nb.training.seeds import generator, initialise

CONFIG = EnergyConfig(size=3, width=8)
METHODS = ("anm", "anm_orthogonal")


def network(seed=0):
    model = EnergyMLP(9, 9, 8, levels=10)
    initialise(model, generator(seed, "weights"))
    return model.requires_grad_(False)


class Mirrored(nn.Module):
    """Minus another energy: every step that lowers the one raises the other."""

    def __init__(self, energy):
        super().__init__()
        self.energy = energy

    def forward(self, x, y, k):
        return -self.energy(x, y, k)


def test_problems_noise_and_starts_are_the_same_for_every_energy_and_dtype():
    model = network()
    optimal, trained = mining_problem(CONFIG, None, 25, 3), mining_problem(CONFIG, model, 25, 3)
    single = mining_problem(CONFIG, model, 25, 3, torch.float32)
    for problem in (trained, single):
        assert torch.equal(problem.x.float(), optimal.x.float())
        assert torch.equal(problem.y_pos.float(), optimal.y_pos.float())
        assert torch.equal(problem.noise.eps.float(), optimal.noise.eps.float())
    assert optimal.noise.k.tolist() == [i % 10 for i in range(25)]
    assert (optimal.y_pos.dtype, single.y_pos.dtype) == (torch.float64, torch.float32)
    assert next(model.parameters()).dtype == torch.float32  # the network handed over stays as it was
    torch.testing.assert_close(trained.energy(trained.y_pos).float(), single.energy(single.y_pos))
    starts = [follow(problem, "anm", MinerConfig(), 3, 1).y[0] for problem in (optimal, trained)]
    assert torch.equal(*starts)
    assert not torch.equal(mining_problem(CONFIG, None, 25, 4).x, optimal.x)


def test_the_optimal_energy_s_margins_are_the_optimal_margins():
    problem = mining_problem(CONFIG, None, 20, 0)
    assert isinstance(problem.averaged, OptimalEnergy)
    y_neg = problem.y_pos + torch.randn(20, 9, generator=generator(0, "test"), dtype=torch.float64)
    margin = problem.energy(y_neg) - problem.energy(problem.y_pos)
    torch.testing.assert_close(margin, problem.noise.optimal_margin(problem.y_pos, y_neg))


def test_the_free_miner_s_path_ends_where_the_derivation_says():
    """Over the ball the minimum of E* is at Δ = −σε/√ᾱ, or as far in that direction as the ball goes."""
    problem = mining_problem(CONFIG, None, 40, 1)
    noise, radius = problem.noise, problem.y_pos.norm(dim=1, keepdim=True)
    path = follow(problem, "anm", MinerConfig(rule="barzilai_borwein"), 1, 40)
    wish = -noise.schedule.sigma(noise.k) / noise.schedule.signal(noise.k) * noise.eps
    expected = wish * (radius / wish.norm(dim=1, keepdim=True)).clamp_max(1)
    torch.testing.assert_close(path.y[-1], problem.y_pos + expected, atol=1e-4, rtol=1e-4)
    assert (path.value.diff(dim=0) <= 0).all()
    assert path.y.shape == (40, 40, 9)
    for y, value in zip(path.y, path.value, strict=True):  # values belong to the points
        torch.testing.assert_close(problem.energy(y), value)


def test_a_path_shown_for_longer_than_it_lasts_stays_where_it_ended():
    problem = mining_problem(CONFIG, None, 5, 1)
    miner = MinerConfig(rule="barzilai_borwein")
    short, long = follow(problem, "anm", miner, 1, 60), follow(problem, "anm", miner, 1, 90)
    torch.testing.assert_close(long.y[:60], short.y)
    assert torch.equal(long.y[80], long.y[-1])


def test_energy_left_is_one_at_the_start_and_zero_at_the_lowest():
    value = torch.tensor([[4.0, 2.0], [3.0, 2.0], [0.0, 2.0]])
    assert energy_left(value, torch.tensor([0.0, 2.0])).tolist() == [[1, 0], [0.75, 0], [0, 0]]


def test_along_the_path_on_the_optimal_energy_the_free_miner_turns_to_the_noise_and_the_other_never():
    problem = mining_problem(CONFIG, None, 60, 2)
    free, orthogonal = (path_frame(problem, method, MinerConfig(), 2, 20) for method in METHODS)
    assert abs(free["cosine"][0]) < 0.15
    assert free["cosine"].iloc[-1] > 0.999
    assert free[["p_hard", "illegitimate"]].iloc[-1].tolist() == [1, 1]
    assert free["gm_norm"].iloc[-1] < 1e-3 < free["gm_norm"][0] <= 0.5 + 1e-9  # the first trial step at most
    assert orthogonal["cosine"].abs().max() < 1e-9
    assert not orthogonal[["p_hard", "illegitimate"]].any(axis=None)
    for frame in (free, orthogonal):
        assert frame["evaluations"].tolist() == list(range(1, 21))
        assert (frame["energy_left"].diff().dropna() <= 0).all()
        assert frame["energy_left"].iloc[[0, -1]].tolist() == pytest.approx([1, 0])


@pytest.mark.parametrize("method", METHODS)
def test_rows_of_a_mining_are_its_log_in_the_units_said(method):
    problem = mining_problem(CONFIG, None, 30, 4)
    found, rows = mined(problem, method, MinerConfig(), 4), mined_rows(problem, method, MinerConfig(), 4)
    distance = (found.y_neg - problem.y_pos).norm(dim=1) / problem.y_pos.norm(dim=1)
    torch.testing.assert_close(torch.tensor(rows["wrongness"]), distance)
    assert rows["level"].tolist() == problem.noise.k.tolist()
    assert rows["drop"].tolist() == pytest.approx((rows["e_start"] - rows["e_mined"]).tolist())
    assert (rows["drop"] >= 0).all()
    assert rows["p_hard"].tolist() == rows["illegitimate"].tolist()  # the margin under E* is m*
    assert rows["p_hard"].mean() == (1 if method == "anm" else 0)


def test_barzilai_borwein_needs_two_steps_on_a_quadratic_with_one_curvature(monkeypatch):
    """E* has the Hessian ᾱ/σ·I, so the second step is exact; the others are compared with the same lowest energy."""
    problem = mining_problem(CONFIG, None, 30, 5)
    monkeypatch.setattr("anm_nb.energy.miner.BB_RANGE", 1e9)
    wide = MinerConfig(eps=1e4, start=1.0, step_size=0.1)
    frame = rule_frame(problem, "anm", wide, 5, 6).pivot(index="evaluations", columns="rule", values="energy_left")
    assert (frame.loc[1] == 1).all()
    assert frame.loc[3, "barzilai_borwein"] < 1e-9
    assert frame.loc[6, "armijo"] > 1e-3
    assert (frame > -1e-12).all(axis=None)


def test_a_fixed_step_too_long_leaves_energy_that_the_others_lose():
    problem = mining_problem(CONFIG, None, 30, 5)
    frame = rule_frame(problem, "anm_orthogonal", MinerConfig(step_size=8.0), 5, 12)
    last = frame[frame["evaluations"] == 12].set_index("rule")["energy_left"]
    assert last["barzilai_borwein"] < last["armijo"] < last["fixed"]


@pytest.mark.parametrize("rule", ["armijo", "barzilai_borwein"])
def test_steps_are_held_against_armijo_s_bound_on_the_energy_given(rule):
    single, double = (mining_problem(CONFIG, network(), 20, 6, dtype) for dtype in (torch.float32, torch.float64))
    miner = MinerConfig(rule=rule)
    kept = armijo_check(single, double, "anm", miner, 6)
    assert kept["accepted"] == int(mined(single, "anm", miner, 6).log["miner_accepted"].sum()) > 0
    assert kept["violations"] == 0
    assert kept["worst"] < 1e-6
    broken = armijo_check(single, replace(double, averaged=Mirrored(double.averaged)), "anm", miner, 6)
    assert 0.9 * broken["accepted"] < broken["violations"] <= broken["accepted"] == kept["accepted"]
    assert broken["worst"] > 1e-6


def test_mining_is_timed_for_every_batch_and_changes_no_weight():
    model = network()
    before = copy.deepcopy(model.state_dict())
    seconds = mining_seconds(CONFIG, model, "anm_orthogonal", (2, 5), 1, rounds=3)
    assert list(seconds.columns) == [2, 5]
    assert len(seconds) == 3
    assert (seconds > 0).all(axis=None)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_options_that_cannot_be_are_refused():
    assert with_options(MinerConfig(), steps=7) == MinerConfig(steps=7)
    with pytest.raises(ParameterError, match=r"step_size = -1\.0: should be greater than 0"):
        with_options(MinerConfig(), step_size=-1.0)


def test_every_descent_is_followed_to_its_end_unless_the_miner_has_a_limit():
    problem = mining_problem(CONFIG, None, 60, 2)
    rows = mined_rows(problem, "anm_orthogonal", MinerConfig(), 2)
    assert not rows["miner_cut"].any()
    assert (rows[rows["too_close"] == 1]["miner_restarts"] == 2).all()
    assert rows["too_close"].any()
    assert mined_rows(problem, "anm_orthogonal", MinerConfig(turns=4), 2)["miner_cut"].any()
