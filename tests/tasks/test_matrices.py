"""Matrix tasks, connectivity and their reference scores are as documented."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anm_nb.tasks import get_task
from anm_nb.training.seeds import generator

shapes = st.tuples(st.integers(1, 6), st.integers(1, 6))
seeds = st.integers(0, 10**6)
sizes = st.integers(1, 12)


@given(size=sizes, harder=st.booleans(), seed=seeds)
def test_matrix_problems_satisfy_their_definitions(size, harder, seed):
    task = {name: get_task(name, size=size) for name in ("inverse", "addition", "lowrank")}
    inverse, addition, lowrank = (
        each.sample(4, generator=generator(seed, "test"), harder=harder) for each in task.values()
    )
    x, y = (t.double().unflatten(1, (size, size)) for t in (inverse.x, inverse.y))
    torch.testing.assert_close(x @ y, torch.eye(size).double().expand_as(x), atol=1e-3, rtol=0)
    assert torch.linalg.eigvalsh(x).min() > (0.1 if harder else 0.5) - 1e-4
    assert torch.equal(x, x.mT)
    assert torch.equal(addition.y, addition.x[:, : size**2] + addition.x[:, size**2 :])
    assert addition.x.abs().max() <= (2.5 if harder else 1.0)
    assert torch.equal(lowrank.x, torch.where(lowrank.known, lowrank.y, 0.0))
    ranks = torch.linalg.matrix_rank(lowrank.clean.double().unflatten(1, (size, size)), rtol=1e-5)
    assert (ranks <= max(1, size // 2)).all()
    assert task["lowrank"].clues(lowrank) is None  # x shows the known entries, but answers are not reset to them


EXPECTED = {  # by task and harder: name, value and its tolerance, at 20 × 20
    ("addition", False): [("zero", 2 / 3, 0.003)],  # variance of a sum of two U(−1, 1)
    ("addition", True): [("zero", 2 * 2.5**2 / 3, 0.02)],
    ("inverse", False): [("zero", 0.0207, 0.0007), ("mean target", 0.0142, 0.0007), ("exact solution", 0.0, 1e-9)],
    ("inverse", True): [("zero", 0.254, 0.02)],
    ("lowrank", False): [
        ("zero", 10 / 20**2 + 0.1**2, 0.0005),  # variance of an entry
        ("mean target", 0.0350, 0.0005),
        ("copy the observed", 0.0175, 0.0003),
        ("soft-impute", 0.0162, 0.0003),
        ("noise floor", 0.005, 0.0001),
    ],
    ("lowrank", True): [
        ("zero", 10 / 5**2 + 0.1**2, 0.008),
        ("copy the observed", 0.205, 0.005),
        ("soft-impute", 0.158, 0.004),
        ("noise floor", 0.005, 0.0001),
    ],
}


@pytest.mark.parametrize(("case", "expected"), EXPECTED.items(), ids=map(str, EXPECTED))
def test_reference_scores_at_20_by_20(case, expected):
    task, harder = case
    scores = get_task(task, size=20).reference_scores(400, generator=generator(0, "test"), harder=harder)
    assert set(scores["kind"]) == {"trivial", "classical", "ceiling"}
    for name, value, tolerance in expected:
        row = scores.set_index("name").loc[name]
        assert row["value"] == pytest.approx(value, abs=tolerance)
        assert row["low"] <= row["value"] <= row["high"]


# connectivity


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
    rows = []
    for reached, said in zip(squares(batch.y.numpy()) > 0, squares(y_hat.numpy()) > 0, strict=True):
        pairs = [(reached[i, j], said[i, j]) for i, j in np.ndindex(reached.shape) if i != j]
        rows.append([sum(a and b for a, b in pairs), sum(a for a, _ in pairs)])
        rows[-1] += [sum(not a and not b for a, b in pairs), sum(not a for a, _ in pairs)]
    return np.array(rows, dtype=float)


@given(size=st.integers(2, 12), probability=st.floats(0.01, 0.99), harder=st.booleans(), seed=seeds)
def test_targets_of_graphs_are_what_a_search_finds(size, probability, harder, seed):
    task = get_task("connectivity", size=size, edge_probability=probability)
    batch = task.sample(3, generator=generator(seed, "test"), harder=harder)
    nodes = -(-3 * size // 2) if harder else size
    edges = squares(batch.x.numpy())
    assert batch.x.shape == batch.y.shape == (3, nodes**2)
    assert set(np.unique(edges)) <= {-1.0, 1.0}
    assert (edges == edges.transpose(0, 2, 1)).all()
    assert (np.diagonal(edges, axis1=1, axis2=2) == -1).all()
    np.testing.assert_array_equal(squares(batch.y.numpy()), [search(graph) for graph in edges])
    assert (task.x_dim, task.y_dim) == (size**2, size**2)


@given(size=st.integers(2, 12), probability=st.floats(0.01, 0.99), noise=st.floats(0, 3), seed=seeds)
def test_scores_of_graphs_are_those_counted_by_hand(size, probability, noise, seed):
    task = get_task("connectivity", size=size, edge_probability=probability)
    batch = task.sample(3, generator=generator(seed, "test"))
    y_hat = batch.y + noise * torch.randn(batch.y.shape, generator=generator(seed, "noise"))
    tp, p, tn, n = counts(y_hat, batch).T
    np.testing.assert_allclose(task.scores(y_hat, batch)["accuracy"], (tp + tn) / (p + n), atol=1e-12)
    rates = [right.sum() / count.sum() for right, count in ((tp, p), (tn, n)) if count.sum()]
    assert task.metrics(y_hat, batch)["balanced_accuracy"] == pytest.approx(np.mean(rates), abs=1e-12)
