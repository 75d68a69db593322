"""The gallery: one self-contained page over a folder of executed notebooks, a card for each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anm_nb.analysis import VERDICT_MIME
from anm_nb.sweep import Outcome, read_outcomes

if TYPE_CHECKING:
    from nbformat import NotebookNode

INDEX_FILE = "index.html"
FIGURE_TAG = "gallery"
STATES = ("supported", "refuted", "undecided")


class NothingToShow(ValueError):
    """A folder that holds no executed notebook; the message names it."""


@dataclass(frozen=True)
class Verdict:
    """A claim, what a notebook measured about it, its state, and what the source document expected, if it says so."""

    claim: str
    measured: str
    state: str
    expected: str | None = None
    power: str | None = None  # for an undecided claim, what the seeds could have found

    @classmethod
    def from_output(cls, data: dict[str, Any]) -> Verdict:
        """Read a verdict from a cell's output; raises ValueError naming what is missing or not allowed."""
        missing = [name for name in ("claim", "measured", "state") if not data.get(name)]
        if missing:
            raise ValueError(f"a verdict without {' and '.join(missing)}")
        if data["state"] not in STATES:
            raise ValueError(f"a verdict with state {data['state']!r}; allowed: {', '.join(STATES)}")
        return cls(data["claim"], data["measured"], data["state"], data.get("expected"), data.get("power"))


@dataclass(frozen=True)
class Card:
    """What the page shows of one notebook; `figure` is a data URI and links are relative to the page."""

    name: str
    title: str
    status: Literal["done", "failed", "earlier"]
    seconds: float | None = None
    peak_mib: float | None = None
    error: str | None = None
    verdicts: tuple[Verdict, ...] = ()
    figure: str | None = None
    figure_text: str = ""
    notebook: str | None = None
    rendering: str | None = None
    problems: tuple[str, ...] = ()


def tally(verdicts: Iterable[Verdict]) -> str:
    """How many verdicts are in each state, such as `2 supported, 1 undecided`; empty where there are none."""
    counts = Counter(verdict.state for verdict in verdicts)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def read_cards(folder: Path) -> list[Card]:
    """A card for every executed notebook in the folder and every stored outcome, in the order of their names.

    Raises NothingToShow where there is neither.
    """
    outcomes = {outcome.name: outcome for outcome in read_outcomes(folder)} if folder.is_dir() else {}
    names = {path.stem for path in folder.glob("[!.]*.ipynb")} | set(outcomes)
    if not names:
        raise NothingToShow(f"no executed notebooks in {folder}")
    return [_read_card(folder, name, outcomes.get(name)) for name in sorted(names)]


def write_index(folder: Path, cards: list[Card]) -> Path:
    """Write the page over the cards into the folder, in one step; returns its path."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("anm_nb"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {"duration": duration, "memory": memory}
    page = templates.get_template("gallery.html.j2").render(
        cards=cards,
        states=STATES,
        counts=Counter(verdict.state for card in cards for verdict in card.verdicts),
        failed=[card for card in cards if card.status == "failed"],
        made=datetime.now().astimezone(),
    )
    partial = folder / f".{INDEX_FILE}.partial"
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, folder / INDEX_FILE)
    return folder / INDEX_FILE


def duration(seconds: float) -> str:
    """Seconds as a person reads them: `4.2 s`, `31 s`, `2 min 05 s`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def memory(mib: float) -> str:
    """MiB as a person reads them: `412 MiB`, `1.8 GiB`."""
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.1f} GiB"


def _read_card(folder: Path, name: str, outcome: Outcome | None) -> Card:
    path = folder / f"{name}.ipynb"
    known: dict[str, Any] = {"name": name, "title": name, "status": "earlier"}
    if outcome:
        known |= {"status": outcome.status, "error": outcome.error}
        known |= {"seconds": outcome.seconds, "peak_mib": outcome.peak_mib}
    if not path.exists():
        return Card(**known, problems=("It left no executed notebook.",))
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # whatever is wrong with one notebook, the page still shows the others
        return Card(**known, notebook=path.name, problems=(f"The executed notebook cannot be read: {error}",))
    known["title"] = _title(notebook) or name
    verdicts, problems = _verdicts(notebook)
    figure, figure_text = _figure(notebook)
    return Card(
        **known,
        verdicts=verdicts,
        figure=figure,
        figure_text=figure_text or f"A figure of “{known['title']}”",
        notebook=path.name,
        rendering=_render(path, notebook),
        problems=problems,
    )


def _title(notebook: NotebookNode) -> str | None:
    """The first first-level heading, without its marks of emphasis and code."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                if line.startswith("# "):
                    return line[2:].translate({ord(mark): None for mark in "*`"}).strip()
    return None


def _outputs(notebook: NotebookNode) -> Iterable[tuple[NotebookNode, dict[str, Any]]]:
    """Every rich output as its cell and its representations by mime type."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "data" in output:
                yield cell, output.data


def _verdicts(notebook: NotebookNode) -> tuple[tuple[Verdict, ...], tuple[str, ...]]:
    """The verdicts in the notebook's outputs, and what is wrong with those that cannot be read."""
    verdicts, problems = [], []
    for _, data in _outputs(notebook):
        if VERDICT_MIME in data:
            try:
                verdicts.append(Verdict.from_output(data[VERDICT_MIME]))
            except ValueError as error:
                problems.append(f"Unreadable: {error}.")
    return tuple(verdicts), tuple(problems)


def _figure(notebook: NotebookNode) -> tuple[str | None, str]:
    """The figure the author tagged for the gallery, else the first one; and its cell's `alt` text, if any."""
    figures = [(cell, data["image/png"]) for cell, data in _outputs(notebook) if "image/png" in data]
    chosen = [pair for pair in figures if FIGURE_TAG in pair[0].metadata.get("tags", [])] or figures
    if not chosen:
        return None, ""
    cell, png = chosen[0]
    return "data:image/png;base64," + "".join(png.split()), cell.metadata.get("alt", "")


def _render(path: Path, notebook: NotebookNode) -> str:
    """Write the notebook as a web page beside it, unless one at least as new is there; returns its name."""
    rendering = path.with_suffix(".html")
    if not rendering.exists() or rendering.stat().st_mtime_ns < path.stat().st_mtime_ns:
        from nbconvert import HTMLExporter

        notebook.metadata.pop("widgets", None)  # their code comes from the network; without it there are still pictures
        body, _ = HTMLExporter().from_notebook_node(notebook, {"metadata": {"name": path.stem}})
        partial = rendering.with_name(f".{rendering.name}.partial")
        partial.write_text(body, encoding="utf-8")
        os.replace(partial, rendering)
    return rendering.name
