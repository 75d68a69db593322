"""Energies are their formulas, re-computed in float64 NumPy from the weights; their scores are their gradients."""

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from scipy.special import erf

from anm_nb.config import ParameterError
from anm_nb.energy.grid_networks import GraphEnergy, SudokuEnergy
from anm_nb.energy.networks import (
    EnergyMLP,
    EnergyNetwork,
    energy_given,
    get_network,
    gradient_and_value,
)
from anm_nb.tasks import get_task
from anm_nb.training.seeds import generator, initialise
from anm_nb.training.stack import Stack


def network(head="squared_norm", x_dim=6, y_dim=4, width=16):
    model = EnergyMLP(x_dim, y_dim, width, head, levels=10)
    initialise(model, generator(0, "weights"))
    source = generator(1, "test")
    x, y = torch.randn(7, x_dim, generator=source), torch.randn(7, y_dim, generator=source)
    return model, x, y, torch.randint(10, (7,), generator=source)


def score_and_energy(model, x, y, k):
    return gradient_and_value(energy_given(model, x, k), y)


def swish(h):
    return h / (1 + np.exp(-h))


class Weights(dict):
    """A network's weights in NumPy and float64, and what all networks do with some of them."""

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
    """IRED's energy of the continuous tasks from the weights alone."""
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
    model, x, y, k = network(head)
    score, energy = score_and_energy(model, x, y, k)
    x64, y64 = x.double().numpy(), y.double().numpy()
    expected = slopes(lambda at: published_energy(model, x64, at, k.numpy()), y64, np.eye(y.shape[1]))
    np.testing.assert_allclose(score.detach().T, expected, atol=1e-5)
    np.testing.assert_allclose(energy.detach(), published_energy(model, x64, y64, k.numpy()), atol=1e-5)


# Sudoku


def sudoku(size, head="squared_norm", width=3, batch=2):
    model = SudokuEnergy(width, head, size=size)
    initialise(model, generator(0, "weights"))
    source = generator(1, "test")
    x, y = torch.randn(batch, size**3, generator=source), torch.randn(batch, size**3, generator=source)
    return model, x, y, torch.randint(10, (batch,), generator=source)


def published_sudoku_energy(model, x, y, k):
    """IRED's energy of Sudoku, one convolution of one channel at a time."""
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


def test_parameter_count_of_the_published_sudoku_network():
    with torch.device("meta"):
        model = SudokuEnergy(384)
    level = 128 * 64 + 64 + 64 * 64 + 64
    block = 2 * (384 * 384 * 5 * 5 + 384) + 64 * 2 * 384 + 2 * 384
    expected = level + (18 * 384 * 3 * 3 + 384) + 6 * block + (384 * 9 + 9)
    assert sum(p.numel() for p in model.parameters()) == expected == 44_619_401


@pytest.mark.parametrize("size", [4, 9])
@pytest.mark.parametrize("head", ["squared_norm", "scalar"])
def test_sudoku_energy_is_the_published_formula(head, size):
    model, x, y, k = sudoku(size, head)
    expected = published_sudoku_energy(model, x.double().numpy(), y.double().numpy(), k.numpy())
    np.testing.assert_allclose(model(x, y, k).detach(), expected, rtol=1e-5, atol=1e-5)


def slopes(energy, y, directions, step=1e-5):
    """Central differences of energies [b] along directions [b, d]."""
    return np.stack([(energy(y + step * d) - energy(y - step * d)) / (2 * step) for d in directions])


# graphs


def graphs(nodes, head="squared_norm", width=8, batch=3):
    model = GraphEnergy(width, head)
    initialise(model, generator(0, "weights"))
    source = generator(nodes, "test")
    x, y = torch.randn(batch, nodes**2, generator=source), torch.randn(batch, nodes**2, generator=source)
    return model, x, y, torch.randint(10, (batch,), generator=source)


