"""How wide a figure is and how large its text: of a notebook's page unless another layout is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

SMALLEST = 6.0  # points: what is smaller is not read in print


@dataclass(frozen=True)
class Layout:
    """The width of a figure in inches, and the size of its titles and axis labels in points."""

    width: float
    text: float


NOTEBOOK = Layout(width=6.75, text=8)
_current: ContextVar[Layout] = ContextVar("layout", default=NOTEBOOK)


@contextmanager
def layout(width: float, text: float) -> Iterator[None]:
    """Figures made within are `width` inches wide, with titles and axis labels of `text` points, all else in step."""
    token = _current.set(Layout(width, text))
    try:
        yield
    finally:
        _current.reset(token)


def figure_width() -> float:
    """The width of figures made now, in inches."""
    return _current.get().width


def scaled(size: float) -> float:
    """What is `size` in a notebook, in step with the text: points of small print, or inches of a figure's height."""
    return size * _current.get().text / NOTEBOOK.text


def points(size: float) -> float:
    """The size of a text that has `size` points in a notebook, in step with other text and never below `SMALLEST`."""
    return max(scaled(size), SMALLEST)
