"""The HRM controller's arithmetic and timescales, and the measures of routing."""

import math

import pytest
import torch
from torch import nn

from anm_nb.ranking.routing import Controller, GatedCell, herfindahl, routing_entropy
from anm_nb.training.seeds import generator, initialise


def controller(**options):
    settings = {"width": 6, "n_heads": 4, "state": 5, "period": 2, "per_sequence": False} | options
    module = Controller(**settings).double()
    initialise(module, generator(0, "weights"))
    return module


def tokens(batch=3, items=7, width=6):
    return torch.randn(batch, items, width, dtype=torch.float64, generator=generator(0, "tokens"))


def test_the_written_out_cell_is_torchs_gru_cell():
    cell, reference = GatedCell(4, 3).double(), nn.GRUCell(4, 3).double()
    initialise(cell, generator(0, "weights"))
    with torch.no_grad():
        reference.weight_ih.copy_(cell.input.weight)
        reference.bias_ih.copy_(cell.input.bias)
        reference.weight_hh.copy_(cell.recurrent.weight)
        reference.bias_hh.copy_(cell.recurrent.bias)
    x, h = tokens(2, 9, 4)[0], tokens(2, 9, 3)[1]
    torch.testing.assert_close(cell(x, h), reference(x, h))


def test_the_slow_state_moves_once_a_period_and_the_fast_one_always():
    module, z = controller(period=3), tokens()
    state = module.start(z)
    for iteration in range(7):
        _, after = module(z, state, iteration)
        assert not torch.equal(after.fast, state.fast)
        assert torch.equal(after.slow, state.slow) == ((iteration + 1) % 3 != 0)
        state = after


def test_weights_are_a_distribution_over_heads_and_temperature_flattens_it():
    module, z = controller(), tokens()
    entropies = []
    for temperature in (0.1, 1.0, 10.0):
        module.temperature.fill_(temperature)
        alpha, _ = module(z, module.start(z), 0)
        assert alpha.shape == (3, 7, 4)
        torch.testing.assert_close(alpha.sum(-1), torch.ones(3, 7, dtype=torch.float64))
        entropies.append(float(routing_entropy(alpha).mean().detach()))
    assert entropies == sorted(entropies)
    assert entropies[-1] == pytest.approx(math.log(4), abs=1e-3)


def test_per_sequence_routing_treats_tokens_alike_and_sees_them_all():
    module, z = controller(per_sequence=True), tokens()
    alpha, state = module(z, module.start(z), 0)
    assert alpha.shape == (3, 7, 4)
    assert state.fast.shape == (3, 1, 5)
    assert torch.equal(alpha, alpha[:, :1].expand_as(alpha))
    z[:, -1] += 1
    assert not torch.equal(module(z, module.start(z), 0)[0][:, 0], alpha[:, 0])


def test_per_token_routing_sees_its_own_token_only():
    module, z = controller(), tokens()
    alpha, _ = module(z, module.start(z), 0)
    z[:, -1] += 1
    changed, _ = module(z, module.start(z), 0)
    assert torch.equal(changed[:, :-1], alpha[:, :-1])
    assert not torch.equal(changed[:, -1], alpha[:, -1])


def test_measures_of_known_distributions():
    one, uniform = torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.full((4,), 0.25)
    assert float(routing_entropy(one)) == 0
    assert float(routing_entropy(uniform)) == pytest.approx(math.log(4))
    assert float(herfindahl(one)) == 1
    assert float(herfindahl(uniform)) == pytest.approx(0.25)
    assert float(routing_entropy(torch.tensor([0.5, 0.25, 0.25]))) == pytest.approx(1.5 * math.log(2))
