"""What a person has set up for matplotlib changes no figure of the project, and is as it was afterwards."""

from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from anm_nb import publication
from anm_nb.analysis import figures

HOSTILE = Path(__file__).resolve().parents[1] / "hostile.matplotlibrc"
DRAWN = ["anm_curves", "anm_scores", "anm_tuning", "hrm_routing", "iteration"]
SETTINGS = {
    "TeX": {"text.usetex": True, "font.family": "serif"},
    "dark": {"axes.facecolor": "black", "savefig.facecolor": "black", "figure.facecolor": "black"},
    "fonts": {"font.family": "monospace", "font.size": 30, "mathtext.fontset": "stix"},
    "saving": {"savefig.bbox": "tight", "savefig.transparent": True, "figure.autolayout": True},
}


def shown(name):
    """The figure of a kept result as a notebook shows it."""
    exhibit = publication.EXHIBITS[name]
    return exhibit.figure(publication.open_source(exhibit.result).content)._repr_png_()


@pytest.mark.parametrize("name", DRAWN)
def test_a_notebook_s_figure_is_the_same_under_a_person_s_own_settings(name):
    expected = shown(name)
    with mpl.rc_context(fname=HOSTILE):
        before = dict(mpl.rcParams)
        assert shown(name) == expected
        assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_figure_keeps_its_looks_when_settings_change_after_it_was_made(kind, tmp_path):
    """As `%matplotlib inline` draws it, and as `figure.savefig` writes it from a cell."""
    figure, (axes,) = figures.new_figure(1, 1, 2.0)
    axes.set(xscale="log", xlim=(1e-3, 1e3), yscale="symlog", ylim=(-50, 50))
    pictures = []
    for settings in ({}, SETTINGS[kind]):
        with mpl.rc_context(settings):
            figure.savefig(tmp_path / "figure.png")
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            pictures.append(((tmp_path / "figure.png").read_bytes(), bytes(canvas.buffer_rgba())))
    assert pictures[0] == pictures[1]
