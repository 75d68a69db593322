"""`anm-nb figures`: the figures and tables of a paper, at a venue's width, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from anm_nb import publication
from anm_nb.analysis import latex
from anm_nb.analysis.figures import house_style
from anm_nb.analysis.fitting import fit
from anm_nb.analysis.layout import layout
from anm_nb.config import ParameterError
from anm_nb.files import full_disk_named, replace_whole, sha256_of
from anm_nb.publication import Exhibit, Source, Venue

MANIFEST = "manifest.json"
UNDATED: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}


def export(name: str, out: Path, only: list[str]) -> list[Path]:
    """Write the figures and tables asked for, or all, and their manifest; the paths written, the manifest last.

    All is drawn before the first file is written, and every file appears whole. What of the manifest is not drawn anew
    stays. Raises `ParameterError` for an unknown venue or figure, or a folder of another venue's figures, before any
    work, and `DiskFull`.
    """
    venue, exhibits = publication.venue(name), publication.chosen(only)
    kept_entries = _others(out, name, exhibits)
    sources = {result: publication.open_source(result) for result in dict.fromkeys(e.result for e in exhibits.values())}
    files: dict[str, bytes] = {}
    entries = {}
    for title, exhibit in exhibits.items():
        made = {f"{title}.{kind}": data for kind, data in drawn(exhibit, sources[exhibit.result], venue).items()}
        files |= made
        entries[title] = _entry(exhibit, sources[exhibit.result], venue, made)
    known = {title: kept_entries.get(title) or entries.get(title) for title in publication.EXHIBITS}
    manifest = {
        "venue": name,
        "page": venue.source,
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
    if len(exhibits) == len(publication.EXHIBITS) or not path.exists():
        return {}
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest["venue"] != name:
        raise ParameterError(f"--out {out} holds the figures of {manifest['venue']}; choose another folder for {name}")
    return {title: entry for title, entry in manifest["figures"].items() if title not in exhibits}
