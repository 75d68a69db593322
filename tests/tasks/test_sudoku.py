"""The Sudoku task: its pool, its streams, a user's own puzzles, and its metrics against boards made by hand."""

from pathlib import Path

import pytest
import torch
from tasks.sudoku_reference import BY_SIZE, KNOWN, SMALL, board, count_solutions, is_complete

from anm_nb.config import ParameterError
from anm_nb.tasks import get_task, sudoku_pool
from anm_nb.tasks.sudoku import Sudoku, clue_digits, digits, one_hot_boards
from anm_nb.tasks.sudoku_pool import build_pool, every_small_grid, stored_pool
from anm_nb.training.seeds import RowDraws, generator

PUZZLE, SOLUTION = KNOWN[0][1:]
THREE = [puzzle.replace("0", ".") for _, puzzle, _ in KNOWN[:3]]
USUAL, HARDER = {4: (6, 10), 9: (31, 42)}, {4: (4, 6), 9: (17, 34)}
COUNT = {4: 40, 9: 12}  # puzzles of a pool


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def pools():
    cases = [(size, givens[size]) for size in (4, 9) for givens in (USUAL, HARDER)]
    return {(size, givens): build_pool(COUNT[size], 0, givens, size) for size, givens in cases}


@pytest.fixture(params=[4, 9])
def size(request):
    return request.param


@pytest.fixture
def task(size, pools, monkeypatch):
    """A task whose pools are at hand."""
    monkeypatch.setattr(sudoku_pool, "build_pool", lambda count, seed, givens, size: pools[size, givens])
    return get_task("sudoku", size=size, pool=COUNT[size])


def rows_of(boards):
    return {tuple(row) for row in boards.tolist()}


# The pool


@pytest.mark.parametrize("givens", [USUAL, HARDER])
def test_pools_hold_puzzles_with_one_solution_and_the_givens_asked_for(pools, givens, size):
    lowest, highest = givens[size]
    puzzles, solutions = (boards.tolist() for boards in pools[size, givens[size]])
    for puzzle, solution in zip(puzzles, solutions, strict=True):
        assert is_complete(solution)
        assert all(clue in (0, digit) for clue, digit in zip(puzzle, solution, strict=True))
        assert count_solutions(puzzle, 2) == 1
    numbers = [sum(clue > 0 for clue in puzzle) for puzzle in puzzles]
    assert lowest <= min(numbers) < max(numbers) <= highest
    assert len(set(numbers)) >= min(5, highest - lowest + 1)


def test_the_small_grids_are_all_there_are():
    grids = every_small_grid().tolist()
    assert all(is_complete(grid) for grid in grids)
    assert len(rows_of(every_small_grid())) == len(grids) == count_solutions([0] * 16, 10_000) == 288


def test_a_pool_is_built_once_and_read_from_then_on(outputs, monkeypatch):
    first = stored_pool(5, 0, (6, 10), 4)
    (file,) = (outputs / "pools").glob("*.safetensors")
    written = file.stat().st_mtime_ns
    monkeypatch.setattr(sudoku_pool, "build_pool", None)
    again = stored_pool(5, 0, (6, 10), 4)
    assert torch.equal(first.puzzles, again.puzzles)
    assert torch.equal(first.solutions, again.solutions)
    assert file.stat().st_mtime_ns == written


# Batches


