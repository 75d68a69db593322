"""The figures and tables of a paper, drawn from kept results at a venue's width, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.figure import Figure

from anm_nb.analysis import anm_verdict, anm_verdict_figures, figures, latex
from anm_nb.analysis.figures import house_style
from anm_nb.analysis.fitting import fit
from anm_nb.analysis.reference import DISPLAYS, Reference, load_reference, reference_root, summary
from anm_nb.analysis.style import layout
from anm_nb.analysis.tables import final, score_table
from anm_nb.config import ParameterError, unknown_name
from anm_nb.files import full_disk_named, replace_whole, sha256_of

MANIFEST = "manifest.json"
UNDATED: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}


@dataclass(frozen=True)
class Venue:
    """Widths of a page in inches, the size in points of titles and axis labels, and what these are taken from.

    The text of figures is one or two points smaller than that of captions: as large as three panels in a row allow.
    """

    column: float
    text: float
    points: float
    source: str


VENUES = {
    "icml": Venue(3.25, 6.75, 8, "ICML's instructions: two columns of 3.25 in, 0.25 in apart; captions of 9 pt"),
    "neurips": Venue(5.5, 5.5, 8, "NeurIPS's instructions: one column of 5.5 in; captions of 10 pt"),
    "thesis": Venue(6.0, 6.0, 9, "A4 (8.27 in) less margins of 1.13 in; captions of 10 pt, \\small of an 11 pt text"),
}


@dataclass(frozen=True)
class Source:
    """A kept result: the files of its tables, and for each of its runs the key and commit."""

    content: Any
    files: tuple[Path, ...]
    runs: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Exhibit:
    """A figure and a table of one kept result, by its name; both functions are handed what `open_source` has read.

    `width` is a column, or the whole text where its panels want the room. The table is a Markdown one, or missing.
    """

    result: str
    width: Literal["column", "text"]
    figure: Callable[[Any], Figure]
    table: Callable[[Any], str] | None = None


def displayed(kept: Reference) -> Figure:
    """The figure that a kept result is displayed by."""
    return DISPLAYS[kept.path.name].figure(kept)


def _final_scores(kept: Reference) -> Figure:
    scores = final(kept.metrics, "mse")[list(kept.provenance)]
    return figures.score_summary(scores, score_table(scores, kept.references))


def _scores(kept: anm_verdict.KeptVerdict) -> str:
    return anm_verdict.markdown(anm_verdict.score_grid(kept.confirmed, kept.provenance["references"]))


def _comparisons(kept: anm_verdict.KeptVerdict) -> str:
    return anm_verdict.markdown(anm_verdict.comparison_grid(anm_verdict.comparisons(kept.confirmed)))


EXHIBITS = {
    "anm_curves": Exhibit("10_anm_vs_corruption", "text", displayed, summary),
    "anm_scores": Exhibit("10_anm_vs_corruption", "column", _final_scores),
    "anm_checklist": Exhibit("10_anm_vs_corruption", "text", lambda kept: figures.checklist_panels(kept.metrics)),
    "anm_energies": Exhibit("10_anm_vs_corruption", "text", lambda kept: figures.energy_trends(kept.metrics)),
    "anm_verdict": Exhibit(
        anm_verdict.NAME,
        "text",
        lambda kept: anm_verdict_figures.forest(anm_verdict.comparisons(kept.confirmed)),
        _comparisons,
    ),
    "anm_tuning": Exhibit(
        anm_verdict.NAME, "text", lambda kept: anm_verdict_figures.tuning_strip(kept.tuning), _scores
    ),
}


def venue(name: str) -> Venue:
    """A venue by name. Raises `ParameterError` naming the nearest one."""
    if name not in VENUES:
        raise ParameterError(unknown_name("venue", name, VENUES))
    return VENUES[name]


def chosen(names: list[str]) -> dict[str, Exhibit]:
    """The exhibits named, or all, in their order. Raises `ParameterError` naming the nearest for one there is not."""
    for name in names:
        if name not in EXHIBITS:
            raise ParameterError(unknown_name("figure", name, EXHIBITS))
    return {name: exhibit for name, exhibit in EXHIBITS.items() if not names or name in names}


def open_source(result: str) -> Source:
    """Read a kept result. Raises `ParameterError` where there is none of the name."""
    if result == anm_verdict.NAME:
        kept = anm_verdict.load_verdict()
        return Source(kept, _files(reference_root(), f"{result}*"), _keys_and_commits(kept.provenance["runs"]))
    reference = load_reference(result)
    return Source(reference, _files(reference.path, "*"), _keys_and_commits(reference.provenance))


def _files(folder: Path, pattern: str) -> tuple[Path, ...]:
    """The tables and their provenance; pictures are made of them."""
    return tuple(sorted(path for path in folder.glob(pattern) if path.suffix in (".json", ".parquet")))


def _keys_and_commits(provenance: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: {"key": run["key"], "commit": run["provenance"]["commit"]} for name, run in provenance.items()}


def export(name: str, out: Path, only: list[str]) -> list[Path]:
    """Write the figures and tables asked for, or all, and their manifest; the paths written, the manifest last.

    All is drawn before the first file is written, and every file appears whole. What of the manifest is not drawn anew
    stays. Raises `ParameterError` for an unknown venue or figure, or a folder of another venue's figures, before any
    work, and `DiskFull`.
    """
    page, exhibits = venue(name), chosen(only)
    kept_entries = _others(out, name, exhibits)
    sources = {result: open_source(result) for result in dict.fromkeys(e.result for e in exhibits.values())}
    files: dict[str, bytes] = {}
    entries = {}
    for title, exhibit in exhibits.items():
        made = {f"{title}.{kind}": data for kind, data in drawn(exhibit, sources[exhibit.result], page).items()}
        files |= made
        entries[title] = _entry(exhibit, sources[exhibit.result], page, made)
    known = {title: kept_entries.get(title) or entries.get(title) for title in EXHIBITS}
    manifest = {
        "venue": name,
        "page": page.source,
        "figures": {title: entry for title, entry in known.items() if entry},
    }
    files[MANIFEST] = (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()
    with full_disk_named(out, "the manifest still describes what was there before"):
        out.mkdir(parents=True, exist_ok=True)
        for file, data in files.items():
            replace_whole(out / file, data)
    return [out / file for file in files]


def drawn(exhibit: Exhibit, source: Source, venue: Venue) -> dict[str, bytes]:
    """An exhibit as bytes, by the ending of its file's name: pdf, svg and png of a figure, tex of a table."""
    with settings(exhibit, venue):
        figure = exhibit.figure(source.content)
        fit(figure)
        made = {kind: saved(figure, kind) for kind in UNDATED}
    if exhibit.table is not None:
        made["tex"] = latex.tables(exhibit.table(source.content)).encode()
    return made


