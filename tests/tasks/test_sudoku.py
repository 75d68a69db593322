"""The Sudoku task against boards made by hand, and its solver against published ones."""

import timeit

import pytest
import torch

from anm_nb.config import ParameterError
from anm_nb.tasks import get_task, sudoku_solver
from anm_nb.tasks.sudoku import Sudoku, clue_digits, digits, one_hot_boards
from anm_nb.tasks.sudoku_solver import build_pool, solve
from anm_nb.training.seeds import generator

# (name, puzzle, solution), as published
KNOWN = [
    (
        "the example of Wikipedia's article",
        "530070000600195000098000060800060003400803001700020006060000280000419005000080079",
        "534678912672195348198342567859761423426853791713924856961537284287419635345286179",
    ),
    (
        "the first of Project Euler's problem 96",
        "003020600900305001001806400008102900700000008006708200002609500800203009005010300",
        "483921657967345821251876493548132976729564138136798245372689514814253769695417382",
    ),
    (
        "Inkala's of 2012, made to be hard",
        "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4..",
        "812753649943682175675491283154237896369845721287169534521974368438526917796318452",
    ),
    (
        "17 givens, the fewest there can be",
        "000000010400000000020000000000050407008000300001090000300400200050100000000806000",
        "693784512487512936125963874932651487568247391741398625319475268856129743274836159",
    ),
]

# 4×4 in the same form, made for these tests; each with one solution
SMALL = [
    ("one of the 96 most symmetric grids", "1004300000400001", "1234341221434321"),
    ("one of the 192 others", "1000300001400002", "1234342121434312"),
    ("4 givens, the fewest there can be", "4000003001000002", "4321123421433412"),
    ("4 givens", "0300001040000020", "1342241342313124"),
]
BY_SIZE = {4: SMALL, 9: KNOWN}


def board(text: str) -> list[int]:
    return [int(character.replace(".", "0")) for character in text]


def is_complete(grid: list[int]) -> bool:
    """Every row, column and box holds every digit."""
    size = round(len(grid) ** 0.5)
    side, rows = round(size**0.5), torch.tensor(grid).view(size, size)
    boxes = rows.view(side, side, side, side).transpose(1, 2).reshape(size, size)
    whole = torch.arange(1, size + 1).expand(size, size)
    return all(torch.equal(units.sort(1).values, whole) for units in (rows, rows.T, boxes))


PUZZLE = KNOWN[0][1]
GRIDS = {size: [board(solution) for _, _, solution in known] for size, known in BY_SIZE.items()}
COUNT = {4: 40, 9: 12}  # puzzles of a pool


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def pools():
    cases = [(size, COUNT[size], 0, harder) for size in (4, 9) for harder in (False, True)]
    return {case: build_pool(*case) for case in cases}


@pytest.fixture(params=[4, 9])
def size(request):
    return request.param


@pytest.fixture
def task(size, pools, monkeypatch):
    """A task that uses the pools built above."""
    monkeypatch.setattr(sudoku_solver, "build_pool", lambda *case: pools[case])
    return get_task("sudoku", size=size, pool=COUNT[size])


def rows_of(boards):
    return {tuple(row) for row in boards.tolist()}


@pytest.mark.parametrize(("harder", "givens"), [(False, {4: (6, 10), 9: (31, 42)}), (True, {4: (4, 6), 9: (17, 34)})])
def test_pools_hold_puzzles_with_one_solution_and_the_givens_asked_for(pools, harder, givens, size):
    lowest, highest = givens[size]
    puzzles, solutions = (boards.tolist() for boards in pools[size, COUNT[size], 0, harder])
    for puzzle, solution in zip(puzzles, solutions, strict=True):
        assert is_complete(solution)
        assert all(clue in (0, digit) for clue, digit in zip(puzzle, solution, strict=True))
    assert solve(torch.tensor(puzzles))[1].tolist() == [1] * len(puzzles)
    numbers = [sum(clue > 0 for clue in puzzle) for puzzle in puzzles]
    assert lowest <= min(numbers) < max(numbers) <= highest


def test_a_pool_is_built_once_and_read_from_then_on(outputs, monkeypatch):
    first = sudoku_solver.stored_pool(4, 5, 0, False)
    assert len(list((outputs / "pools").glob("*.safetensors"))) == 1
    monkeypatch.setattr(sudoku_solver, "build_pool", None)
    again = sudoku_solver.stored_pool(4, 5, 0, False)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("harder", [False, True])
def test_batches_encode_puzzles_and_solutions(task, pools, size, harder):
    batch = task.puzzles(harder=harder)
    assert task.x_dim == task.y_dim == batch.x.shape[1] == batch.y.shape[1] == size**3
    puzzles, solutions = (boards.long() for boards in pools[size, COUNT[size], 0, harder])
    one_hot = torch.nn.functional.one_hot
    assert torch.equal(batch.x, 2.0 * one_hot(puzzles, size + 1)[:, :, 1:].flatten(1) - 1)
    assert torch.equal(batch.y, 2.0 * one_hot(solutions - 1, size).flatten(1) - 1)
    assert torch.equal(batch.known, (puzzles > 0).repeat_interleave(size, 1))
    assert torch.equal(clue_digits(batch), puzzles)
    assert torch.equal(digits(batch.y), solutions)


def test_streams_share_neither_a_puzzle_nor_a_solution(task, size):
    seen = []
    for name in ("train", "dev", "test"):
        stream = task.stream(name)
        batches = [stream.puzzles(harder=harder) for harder in (False, True)]
        batches += [stream.sample(60, generator=generator(0, "test"), harder=harder) for harder in (False, True)]
        seen.append(set.union(*(rows_of(digits(batch.y)) for batch in batches)))
    assert [len(grids) for grids in seen] == {4: [32, 4, 4], 9: [10, 1, 1]}[size]
    assert len(set.union(*seen)) == COUNT[size]


