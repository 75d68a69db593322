"""What all explorers are: a picker of runs, controls, a picture and lines of read-outs, over what runs have stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from IPython.display import display
from ipywidgets import HTML, Box, Dropdown, HBox, Layout, Play, SelectionSlider, VBox
from traitlets import link

from anm_nb.analysis.kept import kept_root
from anm_nb.analysis.style import colours, house_style, label
from anm_nb.analysis.tables import rounded
from anm_nb.config import ParameterError
from anm_nb.run import CorruptRun, Run, differences, flat
from anm_nb.store import scan, store_root
from anm_nb.widgets.picture import Picture

DESCRIBED = ("task", "size", "negatives", "negatives.name", "routing", "seeds", "steps")  # in every label anyway
NAMED = 3  # unreadable runs that are named; of more, how many there are
# The still picture is seen where the widgets are not, and in place of an error where they have lost their kernel.
STILL_OR_LIVE = """<style>
.jp-OutputArea:has(.anm-explorer) .jp-RenderedImage,
.jp-OutputArea:has(.anm-still) [data-mime-type*="widget-view"]:not(:has(.anm-explorer)) { display: none }
</style><span class="anm-still"></span>"""


class Control(NamedTuple):
    """A list, a slider, or a slider with buttons that play it; in the page `anm-control-<name>`, `anm-play-<name>`."""

    name: str
    label: str
    tooltip: str
    form: str = "list"  # list | slider | player


class View(ABC):
    """One run as an explorer shows it: a row of panels and a line of read-outs, read from the run when it is made.

    A view sets `options`, for each control labels and values, or a function of the values of the controls before it
    that gives them, and `start`, the values to begin with where these are not the first.
    """

    family: ClassVar[str] = "energy"
    name: ClassVar[str]  # of the kind of explorer, for its class in the page
    about: ClassVar[str]  # what its panels show, in words
    needs: ClassVar[str]  # what leaves a run that it can show, for an empty store
    controls: ClassVar[Sequence[Control]]
    widths: ClassVar[Sequence[float]]  # of the panels, relative
    height: ClassVar[float] = 2.3  # of the panels, in inches
    options: Mapping[str, Any]
    start: Mapping[str, Any]

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
    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> None:
        """Plot what the controls ask for into a row of empty axes [panels]."""

    @abstractmethod
    def read_out(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Numbers of what is shown, by name, with units."""

    def seed_place(self, values: Mapping[str, Any]) -> int:
        """The place of the chosen seed; the last, where this run has fewer than the first one."""
        return min(values["seed"], len(self.seeds) - 1)


