"""Executed notebooks as web pages that need nothing but themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

# JupyterLab's page, without the scripts that it has from the network: those for formulas, diagrams and widgets.
TEMPLATE = """{%- extends "lab/index.html.j2" -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}"""
# A dollar in code does not begin a formula.
FORMULA = re.compile(r"(?P<code>`[^`]*`)|\$\$(?P<block>.+?)\$\$|\$(?P<inline>.+?)\$", re.DOTALL)

MATHML = {
    *("math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "msup", "msub", "msubsup", "mmultiscripts", "none"),
    *("mprescripts", "mfrac", "msqrt", "mroot", "mover", "munder", "munderover", "mtable", "mtr", "mtd", "mstyle"),
    *("menclose", "mpadded", "mphantom"),
}
MATHML_ATTRIBUTES = {
    *("xmlns", "display", "displaystyle", "scriptlevel", "mathvariant", "mathsize", "stretchy", "fence", "form"),
    *("separator", "accent", "accentunder", "lspace", "rspace", "minsize", "maxsize", "linethickness", "notation"),
    *("columnalign", "columnlines", "columnspacing", "rowlines", "rowspacing", "width", "height", "depth", "largeop"),
    *("movablelimits", "symmetric"),
}
TAGS = {"main", "section", *MATHML}
ATTRIBUTES = {"class", "id", "title", "role", "tabindex", "style"}
STYLES = {"text-align", "font-weight", "font-style", "color", "background-color", "width", "max-width", "white-space"}


def render(path: Path, notebook: NotebookNode) -> str:
    """Write the notebook as a web page beside it, unless one at least as new is there; returns its name."""
    rendering = path.with_suffix(".html")
    if not rendering.exists() or rendering.stat().st_mtime_ns < path.stat().st_mtime_ns:
        from nbconvert import HTMLExporter

        from anm_nb.files import replace_whole

        notebook.metadata.pop("widgets", None)  # their code comes from the network; without it there are still pictures
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = FORMULA.sub(_mathml, cell.source)
        exporter = HTMLExporter(raw_template=TEMPLATE)
        page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
        replace_whole(rendering, sanitised(page).encode())
    return rendering.name


def sanitised(page: str) -> str:
    """A rendered notebook whose body holds only what shows something: no scripts, forms, frames or foreign pictures."""
    import nh3

    head, body, rest = page.partition("<body")
    attributes, closed, content = rest.partition(">")
    clean = nh3.clean(
        content.rpartition("</body>")[0],
        tags=nh3.ALLOWED_TAGS | TAGS,
        attributes=nh3.ALLOWED_ATTRIBUTES | {"*": ATTRIBUTES} | dict.fromkeys(MATHML, MATHML_ATTRIBUTES),
        attribute_filter=_harmless,
        url_schemes={"http", "https", "mailto", "data"},
        filter_style_properties=STYLES,
        generic_attribute_prefixes={"aria-"},
    )
    return f"{head}{body}{attributes}{closed}{clean}</body>\n</html>\n"


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
