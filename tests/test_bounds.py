"""A slip of the keyboard is refused before any training, by the parameter's name and in a few words."""

import pytest
from pydantic import create_model

from anm_nb import bounds
from anm_nb.bounds import machine_memory, require_memory
from anm_nb.config import ParameterError, Parameters
from anm_nb.exploration import ExploreMargins, ExploreRouting
from anm_nb.studies.energy_settings import AnmVsCorruption
from anm_nb.studies.miner_study import MinerConvergence
from anm_nb.studies.verdict_study import AnmVerdict
from anm_nb.studies.within_experiments import WithinRun


@pytest.mark.parametrize(
    ("kind", "usable", "unusable"),
    [
        (bounds.Seeds, [0, 2**32 - 1], [2**32]),
        (bounds.Seeds, list(range(1000)), list(range(1001))),
        (bounds.Seeds, [1], []),
        (bounds.Seeds, [1, 2], [1, 1]),
        (bounds.Seeds, (1, 2), [1.0]),
        (bounds.Seeds, [1, 2], [True]),
        (bounds.Steps, 50_000, 10**9),
        (bounds.Steps, 1, 0),
        (bounds.Epochs, 100, 10**6),
        (bounds.Records, 3, 2),
        (bounds.Records, 10**4, 10**10),
        (bounds.Count, 12, 10**6),
        (bounds.Counts, [1, 5], [1, 1]),
        (bounds.Counts, [1], []),
        (bounds.Examples, 10**6, 10**12),
        (bounds.Size, 200, 10**6),
        (bounds.Width, 512, 10**7),
        (bounds.Threads, 1024, 10**10),
        (bounds.LearningRate, 1e-4, 0.0),
        (bounds.LearningRate, 1.0, 1.1),
        (bounds.LearningRate, 1e-9, 1e5),
        (bounds.LearningRate, 1e-9, float("nan")),
        (bounds.Weight, 0.0, -0.1),
        (bounds.Weight, 100.0, 1e6),
        (bounds.Decay, 0.999, 1.0),
        (bounds.Fraction, 1.0, 0.0),
        (bounds.Rate, 0.0, 1.0),
        (bounds.Rates, [0.0, 0.5], [0.5, 0.5]),
        (bounds.Temperature, 2.0, 1e5),
    ],
)
def test_types_take_what_is_meant_and_refuse_a_slip_by_the_field_s_name(kind, usable, unusable):
    model = create_model("Model", __base__=Parameters, field=(kind, ...))
    model(field=usable)
    with pytest.raises(ParameterError, match=r"^field"):
        model(field=unusable)


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        (AnmVerdict, {"test_inner_steps": []}, "test_inner_steps = []: needs at least 1 item"),
        (AnmVerdict, {"per_task": {"inverse": {"width": 0}}}, "per_task.inverse: width = 0: should be greater than 0"),
        (AnmVsCorruption, {"strategies": ["none", "stok"]}, "strategies.1: unknown negative strategy 'stok'"),
        (AnmVsCorruption, {"strategies": ["anm", "anm"]}, "strategies = ['anm', 'anm']: each may appear once"),
        (AnmVsCorruption, {"task": "invers"}, "task: unknown task 'invers' (did you mean 'inverse'?)"),
        (WithinRun, {"miners": ["amn"]}, "miners.0: unknown negative strategy 'amn' (did you mean 'anm'?)"),
        (WithinRun, {"baseline": "stok"}, "baseline: unknown negative strategy 'stok' (did you mean 'stock'?)"),
        (AnmVerdict, {"survivors": 3, "candidates": 2}, "survivors = 3: at most candidates = 2"),
        (AnmVerdict, {"jobs": 10**6}, "jobs = 1000000: should be less than or equal to 1024"),
        (
            AnmVsCorruption,
            {"seeds": [2**64]},
            "seeds.0 = 18446744073709551616: should be less than or equal",
        ),
        (ExploreRouting, {"seeds": [2**64]}, "seeds.0 = 18446744073709551616: should be less"),
        (AnmVsCorruption, {"records": 10**10}, "records = 10000000000: should be less than or equal to 10000"),
        (AnmVsCorruption, {"threads": 10**10}, "threads = 10000000000: should be less than or equal to 1024"),
        (ExploreRouting, {"threads": 10**10}, "threads = 10000000000: should be less"),
        (AnmVsCorruption, {"lr": 10.0}, "lr = 10.0: should be less than or equal to 1"),
        (ExploreRouting, {"encoder_lr": 3e4}, "encoder_lr = 30000.0: should be less"),
        (ExploreRouting, {"entropy_weight": 1e9}, "entropy_weight = 1000000000.0: should be less"),
        (AnmVsCorruption, {"contrastive_weight": 1e30}, "contrastive_weight = 1e+30: should be less"),
        (ExploreRouting, {"epochs": 10**7}, "epochs = 10000000: should be less"),
        (ExploreRouting, {"max_inner_iters": 10**6}, "max_inner_iters = 1000000: should be less"),
        (MinerConvergence, {"batches": [64, 64]}, "batches = [64, 64]: each may appear once"),
        (MinerConvergence, {"ema_decays": []}, "ema_decays = []: needs at least 1 item"),
        (ExploreMargins, {"board": {"steps": 0}}, "board: steps = 0: should be greater than 0"),
    ],
)
def test_what_would_fail_after_training_is_refused_when_settings_are_made(settings, given, message):
    with pytest.raises(ParameterError) as refusal:
        settings.from_mapping(given)
    assert message in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_memory_that_the_machine_lacks_is_refused_with_the_estimate_and_what_it_is_due_to():
    values = {"size": 1000, "batch": 2048, "width": 8}
    needed = {"batch size": 3 * 2**30, "width": 2**29 // 2}
    with pytest.raises(ParameterError) as refusal:
        require_memory(values, needed, available=2**30)
    assert str(refusal.value) == "batch = 2048, size = 1000: needs at least 3.2 GiB; there are 1.0 GiB"
    require_memory(values, {"size": 2**30}, available=2**30)
    require_memory(values, {"size": 2**20})
    with pytest.raises(ParameterError, match=r"^size = 1000: needs at least .* GiB"):
        require_memory(values, {"size": machine_memory() + 1})


@pytest.mark.parametrize(
    ("settings", "given"),
    [
        (AnmVsCorruption, {"size": 5000}),
        (AnmVsCorruption, {"width": 90_000}),
        (AnmVsCorruption, {"batch": 10**9}),
        (AnmVsCorruption, {"dev_examples": 10**9}),
        (ExploreRouting, {"train_samples": 10**9}),
        (ExploreRouting, {"test_samples": 10**9}),
        (ExploreRouting, {"width": 10**5}),
        (ExploreRouting, {"batch": 10**6, "train_samples": 10**7, "max_inner_iters": 1000}),
    ],
    ids=str,
)
def test_sizes_that_no_memory_here_holds_are_refused_before_training(settings, given, monkeypatch):
    monkeypatch.setattr("anm_nb.bounds.machine_memory", lambda: 16 * 2**30)
    with pytest.raises(ParameterError, match=r"needs at least [0-9,]+\.[0-9] GiB; there are 16\.0 GiB$") as refusal:
        settings.from_mapping(given)
    assert len(str(refusal.value)) < 300
    assert next(iter(given)).removesuffix("_examples") in str(refusal.value)
