"""Rules of discrete tasks, against plain counts that know nothing of tensors."""

import itertools
from math import isqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tasks.sudoku_reference import BY_SIZE, board, peers, units

from anm_nb.config import ParameterError
from anm_nb.studies.discrete_rules import RULES, Rules, rules_of
from anm_nb.tasks import get_task
from anm_nb.tasks.base import Batch
from anm_nb.tasks.sudoku import Sudoku, one_hot_boards
from anm_nb.training.seeds import generator

seeds = st.integers(0, 10**6)


def graphs(seed, nodes=5, n=4):
    """Problems, and answers that are partly right: the truth with random entries turned."""
    source = generator(seed, "test")
    batch = get_task("connectivity", size=nodes, edge_probability=0.3).sample(n, generator=source)
    turned = torch.rand(batch.y.shape, generator=source) < torch.rand(n, 1, generator=source) / 2
    return batch, torch.where(turned, -batch.y, batch.y)


def sudokus(size):
    task = Sudoku.from_puzzles([puzzle for _, puzzle, _ in BY_SIZE[size]], size=size)
    return task, task.puzzles()


def plain_graph_rate(edges, answer):
    """Ordered pairs i ≠ j with a broken rule, one by one."""
    nodes = isqrt(len(answer))
    reached = {(i, j): i == j or answer[nodes * i + j] > 0 for i in range(nodes) for j in range(nodes)}
    broken = 0
    for i, j in itertools.permutations(range(nodes), 2):
        edge_denied = edges[nodes * i + j] > 0 and not reached[i, j]
        one_way = reached[i, j] != reached[j, i]
        detour_denied = not reached[i, j] and any(reached[i, m] and reached[m, j] for m in range(nodes))
        broken += edge_denied or one_way or detour_denied
    return broken / (nodes * (nodes - 1))


@given(seed=seeds)
def test_violations_are_those_of_a_plain_count(seed):
    batch, answers = graphs(seed)
    task = get_task("connectivity", size=5)
    rates = rules_of("connectivity").violation_rate(task, answers, batch)
    expected = [plain_graph_rate(*each) for each in zip(batch.x.tolist(), answers.tolist(), strict=True)]
    assert rates.tolist() == pytest.approx(expected)
    task, batch = sudokus(4)
    filled = torch.randint(1, 5, (len(batch.x), 16), generator=generator(seed, "boards"))
    rates = rules_of("sudoku").violation_rate(task, one_hot_boards(filled), batch)
    wrong = [[sorted(grid[c] for c in unit) != [1, 2, 3, 4] for unit in units(4)] for grid in filled.tolist()]
    assert rates.tolist() == pytest.approx([sum(each) / 12 for each in wrong])


@pytest.mark.parametrize("size", [4, 9])
def test_right_answers_break_no_rule_and_give_nothing_to_what_is_excluded(size):
    task, batch = sudokus(size)
    assert not rules_of("sudoku").violation_rate(task, batch.y, batch).any()
    assert not rules_of("sudoku").excluded_mass(batch.y, batch).any()
    graph, rules = get_task("connectivity", size=size), rules_of("connectivity")
    batch = graph.sample(50, generator=generator(0, "test"))
    assert not rules.violation_rate(graph, batch.y, batch).any()
    assert not rules.excluded_mass(batch.y, batch).any()


def test_a_wrong_answer_may_break_no_rule():
    """What a reader of a low violation rate has to know."""
    task = get_task("connectivity", size=6)
    batch = task.sample(50, generator=generator(0, "test"))
    everything = torch.ones_like(batch.y)
    assert not rules_of("connectivity").violation_rate(task, everything, batch).any()
    assert task.metrics(everything, batch)["balanced_accuracy"] == 0.5
    nothing = rules_of("connectivity").violation_rate(task, -everything, batch)
    edges = (batch.x > 0).sum(1) / 30
    torch.testing.assert_close(nothing, edges)


@pytest.mark.parametrize("size", [4, 9])
def test_excluded_mass_of_boards_is_a_plain_sum_over_peers(size):
    _, batch = sudokus(size)
    p = torch.rand(len(batch.x), size**2, size, generator=generator(size, "test"), dtype=torch.float64)
    found = rules_of("sudoku").excluded_mass((2 * p - 1).flatten(1), batch)
    for (_, puzzle, _), row, mass in zip(BY_SIZE[size], p.tolist(), found.tolist(), strict=True):
        clues = board(puzzle)
        empty = [cell for cell in range(size**2) if not clues[cell]]
        seen = [{clues[peer] for peer in peers(size)[cell]} - {0} for cell in range(size**2)]
        assert mass == pytest.approx(sum(row[c][d - 1] for c in empty for d in seen[c]) / len(empty))


@given(seed=seeds)
def test_excluded_mass_of_graphs_is_the_mean_doubt_about_edges_and_the_diagonal(seed):
    batch, _ = graphs(seed)
    p = torch.rand(batch.y.shape, generator=generator(seed, "p"), dtype=torch.float64)
    found = rules_of("connectivity").excluded_mass(2 * p - 1, batch)
    for x, row, mass in zip(batch.x.tolist(), p.tolist(), found.tolist(), strict=True):
        doubt = [1 - row[i] for i in range(25) if x[i] > 0 or i % 6 == 0]
        assert mass == pytest.approx(sum(doubt) / len(doubt))


def test_tasks_without_rules_are_refused_by_name():
    with pytest.raises(ParameterError, match=r"task = 'inverse': its answers follow no discrete rules; allowed: conn"):
        rules_of("inverse")
    with pytest.raises(ParameterError, match=r"task = 'partial_sort': .* allowed: connectivity, sudoku"):
        rules_of("partial_sort")
    with pytest.raises(ParameterError, match=r"unknown task 'sudokku' \(did you mean 'sudoku'\?\)"):
        rules_of("sudokku")


def test_a_task_of_ones_own_brings_its_rules(monkeypatch):
    class Never:
        def violation_rate(self, task, answers, batch):
            return torch.zeros(len(answers))

        def excluded_mass(self, y, batch):
            return torch.zeros(len(y))

    monkeypatch.setitem(RULES, "inverse", Never())
    assert isinstance(rules_of("inverse"), Rules)
    batch = Batch(torch.ones(2, 4), torch.ones(2, 4))
    assert rules_of("inverse").violation_rate(get_task("inverse", size=2), batch.y, batch).tolist() == [0, 0]
