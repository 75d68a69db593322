"""Connectivity's targets are what a search finds, and its pooled balanced accuracy has the error it claims."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anm_nb.tasks import get_task
from anm_nb.training.seeds import RowDraws, generator

sizes = st.integers(2, 12)
probabilities = st.floats(0.01, 0.99)
seeds = st.integers(0, 10**6)


def search(edges):
    """Reachability [nodes × nodes] by breadth-first search from each node, in plain Python."""
    reached = np.full(edges.shape, -1.0)
    for start in range(len(edges)):
        queue = [start]
        for node in queue:  # which grows
            queue += [other for other in np.flatnonzero(edges[node] > 0).tolist() if other not in queue]
        reached[start, queue] = 1.0
    return reached


def squares(flat):
    nodes = round(flat.shape[1] ** 0.5)
    return flat.reshape(-1, nodes, nodes)


def counts(y_hat, batch):
    """True positives, positives, true negatives, negatives of each graph over i ≠ j, by hand."""
    truth, answer = (squares(flat.numpy()) > 0 for flat in (batch.y, y_hat))
    rows = []
    for reached, said in zip(truth, answer, strict=True):
        pairs = [(i, j) for i in range(len(reached)) for j in range(len(reached)) if i != j]
        positive = [pair for pair in pairs if reached[pair]]
        negative = [pair for pair in pairs if not reached[pair]]
        rows.append((sum(said[p] for p in positive), len(positive), sum(not said[p] for p in negative), len(negative)))
    return np.array(rows, dtype=float)


@given(size=sizes, probability=probabilities, harder=st.booleans(), seed=seeds)
def test_targets_are_what_a_search_finds(size, probability, harder, seed):
    task = get_task("connectivity", size=size, edge_probability=probability)
    batch = task.sample(4, generator=generator(seed, "test"), harder=harder)
    nodes = -(-3 * size // 2) if harder else size
    edges = squares(batch.x.numpy())
    assert batch.x.shape == batch.y.shape == (4, nodes**2)
    assert set(np.unique(edges)) <= {-1.0, 1.0}
    assert (edges == edges.transpose(0, 2, 1)).all()
    assert (np.diagonal(edges, axis1=1, axis2=2) == -1).all()
    np.testing.assert_array_equal(squares(batch.y.numpy()), [search(graph) for graph in edges])
    assert torch.equal(task.solve(batch.x), batch.y)
    assert (task.x_dim, task.y_dim) == (size**2, size**2)


def test_stock_negatives_have_a_twentieth_of_their_entries_flipped_either_way():
    task = get_task("connectivity")
    batch = task.sample(4000, generator=generator(0, "test"))

    def never():
        raise AssertionError("no descent on the energy is needed")

    negatives = task.corrupt(batch.y, never, RowDraws([generator(1, "negatives")], "cpu"))
    flipped = negatives != batch.y
    assert torch.equal(negatives[flipped], -batch.y[flipped])
    for start in (-1, 1):
        of = batch.y == start
        rate = float(flipped[of].double().mean())
        assert rate == pytest.approx(0.05, abs=5 * (0.05 * 0.95 / int(of.sum())) ** 0.5)
    assert torch.equal(negatives, task.corrupt(batch.y, never, RowDraws([generator(1, "negatives")], "cpu")))


@given(size=sizes, probability=probabilities, noise=st.floats(0, 3), seed=seeds)
def test_scores_are_those_counted_by_hand(size, probability, noise, seed):
    task = get_task("connectivity", size=size, edge_probability=probability)
    batch = task.sample(5, generator=generator(seed, "test"))
    y_hat = batch.y + noise * torch.randn(batch.y.shape, generator=generator(seed, "noise"))
    tp, p, tn, n = counts(y_hat, batch).T
    scores = task.scores(y_hat, batch)
    np.testing.assert_allclose(scores["accuracy"], (tp + tn) / (p + n), atol=1e-12)
    rates = [right.sum() / count.sum() for right, count in ((tp, p), (tn, n)) if count.sum()]
    assert task.metrics(y_hat, batch)["balanced_accuracy"] == pytest.approx(np.mean(rates), abs=1e-12)
    if p.sum() and n.sum():
        tpr, tnr = rates
        expected = (tpr + tnr) / 2 + (tp - tpr * p) / p.mean() / 2 + (tn - tnr * n) / n.mean() / 2
        np.testing.assert_allclose(scores["balanced_accuracy"], expected, atol=1e-9)


def test_the_interval_of_balanced_accuracy_is_that_of_a_bootstrap_over_graphs():
    task = get_task("connectivity")
    batch = task.sample(400, generator=generator(0, "test"))
    spread = torch.rand(400, 1, generator=generator(1, "difficulty")) * 3  # some graphs are harder than others
    y_hat = batch.y + spread * torch.randn(batch.y.shape, generator=generator(2, "noise"))
    table = counts(y_hat, batch)
    drawn = np.random.default_rng(0).integers(0, 400, (4000, 400))
    tp, p, tn, n = table[drawn].sum(axis=1).T
    bootstrap = ((tp / p + tn / n) / 2).std()
    claimed = float(task.scores(y_hat, batch)["balanced_accuracy"].std()) / 400**0.5
    assert claimed == pytest.approx(bootstrap, rel=0.06)
    tpr, tnr = table[:, 0] / table[:, 1].clip(1), table[:, 2] / table[:, 3].clip(1)
    assert np.mean((tpr + tnr) / 2) < (tp / p + tn / n).mean() / 2 - 0.05  # which a mean of single graphs would miss


@pytest.mark.parametrize("harder", [False, True])
def test_references_bracket_every_score(harder):
    scores = get_task("connectivity").reference_scores(500, generator=generator(0, "test"), harder=harder)
    table = scores.pivot(index="name", columns="metric", values="value")
    assert table.loc["majority", "balanced_accuracy"] == pytest.approx(0.5, abs=1e-12)
    assert table.loc["copy the edges", "balanced_accuracy"] == pytest.approx(
        0.6055 if harder else 0.630, abs=0.005
    )  # it never errs on pairs out of reach: ½(1 + its share of the connected pairs)
    assert (table.loc[["breadth-first search", "truth"]] == 1).all(axis=None)
    assert set(scores["kind"]) == {"trivial", "classical", "ceiling"}
