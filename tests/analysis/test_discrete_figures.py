"""Figures of section G show the means of their tables, say what they show, and fit a page."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from anm_nb.analysis import figures
from anm_nb.analysis.discrete_figures import (
    BY_LEVEL,
    entropies,
    negatives_by_level,
    score_curves,
    violations,
    wrong_orders,
)
from anm_nb.analysis.figures import colours
from anm_nb.config import ParameterError
from anm_nb.energy.constraints import ENTROPY_BAND

TASKS = ["sudoku", "connectivity"]
METHODS = ["stock", "anm_simplex", "anm_simplex_legitimate"]
STEPS, LEVELS, SEEDS = [0, 5, 50], range(10), range(3)
KINDS = ["held_out", "stock", "anm_simplex"]


def rows(**columns):
    """A row for each combination, with a random value in every measured column."""
    table = pd.DataFrame(itertools.product(*columns.values()), columns=list(columns))
    source = np.random.default_rng(0)
    names = ["relative_entropy", "violation_rate", "wrong", "cell_accuracy", "board_accuracy", "balanced_accuracy"]
    table = table.assign(**{name: source.uniform(size=len(table)) for name in [*names, *BY_LEVEL]})
    table.loc[table["method"] == "stock", "relative_entropy"] = np.nan
    return table


METRICS = rows(task=TASKS, method=METHODS, seed=SEEDS, step=STEPS)
NEGATIVES = rows(task=TASKS, method=METHODS, seed=SEEDS, step=STEPS, level=LEVELS, example=range(2))
DENOISED = rows(task=TASKS, method=[*METHODS, "undenoised"], seed=SEEDS, step=STEPS, level=LEVELS)
ORDERS = rows(task=TASKS, method=METHODS, seed=SEEDS, kind=KINDS)
REFERENCES = pd.DataFrame(
    [
        (task, name, kind, metric, value)
        for task, metric in [("sudoku", f"{part}_accuracy") for part in ("cell", "board")]
        + [("connectivity", "balanced_accuracy")]
        for name, kind, value in (("dull", "trivial", 0.2), ("solver", "classical", 1.0), ("truth", "ceiling", 1.0))
    ],
    columns=["task", "name", "kind", "metric", "value"],
)  # fmt: skip
MAKERS = {
    "entropies": (entropies, (METRICS, NEGATIVES)),
    "negatives_by_level": (negatives_by_level, (NEGATIVES,)),
    "violations": (violations, (DENOISED, METRICS, [4, 8])),
    "wrong_orders": (wrong_orders, (ORDERS,)),
    "score_curves": (score_curves, (METRICS, REFERENCES)),
}


def line(axes, method):
    """x and y of a method's mean line."""
    (found,) = (each for each in axes.get_lines() if each.get_label() == figures.label(method))
    return found.get_xydata()


@pytest.mark.parametrize("name", MAKERS)
def test_figures_fit_a_page_and_label_every_axis(name):
    make, tables = MAKERS[name]
    figure = make(*tables)
    assert isinstance(figure, Figure)
    width, height = figure.get_size_inches()
    assert width == figures.WIDTH
    assert height < 9
    grid = figure.axes
    assert all(axes.get_title(loc="left") for axes in grid[:2])
    assert any(axes.get_ylabel() or axes.get_title(loc="left") for axes in grid)
    assert figure.legends
    assert figure._repr_png_()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", MAKERS)
def test_a_table_without_rows_or_a_column_is_refused_by_name(name):
    make, (first, *others) = MAKERS[name]
    with pytest.raises(ParameterError, match="table without method"):
        make(first.drop(columns="method"), *others)
    with pytest.raises(ParameterError, match="table without rows"):
        make(first.iloc[:0], *others)


def test_entropy_lines_are_means_and_histograms_hold_every_pair():
    grid = np.reshape(entropies(METRICS, NEGATIVES).axes, (2, 3))
    own = METRICS[(METRICS["task"] == "connectivity") & (METRICS["method"] == "anm_simplex")]
    expected = own.groupby("step")["relative_entropy"].mean()
    np.testing.assert_allclose(line(grid[1, 0], "anm_simplex")[:, 1], expected)
    assert not [each for each in grid[1, 0].get_lines() if each.get_label() == figures.label("stock")]
    for axes in grid[:, 1:].flat:
        bars = [patch for patch in axes.patches if patch.get_fill() is False]
        assert len(bars) == 2  # the methods that mine relaxed points
    band = grid[0, 0].patches[0].get_extents().transformed(grid[0, 0].transData.inverted())
    assert (band.y0, band.y1) == pytest.approx(ENTROPY_BAND)
    heights = np.histogram(
        NEGATIVES.query("task == 'sudoku' and step == 50 and method == 'anm_simplex'")["relative_entropy"],
        np.linspace(0, 1, 26),
    )[0] / 60  # fmt: skip
    drawn = next(
        p for p in grid[0, 2].patches if p.get_fill() is False and p.get_edgecolor()[:3] == colour("anm_simplex")
    )
    assert drawn.get_xy()[:, 1].max() == pytest.approx(heights.max())


def colour(method):
    from matplotlib.colors import to_rgb

    return to_rgb(colours(METHODS)[method])


def test_levels_are_those_of_the_last_step():
    grid = np.reshape(negatives_by_level(NEGATIVES).axes, (2, 3))
    own = NEGATIVES.query("task == 'sudoku' and step == 50 and method == 'stock'")
    for axes, column in zip(grid[0], BY_LEVEL, strict=True):
        np.testing.assert_allclose(line(axes, "stock")[:, 1], own.groupby("level")[column].mean())


def test_violations_stand_beside_the_noised_answer():
    grid = np.reshape(violations(DENOISED, METRICS, [4, 8]).axes, (2, 3))
    for table, axes in ((DENOISED.query("level == 8"), grid[1, 1]), (METRICS, grid[1, 2])):
        own = table.query("task == 'connectivity' and method == 'anm_simplex'").groupby("step")["violation_rate"].mean()
        np.testing.assert_allclose(line(axes, "anm_simplex")[:, 1], own)
    (idle,) = (each for each in grid[0, 0].get_lines() if each.get_label() == "noised answer")
    own = DENOISED.query("task == 'sudoku' and method == 'undenoised' and level == 4")
    np.testing.assert_allclose(idle.get_ydata(), own.groupby("step")["violation_rate"].mean())


def test_each_energy_has_a_dot_for_each_kind_of_negative():
    axes = wrong_orders(ORDERS).axes[1]
    for container, method in zip(axes.containers, METHODS, strict=True):
        own = ORDERS.query(f"task == 'connectivity' and method == '{method}'").groupby("kind", sort=False)["wrong"]
        np.testing.assert_allclose(container.lines[0].get_ydata(), own.mean())
    assert [text.get_text() for text in axes.get_xticklabels()][1:] == ["stock", "mined"]


def test_scores_stand_beside_their_references():
    panels = score_curves(METRICS, REFERENCES).axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "sudoku\ncell accuracy",
        "sudoku\nboard accuracy",
        "connectivity\nbalanced accuracy",
    ]
    for axes in panels:
        assert [text.get_text() for text in axes.texts] == ["dull", "solver"]
        assert [each.get_ydata()[0] for each in axes.get_lines()[3:]] == [0.2, 1.0]
