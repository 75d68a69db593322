"""The solver agrees with published solutions and with plain backtracking; random grids are complete and varied."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tasks.sudoku_reference import (
    KNOWN,
    board,
    count_solutions,
    is_complete,
    singles,
    symmetric_to,
    symmetry_class,
)

from anm_nb.parameters import ParameterError
from anm_nb.tasks.sudoku_solver import WIDTH, deduced, has_other_solution, random_grids, solve
from anm_nb.training.seeds import generator

GRID = board(KNOWN[0][2])


def thinned(source, givens):
    """A symmetric image of a known grid with that many random clues kept."""
    grid = symmetric_to(GRID, source)
    kept = set(source.sample(range(81), givens))
    return [digit if cell in kept else 0 for cell, digit in enumerate(grid)]


def test_published_puzzles_have_their_published_solution_alone():
    solutions = solve(torch.tensor([board(puzzle) for _, puzzle, _ in KNOWN]))
    assert solutions.grids.tolist() == [board(solution) for _, _, solution in KNOWN]
    assert solutions.found.tolist() == [1] * len(KNOWN)


@settings(max_examples=20)  # plain Python is slow
@given(
    seed=st.integers(0, 10**6), givens=st.lists(st.integers(26, 50), min_size=1, max_size=8), limit=st.integers(1, 5)
)
def test_numbers_of_solutions_are_those_of_plain_backtracking(seed, givens, limit):
    source = random.Random(seed)
    puzzles = [thinned(source, number) for number in givens]
    spoilt = source.choice([cell for cell in range(81) if puzzles[0][cell]])
    puzzles.append([source.randint(1, 9) if cell == spoilt else digit for cell, digit in enumerate(puzzles[0])])
    grids, found = solve(torch.tensor(puzzles), limit)
    assert found.tolist() == [count_solutions(puzzle, limit) for puzzle in puzzles]
    for puzzle, grid, number in zip(puzzles, grids.tolist(), found.tolist(), strict=True):
        if number:
            assert is_complete(grid)
            assert all(clue in (0, digit) for clue, digit in zip(puzzle, grid, strict=True))
        else:
            assert not any(grid)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), givens=st.integers(24, 40))
def test_another_solution_is_one_that_differs_in_the_cell(seed, givens):
    source = random.Random(seed)
    puzzle = thinned(source, givens)
    solution = solve(torch.tensor([puzzle])).grids[0].tolist()
    cell = source.choice([cell for cell in range(81) if not puzzle[cell]])
    others = [[*puzzle[:cell], digit, *puzzle[cell + 1 :]] for digit in range(1, 10) if digit != solution[cell]]
    expected = any(count_solutions(other, 1) for other in others)
    answer = has_other_solution(torch.tensor([puzzle]), torch.tensor([cell]), torch.tensor([solution[cell]]))
    assert answer.tolist() == [expected]


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), givens=st.integers(22, 50))
def test_deduction_is_that_of_singles_found_one_at_a_time(seed, givens):
    puzzle = thinned(random.Random(seed), givens)
    assert deduced(torch.tensor([puzzle])).tolist() == [singles(puzzle)]


def test_a_batch_wider_than_the_search_is_solved_like_its_parts():
    source = random.Random(0)
    puzzles = torch.tensor([thinned(source, 30) for _ in range(50)])
    expected = solve(puzzles).found
    copies = WIDTH // 50 + 10
    grids, found = solve(puzzles.repeat(copies, 1))
    assert torch.equal(found, expected.repeat(copies))
    assert all(is_complete(grid) for grid in grids.unique(dim=0).tolist())


def test_an_empty_board_has_as_many_solutions_as_one_likes():
    assert solve(torch.zeros(1, 81, dtype=torch.long), limit=500).found.tolist() == [500]
    assert solve(torch.zeros(0, 81, dtype=torch.long)).grids.shape == (0, 81)


def test_what_is_no_puzzle_is_refused():
    with pytest.raises(ParameterError, match="10 in a puzzle: should be from 0"):
        solve(torch.full((1, 81), 10))
    with pytest.raises(ParameterError, match="limit = 0: should be at least 1"):
        solve(torch.zeros(1, 81, dtype=torch.long), limit=0)


def test_the_invariant_of_grids_is_one():
    source = random.Random(0)
    assert {symmetry_class(symmetric_to(GRID, source)) for _ in range(50)} == {symmetry_class(GRID)}


def test_random_grids_are_complete_and_no_two_are_symmetric():
    grids = random_grids(60, generator=generator(0, "test"))
    assert all(is_complete(grid) for grid in grids.tolist())
    assert len({symmetry_class(grid) for grid in grids.tolist()}) == 60


def test_random_grids_are_a_function_of_the_generator():
    first, again, other = (random_grids(5, generator=generator(seed, "test")) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not (first == other).all(1).any()


def test_every_digit_is_as_likely_in_every_cell():
    grids = random_grids(450, generator=generator(3, "test"))
    shares = torch.nn.functional.one_hot(grids - 1, 9).sum(0)
    least = min(chisquare(counts).pvalue for counts in shares.tolist())
    assert least > 0.01 / 81
