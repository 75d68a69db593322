"""The Sudoku task: its pool, its streams, a user's own puzzles, and its metrics against boards made by hand."""

import threading
from pathlib import Path

import pytest
import torch
from tasks.sudoku_reference import KNOWN, board, count_solutions, is_complete, symmetry_class

from anm_nb.parameters import ParameterError
from anm_nb.tasks import get_task, sudoku_pool
from anm_nb.tasks.sudoku import Sudoku, clue_digits, digits, one_hot_boards
from anm_nb.tasks.sudoku_pool import build_pool, pool_key, stored_pool
from anm_nb.tasks.sudoku_solver import solve
from anm_nb.training.seeds import generator

PUZZLE, SOLUTION = KNOWN[0][1:]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "sudoku-easy50.txt"


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def pools():
    return {givens: build_pool(30, 0, givens) for givens in ((31, 42), (17, 34))}


@pytest.fixture
def task(pools, monkeypatch):
    """A task whose pools are at hand."""
    monkeypatch.setattr(sudoku_pool, "build_pool", lambda size, seed, givens: pools[givens])
    return get_task("sudoku", pool=30)


def rows_of(boards):
    return {tuple(row) for row in boards.tolist()}


# The pool


@pytest.mark.parametrize("givens", [(31, 42), (17, 34)])
def test_pools_hold_puzzles_with_one_solution_and_the_givens_asked_for(pools, givens):
    puzzles, solutions = (boards.tolist() for boards in pools[givens])
    for puzzle, solution in zip(puzzles, solutions, strict=True):
        assert is_complete(solution)
        assert all(clue in (0, digit) for clue, digit in zip(puzzle, solution, strict=True))
        assert count_solutions(puzzle, 2) == 1
    numbers = [sum(clue > 0 for clue in puzzle) for puzzle in puzzles]
    assert givens[0] <= min(numbers) < max(numbers) <= givens[1]
    assert len(set(numbers)) >= 7


def test_a_puzzle_above_its_target_is_minimal(pools):
    solutions = pools[31, 42].solutions[:1].long()
    puzzles = sudoku_pool.dig(solutions, torch.full((1,), 17), generator(0, "test")).tolist()
    for puzzle in puzzles:
        givens = [cell for cell in range(81) if puzzle[cell]]
        assert len(givens) > 17
        assert all(count_solutions([*puzzle[:cell], 0, *puzzle[cell + 1 :]], 2) == 2 for cell in givens[::3])


def test_no_two_grids_of_a_pool_are_symmetric_and_seeds_share_none(pools):
    grids = pools[31, 42].solutions.tolist()
    assert len({symmetry_class(grid) for grid in grids}) == len(grids)
    assert not rows_of(pools[31, 42].solutions) & rows_of(build_pool(30, 1, (70, 80)).solutions)


def test_a_pool_is_built_once_and_read_from_then_on(outputs, monkeypatch):
    first = stored_pool(5, 0, (40, 50))
    (file,) = (outputs / "pools").glob("*.safetensors")
    assert file.name == f"sudoku-{pool_key(5, 0, (40, 50))}.safetensors"
    written = file.stat().st_mtime_ns
    monkeypatch.setattr(sudoku_pool, "build_pool", None)
    again = stored_pool(5, 0, (40, 50))
    assert torch.equal(first.puzzles, again.puzzles)
    assert torch.equal(first.solutions, again.solutions)
    assert file.stat().st_mtime_ns == written


def test_keys_cover_what_a_pool_depends_on(tmp_path, monkeypatch):
    keys = {pool_key(*given) for given in [(5, 0, (31, 42)), (6, 0, (31, 42)), (5, 1, (31, 42)), (5, 0, (31, 43))]}
    source = tmp_path / "solver.py"
    source.write_text("another solver")
    monkeypatch.setattr(sudoku_pool.sudoku_solver, "__file__", str(source))
    assert len(keys | {pool_key(5, 0, (31, 42))}) == 5


def test_nothing_half_written_is_read(outputs, monkeypatch):
    def interrupted(tensors, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sudoku_pool, "save_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stored_pool(4, 0, (40, 50))
    assert not list((outputs / "pools").glob("*.safetensors"))
    pool = stored_pool(4, 0, (40, 50))
    (file,) = (outputs / "pools").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-20])
    assert torch.equal(stored_pool(4, 0, (40, 50)).puzzles, pool.puzzles)
    assert torch.equal(sudoku_pool.load_file(file)["puzzles"], pool.puzzles)


