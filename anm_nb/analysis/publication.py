"""Figures and tables as files for a paper: PDF, SVG, PNG at a venue's width, LaTeX, CSV; the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from anm_nb.analysis import kept
from anm_nb.analysis.style import VENUE, VENUES, house_style, label
from anm_nb.config import ParameterError, unknown_name
from anm_nb.files import replace_whole
from anm_nb.run import CorruptRun, Run
from anm_nb.store import KEPT, RUNS_USED, store_root

FIGURES = "ANM_NB_FIGURES"  # in the environment: the folder that published figures go to
ENTRY = ".entry"  # the ending of a figure's part of the manifest, until the manifest is written
MANIFEST = "manifest.json"
UNDATED: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
SPACE = 3.0  # points between two texts that are not to run into each other
NAMES = 0.25  # of a figure's width: what the names down a panel's left side may take
NEEDS = r"% needs \usepackage{booktabs,tabularx}; fits \linewidth"
LONG = 18  # characters of a cell; columns with longer ones are broken into lines
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
SPECIAL |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
SPECIAL |= {character: f"\\{character}" for character in "{}&%$#_"}
WORDS = re.compile(r"\w+")
GREEK = WORDS.findall("alpha beta gamma delta varepsilon theta lambda mu pi rho sigma tau Sigma Delta")
SIGNS = WORDS.findall("times pm cdot to leq geq approx neq propto infty perp nabla")
MATHS = dict(zip("αβγδεθλμπρστΣΔ×±·→≤≥≈≠∝∞⊥∇", GREEK + SIGNS, strict=True))
OTHERS = {
    "–": "--",
    "—": "---",
    "’": "'",
    "…": r"\ldots{}",
    "−": "$-$",
    "°": r"$^{\circ}$",
    "²": "$^{2}$",
    "³": "$^{3}$",
}
LATEX = SPECIAL | {sign: rf"$\{name}$" for sign, name in MATHS.items()} | OTHERS
NEGATIVE = re.compile(r"(?<![\w.)])-(?=\.?\d)")  # a minus sign, and not the dash of a compound or of a range


def write(figure: Figure, name: str, width: str, table: pd.DataFrame | None, folder: Path) -> None:
    """Write a figure at the width of the environment's venue, its table, and its part of the manifest into a folder."""
    venue = VENUES[os.environ[VENUE]]
    inches = venue.column if width == "column" else venue.text
    with house_style():
        figure.set_size_inches(inches, figure.get_figheight())
        fit(figure)
        files = {f"{name}.{kind}": _saved(figure, kind) for kind in UNDATED}
    if table is not None:
        files |= {f"{name}.tex": latex(table).encode(), f"{name}.csv": table.to_csv().encode()}
    hashes = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    entry = {"files": hashes, "width_in": inches, "matplotlib": mpl.__version__, "runs": _runs_used()}
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        replace_whole(folder / file, data)
    replace_whole(folder / f"{name}{ENTRY}", json.dumps(entry).encode())


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format=kind, metadata=UNDATED[kind])
    return buffer.getvalue()


def _runs_used() -> list[dict[str, Any]]:
    """Key and commit of every run that this notebook was served so far, from the store or a kept result."""
    file = Path(os.environ.get(RUNS_USED, os.devnull))
    runs = []
    for line in sorted(set(file.read_text("utf-8").split())) if file.is_file() else []:
        if line.startswith(KEPT):
            provenance = kept.load(line.removeprefix(KEPT)).provenance.items()
            of = {"kept": line.removeprefix(KEPT)}
            runs += [of | {"method": m, "key": r["key"], "commit": r["provenance"]["commit"]} for m, r in provenance]
        else:
            try:
                runs.append({"key": line, "commit": Run(store_root() / line).summary["commit"]})
            except CorruptRun:
                runs.append({"key": line, "commit": None})
    return runs


def check_venue(name: str, folder: Path) -> dict[str, Any]:
    """The figures that a folder's manifest lists by now.

    Raises `ParameterError` for an unknown venue, and where the folder is another venue's.
    """
    if name not in VENUES:
        raise ParameterError(unknown_name("venue", name, VENUES))
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        there, figures = manifest["venue"], dict(manifest["figures"])
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError):
        raise ParameterError(
            f"{folder / MANIFEST} is no manifest of figures; remove it, or choose another --out"
        ) from None
    if there != name:
        raise ParameterError(f"--out {folder} holds the figures of {there}; choose another folder for {name}")
    return figures


