"""Executed notebooks as web pages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode


def render(path: Path, notebook: NotebookNode) -> str:
    """Write the notebook as a web page beside it, unless one at least as new is there; returns its name."""
    rendering = path.with_suffix(".html")
    if not rendering.exists() or rendering.stat().st_mtime_ns < path.stat().st_mtime_ns:
        from nbconvert import HTMLExporter

        notebook.metadata.pop("widgets", None)  # their code comes from the network; without it there are still pictures
        body, _ = HTMLExporter().from_notebook_node(notebook, {"metadata": {"name": path.stem}})
        partial = rendering.with_name(f".{rendering.name}.partial")
        partial.write_text(body, encoding="utf-8")
        os.replace(partial, rendering)
    return rendering.name
