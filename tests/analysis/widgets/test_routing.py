"""Routing in the picture is that in the run's file, its rows in the order of the problem's true ranks."""

import numpy as np
import pytest
import torch
from stored_files import files

from anm_nb.analysis.ranking_tables import probe
from anm_nb.analysis.widgets import RoutingExplorer
from anm_nb.store import Run


@pytest.fixture
def explorer(stored):
    return RoutingExplorer(stored.rankings["hrm"])


def test_every_heatmap_holds_the_stored_weights(explorer):
    stored = files(explorer.run).array("alphas")
    for seed in explorer.seed.values:
        explorer.seed.value = seed
        for record in explorer.epoch.values:
            explorer.epoch.value = record
            for sample in explorer.sample.values[:2]:
                explorer.sample.value = sample
                for iteration in explorer.iteration.values:
                    explorer.iteration.value = iteration
                    shown = np.asarray(explorer.image.get_array())
                    expected = stored[seed, record, sample, iteration]
                    assert sorted(map(tuple, shown)) == sorted(map(tuple, expected))
                    assert explorer.readouts["largest α"] == f"{expected.max():.3f}"


def test_items_stand_in_true_order_visible_ones_first(explorer):
    """Against the notebook's own heatmap, which draws the problems by itself."""
    expected = probe(explorer.run, example=1)
    explorer.sample.value = 1
    explorer.epoch.value = explorer.epoch.values[-1]
    shown = explorer.shown()
    np.testing.assert_array_equal(shown.alphas, expected.alphas)
    np.testing.assert_array_equal(shown.known, expected.known)
    assert [int(name.strip("()")) - 1 for name in shown.names] == expected.ranks.tolist()
    assert [name.startswith("(") for name in shown.names] == (~expected.known).tolist()
    assert explorer.border.get_ydata()[0] == expected.known.sum() - 0.5


@pytest.fixture
def on_gpu(stored, monkeypatch):
    """A run as one trained on a GPU is read elsewhere; what is set in the dict is in its trace."""
    run, extra = stored.rankings["hrm"], {}
    provenance, trace = run.provenance | {"device": "NVIDIA H100 80GB HBM3"}, run.trace
    monkeypatch.setattr(Run, "provenance", property(lambda run: provenance))
    monkeypatch.setattr(Run, "trace", property(lambda run: trace | extra))
    return run, extra


def test_problems_in_the_trace_are_those_that_are_shown(on_gpu):
    run, extra = on_gpu
    alphas = run.trace["alphas"]
    seeds, _, samples, _, items, _ = alphas.shape
    source = torch.Generator().manual_seed(0)
    ranks = torch.stack([torch.randperm(items, generator=source) for _ in range(seeds * samples)])
    known = torch.rand(seeds * samples, items, generator=source) < 0.5
    shape = (seeds, 1, samples, items)
    extra |= {"probe_ranks": ranks.reshape(shape), "probe_known": known.reshape(shape)}
    explorer = RoutingExplorer(run)
    for place in range(seeds):
        explorer.seed.value = place
        for sample in range(samples):
            explorer.sample.value = sample
            own = ranks[place * samples + sample], known[place * samples + sample]
            order = sorted(range(items), key=lambda item, own=own: (not own[1][item], own[0][item]))
            shown = explorer.shown()
            assert [int(name.strip("()")) - 1 for name in shown.names] == own[0][order].tolist()
            expected = alphas[place, explorer.epoch.value, sample][:, order]
            np.testing.assert_array_equal(shown.alphas, expected.float().numpy())
    np.testing.assert_array_equal(probe(run, example=1).known, sorted(known[1].tolist(), reverse=True))


def test_curves_are_the_stored_entropies_and_taus(explorer):
    stored = files(explorer.run)
    for record in explorer.epoch.values:
        explorer.epoch.value = record
        np.testing.assert_array_equal(explorer.mean.get_ydata(), stored.array("entropies")[0, record])
        for name, line in explorer.taus.items():
            np.testing.assert_array_equal(line.get_ydata(), stored.array(name)[0, record])
        alphas = stored.array("alphas")[0, record, 0].astype(float)
        own = -(alphas * np.log(alphas)).sum(-1).mean(-1)
        np.testing.assert_allclose(explorer.own.get_ydata(), own, rtol=1e-5)
        last = explorer.iteration.value
        assert explorer.readouts["mean entropy"] == f"{stored.array('entropies')[0, record, last]:.3f} nats"
        assert explorer.readouts["tau_all"] == f"{stored.array('tau_all')[0, record, last]:.3f}"


def test_cursors_stand_at_the_iteration(explorer):
    for iteration in explorer.iteration.values:
        explorer.iteration.value = iteration
        assert [cursor.get_xdata()[0] for cursor in explorer.cursors] == [iteration + 1] * 2


def test_colours_mean_the_same_in_every_picture_of_a_run(explorer):
    limits = explorer.image.get_clim()
    assert limits == (0, pytest.approx(files(explorer.run).array("alphas").max()))
    explorer.epoch.value = 0
    assert explorer.image.get_clim() == limits


def test_a_seed_that_stopped_early_has_the_epochs_it_trained(stored):
    from anm_nb import store

    config = stored.rankings["hrm"].config.changed(epochs=4, patience=1)
    run = store.get_or_train(config)
    explorer = RoutingExplorer(run)
    for place, (_, rows) in enumerate(files(run).metrics.groupby("seed", sort=False)):
        explorer.seed.value = place
        assert [int(label) for label in explorer.epoch.input.options] == rows["epoch"].astype(int).tolist()
        assert np.isfinite(np.asarray(explorer.image.get_array())).all()
    import shutil

    shutil.rmtree(run.path)  # the store is shared with other tests
