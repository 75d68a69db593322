"""Margins in the picture are those in the run's files, and the pairs behind a bar those whose margins fall in it."""

import numpy as np
import pytest
from stored_files import files

from anm_nb.analysis.widgets import MarginExplorer
from anm_nb.analysis.widgets.margin_records import BARS, BATCH, HELD_OUT
from anm_nb.energy.evaluate import trained_energy
from anm_nb.energy.train import EnergyLearner
from anm_nb.store import Run


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
    array = array if seed is None else array[[explorer.records.seeds.index(seed)]]
    expected = [(array[:, record] < 0).mean() for record in range(array.shape[1])]
    for record in range(array.shape[1]):
        explorer.step.value = record
        margins = array[:, record].ravel()
        heights, edges, _ = explorer.panels.bars.get_data()
        np.testing.assert_array_equal(heights, histogram(margins, edges))
        quartiles = np.quantile(margins, [0.25, 0.5, 0.75])
        shown = explorer.panels.quartiles.get_xdata()[::3]
        np.testing.assert_allclose(shown, np.clip(quartiles, edges[0], edges[-1]), rtol=1e-6)
        np.testing.assert_allclose(explorer.panels.p_hard.get_ydata(), expected)
        assert explorer.panels.cursor.get_xdata()[0] == explorer.records.steps[record]
        assert explorer.readouts["p_hard"] == f"{100 * expected[record]:.1f} %"
        assert explorer.readouts["pairs"] == str(len(margins))
    assert edges[BARS // 2] == 0


def test_p_hard_is_the_metrics_own_column(explorer):
    metrics = files(explorer.run).metrics
    for kind, column in ((HELD_OUT, "dev_p_hard"), (BATCH, "p_hard")):
        explorer.source.value = kind
        expected = metrics.groupby("step")[column].mean()
        np.testing.assert_allclose(explorer.panels.p_hard.get_ydata(), expected, atol=1e-6)


def test_levels_part_the_held_out_pairs_and_margins_are_those_of_their_pairs(explorer):
    """The stored weights' energies of the pairs drawn again are the margins in the file: level and pair are right."""
    run, last = explorer.run, explorer.records.last
    stored = files(run).array("dev_margins")
    found = 0
    for level in range(10):
        explorer.level.value = level
        shown = explorer.shown()
        found += len(shown)
        for pair in shown.itertuples():
            assert pair.margin == stored[explorer.records.seeds.index(pair.seed), last, pair.example]
            learner = run.config.learner(pair.seed, "cpu")
            assert isinstance(learner, EnergyLearner)
            noise, x = learner.dev_problem.noise, learner.dev.x
            assert int(noise.k[pair.example]) == level
            model = trained_energy(run, pair.seed)
            e_neg, e_pos = (model(x, noise.noised(y), noise.k) for y in (learner.dev_negatives, learner.dev.y))
            margins = e_neg - e_pos
            assert float(margins[pair.example]) == pytest.approx(pair.margin, rel=1e-4, abs=1e-6)
    assert found == stored[:, last].size


def test_the_pairs_behind_every_bar_are_those_whose_margins_fall_in_it(explorer):
    edges = explorer.records.edges(HELD_OUT)
    everything = explorer.shown()
    listed = []
    for bar in range(BARS):
        explorer.bar.value = bar
        behind = explorer.behind_bar()
        low = -np.inf if bar == 0 else edges[bar]
        high = np.inf if bar == BARS - 1 else edges[bar + 1]
        expected = everything[(everything["margin"] >= low) & (everything["margin"] < high)]
        assert set(behind.index) == set(expected.index)
        assert explorer.readouts["pairs in bar"] == str(len(expected))
        listed.append(behind)
    assert sum(map(len, listed)) == len(everything)


def test_the_pictured_pairs_are_the_truths_and_negatives_of_the_bar(explorer):
    bar = int(np.argmax(explorer.panels.bars.get_data()[0]))
    explorer.bar.value = bar
    first = explorer.behind_bar().iloc[0]
    learner = explorer.run.config.learner(int(first["seed"]), "cpu")
    for row, answers in zip(explorer.panels.images, (learner.dev.y, learner.dev_negatives), strict=True):
        expected = answers[int(first["example"])].reshape(2, 2).numpy()
        np.testing.assert_array_equal(row[0].get_array(), expected)
    shown = sum(image.get_visible() for image in explorer.panels.images[0])
    assert shown == min(4, len(explorer.behind_bar()))


def test_a_batchs_pairs_have_no_levels_to_choose_and_no_pictures(explorer):
    explorer.level.value = 3
    explorer.source.value = BATCH
    assert explorer.level.values == [None]
    assert explorer.level.input.disabled
    explorer.bar.value = 20
    assert "not kept" in explorer.panels.about.get_text()
    assert not any(image.get_visible() for row in explorer.panels.images for image in row)


def test_a_run_without_negatives_has_held_out_pairs_alone(stored):
    assert MarginExplorer(stored.energies["none"]).source.values == [HELD_OUT]


def test_pairs_are_those_of_the_trace_wherever_the_run_was_trained(stored, monkeypatch):
    """Another kind of device draws other random numbers: nothing may be drawn again."""
    run = stored.energies["anm"]
    provenance = run.provenance | {"device": "an accelerator"}
    monkeypatch.setattr(Run, "provenance", property(lambda run: provenance))
    monkeypatch.setattr("anm_nb.training.seeds.generator", None)
    explorer = MarginExplorer(run)
    records = explorer.records
    title, truth, negative = records.pictured(1, 3, -0.5)
    assert title == f"k = {int(run.trace['dev_levels'][1, 0, 3])}\nm = -0.5"
    assert truth.flatten().tolist() == run.trace["probe_y"][1, 0, 3].tolist()
    assert negative.flatten().tolist() == run.trace["probe_negatives"][1, 0, 3].tolist()
    assert explorer.level.values == [None, *range(10)]
    explorer.level.value = 4
    assert len(explorer.shown()) == int((run.trace["dev_levels"] == 4).sum())


def test_a_run_of_an_older_version_has_no_levels_and_says_so(stored, monkeypatch):
    run = stored.energies["anm"]
    kept = {name: array for name, array in run.trace.items() if name not in ("probe_negatives", "dev_levels")}
    monkeypatch.setattr(Run, "trace", property(lambda run: kept))
    explorer = MarginExplorer(run)
    assert explorer.level.values == [None]
    explorer.bar.value = 20
    assert "the run keeps no pairs" in explorer.panels.about.get_text()
