"""Searches and their failures on planted energies, whose minima are the right answers or wrong ones."""

import re
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from notebook_cells import names_of
from run_cells import ROOT
from torch import Tensor

from anm_nb.energy import search
from anm_nb.energy.schedule import NoiseSchedule
from anm_nb.energy.search import Found, Problem, annealing, beam, blame, find, fresh_noise, langevin, published
from anm_nb.tasks import get_task
from anm_nb.training.seeds import generator

SCHEDULE = NoiseSchedule.cosine(10)
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
OF_THE_DOCS: dict[str, Any] = {}
exec(re.search(r"## Your own search.*?```python\n(.*?)```", PAGE, re.DOTALL)[1], OF_THE_DOCS)


class Planted:
    """E(x, ỹ, k) = ‖ỹ/√ᾱ − answer‖² with one answer per problem; counts the rows it evaluates."""

    def __init__(self, answers: Tensor) -> None:
        self.answers, self.rows = answers, 0

    def __call__(self, x: Tensor, y: Tensor, k: Tensor) -> Tensor:
        copies = len(y) // len(self.answers)
        self.rows += len(y)
        return (y / SCHEDULE.signal(k) - self.answers.repeat_interleave(copies, 0)).square().sum(1)


def problem_of(task, n=6, answers=lambda batch: batch.y):
    batch = task.sample(n, generator=generator(0, "problems"))
    return Problem(Planted(answers(batch)), task, batch, SCHEDULE, 4, 1)


def sudoku(n=6, **options):
    return problem_of(get_task("sudoku", size=4, pool=100), n, **options)


def found_by(way, problem, **options):
    def accepted(y):
        return problem.task.scores(y, problem.batch).get("board_accuracy", torch.zeros(len(y))) == 1

    return find(way, problem, generator(1, "search"), accepted, **options)


def corner(problem, generator):
    """A custom search that yields one poor answer and stops."""
    yield -torch.ones_like(problem.batch.y)


def wrong_boards(batch) -> Tensor:
    """The solutions, with the digit of the first free cell replaced by the next one."""
    cells = batch.y.unflatten(1, (-1, 4)).clone()
    free = ~batch.known.unflatten(1, (-1, 4))[:, :, 0]
    for board, own in zip(cells, free, strict=True):
        place = own.nonzero()[0, 0]
        board[place] = board[place].roll(1)
    return cells.flatten(1)


def test_a_poor_search_of_an_exact_energy_is_a_search_error():
    found = found_by(corner, sudoku())
    assert (blame(found, found) == "search error").all()


def test_a_good_search_of_a_corrupted_energy_shows_a_model_error():
    problem = sudoku(answers=wrong_boards)
    found, crippled = found_by(partial(beam, width=2), problem), found_by(corner, problem)
    assert (blame(found, found) == "model error").all()
    assert (blame(crippled, crippled) == "search error").all()
    assert (blame(crippled, found) == "model error").all()  # the strongest search found a wrong answer below the truth


@pytest.mark.parametrize(
    "way",
    [beam, partial(beam, width=3), partial(annealing, steps=300, hot=2.0), partial(OF_THE_DOCS["repair"], rounds=250)],
    ids=["greedy", "beam", "annealing", "from the docs"],
)
def test_searches_over_decisions_solve_an_exact_energy_and_keep_the_clues(way):
    problem = sudoku(4)
    found = found_by(way, problem)
    assert (blame(found, found) == "solved").all()
    assert all((y == problem.clues.impose(y)).all() for y in found.answers)


def test_beam_search_is_the_same_with_neighbours_in_chunks_or_all_at_once(monkeypatch):
    problem = sudoku(3, answers=wrong_boards)
    whole = found_by(partial(beam, width=2), problem)
    monkeypatch.setattr(search, "AT_A_TIME", 7)
    parts = found_by(partial(beam, width=2), problem)
    assert (whole.answers == parts.answers).all()
    assert (whole.costs == parts.costs).all()


@pytest.mark.parametrize("way", [partial(published, restarts=2), partial(fresh_noise, restarts=2), langevin])
def test_costs_count_forward_passes_and_three_per_gradient(way):
    problem = problem_of(get_task("inverse", size=3), 4)
    found = found_by(way, problem)
    forward = problem.model.rows / 4 - 1  # without the energy of the truth
    gradients = (found.costs[-1] - forward) / 2
    assert gradients == int(gradients)
    assert 0 < gradients < forward
    assert (np.diff(found.costs) > 0).all()


def test_scores_and_auc_of_a_small_table_match_those_by_hand():
    notebook = names_of("17_search_or_model", "scores", given={"np": np, "pd": pd})
    answers = torch.tensor([[[1.0, 1], [1, 1]], [[-1, 1], [1, -1]], [[-1, 1], [1, 1]]])
    right = torch.tensor([[False, True], [True, False], [True, True]])
    energies = torch.tensor([[1.0, 5], [2, 1], [3, 4]])
    found = Found(answers, energies, np.array([10.0, 20, 30]), torch.tensor([2.5, 0.5]), right)
    table = notebook["score_by_cost"](found)
    assert table["solved"].tolist() == [0.5, 0.0, 0.0]
    assert table["oracle"].tolist() == [0.5, 1.0, 1.0]
    assert table["majority"].tolist()[-1] == 1.0
    assert list(blame(found, found)) == ["model error", "search error"]
    # problem 0: right 2, 3, 2.5 against wrong 1: never lower; problem 1: right 5, 4, 0.5 against wrong 1: one of three
    assert notebook["verifier_auc"](found) == pytest.approx((0 + 1 / 3) / 2)