def test_who_asks_second_waits_for_the_first(pools, monkeypatch):
    building, may_finish, built = threading.Event(), threading.Event(), []

    def slow(size, seed, givens):
        built.append(threading.get_ident())
        building.set()
        assert may_finish.wait(30)
        return pools[31, 42]

    monkeypatch.setattr(sudoku_pool, "build_pool", slow)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(stored_pool(30, 0, (31, 42)))) for _ in range(2)]
    threads[0].start()
    assert building.wait(30)
    threads[1].start()
    threads[1].join(0.3)
    assert not answers
    may_finish.set()
    for thread in threads:
        thread.join(30)
    assert len(built) == 1
    assert all(torch.equal(answer.puzzles, pools[31, 42].puzzles) for answer in answers)
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
def test_batches_encode_puzzles_and_solutions(task, pools, harder):
    batch = task.puzzles(harder=harder)
    puzzles, solutions = (boards.long() for boards in pools[(17, 34) if harder else (31, 42)])
    cells = batch.x.view(30, 81, 9), batch.y.view(30, 81, 9), batch.known.view(30, 81, 9)
    for i, cell in [(0, 0), (3, 40), (29, 80), (7, 13), (8, 66)]:
        x, y, known = (entries[i, cell].tolist() for entries in cells)
        assert x == [1.0 if puzzles[i, cell] == digit else -1.0 for digit in range(1, 10)]
        assert y == [1.0 if solutions[i, cell] == digit else -1.0 for digit in range(1, 10)]
        assert known == [bool(puzzles[i, cell])] * 9
    assert torch.equal(clue_digits(batch), puzzles)
    assert torch.equal(digits(batch.y), solutions)


def test_clues_are_given_cells_and_no_others(task):
    batch = task.puzzles()
    imposed = task.clues(batch).impose(torch.zeros_like(batch.y), 0.5)
    assert torch.equal(imposed, torch.where(batch.known, 0.5 * batch.y, 0.0))


def test_no_puzzle_comes_again_before_all_have_come(task):
    first = digits(task.sample(30, generator=generator(0, "test")).y)
    assert rows_of(first) == rows_of(digits(task.puzzles().y))
    assert not torch.equal(first, digits(task.puzzles().y))
    more = digits(task.sample(70, generator=generator(0, "test")).y)
    assert sorted(set(more.unique(dim=0, return_counts=True)[1].tolist())) == [2, 3]
    assert len(task.sample(0, generator=generator(0, "test")).x) == 0


def test_streams_share_neither_a_puzzle_nor_a_solution(task):
    streams = {name: task.stream(name) for name in ("train", "dev", "test")}
    assert [len(streams[name].puzzles().x) for name in streams] == [24, 3, 3]
    seen = {name: set() for name in streams}
    for name, stream in streams.items():
        for harder in (False, True):
            seen[name] |= rows_of(digits(stream.puzzles(harder=harder).y))
            drawn = stream.sample(60, generator=generator(0, "test"), harder=harder)
            seen[name] |= rows_of(digits(drawn.y))
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == 30
    assert [len(grids) for grids in seen.values()] == [24, 3, 3]


def test_a_solution_twice_among_given_puzzles_stays_in_one_stream():
    lines = [puzzle for _, puzzle, _ in KNOWN]
    fuller = [lines[0][:2] + KNOWN[0][2][2] + lines[0][3:], lines[0]]
    task = Sudoku.from_puzzles([lines[0], fuller[0], *lines[1:], fuller[1]])  # the first solution is also the last
    grids = {name: digits(task.stream(name).puzzles().y) for name in ("train", "dev")}
    assert len(grids["train"]) == 5
    assert not rows_of(grids["train"]) & rows_of(grids["dev"])
    with pytest.raises(ParameterError, match=r"6 puzzles with 4 solutions leave none for the stream 'test'"):
        task.stream("test").puzzles()


def test_too_few_puzzles_for_streams_are_named():
    with pytest.raises(ParameterError, match=r"2 puzzle\(s\): at least 3 are needed"):
        get_task("sudoku", pool=2).stream("train")
    with pytest.raises(ParameterError, match=r"1 puzzle\(s\): at least 3 are needed"):
        Sudoku.from_puzzles([PUZZLE]).stream("test")


def test_options_are_checked():
    assert get_task("sudoku", givens=[17, 80]).options.givens == (17, 80)
    for wrong in ([16, 30], [30, 81], [40, 30]):
        with pytest.raises(ParameterError, match=r"harder_givens = .*: should be .* 17 <= lowest <= highest <= 80"):
            get_task("sudoku", harder_givens=wrong)
    with pytest.raises(ParameterError, match="size = 16: should be 9"):
        get_task("sudoku", size=16)
    with pytest.raises(ParameterError, match="pool = 0"):
        get_task("sudoku", pool=0)


# A user's own puzzles


