"""What all explorers are: a list of runs, controls, a picture and a line of read-outs, over finished runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, ClassVar

from IPython.display import display
from ipywidgets import HTML, Box, Layout, VBox
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from anm_nb.analysis.style import colours, house_style, label
from anm_nb.config import ParameterError
from anm_nb.run import Run
from anm_nb.store import store_root
from anm_nb.widgets.controls import Control
from anm_nb.widgets.picture import WIDTH, Picture
from anm_nb.widgets.runs import alike, reason, stored_runs

NAMED = 3  # unreadable runs that are named; of more, how many there are


class Explorer(ABC):
    """A finished run to look into: pick it, move sliders, and picture and read-outs follow.

    `chosen` is the run to open with, by default the newest in the store. As a cell's last expression it shows a still
    picture, for where widgets cannot run and for a notebook that is opened again, and the widgets, which hide it. A run
    that cannot be read or drawn leaves the picture blank and says why. Raises `ParameterError` for a chosen run that is
    not in the store, or that this explorer cannot show. Classes in the page: `anm-explorer`, `anm-<name>-explorer`,
    `anm-control-<control>`, `anm-play-<control>`, `anm-picture`, `anm-readout` (values carry `data-readout`).
    """

    name: ClassVar[str]  # of the kind of explorer, for its class in the page
    needs: ClassVar[str]  # what leaves a run that it can show, for an empty store
    height: ClassVar[float]  # of the picture, in inches

    def __init__(self, chosen: Run | None = None) -> None:
        self.runs, labels, self.unreadable = stored_runs(self.suits)
        self._check(chosen)
        self.readouts: dict[str, str] = {}
        self.readout = HTML().add_class("anm-readout")
        self.root = VBox(layout=Layout(width="100%", max_width="1000px"))
        self.root.add_class("anm-explorer").add_class(f"anm-{self.name}-explorer")
        self.unshown = ""  # why there is no picture
        self._settling = self._opened = False
        if not self.runs:
            nothing = f"There is no finished run in {store_root()} that this explorer can show. {self.needs}"
            self.unshown = " ".join([nothing, "Then run this cell again.", *self._left_out()])
            self.readout.value = f'<p role="status">{escape(self.unshown)}</p>'
            self.root.children = [self.readout]
            return
        self.picker = Control("run", "Run", "The finished run that is shown; the newest come first", wide=True)
        self.strategy = Control("strategy", "Strategy", "Negatives of a run that is alike in everything else")
        self.picker.offer(list(zip(labels, self.runs, strict=True)), chosen.key if chosen else None)
        self.picker.input.disabled = False  # to be read even where it is the only one
        self.controls = self.make_controls()
        with house_style():
            figure = Figure(figsize=(WIDTH, self.height))
            self.picture = Picture(figure, self.make_axes(figure))
        widgets = [control.widget for control in (self.strategy, *self.controls)]
        rows = Box(widgets, layout=Layout(flex_flow="row wrap"))
        notes = [HTML(f'<p role="status">{escape(note)}</p>') for note in self._left_out()]
        self.root.children = [self.picker.widget, *notes, rows, self.picture.widget, self.readout]
        self.picker.input.observe(self._pick, "index")
        self.strategy.input.observe(self._switch, "index")
        for control in self.controls:
            control.input.observe(self._redraw, "index")
        self._pick()

    @classmethod
    @abstractmethod
    def suits(cls, run: Run) -> bool:
        """Whether the explorer can show a run, as far as its manifest tells."""

    @abstractmethod
    def make_controls(self) -> Sequence[Control]:
        """The controls in the order in which Tab reaches them, not yet offering anything."""

    @abstractmethod
    def make_axes(self, figure: Figure) -> Sequence[Artist]:
        """Lay out axes and what never moves in them; returns what of it moves: axis whose limits change, frames."""

    @abstractmethod
    def open(self, run: Run) -> None:
        """Read what is needed of a run, and let the controls offer what it has."""

    @abstractmethod
    def draw(self) -> tuple[str, Mapping[str, str]]:
        """Plot what the controls ask for into empty axes; returns what it shows in words, and read-outs by name."""

    @property
    def method(self) -> str:
        """The shown run's strategy or routing, as figures name it."""
        return label(str(self.run.summary["method"]))

    @property
    def colour(self) -> str:
        """The colour of the shown run's method."""
        (colour,) = colours([str(self.run.summary["method"])]).values()
        return colour

    def pick(self, run: Run) -> None:
        """Show another run of the store."""
        self.picker.value = run.key

    def offer_seeds(self, *options: tuple[str, Any]) -> None:
        """Let the control `seed` offer other options, then the places of the run's seeds."""
        seeds = self.run.settings["seeds"]
        self.seed.offer([*options, *((f"seed {seed}", place) for place, seed in enumerate(seeds))])

    seed: Control

    def _check(self, chosen: Run | None) -> None:
        if chosen and chosen.key in self.unreadable:
            raise ParameterError(f"run {chosen.key} cannot be read: {self.unreadable[chosen.key]}")
        if chosen and chosen.key not in self.runs:
            raise ParameterError(f"run {chosen.key}: not among the {len(self.runs)} in the store that can be shown")

    def _pick(self, change: Any = None) -> None:
        """Open the picked run; its controls are out of sight where that fails."""
        self.run = Run(self.runs[self.picker.value].path)  # its files are read anew, and none of another run kept
        self.picture.clear()
        with self._settle():
            self._offer_strategies()
            self._opened = self._succeeds(lambda: self.open(self.run))
        for control in self.controls:
            control.widget.layout.visibility = "visible" if self._opened else "hidden"
        self.picture.hold()
        self._redraw()

    def _offer_strategies(self) -> None:
        """Offer the newest run of each strategy that differs in its negatives alone; a ranking has none."""
        newest = {str(self.run.summary["method"]): self.picker.value}
        for key, run in self.runs.items():
            if alike(run, self.runs[self.picker.value]):
                newest.setdefault(str(run.summary["method"]), key)
        self.strategy.offer([(label(method), key) for method, key in sorted(newest.items())])
        self.strategy.value = self.picker.value
        self.strategy.input.layout.display = None if "negatives" in self.run.settings else "none"

    def _switch(self, change: Any) -> None:
        if not self._settling:
            self.picker.value = self.strategy.value

    def _redraw(self, change: Any = None) -> None:
        if self._opened and not self._settling:
            self.picture.clear()
            self._succeeds(lambda: self._present(*self.draw()))

    def _succeeds(self, step: Callable[[], None]) -> bool:
        """Take a step; where that fails, the picture is blank and the reason stands for the read-outs."""
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
    def _settle(self) -> Iterator[None]:
        """While controls are given new values, nothing is drawn."""
        before, self._settling = self._settling, True
        try:
            yield
        finally:
            self._settling = before

    def _left_out(self) -> list[str]:
        """The runs that are in the store and not in the list, where there are any."""
        if not self.unreadable:
            return []
        named = "; ".join(f"{key}: {why}" for key, why in list(self.unreadable.items())[:NAMED])
        rest = f"; and {len(self.unreadable) - NAMED} more" if len(self.unreadable) > NAMED else ""
        return [f"Not in the list, as they cannot be read: {named}{rest}."]

    def still(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Picture and words as they are now, or the reason for none, by MIME type; and the picture's metadata."""
        if self.unshown:
            return {"text/plain": self.unshown}, {}
        words = "\n".join([self.picture.alt, *(f"{name}: {value}" for name, value in self.readouts.items())])
        return {"text/plain": words, "image/png": self.picture.png()}, {"image/png": {"alt": self.picture.alt}}

    def _ipython_display_(self) -> None:
        if self.unshown:
            display({**self.root._repr_mimebundle_(), **self.still()[0]}, raw=True)
            return
        bundle, metadata = self.still()
        display(bundle, metadata=metadata, raw=True)
        display({**self.root._repr_mimebundle_(), "text/plain": ""}, raw=True)
