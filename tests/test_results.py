"""docs/results.md is what `anm-nb index` writes from the notebooks as they are."""

import base64
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from anm_nb.config import ParameterError
from anm_nb.files import project_root
from anm_nb.gallery import write_results

PAGE = project_root() / "docs" / "results.md"


def write_notebook(folder, name, title, *outputs):
    shown = [new_output("display_data", {mime: data}) for mime, data in outputs]
    cells = [new_markdown_cell(f"# {title}"), new_code_cell(outputs=shown, metadata={"tags": ["answer"]})]
    nbformat.write(new_notebook(cells=[*cells, new_code_cell(outputs=shown)]), folder / f"{name}.ipynb")


def test_the_page_is_what_the_notebooks_show(tmp_path):
    written = write_results(project_root() / "notebooks", tmp_path / "results.md")
    assert written.read_text("utf-8") == PAGE.read_text("utf-8"), "run `anm-nb index`"
    pictures, kept = ({path.name: path.read_bytes() for path in of.glob("*")} for of in (
        tmp_path / "results", PAGE.with_suffix("")
    ))  # fmt: skip
    assert pictures == kept, "run `anm-nb index`"


def test_answers_come_before_their_pictures_and_those_without_one_at_the_end(tmp_path):
    notebooks, page = tmp_path / "notebooks", tmp_path / "docs" / "results.md"
    notebooks.mkdir()
    with pytest.raises(ParameterError, match=r"no notebook in .*notebooks shows an answer"):
        write_results(notebooks, page)
    (page.parent / "results").mkdir(parents=True)
    (page.parent / "results" / "of_old.png").touch()
    write_notebook(notebooks, "10_first", "Is it?", ("text/markdown", "None\nkept."))
    text = "**Yes**, as [there](10_first.ipynb#why)."
    picture = ("image/png", base64.b64encode(b"PNG").decode())
    write_notebook(notebooks, "20_second", "Does it?", picture, ("text/markdown", text), picture)
    written = write_results(notebooks, page).read_text("utf-8")
    expected = [
        "### [Does it?](../notebooks/20_second.ipynb)",
        "**Yes**, as [there](../notebooks/10_first.ipynb#why).",
        "![Does it?](results/20_second.png)",
        "![Does it?](results/20_second-1.png)",
        "## Questions without kept runs",
        "**[Is it?](../notebooks/10_first.ipynb)** None kept.",
    ]
    assert re.search("\n\n".join(map(re.escape, expected)) + "\n$", written)
    found = {path.name: path.read_bytes() for path in (page.parent / "results").iterdir()}
    assert found == {"20_second.png": b"PNG", "20_second-1.png": b"PNG"}
