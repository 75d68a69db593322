"""One run as an explorer shows it: what its controls offer, its panels, and its read-outs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from anm_nb.analysis.style import colours, label
from anm_nb.store import Run


class Control(NamedTuple):
    """A list, a slider, one with a player, or a text."""

    name: str
    label: str
    tooltip: str
    form: str = "list"  # list | slider | player | text


class View(ABC):
    """One run as an explorer shows it: a row of panels and a line of read-outs, read from the run when it is made.

    A view sets `options`, for each control labels and values, or whether there is a text, and `start`, the values to
    begin with where these are not the first.
    Drawing sets `bars`: of each bar of the first panel its left end and width, as shares of the panel's, and words.
    """

    family: ClassVar[str] = "energy"
    name: ClassVar[str]  # of the kind of explorer, for its class in the page
    about: ClassVar[str]  # what its panels show, in words
    needs: ClassVar[str]  # what leaves a run that it can show, for an empty store
    controls: ClassVar[Sequence[Control]]
    widths: ClassVar[Sequence[float]]  # of the panels, relative
    height: ClassVar[float] = 2.7  # of a row, in inches
    options: Mapping[str, Any]
    start: Mapping[str, Any]
    bars: Sequence[tuple[float, float, str]] = ()

    def __init__(self, run: Run) -> None:
        self.together: Sequence[Any] = [self]  # the views of all rows
        self.run, self.seeds, method = run, run.settings["seeds"], str(run.summary["method"])
        self.method, self.colour = label(method), colours([method])[method]
        self.seed_options = [(str(seed), place) for place, seed in enumerate(self.seeds)]

    @classmethod
    def suits(cls, run: Run) -> bool:
        """Whether the explorer can show a run, as far as its manifest tells."""
        return run.summary["family"] == cls.family

    @abstractmethod
    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> dict[str, str]:
        """Plot what the controls ask for into a row of empty axes [panels]; its numbers, by name, with units."""

    def seed_place(self, values: Mapping[str, Any]) -> int:
        """The place of the chosen seed; the last, where this run has fewer than the first one."""
        return min(values["seed"], len(self.seeds) - 1)


def nearest(steps: Sequence[int], step: int) -> int:
    """The place of the step nearest to another run's."""
    return int(np.abs(np.asarray(steps) - step).argmin())


def numbers(count: int, first: int = 1) -> list[tuple[str, int]]:
    """Options for places from 0, labelled from `first` on."""
    return [(str(place + first), place) for place in range(count)]


def plotted(axes: Axes) -> list[Artist]:
    """What is plotted in a panel, without its frame, ticks, labels and legend."""
    return [*axes.lines, *axes.collections, *axes.images, *axes.patches, *axes.texts]


def frame_state(axes: Axes) -> list[Any]:
    """What title, ticks and labels of a panel are drawn from."""
    state: list[Any] = [axes.get_title("left"), axes.get_xlabel(), axes.get_ylabel()]
    for axis in (axes.xaxis, axes.yaxis):
        state += [axis.get_scale(), *axis.get_view_interval(), *getattr(axis.get_major_formatter(), "seq", ())]
    return state