# puzzles given by the user


def test_given_puzzles_are_solved_and_kept_in_order(size):
    known = BY_SIZE[size]
    lines = ["", *(puzzle.replace("0", ".") + "\r\n" for _, puzzle, _ in known), "  "]
    for text in (lines, "\n".join(lines)):
        task = Sudoku.from_puzzles(text, size=size)
        batch = task.puzzles()
        assert clue_digits(batch).tolist() == [board(puzzle) for _, puzzle, _ in known]
        assert digits(batch.y).tolist() == [board(solution) for _, _, solution in known]
    drawn = task.sample(20, generator=generator(0, "test"))
    assert rows_of(digits(drawn.y)) == rows_of(digits(batch.y))
    with pytest.raises(ParameterError, match="harder = True: a task of given puzzles has no harder ones"):
        task.sample(1, generator=generator(0, "test"), harder=True)
    two = Sudoku.from_puzzles(text.splitlines()[:4], size=size)  # with blank lines
    with pytest.raises(ParameterError, match="streams train, dev and test need 3"):
        two.stream("dev").sample(1, generator=generator(0, "test"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (PUZZLE[:80], r"line 3: 80 characters, should be 81$"),
        (
            PUZZLE[:10] + "x" + PUZZLE[11:],
            r"line 3: 'x' in row 2, column 2: should be a digit from 1 to 9, 0 or \. if empty",
        ),
        (PUZZLE[:10] + "²" + PUZZLE[11:], r"line 3: '²' in row 2, column 2: should be a digit"),
        ("537" + "." * 24 + "5" + PUZZLE[28:], r"line 3: 5 more than once in column 1"),
        ("12345678" + "." * 9 + "9" + "." * 63, r"line 3: has no solution"),
        ("." * 81, r"line 3: has more than one solution"),
    ],
)
def test_puzzles_that_cannot_be_used_are_named_by_line_and_reason(line, message):
    with pytest.raises(ParameterError, match=f"^{message}"):
        Sudoku.from_puzzles([PUZZLE, "", line])


@pytest.mark.parametrize("header", ["source,question,answer,rating", "id,quizzes,solutions,level"])
def test_a_csv_file_of_puzzles_is_read_and_a_wrong_one_named_by_its_line(header, size, tmp_path):
    known = BY_SIZE[size]
    file = tmp_path / "puzzles.csv"
    rows = [f"s,{puzzle.replace('0', '.')},{solution},{place}" for place, (_, puzzle, solution) in enumerate(known)]
    file.write_text("\n".join([header, *rows]))
    with file.open() as lines:
        assert clue_digits(Sudoku.from_puzzles(lines, size=size).puzzles()).tolist() == [board(p) for _, p, _ in known]
    file.write_text("\n".join([header, rows[0], "s,12x,,"]))
    with pytest.raises(ParameterError, match="line 3: 'x' in row 1, column 3"):
        Sudoku.from_puzzles(file.read_text(), size=size)
    with pytest.raises(ParameterError, match=r"line 1: 'a,b': CSV needs a column question or quizzes or puzzle"):
        Sudoku.from_puzzles("a,b\n1,2", size=size)


def test_blank_lines_are_no_puzzles():
    with pytest.raises(ParameterError, match="no puzzles"):
        Sudoku.from_puzzles("\n")


# metrics


def swapped(solution, one, other):
    grid = board(solution)
    grid[one], grid[other] = grid[other], grid[one]
    return one_hot_boards(torch.tensor([grid]))


@pytest.mark.parametrize(("example", "in_row", "in_column"), [(KNOWN[0], (2, 3), (0, 9)), (SMALL[1], (1, 2), (0, 4))])
def test_metrics_of_boards_made_by_hand(example, in_row, in_column):
    _, puzzle, solution = example
    empty, size = puzzle.count("0"), round(len(puzzle) ** 0.5)
    task = Sudoku.from_puzzles([puzzle], size=size)
    batch = task.puzzles()
    right = {"cell_accuracy": 1, "board_accuracy": 1, "violation_rate": 0}
    assert task.metrics(batch.y, batch) == pytest.approx(right)
    # two empty cells of a row swapped: the row stays complete, two columns and two boxes do not
    assert task.metrics(swapped(solution, *in_row), batch) == pytest.approx(
        {"cell_accuracy": (empty - 2) / empty, "board_accuracy": 0, "violation_rate": 4 / (3 * size)}
    )
    # two given cells of one column and one box swapped
    swapped_clues = task.metrics(swapped(solution, *in_column), batch)
    assert swapped_clues == pytest.approx(right | {"board_accuracy": 0, "violation_rate": 2 / (3 * size)})


# the solver


def test_known_puzzles_have_their_known_solution_alone(size):
    grids, found = solve(torch.tensor([board(puzzle) for _, puzzle, _ in BY_SIZE[size]]))
    assert grids.tolist() == GRIDS[size]
    assert found.tolist() == [1] * len(GRIDS[size])


def test_200_hard_puzzles_are_solved_in_the_time_of_a_few():
    one = torch.tensor([board(KNOWN[3][1])])

    def seconds(puzzles):
        return min(timeit.repeat(lambda: solve(puzzles), number=1, repeat=5))

    assert seconds(one.repeat(200, 1)) < 20 * seconds(one)


def test_an_empty_small_board_has_288_solutions():
    empty = torch.zeros(3, 16, dtype=torch.long)
    assert solve(empty, limit=10_000)[1].tolist() == [288] * 3
    assert solve(empty, limit=287)[1].tolist() == [287] * 3
    assert [part.tolist() for part in solve(empty[:0])] == [[], []]
