"""Strategies propose in clean y-space; the trainer noises each negative exactly once, with the positive's noise."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from anm_nb.config import ParameterError
from anm_nb.energy.constraints import L2Ball
from anm_nb.energy.miner import Mined, MinerConfig
from anm_nb.energy.negatives import (
    DiscreteTask,
    MiningProblem,
    Mixed,
    NegativeStrategy,
    Random,
    change_margin,
    get_negatives,
    register_negatives,
)
from anm_nb.energy.probes import count_of, grad_share, noisings
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.energy.train import EnergyConfig
from anm_nb.tasks.base import Clues
from anm_nb.tasks.matrices import Inverse
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


# balls and clues


def clued(learner, share=0.5):
    given = problem(learner)
    mask = torch.rand(given.y_pos.shape, generator=generator(3, "test")) < share
    return replace(given, clues=Clues(mask, given.y_pos))


@pytest.mark.parametrize(
    "options",
    [
        {"name": "anm"},
        {"name": "anm", "ball": "linf"},
        {"name": "anm_orthogonal"},
        {"name": "anm_orthogonal", "ball": "linf"},
        {"name": "random"},
        {"name": "random", "orthogonal_to_noise": True},
        {"name": "stock"},
    ],
)
def test_given_entries_stay_where_they_are_and_others_move(options):
    given = clued(config("stock").learner(0, "cpu"))
    mined = get_negatives(**options).propose(given)
    shift = mined.y_neg - given.y_pos
    mask = given.clues.mask
    orthogonal = "orthogonal" in str(options)
    room = (~mask).sum(1) >= (2 if orthogonal else 1)  # one entry alone has no direction ⟂ ε
    assert (shift[mask] == 0).all()
    assert torch.equal(shift.norm(dim=1) > 1e-5, room)
    assert mined.y_neg.isfinite().all()
    if orthogonal:
        assert (shift * given.noise.eps).sum(1).abs().max() < 1e-4
        assert (given.noise.optimal_margin(given.y_pos, mined.y_neg) > 0)[room].all()


def test_the_box_is_inscribed_in_the_ball():
    given = problem(config("stock").learner(0, "cpu"))
    strategy = get_negatives("anm", ball="linf", miner={"eps": 0.8})
    shift = strategy.propose(given).y_neg - given.y_pos
    reach = 0.8 * given.y_pos.norm(dim=1)
    assert (shift.abs().amax(1) <= reach / 2 * (1 + 1e-5)).all()  # √4 entries
    assert (shift.norm(dim=1) <= reach * (1 + 1e-5)).all()
    assert shift.abs().amax(1).max() > 0


# discrete answers


class Digits(Inverse):
    """Four one-hot answers of three classes; the energy pulls towards answers of its own."""

    name = "digits"
    classes = 3

    def __init__(self):
        super().__init__(size=1)
        self.y_dim = 12


class Signs(Digits):
    name = "signs"
    classes = 1


class Wish(torch.nn.Module):
    """An energy lowest at an answer that differs from the truth."""

    def __init__(self, wish):
        super().__init__()
        self.wish = wish

    def forward(self, x, y, k):
        return (y - self.wish).square().sum(1)


def discrete_problem(task, n=40, legible=True, seed=0):
    """Truths and an energy that wants other answers; least noise where `legible`, all levels otherwise."""
    source = generator(seed, "test")
    truth, wish = (answers_of(task, n, source) for _ in range(2))
    schedule = NoiseSchedule.cosine(10)
    noise = SharedNoise.draw(schedule, truth, source)
    if legible:
        noise = SharedNoise(schedule, torch.zeros_like(noise.k), torch.zeros_like(noise.eps))
    energy = Wish(noise.schedule.signal(noise.k) * wish + noise.schedule.sigma(noise.k) * noise.eps)
    return MiningProblem(task, torch.zeros(n, 1), truth, noise, energy, energy, generator(seed, "mine")), wish


def answers_of(task, n, source):
    if task.classes == 1:
        return 2.0 * torch.randint(2, (n, 12), generator=source) - 1
    return (2.0 * F.one_hot(torch.randint(3, (n, 4), generator=source), 3) - 1).flatten(1)


@pytest.mark.parametrize("task", [Digits(), Signs()])
def test_discrete_mining_finds_the_answer_of_lowest_energy(task):
    """The energy is a quadratic around an answer, so that answer is its minimum over the relaxation too."""
    given, wish = discrete_problem(task)
    assert isinstance(task, DiscreteTask)
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
def test_discrete_negatives_keep_clues_and_are_answers_where_rounded(task, rounded):
    given, _ = discrete_problem(task, legible=False)
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
def test_margins_of_single_changes_are_the_optimal_margins_and_legitimate_answers_have_them_positive(task):
    given, _ = discrete_problem(task, n=200, legible=False)
    margins = change_margin(given, task.classes)
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


def test_a_continuous_task_has_no_simplex_to_mine_in():
    given = problem(config("stock").learner(0, "cpu"))
    with pytest.raises(ParameterError, match="'anm_simplex': task 'inverse' is continuous; use 'anm'"):
        get_negatives("anm_simplex").propose(given)


# two kinds in one batch


def test_mixed_negatives_are_each_kind_on_its_own_rows_whatever_the_other_is():
    learner = config("stock").learner(0, "cpu")
    proposals = {
        first: Mixed(first=first, second="random", fraction=0.25).propose(problem(learner))
        for first in ("anm", "stock")
    }
    mined = proposals["anm"].log["mined"]
    assert mined.dtype == torch.bool
    assert int(mined.sum()) == 4
    assert torch.equal(mined, proposals["stock"].log["mined"])
    assert torch.equal(proposals["anm"].y_neg[~mined], proposals["stock"].y_neg[~mined])
    assert not torch.equal(proposals["anm"].y_neg[mined], proposals["stock"].y_neg[mined])
    assert torch.equal(proposals["anm"].log["gm_norm"].isnan(), ~mined)
    again = Mixed(first="anm", second="random", fraction=0.25).propose(problem(learner))
    assert torch.equal(again.y_neg, proposals["anm"].y_neg)
    given = problem(learner)
    expected = get_negatives("random").propose(given.rows(~mined, generator(9, "test")))
    distance = (proposals["anm"].y_neg - given.y_pos).norm(dim=1)[~mined]  # they stand in their own rows
    torch.testing.assert_close(distance, (expected.y_neg - given.y_pos[~mined]).norm(dim=1))


def test_rows_of_a_problem_keep_everything_that_belongs_to_them():
    given = clued(config("stock").learner(0, "cpu"))
    chosen = torch.arange(16) % 3 == 0
    part = given.rows(chosen, generator(0, "test"))
    torch.testing.assert_close(part.energy(part.y_pos + 0.1), given.energy(given.y_pos + 0.1)[chosen])
    assert torch.equal(part.noise.noised(part.y_pos), given.noise.noised(given.y_pos)[chosen])


@pytest.mark.parametrize(("progress", "count"), [(0.0, 0), (0.25, 4), (0.5, 8), (1.0, 16)])
def test_a_curriculum_moves_the_share_with_the_progress_of_training(progress, count):
    strategy = Mixed(first="anm", second="random", fraction=1.0, fraction_at_start=0.0)
    given = replace(problem(config("stock").learner(0, "cpu")), progress=progress)
    mined = strategy.propose(given)
    assert int(mined.log["mined"].sum()) == count
    assert mined.y_neg.isfinite().all()


def test_a_mixture_trains_and_reads_back_from_json():
    given = config({"name": "mixed", "first": {"name": "anm", "miner": {"steps": 2}}, "second": "random"})
    assert EnergyConfig.model_validate_json(given.model_dump_json()) == given
    assert given.negatives.first.miner.steps == 2
    learner = given.learner(0, "cpu")
    losses = learner.losses(0, learner.model)
    assert losses.contrast.mined.log["mined"].float().mean() == 0.5


def test_impossible_mixtures_and_progress_are_refused():
    with pytest.raises(ParameterError, match=r"fraction = 1\.5"):
        Mixed(fraction=1.5)
    with pytest.raises(ParameterError, match=r"unknown negative strategy 'anmm'.*did you mean 'anm'"):
        Mixed(first="anmm")
    with pytest.raises(ParameterError, match=r"progress = 1.2: should be between 0 and 1"):
        replace(problem(config("stock").learner(0, "cpu")), progress=1.2)
