"""The frame of all explorers: pickers for stored runs, controls, a picture and lines of read-outs."""

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
from ipywidgets import HTML, Box, Button, Dropdown, HBox, Layout, Play, SelectionSlider, Text, VBox, link
from jinja2 import Environment, FileSystemLoader
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from anm_nb.analysis.kept import kept_root
from anm_nb.analysis.plots import figure_files
from anm_nb.analysis.style import PAGE, colours, house_style, label
from anm_nb.analysis.tables import differences, rounded, score
from anm_nb.config import ParameterError
from anm_nb.files import outputs_root, replace_whole
from anm_nb.store import CorruptRun, Run, scan, store_root

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
SCRIPT = (TEMPLATES / "explorer.js").read_text("utf-8")
SHEET = Environment(autoescape=True, loader=FileSystemLoader(TEMPLATES)).get_template("explorer.html.j2")
STYLE_SHEET = f"<style>{(TEMPLATES / 'explorer.css').read_text('utf-8')}</style>"
PIXELS = 960  # width of the picture; fits a window of 1000


class View(ABC):
    """How an explorer shows one run: a row of panels and a line of read-outs; it reads the run when constructed.

    The first line of a subclass's docstring is the page's description of its panels, for readers who cannot see them.
    `options` maps the seed list and each slider to the offered values and the initial one. While a run is shown, axis
    labels are fixed; limits and tick labels may change. `draw` may set `bars`, the tooltips over the first panel: left
    end and width as fractions of the panel's width, and text.
    """

    family: ClassVar[str] = "energy"
    name: ClassVar[str]  # the kind of explorer, part of its CSS class
    controls: ClassVar[Sequence[tuple[str, str, str]]]  # name, label and tooltip of each control except the seed
    typed: ClassVar[Sequence[str]] = ()  # controls that take text; all others are sliders
    widths: ClassVar[Sequence[float]]  # relative widths of the panels
    height: ClassVar[float] = 2.3  # of a row, in inches
    bars: Sequence[tuple[float, float, str]] = ()

    def __init__(self, run: Run, **options: tuple[Sequence[Any], Any]) -> None:
        self.together: Sequence[Any] = [self]  # the views of all rows
        self.run, self.seeds, method = run, run.settings["seeds"], str(run.summary["method"])
        self.method, self.colour = label(method), colours([method])[method]
        self.options = {"seed": (self.seeds, self.seeds[0]), **options}

    @classmethod
    def suits(cls, run: Run) -> bool:
        """Whether the explorer can show a run, judged by its manifest alone."""
        return run.summary["family"] == cls.family

    @abstractmethod
    def draw(self, axes: np.ndarray, values: Mapping[str, Any]) -> dict[str, str]:
        """Plot the selected values into empty axes [panels]; returns the read-outs by name, with units."""


