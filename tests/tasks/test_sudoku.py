"""The Sudoku task: its pool, its streams, a user's own puzzles, and its metrics against boards made by hand."""

import hashlib
import itertools
import threading
import time
from pathlib import Path

import pytest
import torch
from tasks.sudoku_reference import BY_SIZE, KNOWN, SMALL, board, count_solutions, is_complete, symmetry_class

from anm_nb.config import ParameterError
from anm_nb.tasks import get_task, sudoku_pool
from anm_nb.tasks.sudoku import Sudoku, clue_digits, digits, one_hot_boards
from anm_nb.tasks.sudoku_pool import build_pool, every_small_grid, stored_pool
from anm_nb.tasks.sudoku_solver import deduced, solve
from anm_nb.training.seeds import RowDraws, generator

PUZZLE, SOLUTION = KNOWN[0][1:]
THREE = [puzzle.replace("0", ".") for _, puzzle, _ in KNOWN[:3]]
USUAL, HARDER = {4: (6, 10), 9: (31, 42)}, {4: (4, 6), 9: (17, 34)}
COUNT = {4: 40, 9: 12}  # puzzles of a pool
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "sudoku-easy50.txt"


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def built():
    """By size and givens: a pool, and the numbers of givens its puzzles were to be dug down to."""
    dug, dig, targets = {}, sudoku_pool.dig, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sudoku_pool, "dig", lambda *given: targets.append(given[1]) or dig(*given))
        for size, givens in ((size, givens[size]) for size in (4, 9) for givens in (USUAL, HARDER)):
            targets.clear()
            pool = build_pool(COUNT[size], 0, givens, size)
            dug[size, givens] = pool, targets[0]  # any later ones are of puzzles dug anew
    return dug


@pytest.fixture(scope="module")
def pools(built):
    return {key: pool for key, (pool, _) in built.items()}


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


def test_a_puzzle_is_at_its_target_or_minimal(built, size):
    """Minimal: without any one of its clues it has a second solution."""
    pool, targets = built[size, HARDER[size]]
    numbers = (pool.puzzles > 0).sum(1)
    assert (numbers >= targets).all()
    above = pool.puzzles[numbers > targets].tolist()
    assert 0 < len(above) < len(targets)
    for puzzle in above:
        for cell in (cell for cell in range(size**2) if puzzle[cell]):
            assert count_solutions([*puzzle[:cell], 0, *puzzle[cell + 1 :]], 2) == 2


def test_no_two_grids_of_a_pool_are_symmetric_and_seeds_share_none(pools):
    grids = pools[9, (31, 42)].solutions.tolist()
    assert len({symmetry_class(grid) for grid in grids}) == len(grids)
    assert not rows_of(pools[9, (31, 42)].solutions) & rows_of(build_pool(12, 1, (80, 80)).solutions)


def test_the_small_grids_are_all_there_are():
    grids = every_small_grid().tolist()
    assert all(is_complete(grid) for grid in grids)
    assert len(rows_of(every_small_grid())) == len(grids) == count_solutions([0] * 16, 10_000) == 288


def test_no_puzzle_of_4x4_has_fewer_than_4_givens():
    """Three cells of one grid of each of the two symmetry classes: every other puzzle is an image of such a one."""
    puzzles = []
    for _, _, solution in SMALL[:2]:
        for kept in itertools.combinations(range(16), 3):
            puzzles.append([digit if cell in kept else 0 for cell, digit in enumerate(board(solution))])
    assert (solve(torch.tensor(puzzles), limit=2).found == 2).all()


@pytest.mark.parametrize("givens", [(4, 6), (6, 10)])
def test_a_small_pool_has_every_grid_as_often_and_no_puzzle_twice(givens):
    puzzles, solutions = build_pool(1000, 0, givens, 4)
    assert sorted(set(solutions.unique(dim=0, return_counts=True)[1].tolist())) == [3, 4]
    assert len(rows_of(solutions)) == 288
    assert len(rows_of(puzzles)) == 1000
    assert all(count_solutions(puzzle, 2) == 1 for puzzle in puzzles[::10].tolist())
    assert torch.equal(deduced(puzzles), solutions.long())  # so singles are a ceiling at this size


