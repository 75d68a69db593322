"""The page shows the notebooks' results as text and needs no other files."""

import base64
import io
import re
from pathlib import Path
from runpy import run_path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from anm_nb.analysis import VERDICT_MIME
from anm_nb.cases import Case, keep
from anm_nb.config import ParameterError
from anm_nb.files import project_root
from anm_nb.gallery import write_gallery

VERDICT = {"claim": "ANM lowers the MSE", "measured": "−0.0054 [−0.0071, −0.0037]", "verdict": "supported"}


def png(width: int, height: int) -> str:
    """A white picture as notebooks store it: base64 in lines."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(file, "PNG")
    return base64.encodebytes(file.getvalue()).decode()


def display(mime: str, data: object):
    return new_output("display_data", {mime: data, "text/plain": "twin"})


def judged(*rows: dict):
    return display(VERDICT_MIME, {"verdicts": list(rows)})


def write_notebook(folder: Path, name: str, *cells: tuple, title: str = "Does it work?", **metadata) -> Path:
    """A notebook of code cells, each given by its tags and outputs."""
    code = [
        new_code_cell("show()", outputs=list(outputs), execution_count=1, metadata={"tags": list(tags)} | metadata)
        for tags, *outputs in cells
    ]
    nbformat.write(
        new_notebook(cells=[new_markdown_cell(f"intro\n\n# {title}\n\n## smaller"), *code]), folder / f"{name}.ipynb"
    )
    return folder / f"{name}.ipynb"


def ran(path: Path, seconds: float = 1.0, error: str = "") -> None:
    """Record the outcome of a case in its notebook."""
    keep(Case(path, path), path.parent, error, seconds)


def page(folder: Path) -> str:
    return write_gallery(folder).read_text(encoding="utf-8")


def test_a_card_shows_title_then_answer_then_the_tagged_figure_then_the_quick_run_s_verdicts(tmp_path):
    path = write_notebook(
        tmp_path, "10_anm",
        (["answer"], display("image/png", "AAAA"), display("text/markdown", "**Yes**, now")),
        ([], display("image/png", "BBBB")),
        (["gallery"], display("image/png", "CCCC")),
        (["kept"], judged(VERDICT)),
        ([], judged(VERDICT | {"expects": "10–30 % lower"}, VERDICT | {"verdict": "not trained long enough"})),
        alt="two curves",
    )  # fmt: skip
    ran(path, 65.2)
    html = page(tmp_path)
    shown = ["Does it work?", "base64,AAAA", "<strong>Yes</strong>", "Quick run: 1 supported, 1 not trained"]
    shown += ["base64,CCCC", VERDICT["claim"], VERDICT["measured"], "10–30 % lower", "65 s"]
    places = [html.find(text) for text in shown]
    assert [text for text, place in zip(shown, places, strict=True) if place < 0] == []
    assert places == sorted(places)
    assert 'alt="two curves"' in html
    assert "BBBB" not in html
    for suffix in ("ipynb", "html"):
        assert f'<a href="10_anm.{suffix}"' in html
    assert "twin" in (tmp_path / "10_anm.html").read_text(encoding="utf-8")


def test_texts_of_a_notebook_are_escaped(tmp_path):
    """A sweep names its notebooks by parameter values, and the page links to these names."""
    bold = {"claim": "<b>claim</b>", "measured": '"><img src=x>', "verdict": "undecided"}
    name = '10_anm task="><img src=x onerror=1><script>'
    path = write_notebook(tmp_path, name, ([], judged(bold)), title="<script>alert(1)</script>")
    ran(path, error="ValueError: <i>no</i>")
    html = page(tmp_path)
    assert not re.search(r"<script|<b>|<i>|<img", html)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "ValueError: &lt;i&gt;no&lt;/i&gt;" in html


def test_unreadable_notebooks_are_named(tmp_path):
    with pytest.raises(ParameterError, match=re.escape(f"no executed notebooks in {tmp_path}")):
        write_gallery(tmp_path)
    (tmp_path / "10_damaged.ipynb").write_text("{")
    with pytest.raises(ParameterError, match=re.escape(f"{tmp_path / '10_damaged.ipynb'} cannot be read as a")):
        write_gallery(tmp_path)


def test_a_rendered_notebook_has_still_pictures_for_its_widgets(tmp_path):
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "image/png": "c3RpbGw=", "text/plain": "t"}
    notebook = new_notebook(cells=[new_code_cell("w", outputs=[new_output("display_data", view)])])
    state = {"1": {"model_name": "HTMLModel", "model_module": "@jupyter-widgets/controls", "state": {}}}
    states = {"state": state, "version_major": 2, "version_minor": 0}
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": states}
    nbformat.write(notebook, tmp_path / "40_explore.ipynb")
    page(tmp_path)
    assert "data:image/png;base64,c3RpbGw=" in (tmp_path / "40_explore.html").read_text(encoding="utf-8")


PAGE = project_root() / "docs" / "results.md"


def test_the_page_is_what_the_notebooks_show(tmp_path):
    write_results = run_path(str(PAGE.with_name("write_results.py")))["write_results"]
    write_results(project_root() / "notebooks", tmp_path / "results.md")
    assert (tmp_path / "results.md").read_text("utf-8") == PAGE.read_text("utf-8"), "run `make results`"
    pictures, kept = ({path.name: path.read_bytes() for path in of.glob("*")} for of in (
        tmp_path / "results", PAGE.with_suffix("")
    ))  # fmt: skip
    assert pictures == kept, "run `make results`"
