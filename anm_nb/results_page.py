"""docs/results.md: the answers so far, as the notebooks show them."""

from __future__ import annotations

import base64
from pathlib import Path

from anm_nb.config import ParameterError
from anm_nb.files import replace_whole
from anm_nb.gallery import clean, tags_of, title_of

HEAD = """# Results

Written by `anm-nb index` from the notebooks' stored outputs: each question, and its answer so far from the results kept
in `outputs/reference/`, which holds config, seeds, versions and commit of every run.
"""


def write_results(notebooks: Path, page: Path) -> Path:
    """Write a page of the notebooks' titles and what their cells tagged `answer` show.

    Figures go into a folder beside it that has the page's name. Raises `ParameterError` where no
    notebook has such outputs.
    """
    import nbformat

    parts, pictures = [HEAD], dict[str, bytes]()
    for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        outputs = [output for cell in notebook.cells if "answer" in tags_of(cell) for output in cell.outputs]
        shown = []
        for data in (output.get("data", {}) for output in outputs):
            if "image/png" in data:
                name = f"{path.stem}-{len(pictures) + 1}.png" if f"{path.stem}.png" in pictures else f"{path.stem}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                shown.append(f"![{title_of(notebook)}]({page.stem}/{name})")
            elif "text/markdown" in data:
                shown.append(data["text/markdown"].strip())
            elif "text/html" in data:
                shown.append(clean(data["text/html"]).strip())
        if shown:
            link = f"[{path.stem}](../{notebooks.name}/{path.name})"
            parts += [f"## {title_of(notebook) or path.stem}", *shown, f"How it was found: {link}."]
    if len(parts) == 1:
        raise ParameterError(f"no notebook in {notebooks} shows an answer: a code cell tagged 'answer', with outputs")
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        if old.name not in pictures:
            old.unlink()
    for name, data in pictures.items():
        replace_whole(folder / name, data)
    replace_whole(page, ("\n\n".join(part.strip() for part in parts) + "\n").encode())
    return page
