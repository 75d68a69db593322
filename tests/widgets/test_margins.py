"""Margins in the picture are those in the run's files, and the pairs behind a bar those whose margins fall in it."""

import numpy as np
import pytest
from stored_files import files

from anm_nb.energy.evaluate import trained_energy
from anm_nb.store import Run
from anm_nb.widgets import MarginExplorer
from anm_nb.widgets.margins import BARS, BATCH, HELD_OUT


@pytest.fixture
def explorer(stored):
    return MarginExplorer(stored.energies["anm"])


def histogram(margins, edges):
    """Shares by brute force: a margin belongs to the last bar whose lower edge it has reached."""
    counts = np.zeros(BARS)
    for margin in margins:
        place = sum(margin >= edge for edge in edges[1:-1])
        counts[place] += 1
    return counts / max(1, len(margins))


@pytest.mark.parametrize("kind", [HELD_OUT, BATCH])
@pytest.mark.parametrize("seed", [None, 1])
def test_bars_quartiles_and_curve_are_those_of_the_stored_margins(explorer, kind, seed):
    array = files(explorer.run).array({HELD_OUT: "dev_margins", BATCH: "margins"}[kind])
    explorer.source.value, explorer.seed.value = kind, seed
    array = array if seed is None else array[[explorer.seeds.index(seed)]]
    expected = [(array[:, record] < 0).mean() for record in range(array.shape[1])]
    for record in range(array.shape[1]):
        explorer.step.value = record
        margins = array[:, record].ravel()
        heights, edges, _ = explorer.bars.get_data()
        np.testing.assert_array_equal(heights, histogram(margins, edges))
        quartiles = np.quantile(margins, [0.25, 0.5, 0.75])
        shown = explorer.quartiles.get_xdata()[::3]
        np.testing.assert_allclose(shown, np.clip(quartiles, edges[0], edges[-1]), rtol=1e-6)
        np.testing.assert_allclose(explorer.p_hard.get_ydata(), expected)
        assert explorer.cursor.get_xdata()[0] == explorer.steps[record]
        assert explorer.readouts["p_hard"] == f"{100 * expected[record]:.1f} %"
        assert explorer.readouts["pairs"] == str(len(margins))
    assert edges[BARS // 2] == 0


def test_p_hard_is_the_metrics_own_column(explorer):
    metrics = files(explorer.run).metrics
    for kind, column in ((HELD_OUT, "dev_p_hard"), (BATCH, "p_hard")):
        explorer.source.value = kind
        expected = metrics.groupby("step")[column].mean()
        np.testing.assert_allclose(explorer.p_hard.get_ydata(), expected, atol=1e-6)


def test_levels_part_the_held_out_pairs(explorer):
    """The levels, pairs and margins belong together: the weights of the file give the margins of the file."""
    run, dev = explorer.run, files(explorer.run).array("dev_margins")[:, -1]
    found = 0
    for level in range(10):
        explorer.level.value = level
        found += len(explorer.shown_margins())
        for place, seed in enumerate(explorer.seeds):
            learner = run.config.learner(seed, "cpu")
            noise, x = learner.dev_problem.noise, learner.dev.x
            np.testing.assert_array_equal(explorer.chosen()[place], noise.k.numpy() == level)
            model = trained_energy(run, seed)
            e_neg, e_pos = (model(x, noise.noised(y), noise.k) for y in (learner.dev_negatives, learner.dev.y))
            np.testing.assert_allclose(e_neg - e_pos, dev[place], rtol=1e-4, atol=1e-6)
    assert found == dev.size


def test_the_pairs_behind_every_bar_are_those_whose_margins_fall_in_it(explorer):
    edges, last = explorer.edges[HELD_OUT], files(explorer.run).array("dev_margins")[:, -1]
    listed = 0
    for bar in range(BARS):
        explorer.bar.value = bar
        behind = explorer.behind_bar()
        low = -np.inf if bar == 0 else edges[bar]
        high = np.inf if bar == BARS - 1 else edges[bar + 1]
        expected = [(place, example) for (place, example), m in np.ndenumerate(last) if low <= m < high]
        assert set(map(tuple, behind)) == set(expected)
        assert np.all(np.diff([last[tuple(place)] for place in behind]) >= 0)
        assert explorer.readouts["pairs in bar"] == str(len(expected))
        listed += len(behind)
    assert listed == last.size


def test_the_pictured_pairs_are_the_truths_and_negatives_of_the_bar(explorer):
    bar = int(np.argmax(explorer.bars.get_data()[0]))
    explorer.bar.value = bar
    trace, behind = files(explorer.run), explorer.behind_bar()
    for column, (place, example) in enumerate(behind[:4]):
        for image, name in zip(explorer.images[:, column], ("probe_y", "probe_negatives"), strict=True):
            expected = trace.array(name)[place, 0, example].reshape(2, 2)
            np.testing.assert_array_equal(image.get_array(), expected)
        level = trace.array("dev_levels")[place, 0, example]
        assert explorer.titles[column].get_text().startswith(f"k = {level}\nm = ")
    shown = sum(image.get_visible() for image in explorer.images[0])
    assert shown == min(4, len(behind))


def test_a_batchs_pairs_have_no_levels_to_choose_and_no_pictures(explorer):
    explorer.level.value = 3
    explorer.source.value = BATCH
    assert explorer.level.values == [None]
    assert explorer.level.input.disabled
    explorer.bar.value = 20
    assert "not kept" in explorer.about.get_text()
    assert not any(image.get_visible() for image in explorer.images.flat)


def test_a_run_without_negatives_has_held_out_pairs_alone(stored):
    assert MarginExplorer(stored.energies["none"]).source.values == [HELD_OUT]


def test_pairs_beyond_those_that_the_trace_keeps_have_titles_and_no_pictures(stored, monkeypatch):
    run = stored.energies["anm"]
    trace = {name: array[:, :, :1] if name.startswith("probe_") else array for name, array in run.trace.items()}
    monkeypatch.setattr(Run, "trace", property(lambda run: trace))
    explorer = MarginExplorer(run)
    explorer.bar.value = int(np.argmax(explorer.bars.get_data()[0]))
    examples = explorer.behind_bar()[:4, 1]
    assert [image.get_visible() for image in explorer.images[0]][: len(examples)] == [each == 0 for each in examples]
    assert all(title.get_text() for title in explorer.titles[: len(examples)])


def test_a_run_of_an_older_version_has_no_levels_and_says_so(stored, monkeypatch):
    run = stored.energies["anm"]
    kept = {name: array for name, array in run.trace.items() if name not in ("probe_negatives", "dev_levels")}
    monkeypatch.setattr(Run, "trace", property(lambda run: kept))
    explorer = MarginExplorer(run)
    assert explorer.level.values == [None]
    explorer.bar.value = 20
    assert "the run keeps no pairs" in explorer.about.get_text()
