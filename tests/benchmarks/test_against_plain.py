"""What is timed side by side is the same mathematics: equal weights and draws give equal results and gradients."""

import pytest
import torch

from anm_nb.bench.plain import plain_module
from anm_nb.bench.ranking import RankingStep, document_config
from anm_nb.bench.workloads import WORKLOADS
from anm_nb.config import ParameterError

# Ten levels of descent amplify rounding: the first answer is divided by √ᾱ = 0.016.
TOLERANCE = {"sampler": 3e-3}
STEPS = [name for name in WORKLOADS if name.startswith(("ranking", "ired"))]


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_package_and_the_plain_reference_compute_the_same(name):
    pair = WORKLOADS[name].make("cpu", True)
    for _ in range(12):  # past the first update of the EMA that negatives are mined against
        ours, plain = pair.ours(), pair.plain()
        assert set(ours) == set(plain)
        for key, value in ours.items():
            tolerance = TOLERANCE.get(name, 1e-5)
            torch.testing.assert_close(value, plain[key], rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("name", STEPS)
def test_their_gradients_are_the_same_for_every_weight(name):
    pair = WORKLOADS[name].make("cpu", True)
    pair.ours(), pair.plain()
    ours, plain = pair.gradients()
    assert set(ours) == set(plain)
    assert all(float(gradient.abs().max()) > 0 for gradient in plain.values() if gradient.ndim == 2)
    for key, gradient in ours.items():
        torch.testing.assert_close(gradient, plain[key], rtol=1e-4, atol=1e-6)


def test_nothing_of_a_pair_s_two_ways_is_shared():
    """Running one of them ahead leaves the other's results as they were."""
    alone, ahead = (WORKLOADS["ired_anm"].make("cpu", True) for _ in range(2))
    expected = [alone.plain() for _ in range(3)]
    for _ in range(3):
        ahead.ours()
    for losses in expected:
        torch.testing.assert_close(ahead.plain(), losses, rtol=0, atol=0)


def test_a_second_seed_is_another_training():
    config = document_config(tiny=True)
    first, second = (RankingStep(config, "cpu", seed).plain()["loss_rank"] for seed in (1, 2))
    assert first != second


def test_without_a_checkout_the_references_are_missed_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr("anm_nb.bench.plain.project_root", lambda: tmp_path)
    with pytest.raises(ParameterError, match=r"plain_energy\.py is missing"):
        plain_module("plain_energy")
