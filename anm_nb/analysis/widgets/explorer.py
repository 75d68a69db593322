"""What all explorers are: a run picker, controls, a picture and a line of read-outs, over finished runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, ClassVar

from ipywidgets import HTML, Box, Layout, VBox
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from anm_nb.analysis.figures import house_style
from anm_nb.analysis.widgets.controls import Choice
from anm_nb.analysis.widgets.picker import RunPicker, Stored, reason
from anm_nb.analysis.widgets.picture import Picture
from anm_nb.store import Run, store_root

NAMED = 3  # unreadable runs that are named; of more, how many there are


class Explorer(ABC):
    """A finished run to look into: pick it, move sliders, and picture and read-outs follow.

    Shows itself as the last expression of a notebook's cell, as widgets where these run and as a still picture where
    they do not. `chosen` is the run to open with, by default the newest in the store; what the store holds is listed
    when the explorer is made. Of a run that cannot be read or drawn there is no picture, but the reason. Raises
    `ParameterError` for a chosen run that is not in the store, or that this explorer cannot show. In the page
    everything is found by class: `anm-explorer` and `anm-<name>-explorer` for the whole, `anm-control-<control>`,
    `anm-play-<control>`, `anm-picture`, and `anm-readout`, whose values carry `data-readout`.
    """

    name: ClassVar[str]  # of the kind of explorer, for its class in the page
    needs: ClassVar[str]  # what leaves a run that it can show, for an empty store

    def __init__(self, chosen: Run | None = None) -> None:
        self.picker = RunPicker(self.suits, chosen)
        self.readouts: dict[str, str] = {}
        self.readout = HTML()
        self.readout.add_class("anm-readout")
        self.root = VBox(layout=Layout(width="100%", max_width="1000px"))
        self.root.add_class("anm-explorer").add_class(f"anm-{self.name}-explorer")
        self.unshown = ""  # why there is no picture
        self._settling = self._opened = False
        if not self.picker.runs:
            self.unshown = self._nothing()
            self.readout.value = f'<p role="status">{escape(self.unshown)}</p>'
            self.root.children = [self.readout]
            return
        self.controls = self.make_controls()
        with house_style():
            self.picture = Picture(*self.make_figure())
        controls = [control.widget for control in (self.picker.strategy, *self.controls)]
        rows = Box(controls, layout=Layout(flex_flow="row wrap"))
        notes = [HTML(f'<p role="status">{escape(note)}</p>') for note in self._left_out()]
        self.root.children = [self.picker.run.widget, *notes, rows, self.picture.widget, self.readout]
        self.picker.run.input.observe(self._pick, "index")
        for control in self.controls:
            control.input.observe(self._redraw, "index")
        self._pick()

    @classmethod
    @abstractmethod
    def suits(cls, stored: Stored) -> bool:
        """Whether the explorer can show a run, as far as its summary and settings tell."""

    @abstractmethod
    def make_controls(self) -> Sequence[Choice]:
        """The controls in the order in which Tab reaches them, not yet offering anything."""

    @abstractmethod
    def make_figure(self) -> tuple[Figure, Sequence[Artist]]:
        """The figure, and the artists that `draw` changes, from back to front; all others wait for `open`."""

    @abstractmethod
    def open(self, run: Run) -> None:
        """Read what is needed of a run, and let the controls offer what it has."""

    @abstractmethod
    def draw(self) -> tuple[str, Mapping[str, str]]:
        """Bring the artists to where the controls stand; returns what they show in words, and read-outs by name."""

    @property
    def run(self) -> Run:
        """The run that is shown."""
        return Run(self.picker.stored.listed.path)

    def pick(self, run: Run) -> None:
        """Show another run of the store."""
        self.picker.run.value = run.key

    def _pick(self, change: Any = None) -> None:
        """Open the picked run; its controls are out of sight where that fails."""
        with self._moved_by_us():
            self.picker.offer_siblings()
            self._opened = self._succeeds(lambda: self.open(self.run))
        for control in self.controls:
            control.widget.layout.visibility = "visible" if self._opened else "hidden"
        if self._opened:
            self.picture.refresh()
            self._redraw()

    def _redraw(self, change: Any = None) -> None:
        if self._opened and not self._settling:
            self._succeeds(lambda: self._present(*self.draw()))

    def _succeeds(self, step: Callable[[], None]) -> bool:
        """Do it; where that fails, the picture is blank and the reason stands for the read-outs."""
        try:
            with house_style():
                step()
        except Exception as error:  # of any kind: a file, a user's own class or another version's network raises it
            self.unshown, self.readouts = f"This run cannot be shown: {reason(error)}", {}
            self.picture.blank()
            self.readout.value = f'<p role="alert">{escape(self.unshown)}</p>'
            return False
        self.unshown = ""
        return True

    def _present(self, alt: str, readouts: Mapping[str, str]) -> None:
        self.picture.show(alt)
        self.readouts = dict(readouts)
        values = "; ".join(
            f'{escape(name)} <b data-readout="{escape(name)}">{escape(value)}</b>' for name, value in readouts.items()
        )
        self.readout.value = f'<div role="status" aria-live="polite">{values}</div>'

    @contextmanager
    def _moved_by_us(self) -> Iterator[None]:
        """While controls are given new values, nothing is drawn."""
        before, self._settling = self._settling, True
        try:
            yield
        finally:
            self._settling = before

    def _nothing(self) -> str:
        nothing = f"There is no finished run in {store_root()} that this explorer can show. {self.needs}"
        return " ".join([nothing, "Then run this cell again.", *self._left_out()])

    def _left_out(self) -> list[str]:
        """The runs that are in the store and not in the list, where there are any."""
        unreadable = self.picker.unreadable
        if not unreadable:
            return []
        named = "; ".join(f"{key}: {reason}" for key, reason in list(unreadable.items())[:NAMED])
        rest = f"; and {len(unreadable) - NAMED} more" if len(unreadable) > NAMED else ""
        return [f"Not in the list, as they cannot be read: {named}{rest}."]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = dict(self.root._repr_mimebundle_())
        if self.unshown:
            return bundle | {"text/plain": self.unshown}, {}
        words = "\n".join([self.picture.alt, *(f"{name}: {value}" for name, value in self.readouts.items())])
        return bundle | {"text/plain": words, "image/png": self.picture.png()}, {"image/png": {"alt": self.picture.alt}}