class Explorer:
    """A finished run to look into, alone or with another beside it on the same axes.

    It opens with `chosen`, else the newest run in the store. As a cell's last expression it shows its widgets, or where
    these cannot run a still picture of how they opened. A run that cannot be read or drawn leaves the picture blank and
    says why. Raises `ParameterError` for a run that is not in the list.
    """

    def __init__(self, view: type[View], chosen: Run | None = None, beside: Run | None = None) -> None:
        self.view, (self.runs, self.labels, unreadable) = view, stored_runs(view.suits)
        for run in (chosen, beside):
            if run and run.key not in self.runs:
                why = unreadable.get(run.key, f"is not among the {len(self.runs)} runs that can be shown")
                raise ParameterError(f"run {run.key}: {why}")
        self.readouts: list[dict[str, str]] = []
        self.picture, self.readout, self.unshown = Picture(), HTML().add_class("anm-readout"), ""
        self.players: dict[str, Play] = {}
        self._offering = False
        self.root = VBox(layout=Layout(width="100%", max_width="1000px")).add_class("anm-explorer")
        self.root.add_class(f"anm-{view.name}-explorer")
        named = [f"{key}: {why}" for key, why in unreadable.items()][:NAMED]
        note = f"Not in the list, as they cannot be read ({len(unreadable)}): {'; '.join(named)}" if named else ""
        if not self.runs:
            nothing = f"There is no finished run in {store_root()} that this explorer can show."
            self._blank(f"{nothing} {view.needs} Then run this cell again. {note}", "status")
            self.root.children = [self.readout]
            return
        self.picker, _ = self._input(Control("run", "Run", "The run that is shown; the newest first"), "auto")
        self.beside, _ = self._input(Control("beside", "Beside", "Another one; the least different first"), "auto")
        self.picker.options = [(text, key) for key, text in self.labels.items()]
        self.picker.value = (chosen or next(iter(self.runs.values()))).key
        self._offer_beside(beside.key if beside else "")
        made = {control.name: self._input(control) for control in view.controls}
        self.inputs = {name: given for name, (given, _) in made.items()}
        self.box = Box([box for _, box in made.values()], layout=Layout(flex_flow="row wrap"))
        notes = [HTML(f'<p role="status">{escape(note)}</p>')] if note else []
        self.root.children = [self.picker, self.beside, *notes, self.box, self.picture.widget, self.readout]
        for given in (self.picker, self.beside):
            given.observe(self.open, "index")
        for given in self.inputs.values():
            given.observe(self._redraw, "index")
        self.open()

    def _input(self, control: Control, width: str = "23em") -> tuple[Any, Any]:
        """The widget that holds a control's value, and what stands in the page: with buttons where it plays."""
        words = {"description": control.label, "tooltip": control.tooltip, "style": {"description_width": "7em"}}
        kind = Dropdown if control.form == "list" else SelectionSlider
        given = kind(options=["–"], layout=Layout(width=width, max_width="100%"), **words)
        given.add_class(f"anm-control-{control.name}")
        if control.form != "player":
            return given, given
        words = {"description": f"Play {control.label.lower()}", "tooltip": f"Play: {control.tooltip}"}
        player = Play(interval=500, show_repeat=False, max=0, layout=Layout(width="auto"), **words)
        self.players[control.name] = player.add_class(f"anm-play-{control.name}")
        link((player, "value"), (given, "index"))
        return given, HBox([given, player], layout=Layout(max_width="100%"))

    def open(self, change: Any = None) -> None:
        """Open the picked runs, their files read anew; controls are out of sight where that fails."""
        if not self._offering:
            self._offer_beside(self.beside.value)
            self.box.layout.visibility = "visible" if self._succeeds(self._read) else "hidden"
            self._redraw()

    def _read(self) -> None:
        keys = [key for key in (self.picker.value, self.beside.value) if key]
        self.views = [self.view(Run(self.runs[key].path)) for key in keys]
        for view in self.views:
            view.together = self.views
        self.picture.lay_out(len(keys), self.view.widths, self.view.height)

    def _offer_beside(self, chosen: str) -> None:
        """The list of runs, those first that differ in the fewest fields from the one that is picked."""
        settings = {key: flat(run.settings) for key, run in self.runs.items()}
        mine = settings.pop(self.picker.value)
        apart = {key: sum(own.get(name) != mine.get(name) for name in own | mine) for key, own in settings.items()}
        self._offering = True
        nearest = sorted(apart, key=lambda key: apart[key])
        self.beside.options = [("none", ""), *((self.labels[key], key) for key in nearest)]
        self.beside.value = chosen if chosen in apart else ""
        self._offering = False

    def _redraw(self, change: Any = None) -> None:
        if not self._offering and self.box.layout.visibility == "visible":
            self._succeeds(self._draw)

    def _draw(self) -> None:
        """Picture, words and read-outs of the controls' values; all of them offer what the first run has."""
        values: dict[str, Any] = {}
        for control in self.view.controls:
            options = self.views[0].options[control.name]
            self._offer(control.name, options(values) if callable(options) else options)
            values[control.name] = self.inputs[control.name].value
        self.picture.clear()
        self.readouts = []
        for view, axes in zip(self.views, self.picture.axes, strict=True):
            axes[0].set_title(view.method)
            view.draw(axes, values)
            self.readouts.append({"method": view.method} | view.read_out(values))
        self.picture.share_limits()
        chosen = ", ".join(f"{control.label} {self.inputs[control.name].label}" for control in self.view.controls)
        told = ["; ".join(f"{name} {text}" for name, text in each.items()) for each in self.readouts]
        self.picture.show(f"{self.view.about} {chosen}. {'. Below it: '.join(told)}.")
        form = '{0} <b data-readout="{0}">{1}</b>'
        lines = ["; ".join(form.format(*map(escape, item)) for item in each.items()) for each in self.readouts]
        self.readout.value = f'<div role="status" aria-live="polite">{"<br>".join(lines)}</div>'

    def _offer(self, name: str, options: Sequence[tuple[str, Any]]) -> None:
        """Let a control offer these; the chosen label stays where it is among them, else its view's start is chosen."""
        given, player, start = self.inputs[name], self.players.get(name), self.views[0].start.get(name)
        if given.options == tuple(options):
            return
        labels, values = zip(*options, strict=True)
        place = labels.index(given.label) if given.label in labels else values.index(start) if start in values else 0
        self._offering = True
        if player:  # its range has to hold the old place and the new one
            player.max = max(player.max, len(options) - 1)
        given.options, given.index, given.disabled = options, place, len(options) < 2
        if player:
            player.max, player.disabled = len(options) - 1, len(options) < 2
        self._offering = False

    def _succeeds(self, step: Callable[[], None]) -> bool:
        """Take a step; where that fails, the picture is blank and the reason stands for the read-outs."""
        try:
            with house_style():
                step()
        except Exception as error:  # of any kind: a file, a user's own class or another version's network raises it
            self._offering = False
            self._blank(f"This run cannot be shown: {reason(error)}", "alert")
            return False
        self.unshown = ""
        return True

    def _blank(self, why: str, role: str) -> None:
        self.unshown, self.readouts = why.strip(), []
        self.picture.blank()
        self.readout.value = f'<p role="{role}">{escape(self.unshown)}</p>'

    def _ipython_display_(self) -> None:
        live = self.root._repr_mimebundle_()
        if self.unshown:
            display({**live, "text/plain": self.unshown}, raw=True)
            return
        alt = self.picture.alt
        display({"text/plain": alt, "image/png": self.picture.png()}, metadata={"image/png": {"alt": alt}}, raw=True)
        display({"text/html": STILL_OR_LIVE, "text/plain": ""}, raw=True)
        display({**live, "text/plain": ""}, raw=True)


