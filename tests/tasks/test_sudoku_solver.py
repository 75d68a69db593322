"""The solver agrees with published solutions and with plain backtracking; random grids are complete and varied."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks.sudoku_reference import BY_SIZE, board, count_solutions, is_complete

from anm_nb.tasks.sudoku_solver import WIDTH, deduced, solve

GRIDS = {size: [board(solution) for _, _, solution in known] for size, known in BY_SIZE.items()}
GRID = GRIDS[9][0]


@pytest.fixture(params=[4, 9])
def size(request):
    return request.param


def thinned(source, size, givens):
    """A known grid under other names of its digits, with that many random clues kept."""
    names = [0, *source.sample(range(1, size + 1), size)]
    kept, grid = set(source.sample(range(size**2), givens)), source.choice(GRIDS[size])
    return [names[digit] if cell in kept else 0 for cell, digit in enumerate(grid)]


def test_known_puzzles_have_their_known_solution_alone(size):
    grids, found = solve(torch.tensor([board(puzzle) for _, puzzle, _ in BY_SIZE[size]]))
    assert grids.tolist() == GRIDS[size]
    assert found.tolist() == [1] * len(GRIDS[size])
    assert all(is_complete(board(solution)) for _, _, solution in BY_SIZE[size])
    if size == 4:  # not published as those of 9×9 are
        assert all(count_solutions(board(puzzle), 2) == 1 for _, puzzle, _ in BY_SIZE[size])


@settings(max_examples=6)  # plain Python is slow
@given(
    seed=st.integers(0, 10**6),
    board_and_limit=st.one_of(st.tuples(st.just(9), st.integers(1, 5)), st.tuples(st.just(4), st.integers(1, 300))),
)
def test_numbers_of_solutions_are_those_of_plain_backtracking(seed, board_and_limit):
    """Also of puzzles spoilt by another digit in one cell, some of which have no solution."""
    (size, limit), source = board_and_limit, random.Random(seed)
    least, most = {4: (0, 10), 9: (26, 50)}[size]
    puzzles = [thinned(source, size, source.randint(least, most)) for _ in range(12)]
    for puzzle in puzzles[:4]:
        spoilt = source.choice([cell for cell in range(size**2) if puzzle[cell]] or [0])
        puzzles.append([source.randint(1, size) if cell == spoilt else digit for cell, digit in enumerate(puzzle)])
    grids, found = solve(torch.tensor(puzzles), limit)
    assert found.tolist() == [count_solutions(puzzle, limit) for puzzle in puzzles]
    for puzzle, grid, number in zip(puzzles, grids.tolist(), found.tolist(), strict=True):
        if number:
            assert is_complete(grid)
            assert all(clue in (0, digit) for clue, digit in zip(puzzle, grid, strict=True))
        else:
            assert not any(grid)


def test_deduction_solves_what_needs_no_guess_and_never_guesses():
    easy, _, hard, _ = [torch.tensor([board(puzzle)]) for _, puzzle, _ in BY_SIZE[9]]
    assert deduced(easy).tolist() == [GRID]
    found, solution = deduced(hard), torch.tensor(GRIDS[9][2])
    assert ((found == 0) | (found == solution)).all()
    assert 21 <= int((found > 0).sum()) < 81  # made to be hard: 21 clues, and hardly anything follows from them


def test_a_batch_wider_than_the_search_is_solved_like_its_parts():
    source = random.Random(0)
    puzzles = torch.tensor([thinned(source, 4, 5) for _ in range(50)])
    expected = solve(puzzles)[1]
    copies = 4 * WIDTH // 50 + 2
    grids, found = solve(puzzles.repeat(copies, 1))
    assert torch.equal(found, expected.repeat(copies))
    assert all(is_complete(grid) for grid in grids.unique(dim=0).tolist())


def test_an_empty_small_board_has_288_solutions():
    empty = torch.zeros(3, 16, dtype=torch.long)
    assert solve(empty, limit=10_000)[1].tolist() == [288] * 3
    assert solve(empty, limit=287)[1].tolist() == [287] * 3
    assert [part.tolist() for part in solve(empty[:0])] == [[], []]
