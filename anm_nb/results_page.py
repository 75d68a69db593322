"""docs/results.md: the answers so far, as the notebooks show them."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING

from anm_nb.config import ParameterError
from anm_nb.files import replace_whole
from anm_nb.gallery import GROUPS, clean, tags_of, title_of

if TYPE_CHECKING:
    from nbformat import NotebookNode

HEAD = """# Results

Written by `anm-nb index` from what the notebooks show first: each question, and its answer so far from the results kept
in [outputs/reference](../outputs/reference), with config, seeds, versions and commit of every run."""
WITHOUT = "Questions without kept runs"


def write_results(notebooks: Path, page: Path) -> Path:
    """Write a page of the notebooks' titles and what their cells tagged `answer` show, by the tens of their numbers.

    Figures go into a folder beside it that has the page's name; answers without one are a list at the end. Raises
    `ParameterError` where no notebook has such outputs.
    """
    import nbformat

    answers: dict[str, list[str]] = {title: [] for title in [*GROUPS.values(), WITHOUT]}
    pictures: dict[str, bytes] = {}
    for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        title, link = title_of(notebook) or path.stem, f"../{notebooks.name}/{path.name}"
        texts, figures = _answer_of(notebook, notebooks.name)
        names = [f"{path.stem}{f'-{place}' if place else ''}.png" for place in range(len(figures))]
        pictures |= dict(zip(names, figures, strict=True))
        if figures:
            shown = [*texts, *(f"![{title}]({page.stem}/{name})" for name in names)]
            answers[GROUPS.get(path.stem[0], GROUPS[""])] += [f"### [{title}]({link})", *shown]
        elif texts:
            answers[WITHOUT] += [f"**[{title}]({link})** {' '.join(' '.join(texts).split())}"]
    if not any(answers.values()):
        raise ParameterError(f"no notebook in {notebooks} shows an answer: a code cell tagged 'answer', with outputs")
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        if old.name not in pictures:
            old.unlink()
    for name, data in pictures.items():
        replace_whole(folder / name, data)
    parts = [HEAD, *(part for title, own in answers.items() if own for part in (f"## {title}", *own))]
    replace_whole(page, ("\n\n".join(part.strip() for part in parts) + "\n").encode())
    return page


def _answer_of(notebook: NotebookNode, folder: str) -> tuple[list[str], list[bytes]]:
    """Texts and pictures of the outputs tagged `answer`; links to other notebooks lead there from the page."""
    texts, pictures = list[str](), list[bytes]()
    for output in (output for cell in notebook.cells if "answer" in tags_of(cell) for output in cell.outputs):
        data = output.get("data", {})
        if "image/png" in data:
            pictures.append(base64.b64decode(data["image/png"]))
        elif "text/markdown" in data:
            text = data["text/markdown"].strip()
            texts.append(re.sub(r"\]\((\d\d_\w+\.ipynb)", rf"](../{folder}/\1", text))
        elif "text/html" in data:
            texts.append(clean(data["text/html"]).strip())
    return texts, pictures
