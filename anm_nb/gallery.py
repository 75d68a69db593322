"""Pages from executed notebooks: the gallery, a card for each; docs/results.md from their answers."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path, PurePath
from typing import Any

from anm_nb.cases import outcome_in, tally, verdicts_in
from anm_nb.config import ParameterError
from anm_nb.files import replace_whole

GROUPS = {  # by the tens of the notebooks' numbers
    "0": "Foundations",
    "1": "Does mining hard negatives improve the energy landscape?",
    "2": "Does HRM-style routed iteration rank better than matched baselines?",
    "3": "Analysis",
    "4": "Interactive",
    "": "Other notebooks",
}
HEAD = """# Results

Written by `anm-nb index` from what the notebooks show first: each question, and its answer so far from the results kept
in [outputs/reference](../outputs/reference), with config, seeds, versions and commit of every run."""


def write_gallery(folder: Path) -> Path:
    """Write the page over the folder's executed notebooks, atomically; returns its path.

    Raises `ParameterError` where there are none.
    """
    from jinja2 import Environment, PackageLoader

    if not (paths := sorted(folder.glob("[!.]*.ipynb"))):
        raise ParameterError(f"no executed notebooks in {folder}")
    cards = [card_of(path) for path in paths]
    groups = {title: own for n, title in GROUPS.items() if (own := [card for card in cards if card["group"] == n])}
    options: Any = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=PackageLoader("anm_nb"), **options)
    environment.filters["tally"] = tally
    page = environment.get_template("gallery.html.j2").render(groups=groups)
    replace_whole(folder / "index.html", page.encode())
    return folder / "index.html"


def card_of(path: Path) -> dict[str, Any]:
    """What the page shows of a notebook, written as a page beside it; one that cannot be read has a `problem`."""
    import nbformat
    from nbconvert import HTMLExporter

    try:
        notebook, outcome = nbformat.read(path, as_version=4), outcome_in(path)
    except Exception as error:  # whatever is wrong with one notebook, the page still shows the others
        return {"name": path.stem, "title": path.stem, "group": _group(path.stem), "problem": f"{error}"}
    source = notebook.metadata.get("papermill", {}).get("input_path") or ""
    verdicts, title = verdicts_in(notebook, kept=False), title_of(notebook) or path.stem
    rendering = path.with_suffix(".html")
    if not rendering.exists() or rendering.stat().st_mtime_ns < path.stat().st_mtime_ns:
        notebook.metadata.pop("widgets", None)  # their code comes from the network; without it there are still pictures
        page, _ = HTMLExporter().from_notebook_node(notebook, {"metadata": {"name": path.stem}})
        replace_whole(rendering, page.encode())
    return {
        "name": path.stem,
        "title": title,
        "group": _group(path.stem) or _group(PurePath(source).name),  # a sweep of one notebook names cases by values
        "outcome": outcome,
        "answer": list(_shown(notebook, "answer", title)),
        "figures": [html for html in _shown(notebook, "gallery", title) if html.startswith("<img")],
        "verdicts": verdicts,
    }


def _group(name: str) -> str:
    return name[0] if re.match(r"[0-4]\d_", name) else ""


def title_of(notebook: Any) -> str | None:
    """The first first-level heading, without its marks of emphasis and code."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = re.search(r"^# (.+)", text, re.MULTILINE)
    return re.sub(r"[*`]", "", found[1]).strip() if found else None


def _data(notebook: Any, tag: str) -> Iterator[dict[str, Any]]:
    """The outputs of the cells that have a tag; of one that is an answer as well, no others."""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", []) if cell.cell_type == "code" else []
        if tag in tags and (tag == "answer" or "answer" not in tags):
            yield from ({"alt": cell.metadata.get("alt"), **output.get("data", {})} for output in cell.outputs)


def _shown(notebook: Any, tag: str, title: str) -> Iterator[str]:
    """What these cells show, as HTML: pictures, tables, Markdown; the picture's text is the cell's `alt`."""
    from nbconvert.filters import markdown2html

    for data in _data(notebook, tag):
        if "image/png" in data:
            yield f'<img src="data:image/png;base64,{data["image/png"]}" alt="{escape(data["alt"] or title)}">'
        elif "text/markdown" in data:
            yield markdown2html(data["text/markdown"])
        elif "text/html" in data:
            yield f'<div class="scroll">{data["text/html"]}</div>'


def write_results(notebooks: Path, page: Path) -> Path:
    """Write a page of the notebooks' titles and what their cells tagged `answer` show, by the tens of their numbers.

    Figures go into a folder beside it that has the page's name; answers without one are a list at the end. Raises
    `ParameterError` where no notebook has such outputs.
    """
    import nbformat

    without, folder, pictures = "Questions without kept runs", page.with_suffix(""), dict[Path, bytes]()
    answers: dict[str, list[str]] = {title: [] for title in [*GROUPS.values(), without]}
    for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        title, texts, shown = title_of(notebook) or path.stem, list[str](), list[str]()
        for data in _data(notebook, "answer"):
            if "image/png" in data:
                name = f"{path.stem}{f'-{len(shown)}' if shown else ''}.png"
                pictures[folder / name] = base64.b64decode(data["image/png"])
                shown.append(f"![{title}]({folder.name}/{name})")
            elif text := data.get("text/markdown"):
                texts.append(re.sub(r"\]\((\d\d_\w+\.ipynb)", rf"](../{notebooks.name}/\1", text.strip()))
        link = f"[{title}](../{notebooks.name}/{path.name})"
        if shown:
            answers[GROUPS[_group(path.name)]] += [f"### {link}", *texts, *shown]
        elif texts:
            answers[without] += [f"**{link}** {' '.join(' '.join(texts).split())}"]
    if not any(answers.values()):
        raise ParameterError(f"no notebook in {notebooks} shows an answer: a code cell tagged 'answer', with outputs")
    folder.mkdir(parents=True, exist_ok=True)
    for old in set(folder.glob("*.png")) - set(pictures):
        old.unlink()
    parts = [HEAD, *(part for title, own in answers.items() if own for part in (f"## {title}", *own))]
    pictures[page] = ("\n\n".join(part.strip() for part in parts) + "\n").encode()
    for file, content in pictures.items():
        replace_whole(file, content)
    return page
