"""Write docs/results.md from the answers in the notebooks: `make results`."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nbformat

from anm_nb.files import project_root, replace_whole
from anm_nb.gallery import GROUPS, group_of, outputs_of, title_of

HEAD = """# Results

Written by `make results` from the first outputs of the notebooks: each question with its answer so far. The results are
kept in [outputs/reference](../outputs/reference), with config, seeds, versions and commit of every run."""
WITHOUT = "Questions without kept runs"


def write_results(notebooks: Path, page: Path) -> None:
    """Write a page with each notebook's title and the outputs of its cells tagged `answer`, grouped as in the gallery.

    Figures go into a folder beside the page with the same name. Answers without a figure form a list at the end.
    """
    folder, pictures = page.with_suffix(""), dict[Path, bytes]()
    answers: dict[str, list[str]] = {title: [] for title in [*GROUPS.values(), WITHOUT]}
    for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        title, texts, shown = title_of(notebook) or path.stem, list[str](), list[str]()
        for data in outputs_of(notebook, "answer"):
            if "image/png" in data:
                name = f"{path.stem}{f'-{len(shown)}' if shown else ''}.png"
                pictures[folder / name] = base64.b64decode(data["image/png"])
                shown.append(f"![{title}]({folder.name}/{name})")
            elif text := data.get("text/markdown"):
                texts.append(re.sub(r"\]\((\d\d_\w+\.ipynb)", rf"](../{notebooks.name}/\1", text.strip()))
        link = f"[{title}](../{notebooks.name}/{path.name})"
        if shown:
            answers[GROUPS[group_of(path.name)]] += [f"### {link}", *texts, *shown]
        elif texts:
            answers[WITHOUT] += [f"**{link}** {' '.join(' '.join(texts).split())}"]
    folder.mkdir(parents=True, exist_ok=True)
    for old in set(folder.glob("*.png")) - set(pictures):
        old.unlink()
    parts = [HEAD, *(part for title, lines in answers.items() if lines for part in (f"## {title}", *lines))]
    pictures[page] = ("\n\n".join(part.strip() for part in parts) + "\n").encode()
    for file, content in pictures.items():
        replace_whole(file, content)


if __name__ == "__main__":
    write_results(project_root() / "notebooks", project_root() / "docs" / "results.md")
