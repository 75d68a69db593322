"""The settings of the ranking notebooks become runs that are shared wherever they are the same."""

import pytest
import yaml

from anm_nb.config import ParameterError
from anm_nb.files import project_root
from anm_nb.ranking.variants import FIXES
from anm_nb.store import run_key
from anm_nb.studies.ranking_settings import (
    HrmEntropy,
    HrmIterations,
    HrmPeriod,
    HrmTemperature,
    HrmVsBaseline,
    KendallForensics,
)

SWEEPS = (HrmIterations, HrmPeriod, HrmEntropy, HrmTemperature)
CLASSES = (KendallForensics, HrmVsBaseline, *SWEEPS)


def at_profile(settings, profile):
    path = project_root() / "params" / profile / f"{settings.notebook}.yaml"
    return settings.from_mapping(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_the_fifteen_configs_of_the_document_are_eleven_runs():
    listed = list(at_profile(HrmVsBaseline, "paper").configs().values())
    baselines = set()
    for sweep in SWEEPS:
        configs = at_profile(sweep, "paper").configs()
        baselines.add(run_key(configs.pop("baseline")))
        listed += configs.values()
    assert len(listed) == 15
    assert len({run_key(config) for config in listed}) == 11
    assert baselines == {run_key(listed[0])}


def test_the_paper_profile_is_the_document_s():
    hrm = at_profile(HrmVsBaseline, "paper").hrm()
    assert (hrm.size, hrm.mask_rate, hrm.width, hrm.n_heads, hrm.batch) == (20, 0.5, 128, 4, 32)
    assert (hrm.train_samples, hrm.epochs, hrm.max_inner_iters, hrm.hrm_period) == (1000, 100, 12, 4)
    assert (hrm.entropy_every, hrm.warmup_epochs, hrm.encoder_lr, hrm.controller_lr) == (5, 5, 3e-4, 1e-4)
    assert hrm.seeds == (1, 2, 3, 4, 5)
    values = [at_profile(sweep, "paper").values for sweep in SWEEPS]
    assert values == [(6, 8, 12, 16), (3, 4, 6), (5e-4, 1e-3, 2e-3), (1.5, 2.0, 2.5)]


@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_all_notebooks_share_the_same_hrm_run(profile):
    shared = {run_key(at_profile(settings, profile).hrm()) for settings in CLASSES}
    assert len(shared) == 1
    for sweep in SWEEPS:
        settings = at_profile(sweep, profile)
        assert run_key(settings.configs()[settings.compared_with()]) in shared
    assert run_key(at_profile(KendallForensics, profile).configs()["all"]) in shared


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_changes_one_field(sweep):
    settings = sweep()
    configs = settings.configs()
    assert list(configs) == ["baseline", *(settings.name_of(value) for value in settings.values)]
    models = list(configs.values())[1:]
    assert tuple(getattr(config, sweep.swept) for config in models) == settings.values
    others = [config.model_dump(exclude={sweep.swept}) for config in models]
    assert all(other == others[0] for other in others)


def test_forensics_add_and_remove_every_fix():
    configs = KendallForensics().configs()
    assert len(configs) == 3 + 2 * len(FIXES)
    assert configs["published baseline"].max_inner_iters == 1
    assert configs["published baseline"].encoding == configs["published"].encoding == "raw"
    assert len({run_key(config) for config in configs.values()}) == len(configs)


# A value other than the default for every setting that all notebooks have.
CHANGED = {
    "task": "hinted_sort", "size": 6, "mask_rate": 0.25, "width": 8, "n_heads": 2, "max_inner_iters": 5,
    "hrm_period": 3, "temperature": 1.5, "entropy_weight": 0.5, "entropy_every": 2, "warmup_epochs": 2,
    "encoder_lr": 1e-4, "controller_lr": 1e-5, "batch": 5, "epochs": 7, "train_samples": 11, "dev_samples": 12,
    "test_samples": 13, "seeds": [7], "precision": "bfloat16", "device": "cpu", "threads": 2, "stop_at_score": 0.5,
}  # fmt: skip


def test_every_setting_reaches_the_run():
    assert set(CHANGED) == set(HrmVsBaseline.model_fields)
    reached = HrmVsBaseline(**CHANGED).hrm().model_dump()
    assert {name: reached[name] for name in CHANGED} == CHANGED | {"seeds": (7,)}


@pytest.mark.parametrize("name", sorted(set(CHANGED) - {"device"}))
def test_every_setting_changes_the_run(name):
    plain, changed = HrmVsBaseline(device="cpu"), HrmVsBaseline(device="cpu", **{name: CHANGED[name]})
    assert run_key(plain.hrm()) != run_key(changed.hrm())


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        (HrmIterations, {"values": [2, 4]}, "max_inner_iters = 3 has to be among them"),
        (HrmIterations, {"values": [3, 3]}, "values = [3, 3]: each may appear once"),
        (HrmIterations, {"values": []}, "values = []: needs at least 1 item"),
        (HrmIterations, {"values": [1, 3]}, "hrm_period = 2: with max_inner_iters = 1"),
        (HrmPeriod, {"values": [2, 9]}, "hrm_period = 9: with max_inner_iters = 3"),
        (HrmEntropy, {"values": [-1.0, 1e-3]}, "should be greater than or equal to 0"),
        (HrmTemperature, {"values": [0.5, 2.0]}, "temperature_min = 0.8"),
        (HrmVsBaseline, {"task": "hinted_srot"}, "did you mean 'hinted_sort'"),
        (
            HrmVsBaseline,
            {"task": "addition"},
            "the ranking family needs a task whose answer is an order",
        ),
        (KendallForensics, {"task": "hinted_sort"}, "unknown parameter 'task'"),
        (HrmVsBaseline, {"n_heads": 3}, "n_heads = 3: has to divide width"),
        (HrmVsBaseline, {"mask_rate": 1.0}, "mask_rate = 1.0"),
        (KendallForensics, {"size": 500}, "size = 500: there are only 200"),
        (KendallForensics, {"values": [1]}, "unknown parameter 'values'"),
    ],
)
def test_unusable_settings_are_refused_when_they_are_made(settings, given, message):
    with pytest.raises(ParameterError) as refusal:
        settings(**given)
    assert message in str(refusal.value)


def test_references_are_the_task_s_own_and_the_same_every_time():
    settings = HrmVsBaseline()
    references = settings.reference_scores(200)
    assert references.equals(settings.reference_scores(200))
    assert set(references["kind"]) == {"trivial", "classical", "ceiling"}
