"""A figure drawn for a wide page brought to a narrow one: long labels broken into lines, crowded ticks thinned out.

What is drawn stays where it is; words move to a further line, ticks lose their labels, and a figure grows in height
where names of rows, in their further lines, would lie on each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.transforms import Bbox

SPACE = 3.0  # points between two texts that are not to run into each other
NAMES = 0.25  # of a figure's width: what the names down a panel's left side may take


def fit(figure: Figure) -> None:
    """Break titles, axis labels and names of rows that are too long for the figure, and thin out ticks that touch."""
    for _ in range(2):  # a further line makes panels smaller, which may crowd what was not before
        figure.draw_without_rendering()
        space = SPACE * figure.dpi / 72
        for axes in figure.axes:
            left, right = _room(figure, axes)
            middle = axes.get_window_extent().x0 + axes.get_window_extent().width / 2
            for title in (axes.title, axes._left_title):  # type: ignore[attr-defined]  # no public way to both
                _break(title, right - axes.get_window_extent().x0 - space)
            _break(axes.xaxis.label, 2 * min(middle - left, right - middle) - space)
            _break_names(axes, NAMES * figure.bbox.width)
        if figure.get_supxlabel():
            _break(figure._supxlabel, figure.bbox.width - 2 * space)  # type: ignore[attr-defined]
        figure.draw_without_rendering()
        figure.set_figheight(figure.get_figheight() * max([1.0, *map(_crowding, figure.axes)]))
        figure.draw_without_rendering()
        for axes in figure.axes:
            _thin(axes, space)


def _crowding(axes: Axes) -> float:
    """How many times the room between their middles the names of two rows need at most, one above the other."""
    labels = [label for label in axes.get_yticklabels() if label.get_visible() and " " in label.get_text()]
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
    needs = [(one.height + other.height) / (other.y0 + other.y1 - one.y0 - one.y1) for one, other in pairwise(boxes)]
    return max(needs, default=1.0)


def _room(figure: Figure, axes: Axes) -> tuple[float, float]:
    """From where to where what belongs to a panel may reach, in pixels: to its neighbours, or the figure's edges."""
    own = axes.get_window_extent()
    row = [other.get_window_extent() for other in figure.axes if other is not axes]
    row = [box for box in row if box.y0 < own.y1 and own.y0 < box.y1]
    left = max((box.x1 for box in row if box.x1 <= own.x0), default=0.0)
    right = min((box.x0 for box in row if box.x0 >= own.x1), default=figure.bbox.width)
    return left, right


def _break(text: Text, width: float) -> None:
    """Let a text wider than `width` pixels go on in further lines, as few as will do and as even as they can be."""
    lines = narrower = _lines(text, width)
    while len(narrower) == len(lines):
        lines = narrower
        narrower = _lines(text, max(_width(text, line) for line in lines) - 1)
        if narrower == lines:  # one word makes the width
            break
    text.set_text("\n".join(lines))


def _lines(text: Text, width: float) -> list[str]:
    """A text in lines of at most `width` pixels where words allow it, each as full as can be."""
    lines: list[str] = []
    for line in text.get_text().split("\n"):
        for number, word in enumerate(line.split(" ")):
            longer = word if number == 0 else f"{lines[-1]} {word}"
            if number == 0 or _width(text, longer) > width:
                lines.append(word)
            else:
                lines[-1] = longer
    return lines


def _width(text: Text, words: str) -> float:
    kept = text.get_text()
    text.set_text(words)
    width = text.get_window_extent().width
    text.set_text(kept)
    return width


def _break_names(axes: Axes, width: float) -> None:
    """Break the names of rows that are wider than `width` pixels; numbers have no words to break between."""
    labels = [label for label in axes.get_yticklabels() if label.get_visible()]
    if any(" " in label.get_text() and label.get_window_extent().width > width for label in labels):
        for label in labels:
            _break(label, width)
        axes.yaxis.set_major_formatter(FixedFormatter([label.get_text() for label in labels]))


def _thin(axes: Axes, space: float) -> None:
    """Break named ticks along the bottom between words; of numbered ones label every second, third … that has room."""
    low, high = sorted(axes.get_xlim())
    shown = [
        tick
        for tick in (*axes.xaxis.get_major_ticks(), *axes.xaxis.get_minor_ticks())
        if tick.label1.get_visible() and tick.label1.get_text() and low <= tick.get_loc() <= high
    ]
    shown.sort(key=lambda tick: tick.label1.get_window_extent().x0)
    boxes = [tick.label1.get_window_extent() for tick in shown]
    if _apart(boxes, space):
        return
    if any(" " in tick.label1.get_text() for tick in shown):
        centres = [(box.x0 + box.x1) / 2 for box in boxes]
        for tick in shown:
            _break(tick.label1, min(np.diff(centres)) - space)
        every = 1
    else:
        every = next(step for step in range(2, len(boxes) + 1) if _apart(boxes[::step], space))
    texts = [tick.label1.get_text() if number % every == 0 else "" for number, tick in enumerate(shown)]
    axes.xaxis.set_major_locator(FixedLocator([tick.get_loc() for tick in shown]))
    axes.xaxis.set_major_formatter(FixedFormatter(texts))
    axes.xaxis.set_minor_locator(NullLocator())


def _apart(boxes: Sequence[Bbox], space: float) -> bool:
    return all(one.x1 + space <= other.x0 for one, other in pairwise(boxes))
