"""What a person has set up for matplotlib changes no figure of the project, and is as it was afterwards."""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from anm_nb.analysis import kept, plots, style

HOSTILE = Path(__file__).resolve().parents[1] / "hostile.matplotlibrc"
KEPT = "10_anm_vs_corruption"
SETTINGS = {
    "TeX": {"text.usetex": True, "font.family": "serif"},
    "dark": {"axes.facecolor": "black", "savefig.facecolor": "black", "figure.facecolor": "black"},
    "fonts": {"font.family": "monospace", "font.size": 30, "mathtext.fontset": "stix"},
    "saving": {"savefig.bbox": "tight", "savefig.transparent": True, "figure.autolayout": True},
}


def drawn():
    """Figures of a kept result, as a notebook shows them."""
    result = kept.load(KEPT)
    effects = pd.DataFrame({"name": ["mined"], "method": ["anm"], "estimate": [1.0], "low": [0.5], "high": [2.0]})
    made = (plots.learning_curves(result.metrics, result.references), plots.forest(effects, "per cent"))
    return [figure._repr_png_() for figure in made]


def test_a_notebook_s_figures_are_the_same_under_a_person_s_own_settings():
    expected = drawn()
    with mpl.rc_context(fname=HOSTILE):
        before = dict(mpl.rcParams)
        assert drawn() == expected
        assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_figure_keeps_its_looks_when_settings_change_after_it_was_made(kind, tmp_path):
    """As `%matplotlib inline` draws it, and as `figure.savefig` writes it from a cell."""
    figure, (axes,) = style.new_figure(1, 1, 2.0)
    axes.set(xscale="log", xlim=(1e-3, 1e3), yscale="symlog", ylim=(-50, 50))
    pictures = []
    for settings in ({}, SETTINGS[kind]):
        with mpl.rc_context(settings):
            figure.savefig(tmp_path / "figure.png")
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            pictures.append(((tmp_path / "figure.png").read_bytes(), bytes(canvas.buffer_rgba())))
    assert pictures[0] == pictures[1]
