"""What the bench counts, against counts by hand."""

import pytest
import torch

from anm_nb.bench.flops import counted_flops
from anm_nb.bench.grid import projected
from anm_nb.bench.measure import Measured, together
from anm_nb.bench.memory import by_iterations, growth
from anm_nb.bench.ranking import grid
from anm_nb.energy.networks import EnergyMLP, energy_given, gradient_and_value
from anm_nb.ranking.networks import AttentionBlock

B, X, Y, W, LEVELS = 7, 6, 4, 16, 10


def test_operations_under_func_s_gradient_are_those_counted_by_hand():
    network = EnergyMLP(X, Y, W, levels=LEVELS)
    x, y, k = torch.ones(B, X), torch.ones(B, Y), torch.zeros(B, dtype=torch.long)

    @torch.no_grad()
    def score():
        gradient_and_value(energy_given(network, x, k), y)

    of_levels = LEVELS * (2 * 128 * 128 + 2 * 128 * 2 * W)  # the embedding's two layers, two modulations
    once = B * X * W  # the product with x, which no gradient goes through
    twice = B * (Y * W + 2 * W * W + W * Y)  # forward, and backward to y
    assert counted_flops(score) == 2 * (of_levels + once + 2 * twice)


def test_attention_counts_its_two_products():
    block, z = AttentionBlock(8, 2), torch.ones(3, 5, 8)
    projections = 3 * 5 * (8 * 24 + 8 * 8 + 2 * 8 * 16)
    with torch.no_grad():
        assert counted_flops(lambda: block(z)) == 2 * (projections + 2 * 3 * 5 * 5 * 8)


def test_growth_is_the_line_through_the_numbers():
    line = growth({1: 5.0, 2: 7.0, 4: 11.0})
    assert line == pytest.approx({"mib_an_iteration": 2.0, "mib_at_none": 3.0, "largest_deviation": 0.0}, abs=1e-9)


def test_memory_grows_by_iterations_with_full_gradients_only():
    kept = by_iterations(tiny=True)
    full, last = growth(kept["full"]), growth(kept["last"])
    assert kept["full"][1] == kept["last"][1]
    assert full["largest_deviation"] < 0.02 * kept["full"][16]
    assert 0 <= last["mib_an_iteration"] < 0.05 * full["mib_an_iteration"]


def test_the_grid_is_eleven_configs_each_once():
    configs = grid()
    assert len(configs) == 11
    assert sorted({config.max_inner_iters for config in configs}) == [1, 6, 8, 12, 16]
    assert len({config.model_dump_json() for config in configs}) == 11


def test_the_projection_is_the_grid_s_operations_at_the_full_config_s_pace():
    found = projected(0.1, evaluation=0.8, at_a_time=2)
    assert found["epoch_seconds"] == pytest.approx(32 * 0.1 + 0.8)  # 1000 arrays in batches of 32
    assert found["runs"] == 55
    # seven configs of 12 iterations and one each of 1, 6, 8 and 16
    assert 7 * 500 < found["epochs_of_the_full_config"] < 11 * 500
    assert found["hours"] == pytest.approx(found["epochs_of_the_full_config"] * 4.0 / 2 / 3600)


def test_processes_at_the_same_time_sum_their_work_and_not_their_time():
    one = {"rate": 50.0, "share": 0.5, "peak_mib": 300.0, "start_mib": 200.0, "rounds": 3, "processes": 1, "threads": 1}
    first = Measured(seconds=1.0, plain_seconds=6.0, speedup=6.0, flops=25, plain_flops=30, device="cpu", **one)
    second = Measured(seconds=2.0, plain_seconds=0.0, speedup=0.0, flops=25, plain_flops=30, device="cpu", **one)
    both = together([first, second])
    assert (both.seconds, both.plain_seconds, both.speedup) == (1.5, 6.0, 6.0)
    assert (both.flops, both.plain_flops, both.rate, both.peak_mib) == (50, 60, 100.0, 600.0)
    assert (both.share, both.processes) == (0.5, 2)
