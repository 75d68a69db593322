"""The table of effects is the run's, each claim of section F is judged by its own numbers, and figures show them."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from anm_nb import store
from anm_nb.analysis.figures import PALETTE
from anm_nb.analysis.within_figures import before_the_update, elsewhere, on_the_pairs
from anm_nb.analysis.within_run import beyond, effects, of_seed, reading, within_run_verdicts
from anm_nb.config import ParameterError
from anm_nb.energy.negatives import Mixed, get_negatives
from anm_nb.energy.train import EnergyConfig
from anm_nb.studies.within_run import WithinRunConfig

MINER, BASELINE = "anm_orthogonal", "stock"
UPDATES, KINDS, STEPS = ["mixed", MINER, BASELINE, "none"], [MINER, BASELINE], [0, 10, 30]
# (update, pairs) → value where every claim holds; what is left out is 0
GOOD = {
    "margin": {(update, MINER): -1.0 for update in UPDATES} | {(update, BASELINE): 3.0 for update in UPDATES},
    "delta_margin": {("mixed", MINER): 2.0, ("mixed", BASELINE): 1.0, (MINER, MINER): 3.0, (BASELINE, BASELINE): 1.0},
    "delta_loss_con": {
        ("mixed", MINER): -2.0, ("mixed", BASELINE): -1.0, (MINER, MINER): -3.0, (BASELINE, BASELINE): -1.0
    },
    "delta_dev_margin": {(MINER, kind): 0.5 for kind in KINDS} | {(BASELINE, kind): 0.1 for kind in KINDS},
    "delta_loss_mse": {(MINER, kind): -0.5 for kind in KINDS} | {(BASELINE, kind): -0.1 for kind in KINDS},
    "illegitimate_fraction": {},
    "update_norm": {(update, kind): 2.0 for update in UPDATES for kind in KINDS},
}  # fmt: skip


def table(seeds=4, **changes):
    """Effects of those values, with a small difference from seed to seed and a trend over steps that cancels."""
    values = {column: cells | changes.get(column, {}) for column, cells in GOOD.items()}
    source, rows = np.random.default_rng(0), []
    for seed, step, update, pairs in itertools.product(range(seeds), STEPS, UPDATES, KINDS):
        row = {column: cells.get((update, pairs), 0.0) for column, cells in values.items()}
        wobble = {column: value * (1 + 0.01 * source.standard_normal()) for column, value in row.items()}
        rows.append({"seed": seed, "step": step, "update": update, "pairs": pairs} | wobble)
    return pd.DataFrame(rows)


def states(frame):
    return [verdict.state for verdict in within_run_verdicts(frame, MINER, BASELINE)]


# the table


def test_a_run_of_the_store_reads_as_a_tidy_table(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    small = {"size": 2, "width": 8, "levels": 4, "dev_examples": 8, "seeds": [3, 1]}
    small |= {"inner_steps": 1, "steps": 4, "batch": 8, "record_every": 3}
    mixed = Mixed(first=get_negatives("random"), second=get_negatives("stock"))
    run = store.get_or_train(WithinRunConfig(**small, negatives=mixed))
    found = effects(run)
    assert len(found) == 2 * 3 * 4 * 2
    assert not found.duplicated(["seed", "step", "update", "pairs"]).any()
    assert found["step"].unique().tolist() == [0, 3, 4]
    places = [[3, 1], [0, 3, 4], ["mixed", "random", "stock", "none"], ["random", "stock"]]
    by_place = found.set_index(["seed", "step", "update", "pairs"])
    for at in itertools.product(*(range(len(names)) for names in places)):
        row = by_place.loc[tuple(names[i] for names, i in zip(places, at, strict=True))]
        for column in ("margin", "delta_margin", "delta_dev_margin", "update_norm"):
            assert row[column] == pytest.approx(float(run.trace[f"within.{column}"][at]))
    without = store.get_or_train(EnergyConfig(**small))
    with pytest.raises(ParameterError, match="no updates were compared"):
        effects(without)


def test_beyond_takes_the_reference_update_from_the_same_pairs():
    frame = table(delta_margin={("none", MINER): 0.75, ("none", BASELINE): 0.25})
    net = beyond(frame, "none", ["delta_margin"])
    assert set(net["update"]) == {"mixed", MINER, BASELINE}
    for row in net.sample(20, random_state=0).itertuples():
        same = (frame["seed"] == row.seed) & (frame["step"] == row.step) & (frame["pairs"] == row.pairs)
        at = frame[same].set_index("update")
        assert row.delta_margin == pytest.approx(at["delta_margin"][row.update] - at["delta_margin"]["none"])
        assert row.delta_loss_con == at["delta_loss_con"][row.update]
    shuffled = beyond(frame.sample(frac=1, random_state=1), "none", ["delta_margin"]).sort_index()
    pd.testing.assert_frame_equal(shuffled, net)


# the verdicts


def test_where_every_claim_holds_every_verdict_supports_it():
    assert states(table()) == ["supported"] * 12


# A change of the table, and the verdicts that it and nothing else refutes.
VIOLATIONS = {
    "margins": ({"margin": {("mixed", MINER): 9.0}}, {0}),
    "mixed": ({"delta_margin": {("mixed", MINER): 0.5}}, {1}),
    "one kind, however measured": ({"delta_margin": {(MINER, MINER): 0.5}}, {2, 3}),
    "denoising did it": ({"delta_margin": {("none", MINER): 2.9}}, {3}),
    "mixed loss": ({"delta_loss_con": {("mixed", MINER): -0.5}}, {4}),
    "loss of one kind": ({"delta_loss_con": {(MINER, MINER): -0.5}}, {5, 6}),
    "denoising lowered it": ({"delta_loss_con": {("none", MINER): -2.9}}, {6}),
    "held out": ({"delta_dev_margin": {(MINER, MINER): 0.01}}, {7, 8}),
    "longer": ({"update_norm": {(MINER, MINER): 40.0}}, {8}),
    "denoising": ({"delta_loss_mse": {(MINER, MINER): 0.5}}, {9}),
    "illegitimate": ({"illegitimate_fraction": {("mixed", MINER): 0.9}}, {10}),
    "illegitimate baseline": ({"illegitimate_fraction": {("mixed", BASELINE): 0.9}}, {11}),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_each_claim_is_judged_by_its_own_numbers(name):
    changes, refuted = VIOLATIONS[name]
    found = states(table(**changes))
    assert {place for place, state in enumerate(found) if state == "refuted"} == refuted
    assert {place for place, state in enumerate(found) if state == "supported"} == set(range(12)) - refuted


def test_claims_have_names_of_their_own_and_two_seeds_decide_nothing():
    verdicts = within_run_verdicts(table(), MINER, BASELINE)
    assert len({verdict.claim for verdict in verdicts}) == 12
    assert set(states(table(seeds=2))) == {"undecided"}


def test_the_sentence_follows_the_verdicts():
    good = reading(within_run_verdicts(table(), MINER, BASELINE))
    assert good.count("supported") == 10
    assert "removing the confound does not change the answer" in good
    bad = reading(within_run_verdicts(table(delta_margin={("none", MINER): 2.9}), MINER, BASELINE))
    assert "beyond denoising: refuted and supported" in bad
    assert "removing the confound changes the answer" in bad
    held_out = reading(within_run_verdicts(table(delta_dev_margin={(MINER, MINER): 0.01}), MINER, BASELINE))
    assert "larger held-out margins: refuted" in held_out


# the figures


def line(axes, colour):
    (found,) = [each for each in axes.get_lines() if to_hex(each.get_color()) == colour]
    return found


def test_pairs_are_drawn_by_update_as_means_over_seeds():
    frame = table()
    figure = on_the_pairs(frame)
    assert [axes.get_title("left") for axes in figure.axes[:4]] == [
        "mixed update", "ANM ⊥ ε alone", "stock (IRED) alone", "denoising alone"
    ]  # fmt: skip
    for axes, update in zip(figure.axes[:4], UPDATES, strict=True):
        rows = frame[(frame["update"] == update) & (frame["pairs"] == MINER)]
        means = rows.groupby("step")["delta_margin"].mean()
        drawn = line(axes, PALETTE[MINER])
        np.testing.assert_allclose(drawn.get_ydata(), means)
        assert drawn.get_xdata().tolist() == STEPS
    assert len(on_the_pairs(frame, beyond_denoising=True).axes) == 6


def test_other_figures_have_a_panel_for_each_comparison_and_one_legend():
    tables = {MINER: table(), "anm": table().replace(MINER, "anm")}
    before = before_the_update(tables)
    titles = [axes.get_title("left") for axes in before.axes[:2]]
    assert titles == ["batches half ANM ⊥ ε", "batches half ANM as written"]
    drawn = line(before.axes[1], PALETTE["stock"])
    assert np.allclose(drawn.get_ydata(), of_margin(tables["anm"], BASELINE))
    figure = elsewhere(tables)
    assert len(figure.axes) == 8
    per_norm = line(figure.axes[2], PALETTE[MINER]).get_ydata()
    rows = tables[MINER].query("update == @MINER and pairs == @MINER")
    expected = (rows["delta_dev_margin"] / rows["update_norm"]).groupby(rows["step"]).mean()
    np.testing.assert_allclose(per_norm, expected)
    (legend,) = figure.legends
    assert len({text.get_text() for text in legend.get_texts()}) == len(legend.get_texts()) == 5


def of_margin(frame, kind):
    return frame.query("update == 'mixed' and pairs == @kind").groupby("step")["margin"].mean()


def test_a_seed_counts_by_its_mean_over_steps():
    frame = table()
    rows = frame.query("update == 'mixed' and pairs == @MINER and seed == 2")
    assert of_seed(frame, "delta_margin", "mixed", MINER)[2] == pytest.approx(rows["delta_margin"].mean())
