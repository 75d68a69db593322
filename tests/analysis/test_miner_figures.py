"""Figures of the miner show the means and intervals of their tables, say what they show, and fit a page."""

import itertools
import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from anm_nb.analysis import figures, miner_figures
from anm_nb.analysis.miner_figures import (
    FACTORS,
    OUTCOMES,
    RULE_STYLES,
    inner_paths,
    inner_steps,
    noise_walk,
    rule_comparison,
    step_sizes,
    training_outcomes,
)
from anm_nb.analysis.stats import mean_interval
from anm_nb.config import ParameterError

METHODS = ("anm", "anm_orthogonal")
ENERGIES = ("trained", "optimal")
MEASURED = [
    "energy_left",
    "gm_norm",
    "cosine",
    "p_hard",
    "illegitimate",
    "miner_backtracks",
    "miner_limit_hits",
    "drop",
    "wrongness",
]


def table(energies=ENERGIES, seeds=3, **swept):
    columns = ["energy", "method", "seed", *swept]
    rows = pd.DataFrame(itertools.product(energies, METHODS, range(seeds), *swept.values()), columns=columns)
    source = np.random.default_rng(0)
    return rows.assign(**{name: source.uniform(0.1, 1, len(rows)) for name in MEASURED})


def paths(seeds=3):
    return table(seeds=seeds, evaluations=range(1, 8))


def mined(seeds=3):
    return table(seeds=seeds, level=range(10), example=range(3))


def lengths(seeds=3):
    return table(("trained",), seeds, step_size=[0.1, 1.0, 10.0])


def steps(seeds=3):
    return table(("trained",), seeds, steps=[1, 2, 3, 8])


def rules(seeds=3):
    return table(("trained",), seeds, step_size=[0.1, 0.5, 5.0], rule=list(RULE_STYLES), evaluations=range(1, 8))


def trained(seeds=3):
    varied = {"inner_steps": [1.0, 3.0, 8.0], "ema_decay": [0.0, 0.9], "lr_divisor": [1.0, 2.0]}
    keys = [(factor, value, "anm_orthogonal") for factor, values in varied.items() for value in values]
    keys += [(method, np.nan, method) for method in ("none", "stock")]
    rows = pd.DataFrame(
        [(*key, seed) for key in keys for seed in range(seeds)], columns=["factor", "value", "method", "seed"]
    )
    source = np.random.default_rng(1)
    rows = rows.assign(
        dev_margin_optimal=2.0, mse_trivial=0.3, **{name: source.uniform(0.1, 1, len(rows)) for name in OUTCOMES}
    )
    rows.loc[rows["method"] == "none", "oscillation"] = np.nan
    return rows


MAKERS = {
    "inner_paths": (inner_paths, (paths,)),
    "noise_walk": (noise_walk, (paths, mined)),
    "step_sizes": (step_sizes, (lengths,)),
    "inner_steps": (inner_steps, (steps,)),
    "rule_comparison": (rule_comparison, (rules,)),
    "training_outcomes": (training_outcomes, (trained,)),
}


def test_every_figure_function_is_tested():
    public = {
        name
        for name, value in vars(miner_figures).items()
        if getattr(value, "__annotations__", {}).get("return") == "Figure" and not name.startswith("_")
    }
    assert public == set(MAKERS)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("seeds", [1, 3])