class Explorer:
    """An interactive page for one finished run, or for two on the same axes.

    It opens with `chosen`, by default the newest run in the store. A cell displays its widgets, or a still picture of
    their initial state where widgets cannot run. Raises `ParameterError` for a run that this explorer cannot show.
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
            problem = f"There is no finished run in {store_root()} that this explorer can show."
            self._blank(f"{problem} Train one: run notebook 10 or 20, or anm-nb demo in a terminal.", "status")
            return
        options = [(text, key) for key, text in self.labels.items()]
        self.picker = control(Dropdown, "Run", "The run to show, newest first", options=options)
        self.beside = control(Dropdown, "Beside", "A second run, on the same axes", options=[("none", ""), *options])
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
        for widget in (self.picker, self.beside, *self.inputs.values()):
            widget.observe(self.redraw, "value")
        self.redraw()

    def redraw(self, change: Any = None) -> None:
        """Draw the selected state, and show the reason if that fails; runs are read again unless a control changed."""
        picked = change is None or change.owner in (self.picker, self.beside)
        if not picked and not self.views:  # a slider is still playing, or gets new options
            return
        try:
            with house_style():
                if picked:
                    self.views = []
                    self._read()
                self._draw()
            self.unshown = ""
        except Exception as error:  # of any type: files, a user's own class or a network of another version may fail
            kind = "" if isinstance(error, ParameterError | CorruptRun) else f"{type(error).__name__}: "
            self._blank(f"Cannot be shown: {kind}{error}", "alert")
        self.save.disabled = bool(self.unshown)
        self.box.layout.visibility = "visible" if self.views else "hidden"

    def _read(self) -> None:
        """Read the picked runs, offer their options in the controls, and create empty panels."""
        views = [self.view(Run(self.runs[key].path)) for key in (self.picker.value, self.beside.value) if key]
        for view in views:
            view.together = views
        first = views[0]  # all rows follow its options
        for name, (options, start) in first.options.items():
            widget = self.inputs[name]
            value = widget.value if widget.value in options else start
            widget.options = options  # selects the first of them
            if name in self.players:
                self.players[name].max = len(options) - 1
            widget.value = value
        # the size of the saved figure, with fixed positions in inches, as a layout engine is slow
        rows, columns = len(views), len(first.widths)
        tall = rows * first.height
        place = {"left": 0.7 / PAGE.text, "right": 1 - 0.2 / PAGE.text, "bottom": 0.45 / tall, "top": 1 - 0.25 / tall}
        place |= {"wspace": 0.16 * columns, "hspace": 0.7 / (first.height - 0.7)}
        self.figure = Figure((PAGE.text, tall), dpi=PIXELS / PAGE.text)
        self.axes = self.figure.subplots(rows, columns, squeeze=False, width_ratios=first.widths, gridspec_kw=place)
        self.canvas, self.limits = FigureCanvasAgg(self.figure), list[Any]()
        self.views = views

    def _draw(self) -> None:
        """Show the picture, its description and the read-outs for the controls' values."""
        values = {name: widget.value for name, widget in self.inputs.items()}
        readouts = []
        for view, axes in zip(self.views, self.axes, strict=True):
            for panel in axes:
                for artist in plotted(panel):
                    artist.remove()
                panel.relim()
                panel.autoscale(True)  # until the view sets limits
            axes[0].set_title(view.method)
            possible = {name: nearest(options, values[name]) for name, (options, _) in view.options.items()}
            readouts.append({"method": view.method} | view.draw(axes, values | possible))
        for column in self.axes.T:  # curves have the same limits in every row
            if not any(panel.images for panel in column):
                x, y = (np.array([getattr(panel, f"get_{which}lim")() for panel in column]) for which in "xy")
                for panel in column:
                    panel.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
        panels = str(self.view.__doc__).split("\n")[0]
        state = ", ".join(f"{self.inputs[name].description} {value}" for name, value in values.items() if value != "")
        numbers = ". Below it: ".join("; ".join(map(" ".join, each.items())) for each in readouts)
        self.readouts, self.alt = readouts, f"{panels} {state}. {numbers}."
        self._paint()
        picture = b64encode(self.image("jpeg", quality=95, subsampling=0)).decode()  # takes a third of a PNG's time
        bars = [(a.get_position(), v.bars) for a, v in zip(self.axes[:, 0], self.views, strict=True) if v.bars]
        self.picture.value = SHEET.render(alt=self.alt, script=SCRIPT, picture=picture, panels=bars)
        form = '{0} <b data-readout="{0}">{1}</b>'
        lines = ["; ".join(form.format(*map(escape, item)) for item in each.items()) for each in readouts]
        self.readout.value = f'<div role="status" aria-live="polite">{"<br>".join(lines)}</div>'

    def _paint(self) -> None:
        """Draw the plotted artists over cached frames, which are redrawn only if limits or ticks changed."""
        artists = [artist for axes in self.axes.flat for artist in plotted(axes)]
        limits = [(*a.viewLim.extents, *getattr(a.yaxis.get_major_formatter(), "seq", ())) for a in self.axes.flat]
        if limits != self.limits:
            for artist in artists:
                artist.set_animated(True)  # excludes it from `draw`
            self.canvas.draw()
            self.limits, self.frames = limits, self.canvas.copy_from_bbox(self.figure.bbox)
        self.canvas.restore_region(self.frames)
        for artist in sorted(artists, key=lambda artist: artist.zorder):
            artist.draw(self.canvas.renderer)

    def image(self, kind: str, **options: Any) -> bytes:
        """Encode the picture in a format that Pillow can write, with Pillow's options."""
        imsave(buffer := BytesIO(), np.asarray(self.canvas.buffer_rgba()), format=kind, pil_kwargs=options)
        return buffer.getvalue()

    def _save(self, button: Any) -> None:
        """Write the figure under a name that describes its state, and report the path or the error."""
        values = [f"{widget.description} {widget.value}" for widget in self.inputs.values()]
        name = re.sub(r"[^\w.]+", "-", " ".join([self.view.name, *(view.run.key[:8] for view in self.views), *values]))
        folder = outputs_root() / "figures" / "explorers"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file, content in figure_files(self.figure, name).items():
                replace_whole(folder / file, content)
            report = f"Saved, {PAGE.text} inches wide, as PDF, SVG and PNG: {folder / name}.pdf"
        except Exception as error:  # of any type, such as a full disk
            report = f"Not saved: {type(error).__name__}: {error}"
        self.redraw()  # saving leaves the canvas at the file's size
        self.saved.value = f'<p role="status">{escape(report)}</p>'

    def _blank(self, why: str, role: str) -> None:
        self.unshown, self.readouts = why, []
        self.alt = self.picture.value = ""
        self.readout.value = f'<p role="{role}">{escape(why)}</p>'

    def _ipython_display_(self) -> None:
        if not self.unshown:
            still = {"text/plain": self.alt, "image/png": self.image("png")}
            display(still, metadata={"image/png": {"alt": self.alt}}, raw=True)
        marker = f'{STYLE_SHEET}<p class="anm-still">{escape(self.unshown)}</p>'
        display({"text/html": marker, "text/plain": self.unshown}, raw=True)
        display({**self.root._repr_mimebundle_(), "text/plain": ""}, raw=True)


