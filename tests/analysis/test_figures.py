"""Figures have labelled axes, one colour a method throughout, every glyph they write, and show themselves as PNG."""

import functools
import io
import itertools
import warnings
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from anm_nb.analysis import plots, style
from anm_nb.analysis.plots import seed_strips
from anm_nb.analysis.stats import mean_interval
from anm_nb.analysis.tables import final, score_table

METHODS = ["none", "stock", "random", "anm", "anm_orthogonal", "of_my_own"]
STEPS = [0, 4, 8, 12, 40]
CONTRAST = ["p_hard", "illegitimate_fraction", "margin_mean", "loss_con", "grad_share_contrast", "e_pos", "e_neg"]
REFERENCES = pd.DataFrame(
    {
        "name": ["zero", "mean target", "exact solution", "truth"],
        "kind": ["trivial", "trivial", "classical", "ceiling"],
        "metric": "mse",
        "value": [0.8, 0.5, 0.0, 0.0],
    }
)


def metrics(methods=tuple(METHODS), seeds=3):
    """Tidy metrics with every column that the figures read; plain denoising has none of the contrastive ones."""
    source = np.random.default_rng(0)
    rows = pd.DataFrame(itertools.product(methods, range(seeds), STEPS), columns=["method", "seed", "step"])
    for column in ["mse", "dev_p_hard", *CONTRAST]:
        rows[column] = source.uniform(0.1, 0.9, len(rows))
    rows.loc[rows["method"] == "none", CONTRAST] = np.nan
    return rows


def summary(methods=tuple(METHODS), seeds=3):
    scores = final(metrics(methods, seeds), "mse")[list(methods)]
    return seed_strips(scores, REFERENCES)


EFFECTS = pd.DataFrame(
    {"name": [style.label(method) for method in METHODS], "rival": "stock", "estimate": 1.0, "low": 0.5, "high": 2.0}
)
MAKERS = {
    "learning_curves": lambda: plots.learning_curves(metrics(), REFERENCES),
    "seed_strips": summary,
    "forest": lambda: plots.forest(EFFECTS, "per cent", "rival"),
}


@functools.cache
def figure_of(name):
    return MAKERS[name]()


@dataclass
class Drawn:
    """A figure as a notebook shows it, and what drawing it did besides."""

    figure: Figure
    png: bytes
    warned: list[str]
    changed: set[str]


@pytest.fixture(scope="module", params=MAKERS)
def drawn(request):
    before = dict(mpl.rcParams)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure = figure_of(request.param)
        png = figure._repr_png_()
    changed = {name for name, value in before.items() if mpl.rcParams[name] != value}
    return Drawn(figure, png, [str(warning.message) for warning in caught], changed)


def test_every_figure_function_is_tested():
    returned = {name: getattr(value, "__annotations__", {}).get("return") for name, value in vars(plots).items()}
    public = {name for name, kind in returned.items() if kind == "Figure" and not name.startswith("_")}
    assert public - {"publish"} == set(MAKERS)


def test_a_figure_shows_itself_as_png(drawn):
    assert isinstance(drawn.figure, Figure)
    picture = imread(io.BytesIO(drawn.png))
    assert picture.shape[1] > 600
    assert 0.02 < (picture[..., :3].min(axis=2) < 0.98).mean() < 0.9  # neither blank nor black
    assert not drawn.changed  # matplotlib is left as it was


def test_every_glyph_is_in_the_font_and_nothing_else_is_complained_about(drawn):
    assert drawn.warned == []


def test_a_missing_glyph_would_be_noticed():
    blank = style.PaperFigure()
    blank.text(0.5, 0.5, "\u4e2d")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="Glyph"):
            blank._repr_png_()


def test_axes_say_what_they_show(drawn):
    """Along the bottom what x is; along the left, or above, what y is; the histograms of densities name their rows."""
    figure = drawn.figure
    for axes in figure.axes:
        place = axes.get_subplotspec()
        if place.is_last_row():
            assert axes.get_xlabel() or figure.get_supxlabel()
        named_by_ticks = [text.get_text() for text in axes.get_yticklabels()]
        if place.is_first_col():
            assert axes.get_ylabel() or axes.get_title(loc="left") or style.label(METHODS[0]) in named_by_ticks
        else:
            shares_y = any(other is not axes for other in axes.get_shared_y_axes().get_siblings(axes))
            assert axes.get_ylabel() or axes.get_title(loc="left") or shares_y


def test_figures_fit_the_width_of_a_paper(drawn):
    assert drawn.figure.get_size_inches()[0] == pytest.approx(6.75)
    extent = drawn.figure.get_tightbbox()
    assert extent.x0 > -0.1  # nothing is cut off at the sides
    assert extent.x1 < 6.75 + 0.1


# colours


def colours_by_label(axes):
    return {
        line.get_label(): to_hex(line.get_color()) for line in axes.get_lines() if not line.get_label().startswith("_")
    }


def test_a_method_has_the_same_colour_in_every_figure():
    expected = {style.label(method): to_hex(colour) for method, colour in style.colours(METHODS).items()}
    for axes in figure_of("learning_curves").axes:
        assert colours_by_label(axes) == expected
    (axes,) = figure_of("seed_strips").axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    diamonds = [line for line in axes.get_lines() if line.get_marker() == "D"]
    assert {names[int(line.get_ydata()[0])]: to_hex(line.get_color()) for line in diamonds} == expected


