"""A layout holds where it is asked for and nowhere else; notebooks' figures are as they always were."""

import matplotlib as mpl
import pytest

from anm_nb.analysis import plots, style
from anm_nb.analysis.style import SMALLEST, figure_width, layout, points, scaled


def test_without_a_layout_figures_are_those_of_a_notebook():
    figure, _ = style.new_figure(1, 2, 2.5)
    assert figure.get_size_inches() == pytest.approx([6.75, 2.5])
    assert (points(7), scaled(7)) == (7, 7)
    with style.house_style():
        assert {mpl.rcParams[name] for name in ("font.size", "axes.titlesize", "axes.labelsize")} == {8}
        assert {mpl.rcParams[name] for name in ("legend.fontsize", "xtick.labelsize", "ytick.labelsize")} == {7.5}


def test_a_layout_sets_width_height_and_text_and_ends():
    with layout(5.5, 10):
        figure, _ = style.new_figure(1, 1, 2)
        assert figure.get_size_inches() == pytest.approx([5.5, 2.5])
        assert points(6.4) == pytest.approx(8)
        with style.house_style():
            assert mpl.rcParams["axes.labelsize"] == 10
            assert mpl.rcParams["xtick.labelsize"] == pytest.approx(9.375)
        with layout(3, 6):
            assert figure_width() == 3
        assert figure_width() == 5.5
    assert figure_width() == 6.75


def test_no_text_is_too_small_to_be_read():
    with layout(3.25, 5), style.house_style():
        assert points(6.5) == SMALLEST == 6
        assert min(mpl.rcParams[name] for name in style.TEXT_SIZES) == 6


def test_a_layout_ends_with_an_error():
    with pytest.raises(ZeroDivisionError), layout(3, 8):
        _ = 1 / 0
    assert figure_width() == 6.75


@pytest.mark.parametrize(("width", "columns"), [(6.75, 4), (3.25, 2), (1.2, 1)])
def test_a_legend_has_as_many_columns_as_fit_and_even_rows(width, columns):
    with layout(width, 8), style.house_style():
        figure, (axes,) = style.new_figure(1, 1, 2)
        for name in ("of one method", "of another", "of a third one", "of a fourth"):
            axes.plot([0, 1], [0, 1], label=name)
        plots.legend_below(figure, axes, at_most=4)
        figure.draw_without_rendering()
        (legend,) = figure.legends
        assert legend._ncols == columns
        assert columns == 1 or legend.get_window_extent().width <= figure.bbox.width
