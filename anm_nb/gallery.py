"""The gallery: one self-contained page over a folder of executed notebooks, a card for each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from anm_nb.config import ParameterError
from anm_nb.files import replace_whole
from anm_nb.sweep.outcomes import Outcome, read_outcomes, tally, verdicts_in

if TYPE_CHECKING:
    from nbformat import NotebookNode

INDEX_FILE = "index.html"
GROUPS = {  # by the tens of the notebooks' numbers
    "0": "Foundations",
    "1": "Does mining hard negatives improve the energy landscape?",
    "2": "Does HRM-style routed iteration rank better than matched baselines?",
    "3": "Analysis",
    "4": "Interactive",
    "": "Other notebooks",
}
# JupyterLab's page, without the scripts that it has from the network: those for formulas, diagrams and widgets.
PAGE = """{%- extends "lab/index.html.j2" -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}"""
# A dollar in code does not begin a formula.
FORMULA = re.compile(r"(?P<code>`[^`]*`)|\$\$(?P<block>.+?)\$\$|\$(?P<inline>.+?)\$", re.DOTALL)
WORDS = re.compile(r"\w+")
MATHML = set(
    WORDS.findall(
        "math mrow mi mn mo ms mtext mspace msup msub msubsup mmultiscripts none mprescripts mfrac msqrt mroot mover "
        "munder munderover mtable mtr mtd mstyle menclose mpadded mphantom"
    )
)
MATHML_ATTRIBUTES = set(
    WORDS.findall(
        "xmlns display displaystyle scriptlevel mathvariant mathsize stretchy fence form separator accent accentunder "
        "lspace rspace minsize maxsize linethickness notation columnalign columnlines columnspacing rowlines width "
        "height rowspacing depth largeop movablelimits symmetric"
    )
)
STYLES = {"text-align", "font-weight", "font-style", "color", "background-color", "width", "max-width", "white-space"}


@dataclass
class Card:
    """What the page shows of one notebook: HTML that is safe to include, and links relative to the page."""

    name: str
    group: str
    title: str
    outcome: Outcome | None
    answer: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    notebook: str | None = None
    rendering: str | None = None
    problem: str | None = None


def write_gallery(folder: Path) -> Path:
    """Write the page over the folder's executed notebooks and stored outcomes, atomically; returns its path.

    Raises `ParameterError` where there is neither, and where the outcomes cannot be read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from anm_nb.terminal import duration, memory

    outcomes, problems = read_outcomes(folder)
    if problems:
        raise ParameterError("\n".join(f"{problem}; run the cases again" for problem in problems))
    by_name = {outcome.name: outcome for outcome in outcomes}
    names = sorted({path.stem for path in folder.glob("[!.]*.ipynb")} | set(by_name))
    if not names:
        raise ParameterError(f"no executed notebooks in {folder}")
    cards = [read_card(folder, name, by_name.get(name)) for name in names]
    environment = Environment(
        loader=PackageLoader("anm_nb"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"duration": duration, "memory": memory, "tally": tally}
    groups = {title: [card for card in cards if card.group == tens] for tens, title in GROUPS.items()}
    page = environment.get_template("gallery.html.j2").render(groups={t: own for t, own in groups.items() if own})
    replace_whole(folder / INDEX_FILE, page.encode())
    return folder / INDEX_FILE


def read_card(folder: Path, name: str, outcome: Outcome | None = None) -> Card:
    """A notebook's card; one that cannot be read has a `problem`."""
    import nbformat

    path = folder / f"{name}.ipynb"
    card = Card(name, _group(name), name, outcome)
    try:
        notebook = nbformat.read(path, as_version=4)
    except FileNotFoundError:
        card.problem = "It left no executed notebook."
        return card
    except Exception as error:  # whatever is wrong with one notebook, the page still shows the others
        card.problem, card.notebook = f"The executed notebook cannot be read: {error}", path.name
        return card
    source = notebook.metadata.get("papermill", {}).get("input_path") or ""
    card.group = card.group or _group(PurePath(source).name)  # a sweep of one notebook names its cases by values
    card.title = title_of(notebook) or name
    answer = [cell for cell in notebook.cells if "answer" in tags_of(cell)]
    shown = [cell for cell in notebook.cells if "gallery" in tags_of(cell) and cell not in answer]
    card.answer = [html for cell in answer for html in _outputs(cell, card.title)]
    card.figures = [html for cell in shown for html in _outputs(cell, card.title, only_pictures=True)]
    card.verdicts = verdicts_in(notebook)
    card.notebook, card.rendering = path.name, render(path, notebook)
    return card


def _group(name: str) -> str:
    return name[0] if re.match(r"[0-4]\d_", name) else ""


def tags_of(cell: NotebookNode) -> list[str]:
    """A code cell's tags."""
    return cell.metadata.get("tags", []) if cell.cell_type == "code" else []


def title_of(notebook: NotebookNode) -> str | None:
    """The first first-level heading, without its marks of emphasis and code."""
    lines = (line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    found = next((line[2:] for line in lines if line.startswith("# ")), None)
    return re.sub(r"[*`]", "", found).strip() if found else None


def _outputs(cell: NotebookNode, title: str, only_pictures: bool = False) -> Iterator[str]:
    """What a cell shows, as safe HTML: pictures, tables, Markdown; the picture's text is the cell's `alt`."""
    from html import escape

    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            png = re.sub(r"\s", "", data["image/png"])
            alt = escape(cell.metadata.get("alt") or f"A figure of “{title}”", quote=True)
            yield clean(f'<img src="data:image/png;base64,{escape(png, quote=True)}" alt="{alt}">')
        elif "text/markdown" in data and not only_pictures:
            yield clean(_html_of(data["text/markdown"]))
        elif "text/html" in data and not only_pictures:
            yield f'<div class="scroll">{clean(data["text/html"])}</div>'


def _html_of(markdown: str) -> str:
    from nbconvert.filters import markdown2html

    return markdown2html(FORMULA.sub(_mathml, markdown))


def render(path: Path, notebook: NotebookNode) -> str:
    """Write the notebook as a web page beside it, unless one at least as new is there; returns its name."""
    rendering = path.with_suffix(".html")
    if not rendering.exists() or rendering.stat().st_mtime_ns < path.stat().st_mtime_ns:
        from nbconvert import HTMLExporter

        notebook.metadata.pop("widgets", None)  # their code comes from the network; without it there are still pictures
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = FORMULA.sub(_mathml, cell.source)
        page, _ = HTMLExporter(raw_template=PAGE).from_notebook_node(notebook, {"metadata": {"name": path.stem}})
        head, body, rest = page.partition("<body")
        attributes, closed, content = rest.partition(">")
        content = clean(content.rpartition("</body>")[0])
        replace_whole(rendering, f"{head}{body}{attributes}{closed}{content}</body>\n</html>\n".encode())
    return rendering.name


def clean(html: str) -> str:
    """HTML that holds only what shows something: no scripts, forms, frames or foreign pictures."""
    import nh3

    return nh3.clean(
        html,
        tags=nh3.ALLOWED_TAGS | {"main", "section"} | MATHML,
        attributes=nh3.ALLOWED_ATTRIBUTES
        | {"*": {"class", "id", "title", "role", "tabindex", "style"}}
        | dict.fromkeys(MATHML, MATHML_ATTRIBUTES),
        attribute_filter=_harmless,
        url_schemes={"http", "https", "mailto", "data"},
        filter_style_properties=STYLES,
        generic_attribute_prefixes={"aria-"},
    )


def _harmless(tag: str, attribute: str, value: str) -> str | None:
    """The value of an attribute, or None: pictures are those in the page, and links lead to pages."""
    if attribute == "src" and not re.match(r"data:image/(png|jpeg|gif|webp);base64,[\w+/=\s]*$", value):
        return None
    return None if attribute == "href" and value.strip().lower().startswith("data:") else value


def _mathml(found: re.Match[str]) -> str:
    """What browsers show by themselves; a formula that cannot be read stays as it is written."""
    from latex2mathml.converter import convert

    if found["code"]:
        return found[0]
    try:
        return convert(found["block"] or found["inline"], display="block" if found["block"] else "inline")
    except Exception:  # its errors have no base of their own
        return found[0]
