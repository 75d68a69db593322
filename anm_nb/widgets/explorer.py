"""What all explorers are: a picker of runs, controls, a picture and lines of read-outs, over what runs have stored."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from IPython.display import display
from ipywidgets import HTML, Box, Button, Dropdown, HBox, Layout, Play, SelectionSlider, Text, VBox
from jinja2 import Environment, FileSystemLoader
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from traitlets import link

from anm_nb.analysis.kept import kept_root
from anm_nb.analysis.plots import UNDATED
from anm_nb.analysis.style import PAGE, colours, house_style, label
from anm_nb.analysis.tables import differences, rounded, score
from anm_nb.config import ParameterError
from anm_nb.files import outputs_root, replace_whole
from anm_nb.store import CorruptRun, Run, scan, store_root

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
SCRIPT = (TEMPLATES / "explorer.js").read_text("utf-8")
SHEET = Environment(autoescape=True, loader=FileSystemLoader(TEMPLATES)).get_template("explorer.html.j2")
STYLE_SHEET = f"<style>{(TEMPLATES / 'explorer.css').read_text('utf-8')}</style>"
PIXELS = 960  # the picture's width: fits a window of 1000


class View(ABC):
    """One run as an explorer shows it: a row of panels and a line of read-outs, read from the run when it is made.

    The first line of a view's docstring says in the page what its panels show, for those who cannot see them.
    `options` has the values that the seed's list and each slider offer, and the one to begin with. While runs are
    shown, labels of axes stay, limits and tick labels may change. Drawing sets `bars`: of each bar of the first panel
    its left end and width, as shares of the panel's, and words.
    """

    family: ClassVar[str] = "energy"
    name: ClassVar[str]  # of the kind of explorer, for its class in the page
    controls: ClassVar[Sequence[tuple[str, str, str]]]  # name, label and tooltip of each but the seed
    typed: ClassVar[Sequence[str]] = ()  # the controls that are text; all others are sliders
    widths: ClassVar[Sequence[float]]  # of the panels, relative
    height: ClassVar[float] = 2.3  # of a row, in inches
    bars: Sequence[tuple[float, float, str]] = ()

    def __init__(self, run: Run, **options: tuple[Sequence[Any], Any]) -> None:
        self.together: Sequence[Any] = [self]  # the views of all rows
        self.run, self.seeds, method = run, run.settings["seeds"], str(run.summary["method"])
        self.method, self.colour = label(method), colours([method])[method]
        self.options = {"seed": (self.seeds, self.seeds[0]), **options}

    @classmethod
    def suits(cls, run: Run) -> bool:
        """Whether the explorer can show a run, as far as its manifest tells."""
        return run.summary["family"] == cls.family

    @abstractmethod
    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> dict[str, str]:
        """Plot what the controls ask for into empty axes [panels]; its numbers, by name, with units."""


class Explorer:
    """A finished run to look into, alone or with another beside it on the same axes.

    It opens with `chosen`, else the newest run in the store. A cell shows its widgets, or where these cannot run a
    still picture of how they opened. Raises `ParameterError` for a run that is not in the list.
    """

    def __init__(self, view: type[View], chosen: Run | None = None, beside: Run | None = None) -> None:
        self.view, (self.runs, self.labels) = view, stored_runs(view.suits)
        for run in filter(None, (chosen, beside)):
            if run.key not in self.runs:
                raise ParameterError(f"run {run.key} is not among the {len(self.runs)} runs that can be shown")
        self.views, self.readouts, self.players = list[View](), list[dict[str, str]](), dict[str, Play]()
        self.picture, self.readout, self.saved = HTML(), HTML().add_class("anm-readout"), HTML()
        self.alt = self.unshown = ""
        self.root = VBox([self.readout], layout=Layout(width="100%", max_width="1000px"))
        self.root.add_class("anm-explorer").add_class(f"anm-{view.name}-explorer")
        if not self.runs:
            nothing = f"There is no finished run in {store_root()} that this explorer can show. Train an energy"
            self._blank(f"{nothing} or a ranking: run notebook 10 or 20, or anm-nb demo in a terminal.", "status")
            return
        options = [(text, key) for key, text in self.labels.items()]
        self.picker = control(Dropdown, "Run", "The run that is shown; the newest first", options=options)
        self.beside = control(Dropdown, "Beside", "Another one, on the same axes", options=[("none", ""), *options])
        self.picker.value = chosen.key if chosen else next(iter(self.runs))
        self.beside.value = beside.key if beside else ""
        self.inputs = {"seed": control(Dropdown, "Seed", "The seed of the run")}
        for name, *words in view.controls:
            if name in view.typed:
                self.inputs[name] = control(Text, *words, placeholder="typed or pasted", continuous_update=False)
                continue
            self.inputs[name] = control(SelectionSlider, *words, options=["–"])
            self.players[name] = Play(show_repeat=False, interval=250, layout=Layout(width="auto"))
            link((self.players[name], "value"), (self.inputs[name], "index"))
        boxes = [HBox([each, *filter(None, [self.players.get(name)])]) for name, each in self.inputs.items()]
        self.box = Box(boxes, layout=Layout(flex_flow="row wrap"))
        self.save = Button(description="Save figure", tooltip="Write the picture as PDF, SVG and PNG")
        self.save.on_click(self._save)
        self.root.children = [self.picker, self.beside, self.box, self.picture, self.readout, self.save, self.saved]
        for picker in (self.picker, self.beside):
            picker.layout.width = "auto"
        for given in (self.picker, self.beside, *self.inputs.values()):
            given.observe(self.redraw, "value")
        self.redraw()

    def redraw(self, change: Any = None) -> None:
        """Draw what the controls ask for, of runs read anew unless a control changed; where that fails, say why."""
        picked = change is None or change.owner in (self.picker, self.beside)
        if not picked and not self.views:  # a slider that plays on, or whose options change
            return
        try:
            with house_style():
                if picked:
                    self.views = []
                    self._read()
                self._draw()
            self.unshown = ""
        except Exception as error:  # of any kind: a file, a user's own class or another version's network raises it
            kind = "" if isinstance(error, ParameterError | CorruptRun) else f"{type(error).__name__}: "
            self._blank(f"Cannot be shown: {kind}{error}", "alert")
        self.save.disabled = bool(self.unshown)
        self.box.layout.visibility = "visible" if self.views else "hidden"

    def _read(self) -> None:
        keys = [key for key in (self.picker.value, self.beside.value) if key]
        views = [self.view(Run(self.runs[key].path)) for key in keys]
        for view in views:
            view.together = views
        first = views[0]  # whose options all rows follow
        for name, (options, start) in first.options.items():
            given = self.inputs[name]
            value = given.value if given.value in options else start
            given.options = options  # the first of them is chosen
            if name in self.players:
                self.players[name].max = len(options) - 1
            given.value = value
        # as large as when it is saved, with fixed places in inches, as to find them takes long
        rows, columns = len(views), len(first.widths)
        tall = rows * first.height
        place = {"left": 0.7 / PAGE.text, "right": 1 - 0.2 / PAGE.text, "bottom": 0.45 / tall, "top": 1 - 0.25 / tall}
        place |= {"wspace": 0.16 * columns, "hspace": 0.7 / (first.height - 0.7)}
        self.figure = Figure((PAGE.text, tall), dpi=PIXELS / PAGE.text)
        self.axes = self.figure.subplots(rows, columns, squeeze=False, width_ratios=first.widths, gridspec_kw=place)
        self.canvas, self.limits = FigureCanvasAgg(self.figure), list[Any]()
        self.views = views

    def _draw(self) -> None:
        """Picture, words and read-outs of the controls' values."""
        values = {name: given.value for name, given in self.inputs.items()}
        said = ", ".join(f"{self.inputs[name].description} {value}" for name, value in values.items() if value != "")
        readouts = []
        for view, axes in zip(self.views, self.axes, strict=True):
            for panel in axes:
                for artist in plotted(panel):
                    artist.remove()
                panel.relim()
                panel.autoscale(True)  # limits follow what comes
            axes[0].set_title(view.method)
            own = {name: nearest(options, values[name]) for name, (options, _) in view.options.items()}
            readouts.append({"method": view.method} | view.draw(axes, values | own))
        for column in self.axes.T:  # curves have the same limits in every row
            if not any(each.images for each in column):
                x, y = (np.array([getattr(each, f"get_{which}lim")() for each in column]) for which in "xy")
                for each in column:
                    each.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
        about = str(self.view.__doc__).split("\n")[0]
        told = ". Below it: ".join("; ".join(map(" ".join, each.items())) for each in readouts)
        self.readouts, self.alt = readouts, f"{about} {said}. {told}."
        self._paint()
        picture = b64encode(self.image("jpeg", quality=95, subsampling=0)).decode()  # in a third of a PNG's time
        panels = [(a.get_position(), v.bars) for a, v in zip(self.axes[:, 0], self.views, strict=True) if v.bars]
        self.picture.value = SHEET.render(alt=self.alt, script=SCRIPT, picture=picture, panels=panels)
        form = '{0} <b data-readout="{0}">{1}</b>'
        lines = ["; ".join(form.format(*map(escape, item)) for item in each.items()) for each in readouts]
        self.readout.value = f'<div role="status" aria-live="polite">{"<br>".join(lines)}</div>'

    def _paint(self) -> None:
        """Paint what is plotted over the panels' frames, which are drawn anew only where limits or ticks changed."""
        artists = [artist for axes in self.axes.flat for artist in plotted(axes)]
        names = [getattr(axes.yaxis.get_major_formatter(), "seq", ()) for axes in self.axes.flat]
        limits = [(*axes.viewLim.extents, *ticks) for axes, ticks in zip(self.axes.flat, names, strict=True)]
        if limits != self.limits:
            for artist in artists:
                artist.set_animated(True)  # so that the canvas leaves it out
            self.canvas.draw()
            self.limits, self.frames = limits, self.canvas.copy_from_bbox(self.figure.bbox)
        self.canvas.restore_region(self.frames)
        for artist in sorted(artists, key=lambda artist: artist.zorder):
            artist.draw(self.canvas.renderer)

    def image(self, kind: str, **options: Any) -> bytes:
        """What is shown as a file of a kind that Pillow writes, by its options."""
        imsave(buffer := BytesIO(), np.asarray(self.canvas.buffer_rgba()), format=kind, pil_kwargs=options)
        return buffer.getvalue()

    def _save(self, button: Any) -> None:
        """Write the picture, by a name that says what it shows, and tell where, or why not."""
        values = [f"{given.description} {given.value}" for given in self.inputs.values()]
        name = re.sub(r"[^\w.]+", "-", " ".join([self.view.name, *(view.run.key[:8] for view in self.views), *values]))
        folder = outputs_root() / "figures" / "explorers"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for kind, undated in UNDATED.items():
                with house_style():
                    self.figure.savefig(buffer := BytesIO(), format=kind, metadata=undated)
                replace_whole(folder / f"{name}.{kind}", buffer.getvalue())
            told = f"Saved, {PAGE.text} inches wide, as PDF, SVG and PNG: {folder / name}.pdf"
        except Exception as error:  # a full disk, or of any other kind
            told = f"Not saved: {type(error).__name__}: {error}"
        self.redraw()  # as the canvas has it in the file's size
        self.saved.value = f'<p role="status">{escape(told)}</p>'

    def _blank(self, why: str, role: str) -> None:
        self.unshown, self.readouts = why, []
        self.alt = self.picture.value = ""
        self.readout.value = f'<p role="{role}">{escape(why)}</p>'

    def _ipython_display_(self) -> None:
        if not self.unshown:
            shown, words = {"text/plain": self.alt, "image/png": self.image("png")}, {"image/png": {"alt": self.alt}}
            display(shown, metadata=words, raw=True)
        still = f'{STYLE_SHEET}<p class="anm-still">{escape(self.unshown)}</p>'
        display({"text/html": still, "text/plain": self.unshown}, raw=True)
        display({**self.root._repr_mimebundle_(), "text/plain": ""}, raw=True)


