"""Reference scores of several tasks: one table, a function of the seed, with what cannot be meant refused."""

import numpy as np
import pytest

from anm_nb.config import ParameterError
from anm_nb.tasks import get_task
from anm_nb.tasks.references import ReferenceScores, reference_scores


def test_every_task_is_scored_on_both_kinds_of_problems():
    settings = ReferenceScores(tasks=("addition", "partial_sort"), size=4, problems=50, seeds=(0, 3))
    scores = settings.scores()
    assert list(scores) == ["task", "split", "seed", "name", "kind", "metric", "value", "low", "high"]
    groups = scores.groupby(["task", "split", "seed"])["kind"].agg(set)
    assert len(groups) == 2 * 2 * 2
    assert all(kinds == {"trivial", "classical", "ceiling"} for kinds in groups)
    addition = scores[scores["task"] == "addition"].set_index(["name", "split", "seed"])["value"]
    assert addition["zero", "harder", 0] == pytest.approx(2 * 2.5**2 / 3, rel=0.15)
    assert addition["zero", "same", 0] != addition["zero", "same", 3]


def test_scores_are_a_function_of_the_seed():
    tasks = {"inverse": get_task("inverse", size=3)}
    first, again, other = (reference_scores(tasks, 20, seed) for seed in (1, 1, 2))
    assert first.equals(again)
    assert not np.allclose(first["value"], other["value"])


def test_intervals_narrow_with_the_number_of_problems_and_hold_the_mean():
    tasks = {"addition": get_task("addition", size=3)}
    widths = []
    for problems in (100, 10_000):
        zero = reference_scores(tasks, problems, 0).set_index(["name", "split"]).loc[("zero", "same")]
        assert zero["low"] < zero["value"] < zero["high"]
        widths.append(zero["high"] - zero["low"])
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.3)


def test_no_constant_beats_the_best_one():
    scores = reference_scores({"inverse": get_task("inverse", size=4)}, 300, 0)
    values = scores[scores["split"] == "harder"].set_index("name")["value"]
    assert values["best constant"] <= min(values["zero"], values["mean target"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tasks": ["inverse", "lowrnk"]}, "unknown task 'lowrnk' (did you mean 'lowrank'?)"),
        ({"tasks": ["inverse", "inverse"]}, "each may appear once"),
        ({"tasks": ["sudoku"], "task_options": {}}, "size = 20"),
        ({"task_options": {"sudoko": {}}}, "unknown task 'sudoko' (did you mean 'sudoku'?)"),
        ({"task_options": {"connectivity": {"nodes": 12}}}, "unknown parameter 'nodes'"),
        ({"problems": 1}, "problems = 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(values, message):
    with pytest.raises(ParameterError) as refusal:
        ReferenceScores.from_mapping(values)
    assert message in str(refusal.value)
