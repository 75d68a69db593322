"""Figures show the right values with all glyphs, and do not depend on a user's matplotlib settings."""

import io
import itertools
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from anm_nb.analysis import plots, style
from anm_nb.analysis.tables import final, score_table

METHODS = ["none", "stock", "random", "anm", "anm_orthogonal", "of_my_own"]
STEPS = [0, 4, 8, 12, 40]
REFERENCES = pd.DataFrame(
    {
        "name": ["zero", "mean target", "copy", "exact solution", "truth"],
        "kind": ["trivial", "trivial", "trivial", "classical", "ceiling"],
        "metric": "mse",
        "value": [0.8, 0.5, 0.51, 0.01, 0.0],
    }
)
EFFECTS = pd.DataFrame(
    {"name": [style.label(method) for method in METHODS], "rival": "stock", "estimate": 1.0, "low": 0.5, "high": 2.0}
)
HOSTILE = Path(__file__).resolve().parents[1] / "hostile.matplotlibrc"


def metrics(methods=tuple(METHODS), seeds=3):
    rows = pd.DataFrame(itertools.product(methods, range(seeds), STEPS), columns=["method", "seed", "step"])
    return rows.assign(mse=np.random.default_rng(0).uniform(0.1, 0.9, len(rows)))


def strips(methods=tuple(METHODS), seeds=3):
    return plots.seed_strips(final(metrics(methods, seeds), "mse")[list(methods)], REFERENCES)


def learning(methods=tuple(METHODS), seeds=3):
    with style.house_style():
        figure, (axes,) = style.new_figure(1, 1, 2)
        plots.curves(axes, metrics(methods, seeds), "mse")
        plots.legend_below(figure, axes, at_most=5)
    return figure


MAKERS = {"curves": learning, "seed_strips": strips, "forest": lambda: plots.forest(EFFECTS, "per cent", "rival")}


@pytest.mark.parametrize("name", MAKERS)
def test_a_figure_does_not_depend_on_a_user_s_matplotlib_settings(name):
    before = dict(mpl.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph is a warning
        figure = MAKERS[name]()
        png = figure._repr_png_()
    assert dict(mpl.rcParams) == before
    picture = imread(io.BytesIO(png))
    assert picture.shape[1] == int(6.75 * 130)
    assert 0.02 < (picture[..., :3].min(axis=2) < 0.98).mean() < 0.9  # neither blank nor black
    extent = figure.get_tightbbox()
    assert -0.1 < extent.x0 < extent.x1 < 6.75 + 0.1  # nothing is cut off at the sides
    assert all(axes.get_xlabel() for axes in figure.axes)
    with mpl.rc_context(fname=HOSTILE):
        assert MAKERS[name]()._repr_png_() == png


def test_strips_show_every_seed_the_mean_its_interval_and_the_references():
    scores = final(metrics(), "mse")[METHODS]
    table = score_table(scores, REFERENCES)
    (axes,) = strips().axes
    lines = axes.get_lines()
    for height, method in enumerate(METHODS):
        dots, bar, diamond = lines[3 * height : 3 * height + 3]
        assert sorted(dots.get_xdata()) == sorted(scores[method])
        assert list(bar.get_xdata()) == [table.loc[method, "low"], table.loc[method, "high"]]
        assert diamond.get_xdata()[0] == pytest.approx(scores[method].mean())
    assert [line.get_xdata()[0] for line in lines[3 * len(METHODS) :]] == [0.5, 0.8, 0.01]
    assert {"mean target,\ncopy", "zero"} <= {text.get_text() for text in axes.texts}
