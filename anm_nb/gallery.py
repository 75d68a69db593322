"""The gallery: a web page with one card per executed notebook."""

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from anm_nb.cases import NOTED, tally, verdicts_in
from anm_nb.config import ParameterError
from anm_nb.files import replace_whole

GROUPS = {  # by the first digit of the notebook's number
    "0": "Foundations",
    "1": "Does mining hard negatives improve the energy landscape?",
    "2": "Does HRM-style routed iteration rank better than matched baselines?",
    "3": "Analysis",
    "4": "Interactive",
    "": "Other notebooks",
}


def write_gallery(folder: Path) -> Path:
    """Write the gallery of a folder's executed notebooks atomically; returns its path.

    Raises `ParameterError` if the folder has no notebooks or if one of them cannot be read.
    """
    from jinja2 import Environment, PackageLoader

    if not (paths := sorted(folder.glob("[!.]*.ipynb"))):
        raise ParameterError(f"no executed notebooks in {folder}")
    cards = [card_of(path) for path in paths]
    groups = {title: part for n, title in GROUPS.items() if (part := [card for card in cards if card["group"] == n])}
    environment = Environment(loader=PackageLoader("anm_nb"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("gallery.html.j2").render(groups=groups)
    replace_whole(folder / "index.html", page.encode())
    return folder / "index.html"


def card_of(path: Path) -> dict[str, Any]:
    """The data of a notebook's card. The notebook itself is rendered as a page beside it."""
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
    except (ValueError, nbformat.ValidationError) as error:
        raise ParameterError(f"{path} cannot be read as a notebook: {error}") from None
    rendering = path.with_suffix(".html")
    if not rendering.exists() or rendering.stat().st_mtime_ns < path.stat().st_mtime_ns:
        notebook.metadata.pop("widgets", None)  # live widgets need the network; still pictures remain
        replace_whole(rendering, to_html(notebook, path.stem).encode())
    verdicts, title = verdicts_in(notebook, kept=False), title_of(notebook) or path.stem
    return {
        "name": path.stem,
        "title": title,
        "group": group_of(path.stem),
        "noted": notebook.metadata.get(NOTED, {}),
        "answer": list(_shown(notebook, "answer", title)),
        "figures": [html for html in _shown(notebook, "gallery", title) if html.startswith("<img")],
        "verdicts": verdicts,
        "tally": tally(verdicts),
    }


def to_html(notebook: Any, name: str) -> str:
    """A notebook as a page. A figure's alternative text is its output's, else its cell's `alt`, else the title."""
    from nbconvert import HTMLExporter

    template = Path(__file__).with_name("templates") / "notebook.html.j2"
    for cell in notebook.cells:
        cell.metadata.setdefault("alt", title_of(notebook) or name)
    exporter = HTMLExporter(raw_template=template.read_text("utf-8"))
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": name}})
    return page


def group_of(name: str) -> str:
    """The key in `GROUPS` for a notebook's name."""
    return name[0] if re.match(r"[0-4]\d_", name) else ""


def title_of(notebook: Any) -> str | None:
    """The first heading of level 1, without marks of emphasis or code."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = re.search(r"^# (.+)", text, re.MULTILINE)
    return re.sub(r"[*`]", "", found[1]).strip() if found else None


def outputs_of(notebook: Any, tag: str) -> Iterator[dict[str, Any]]:
    """The outputs, by MIME type, of all cells with a tag; cells tagged `answer` are left out for any other tag."""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", []) if cell.cell_type == "code" else []
        if tag in tags and (tag == "answer" or "answer" not in tags):
            yield from ({"alt": cell.metadata.get("alt"), **output.get("data", {})} for output in cell.outputs)


def _shown(notebook: Any, tag: str, title: str) -> Iterator[str]:
    """The outputs of cells with a tag as HTML: pictures (with the cell's `alt` text), tables and Markdown."""
    from nbconvert.filters import markdown2html

    for data in outputs_of(notebook, tag):
        if "image/png" in data:
            yield f'<img src="data:image/png;base64,{data["image/png"]}" alt="{escape(data["alt"] or title)}">'
        elif "text/markdown" in data:
            yield markdown2html(data["text/markdown"])
        elif "text/html" in data:
            yield f'<div class="scroll">{data["text/html"]}</div>'
