"""Routing in the picture is that in the run's file, its rows in the order of the problem's true ranks."""

import numpy as np
import pytest
from stored_files import files

from anm_nb.widgets import RoutingExplorer


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
    stored = files(explorer.run)
    ranks, known, alphas = (stored.array(name) for name in ("probe_ranks", "probe_known", "alphas"))
    for place in explorer.seed.values:
        explorer.seed.value = place
        for sample in explorer.sample.values:
            explorer.sample.value = sample
            own = ranks[place, 0, sample], known[place, 0, sample]
            order = sorted(range(len(own[0])), key=lambda item, own=own: (not own[1][item], own[0][item]))
            shown, names = explorer.shown()
            assert [int(name.strip("()")) - 1 for name in names] == own[0][order].tolist()
            assert [name.startswith("(") for name in names] == (~own[1][order]).tolist()
            np.testing.assert_array_equal(shown, alphas[place, explorer.epoch.value, sample][:, order])
            assert explorer.border.get_ydata()[0] == own[1].sum() - 0.5


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
