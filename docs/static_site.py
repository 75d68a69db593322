"""Writes the notebooks as they were executed, and the pages of docs, as a static site, by nbconvert: `make site`."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import nbformat
from nbconvert import HTMLExporter
from nbformat.v4 import new_markdown_cell, new_notebook

from anm_nb.files import outputs_root, project_root

# nbconvert leaves no room below code in a text
STYLE = "<style>.jp-RenderedHTMLCommon .highlight { margin-bottom: 1em }</style>\n</head>"
LINK = re.compile(r'\b(href|src)="(?!https?:|data:|mailto:|#)([^"#]+)(#[^"]*)?"')


def as_github(heading: str) -> str:
    """A heading's name in links, as GitHub writes it, from nbconvert's."""
    return re.sub(r"[^\w-]", "", unquote(heading).lower())


def write_site(pages: Sequence[Path], site: Path) -> list[str]:
    """Write pages (.md, .ipynb) of the clone where they lie in it, with the files and folders that they link to.

    Links between pages become links between what is written of them. Returns the links that lead nowhere.
    """
    root, exporter, dead = project_root(), HTMLExporter(), list[str]()
    for page in pages:
        text = page.read_text("utf-8")
        is_notebook = page.suffix == ".ipynb"
        notebook = nbformat.reads(text, as_version=4) if is_notebook else new_notebook(cells=[new_markdown_cell(text)])
        for cell in notebook.cells:
            if cell.metadata.get("jupyter", {}).get("source_hidden"):  # as JupyterLab has it: answers first
                cell.metadata["transient"] = {"remove_source": True}
        html, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": page.stem}})

        def to_site(found: re.Match[str], page: Path = page) -> str:
            attribute, target, heading = found[1], found[2], found[3] or ""
            linked = Path(os.path.normpath(page.parent / target))
            if linked in pages:
                target = f"{target.rpartition('.')[0]}.html"
            elif linked.is_dir():
                shutil.copytree(linked, site / linked.relative_to(root), dirs_exist_ok=True)
                files = sorted(each.relative_to(linked) for each in linked.rglob("*") if each.is_file())
                listed = "".join(f'<li><a href="{each}">{each}</a></li>\n' for each in files)
                (site / linked.relative_to(root) / "index.html").write_text(
                    f"<h1>{linked.name}</h1>\n<ul>\n{listed}</ul>"
                )
                target = f"{target.rstrip('/')}/index.html"
            elif linked.is_file():
                (site / linked.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(linked, site / linked.relative_to(root))
            else:
                dead.append(f"{page.relative_to(root)}: {target}")
            return f'{attribute}="{target}{heading}"'

        head, opening, body = re.split(r"(<body[^>]*>)", html, maxsplit=1)
        body = re.sub(
            r'(<h[1-6] id="|href="#)([^"]+)', lambda found: found[1] + as_github(found[2]), LINK.sub(to_site, body)
        )
        written = site / page.relative_to(root).with_suffix(".html")
        written.parent.mkdir(parents=True, exist_ok=True)
        home = os.path.relpath(site / "README.html", written.parent)
        top = f'{head.replace("</head>", STYLE)}{opening}<p><a href="{home}">anm-nb</a></p>'
        written.write_text(top + body, "utf-8")
    return dead


if __name__ == "__main__":
    root, site = project_root(), outputs_root() / "site"
    shutil.rmtree(site, ignore_errors=True)
    found = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("notebooks/[0-9]*.ipynb")]
    if dead := write_site(sorted(found), site):
        sys.exit("links that lead nowhere:\n" + "\n".join(dead))
    print(site / "README.html")