@pytest.mark.parametrize("harder", [False, True])
def test_batches_encode_puzzles_and_solutions(task, pools, size, harder):
    batch = task.puzzles(harder=harder)
    assert task.x_dim == task.y_dim == batch.x.shape[1] == batch.y.shape[1] == size**3
    assert task.classes == task.stream("test").classes == size
    puzzles, solutions = (boards.long() for boards in pools[size, (HARDER if harder else USUAL)[size]])
    cells = [entries.unflatten(1, (size**2, size)) for entries in (batch.x, batch.y, batch.known)]
    for i, cell in [(0, 0), (3, size**2 // 2), (11, size**2 - 1), (7, 13), (8, 10)]:
        x, y, known = (entries[i, cell].tolist() for entries in cells)
        assert x == [1.0 if puzzles[i, cell] == digit else -1.0 for digit in range(1, size + 1)]
        assert y == [1.0 if solutions[i, cell] == digit else -1.0 for digit in range(1, size + 1)]
        assert known == [bool(puzzles[i, cell])] * size
    assert torch.equal(clue_digits(batch), puzzles)
    assert torch.equal(digits(batch.y), solutions)


def solutions_seen(task):
    """By stream, the solutions of its puzzles, of the harder ones, and of random samples of both."""
    seen = {name: set() for name in ("train", "dev", "test")}
    for name in seen:
        for harder in (False, True):
            stream = task.stream(name)
            seen[name] |= rows_of(digits(stream.puzzles(harder=harder).y))
            seen[name] |= rows_of(digits(stream.sample(60, generator=generator(0, "test"), harder=harder).y))
    return seen


def test_streams_share_neither_a_puzzle_nor_a_solution(task, size):
    expected = {4: [32, 4, 4], 9: [10, 1, 1]}[size]
    assert [len(task.stream(name).puzzles().x) for name in ("train", "dev", "test")] == expected
    seen = solutions_seen(task)
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == COUNT[size]
    assert [len(grids) for grids in seen.values()] == expected


def test_options_are_checked(size):
    lowest, highest = {4: (4, 15), 9: (17, 80)}[size]
    assert get_task("sudoku", size=size, givens=[lowest, highest]).options.givens == (lowest, highest)
    rule = f"should be .* {lowest} <= lowest <= highest <= {highest} at size {size}"
    for wrong in ([lowest - 1, highest], [lowest, highest + 1], [highest, lowest]):
        with pytest.raises(ParameterError, match=rf"^harder_givens = .*: {rule}[^\n]*$"):
            get_task("sudoku", size=size, harder_givens=wrong)
    for wrong in (16, "4", [4]):
        with pytest.raises(ParameterError, match=r"^size = .*: should be 4 or 9$"):
            get_task("sudoku", size=wrong, givens=[5, 6])
    with pytest.raises(ParameterError, match="pool = 0"):
        get_task("sudoku", size=size, pool=0)


# A user's own puzzles


def test_given_puzzles_are_solved_and_kept_in_order(size):
    known = BY_SIZE[size]
    lines = ["", *(puzzle.replace("0", ".") + "\n" for _, puzzle, _ in known), "  "]
    for given in (lines, "\n".join(lines)):
        task = Sudoku.from_puzzles(given, size=size)
        batch = task.puzzles()
        assert clue_digits(batch).tolist() == [board(puzzle) for _, puzzle, _ in known]
        assert digits(batch.y).tolist() == [board(solution) for _, _, solution in known]
    drawn = task.sample(20, generator=generator(0, "test"))
    assert rows_of(digits(drawn.y)) == rows_of(digits(batch.y))
    with pytest.raises(ParameterError, match="harder = True: a task of given puzzles has no harder ones"):
        task.sample(1, generator=generator(0, "test"), harder=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (PUZZLE[:80], r"line 3: 80 characters, should be 81$"),
        (PUZZLE + "00", r"line 3: 83 characters, should be 81$"),
        (PUZZLE[:16], r"line 3: 16 characters, should be 81; it could be a puzzle of size = 4$"),
        (
            PUZZLE[:10] + "x" + PUZZLE[11:],
            r"line 3: 'x' in row 2, column 2: should be a digit from 1 to 9, 0 or \. for an empty cell",
        ),
        (PUZZLE[:10] + "²" + PUZZLE[11:], r"line 3: '²' in row 2, column 2: should be a digit"),
        ("55" + PUZZLE[2:], r"line 3: contradicts itself: 5 more than once in row 1"),
        ("537" + "." * 24 + "5" + PUZZLE[28:], r"line 3: contradicts itself: 5 more than once in column 1"),
        ("5".ljust(10, ".") + "5".ljust(71, "."), r"line 3: contradicts itself: 5 more than once in box 1"),
        ("12345678" + "." * 9 + "9" + "." * 63, r"line 3: has no solution"),
        (PUZZLE[:-2] + "00", r"line 3: has more than one solution"),
        ("." * 81, r"line 3: has more than one solution"),
        (PUZZLE[:30].ljust(81, "."), r"line 3: has more than one solution"),
    ],
)
def test_puzzles_that_cannot_be_used_are_named_by_line_and_reason(line, message):
    with pytest.raises(ParameterError, match=f"^{message}"):
        Sudoku.from_puzzles([PUZZLE, "", line])


def test_of_ten_thousand_wrong_lines_the_first_are_named_and_the_others_counted():
    with pytest.raises(
        ParameterError, match=r"(?s)^line 1: 80 char.*\nline 5: .*\n… and 9995 more of 10000 lines"
    ) as told:
        Sudoku.from_puzzles([PUZZLE[:80]] * 10_000)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + "\n".join(THREE),
        "\r\n".join(THREE) + "\r\n",
        "source,question,answer,rating\n" + "\n".join(f"kaggle,{puzzle},{SOLUTION},3" for puzzle in THREE),
        "\ufeffquizzes,solutions\n" + "\n".join(f"{puzzle.replace('.', '0')},{SOLUTION}" for puzzle in THREE),
        'id;"Puzzle"\n' + "\n".join(f'{row};"{puzzle}"' for row, puzzle in enumerate(THREE)),
    ],
)
def test_files_of_public_collections_are_read(text, tmp_path):
    """As text, bytes, a path in a string, a Path, an open file and lines of bytes; in UTF-8 and in UTF-16."""
    path = tmp_path / "my puzzles.csv"
    path.write_bytes(text.encode())
    with path.open(encoding="utf-8") as opened:
        sources = [text, text.encode(), text.encode("utf-16"), str(path), path, opened, text.encode().splitlines()]
        for source in sources:
            assert clue_digits(Sudoku.from_puzzles(source).puzzles()).tolist() == [board(puzzle) for puzzle in THREE]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no such file.txt", "^puzzles = 'no such file.txt': No such file or directory$"),
        (Path("nowhere") / "puzzles.csv", "^puzzles = 'nowhere/puzzles.csv': No such file"),
        ("x" + PUZZLE[1:], "^line 1: 'x' in row 1, column 1"),
        (2 * f"{PUZZLE},{SOLUTION}\n", "^CSV with the header '530070.*': a column should be named question, puzzle"),
        ("level,board\n3,0000\n", "CSV with the header 'level,board': a column should be named question"),
        (f"quizzes,solutions\n{PUZZLE},{SOLUTION}\n\n{SOLUTION[:9]}\n", "^line 4: 9 characters, should be 81$"),
        ("id,puzzle\n1\n", "^line 2: 0 characters"),
        (b"\xff\xff\xff\n", "^line 1: 3 characters"),
    ],
)
def test_what_is_no_puzzle_file_is_refused_by_name(source, message):
    with pytest.raises(ParameterError, match=message):
        Sudoku.from_puzzles(source)