@contextmanager
def settings(exhibit: Exhibit, venue: Venue) -> Iterator[None]:
    """Matplotlib and the layout as an exhibit is drawn with."""
    with layout(width_of(exhibit, venue), venue.points), house_style():
        yield


def width_of(exhibit: Exhibit, venue: Venue) -> float:
    """The width of an exhibit's figure in inches."""
    return venue.column if exhibit.width == "column" else venue.text


def saved(figure: Figure, kind: str) -> bytes:
    """A figure as the bytes of a pdf, svg or png, without a date."""
    buffer = BytesIO()
    figure.savefig(buffer, format=kind, metadata=UNDATED[kind])
    return buffer.getvalue()


def _entry(exhibit: Exhibit, source: Source, venue: Venue, made: Mapping[str, bytes]) -> dict[str, Any]:
    """What the manifest says of an exhibit: its files, and the kept result with the runs it is drawn from."""
    return {
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in made.items()},
        "width_in": width_of(exhibit, venue),
        "matplotlib": mpl.__version__,
        "result": exhibit.result,
        "drawn_from": {path.name: sha256_of(path) for path in source.files},
        "runs": source.runs,
    }


def _others(out: Path, name: str, exhibits: Mapping[str, Exhibit]) -> dict[str, Any]:
    """The manifest's entries of exhibits that are not drawn now."""
    path = out / MANIFEST
    if len(exhibits) == len(EXHIBITS) or not path.exists():
        return {}
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest["venue"] != name:
        raise ParameterError(f"--out {out} holds the figures of {manifest['venue']}; choose another folder for {name}")
    return {title: entry for title, entry in manifest["figures"].items() if title not in exhibits}