def write_manifest(venue: str, folder: Path, before: Mapping[str, Any], published: Mapping[str, Path]) -> list[Path]:
    """Move what notebooks published, by their names, from folders of theirs into one, with a manifest; all its files.

    Figures of other notebooks stay listed as they were `before`. Raises `ParameterError` where two notebooks publish
    figures of one name.
    """
    figures = {title: entry for title, entry in before.items() if entry.get("notebook") not in published}
    entries = [(name, path) for name, own in published.items() for path in sorted(own.glob(f"*{ENTRY}"))]
    for notebook, path in entries:
        if path.stem in figures:
            there = figures[path.stem].get("notebook")
            raise ParameterError(f"{notebook} publishes '{path.stem}', and {there} does; give one another name")
        figures[path.stem] = {"notebook": notebook, **json.loads(path.read_text("utf-8"))}
    files = [(path.parent, file) for _, path in entries for file in figures[path.stem]["files"]]
    for own, file in files:
        os.replace(own / file, folder / file)
    manifest = {"venue": venue, "page": VENUES[venue].source, "figures": dict(sorted(figures.items()))}
    replace_whole(folder / MANIFEST, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
    return [*(folder / file for _, file in files), folder / MANIFEST]


def latex(table: pd.DataFrame) -> str:
    r"""A table as a `tabularx` with booktabs rules, to `\input`; a named index comes first. Columns of text are broken.

    Raises `ParameterError` for a character that has no LaTeX here.
    """
    shown = table.reset_index() if any(table.index.names) else table
    cells = [[_cell(value) for value in row] for row in shown.itertuples(index=False)]
    head = [_cell(str(name)) for name in shown]
    columns = [max(map(len, map(str, shown[name])), default=0) > LONG for name in shown]
    form = "".join(r">{\raggedright\arraybackslash}X" if long else "l" for long in columns)
    rows = [" & ".join(row) + r" \\" for row in [head, *cells]]
    rows = ["{}" * row.startswith("[") + row for row in rows]  # else read as an argument of the \\ above
    begin = rf"\begin{{tabularx}}{{\linewidth}}{{@{{}}{form}@{{}}}}"
    return "\n".join(
        [NEEDS, begin, r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabularx}", ""]
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        value = "" if value != value else f"{value:.4g}"
    text = NEGATIVE.sub("−", re.sub("`(.*?)`", lambda name: label(name[1]), str(value)))
    for character in text:
        if character not in LATEX and not (character.isascii() and character.isprintable()):
            raise ParameterError(f"no LaTeX for {character!r} (U+{ord(character):04X}) in the table's '{text[:60]}'")
    return "".join(LATEX.get(character, character) for character in text)


def fit(figure: Figure) -> None:
    """Break titles, labels and names of rows that are too long for the figure, and label fewer ticks that touch."""
    for _ in range(2):  # a further line makes panels smaller, which may crowd what was not before
        figure.draw_without_rendering()
        space = SPACE * figure.dpi / 72
        for axes in figure.axes:
            own = axes.get_window_extent()
            left, right = _room(figure, axes)
            for title in (axes.title, axes._left_title):  # type: ignore[attr-defined]  # no public way to both
                _break(title, right - own.x0 - space)
            _break(axes.xaxis.label, 2 * min((own.x0 + own.x1) / 2 - left, right - (own.x0 + own.x1) / 2) - space)
            names = [tick for tick in axes.get_yticklabels() if tick.get_visible() and " " in tick.get_text()]
            if any(name.get_window_extent().width > NAMES * figure.bbox.width for name in names):
                for name in names:
                    _break(name, NAMES * figure.bbox.width)
                axes.yaxis.set_major_formatter(FixedFormatter([tick.get_text() for tick in axes.get_yticklabels()]))
        figure.draw_without_rendering()
        figure.set_figheight(figure.get_figheight() * max([1.0, *map(_crowding, figure.axes)]))
        figure.draw_without_rendering()
        for axes in figure.axes:
            _thin(axes, space)


def _room(figure: Figure, axes: Axes) -> tuple[float, float]:
    """From where to where what belongs to a panel may reach, in pixels: to its neighbours, or the figure's edges."""
    own = axes.get_window_extent()
    row = [other.get_window_extent() for other in figure.axes if other is not axes]
    row = [box for box in row if box.y0 < own.y1 and own.y0 < box.y1]
    left = max((box.x1 for box in row if box.x1 <= own.x0), default=0.0)
    return left, min((box.x0 for box in row if box.x0 >= own.x1), default=figure.bbox.width)


def _crowding(axes: Axes) -> float:
    """How many times the room between their middles the names of two rows need at most, one above the other."""
    names = [tick for tick in axes.get_yticklabels() if tick.get_visible() and " " in tick.get_text()]
    boxes = sorted((name.get_window_extent() for name in names), key=lambda box: box.y0)
    needs = [(one.height + other.height) / (other.y0 + other.y1 - one.y0 - one.y1) for one, other in pairwise(boxes)]
    return max(needs, default=1.0)


def _break(text: Text, width: float) -> None:
    """Let a text wider than `width` pixels go on in further lines, between words."""

    def wide(words: str) -> bool:
        text.set_text(words)
        return text.get_window_extent().width > width

    lines: list[str] = []
    for line in text.get_text().split("\n"):
        for number, word in enumerate(line.split(" ")):
            if number == 0 or wide(f"{lines[-1]} {word}"):
                lines.append(word)
            else:
                lines[-1] += f" {word}"
    text.set_text("\n".join(lines))


def _thin(axes: Axes, space: float) -> None:
    """Break named ticks along the bottom between words; of numbered ones label every second, third … that has room."""
    low, high = sorted(axes.get_xlim())
    ticks = [*axes.xaxis.get_major_ticks(), *axes.xaxis.get_minor_ticks()]
    shown = [t for t in ticks if t.label1.get_visible() and t.label1.get_text() and low <= t.get_loc() <= high]
    shown.sort(key=lambda tick: tick.label1.get_window_extent().x0)
    boxes = [tick.label1.get_window_extent() for tick in shown]

    def apart(every: int) -> bool:
        return all(one.x1 + space <= other.x0 for one, other in pairwise(boxes[::every]))

    if apart(1):
        return
    if any(" " in tick.label1.get_text() for tick in shown):
        middles = [(box.x0 + box.x1) / 2 for box in boxes]
        for tick in shown:
            _break(tick.label1, min(b - a for a, b in pairwise(middles)) - space)
        every = 1
    else:
        every = next(step for step in range(2, len(boxes) + 1) if apart(step))
    texts = [tick.label1.get_text() if number % every == 0 else "" for number, tick in enumerate(shown)]
    axes.xaxis.set_major_locator(FixedLocator([tick.get_loc() for tick in shown]))
    axes.xaxis.set_major_formatter(FixedFormatter(texts))
    axes.xaxis.set_minor_locator(NullLocator())
