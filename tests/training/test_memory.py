"""The estimate is what the tensors of a training take, and never allocates them."""

import torch
from torch import nn

from anm_nb.bounds import weight_bytes


def test_it_is_what_adam_and_an_average_take():
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


def test_networks_larger_than_any_machine_are_counted_without_being_made():
    assert weight_bytes(lambda: nn.Linear(10**6, 10**6)) > 20 * 10**12
