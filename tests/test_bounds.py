"""A slip of the keyboard is refused before any training, by the parameter's name and in a few words."""

import pytest
import torch
from pydantic import create_model
from torch import nn

from anm_nb import bounds
from anm_nb.bounds import machine_memory, require_memory, weight_bytes
from anm_nb.config import ParameterError, Parameters
from anm_nb.energy.train import EnergyConfig
from anm_nb.ranking.train import RankingConfig


@pytest.mark.parametrize(
    ("kind", "usable", "unusable"),
    [
        (bounds.Seeds, [0, 2**32 - 1], [2**32]),
        (bounds.Seeds, [1], []),
        (bounds.Seeds, [1, 2], [1, 1]),
        (bounds.Seeds, [1, 2], [True]),
        (bounds.Steps, 1, 0),
        (bounds.Epochs, 100, 10**6),
        (bounds.Records, 3, 2),
        (bounds.Records, 10**4, 10**10),
        (bounds.Counts, [1, 5], [1, 1]),
        (bounds.Examples, 10**6, 10**12),
        (bounds.Size, 200, 10**6),
        (bounds.Width, 512, 10**7),
        (bounds.Threads, 1024, 10**10),
        (bounds.LearningRate, 1e-4, 0.0),
        (bounds.LearningRate, 1e-9, 1e5),
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
    ("config", "given", "message"),
    [
        (EnergyConfig, {"seeds": [2**64]}, "seeds.0 = 18446744073709551616: should be less than or equal"),
        (EnergyConfig, {"records": 10**10}, "records = 10000000000: should be less than or equal to 10000"),
        (EnergyConfig, {"threads": 10**10}, "threads = 10000000000: should be less than or equal to 1024"),
        (EnergyConfig, {"lr": 10.0}, "lr = 10.0: should be less than or equal to 1"),
        (EnergyConfig, {"contrastive_weight": 1e30}, "contrastive_weight = 1e+30: should be less"),
        (RankingConfig, {"encoder_lr": 3e4}, "encoder_lr = 30000.0: should be less"),
        (RankingConfig, {"epochs": 10**7}, "epochs = 10000000: should be less"),
        (RankingConfig, {"max_inner_iters": 10**6}, "max_inner_iters = 1000000: should be less"),
    ],
)
def test_what_would_fail_after_training_is_refused_when_a_config_is_made(config, given, message):
    with pytest.raises(ParameterError) as refusal:
        config.from_mapping(given)
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
    ("config", "given"),
    [
        (EnergyConfig, {"size": 5000}),
        (EnergyConfig, {"width": 90_000}),
        (EnergyConfig, {"batch": 10**9}),
        (EnergyConfig, {"dev_examples": 10**9}),
        (RankingConfig, {"train_samples": 10**9}),
        (RankingConfig, {"width": 10**5}),
        (RankingConfig, {"batch": 10**6, "train_samples": 10**7, "max_inner_iters": 1000}),
    ],
    ids=str,
)
def test_sizes_that_no_memory_here_holds_are_refused_before_training(config, given, monkeypatch):
    monkeypatch.setattr("anm_nb.bounds.machine_memory", lambda: 16 * 2**30)
    with pytest.raises(ParameterError, match=r"needs at least [0-9,]+\.[0-9] GiB; there are 16\.0 GiB$") as refusal:
        config.from_mapping(given)
    assert len(str(refusal.value)) < 300
    assert next(iter(given)).removesuffix("_examples") in str(refusal.value)


def test_weights_in_training_are_what_adam_and_an_average_take():
    network = nn.Linear(64, 64)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.zeros(1, 64)).sum().backward()
    optimiser.step()
    moments = [each for state in optimiser.state.values() for each in state.values() if each.numel() > 1]
    weights = list(network.parameters())
    held = [*weights, *(weight.grad for weight in weights), *weights, *moments]
    needed = weight_bytes(lambda: nn.Linear(64, 64))
    assert needed == sum(4 * each.numel() for each in held)
    assert weight_bytes(lambda: nn.Linear(64, 64), kept=10) == 3 * needed
    assert weight_bytes(lambda: nn.Linear(10**6, 10**6)) > 20 * 10**12  # counted, never made