def project_runs() -> dict[str, Run]:
    """The small trained runs that come with the project, by task and method; none where there is no clone."""
    try:
        found = [Run(path) for path in (kept_root() / "models").glob("[!.]*")]
    except ParameterError:
        return {}
    return {f"{run.summary['task']} {run.summary['method']}": run for run in found}


def stored_runs(suits: Callable[[Run], bool]) -> tuple[dict[str, Run], dict[str, str], dict[str, str]]:
    """The finished runs that suit, by key, newest first and then the project's own; their labels; why others cannot.

    A label has task, size, method, score, every other field that differs within the list, seeds, steps, the time and
    the beginning of the key. No class of a user's own is needed.
    """
    runs, described, unreadable = dict[str, Run](), dict[str, tuple[list[str], list[str]]](), dict[str, str]()
    for run in [*reversed(scan()[0]), *project_runs().values()]:
        try:
            if run.key not in runs and suits(run):
                described[run.key], runs[run.key] = _description(run), run
        except Exception as error:  # of any kind: what is in a file may be anything
            unreadable[run.key] = reason(error)
    labels = {}
    for (key, (first, last)), own in zip(described.items(), differences(runs.values()), strict=True):
        fields = [f"{name} = {value}" for name, value in own.items() if name not in DESCRIBED]
        labels[key] = " · ".join([*first, *fields, *last])
    return runs, labels, unreadable


def _description(run: Run) -> tuple[list[str], list[str]]:
    """The beginning and the end of a label."""
    facts, method = run.summary, label(str(run.summary["method"]))
    finished = datetime.fromisoformat(facts["finished"]).astimezone()
    seeds = f"seeds {', '.join(map(str, facts['seeds']))}"
    first = [f"{facts['task']}, size {run.settings.get('size')}", method, *_score(run.path)]
    return first, [seeds, f"{facts['steps']} steps", f"{finished:%d %b %Y %H:%M}", run.key[:8]]


@cache
def _score(path: Path) -> list[str]:
    """A run's score on dev, the mean over seeds at their last record; nothing where it has none, or is damaged."""
    try:
        score = Run(path).score
        return [f"{score[0]} {rounded(score[1])}"] if score else []
    except (CorruptRun, OSError):
        return []


def numbers(count: int, first: int = 1) -> list[tuple[str, int]]:
    """Options for places from 0, labelled from `first` on."""
    return [(str(place + first), place) for place in range(count)]


def reason(error: Exception) -> str:
    """What an error says, after its kind where it was not written to be read."""
    return str(error) if isinstance(error, ParameterError | CorruptRun) else f"{type(error).__name__}: {error}"
