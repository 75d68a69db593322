"""Strategies are found by name and options, and propose legal negatives in clean y-space."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from anm_nb.config import ParameterError, Parameters
from anm_nb.energy.miner import MinerConfig, MiningProblem
from anm_nb.energy.negatives import Anm, AnmOrthogonal, Random, Strategies, get_negatives, labelled
from anm_nb.energy.networks import get_network
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.tasks import Clues
from anm_nb.tasks.matrices import Inverse
from anm_nb.training.seeds import RowDraws, generator, initialise

SCHEDULE = NoiseSchedule.cosine(10)


class Study(Parameters):
    strategies: Strategies = ("none",)


def test_miner_options_are_given_next_to_those_of_the_strategy():
    assert get_negatives({"name": "anm", "eps": 0.5, "ball": "linf"}) == Anm(ball="linf", miner={"eps": 0.5})
    assert get_negatives("anm", miner={"steps": 2}, eps=2.0) == Anm(miner={"steps": 2, "eps": 2.0})
    assert get_negatives({"name": "random", "eps": 0.5}) == Random(eps=0.5)
    assert get_negatives("none") is get_negatives({"name": "none"}) is None


def test_labels_are_names_and_the_options_given():
    given = ["none", "anm", {"name": "anm", "eps": 2.0, "ball": "linf"}, "anm_orthogonal"]
    found = labelled(given)
    assert list(found) == ["none", "anm", "anm, eps 2.0, ball linf", "anm_orthogonal"]
    assert found["anm_orthogonal"] == AnmOrthogonal()
    assert Study(strategies=given).model_dump(mode="json") == {"strategies": given}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["stok"], "strategies.0: unknown negative strategy 'stok' (did you mean 'stock'?)"),
        (["anm", {"name": "anm", "epps": 2}], "strategies.1: unknown option of 'anm' 'epps' (did you mean 'eps'?)"),
        ([{"name": "anm", "eps": -1.0}], "strategies.0: miner: eps = -1.0: should be greater than 0"),
        ([{"eps": 1.0}], "write a name, or a name with options"),
        ([3], "strategies.0: 3: write a name"),
        ([{"name": "none", "eps": 1.0}], "unknown negative strategy 'none'"),
    ],
)
def test_unusable_strategies_are_refused(given, message):
    with pytest.raises(ParameterError) as refusal:
        Study(strategies=given)
    assert message in str(refusal.value)


def problem(task=None, seed=0, n=16):
    """A batch of a task at random levels, with one network in training and another as its EMA."""
    task = task or Inverse(size=2)
    batch = task.sample(n, generator=generator(seed, "batch"))
    clues = task.clues(batch)
    noise = SharedNoise.draw(SCHEDULE, batch.y, RowDraws([generator(seed, "noise")], "cpu"), clues)
    models = [
        get_network(task.network).for_task(task, 16 if task.network == "mlp" else 4, "squared_norm", 10) for _ in "ab"
    ]
    for own, model in zip((seed, seed + 50), models, strict=True):
        initialise(model, generator(own, "weights"))
    models[1].requires_grad_(False)
    return MiningProblem(task, batch.x, batch.y, noise, *models, RowDraws([generator(seed, "draws")], "cpu"), clues)


def test_released_stock_doubles_its_second_step_and_clamps_at_the_first_example_s_level():
    """opt_step of the released code: sf is 1 for the length of the first step, and 2 from the first clamp on."""
    given = problem(n=64)
    abar = SCHEDULE.alphas_cumprod[given.noise.k].unsqueeze(1)
    size = SCHEDULE.betas[given.noise.k].unsqueeze(1) / (1 - abar).sqrt()
    z, sf = abar.sqrt() * given.y_pos + (1 - abar).sqrt() * 3 * given.noise.eps, 1.0
    for _ in range(2):
        point = z.clone().requires_grad_()
        energy = given.model(given.x, point, given.noise.k)
        trial = z - size * torch.autograd.grad(energy.sum(), point)[0] * sf
        sf = 2.0
        most = abar.sqrt()[0, 0] * sf
        trial = torch.clamp(trial, -most, most)
        worse = given.model(given.x, trial, given.noise.k) > energy
        z = torch.where(worse.unsqueeze(1), z, trial).detach()
    expected = (z / abar.sqrt()).clamp(-2, 2)
    released = get_negatives("stock", form="released").propose(given).y_neg
    torch.testing.assert_close(released, expected, atol=1e-4, rtol=1e-4)
    assert ((released - get_negatives("stock").propose(given).y_neg).abs() > 1e-3).any()


class Digits(Inverse):
    """Answers of four one-hot decisions with three classes each."""

    name = "digits"
    classes = 3

    def __init__(self):
        super().__init__(size=1)
        self.y_dim = 12


class Signs(Digits):
    name = "signs"
    classes = 1


class Wish(torch.nn.Module):
    """An energy whose minimum is an answer other than the truth."""

    def __init__(self, wish):
        super().__init__()
        self.wish = wish

    def forward(self, x, y, k):
        return (y - self.wish).square().sum(1)


def discrete_problem(task, n=40, noisy=True):
    """Truths, and an energy with its minima at other answers; at all levels, or at the first and without noise."""
    source, entries = generator(0, "test"), 12 // task.classes
    truth, wish = torch.randint(max(2, task.classes), (2, n, entries), generator=source)
    truth, wish = (2.0 * (F.one_hot(each, 3).flatten(1) if task.classes > 1 else each) - 1 for each in (truth, wish))
    draws = RowDraws([source], "cpu")
    noise = SharedNoise.draw(SCHEDULE, truth, draws)
    if not noisy:
        noise = SharedNoise(SCHEDULE, torch.zeros_like(noise.k), torch.zeros_like(noise.eps))
    energy = Wish(SCHEDULE.signal(noise.k) * wish + SCHEDULE.sigma(noise.k) * noise.eps)
    return MiningProblem(task, torch.zeros(n, 1), truth, noise, energy, energy, draws), wish


@pytest.mark.parametrize("task", [Digits(), Signs()])
def test_discrete_mining_finds_the_answer_of_lowest_energy(task):
    """The energy is a quadratic around an answer, so this answer is also its minimum over relaxed answers."""
    given, wish = discrete_problem(task, noisy=False)
    mined = get_negatives("anm_simplex", miner=MinerConfig(steps=60)).propose(given)
    other = ~mined.log["too_close"]
    assert torch.equal(mined.y_neg[other], wish[other])
    assert torch.equal(mined.log["too_close"], (wish == given.y_pos).all(1))
    changed = ((mined.y_neg != given.y_pos).sum(1) / (1 if task.classes == 1 else 2)).float()
    torch.testing.assert_close(mined.log["decisions_changed"], changed)
    assert (mined.log["invalid_mass"] < 1e-6).all()
    assert (mined.log["feasibility_residual"] < 1e-5).all()


@pytest.mark.parametrize("task", [Digits(), Signs()])
@pytest.mark.parametrize("rounded", [True, False])
def test_discrete_negatives_keep_clues_and_are_answers_if_rounded(task, rounded):
    given, _ = discrete_problem(task)
    mask = (torch.rand(40, 4, generator=generator(1, "test")) < 0.5).repeat_interleave(3, dim=1)
    given = replace(given, clues=Clues(mask, given.y_pos))
    mined = get_negatives("anm_simplex", round=rounded).propose(given)
    assert torch.equal(mined.y_neg[mask], given.y_pos[mask])
    assert ((mined.y_neg.abs() == 1).all()) == rounded
    if task.classes == 3:
        torch.testing.assert_close(mined.y_neg.unflatten(1, (4, 3)).sum(2), torch.full((40, 4), -1.0))
    assert ((mined.log["relative_entropy"] >= 0) & (mined.log["relative_entropy"] <= 1)).all()
    assert torch.equal(mined.log["too_close"], mined.log["decisions_changed"] == 0)
    assert mined.log["too_close"][mask.all(1)].all()


@pytest.mark.parametrize("task", [Digits(), Signs()])
def test_margins_of_single_changes_are_optimal_margins_and_legitimate_answers_have_positive_ones(task):
    given, _ = discrete_problem(task, n=200)
    margins = given.noise.change_margin(given.y_pos, task.classes)
    for entry in range(12):
        other = given.y_pos.clone()
        if task.classes == 1:
            other[:, entry] *= -1
        else:
            other[:, entry // 3 * 3 : entry // 3 * 3 + 3] = -1
            other[:, entry] = 1
        expected = given.noise.optimal_margin(given.y_pos, other)
        torch.testing.assert_close(margins[:, entry], expected, atol=1e-3, rtol=1e-4)
    free, held = (get_negatives(name).propose(given) for name in ("anm_simplex", "anm_simplex_legitimate"))
    assert (given.noise.optimal_margin(given.y_pos, free.y_neg) < 0).any()
    changed = held.log["decisions_changed"] > 0
    assert changed.float().mean() > 0.5
    assert (given.noise.optimal_margin(given.y_pos, held.y_neg) > 0)[changed].all()


def test_simplex_mining_refuses_a_continuous_task():
    given = problem()
    with pytest.raises(ParameterError, match="'anm_simplex': task 'inverse' is continuous; use 'anm'"):
        get_negatives("anm_simplex").propose(given)
