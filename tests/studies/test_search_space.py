"""Candidates are distinct, start with the default, and every one of them is a run that can be trained."""

import math

import pytest

from anm_nb.energy.negatives import Anm, AnmSimplex, Mixed
from anm_nb.studies.search_space import as_written, families
from anm_nb.studies.verdict_study import AnmVerdict
from anm_nb.tasks import get_task
from anm_nb.training.seeds import generator

TASKS = {"inverse": {"size": 2}, "lowrank": {"size": 3}, "sudoku": {"size": 4, "task_options": {"pool": 40}}}


@pytest.mark.parametrize("task", TASKS)
def test_every_value_of_every_choice_makes_a_config(task):
    settings = AnmVerdict(tasks=[task], per_task={task: TASKS[task]})
    for name, family in settings.families(task).items():
        for key, values in family.space.items():
            for value in values:
                config = settings.config(task, "fixed", name, {**family.default, key: value}, (0,))
                assert config.method in ("none", "stock", "anm", "anm_simplex", "mixed")
                assert config.training_examples == settings.training_examples


def test_candidates_are_the_default_and_others_without_repeats():
    for family in families(get_task("inverse", size=2)).values():
        possible = math.prod(len(values) for values in family.space.values())
        drawn = family.candidates(20, generator(0, "search"))
        assert drawn[0] == family.default
        assert len({tuple(choice.items()) for choice in drawn}) == len(drawn) == min(20, possible)
        assert all(choice[name] in family.space[name] for choice in drawn for name in family.space)
        assert drawn == family.candidates(20, generator(0, "search"))


def test_stock_and_mined_negatives_are_tuned_over_the_same_training_choices():
    known = families(get_task("inverse", size=2))
    assert set(known["none"].space) < set(known["stock"].space)
    shared = set(known["stock"].space) & set(known["anm"].space)
    assert {"lr_factor", "head", "weight", "weight_end", "contrast_from"} <= shared


def test_as_written_nothing_keeps_a_negative_legitimate():
    anm = families(get_task("inverse", size=2))["anm"]
    written = anm.negatives(as_written(anm))
    assert isinstance(written, Anm)
    assert not written.orthogonal_to_noise
    default = anm.negatives(anm.default)
    assert isinstance(default, Anm)
    assert default.orthogonal_to_noise


def test_a_discrete_task_is_mined_over_its_simplex_and_has_no_noise_to_choose():
    known = families(get_task("sudoku", size=4, pool=40))
    mined = known["anm"].negatives({**known["anm"].default, "eps": 0.25})
    assert isinstance(mined, AnmSimplex)
    assert (mined.legitimate, mined.miner.start) == (True, 0.125)
    assert "noise_factor" not in known["stock"].space


def test_a_curriculum_mixes_mined_with_stock_negatives():
    anm = families(get_task("inverse", size=2))["anm"]
    rising = anm.negatives({**anm.default, "mined_share": "rising"})
    assert isinstance(rising, Mixed)
    assert [rising.share(progress) for progress in (0.0, 0.5, 1.0)] == [0, 0.5, 1]
    assert rising.second.name == "stock"