def control(kind: type, name: str, tooltip: str, **options: Any) -> Any:
    """A widget that holds a value, with its name before it."""
    layout = Layout(width="23em", max_width="100%")
    return kind(description=name, tooltip=tooltip, style={"description_width": "7em"}, layout=layout, **options)


def plotted(axes: Axes) -> list[Artist]:
    """What is plotted in a panel, without its frame, ticks, labels and legend."""
    return [*axes.lines, *axes.collections, *axes.images, *axes.patches, *axes.texts]


def nearest(options: Sequence[Any], value: Any) -> Any:
    """The value itself where a run offers it, else the nearest number that it does."""
    numbers = (each for each in options if isinstance(each, int))
    return value if value in options else min(numbers, key=lambda each: abs(each - value))


def project_runs() -> dict[str, Run]:
    """The small trained runs that come with the project, by task and method; none where there is no clone."""
    try:
        found = [Run(path) for path in (kept_root() / "models").glob("[!.]*")]
    except ParameterError:
        return {}
    return {f"{run.summary['task']} {run.summary['method']}": run for run in found}


def stored_runs(suits: Callable[[Run], bool]) -> tuple[dict[str, Run], dict[str, str]]:
    """The finished runs that suit, by key, newest first and then the project's own; and their labels.

    A label has family, task, method, score, all fields that differ within the list, and the beginning of the key. No
    class of a user's own is needed.
    """
    runs, labels = dict[str, Run](), dict[str, str]()
    for run in [*reversed(scan()[0]), *project_runs().values()]:
        with suppress(ParameterError):  # of a task that is not defined here
            if run.key not in runs and suits(run):
                runs[run.key] = run
    for (key, run), own in zip(runs.items(), differences(runs.values()), strict=True):
        try:
            found = score(run)
            scored = f"{found[0]} {rounded(found[1])}" if found else "no score"
        except Exception:  # of any kind, as what is in a file may be anything; who picks the run is told
            scored = "cannot be read"
        fields = (f"{name} = {value}" for name, value in own.items())
        labels[key] = " · ".join([run.title, scored, *fields, key[:8]])
    return runs, labels
