"""The study of where iteration helps trains what it says: every run once, in as many steps, under a name of its own."""

import pytest
import yaml

from anm_nb.config import ParameterError
from anm_nb.files import project_root
from anm_nb.ranking.variants import comparators
from anm_nb.store import run_key
from anm_nb.studies.iteration_study import MODELS, WhereIterationHelps


def at_profile(profile):
    path = project_root() / "params" / profile / "25_where_iteration_helps.yaml"
    return WhereIterationHelps.from_mapping(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("profile", "count"), [("quick", 26), ("mid", 30)])
def test_every_run_is_another_one(profile, count):
    configs = at_profile(profile).configs()
    assert len(configs) == count
    assert len({run_key(config) for config in configs.values()}) == count


def test_smaller_training_sets_are_seen_for_as_many_steps_with_schedules_stretched():
    settings = at_profile("mid")
    own = settings.hrm()
    for count in (1000, 2000):
        times = 4000 // count
        config = settings.varied("train_samples", count)[f"HRM per token, train_samples = {count}"]
        assert config.train_samples == count
        assert config.epochs == times * own.epochs
        assert (
            config.total_steps() == own.total_steps() or count % own.batch
        )  # a last batch that is not full is one more
        for epoch in range(own.epochs):
            assert config.temperature_at(times * epoch) == pytest.approx(own.temperature_at(epoch))
            assert config.entropy_weight_at(times * epoch) == pytest.approx(own.entropy_weight_at(epoch))
        assert config.warmup_epochs * count == own.warmup_epochs * own.train_samples


def test_names_say_what_was_changed_and_nothing_where_it_is_the_settings_own():
    settings = at_profile("mid")
    assert set(settings.varied("mask_rate", 0.5)) == set(MODELS)
    assert list(settings.varied("mask_rate", 0.9)) == [f"{model}, mask_rate = 0.9" for model in MODELS]
    assert next(iter(settings.varied("size", 12))) == "no iteration, size = 12"
    assert set(settings.varied("wrong_rate", 0.0)) == set(MODELS)
    noisy = settings.varied("wrong_rate", 0.2)["weight-tied, wrong_rate = 0.2"]
    assert noisy.task_options == settings.hrm().task_options | {"wrong_rate": 0.2}
    (control,) = settings.control().values()
    assert control.task_options == settings.hrm().task_options | {"hints": "shuffled"}
    assert control.changed(task_options=settings.hrm().task_options) == settings.hrm()


def test_what_is_not_changed_is_the_comparator_s():
    settings = at_profile("mid")
    for name, value in (("mask_rate", 0.9), ("size", 12)):
        for model, own in comparators(settings.hrm()).items():
            if model in MODELS:
                changed = settings.varied(name, value)[f"{model}, {name} = {value:g}"]
                assert changed.changed(**{name: getattr(own, name)}) == own
    assert settings.hrm().task_options["code_width"] == settings.code_width == 12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_sizes": [100]}, "train_sizes: 100 does not divide train_samples = 256"),
        ({"mask_rates": [1.0]}, "mask_rates"),
        ({"max_inner_iters": 1}, "max_inner_iters = 1"),
        ({"patiences": [0]}, "patiences"),
        ({"code_width": 4}, "code_width = 4"),
        ({"test_iteration": [1]}, "did you mean 'test_iterations'?"),
    ],
)
def test_unusable_settings_are_refused_when_they_are_made(given, message):
    with pytest.raises(ParameterError) as refusal:
        WhereIterationHelps(**given)
    assert message in str(refusal.value)