def test_figures_are_drawn_without_complaint_and_fit_a_page(name, seeds):
    make, tables = MAKERS[name]
    before = dict(mpl.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph, a layout that does not fit
        figure = make(*(each(seeds) for each in tables))
        assert figure._repr_png_()
    assert dict(mpl.rcParams) == before
    assert figure.get_size_inches()[0] == figures.WIDTH
    extent = figure.get_tightbbox()
    assert extent.x0 > -0.1
    assert extent.x1 < figures.WIDTH + 0.1
    for axes in figure.axes:
        place = axes.get_subplotspec()
        assert axes.get_xlabel() or not place.is_last_row()
        assert axes.get_title(loc="left") or axes.get_ylabel() or not (place.is_first_row() and place.is_first_col())


@pytest.mark.parametrize("name", MAKERS)
def test_no_two_texts_outside_the_panels_overlap(name):
    make, tables = MAKERS[name]
    figure = make(*(each() for each in tables))
    figure.draw_without_rendering()
    boxes = [each.get_window_extent() for each in (*figure.legends, *figure.texts)]
    assert boxes
    for axes in figure.axes:
        texts = [axes.xaxis.label, axes.yaxis.label, axes._left_title]
        inside = [text for text in texts if text.get_text() and text.get_visible()]
        boxes += [text.get_window_extent().shrunk(0.9, 0.9) for text in inside]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


@pytest.mark.parametrize(
    ("make", "tables", "panel", "x", "column"),
    [
        (inner_paths, (paths,), 1, "evaluations", "gm_norm"),
        (noise_walk, (paths, mined), 0, "evaluations", "cosine"),
        (step_sizes, (lengths,), 2, "step_size", "drop"),
        (inner_steps, (steps,), 3, "steps", "wrongness"),
    ],
)
def test_lines_are_means_over_seeds_in_the_method_s_colour_and_the_energy_s_dashes(make, tables, panel, x, column):
    data = tables[0]()
    lines = make(*(each() for each in tables)).axes[panel].get_lines()
    expected = list(itertools.product(METHODS, data["energy"].unique()))
    assert len(lines) == len(expected)
    for line, (method, energy) in zip(lines, expected, strict=True):
        rows = data[(data["method"] == method) & (data["energy"] == energy)].groupby(x)[column].mean()
        np.testing.assert_allclose(line.get_ydata(), rows)
        np.testing.assert_allclose(line.get_xdata(), rows.index)
        assert line.get_color() == figures.PALETTE[method]
        assert (line.get_linestyle() == "-") == (energy == "trained")


def test_illegitimate_shares_by_level_are_means_over_examples_then_seeds():
    data = mined()
    line = noise_walk(paths(), data).axes[2].get_lines()[0]
    rows = data[(data["method"] == "anm") & (data["energy"] == "trained")]
    np.testing.assert_allclose(line.get_ydata(), rows.groupby("level")["illegitimate"].mean())


def test_rules_are_compared_in_a_panel_for_each_method_and_first_step():
    data = rules()
    figure = rule_comparison(data)
    assert len(figure.axes) == 2 * 3
    for axes, (method, length) in zip(figure.axes, itertools.product(METHODS, (0.1, 0.5, 5.0)), strict=True):
        for line, rule in zip(axes.get_lines(), RULE_STYLES, strict=True):
            rows = data[(data["method"] == method) & (data["step_size"] == length) & (data["rule"] == rule)]
            np.testing.assert_allclose(line.get_ydata(), rows.groupby("evaluations")["energy_left"].mean())


def test_trainings_are_shown_with_their_intervals_their_baselines_and_the_optimal_margin():
    data = trained()
    grid = np.reshape(training_outcomes(data).axes, (len(OUTCOMES), len(FACTORS)))
    axes = grid[1, 0]  # held-out margin against inner steps
    assert [text.get_text() for text in grid[-1, 0].get_xticklabels()] == ["1", "3", "8"]
    levels = [line.get_ydata()[0] for line in axes.get_lines() if list(line.get_xdata()) == [0, 1]]
    assert levels == pytest.approx([*data[data["value"].isna()].groupby("method")["dev_margin"].mean(), 2.0])
    bar = next(line for line in axes.get_lines() if list(line.get_xdata()) == [2, 2])
    rows = data[(data["factor"] == "inner_steps") & (data["value"] == 8)]
    assert tuple(bar.get_ydata()) == pytest.approx(mean_interval(rows["dev_margin"])[1:])
    without = [line for line in grid[3, 0].get_lines() if list(line.get_xdata()) == [0, 1]]
    assert len(without) == 1  # plain denoising has no margin of its own


@pytest.mark.parametrize("name", MAKERS)
def test_unusable_tables_are_refused(name):
    make, tables = MAKERS[name]
    first, *others = (each() for each in tables)
    with pytest.raises(ParameterError, match="table without seed; it needs the columns "):
        make(first.drop(columns="seed"), *others)
    with pytest.raises(ParameterError, match="table without rows"):
        make(first.iloc[:0], *others)