# Metrics


def swapped(solution, one, other):
    grid = board(solution)
    grid[one], grid[other] = grid[other], grid[one]
    return one_hot_boards(torch.tensor([grid]))


@pytest.mark.parametrize(("given", "in_row", "in_column"), [(KNOWN[0], (2, 3), (0, 9)), (SMALL[1], (1, 2), (0, 4))])
def test_metrics_of_boards_made_by_hand(given, in_row, in_column):
    _, puzzle, solution = given
    cells, empty = len(puzzle), puzzle.count("0")
    size = round(cells**0.5)
    task = Sudoku.from_puzzles([puzzle], size=size)
    batch = task.puzzles()
    assert task.metrics(batch.y, batch) == pytest.approx(
        {"cell_accuracy": 1, "board_accuracy": 1, "violation_rate": 0}
        | {f"violation_{name}": 0 for name in ("rows", "columns", "boxes", "clues")}
    )
    # two empty cells of a row: it stays whole, two columns and boxes do not
    assert task.metrics(swapped(solution, *in_row), batch) == pytest.approx(
        {"cell_accuracy": (empty - 2) / empty, "board_accuracy": 0, "violation_rate": 4 / (3 * size)}
        | {"violation_rows": 0, "violation_columns": 2 / size, "violation_boxes": 2 / size, "violation_clues": 0}
    )
    # two given cells of one column and one box
    assert task.metrics(swapped(solution, *in_column), batch) == pytest.approx(
        {"cell_accuracy": 1, "board_accuracy": 0, "violation_rate": 2 / (3 * size)}
        | {"violation_rows": 2 / size, "violation_columns": 0, "violation_boxes": 0}
        | {"violation_clues": 2 / (cells - empty)}
    )


def test_corruption_draws_five_percent_of_cells_anew(task, size):
    y = task.puzzles().y.repeat(100, 1)
    corrupted = task.corrupt(y, lambda: pytest.fail("settles nothing"), RowDraws([generator(0, "test")], "cpu"))
    assert set(corrupted.unique().tolist()) == {-1.0, 1.0}
    assert (corrupted.unflatten(1, (size**2, size)).sum(2) == 2 - size).all()
    changed = (digits(corrupted) != digits(y)).double().mean()
    share = 0.05 * (1 - 1 / size)
    assert changed == pytest.approx(share, abs=4 * (share / digits(y).numel()) ** 0.5)
    assert torch.equal(corrupted, task.corrupt(y, lambda: y, RowDraws([generator(0, "test")], "cpu")))


def test_references_bracket_any_score(task):
    table = task.reference_scores(1000, generator=generator(0, "test")).set_index(["name", "metric"])["value"]
    assert table["truth", "board_accuracy"] == table["exact solver", "board_accuracy"] == 1
    assert table["exact solver", "violation_rate"] == table["truth", "violation_rate"] == 0
    assert table["clues, most frequent digit", "cell_accuracy"] < 0.5
    assert table["singles, most frequent digit", "cell_accuracy"] > 0.8
    assert (table[:, "violation_clues"] == 0).all()
