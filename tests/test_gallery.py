"""The page shows what the notebooks found, as text, and needs nothing but itself."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from anm_nb.analysis import VERDICT_MIME
from anm_nb.cases import Case, keep
from anm_nb.config import ParameterError
from anm_nb.files import project_root
from anm_nb.gallery import write_gallery, write_results

VERDICT = {"claim": "ANM lowers the MSE", "measured": "−0.0054 [−0.0071, −0.0037]", "verdict": "supported"}


def png(width: int, height: int) -> str:
    """A white picture as notebooks keep it: base64 in lines."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(file, "PNG")
    return base64.encodebytes(file.getvalue()).decode()


def display(mime: str, data: object):
    return new_output("display_data", {mime: data, "text/plain": "twin"})


def judged(*rows: dict):
    return display(VERDICT_MIME, {"verdicts": list(rows)})


def write_notebook(folder: Path, name: str, *cells: tuple, title: str = "Does it work?", **metadata) -> Path:
    """A notebook of code cells, each of its tags and outputs."""
    code = [
        new_code_cell("show()", outputs=list(outputs), execution_count=1, metadata={"tags": list(tags)} | metadata)
        for tags, *outputs in cells
    ]
    nbformat.write(
        new_notebook(cells=[new_markdown_cell(f"intro\n\n# {title}\n\n## smaller"), *code]), folder / f"{name}.ipynb"
    )
    return folder / f"{name}.ipynb"


def ran(path: Path, seconds: float = 1.0, error: str | None = None) -> None:
    """Note in a notebook how its case ended."""
    (path.parent / "ended").write_text(json.dumps({"error": error, "peak_mib": 1536.0}))
    (path.parent / "notebook.ipynb").write_bytes(path.read_bytes())
    keep(Case(path, path), path.parent, "", seconds)
    (path.parent / "ended").unlink(), (path.parent / "notebook.ipynb").unlink()


def page(folder: Path) -> str:
    return write_gallery(folder).read_text(encoding="utf-8")


def test_a_card_shows_title_then_answer_then_the_tagged_figure_then_the_quick_run_s_verdicts(tmp_path):
    path = write_notebook(
        tmp_path, "10_anm",
        (["answer"], display("image/png", "AAAA"), display("text/markdown", "**Yes**, by $x^2$ <b onclick=x>now</b>")),
        ([], display("image/png", "BBBB")),
        (["gallery"], display("image/png", "CCCC")),
        (["kept"], judged(VERDICT)),
        ([], judged(VERDICT | {"expects": "10–30 % lower"}, VERDICT | {"verdict": "not trained long enough"})),
        alt="two curves",
    )  # fmt: skip
    ran(path, 65.2)
    html = page(tmp_path)
    shown = ["Does it work?", "base64,AAAA", "<strong>Yes</strong>", "<msup>", "Quick run: 1 supported, 1 not trained"]
    shown += ["base64,CCCC", VERDICT["claim"], VERDICT["measured"], "10–30 % lower", "1 min 05 s", "1536 MiB"]
    places = [html.find(text) for text in shown]
    assert [text for text, place in zip(shown, places, strict=True) if place < 0] == []
    assert places == sorted(places)
    assert 'alt="two curves"' in html
    assert not re.search("BBBB|onclick", html)
    for suffix in ("ipynb", "html"):
        assert f'<a href="10_anm.{suffix}"' in html
    assert "twin" in (tmp_path / "10_anm.html").read_text(encoding="utf-8")


def test_what_a_notebook_says_is_text_not_markup(tmp_path):
    """A sweep names its notebooks by the values that differ; the name is a link, too."""
    bold = {"claim": "<b>claim</b>", "measured": '"><img src=x>', "verdict": "undecided"}
    name = '10_anm task="><img src=x onerror=1><script>'
    path = write_notebook(tmp_path, name, ([], judged(bold)), title="<script>alert(1)</script>")
    ran(path, error="ValueError: <i>no</i>")
    html = page(tmp_path)
    assert not re.search(r"<script|<b>|<i>|<img", html)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "ValueError: &lt;i&gt;no&lt;/i&gt;" in html


def test_what_cannot_be_read_is_named_and_hides_no_other(tmp_path):
    with pytest.raises(ParameterError, match=re.escape(f"no executed notebooks in {tmp_path}")):
        write_gallery(tmp_path)
    (tmp_path / ".12_half.ipynb").write_text("{")
    (tmp_path / "10_damaged.ipynb").write_text("{")
    path = write_notebook(tmp_path, "11_changed")
    ran(path)
    path.write_text(path.read_text().replace("intro", "other"))
    write_notebook(tmp_path, "12_whole", title="Whole?")
    html = page(tmp_path)
    assert html.count("The executed notebook cannot be read") == 2
    assert "11_changed.ipynb is not the notebook that was written" in html
    assert "Whole?" in html
    assert "12_half" not in html


