"""Searches on planted energies: an exact one badly searched, a corrupted one searched to the end."""

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
    """E(x, ỹ, k) = ‖ỹ/√ᾱ − answer‖², for one answer to each problem; counts the rows it is asked for."""

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
    """A search of one's own, which never leaves where it starts."""
    yield -torch.ones_like(problem.batch.y)


def wrong_boards(batch) -> Tensor:
    """The solution with the first free cell's digit replaced by the next one."""
    cells = batch.y.unflatten(1, (-1, 4)).clone()
    free = ~batch.known.unflatten(1, (-1, 4))[:, :, 0]
    for board, own in zip(cells, free, strict=True):
        place = own.nonzero()[0, 0]
        board[place] = board[place].roll(1)
    return cells.flatten(1)


def test_an_exact_energy_badly_searched_is_the_search_s_fault():
    found = found_by(corner, sudoku())
    assert (blame(found, found) == "search error").all()


def test_a_corrupted_energy_searched_to_the_end_is_the_model_s_fault():
    problem = sudoku(answers=wrong_boards)
    found, crippled = found_by(partial(beam, width=2), problem), found_by(corner, problem)
    assert (blame(found, found) == "model error").all()
    assert (blame(crippled, crippled) == "search error").all()
    assert (blame(crippled, found) == "model error").all()  # a wrong answer below the truth is known


@pytest.mark.parametrize(
    "way",
    [beam, partial(beam, width=3), partial(annealing, steps=300, hot=2.0), partial(OF_THE_DOCS["repair"], rounds=250)],
    ids=["greedy", "beam", "annealing", "of the docs"],
)
def test_searches_over_decisions_solve_an_exact_energy_and_keep_the_clues(way):
    problem = sudoku(4)
    found = found_by(way, problem)
    assert (blame(found, found) == "solved").all()
    assert all((y == problem.clues.impose(y)).all() for y in found.answers)


def test_neighbours_are_judged_alike_some_at_a_time_or_all_at_once(monkeypatch):
    problem = sudoku(3, answers=wrong_boards)
    whole = found_by(partial(beam, width=2), problem)
    monkeypatch.setattr(search, "AT_A_TIME", 7)
    parts = found_by(partial(beam, width=2), problem)
    assert (whole.answers == parts.answers).all()
    assert (whole.costs == parts.costs).all()


@pytest.mark.parametrize("way", [partial(published, restarts=2), partial(fresh_noise, restarts=2), langevin])
def test_costs_are_the_forward_passes_a_gradient_counting_three(way):
    problem = problem_of(get_task("inverse", size=3), 4)
    found = found_by(way, problem)
    forward = problem.model.rows / 4 - 1  # the truth's energy is not the search's
    gradients = (found.costs[-1] - forward) / 2
    assert gradients == int(gradients)
    assert 0 < gradients < forward
    assert (np.diff(found.costs) > 0).all()


def test_best_oracle_majority_and_auc_of_a_table_by_hand():
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
