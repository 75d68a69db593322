"""Executed notebooks read as cards: question, verdicts, figure, and the runs behind them."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

from anm_nb.analysis import VERDICT_MIME
from anm_nb.config import ParameterError
from anm_nb.gallery.rendering import render
from anm_nb.gallery.used_runs import UsedRun, used_runs
from anm_nb.sweep.case import Outcome, read_outcomes

if TYPE_CHECKING:
    from nbformat import NotebookNode

FIGURE_TAG = "gallery"
STATES = ("supported", "refuted", "undecided")


NUMBERED = re.compile(r"(\d)\d_")  # the tens of a notebook's number say what it is about
PNG_HEADER = b"\x89PNG\r\n\x1a\n"


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
    def from_output(cls, data: Any) -> Verdict:
        """Read a verdict from a cell's output; raises ValueError naming what is missing or not allowed."""
        if not isinstance(data, dict):
            raise ValueError(f"a verdict that is no mapping but {data!r}")
        missing = [name for name in ("claim", "measured", "state") if not data.get(name)]
        if missing:
            raise ValueError(f"a verdict without {' and '.join(missing)}")
        if data["state"] not in STATES:
            raise ValueError(f"a verdict with state {data['state']!r}; allowed: {', '.join(STATES)}")
        return cls(data["claim"], data["measured"], data["state"], data.get("expected"), data.get("power"))


@dataclass(frozen=True)
class Figure:
    """A picture as a data URI, what it shows in words, and its width and height in pixels where they can be told."""

    uri: str
    text: str
    size: tuple[int, int] | None = None

    @classmethod
    def from_png(cls, png: str, text: str) -> Figure:
        """Of a PNG in base64, as notebooks keep it."""
        png = "".join(png.split())
        return cls(f"data:image/png;base64,{png}", text, png_size(png))


@dataclass(frozen=True)
class Card:
    """What the page shows of one notebook; links are relative to the page.

    `tens` is the tens digit of the notebook's number, from 0 to 9, and None where the notebook has no number.
    """

    name: str
    title: str
    status: Literal["done", "failed", "earlier"]
    seconds: float | None = None
    peak_mib: float | None = None
    error: str | None = None
    verdicts: tuple[Verdict, ...] = ()
    figure: Figure | None = None
    notebook: str | None = None
    rendering: str | None = None
    problems: tuple[str, ...] = ()
    tens: int | None = None
    runs: tuple[UsedRun, ...] = ()


def tally(verdicts: Iterable[Verdict]) -> str:
    """How many verdicts are in each state, such as `2 supported, 1 undecided`; empty where there are none."""
    counts = Counter(verdict.state for verdict in verdicts)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def read_cards(folder: Path) -> list[Card]:
    """A card for every executed notebook in the folder and every stored outcome, in the order of their names.

    Raises NothingToShow where there is neither, and ParameterError where the outcomes cannot be read.
    """
    stored, problems = read_outcomes(folder)
    if problems:
        raise ParameterError("\n".join(f"{problem}; run the cases again" for problem in problems))
    outcomes = {outcome.name: outcome for outcome in stored}
    names = {path.stem for path in folder.glob("[!.]*.ipynb")} | set(outcomes)
    if not names:
        raise NothingToShow(f"no executed notebooks in {folder}")
    return [_read_card(folder, name, outcomes.get(name)) for name in sorted(names)]


def png_size(png: str) -> tuple[int, int] | None:
    """Width and height in pixels of a PNG in base64, from its header; None where it is no PNG.

    Layout: PNG specification, 3rd edition, 5.2 and 11.2.1: an 8-byte signature, then IHDR, its numbers big-endian.
    """
    try:
        header = base64.b64decode(png[:32], validate=True)
    except ValueError:
        return None
    if len(header) < 24 or header[:8] != PNG_HEADER or header[12:16] != b"IHDR":
        return None
    return int.from_bytes(header[16:20]), int.from_bytes(header[20:24])


def _read_card(folder: Path, name: str, outcome: Outcome | None) -> Card:
    path = folder / f"{name}.ipynb"
    known: dict[str, Any] = {"name": name, "title": name, "status": "earlier", "tens": _tens(name)}
    if outcome:
        known |= {"status": outcome.status, "error": outcome.error}
        known |= {"seconds": outcome.seconds, "peak_mib": outcome.peak_mib}
        known |= {"runs": used_runs(outcome.runs, folder)}
    if not path.exists():
        return Card(**known, problems=("It left no executed notebook.",))
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # whatever is wrong with one notebook, the page still shows the others
        return Card(**known, notebook=path.name, problems=(f"The executed notebook cannot be read: {error}",))
    known["title"] = _title(notebook) or name
    known["tens"] = _tens(name, notebook)
    verdicts, problems = _verdicts(notebook)
    return Card(
        **known,
        verdicts=verdicts,
        figure=_figure(notebook, f"A figure of “{known['title']}”"),
        notebook=path.name,
        rendering=render(path, notebook),
        problems=problems,
    )


def _tens(name: str, notebook: NotebookNode | None = None) -> int | None:
    """By the card's name, else by the file that papermill ran: a sweep of one notebook names its cases by values."""
    source = notebook.metadata.get("papermill", {}).get("input_path") if notebook else None
    for each in (name, PurePath(source or "").name):
        if match := NUMBERED.match(each):
            return int(match[1])
    return None


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


def _figure(notebook: NotebookNode, text: str) -> Figure | None:
    """The figure the author tagged for the gallery, else the first one; its text is its cell's `alt`, else `text`."""
    figures = [(cell, data["image/png"]) for cell, data in _outputs(notebook) if "image/png" in data]
    chosen = [pair for pair in figures if FIGURE_TAG in pair[0].metadata.get("tags", [])] or figures
    if not chosen:
        return None
    cell, png = chosen[0]
    return Figure.from_png(png, cell.metadata.get("alt") or text)
