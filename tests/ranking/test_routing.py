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


def gru(cell):
    """torch's cell with the weights of ours."""
    reference = nn.GRUCell(cell.input.in_features, cell.recurrent.in_features).double()
    theirs = {"ih": cell.input, "hh": cell.recurrent}
    reference.load_state_dict(
        {f"{kind}_{name}": getattr(layer, kind) for name, layer in theirs.items() for kind in ("weight", "bias")}
    )
    return reference


def test_the_written_out_cell_is_torchs_gru_cell():
    cell = GatedCell(4, 3).double()
    initialise(cell, generator(0, "weights"))
    x, h = tokens(2, 9, 4)[0], tokens(2, 9, 3)[1]
    torch.testing.assert_close(cell(x, h), gru(cell)(x, h))


def test_the_slow_state_moves_once_a_period_and_the_fast_one_always():
    module, z = controller(period=3), tokens()
    state = module.start(z)
    for iteration in range(7):
        _, after = module(z, state, iteration)
        assert not torch.equal(after.fast, state.fast)
        assert torch.equal(after.slow, state.slow) == ((iteration + 1) % 3 != 0)
        state = after


def test_without_a_slow_state_the_controller_is_one_gated_cell():
    module, z = controller(slow_state=False), tokens(1)
    assert not [name for name, _ in module.named_parameters() if "slow" in name]
    state, h, cell = module.start(z), torch.zeros(7, 5, dtype=torch.float64), gru(module.fast)
    for iteration in range(4):
        alpha, state = module(z, state, iteration)
        h = cell(z[0], h)
        torch.testing.assert_close(alpha[0], module.logits(h).softmax(-1))


def test_weights_are_a_distribution_over_heads_and_temperature_flattens_it():
    module, z = controller(), tokens()
    entropies = []
    for temperature in (0.1, 1.0, 10.0):
        module.temperature.fill_(temperature)
        alpha, _ = module(z, module.start(z), 0)
        torch.testing.assert_close(alpha.sum(-1), torch.ones(3, 7, dtype=torch.float64))
        entropies.append(float(routing_entropy(alpha).mean().detach()))
    assert entropies == sorted(entropies)
    assert entropies[-1] == pytest.approx(math.log(4), abs=1e-3)


@pytest.mark.parametrize("per_sequence", [True, False])
def test_routing_sees_its_own_token_or_the_whole_sequence(per_sequence):
    module, z = controller(per_sequence=per_sequence), tokens()
    alpha, _ = module(z, module.start(z), 0)
    assert torch.equal(alpha, alpha[:, :1].expand_as(alpha)) == per_sequence
    z[:, -1] += 1
    changed, _ = module(z, module.start(z), 0)
    assert torch.equal(changed[:, :-1], alpha[:, :-1]) != per_sequence
    assert not torch.equal(changed[:, -1], alpha[:, -1])


def test_measures_of_known_distributions():
    one, uniform = torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.full((4,), 0.25)
    assert (float(routing_entropy(one)), float(herfindahl(one))) == (0, 1)
    assert float(routing_entropy(uniform)) == pytest.approx(math.log(4))
    assert float(herfindahl(uniform)) == pytest.approx(0.25)
    assert float(routing_entropy(torch.tensor([0.5, 0.25, 0.25]))) == pytest.approx(1.5 * math.log(2))