@pytest.mark.parametrize(("count", "different"), [(1500, range(1500, 1501)), (5000, range(4400, 16 * 288 + 1))])
def test_puzzles_repeat_only_where_others_run_out(count, different):
    """With one cell empty there are 16 puzzles of each of 288 grids."""
    puzzles, _ = build_pool(count, 0, (15, 15), 4)
    assert ((puzzles == 0).sum(1) == 1).all()
    assert len(rows_of(puzzles)) in different


def test_a_pool_is_built_once_and_read_from_then_on(outputs, monkeypatch):
    first = stored_pool(5, 0, (6, 10), 4)
    (file,) = (outputs / "pools").glob("*.safetensors")
    written = file.stat().st_mtime_ns
    monkeypatch.setattr(sudoku_pool, "build_pool", None)
    again = stored_pool(5, 0, (6, 10), 4)
    assert torch.equal(first.puzzles, again.puzzles)
    assert torch.equal(first.solutions, again.solutions)
    assert file.stat().st_mtime_ns == written


def test_every_argument_has_a_file_of_its_own(outputs, monkeypatch):
    pool = build_pool(5, 0, (6, 10), 4)
    monkeypatch.setattr(sudoku_pool, "build_pool", lambda *given: pool)
    given = [(5, 0, (9, 10), 9), (6, 0, (9, 10), 9), (5, 1, (9, 10), 9), (5, 0, (9, 11), 9), (5, 0, (9, 10), 4)]
    for each in given:
        stored_pool(*each)
    assert len(list((outputs / "pools").glob("*.safetensors"))) == len(given)
    monkeypatch.setattr(sudoku_pool, "VERSION", -1)
    stored_pool(*given[0])
    assert len(list((outputs / "pools").glob("*.safetensors"))) == len(given) + 1


def test_pools_are_what_their_version_says(pools):
    """Stored pools are known by their arguments: raise `sudoku_pool.VERSION` where this digest changes."""
    digest = hashlib.sha256(b"".join(boards.numpy().tobytes() for key in sorted(pools) for boards in pools[key]))
    assert digest.hexdigest()[:16] == "caa2b02a904cbd85"
    assert sudoku_pool.VERSION == 1


def test_nothing_half_written_is_read(outputs, monkeypatch):
    def interrupted(tensors, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sudoku_pool, "save_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stored_pool(5, 0, (6, 10), 4)
    assert not list((outputs / "pools").glob("*.safetensors"))
    pool = stored_pool(5, 0, (6, 10), 4)
    (file,) = (outputs / "pools").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-20])
    assert torch.equal(stored_pool(5, 0, (6, 10), 4).puzzles, pool.puzzles)
    assert torch.equal(sudoku_pool.load_file(file)["puzzles"], pool.puzzles)


def test_who_asks_second_waits_for_the_first(pools, monkeypatch):
    building, may_finish, built = threading.Event(), threading.Event(), []

    def slow(count, seed, givens, size):
        built.append(threading.get_ident())
        building.set()
        assert may_finish.wait(30)
        return pools[4, (6, 10)]

    monkeypatch.setattr(sudoku_pool, "build_pool", slow)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(stored_pool(40, 0, (6, 10), 4))) for _ in range(2)]
    threads[0].start()
    assert building.wait(30)
    threads[1].start()
    threads[1].join(0.3)
    assert not answers
    may_finish.set()
    for thread in threads:
        thread.join(30)
    assert len(built) == 1
    assert all(torch.equal(answer.puzzles, pools[4, (6, 10)].puzzles) for answer in answers)
    assert len(answers) == 2


@pytest.mark.slow
@pytest.mark.parametrize("givens", [(31, 42), (17, 34)])
def test_every_puzzle_of_a_full_pool_has_one_solution(givens):
    puzzles, solutions = build_pool(2000, 0, givens)
    assert all(is_complete(solution) for solution in solutions.tolist())
    assert (solve(puzzles).found == 1).all()
    assert all(count_solutions(puzzle, 2) == 1 for puzzle in puzzles[::20].tolist())
    assert ((puzzles == 0) | (puzzles == solutions)).all()
    assert len({symmetry_class(solution) for solution in solutions.tolist()}) == 2000


