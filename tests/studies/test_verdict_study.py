"""The study tunes on dev only, confirms on fresh seeds, and goes on where it was stopped."""

import json
import math

import pandas as pd
import pytest

from anm_nb import store
from anm_nb.config import ParameterError
from anm_nb.energy.train import EnergyConfig
from anm_nb.studies import verdict_study
from anm_nb.studies.verdict_study import AnmVerdict, batch_of_equal_time, study

TINY = {
    "tasks": ["inverse"], "size": 2, "width": 8, "batch": 8, "steps": 4, "training_examples": 24, "dev_examples": 8,
    "test_examples": 8, "candidates": 2, "survivors": 1, "tuning_seeds": [7, 8], "seeds": [0, 1], "jobs": 1,
    "per_task": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole study, small, in a store of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANM_NB_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        patch.setattr(verdict_study, "COST_ROUNDS", 2)
        settings = AnmVerdict.from_mapping(TINY)
        done = study(settings)
        trained = len(store.finished_runs())
        again = study(settings)
        yield settings, done, again, trained, len(store.finished_runs())


def test_every_family_is_tuned_with_as_many_candidates_and_seeds(finished):
    _, done, *_ = finished
    sifted = done.tuning[(done.tuning["training"] == "unlimited") & (done.tuning["seed"] == 7)]
    assert dict(sifted.groupby("family")["candidate"].nunique()) == {"anm": 2, "none": 2, "stock": 2}
    compared = done.tuning[(done.tuning["training"] == "unlimited") & (done.tuning["seed"] == 8)]
    assert dict(compared.groupby("family")["candidate"].nunique()) == {"anm": 1, "none": 1, "stock": 1}


def test_the_choice_is_the_candidate_with_the_least_dev_error(finished):
    _, done, *_ = finished
    for plan in done.plans:
        rows = done.tuning[done.tuning["training"] == plan.training]
        for family, choice in plan.chosen.items():
            own = rows[rows["family"] == family].groupby("choice")["dev_error"]
            full = own.mean()[own.count() == 2]
            assert json.loads(str(full.idxmin())) == choice


def test_confirmed_on_fresh_seeds_and_tested_on_the_test_stream(finished):
    settings, done, *_ = finished
    assert {training for _, training, _ in done.confirmed} == {"unlimited", "fixed"}
    for (_, training, method), run in done.confirmed.items():
        assert isinstance(run.config, EnergyConfig)
        assert run.config.seeds == settings.seeds
        assert (run.config.training_examples is None) == (training == "unlimited")
        assert run.metrics["same/mse/model"].notna().sum() == len(settings.seeds), method


def test_equal_time_is_what_the_steps_cost(finished):
    settings, done, *_ = finished
    for plan in done.plans:
        for family, steps in plan.longer.items():
            assert steps * plan.step_ms[family] == pytest.approx(
                settings.steps * plan.step_ms["anm"], abs=plan.step_ms[family]
            )
            run = done.confirmed[plan.task, plan.training, f"{family}_longer"]
            assert run.settings["steps"] == steps
        larger = done.confirmed[plan.task, plan.training, "none_larger_batch"].settings
        assert (larger["batch"], larger["steps"]) == (plan.larger_batch, settings.steps)


def test_a_study_that_goes_on_trains_nothing_again_and_keeps_its_plan(finished):
    _, done, again, trained, trained_later = finished
    assert trained == trained_later
    assert again.plans == done.plans
    pd.testing.assert_frame_equal(again.tuning, done.tuning)


def test_the_published_methods_are_trained_as_published(finished):
    _, done, *_ = finished
    written = done.confirmed["inverse", "unlimited", "anm"].config
    assert isinstance(written, EnergyConfig)
    assert written.negatives is not None
    assert written.negatives.model_dump()["orthogonal_to_noise"] is False
    assert not written.soft_label


def test_a_candidate_that_diverges_is_never_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    settings = AnmVerdict.from_mapping(TINY)
    good = settings.families("inverse")["none"].default
    known = {("inverse", "none"): [{**good, "lr_factor": 1 / settings.lr}, good]}
    monkeypatch.setattr(EnergyConfig, "lr_factor", lambda self, step: 1e30 if self.lr > 0.9 else 1.0)
    table = verdict_study._tune(settings, known, "unlimited", [("inverse", "none", i) for i in (0, 1)], (7,))
    assert table.set_index("candidate")["dev_error"].map(math.isinf).tolist() == [True, False]
    assert verdict_study._best(table, 1) == [("inverse", "none", 1)]


def test_the_batch_of_equal_time_lies_on_the_line_through_the_times():
    sizes = [100, 200, 400]
    times = [3.0, 4.0, 6.0]
    assert batch_of_equal_time(sizes, times, 5.0) == 300
    assert batch_of_equal_time(sizes, times, 50.0) == 400  # no further than was timed
    assert batch_of_equal_time(sizes, times, 0.5) == 100
    assert batch_of_equal_time(sizes, [3.0, 3.0, 2.0], 5.0) == 400  # what costs nothing


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seeds": [7, 9]}, r"seeds and tuning_seeds share \[7\]"),
        ({"tuning_seeds": [7]}, "tuning_seeds = .7.: needs one to sift by and one to choose by"),
        ({"tasks": ["invers"]}, "did you mean 'inverse'"),
        ({"tasks": ["partial_sort"]}, "'partial_sort' has no flat target"),
        ({"per_task": {"sudok": {}}}, "did you mean 'sudoku'"),
        ({"per_task": {"inverse": {"stepz": 3}}}, "did you mean 'steps'"),
        ({"survivors": 0}, "survivors = 0"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(values, message):
    with pytest.raises(ParameterError, match=message):
        AnmVerdict.from_mapping(TINY | values)
