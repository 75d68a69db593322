"""The page shows what the notebooks found, as text, and needs nothing but itself."""

import base64
import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from anm_nb.config import ParameterError
from anm_nb.gallery import NothingToShow, duration, memory, read_cards, tally, write_index
from anm_nb.gallery.cards import Figure, png_size
from anm_nb.sweep.case import Outcome, write_outcomes

VERDICT = {"claim": "ANM lowers the MSE", "measured": "−0.0054 [−0.0071, −0.0037]", "state": "supported", "seeds": 5}


def png(width: int, height: int) -> str:
    """A white picture as notebooks keep it: base64 in lines."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(file, "PNG")
    return base64.encodebytes(file.getvalue()).decode()


def display(**data):
    mimes = {"verdict": "application/vnd.anm-nb.verdict+json", "png": "image/png"}
    return new_output("display_data", {mimes[name]: value for name, value in data.items()} | {"text/plain": "twin"})


def write_notebook(folder: Path, name: str, *outputs, title: str = "Does it work?", tagged=()) -> Path:
    code = [new_code_cell("show()", outputs=[output], execution_count=1) for output in outputs]
    for number in tagged:
        code[number].metadata |= {"tags": ["gallery"], "alt": "two curves"}
    cells = [new_markdown_cell(f"intro\n\n# {title}\n\n## smaller"), *code]
    nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def page(folder: Path) -> str:
    return write_index(folder, read_cards(folder)).read_text(encoding="utf-8")


def test_a_card_tells_question_verdict_expectation_time_and_memory(tmp_path):
    write_notebook(tmp_path, "10_anm", display(verdict=VERDICT | {"expected": "10–30 % lower"}))
    write_outcomes([Outcome("10_anm", "done", 65.2, 1536.0)], tmp_path)
    html = page(tmp_path)
    shown = ["Does it work?", VERDICT["claim"], VERDICT["measured"], "10–30 % lower", "1 min 05 s", "1.5 GiB"]
    assert [text for text in shown if text not in html] == []
    assert '<span class="badge supported">supported</span>' in html
    assert '<a href="10_anm.ipynb"' in html
    assert '<a href="10_anm.html"' in html
    assert "twin" in (tmp_path / "10_anm.html").read_text(encoding="utf-8")


def test_where_widgets_ran_their_still_picture_is_rendered(tmp_path):
    """A page with their state asks the network for code to show it, and shows nothing without."""
    view = {
        "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
        "image/png": "c3RpbGw=",
        "text/plain": "twin",
    }
    path = write_notebook(tmp_path, "40_explore", new_output("display_data", view))
    notebook = nbformat.read(path, as_version=4)
    state = {"1": {"model_name": "HTMLModel", "model_module": "@jupyter-widgets/controls", "state": {}}}
    states = {"state": state, "version_major": 2, "version_minor": 0}
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": states}
    nbformat.write(notebook, path)
    page(tmp_path)
    html = (tmp_path / "40_explore.html").read_text(encoding="utf-8")
    assert "data:image/png;base64,c3RpbGw=" in html
    assert "widget-state" not in html


def test_what_a_notebook_says_is_text_not_markup(tmp_path):
    bold = {"claim": "<b>claim</b>", "measured": '"><img src=x>', "state": "undecided"}
    write_notebook(tmp_path, "10_anm", display(verdict=bold), title="<script>alert(1)</script>")
    write_outcomes([Outcome("10_anm", "failed", 1.0, 1.0, "ValueError: <i>no</i>")], tmp_path)
    html = page(tmp_path)
    assert not re.search(r"<script|<b>|<i>|<img", html)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "ValueError: &lt;i&gt;no&lt;/i&gt;" in html


def test_a_parameter_value_in_a_case_s_name_is_text_not_markup(tmp_path):
    """A sweep names its notebooks by the values that differ; the name is a link, too."""
    name = '10_anm task="><img src=x onerror=1><script>'
    write_notebook(tmp_path, name)
    write_outcomes([Outcome(name, "done", 1.0, 1.0), Outcome("11 <b>gone<b>", "failed", 1.0, 1.0, "x")], tmp_path)
    html = page(tmp_path)
    assert not re.search(r"<script|<b>|<img|onerror=1>", html.replace("onerror=1&gt;", ""))
    assert "&lt;script&gt;" in html
    assert "11 &lt;b&gt;gone" in html


def test_the_page_fetches_nothing(tmp_path):
    write_notebook(tmp_path, "10_anm", display(png="aGVs\nbG8="))
    html = page(tmp_path)
    assert 'src="data:image/png;base64,aGVsbG8="' in html
    assert not re.search(r"https?:|//\w|<link|@import|url\(", html)


def test_the_tagged_figure_is_shown_with_its_description_else_the_first(tmp_path):
    write_notebook(tmp_path, "10_first", display(png="AAAA"), display(png="BBBB"))
    write_notebook(tmp_path, "11_tagged", display(png="AAAA"), display(png="BBBB"), tagged=[1])
    write_notebook(tmp_path, "12_none", display(verdict=VERDICT))
    first, tagged, none = read_cards(tmp_path)
    assert first.figure == Figure("data:image/png;base64,AAAA", "A figure of “Does it work?”")
    assert tagged.figure == Figure("data:image/png;base64,BBBB", "two curves")
    assert none.figure is None


def test_a_figure_s_size_is_its_picture_s_or_unknown(tmp_path):
    write_notebook(tmp_path, "10_anm", display(png=png(37, 210)))
    (card,) = read_cards(tmp_path)
    assert card.figure.size == (37, 210)
    whole = "".join(png(37, 210).split())
    assert [png_size(cut) for cut in (whole[:32], whole[:28], "", "AAAA", "A" * 40, "§" * 40)] == [(37, 210)] + [
        None
    ] * 5


def test_a_notebook_is_placed_by_its_number_or_that_of_the_file_it_was_run_from(tmp_path):
    """A sweep of one notebook names its cases by what differs, not by the notebook."""
    for name, ran in (("size=5", "/x/12_miner.ipynb"), ("size=6", ""), ("31_tables", "/x/12_miner.ipynb"), ("4_x", "")):
        path = write_notebook(tmp_path, name)
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata["papermill"] = {"input_path": ran or None}
        nbformat.write(notebook, path)
    write_outcomes([Outcome("20_gone", "failed", 1.0, 1.0, "x"), Outcome("gone", "failed", 1.0, 1.0, "x")], tmp_path)
    placed = {card.name: card.tens for card in read_cards(tmp_path)}
    assert placed == {"20_gone": 2, "31_tables": 3, "4_x": None, "gone": None, "size=5": 1, "size=6": None}


@pytest.mark.parametrize("damaged", ["{", "[1]", '[{"name": "a", "unheard": 1}]', '{"a": 1}', "\xff"])
def test_outcomes_that_cannot_be_read_are_named(tmp_path, damaged):
    write_notebook(tmp_path, "10_anm")
    (tmp_path / "outcomes.json").write_bytes(damaged.encode("latin-1"))
    with pytest.raises(ParameterError, match=re.escape(str(tmp_path / "outcomes.json"))):
        read_cards(tmp_path)


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ({"state": "proved"}, "'proved'; allowed: supported, refuted, undecided"),
        ({"claim": ""}, "without claim"),
        ({"measured": None}, "without measured"),
    ],
)
def test_a_verdict_that_cannot_be_read_is_said_and_the_rest_is_shown(tmp_path, spoiled, said):
    write_notebook(tmp_path, "10_anm", display(verdict=VERDICT | spoiled), display(verdict=VERDICT))
    (card,) = read_cards(tmp_path)
    assert tally(card.verdicts) == "1 supported"
    assert said in card.problems[0]


def test_a_verdict_that_is_no_mapping_is_said(tmp_path):
    write_notebook(tmp_path, "10_anm", display(verdict="supported"))
    (card,) = read_cards(tmp_path)
    assert card.problems == ("Unreadable: a verdict that is no mapping but 'supported'.",)


def test_a_damaged_notebook_and_a_run_without_one_still_get_a_card(tmp_path):
    (tmp_path / "10_damaged.ipynb").write_text("{")
    write_notebook(tmp_path, "12_fine")
    write_outcomes([Outcome("11_absent", "failed", 2.0, 90.0, "Kernel died")], tmp_path)
    damaged, absent, fine = read_cards(tmp_path)
    assert "cannot be read" in damaged.problems[0]
    assert (absent.status, absent.error, absent.notebook) == ("failed", "Kernel died", None)
    assert (fine.status, fine.title) == ("earlier", "Does it work?")
    assert "1 of 3 notebooks failed" in page(tmp_path)


def test_a_rendered_notebook_shows_its_formulas_and_asks_the_network_for_nothing(tmp_path):
    text = "$x^2$, `$A` and `$B`;\n\n$$\\frac{a}{b}$$\n\nand what is no formula, $\\frac{$."
    notebook = new_notebook(cells=[new_markdown_cell(text)])
    nbformat.write(notebook, tmp_path / "12_miner.ipynb")
    page(tmp_path)
    html = (tmp_path / "12_miner.html").read_text(encoding="utf-8")
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in html
    assert re.search(r'<math [^>]*display="block"[^>]*><mrow><mfrac>', html)
    assert "<code>$A</code> and <code>$B</code>" in html
    assert r"$\frac{$" in html
    assert re.findall(r"<script|<link|url\(http|src=.?http", html) == []


def test_an_unchanged_notebook_is_not_rendered_again_and_a_changed_one_is(tmp_path):
    notebook, rendering = write_notebook(tmp_path, "10_anm"), tmp_path / "10_anm.html"
    read_cards(tmp_path)
    rendering.write_text("kept")
    read_cards(tmp_path)
    assert rendering.read_text() == "kept"
    later = rendering.stat().st_mtime + 1
    os.utime(notebook, (later, later))
    read_cards(tmp_path)
    assert "Does it work?" in rendering.read_text(encoding="utf-8")


def test_half_written_notebooks_are_not_shown(tmp_path):
    write_notebook(tmp_path, ".10_anm.partial")
    with pytest.raises(NothingToShow, match=re.escape(str(tmp_path))):
        read_cards(tmp_path)


def test_times_and_sizes_are_written_for_people():
    assert [duration(s) for s in (4.24, 9.96, 59.4, 59.6, 125)] == ["4.2 s", "10 s", "59 s", "1 min 00 s", "2 min 05 s"]
    assert [memory(m) for m in (412.3, 1843.2)] == ["412 MiB", "1.8 GiB"]


HOSTILE = """
<script>alert(1)</script><img src=x onerror=alert(1)><img src="https://example.org/x.png">
<iframe src="//a.org"></iframe>
<svg onload=alert(1)><script>alert(2)</script></svg><form action="https://example.org"><button>b</button></form>
<a href="javascript:alert(1)">j</a><a href=" JaVaScRiPt:alert(1)">k</a><a href="data:text/html,x">d</a>
<style>@import url(https://example.org/x.css)</style><p style="background: url(https://example.org); color: red">p</p>
<meta http-equiv="refresh" content="0;url=https://example.org"><base href="https://example.org">
<object data="x"></object>
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
        new_output("display_data", {"image/svg+xml": f"<svg xmlns='http://www.w3.org/2000/svg'>{HOSTILE}</svg>"}),
        new_output("display_data", {"text/latex": HOSTILE}),
        new_output("display_data", hostile_png),
        new_output("stream", name="stdout", text=HOSTILE),
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


def test_what_a_notebook_shows_survives_the_cleaning(tmp_path):
    table = '<table class="dataframe"><tr style="text-align: right;"><th colspan="2">τ</th></tr></table>'
    outputs = [new_output("display_data", {"text/html": table, "text/plain": "t"}), display(png=png(3, 2))]
    cells = [
        new_markdown_cell("# T\n\n[a page](https://example.org) **bold** $\\frac{\\alpha}{2}$ `code`"),
        new_code_cell("def f(x):\n    return x < 1", outputs=outputs, execution_count=1),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "10_anm.ipynb")
    page(tmp_path)
    html = (tmp_path / "10_anm.html").read_text(encoding="utf-8")
    tags = [tag for tag, _ in Tags(html).found]
    assert {"main", "h1", "a", "strong", "math", "mfrac", "code", "pre", "table", "th", "img"} <= set(tags)
    assert 'href="https://example.org"' in html
    assert "text-align" in html
    assert 'colspan="2"' in html
    assert "".join(png(3, 2).split())[:20] in html
    assert 'class="jp-Notebook"' in html