# Batches


def test_a_task_costs_nothing_until_a_puzzle_is_asked_for(outputs, monkeypatch):
    monkeypatch.setattr(sudoku_pool, "build_pool", None)
    get_task("sudoku").stream("train")
    assert not list(outputs.iterdir())


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


def test_clues_are_given_cells_and_no_others(task):
    batch = task.puzzles()
    imposed = task.clues(batch).impose(torch.zeros_like(batch.y), 0.5)
    assert torch.equal(imposed, torch.where(batch.known, 0.5 * batch.y, 0.0))


def test_no_puzzle_comes_again_before_all_have_come(task, size):
    n = COUNT[size]
    first = digits(task.sample(n, generator=generator(0, "test")).y)
    assert rows_of(first) == rows_of(digits(task.puzzles().y))
    assert not torch.equal(first, digits(task.puzzles().y))
    more = digits(task.sample(2 * n + n // 3, generator=generator(0, "test")).y)
    assert sorted(set(more.unique(dim=0, return_counts=True)[1].tolist())) == [2, 3]
    assert len(task.sample(0, generator=generator(0, "test")).x) == 0


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


def test_streams_of_a_pool_that_repeats_its_solutions_share_none_and_hold_every_puzzle():
    task = get_task("sudoku", size=4, pool=300)
    seen = solutions_seen(task)
    assert [len(grids) for grids in seen.values()] == [232, 28, 28]
    assert len(set.union(*seen.values())) == 288
    for harder in (False, True):
        parts = [clue_digits(task.stream(name).puzzles(harder=harder)) for name in seen]
        assert rows_of(torch.cat(parts)) == rows_of(clue_digits(task.puzzles(harder=harder)))
        assert sum(map(len, parts)) == 300
        assert min(map(len, parts)) >= 28


def test_a_solution_twice_among_given_puzzles_stays_in_one_stream(size):
    lines = [puzzle.replace(".", "0") for _, puzzle, _ in BY_SIZE[size]]
    solution = BY_SIZE[size][0][2]
    cell = lines[0].index("0")
    fuller = lines[0][:cell] + solution[cell] + lines[0][cell + 1 :]
    given = [lines[0], fuller, *lines[1:], lines[0]]  # the first solution is also the last
    task = Sudoku.from_puzzles(given, size=size)
    held = {name: clue_digits(task.stream(name).puzzles()).tolist() for name in ("train", "dev", "test")}
    assert held == {
        "train": [board(lines[0]), board(fuller), board(lines[1]), board(lines[0])],
        "dev": [board(lines[2])],
        "test": [board(lines[3])],
    }
    few = Sudoku.from_puzzles([lines[0], fuller, lines[1]], size=size)
    for name in held:
        with pytest.raises(ParameterError, match=r"3 puzzles with 2 solution\(s\): the streams .* need 3"):
            few.stream(name).puzzles()


def test_too_few_puzzles_for_streams_are_named():
    with pytest.raises(ParameterError, match=r"2 puzzle\(s\): at least 3 are needed"):
        get_task("sudoku", pool=2).stream("train")
    with pytest.raises(ParameterError, match=r"1 puzzle\(s\): at least 3 are needed"):
        Sudoku.from_puzzles([PUZZLE]).stream("test")


def test_givens_have_the_defaults_of_the_size(size):
    options = get_task("sudoku", size=size).options
    assert (options.givens, options.harder_givens) == (USUAL[size], HARDER[size])
    assert get_task("sudoku").options == get_task("sudoku", size=9).options
    again = type(options).model_validate_json(options.model_dump_json())
    assert again == options


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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1" * 15, r"line 2: 15 characters, should be 16$"),
        (PUZZLE, r"line 2: 81 characters, should be 16; it could be a puzzle of size = 9$"),
        (
            "....5...........",
            r"line 2: '5' in row 2, column 1: should be a digit from 1 to 4, 0 or \. for an empty cell",
        ),
        ("1..1............", r"line 2: contradicts itself: 1 more than once in row 1"),
        (".2...........2..", r"line 2: contradicts itself: 2 more than once in column 2"),
        ("..........3....3", r"line 2: contradicts itself: 3 more than once in box 4"),
        ("123....4........", r"line 2: has no solution"),
        ("1234............", r"line 2: has more than one solution"),
    ],
)
def test_small_puzzles_that_cannot_be_used_are_named_by_line_and_reason(line, message):
    with pytest.raises(ParameterError, match=f"^{message}"):
        Sudoku.from_puzzles(f"{SMALL[0][1]}\n{line}", size=4)


