"""The energy is the published formula, re-computed in float64 NumPy from the weights; its score is its gradient."""

import numpy as np
import pytest
import torch

from anm_nb.energy.networks import EnergyMLP, score_and_energy
from anm_nb.training.seeds import generator, initialise


def network(head="squared_norm", x_dim=6, y_dim=4, width=16):
    model = EnergyMLP(x_dim, y_dim, width, head, levels=10)
    initialise(model, generator(0, "weights"))
    source = generator(1, "test")
    x, y = torch.randn(7, x_dim, generator=source), torch.randn(7, y_dim, generator=source)
    return model, x, y, torch.randint(10, (7,), generator=source)


def published_energy(model, x, y, k):
    """IRED's energy from the weights alone, in NumPy and float64."""
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}

    def linear(name, h):
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def swish(h):
        return h / (1 + np.exp(-h))

    def gelu(h):
        from scipy.special import erf

        return h * (1 + erf(h / np.sqrt(2))) / 2

    frequencies = np.exp(-np.log(10000) * np.arange(64) / 63)
    angles = k[:, None] * frequencies
    level = linear("level.mlp.0", np.concatenate([np.sin(angles), np.cos(angles)], 1))
    level = linear("level.mlp.2", gelu(level))
    h = swish(linear("input", np.concatenate([x, y], 1)))
    for layer in ("first", "second"):
        gain, bias = np.split(linear(f"{layer}.modulation", level), 2, axis=1)
        h = swish(linear(f"{layer}.linear", h) * (1 + gain) + bias)
    out = linear("output", h)
    return (out**2).sum(1) if model.head == "squared_norm" else out[:, 0]


def test_parameter_count_of_the_published_network():
    assert sum(p.numel() for p in EnergyMLP(400, 400, width=512).parameters()) == 1_437_840


@pytest.mark.parametrize("head", ["squared_norm", "scalar"])
def test_energy_is_the_published_formula(head):
    model, x, y, k = network(head)
    expected = published_energy(model, x.double().numpy(), y.double().numpy(), k.numpy())
    np.testing.assert_allclose(model(x, y, k).detach(), expected, atol=1e-5)


@pytest.mark.parametrize("head", ["squared_norm", "scalar"])
def test_score_is_the_gradient_of_the_published_formula(head):
    model, x, y, k = network(head)
    score, energy = score_and_energy(model, x, y, k)
    x64, y64, step = x.double().numpy(), y.double().numpy(), 1e-5
    for entry in range(y.shape[1]):
        shift = np.zeros_like(y64)
        shift[:, entry] = step
        rise = published_energy(model, x64, y64 + shift, k.numpy())
        fall = published_energy(model, x64, y64 - shift, k.numpy())
        np.testing.assert_allclose(score[:, entry].detach(), (rise - fall) / (2 * step), atol=1e-5)
    torch.testing.assert_close(energy, model(x, y, k))


def test_weights_get_the_same_gradient_as_by_a_created_graph():
    model, x, y, k = network()
    score, _ = score_and_energy(model, x, y, k)
    ours = torch.autograd.grad(score.square().sum(), list(model.parameters()), allow_unused=True)
    point = y.clone().requires_grad_()
    (graph,) = torch.autograd.grad(model(x, point, k).sum(), point, create_graph=True)
    theirs = torch.autograd.grad(graph.square().sum(), list(model.parameters()), allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_weights_are_a_function_of_their_generator_alone():
    torch.manual_seed(1)
    first = network()[0].state_dict()
    torch.manual_seed(2)
    second = network()[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
