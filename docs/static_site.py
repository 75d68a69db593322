"""Write the stored notebooks and the pages of docs as a static site with nbconvert: `make site`."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import nbformat
from nbformat.v4 import new_markdown_cell, new_notebook

from anm_nb.files import outputs_root, project_root
from anm_nb.gallery import to_html

# nbconvert leaves no space below code blocks in text
STYLE = "<style>.jp-RenderedHTMLCommon .highlight { margin-bottom: 1em }</style>\n</head>"
LINK = re.compile(r'\b(href|src)="(?!https?:|data:|mailto:|#)([^"#]+)(#[^"]*)?"')


def as_github(heading: str) -> str:
    """Convert a heading's anchor from nbconvert's spelling to GitHub's."""
    return re.sub(r"[^\w-]", "", unquote(heading).lower())


def write_site(pages: Sequence[Path], site: Path) -> list[str]:
    """Write pages (.md, .ipynb) of the clone at the same relative paths, with the files and folders they link to.

    Links between pages become links between their HTML versions. Returns the broken links.
    """
    root, dead = project_root(), list[str]()
    for page in pages:
        text = page.read_text("utf-8")
        is_notebook = page.suffix == ".ipynb"
        notebook = nbformat.reads(text, as_version=4) if is_notebook else new_notebook(cells=[new_markdown_cell(text)])
        for cell in notebook.cells:
            if cell.metadata.get("jupyter", {}).get("source_hidden"):  # as in JupyterLab: answers first
                cell.metadata["transient"] = {"remove_source": True}
        html = to_html(notebook, page.stem)

        def to_site(found: re.Match[str], page: Path = page) -> str:
            attribute, target, heading = found[1], found[2], found[3] or ""
            linked = Path(os.path.normpath(page.parent / target))
            if linked in pages:
                target = f"{target.rpartition('.')[0]}.html"
            elif linked.is_dir():
                copy = shutil.copytree(linked, site / linked.relative_to(root), dirs_exist_ok=True)
                files = sorted(each.relative_to(linked) for each in linked.rglob("*") if each.is_file())
                items = "".join(f'<li><a href="{each}">{each}</a></li>\n' for each in files)
                (copy / "index.html").write_text(f"<h1>{linked.name}</h1>\n<ul>\n{items}</ul>", "utf-8")
                target = f"{target.rstrip('/')}/index.html"
            elif linked.is_file():
                copy = site / linked.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(linked, copy)
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
        sys.exit("broken links:\n" + "\n".join(dead))
    print(site / "README.html")