def control(kind: type, name: str, tooltip: str, **options: Any) -> Any:
    """Create a labelled input widget."""
    layout = Layout(width="23em", max_width="100%")
    return kind(description=name, tooltip=tooltip, style={"description_width": "7em"}, layout=layout, **options)


def plotted(axes: Axes) -> list[Artist]:
    """The data artists of a panel, without frame, ticks, labels and legend."""
    return [*axes.lines, *axes.collections, *axes.images, *axes.patches, *axes.texts]


def nearest(options: Sequence[Any], value: Any) -> Any:
    """The value itself if a run offers it, otherwise the nearest number it offers."""
    numbers = (each for each in options if isinstance(each, int))
    return value if value in options else min(numbers, key=lambda each: abs(each - value))


def project_runs() -> dict[str, Run]:
    """The small trained runs that come with the project, by task and method; empty outside a clone."""
    try:
        found = [Run(path) for path in (kept_root() / "models").glob("[!.]*")]
    except ParameterError:
        return {}
    return {f"{run.summary['task']} {run.summary['method']}": run for run in found}


def stored_runs(suits: Callable[[Run], bool]) -> tuple[dict[str, Run], dict[str, str]]:
    """The finished runs that `suits` accepts, by key, newest first and then the project's own; and their labels.

    A label gives family, task, method, score, all fields that differ within the list, and the first 8 characters of
    the key. Users' own classes need not be importable.
    """
    runs, labels = dict[str, Run](), dict[str, str]()
    for run in [*reversed(scan()[0]), *project_runs().values()]:
        with suppress(ParameterError):  # its task is not defined here
            if run.key not in runs and suits(run):
                runs[run.key] = run
    for (key, run), differing in zip(runs.items(), differences(runs.values()), strict=True):
        try:
            found = score(run)
            scored = f"{found[0]} {rounded(found[1])}" if found else "no score"
        except Exception:  # of any type, as a damaged file may hold anything; picking the run shows the reason
            scored = "cannot be read"
        fields = (f"{name} = {value}" for name, value in differing.items())
        labels[key] = " · ".join([run.title, scored, *fields, key[:8]])
    return runs, labels
