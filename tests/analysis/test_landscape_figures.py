"""Figures of section E show the means and intervals of their tables, say what they show, and fit a page."""

import itertools
import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from anm_nb.analysis import figures, landscape_figures
from anm_nb.analysis.landscape_figures import (
    TREND_TITLES,
    landscape_trends,
    line_scans,
    plane_slices,
    scans_over_training,
)
from anm_nb.analysis.stats import mean_interval
from anm_nb.config import ParameterError

METHODS = ["none", "stock", "random", "anm", "anm_orthogonal", "of_my_own"]
T = np.arange(-10, 31) / 20
STEPS = [0, 100, 400]


def profiles(methods=tuple(METHODS), seeds=4, levels=(0, 3, 8)):
    rows = pd.DataFrame(itertools.product(methods, range(seeds), levels, T), columns=["method", "seed", "level", "t"])
    bend = np.random.default_rng(0).uniform(1, 3, (len(methods), seeds, len(levels), 1))
    return rows.assign(value=(bend * T**2).ravel())


def training_profiles(methods=(*METHODS, "optimal"), seeds=4):
    parts = [profiles(methods, seeds, [2]).assign(step=step) for step in STEPS]
    return pd.concat(parts).assign(value=lambda rows: rows["value"] * (1 + rows["step"]))


def frame(methods=tuple(METHODS), seeds=4, examples=3, levels=(2,)):
    columns = ["method", "seed", "step", "level", "example"]
    rows = pd.DataFrame(itertools.product(methods, range(seeds), STEPS, levels, range(examples)), columns=columns)
    source = np.random.default_rng(1)
    return rows.assign(**{column: source.normal(size=len(rows)) for column in TREND_TITLES})


def slices(methods=tuple(METHODS)):
    rows = pd.DataFrame(itertools.product(methods, T, np.linspace(-1, 1, 9)), columns=["method", "s", "t"])
    steep = rows["method"].map({method: index + 1 for index, method in enumerate(methods)})
    return rows.assign(value=7 + steep * (rows["s"] ** 2 + rows["t"] ** 2 - rows["s"]))


MAKERS = {
    "line_scans": (line_scans, profiles),
    "scans_over_training": (scans_over_training, training_profiles),
    "landscape_trends": (landscape_trends, frame),
    "plane_slices": (plane_slices, slices),
}


def drawn_lines(axes):
    """The lines of methods by their label; marks have none."""
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def panels(figure):
    """Axes with something in them, without the colour bar."""
    return [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]


def bands(axes):
    return [each for each in axes.collections if isinstance(each, mpl.collections.PolyCollection)]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("methods", [METHODS, METHODS[:1], METHODS[:4]], ids=len)
