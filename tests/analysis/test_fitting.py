"""Fitting moves words to further lines and takes labels off crowded ticks; what is drawn stays."""

from itertools import pairwise

import numpy as np
import pytest

from anm_nb.analysis import figures
from anm_nb.analysis.fitting import fit
from anm_nb.analysis.style import layout

LONG = "a label of so many words that a narrow figure has not nearly the room to write it all in one single line"


def panels(count=1, width=3.25, rows=1, height=3.0, **options):
    with layout(width, 8), figures.house_style():
        return figures.new_figure(rows, count, height, **options)


def shown(axes):
    return [tick.label1 for tick in axes.xaxis.get_major_ticks() if tick.label1.get_text()]


def test_what_fits_is_left_as_it_is():
    figure, grid = panels(2, 6.75)
    for axes in grid:
        axes.plot([0, 1], [0, 1])
        axes.set_title("two\nlines", loc="left")
        axes.set_xlabel("short, as it should be")
    figure.draw_without_rendering()
    before = [[text.get_text() for text in shown(axes)] for axes in grid]
    fit(figure)
    assert [axes.get_title(loc="left") for axes in grid] == ["two\nlines"] * 2
    assert grid[0].get_xlabel() == "short, as it should be"
    assert [[text.get_text() for text in shown(axes)] for axes in grid] == before


def test_long_labels_are_broken_between_words_and_stay_in_the_figure():
    figure, (axes,) = panels(height=5)
    axes.set_title(LONG, loc="left")
    axes.set_xlabel(LONG)
    figure.supxlabel(LONG)
    fit(figure)
    figure.draw_without_rendering()
    for text in (axes._left_title, axes.xaxis.label, figure._supxlabel):
        assert text.get_text().replace("\n", " ") == LONG
        assert "\n" in text.get_text()
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width


def test_lines_are_as_even_as_can_be():
    """No word is left alone on the last line where the one before has some to give."""
    figure, (axes,) = panels(width=2.0)
    axes.set_xlabel("held-out MSE of all seeds and its 95 % interval")
    fit(figure)
    lengths = [len(line) for line in axes.get_xlabel().split("\n")]
    assert len(lengths) > 1
    assert max(lengths) - min(lengths) <= 8


def test_a_title_ends_before_its_neighbour_s():
    figure, (one, other) = panels(2)
    for axes in (one, other):
        axes.set_title("mean of so many things", loc="left")
    fit(figure)
    figure.draw_without_rendering()
    assert one._left_title.get_window_extent().x1 < other._left_title.get_window_extent().x0


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_crowded_numbers_lose_labels_evenly(scale):
    figure, (axes,) = panels(width=2.4)
    axes.set_xscale(scale)
    axes.plot([0.012, 0.3], [0, 1])
    places = (np.geomspace if scale == "log" else np.linspace)(0.012, 0.3, 9)
    axes.set_xticks(places, [f"{value:.4f}" for value in places])
    axes.minorticks_off()
    limits = axes.get_xlim()
    fit(figure)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in shown(axes)]
    assert 2 <= len(boxes) < 9
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    assert axes.get_xlim() == limits
    for tick in axes.xaxis.get_major_ticks():  # a label names its own place
        if tick.label1.get_text():
            assert float(tick.label1.get_text()) == pytest.approx(tick.get_loc(), abs=1e-4)


def test_ticks_of_words_are_broken_and_none_is_lost():
    figure, (axes,) = panels()
    axes.set_xticks(range(3), ["index space\n(as published)", "ranks, all pairs", "ranks, observed pairs"])
    axes.plot(range(3))
    fit(figure)
    figure.draw_without_rendering()
    assert [text.get_text().replace("\n", " ") for text in shown(axes)] == [
        "index space (as published)", "ranks, all pairs", "ranks, observed pairs",
    ]  # fmt: skip
    assert all(one.get_window_extent().x1 < other.get_window_extent().x0 for one, other in pairwise(shown(axes)))


def test_names_of_rows_leave_room_for_what_they_name():
    figure, (one, other) = panels(2, sharey=True)
    one.set_yticks(range(2), ["no negatives, a larger batch (equal time)", "stock"])
    fit(figure)
    figure.draw_without_rendering()
    names = [text for text in one.get_yticklabels() if text.get_visible()]
    assert [text.get_text().replace("\n", " ") for text in names] == [
        "no negatives, a larger batch (equal time)", "stock",
    ]  # fmt: skip
    assert max(text.get_window_extent().width for text in names) < 0.3 * figure.bbox.width
    assert other.get_window_extent().width > 0.2 * figure.bbox.width


def test_ticks_that_a_panel_shares_with_the_one_below_are_left():
    figure, grid = panels(width=6.75, rows=2, sharex=True)
    grid[0].plot([0, 500, 2000], [1, 2, 3])
    fit(figure)
    figure.draw_without_rendering()
    assert len(shown(grid[1])) > 3


@pytest.mark.parametrize("words", [1, 5])
def test_a_figure_grows_where_names_of_rows_would_lie_on_each_other(words):
    figure, (axes,) = panels(height=2.0)
    axes.set_yticks(range(6), [" ".join(["a few words"] * words) for _ in range(6)], fontsize=6)
    fit(figure)
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in axes.get_yticklabels()), key=lambda box: box.y0)
    assert all(one.y1 <= other.y0 + 1 for one, other in pairwise(boxes))
    assert (figure.get_figheight() > 2.0) == (words > 1)