# the notebooks themselves as pages


def test_a_rendered_notebook_shows_formulas_and_pictures_of_widgets_and_asks_the_network_for_nothing(tmp_path):
    text = "$x^2$, `$A` and `$B`;\n\n$$\\frac{a}{b}$$\n\nand what is no formula, $\\frac{$."
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "image/png": "c3RpbGw=", "text/plain": "t"}
    cells = [new_markdown_cell(text), new_code_cell("w", outputs=[new_output("display_data", view)])]
    notebook = new_notebook(cells=cells)
    state = {"1": {"model_name": "HTMLModel", "model_module": "@jupyter-widgets/controls", "state": {}}}
    states = {"state": state, "version_major": 2, "version_minor": 0}
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": states}
    nbformat.write(notebook, tmp_path / "12_miner.ipynb")
    page(tmp_path)
    html = (tmp_path / "12_miner.html").read_text(encoding="utf-8")
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in html
    assert re.search(r'<math [^>]*display="block"[^>]*><mrow><mfrac>', html)
    assert "<code>$A</code> and <code>$B</code>" in html
    assert r"$\frac{$" in html
    assert "data:image/png;base64,c3RpbGw=" in html
    assert "widget-state" not in html
    assert re.findall(r"<script|<link|url\(http|src=.?http", html) == []


HOSTILE = """
<script>alert(1)</script><img src=x onerror=alert(1)><img src="https://example.org/x.png">
<iframe src="//a.org"></iframe>
<svg onload=alert(1)><script>alert(2)</script></svg><form action="https://example.org"><button>b</button></form>
<a href="javascript:alert(1)">j</a><a href=" JaVaScRiPt:alert(1)">k</a><a href="data:text/html,x">d</a>
<style>@import url(https://example.org/x.css)</style><p style="background: url(https://example.org); color: red">p</p>
<meta http-equiv="refresh" content="0;url=https://example.org"><base href="https://example.org">
<math><mtext><style><img src=x onerror=alert(1)></style></mtext></math></main></body><script>alert(3)</script>
"""


class Tags(HTMLParser):
    """Every tag with its attributes, of a page's body."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html[html.index("<body") :])

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_a_rendered_notebook_holds_nothing_that_acts_or_fetches(tmp_path):
    hostile_png = {"image/png": 'AAAA"><script>alert(4)</script>'}
    outputs = [
        new_output("display_data", {"text/html": HOSTILE}),
        new_output("display_data", {"text/markdown": f"[m](javascript:alert(1)) {HOSTILE}"}),
        new_output("display_data", {"application/javascript": "alert(5)"}),
        new_output("display_data", hostile_png),
        new_output("error", ename="<script>", evalue=HOSTILE, traceback=[HOSTILE]),
    ]
    code = new_code_cell(f"# {HOSTILE}", outputs=outputs, metadata={"tags": ['"><script>alert(6)</script>']})
    cells = [new_markdown_cell(f"# T\n\n[x](javascript:alert(1))\n\n{HOSTILE}"), code]
    notebook = new_notebook(cells=cells, metadata={"title": "</title><script>alert(7)</script>"})
    nbformat.write(notebook, tmp_path / "10_anm.ipynb")
    page(tmp_path)
    html = (tmp_path / "10_anm.html").read_text(encoding="utf-8")
    assert "<script" not in html[: html.index("<body")]
    acting = {"script", "iframe", "form", "object", "embed", "meta", "base", "link", "style", "svg", "button", "input"}
    for tag, attributes in Tags(html).found:
        assert tag not in acting
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name == "href":
                assert not re.match(r"\s*(javascript|data|vbscript):", value or "", re.IGNORECASE)
            if name == "src":
                assert (value or "").startswith("data:image/png;base64,")
            assert "url(" not in (value or "") or name not in ("style", "href", "src")


PAGE = project_root() / "docs" / "results.md"


def test_the_page_is_what_the_notebooks_show(tmp_path):
    written = write_results(project_root() / "notebooks", tmp_path / "results.md")
    assert written.read_text("utf-8") == PAGE.read_text("utf-8"), "run `anm-nb index`"
    pictures, kept = ({path.name: path.read_bytes() for path in of.glob("*")} for of in (
        tmp_path / "results", PAGE.with_suffix("")
    ))  # fmt: skip
    assert pictures == kept, "run `anm-nb index`"