def test_colours_are_told_apart():
    same = {"no iteration": "baseline", "HRM per token": "hrm"}  # one model, by its names in two notebooks
    assert all(style.PALETTE[one] == style.PALETTE[other] for one, other in same.items())
    shades = [*(shade for name, shade in style.PALETTE.items() if name not in same), *style.OTHER_COLOURS]
    for one, other in itertools.combinations(shades, 2):
        assert np.linalg.norm(np.subtract(to_rgb(one), to_rgb(other))) > 0.2, (one, other)


def test_methods_of_a_user_s_own_get_colours_of_their_own():
    own = [f"own_{number}" for number in range(3)]
    given = style.colours(["stock", *own])
    assert given["stock"] == style.PALETTE["stock"]
    assert len(set(given.values())) == 4
    assert not set(given.values()) & (set(style.PALETTE.values()) - {style.PALETTE["stock"]})
    assert style.colours([*own, "anm"])["own_0"] == given["own_0"]
    assert style.label("own_0") == "own_0"
    assert len(style.colours([f"own_{number}" for number in range(20)])) == 20  # never too few


# what is drawn


def interval_drawn(rows, method="anm", **options):
    """The axes of an interval line alone."""
    _, (axes,) = style.new_figure(1, 1, 2)
    plots.interval_line(axes, rows, "x", "y", method, "#123456", **options)
    return axes


def test_an_interval_line_is_the_mean_and_its_interval_at_every_x():
    source = np.random.default_rng(0)
    rows = pd.DataFrame(itertools.product(range(5), [1, 4, 9]), columns=["seed", "x"])
    rows["y"] = source.normal(size=len(rows))
    rows.loc[0, "y"] = np.nan  # a seed without a value there
    axes = interval_drawn(rows, dots=True)
    (line,) = axes.get_lines()
    expected = {x: mean_interval(each["y"]) for x, each in rows.dropna().groupby("x")}
    assert line.get_label() == style.label("anm")
    assert line.get_marker() == "."
    np.testing.assert_allclose(line.get_xydata(), [(x, mean) for x, (mean, _, _) in expected.items()])
    edge = axes.collections[0].get_paths()[0].vertices
    for x, (_, low, high) in expected.items():
        there = edge[edge[:, 0] == x, 1]
        assert (there.min(), there.max()) == pytest.approx((low, high))
    assert interval_drawn(rows).get_lines()[0].get_marker() == "None"
    many = pd.concat([rows.assign(x=rows["x"] + 10 * turn) for turn in range(7)])
    assert interval_drawn(many, dots=True).get_lines()[0].get_marker() == "None"


def test_an_interval_at_a_single_x_is_a_bar():
    rows = pd.DataFrame({"seed": range(3), "x": 2, "y": [1.0, 2.0, 4.0]})
    (bar,) = interval_drawn(rows).containers
    mean, low, high = mean_interval(rows["y"])
    assert bar.lines[0].get_xydata().tolist() == [[2, pytest.approx(mean)]]
    np.testing.assert_allclose(bar.lines[2][0].get_segments()[0], [(2, low), (2, high)])


def test_an_interval_line_of_nothing_is_not_drawn():
    axes = interval_drawn(pd.DataFrame({"x": [1, 2], "y": [np.nan, np.nan]}))
    assert not axes.get_lines()
    assert not axes.collections


def test_what_others_are_measured_against_is_told_by_its_dashes_too():
    rows = pd.DataFrame({"x": [1, 2] * 2, "y": [1.0, 2.0, 3.0, 4.0]})
    styles = {name: interval_drawn(rows, name).get_lines()[0] for name in ("anm", "none", "optimal")}
    assert styles["anm"].get_linestyle() == "-"
    assert len({line._unscaled_dash_pattern for line in styles.values()}) == 3
    assert all(styles[name].get_zorder() > styles["anm"].get_zorder() for name in ("none", "optimal"))


def test_curves_are_means_over_seeds_at_the_steps_recorded():
    data = metrics()
    early, whole = plots.learning_curves(data, REFERENCES).axes
    means = data.groupby(["method", "step"])["mse"].mean()
    for line in (line for line in whole.get_lines() if not line.get_label().startswith("_")):
        method = next(name for name in METHODS if style.label(name) == line.get_label())
        assert line.get_xdata().tolist() == STEPS
        np.testing.assert_allclose(line.get_ydata(), means[method])
    assert early.get_xlim() == (0, 8)  # the first 20 %
    trivial = {float(line.get_ydata()[0]) for line in whole.get_lines() if line.get_label().startswith("_")}
    assert trivial == {0.8, 0.5}
    assert {"zero", "mean target"} <= {text.get_text() for text in whole.texts}


def test_the_summary_shows_every_seed_the_mean_and_its_interval():
    scores = final(metrics(), "mse")[METHODS]
    table = score_table(scores, REFERENCES)
    (axes,) = seed_strips(scores, REFERENCES).axes
    lines = axes.get_lines()
    for height, method in enumerate(METHODS):
        dots, bar, diamond = lines[3 * height : 3 * height + 3]
        assert sorted(dots.get_xdata()) == sorted(scores[method])
        assert list(bar.get_xdata()) == [table.loc[method, "low"], table.loc[method, "high"]]
        assert diamond.get_xdata()[0] == pytest.approx(scores[method].mean())


# sparse input


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_are_drawn(seeds):
    for made in (plots.learning_curves(metrics(seeds=seeds), REFERENCES), summary(seeds=seeds)):
        made.draw_without_rendering()


def test_one_method_and_one_record_are_drawn():
    only = metrics(methods=["anm"])
    for made in (
        plots.learning_curves(only, REFERENCES),
        summary(methods=["anm"]),
    ):
        made.draw_without_rendering()