def test_figures_are_drawn_without_complaint_say_what_they_show_and_fit_a_page(name, methods):
    make, table = MAKERS[name]
    before = dict(mpl.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph, a layout that does not fit
        figure = make(table(methods))
        assert figure._repr_png_()
    assert dict(mpl.rcParams) == before
    assert figure.get_size_inches()[0] == figures.WIDTH
    extent = figure.get_tightbbox()
    assert extent.x0 > -0.1
    assert extent.x1 < figures.WIDTH + 0.1
    for axes in panels(figure):
        place = axes.get_subplotspec()
        assert axes.get_title(loc="left")
        assert axes.get_xlabel() or not place.is_last_row()
        assert axes.get_ylabel() or not place.is_first_col() or name == "landscape_trends"  # there titles say it


@pytest.mark.parametrize("name", MAKERS)
def test_no_two_texts_outside_the_panels_overlap(name):
    make, table = MAKERS[name]
    figure = make(table())
    figure.draw_without_rendering()
    boxes = [each.get_window_extent() for each in (*figure.legends, *figure.texts)]
    assert boxes
    for axes in panels(figure):
        texts = [axes.xaxis.label, axes.yaxis.label, axes._left_title, *axes.get_xticklabels()]
        inside = [text for text in texts if text.get_text() and text.get_visible()]
        boxes += [text.get_window_extent().shrunk(0.9, 0.9) for text in inside]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


def test_every_figure_function_is_tested():
    public = {
        name
        for name, value in vars(landscape_figures).items()
        if getattr(value, "__annotations__", {}).get("return") == "Figure" and not name.startswith("_")
    }
    assert public == set(MAKERS)


def test_scans_have_a_panel_for_each_level_with_means_bands_and_both_ends_marked():
    table = profiles()
    figure = line_scans(table)
    assert [axes.get_title(loc="left") for axes in panels(figure)] == [f"noise level k = {k}" for k in (0, 3, 8)]
    house = figures.colours(METHODS)
    for axes, level in zip(panels(figure), (0, 3, 8), strict=True):
        lines = drawn_lines(axes)
        assert list(lines) == [figures.label(method) for method in METHODS]
        assert len(bands(axes)) == len(METHODS)
        for band, method in zip(bands(axes), METHODS, strict=True):
            rows = table[(table["method"] == method) & (table["level"] == level)]
            line = lines[figures.label(method)]
            np.testing.assert_array_equal(line.get_xdata(), T)
            np.testing.assert_allclose(line.get_ydata(), rows.groupby("t")["value"].mean())
            assert to_hex(line.get_color()) == house[method]
            _, low, high = mean_interval(rows.loc[rows["t"] == 1.5, "value"])
            edge = band.get_paths()[0].vertices
            at_end = edge[np.isclose(edge[:, 0], 1.5), 1]
            assert (at_end.min(), at_end.max()) == pytest.approx((low, high))
        marks = [line.get_xdata()[0] for line in axes.get_lines() if line.get_xdata()[0] == line.get_xdata()[-1]]
        assert marks == [0, 1]
        names = dict(zip(axes.get_xticks(), [text.get_text() for text in axes.get_xticklabels()], strict=True))
        assert names[0].endswith("truth")
        assert names[1].endswith("negative")


@pytest.mark.parametrize("count", [1, 4, 5, 10])
def test_any_number_of_levels_has_its_panels(count):
    figure = line_scans(profiles(["anm"], 2, levels=range(count)))
    assert len(panels(figure)) == count
    figure.draw_without_rendering()


def test_trends_are_intervals_over_seeds_of_means_over_examples():
    table = frame()
    by_seed = table.groupby(["method", "step", "seed"])[list(TREND_TITLES)].mean()
    for axes, (column, title) in zip(panels(landscape_trends(table)), TREND_TITLES.items(), strict=True):
        assert axes.get_title(loc="left") == title
        lines = drawn_lines(axes)
        for band, method in zip(bands(axes), METHODS, strict=True):
            expected = np.array([mean_interval(by_seed[column][method][step]) for step in STEPS])
            np.testing.assert_array_equal(lines[figures.label(method)].get_xdata(), STEPS)
            np.testing.assert_allclose(lines[figures.label(method)].get_ydata(), expected[:, 0])
            edge = band.get_paths()[0].vertices
            for step, (_, low, high) in zip(STEPS, expected, strict=True):
                there = edge[edge[:, 0] == step, 1]
                assert (there.min(), there.max()) == pytest.approx((low, high))


def test_every_level_has_a_row_of_trends_and_its_own_numbers():
    table = frame(levels=(6, 0, 3))
    figure = landscape_trends(table)
    rows = np.reshape(panels(figure), (3, 3))
    assert [row[0].get_ylabel() for row in rows] == [f"noise level k = {k}" for k in (0, 3, 6)]
    assert [axes.get_title(loc="left") for axes in rows[0]] == list(TREND_TITLES.values())
    for row, level in zip(rows, (0, 3, 6), strict=True):
        for axes, column in zip(row, TREND_TITLES, strict=True):
            line = drawn_lines(axes)[figures.label("anm")]
            expected = table[(table["level"] == level) & (table["method"] == "anm")].groupby("step")[column].mean()
            np.testing.assert_allclose(line.get_ydata(), expected)


def test_scans_over_training_get_darker_and_stand_beside_the_perfect_denoiser():
    table = training_profiles(["anm", "stock", "optimal"])
    figure = scans_over_training(table)
    assert [axes.get_title(loc="left") for axes in panels(figure)] == [figures.label("anm"), figures.label("stock")]
    means = table.groupby(["method", "step", "t"])["value"].mean()
    for axes, method in zip(panels(figure), ("anm", "stock"), strict=True):
        lines = drawn_lines(axes)
        assert list(lines) == [*(f"step {step}" for step in STEPS), figures.label("optimal")]
        for step in STEPS:
            np.testing.assert_allclose(lines[f"step {step}"].get_ydata(), means[method, step])
        np.testing.assert_allclose(lines[figures.label("optimal")].get_ydata(), means["optimal", STEPS[-1]])
        lightness = [sum(mpl.colors.to_rgb(lines[f"step {step}"].get_color())) for step in STEPS]
        assert lightness == sorted(lightness, reverse=True)
    without = scans_over_training(training_profiles(["anm"]))
    assert list(drawn_lines(panels(without)[0])) == [f"step {step}" for step in STEPS]


def test_planes_share_their_colours_and_mark_truth_and_negative():
    table = slices()
    figure = plane_slices(table)
    assert [axes.get_title(loc="left") for axes in panels(figure)] == [figures.label(method) for method in METHODS]
    filled = [next(each for each in axes.collections if each.filled) for axes in panels(figure)]
    assert all(np.array_equal(each.levels, filled[0].levels) for each in filled)
    assert len({each.get_clim() for each in filled}) == 1
    assert filled[0].levels[0] <= -1.5  # 6·(¼ − ½): the lowest of all, relative to the truth
    assert filled[0].levels[-1] >= 6 * 1.75  # the highest
    for axes in panels(figure):
        marks = drawn_lines(axes)
        assert marks["truth"].get_xydata().tolist() == [[0, 0]]
        assert marks["negative"].get_xydata().tolist() == [[1, 0]]
        outline = next(each for each in axes.collections if not each.filled)
        assert outline.levels.tolist() == [0]  # s² + t² = s: through the truth and the negative
        x, y = np.concatenate([path.vertices for path in outline.get_paths()]).T
        np.testing.assert_allclose(x**2 + y**2, x, atol=0.05)


def test_a_flat_plane_is_drawn():
    plane_slices(slices(["anm"]).assign(value=3.0)).draw_without_rendering()


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_are_drawn(seeds):
    line_scans(profiles(seeds=seeds)).draw_without_rendering()
    landscape_trends(frame(seeds=seeds)).draw_without_rendering()


def test_a_method_without_values_is_left_out():
    table = frame()
    table.loc[table["method"] == "none", list(TREND_TITLES)] = np.nan
    figure = landscape_trends(table)
    assert isinstance(figure, Figure)
    assert list(drawn_lines(panels(figure)[0])) == [figures.label(method) for method in METHODS[1:]]


@pytest.mark.parametrize("name", MAKERS)
def test_unusable_tables_are_refused(name):
    make, table = MAKERS[name]
    with pytest.raises(ParameterError, match="table without method; it needs the columns method, "):
        make(table().drop(columns="method"))
    with pytest.raises(ParameterError, match="table without rows"):
        make(table().iloc[:0])


def test_a_plane_without_the_truth_is_refused():
    table = slices()
    with pytest.raises(ParameterError, match="slices of 'anm': no row has s = 0 and t = 0"):
        plane_slices(table[(table["method"] != "anm") | (table["s"] != 0)])
