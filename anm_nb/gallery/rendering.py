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
        body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
        replace_whole(rendering, body.encode())
    return rendering.name


def _mathml(found: re.Match[str]) -> str:
    """What browsers show by themselves; a formula that cannot be read stays as it is written."""
    from latex2mathml.converter import convert

    if found["code"]:
        return found[0]
    try:
        return convert(found["block"] or found["inline"], display="block" if found["block"] else "inline")
    except Exception:  # its errors have no base of their own
        return found[0]