def energy_by_loops(model, x, y, k):
    """The energy of graphs, pair by pair and node by node."""
    w, nodes = Weights(model), range(round(x.shape[1] ** 0.5))
    pairs = [(i, j) for i in nodes for j in nodes]
    energies = []
    for given, answer, level in zip(x, y, w.levels(k), strict=True):
        features = {(i, j): [given[p], answer[p], float(i == j)] for p, (i, j) in enumerate(pairs)}
        h = {pair: swish(w.linear("input", np.array(features[pair]))) for pair in pairs}
        for layer in (f"layers.{i}" for i in range(len(model.layers))):
            gain, bias = (each[0] for each in w.gain_and_bias(layer, level[None]))
            new = {}
            for i, j in pairs:
                paths = sum(w.linear(f"{layer}.left", h[i, m]) * w.linear(f"{layer}.right", h[m, j]) for m in nodes)
                g = w.linear(f"{layer}.own", h[i, j]) + w.linear(f"{layer}.reverse", h[j, i])
                g += w.linear(f"{layer}.triangle", np.tanh(paths))
                g += w.linear(f"{layer}.row", np.mean([h[i, m] for m in nodes], axis=0))
                g += w.linear(f"{layer}.column", np.mean([h[m, j] for m in nodes], axis=0))
                new[i, j] = h[i, j] + swish(g * (1 + gain) + bias)
            h = new
        out = np.array([w.linear("output", h[pair]) for pair in pairs])
        energies.append((out**2).sum() if model.head == "squared_norm" else out.sum())
    return np.array(energies)


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("head", ["squared_norm", "scalar"])
def test_graph_energy_and_score_are_the_formula(nodes, head):
    model, x, y, k = graphs(nodes, head)
    x64, y64, k64 = x.double().numpy(), y.double().numpy(), k.numpy()
    score, energy = score_and_energy(model, x, y, k)
    np.testing.assert_allclose(energy.detach(), energy_by_loops(model, x64, y64, k64), rtol=1e-5, atol=1e-5)
    expected = slopes(lambda at: energy_by_loops(model, x64, at, k64), y64, np.eye(nodes**2))
    np.testing.assert_allclose(score.detach().T, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("nodes", [12, 18])
def test_graph_energy_does_not_depend_on_the_names_of_nodes(nodes):
    model, x, y, k = graphs(nodes)
    model, x, y = model.double(), x.double(), y.double()
    order = torch.randperm(nodes, generator=generator(3, "test"))
    renamed = [each.unflatten(1, (nodes, nodes))[:, order][:, :, order].flatten(1) for each in (x, y)]
    reversed_edges = [each.unflatten(1, (nodes, nodes)).mT.flatten(1) for each in (x, y)]
    energy = model(x, y, k)
    torch.testing.assert_close(model(*renamed, k), energy)
    assert (model(x, renamed[1], k) - energy).abs().min() > 1e-3
    assert (model(*reversed_edges, k) - energy).abs().min() > 1e-3


def test_a_graph_needs_a_square_number_of_entries():
    with pytest.raises(ParameterError, match="20 entries: a graph of n nodes has n² ordered pairs, a square such as"):
        GraphEnergy(4)(torch.zeros(1, 20), torch.zeros(1, 20), torch.zeros(1, dtype=torch.long))
    with pytest.raises(ParameterError, match=r"needs as many entries in x as in y.*this task has 18 and 9"):
        GraphEnergy.for_task(get_task("addition", size=3), 4, "scalar", 10)


# all networks


class Grids(type(get_task("inverse", size=2))):
    """A task whose x and y have the size of a one-hot Sudoku; 64 = 8² and 729 = 27² pairs suit a graph too."""


@pytest.mark.parametrize("size", [8, 27])
@pytest.mark.parametrize("head", ["squared_norm", "scalar"])
@pytest.mark.parametrize("name", ["graph", "mlp", "sudoku_conv"])
def test_networks_of_a_task_train_on_the_score(name, head, size):
    """Every weight gets a gradient from a loss of the score, but the scalar head's offset, which cancels there."""
    model = get_network(name).for_task(Grids(size=size), width=4, head=head, levels=3)
    assert model.name == name
    initialise(model, generator(0, "weights"))
    source = generator(1, "test")
    x, y = torch.randn(2, size**2, generator=source), torch.randn(2, size**2, generator=source)
    score, energy = score_and_energy(model, x, y, torch.tensor([0, 2]))
    assert score.shape == y.shape
    assert energy.dtype == torch.float32
    score.square().sum().backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == (["output.bias"] if head == "scalar" else [])


def test_a_task_without_grids_is_refused_by_the_sudoku_network():
    needed = r"network 'sudoku_conv': needs as many entries in x as in y, 64 \(4 × 4 cells.*\) or 729 \(9 × 9 cells.*\)"
    with pytest.raises(ParameterError, match=rf"{needed}; this task has 9 and 9"):
        SudokuEnergy.for_task(get_task("inverse", size=3), 4, "scalar", 10)
    with pytest.raises(ParameterError, match=rf"{needed}; this task has 128 and 64"):
        SudokuEnergy.for_task(get_task("addition", size=8), 4, "scalar", 10)


@pytest.mark.parametrize("head", ["squared_norm", "scalar"])
@pytest.mark.parametrize("name", ["graph", "mlp", "sudoku_conv"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_stack_of_seeds_is_each_of_them_with_the_gradients_of_their_weights(name, head, seeds):
    models = [get_network(name).for_task(Grids(size=8), 4, head, 3) for _ in range(seeds)]
    for seed, model in enumerate(models):
        initialise(model, generator(seed, "weights"))
    source = generator(1, "test")
    x, y = torch.randn(2 * seeds, 64, generator=source), torch.randn(2 * seeds, 64, generator=source)
    k = torch.randint(3, (2 * seeds,), generator=source)
    alone = [
        score_and_energy(model, *rows)
        for model, *rows in zip(models, x.chunk(seeds), y.chunk(seeds), k.chunk(seeds), strict=True)
    ]
    expected = [
        torch.autograd.grad(score.square().sum() + energy.sum(), list(model.parameters()), allow_unused=True)
        for model, (score, energy) in zip(models, alone, strict=True)
    ]
    stack = Stack(models)
    score, energy = score_and_energy(stack, x, y, k)
    torch.testing.assert_close(score, torch.cat([each[0] for each in alone]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(energy, torch.cat([each[1] for each in alone]), rtol=1e-4, atol=1e-5)
    stacks = [stack.stack_of[id(each)] for each in models[0].parameters()]
    found = torch.autograd.grad(score.square().sum() + energy.sum(), stacks, allow_unused=True)
    for place, gradient in enumerate(found):
        if gradient is not None:
            own = torch.stack([each[place] for each in expected])
            torch.testing.assert_close(stack.by_seed(gradient), own, rtol=1e-3, atol=1e-4)


def test_a_network_that_gives_no_energy_is_refused():
    with pytest.raises(TypeError, match="needs `forward`, or `prepare` and `energy`"):

        class Empty(EnergyNetwork):
            name = "empty"
