"""Searches on planted energies: an exact one badly searched, a corrupted one searched to the end; costs by count."""

import numpy as np
import pytest
import torch
from torch import Tensor

from anm_nb.config import ParameterError
from anm_nb.energy.blame import Found, blame, majority, score_by_cost, search, verifier_auc
from anm_nb.energy.sampler import SamplerConfig
from anm_nb.energy.schedule import NoiseSchedule
from anm_nb.energy.search import Annealing, Beam, Decisions, FreshNoise, Langevin, Problem, Published, Search
from anm_nb.tasks import get_task
from anm_nb.training.seeds import generator

SCHEDULE = NoiseSchedule.cosine(10)
LEVEL = 4


class Planted:
    """E(x, ỹ, k) = ‖ỹ/√ᾱ − answer‖², for one answer to each problem; counts the rows it is asked for."""

    def __init__(self, answers: Tensor) -> None:
        self.answers, self.rows = answers, 0

    def __call__(self, x: Tensor, y: Tensor, k: Tensor) -> Tensor:
        copies = len(y) // len(self.answers)
        self.rows += len(y)
        return (y / SCHEDULE.signal(k) - self.answers.repeat_interleave(copies, 0)).square().sum(1)


def sudoku(n: int = 6) -> tuple:
    task = get_task("sudoku", size=4, pool=100)
    return task, task.sample(n, generator=generator(0, "problems"))


def accepted(task, batch):
    return lambda y: task.scores(y, batch)["board_accuracy"] == 1


class Nothing(Search):
    """A search that returns the corner it starts in."""

    name = "nothing"

    def answers(self, problem, generator):
        yield -torch.ones(problem.batch.y.shape)


def wrong_boards(batch) -> Tensor:
    """The solution with the two first free cells' digits replaced by the next ones."""
    cells = batch.y.unflatten(1, (-1, 4)).clone()
    free = ~batch.given.unflatten(1, (-1, 4))[:, :, 0]
    for board, own in zip(cells, free, strict=True):
        place = own.nonzero()[0, 0]
        board[place] = board[place].roll(1)
    return cells.flatten(1)


def test_an_exact_energy_badly_searched_is_the_search_s_fault():
    task, batch = sudoku()
    found = search(
        Nothing(), Problem(Planted(batch.y), task, batch, SCHEDULE), generator(0, "s"), accepted(task, batch)
    )
    assert (blame(found) == "search error").all()


def test_a_corrupted_energy_searched_to_the_end_is_the_model_s_fault():
    task, batch = sudoku()
    problem = Problem(Planted(wrong_boards(batch)), task, batch, SCHEDULE)
    found = search(Beam(width=2), problem, generator(0, "s"), accepted(task, batch))
    assert (blame(found) == "model error").all()
    crippled = search(Nothing(), problem, generator(0, "s"), accepted(task, batch))
    assert (blame(crippled) == "search error").all()
    assert (blame(crippled, strongest=found) == "model error").all()  # a wrong answer below the truth is known


@pytest.mark.parametrize(
    "way", [Beam(), Beam(width=3), Annealing(steps=600, hot=2.0, start="fresh")], ids=lambda way: way.name
)
def test_searches_over_decisions_solve_an_exact_energy_and_keep_the_clues(way):
    task, batch = sudoku()
    problem = Problem(Planted(batch.y), task, batch, SCHEDULE, sampler=SamplerConfig(inner_steps=1))
    found = search(way, problem, generator(0, "s"), accepted(task, batch))
    assert score_by_cost(found)["solved"].iloc[-1] == 1
    assert (blame(found) == "solved").all()
    clues = task.clues(batch)
    assert all((y == clues.impose(y)).all() for y in found.answers)


@pytest.mark.parametrize("way", [Published(restarts=2), FreshNoise(restarts=2), Langevin(steps=20)])
def test_costs_are_the_forward_passes_a_gradient_counting_three(way):
    task = get_task("inverse", size=3)
    batch = task.sample(4, generator=generator(0, "p"))
    planted = Planted(batch.y)
    problem = Problem(planted, task, batch, SCHEDULE)
    found = search(way, problem, generator(0, "s"), lambda y: torch.zeros(len(y)))
    forward = planted.rows / len(batch.y) - 1  # the truth's energy is not the search's
    gradients = (found.costs[-1] - forward) / 2
    assert gradients == int(gradients)
    assert 0 < gradients < forward
    assert (np.diff(found.costs) > 0).all()


def test_fresh_noise_and_restarts_differ_between_answers_and_repeat_with_the_generator():
    task = get_task("inverse", size=3)
    batch = task.sample(4, generator=generator(0, "p"))
    problem = Problem(Planted(batch.y), task, batch, SCHEDULE)
    runs = [search(FreshNoise(restarts=2), problem, generator(1, "s"), lambda y: torch.zeros(len(y))) for _ in range(2)]
    assert torch.equal(runs[0].answers, runs[1].answers)
    assert not torch.equal(runs[0].answers[0], runs[0].answers[1])


def test_neighbours_are_all_changes_of_one_free_cell():
    task, batch = sudoku(3)
    decisions = Decisions(Problem(Planted(batch.y), task, batch, SCHEDULE))
    choices = decisions.read(batch.y)
    moves, allowed = decisions.neighbours(choices)
    assert moves.shape[1] == 16 * 3
    assert ((moves != choices[:, None]).sum(2) == 1).all()
    assert (allowed.sum(1) == 3 * (~batch.given.unflatten(1, (-1, 4))[:, :, 0]).sum(1)).all()
    assert torch.equal(decisions.write(choices), batch.y)


def test_a_matrix_has_no_decisions():
    task = get_task("inverse", size=3)
    batch = task.sample(2, generator=generator(0, "p"))
    with pytest.raises(ParameterError, match="'inverse': its answers are no choices"):
        Decisions(Problem(Planted(batch.y), task, batch, SCHEDULE))
    with pytest.raises(ParameterError, match="level = 10: from 0 to 9"):
        Problem(Planted(batch.y), task, batch, SCHEDULE, level=10)


def test_best_oracle_majority_and_auc_of_a_table_by_hand():
    answers = torch.tensor([[[1.0, 1], [1, 1]], [[-1, 1], [1, -1]], [[-1, 1], [1, 1]]])
    right = torch.tensor([[False, True], [True, False], [True, True]])
    energies = torch.tensor([[1.0, 5], [2, 1], [3, 4]])
    found = Found(answers, energies, np.array([10.0, 20, 30]), torch.tensor([2.5, 0.5]), right)
    table = score_by_cost(found)
    assert table["solved"].tolist() == [0.5, 0.0, 0.0]
    assert table["oracle"].tolist() == [0.5, 1.0, 1.0]
    assert majority(found, 3) == 1.0
    assert list(blame(found)) == ["model error", "search error"]
    # problem 0: right 2, 3, 2.5 against wrong 1: never lower; problem 1: right 5, 4, 0.5 against wrong 1: one of three
    assert verifier_auc(found) == pytest.approx((0 + 1 / 3) / 2)


def test_what_is_found_beyond_the_budget_does_not_count():
    task, batch = sudoku()
    problem = Problem(Planted(batch.y), task, batch, SCHEDULE)
    way = Beam(start="fresh")
    found = search(way, problem, generator(0, "s"), accepted(task, batch), budget=100)
    whole = search(way, problem, generator(0, "s"), accepted(task, batch))
    assert found.costs[-1] <= 100 < whole.costs[-1]
    assert torch.equal(found.answers, whole.answers[: len(found.answers)])
