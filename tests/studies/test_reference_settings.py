"""Notebook 01's settings: one table of every task's reference scores, with what cannot be scored refused."""

import pytest

from anm_nb.config import ParameterError
from anm_nb.studies.reference_settings import ReferenceScores


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