def test_all_lines_that_cannot_be_used_are_named_at_once():
    with pytest.raises(ParameterError) as error:
        Sudoku.from_puzzles(["." * 81, "12", PUZZLE, "55" + PUZZLE[2:]])
    assert [line.split(":")[0] for line in str(error.value).split("\n")] == ["line 1", "line 2", "line 4"]
    with pytest.raises(ParameterError, match="no puzzles: every line is blank"):
        Sudoku.from_puzzles(["", " \n"])
    with pytest.raises(ParameterError, match="line 1: 2 characters"):
        Sudoku.from_puzzles("12")


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


def test_of_ten_thousand_wrong_lines_the_first_few_and_their_number_are_named():
    with pytest.raises(ParameterError) as error:
        Sudoku.from_puzzles([PUZZLE, *10_000 * ["123456 " + PUZZLE]])
    first, *_, last = str(error.value).split("\n")
    assert first == "line 2: 88 characters, should be 81"
    assert last == "… and 9995 more of 10001 lines"
    assert len(str(error.value)) < 500
    with pytest.raises(ParameterError, match="should be a puzzle a line, or CSV with a column named question"):
        Sudoku.from_puzzles(10 * ["123456 " + PUZZLE])


def test_a_long_check_shows_its_progress(capsys, monkeypatch):
    monkeypatch.setattr(sudoku_pool, "solve", lambda boards: time.sleep(0.7) or solve(boards))
    monkeypatch.setattr(sudoku_pool, "CHECKED", 1)
    Sudoku.from_puzzles(THREE)
    assert "checking puzzles" in capsys.readouterr().err
    monkeypatch.undo()
    Sudoku.from_puzzles(THREE)
    assert not capsys.readouterr().err


@pytest.mark.skipif(not SHARED.exists(), reason="the 50 published puzzles are not beside this checkout")
def test_fifty_published_puzzles_load_and_are_solved():
    lines = SHARED.read_text().splitlines()
    task = Sudoku.from_puzzles(lines)
    batch = task.puzzles()
    assert len(batch.x) == len(lines) == 50
    solved = task.references(batch, batch)["exact solver", "classical"]
    for line, grid, kept in zip(lines, digits(solved).tolist(), clue_digits(batch).tolist(), strict=True):
        assert kept == board(line)
        assert is_complete(grid)
        assert all(clue in (0, digit) for clue, digit in zip(kept, grid, strict=True))
    assert task.metrics(solved, batch)["board_accuracy"] == 1


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


def test_digits_are_those_with_the_highest_entries(size):
    y = torch.randn(4, size**3, generator=generator(0, "test"))
    assert digits(y).tolist() == [
        [1 + max(range(size), key=row[size * i : size * (i + 1)].__getitem__) for i in range(size**2)]
        for row in y.tolist()
    ]


def test_a_complete_grid_given_has_no_cell_accuracy(size):
    _, puzzle, solution = BY_SIZE[size][0]
    task = Sudoku.from_puzzles([solution, puzzle], size=size)
    batch = task.puzzles()
    scores = task.scores(batch.y, batch)
    assert scores["cell_accuracy"].isnan().tolist() == [True, False]
    assert task.metrics(batch.y, batch)["cell_accuracy"] == 1


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


def test_the_most_frequent_digit_is_that_of_the_training_solutions(task):
    training, test = task.stream("train").puzzles(), task.stream("test").puzzles()
    predicted = digits(task.references(training, test)["clues, most frequent digit", "trivial"])
    solutions = digits(training.y).tolist()
    for clues, row in zip(clue_digits(test).tolist(), predicted.tolist(), strict=True):
        for cell, (clue, digit) in enumerate(zip(clues, row, strict=True)):
            column = [grid[cell] for grid in solutions]
            assert digit == clue if clue else column.count(digit) == max(map(column.count, column))