def test_given_puzzles_are_solved_and_kept_in_order():
    lines = ["", *(puzzle.replace("0", ".") + "\n" for _, puzzle, _ in KNOWN), "  "]
    for given in (lines, "\n".join(lines)):
        task = Sudoku.from_puzzles(given)
        batch = task.puzzles()
        assert clue_digits(batch).tolist() == [board(puzzle) for _, puzzle, _ in KNOWN]
        assert digits(batch.y).tolist() == [board(solution) for _, _, solution in KNOWN]
    drawn = task.sample(20, generator=generator(0, "test"))
    assert rows_of(digits(drawn.y)) == rows_of(digits(batch.y))
    with pytest.raises(ParameterError, match="harder = True: a task of given puzzles has no harder ones"):
        task.sample(1, generator=generator(0, "test"), harder=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (PUZZLE[:80], r"line 3: 80 characters, should be 81"),
        (PUZZLE + "00", r"line 3: 83 characters, should be 81"),
        (PUZZLE[:10] + "x" + PUZZLE[11:], r"line 3: 'x' in row 2, column 2: should be a digit"),
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


def test_all_lines_that_cannot_be_used_are_named_at_once():
    with pytest.raises(ParameterError) as error:
        Sudoku.from_puzzles(["." * 81, "12", PUZZLE, "55" + PUZZLE[2:]])
    assert [line.split(":")[0] for line in str(error.value).split("\n")] == ["line 1", "line 2", "line 4"]
    with pytest.raises(ParameterError, match="no puzzles: every line is blank"):
        Sudoku.from_puzzles(["", " \n"])
    with pytest.raises(ParameterError, match="line 1: 2 characters"):
        Sudoku.from_puzzles("12")


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


def test_metrics_of_boards_made_by_hand():
    task = Sudoku.from_puzzles([PUZZLE])
    batch = task.puzzles()
    assert task.metrics(batch.y, batch) == pytest.approx(
        {"cell_accuracy": 1, "board_accuracy": 1, "violation_rate": 0}
        | {f"violation_{name}": 0 for name in ("rows", "columns", "boxes", "clues")}
    )
    grid = board(SOLUTION)
    grid[2], grid[3] = grid[3], grid[2]  # both empty in the puzzle: row 1 stays whole, two columns and boxes do not
    empty = PUZZLE.count("0")
    assert task.metrics(one_hot_boards(torch.tensor([grid])), batch) == pytest.approx(
        {"cell_accuracy": (empty - 2) / empty, "board_accuracy": 0, "violation_rate": 4 / 27}
        | {"violation_rows": 0, "violation_columns": 2 / 9, "violation_boxes": 2 / 9, "violation_clues": 0}
    )
    grid = board(SOLUTION)
    grid[0], grid[9] = grid[9], grid[0]  # both given, in one column and one box
    assert task.metrics(one_hot_boards(torch.tensor([grid])), batch) == pytest.approx(
        {"cell_accuracy": 1, "board_accuracy": 0, "violation_rate": 2 / 27}
        | {"violation_rows": 2 / 9, "violation_columns": 0, "violation_boxes": 0, "violation_clues": 2 / (81 - empty)}
    )


def test_digits_are_those_with_the_highest_entries():
    y = torch.randn(4, 729, generator=generator(0, "test"))
    assert digits(y).tolist() == [
        [1 + max(range(9), key=row[9 * i : 9 * i + 9].__getitem__) for i in range(81)] for row in y.tolist()
    ]


def test_a_complete_grid_given_has_no_cell_accuracy():
    task = Sudoku.from_puzzles([SOLUTION, PUZZLE])
    batch = task.puzzles()
    scores = task.scores(batch.y, batch)
    assert scores["cell_accuracy"].isnan().tolist() == [True, False]
    assert task.metrics(batch.y, batch)["cell_accuracy"] == 1


def test_corruption_draws_five_percent_of_cells_anew(task):
    y = task.puzzles().y.repeat(60, 1)
    corrupted = task.corrupt(y, lambda: pytest.fail("settles nothing"), generator(0, "test"))
    assert set(corrupted.unique().tolist()) == {-1.0, 1.0}
    assert (corrupted.view(-1, 81, 9).sum(2) == -7).all()
    changed = (digits(corrupted) != digits(y)).double().mean()
    cells = y.shape[0] * 81
    assert changed == pytest.approx(0.05 * 8 / 9, abs=4 * (0.0444 / cells) ** 0.5)
    assert torch.equal(corrupted, task.corrupt(y, lambda: y, generator(0, "test")))


def test_references_bracket_any_score(task):
    table = task.reference_scores(1000, generator=generator(0, "test")).set_index(["name", "metric"])["value"]
    assert table["truth", "board_accuracy"] == table["exact solver", "board_accuracy"] == 1
    assert table["exact solver", "violation_rate"] == table["truth", "violation_rate"] == 0
    assert table["clues, most frequent digit", "cell_accuracy"] < 0.4
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
