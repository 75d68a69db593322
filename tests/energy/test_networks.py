"""Energies match their formulas, recomputed from the weights in float64 NumPy; scores are their gradients."""

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from scipy.special import erf

from anm_nb.config import ParameterError
from anm_nb.energy.networks import EnergyMLP, GraphEnergy, SudokuEnergy, energy_given, get_network, gradient_and_value
from anm_nb.tasks import get_task
from anm_nb.training.seeds import generator, initialise


def drawn(model, x_dim, y_dim, batch, seed=1):
    """A network with drawn weights, and inputs, targets and levels for it."""
    initialise(model, generator(0, "weights"))
    source = generator(seed, "test")
    x, y = torch.randn(batch, x_dim, generator=source), torch.randn(batch, y_dim, generator=source)
    return model, x, y, torch.randint(10, (batch,), generator=source)


def score_and_energy(model, x, y, k):
    return gradient_and_value(energy_given(model, x, k), y)


def swish(h):
    return h / (1 + np.exp(-h))


class Weights(dict):
    """A network's weights in float64 NumPy, and the operations that all networks share."""

    def __init__(self, model):
        super().__init__((name, value.double().numpy()) for name, value in model.state_dict().items())

    def linear(self, name, h):
        return h @ self[f"{name}.weight"].T + self.get(f"{name}.bias", 0.0)

    def levels(self, k):
        """The embedding of levels k [b]: sinusoids, Linear, GELU, Linear."""
        angles = k[:, None] * np.exp(-np.log(10000) * np.arange(64) / 63)
        hidden = self.linear("level.mlp.0", np.concatenate([np.sin(angles), np.cos(angles)], 1))
        return self.linear("level.mlp.2", hidden * (1 + erf(hidden / np.sqrt(2))) / 2)

    def gain_and_bias(self, layer, level):
        return np.split(self.linear(f"{layer}.modulation", level), 2, axis=1)


def published_energy(model, x, y, k):
    """IRED's energy of the continuous tasks, from the weights alone."""
    w = Weights(model)
    level = w.levels(k)
    h = swish(w.linear("input", np.concatenate([x, y], 1)))
    for layer in ("first", "second"):
        gain, bias = w.gain_and_bias(layer, level)
        h = swish(w.linear(f"{layer}.linear", h) * (1 + gain) + bias)
    out = w.linear("output", h)
    return (out**2).sum(1) if model.head == "squared_norm" else out[:, 0]


@pytest.mark.parametrize("head", ["squared_norm", "scalar"])
def test_score_is_the_gradient_of_the_published_formula(head):
    model, x, y, k = drawn(EnergyMLP(6, 4, 16, head, levels=10), 6, 4, 7)
    score, energy = score_and_energy(model, x, y, k)
    x64, y64 = x.double().numpy(), y.double().numpy()
    expected = slopes(lambda at: published_energy(model, x64, at, k.numpy()), y64, np.eye(y.shape[1]))
    np.testing.assert_allclose(score.detach().T, expected, atol=1e-5)
    np.testing.assert_allclose(energy.detach(), published_energy(model, x64, y64, k.numpy()), atol=1e-5)


# Sudoku


def published_sudoku_energy(model, x, y, k):
    """IRED's Sudoku energy, convolving one channel at a time."""
    w, size = Weights(model), round(x.shape[1] ** (1 / 3))

    def convolved(name, h):
        kernels, offsets = w[f"{name}.weight"], w[f"{name}.bias"]
        return np.stack([
            sum(correlate2d(channel, part, mode="same") for channel, part in zip(h, kernel, strict=True)) + offset
            for kernel, offset in zip(kernels, offsets, strict=True)
        ])  # fmt: skip

    energies = []
    for given, answer, level in zip(x, y, w.levels(k), strict=True):
        digits = [grid[digit::size].reshape(size, size) for grid in (given, answer) for digit in range(size)]
        h = swish(convolved("input", np.stack(digits)))
        for block in (f"blocks.{i}" for i in range(6)):
            gain, bias = w.gain_and_bias(block, level[None])
            inner = convolved(f"{block}.second", swish(convolved(f"{block}.first", h)))
            h = h + swish(inner * (1 + gain[0, :, None, None]) + bias[0, :, None, None])
        out = convolved("output", h)
        energies.append((out**2).sum() if model.head == "squared_norm" else out.sum())
    return np.array(energies)


@pytest.mark.parametrize("size", [4, 9])
@pytest.mark.parametrize("head", ["squared_norm", "scalar"])
def test_sudoku_energy_is_the_published_formula(head, size):
    model, x, y, k = drawn(SudokuEnergy(3, head, size=size), size**3, size**3, 2)
    expected = published_sudoku_energy(model, x.double().numpy(), y.double().numpy(), k.numpy())
    np.testing.assert_allclose(model(x, y, k).detach(), expected, rtol=1e-5, atol=1e-5)


def slopes(energy, y, directions, step=1e-5):
    """Central differences of energies [b] along directions [b, d]."""
    return np.stack([(energy(y + step * d) - energy(y - step * d)) / (2 * step) for d in directions])


def test_graph_energy_depends_on_edges_but_not_on_the_order_of_nodes():
    model, x, y, k = drawn(GraphEnergy(8).double(), 144, 144, 3)
    x, y = x.double(), y.double()
    order, energy = torch.randperm(12, generator=generator(3, "test")), model(x, y, k)
    renamed = [each.unflatten(1, (12, 12))[:, order][:, :, order].flatten(1) for each in (x, y)]
    torch.testing.assert_close(model(*renamed, k), energy)
    for other in (renamed[0], x.unflatten(1, (12, 12)).mT.flatten(1)):
        assert (model(other, y, k) - energy).abs().min() > 1e-3


class Grids(type(get_task("inverse", size=2))):
    """A task with 64 entries in x and y: a one-hot 4 × 4 Sudoku, and also the 8² pairs of a graph."""


@pytest.mark.parametrize("head", ["squared_norm", "scalar"])
@pytest.mark.parametrize("name", ["graph", "mlp", "sudoku_conv"])
def test_networks_of_a_task_train_on_the_score(name, head):
    """Every weight gets a gradient from a loss on the score, except the scalar head's offset, which cancels."""
    model, x, y, k = drawn(get_network(name).for_task(Grids(size=8), 4, head, 10), 64, 64, 2)
    score, energy = score_and_energy(model, x, y, k)
    assert score.shape == y.shape
    assert energy.dtype == torch.float32
    score.square().sum().backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == (["output.bias"] if head == "scalar" else [])


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("sudoku_conv", ("inverse", 3), r"64 \(4 × 4 cells.*\) or 729 \(9 × 9 cells.*\); this task has 9 and 9"),
        ("sudoku_conv", ("addition", 8), r"needs as many entries in x as in y.*this task has 128 and 64"),
        ("graph", ("addition", 3), r"needs as many entries in x as in y.*this task has 18 and 9"),
    ],
)
def test_a_task_that_does_not_fit_a_network_is_refused(name, task, message):
    with pytest.raises(ParameterError, match=message):
        get_network(name).for_task(get_task(task[0], size=task[1]), 4, "scalar", 10)
