"""What all explorers are: a picker of runs, controls, a picture and lines of read-outs, over what runs have stored."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from IPython.display import display
from ipywidgets import HTML, Box, Button, Dropdown, HBox, Layout, Play, SelectionSlider, Text, VBox
from matplotlib.figure import Figure
from traitlets import link

from anm_nb.analysis.kept import kept_root
from anm_nb.analysis.plots import figure_files
from anm_nb.analysis.style import PAGE, STYLE, VENUES, house_style, label
from anm_nb.analysis.tables import rounded
from anm_nb.config import ParameterError
from anm_nb.files import outputs_root, replace_whole
from anm_nb.runs import differences, score
from anm_nb.store import CorruptRun, Run, scan, store_root
from anm_nb.widgets.view import BOTTOM, TEMPLATES, TOP, WIDTH, Control, Picture, View, share_limits

DESCRIBED = ("task", "size", "negatives", "negatives.name", "routing", "seeds", "steps")  # in every label anyway
STYLE_SHEET = f"<style>{(TEMPLATES / 'explorer.css').read_text('utf-8')}</style>"
RUN = Control("run", "Run", "The run that is shown; the newest first")
BESIDE = Control("beside", "Beside", "Another one, on the same axes")
PAGES = Control("page", "Page", "Whose width and size of letters a saved figure has")


class Explorer:
    """A finished run to look into, alone or with another beside it on the same axes.

    It opens with `chosen`, else the newest run in the store. A cell shows its widgets, or where these cannot run a
    still picture of how they opened. A run that cannot be read or drawn leaves the picture blank and says why.
    Raises `ParameterError` for a run that is not in the list.
    """

    def __init__(self, view: type[View], chosen: Run | None = None, beside: Run | None = None) -> None:
        self.view, (self.runs, self.labels, unreadable) = view, stored_runs(view.suits)
        for run in filter(None, (chosen, beside)):
            if run.key not in self.runs:
                why = unreadable.get(run.key, f"is not among the {len(self.runs)} runs that can be shown")
                raise ParameterError(f"run {run.key}: {why}")
        self.readouts, self.players, self._offering, self.unshown = list[dict[str, str]](), dict[str, Play](), False, ""
        self.picture, self.readout, self.saved = Picture(), HTML().add_class("anm-readout"), HTML()
        self.root = VBox(layout=Layout(width="100%", max_width="1000px"))
        self.root.add_class("anm-explorer").add_class(f"anm-{view.name}-explorer")
        named = "; ".join(f"{key}: {why}" for key, why in [*unreadable.items()][:3])
        note = f"Not in the list, as they cannot be read ({len(unreadable)}): {named}" if named else ""
        if not self.runs:
            nothing = f"There is no finished run in {store_root()} that this explorer can show."
            self._blank(f"{nothing} {view.needs} Then run this cell again. {note}", "status")
            self.root.children = [self.readout]
            return
        self.picker, self.beside, self.page = (self._input(control) for control in (RUN, BESIDE, PAGES))
        self.picker.options = [(text, key) for key, text in self.labels.items()]
        self.picker.value = chosen.key if chosen else next(iter(self.runs))
        self.beside.options = [("none", ""), *self.picker.options]
        self.beside.value = beside.key if beside else ""
        self.page.options = [(f"{name}, {venue.text} in", name) for name, venue in VENUES.items()]
        self.inputs = {control.name: self._input(control) for control in view.controls}
        boxes = [HBox([each, *filter(None, [self.players.get(name)])]) for name, each in self.inputs.items()]
        self.box = Box(boxes, layout=Layout(flex_flow="row wrap"))
        self.save = Button(description="Save figure", tooltip="Write the picture as PDF, SVG and PNG")
        notes = [HTML(f'<p role="status">{escape(note)}</p>')] if note else []
        shown = [self.picture.widget, self.readout, HBox([self.page, self.save]), self.saved]
        self.root.children = [self.picker, self.beside, *notes, self.box, *shown]
        self.save.add_class("anm-control-save").on_click(self._save)
        for picker in (self.picker, self.beside):
            picker.observe(self.open, "value")
        for given in self.inputs.values():
            given.observe(self._redraw, "value")
        self.open()

    def _input(self, control: Control) -> Any:
        """The widget that holds a control's value; its player, if it has one, stands in `players`."""
        words = {"description": control.label, "tooltip": control.tooltip, "style": {"description_width": "7em"}}
        words["layout"] = Layout(width="auto" if control in (RUN, BESIDE) else "23em", max_width="100%")
        kind = {"list": Dropdown, "text": Text}.get(control.form, SelectionSlider)
        filled = {"placeholder": "typed or pasted", "continuous_update": False} if kind is Text else {"options": ["–"]}
        given = kind(**filled, **words)
        if control.form == "player":
            words = {"description": f"Play {control.label.lower()}", "tooltip": f"Play: {control.tooltip}"}
            player = Play(show_repeat=False, max=0, layout=Layout(width="auto"), **words)
            self.players[control.name] = player.add_class(f"anm-play-{control.name}")
            link((player, "value"), (given, "index"))
        return given.add_class(f"anm-control-{control.name}")

    def open(self, change: Any = None) -> None:
        """Open the picked runs, their files read anew; controls are out of sight where that fails."""
        self.box.layout.visibility = "visible" if self._succeeds(self._read) else "hidden"
        self._redraw()

    def _read(self) -> None:
        keys = [key for key in (self.picker.value, self.beside.value) if key]
        self.views = [self.view(Run(self.runs[key].path)) for key in keys]
        for view in self.views:
            view.together = self.views
        self.picture.lay_out(len(keys), self.view.widths, self.view.height)

    def _redraw(self, change: Any = None) -> None:
        if not self._offering and self.box.layout.visibility == "visible":
            self._succeeds(self._draw)

    def _draw(self) -> None:
        """Picture, words and read-outs of the controls' values; all of them offer what the first run has."""
        self.values, self.said = dict[str, Any](), dict[str, str]()  # what the controls hold, and as they say it
        for control in self.view.controls:
            given, options = self.inputs[control.name], self.views[0].options[control.name]
            if isinstance(given, Text):
                given.layout.display = None if options else "none"
            else:
                self._offer(control.name, options(self.values) if callable(options) else options)
            self.values[control.name] = given.value
            if said := given.value if isinstance(given, Text) else given.label:
                self.said[control.label] = said
        self.picture.clear()
        self._plot(self.picture.axes)
        self.readouts = [{"method": view.method} | view.read_out(self.values) for view in self.views]
        chosen = ", ".join(map(" ".join, self.said.items()))
        told = ["; ".join(f"{name} {text}" for name, text in each.items()) for each in self.readouts]
        self.picture.show(
            f"{self.view.about} {chosen}. {'. Below it: '.join(told)}.", [view.bars(self.values) for view in self.views]
        )
        form = '{0} <b data-readout="{0}">{1}</b>'
        lines = ["; ".join(form.format(*map(escape, item)) for item in each.items()) for each in self.readouts]
        self.readout.value = f'<div role="status" aria-live="polite">{"<br>".join(lines)}</div>'

    def _plot(self, rows: np.ndarray) -> None:
        """Plot all runs into empty axes [runs, panels]."""
        for view, axes in zip(self.views, rows, strict=True):
            axes[0].set_title(view.method, y=1.0)
            view.draw(axes, self.values)
        share_limits(rows)

    def _save(self, button: Any) -> None:
        """Write the picture at a page's width, by a name that says what it shows, and tell where, or why not."""
        page = VENUES[self.page.value]
        sizes = {each: STYLE[each] * page.points / PAGE.points for each in STYLE if each.endswith("size")}
        try:
            if self.unshown:
                raise ParameterError(self.unshown)
            keys = [view.run.key[:8] for view in self.views]
            name = re.sub(r"[^\w.]+", "-", " ".join([self.view.name, *keys, *self.said.values(), self.page.value]))
            path = outputs_root() / "figures" / "explorers" / name
            with house_style(), mpl.rc_context(sizes):
                height = len(keys) * (self.view.height * page.text / WIDTH + TOP + BOTTOM)
                figure, widths = Figure((page.text, height), layout="constrained"), self.view.widths
                self._plot(figure.subplots(len(keys), len(widths), squeeze=False, width_ratios=widths))
                figure.draw_without_rendering()  # which sets the size of tick labels
                files = figure_files(figure, name, page.text)
            path.parent.mkdir(parents=True, exist_ok=True)
            for file, data in files.items():
                replace_whole(path.with_name(file), data)
            told = f"Saved, {page.text} inches wide, as PDF, SVG and PNG: {path}.pdf"
        except Exception as error:  # of any kind, as when the picture is drawn; or a full disk
            told = f"Not saved: {reason(error)}"
        self.saved.value = f'<p role="status">{escape(told)}</p>'

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
            player.interval = max(100, min(500, 30_000 // len(options)))  # milliseconds a place, half a minute in all
        self._offering = False

    def _succeeds(self, step: Callable[[], None]) -> bool:
        """Take a step; where that fails, the picture is blank and the reason stands for the read-outs."""
        try:
            with house_style():
                step()
        except Exception as error:  # of any kind: a file, a user's own class or another version's network raises it
            self._offering = False
            self._blank(f"Cannot be shown: {reason(error)}", "alert")
            return False
        self.unshown = ""
        return True

    def _blank(self, why: str, role: str) -> None:
        self.unshown, self.readouts = why.strip(), []
        self.picture.alt = self.picture.widget.value = ""
        self.readout.value = f'<p role="{role}">{escape(self.unshown)}</p>'

    def _ipython_display_(self) -> None:
        if not self.unshown:
            alt, data = self.picture.alt, self.picture.png()
            display({"text/plain": alt, "image/png": data}, metadata={"image/png": {"alt": alt}}, raw=True)
        still = f'{STYLE_SHEET}<p class="anm-still">{escape(self.unshown)}</p>'
        display({"text/html": still, "text/plain": self.unshown}, raw=True)
        display({**self.root._repr_mimebundle_(), "text/plain": ""}, raw=True)


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
    runs, ends, unreadable = dict[str, Run](), dict[str, tuple[str, str]](), dict[str, str]()
    for run in [*reversed(scan()[0]), *project_runs().values()]:
        try:
            if run.key not in runs and suits(run):
                facts, reached = run.summary, score_of(run.path)
                first = f"{facts['task']}, size {run.settings.get('size')} · {label(str(facts['method']))} · {reached}"
                finished = f"{datetime.fromisoformat(facts['finished']).astimezone():%d %b %Y %H:%M} · {run.key[:8]}"
                seeds = ", ".join(map(str, facts["seeds"]))
                runs[run.key], ends[run.key] = run, (first, f"seeds {seeds} · {facts['steps']} steps · {finished}")
        except Exception as error:  # of any kind: what is in a file may be anything
            unreadable[run.key] = reason(error)
    labels = {}
    for (key, (first, last)), own in zip(ends.items(), differences(runs.values()), strict=True):
        fields = (f"{name} = {value}" for name, value in own.items() if name not in DESCRIBED)
        labels[key] = " · ".join([first, *fields, last])
    return runs, labels, unreadable


@cache
def score_of(path: Path) -> str:
    """A run's score on dev; kept, as it is read from the run's files."""
    return f"{found[0]} {rounded(found[1])}" if (found := score(Run(path))) else "no score"


def reason(error: Exception) -> str:
    """What an error says, after its kind where it was not written to be read."""
    return str(error) if isinstance(error, ParameterError | CorruptRun) else f"{type(error).__name__}: {error}"
