"""What all explorers are: a picker of runs, controls, a picture and lines of read-outs, over what runs have stored."""

from __future__ import annotations

import re
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import display
from ipywidgets import HTML, Box, Button, Dropdown, HBox, Layout, Play, SelectionSlider, Text, VBox
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from traitlets import link

from anm_nb.analysis.kept import kept_root
from anm_nb.analysis.plots import figure_files
from anm_nb.analysis.style import PAGE, house_style, label
from anm_nb.analysis.tables import differences, rounded, score
from anm_nb.config import ParameterError
from anm_nb.files import outputs_root, replace_whole
from anm_nb.store import CorruptRun, Run, scan, store_root
from anm_nb.widgets.view import Control, View, frame_state, plotted

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
SCRIPT = (TEMPLATES / "explorer.js").read_text("utf-8")
STYLE_SHEET = f"<style>{(TEMPLATES / 'explorer.css').read_text('utf-8')}</style>"
DESCRIBED = ("task", "size", "negatives", "negatives.name", "routing")  # in every label anyway
WIDTH = 8.0  # inches of the picture: fits a window of 1000 pixels


class Explorer:
    """A finished run to look into, alone or with another beside it on the same axes.

    It opens with `chosen`, else the newest run in the store. A cell shows its widgets, or where these cannot run a
    still picture of how they opened. Raises `ParameterError` for a run that is not in the list.
    """

    def __init__(self, view: type[View], chosen: Run | None = None, beside: Run | None = None) -> None:
        self.view, (self.runs, self.labels, unreadable) = view, stored_runs(view.suits)
        for run in filter(None, (chosen, beside)):
            if run.key not in self.runs:
                why = unreadable.get(run.key, f"is not among the {len(self.runs)} runs that can be shown")
                raise ParameterError(f"run {run.key}: {why}")
        self.views, self.readouts, self.players = list[View](), list[dict[str, str]](), dict[str, Play]()
        self.picture, self.readout, self.saved = HTML(), HTML().add_class("anm-readout"), HTML()
        self.alt = self.unshown = ""
        self.root = VBox(layout=Layout(width="100%", max_width="1000px"))
        self.root.add_class("anm-explorer").add_class(f"anm-{view.name}-explorer")
        named = "; ".join(f"{key}: {why}" for key, why in [*unreadable.items()][:3])
        note = f"Not in the list, as they cannot be read ({len(unreadable)}): {named}" if named else ""
        if not self.runs:
            nothing = f"There is no finished run in {store_root()} that this explorer can show."
            self._blank(f"{nothing} {view.needs} Then run this cell again. {note}", "status")
            self.root.children = [self.readout]
            return
        self.picker = self._input(Control("run", "Run", "The run that is shown; the newest first"))
        self.beside = self._input(Control("beside", "Beside", "Another one, on the same axes"))
        self.picker.options = [(text, key) for key, text in self.labels.items()]
        self.picker.value = chosen.key if chosen else next(iter(self.runs))
        self.beside.options = [("none", ""), *self.picker.options]
        self.beside.value = beside.key if beside else ""
        self.inputs = {control.name: self._input(control) for control in view.controls}
        boxes = [HBox([each, *filter(None, [self.players.get(name)])]) for name, each in self.inputs.items()]
        self.box = Box(boxes, layout=Layout(flex_flow="row wrap"))
        self.save = Button(description="Save figure", tooltip="Write the picture as PDF, SVG and PNG")
        notes = HTML(f'<p role="status">{escape(note)}</p>' if note else "")
        shown = [self.picture, self.readout, self.save, self.saved]
        self.root.children = [self.picker, self.beside, notes, self.box, *shown]
        self.save.on_click(self._save)
        for picker in (self.picker, self.beside):
            picker.layout.width = "auto"
            picker.observe(self.open, "value")
        for given in self.inputs.values():
            given.observe(self._redraw, "value")
        self.open()

    def _input(self, control: Control) -> Any:
        """The widget that holds a control's value; its player, if it has one, stands in `players`."""
        words = {"description": control.label, "tooltip": control.tooltip, "style": {"description_width": "7em"}}
        words["layout"] = Layout(width="23em", max_width="100%")
        if control.form == "text":
            return Text(placeholder="typed or pasted", continuous_update=False, **words)
        given = (Dropdown if control.form == "list" else SelectionSlider)(options=["–"], **words)
        if control.form == "player":
            words = {"description": f"Play {control.label.lower()}", "tooltip": f"Play: {control.tooltip}"}
            self.players[control.name] = Play(show_repeat=False, max=0, layout=Layout(width="auto"), **words)
            link((self.players[control.name], "value"), (given, "index"))
        return given

    def open(self, change: Any = None) -> None:
        """Open the picked runs, their files read anew; controls are out of sight where that fails."""
        self.views = []
        self._try(self._read)
        self.box.layout.visibility = "visible" if self.views else "hidden"
        self._redraw()

    def _read(self) -> None:
        keys = [key for key in (self.picker.value, self.beside.value) if key]
        views = [self.view(Run(self.runs[key].path)) for key in keys]
        for view in views:
            view.together = views
        for name, options in views[0].options.items():  # all rows follow what the first run has
            if isinstance(options, bool):
                self.inputs[name].layout.display = None if options else "none"
            else:
                self._offer(name, options, views[0].start.get(name))
        tall, columns = len(views) * self.view.height, len(self.view.widths)
        figure = Figure((WIDTH, tall), dpi=120)
        # fixed places in inches, as to find them takes long
        place = {"left": 0.75 / WIDTH, "right": 1 - 0.1 / WIDTH, "bottom": 0.45 / tall, "top": 1 - 0.3 / tall}
        place |= {"wspace": 0.14 * columns, "hspace": 0.75 / (self.view.height - 0.75)}
        self.axes = self._panels(figure, len(views), place)
        self.canvas, self._layers = FigureCanvasAgg(figure), dict[Axes, tuple[Any, np.ndarray]]()
        self.views = views

    def _panels(self, figure: Figure, rows: int, place: dict[str, float] | None = None) -> np.ndarray:
        """Empty axes [rows, panels]."""
        widths = self.view.widths
        return figure.subplots(rows, len(widths), squeeze=False, width_ratios=widths, gridspec_kw=place)

    def _redraw(self, change: Any = None) -> None:
        if self.views:
            self._try(self._draw)

    def _draw(self) -> None:
        """Picture, words and read-outs of the controls' values."""
        self.values = {name: given.value for name, given in self.inputs.items()}
        said = {
            each.label: getattr(self.inputs[each.name], "label", self.values[each.name]) for each in self.view.controls
        }
        self.said = {name: text for name, text in said.items() if text}
        for axes in self.axes.flat:
            for artist in plotted(axes):
                artist.remove()
            axes.relim()
            axes.autoscale(True)  # limits follow what comes
        self.readouts = self._plot(self.axes)
        told = ["; ".join(map(" ".join, each.items())) for each in self.readouts]
        self.alt = f"{self.view.about} {', '.join(map(' '.join, self.said.items()))}. {'. Below it: '.join(told)}."
        self._show()
        form = '{0} <b data-readout="{0}">{1}</b>'
        lines = ["; ".join(form.format(*map(escape, item)) for item in each.items()) for each in self.readouts]
        self.readout.value = f'<div role="status" aria-live="polite">{"<br>".join(lines)}</div>'

    def _plot(self, rows: np.ndarray) -> list[dict[str, str]]:
        """Plot all runs into empty axes [runs, panels], curves with the same limits in every row; their read-outs."""
        readouts = []
        for view, axes in zip(self.views, rows, strict=True):
            axes[0].set_title(view.method)
            readouts.append({"method": view.method} | view.draw(axes, self.values))
        for column in rows.T:
            if not any(each.images for each in column):
                x, y = (np.array([getattr(each, f"get_{which}lim")() for each in column]) for which in "xy")
                for each in column:
                    each.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
        return readouts

    def _show(self) -> None:
        """Draw a white sheet, on it the panels' frames, anew where these have changed, and what is plotted.

        The page has it as an image with alternative text (an `Image` widget has none), bars of first panels over it.
        """
        renderer, pixels = self.canvas.get_renderer(), np.asarray(self.canvas.buffer_rgba())
        for axes in self.axes.flat:
            if self._layers.get(axes, (None, None))[0] != (state := frame_state(axes)):
                for artist in plotted(axes):
                    artist.set_animated(True)
                pixels[:] = 255
                axes.draw(renderer)
                self._layers[axes] = state, pixels.copy()
        np.minimum.reduce([layer for _, layer in self._layers.values()], out=pixels)
        for axes in self.axes.flat:
            for artist in sorted(plotted(axes), key=lambda artist: artist.zorder):
                artist.draw(renderer)
        places, form = [], '<i title="{}" style="left:{:.2f}%;width:{:.2f}%;top:{:.2f}%;height:{:.2f}%"></i>'
        for axes, view in zip(self.axes[:, 0], self.views, strict=True):
            box = axes.get_position()
            for left, wide, told in view.bars:
                sides = box.x0 + left * box.width, wide * box.width, 1 - box.y1, box.height
                places.append(form.format(escape(told), *(100 * side for side in sides)))
        self.picture.value = (
            f'<div class="anm-sheet"><img class="anm-picture-image" alt="{escape(self.alt)}" decoding="sync" '
            f'onload="{escape(SCRIPT)}" src="data:image/png;base64,{b64encode(self.png(1)).decode()}">'
            f"{''.join(places)}</div>{'<p>Point at a bar, or click on it, for its numbers.</p>' if places else ''}"
        )

    def png(self, compression: int = 9) -> bytes:
        """What is shown as a PNG file, at a compression level of zlib from 0 to 9; in half the time Pillow takes."""
        pixels = np.asarray(self.canvas.buffer_rgba())
        height, width, _ = pixels.shape
        rows = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))  # each begins with its filter: none
        chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)]
        chunks += [b"IDAT" + zlib.compress(rows.tobytes(), compression), b"IEND"]
        parts = (struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks)
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

    def _save(self, button: Any) -> None:
        """Write the picture at the page's width, by a name that says what it shows, and tell where, or why not."""
        try:
            if self.unshown:
                raise ParameterError(self.unshown)
            keys = [view.run.key[:8] for view in self.views]
            name = re.sub(r"[^\w.]+", "-", " ".join([self.view.name, *keys, *self.said.values()]))
            path = outputs_root() / "figures" / "explorers" / name
            with house_style():
                figure = Figure((PAGE.text, len(keys) * self.view.height), layout="constrained")
                self._plot(self._panels(figure, len(keys)))
                files = figure_files(figure, name, PAGE.text)
            path.parent.mkdir(parents=True, exist_ok=True)
            for file, data in files.items():
                replace_whole(path.with_name(file), data)
            told = f"Saved, {PAGE.text} inches wide, as PDF, SVG and PNG: {path}.pdf"
        except Exception as error:  # of any kind, as when the picture is drawn; or a full disk
            told = f"Not saved: {reason(error)}"
        self.saved.value = f'<p role="status">{escape(told)}</p>'

    def _offer(self, name: str, options: Sequence[tuple[str, Any]], start: Any) -> None:
        """Let a control offer these; the chosen label stays where it is among them, else `start` is chosen."""
        given, player, (labels, values) = self.inputs[name], self.players.get(name), zip(*options, strict=True)
        place = labels.index(given.label) if given.label in labels else values.index(start) if start in values else 0
        given.options, given.disabled = options, len(options) < 2  # the first of them is chosen
        if player:
            player.max, player.disabled = len(options) - 1, len(options) < 2
            player.interval = max(100, min(500, 30_000 // len(options)))  # milliseconds a place, half a minute in all
        given.index = place

    def _try(self, step: Callable[[], None]) -> None:
        """Take a step; where that fails, the picture is blank and the reason stands for the read-outs."""
        try:
            with house_style():
                step()
            self.unshown = ""
        except Exception as error:  # of any kind: a file, a user's own class or another version's network raises it
            self._blank(f"Cannot be shown: {reason(error)}", "alert")

    def _blank(self, why: str, role: str) -> None:
        self.unshown, self.readouts = why.strip(), []
        self.alt = self.picture.value = ""
        self.readout.value = f'<p role="{role}">{escape(self.unshown)}</p>'

    def _ipython_display_(self) -> None:
        if not self.unshown:
            shown, words = {"text/plain": self.alt, "image/png": self.png()}, {"image/png": {"alt": self.alt}}
            display(shown, metadata=words, raw=True)
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

    A label has task, size, method, score, every other field that differs within the list, the time and the beginning of
    the key. No class of a user's own is needed.
    """
    runs, scores, labels, unreadable = dict[str, Run](), dict[str, str](), dict[str, str](), dict[str, str]()
    for run in [*reversed(scan()[0]), *project_runs().values()]:
        try:
            if run.key not in runs and suits(run):
                found = score(run)
                scores[run.key] = f"{found[0]} {rounded(found[1])}" if found else "no score"
                runs[run.key] = run
        except Exception as error:  # of any kind: what is in a file may be anything
            unreadable[run.key] = reason(error)
    for (key, run), own in zip(runs.items(), differences(runs.values()), strict=True):
        what = f"{run.summary['task']}, size {run.settings.get('size')}", label(str(run.summary["method"]))
        fields = (f"{name} = {value}" for name, value in own.items() if name not in DESCRIBED)
        finished = datetime.fromisoformat(run.summary["finished"]).astimezone()
        labels[key] = " · ".join([*what, scores[key], *fields, f"{finished:%d %b %Y %H:%M}", key[:8]])
    return runs, labels, unreadable


def reason(error: Exception) -> str:
    """What an error says, after its kind where it was not written to be read."""
    return str(error) if isinstance(error, ParameterError | CorruptRun) else f"{type(error).__name__}: {error}"
