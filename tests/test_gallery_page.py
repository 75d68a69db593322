"""The page as browsers, screen readers and phones meet it: parsed, not searched."""

import re
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from stored_files import write_manifest

from anm_nb.gallery import Card, Verdict, read_cards, write_index
from anm_nb.gallery.cards import Figure
from anm_nb.gallery.used_runs import UsedRun, used_runs
from anm_nb.sweep.case import Outcome, write_outcomes

PAYLOAD = "<b>&\"'><script>alert(1)</script><img src=x onerror=alert(1)>https://example.org/x.js {{ 7 * 6 }}"
VOID = {"meta", "img", "br"}
AA = 4.5  # WCAG 2.2, 1.4.3, for text; 3 for what is no text (1.4.11)


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    parents: tuple["Element", ...]
    text: str = ""

    def __getitem__(self, name: str) -> str:
        return self.attributes[name] or ""

    def within(self, tag: str) -> bool:
        return any(parent.tag == tag for parent in self.parents)

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


@dataclass
class Page(HTMLParser):
    """The elements of a page in their order, each with those around it and all the text in it."""

    elements: list[Element] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "Page":
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        assert not page.stack, f"left open: {page.stack[-1].tag}"
        return page

    def __post_init__(self) -> None:
        super().__init__()
        self.stack: list[Element] = []

    def handle_starttag(self, tag, attributes):
        element = Element(tag, dict(attributes), tuple(self.stack))
        self.elements.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_endtag(self, tag):
        assert self.stack.pop().tag == tag

    def handle_data(self, data):
        for element in self.stack:
            element.text += data

    def all(self, *tags: str) -> list[Element]:
        return [element for element in self.elements if element.tag in tags]

    def by_id(self, name: str) -> Element:
        (found,) = [element for element in self.elements if element.attributes.get("id") == name]
        return found

    def inside(self, outer: Element, *tags: str) -> list[Element]:
        return [element for element in self.all(*tags) if any(parent is outer for parent in element.parents)]

    @property
    def links(self) -> list[str]:
        return [element["href"] for element in self.elements if "href" in element.attributes]


def verdicts(**counts: int) -> tuple[Verdict, ...]:
    return tuple(Verdict(f"{state} {i}", "1 [0, 2]", state) for state, count in counts.items() for i in range(count))


def card(name: str, **known) -> Card:
    tens = int(name[0]) if name[0].isdigit() else None
    defaults = {"title": f"Why {name}?", "status": "done", "tens": tens, "rendering": f"{name}.html"}
    return Card(name, **defaults | known)


def many() -> list[Card]:
    figure = Figure("data:image/png;base64,AAAA", "two curves", (640, 480))
    run = UsedRun("0" * 16, "../runs/0000000000000000/", "inverse", "anm", "0, 1, 2", "97cc278a")
    return [
        card("00_sanity", verdicts=verdicts(supported=1)),
        card("10_anm", verdicts=verdicts(supported=2, refuted=5), figure=figure, runs=(run,)),
        card("11_within", verdicts=verdicts(refuted=2, undecided=4), figure=figure),
        card("12_gone", status="failed", error="ValueError: no", rendering=None),
        card("20_hrm", verdicts=verdicts(supported=3, undecided=1)),
        card("30_analysis", seconds=3.0, peak_mib=100.0, notebook="30_analysis.ipynb"),
        card("77_else"),
        card("size=5,task=lowrank", verdicts=verdicts(undecided=7)),
    ]


@pytest.fixture
def page(tmp_path) -> Page:
    return Page.read(write_index(tmp_path, many()))


def badges(page: Page, outer: Element) -> list[str]:
    return [li.words for li in page.inside(outer, "li") if "badge" in li.attributes.get("class", "")]


def test_each_question_counts_the_verdicts_of_its_own_notebooks(page):
    head = next(section for section in page.all("section") if section["class"] == "questions")
    first, second = page.inside(head, "article")
    assert badges(page, first) == ["2 supported", "7 refuted", "4 undecided", "1 of 3 notebooks failed"]
    assert badges(page, second) == ["3 supported", "1 undecided"]
    rows = [[cell.words for cell in page.inside(row, "th", "td")] for row in page.inside(first, "tr")]
    assert rows == [
        ["notebook", "supported", "refuted", "undecided"],
        ["10_anm", "2", "5", "·"],
        ["11_within", "·", "2", "4"],
        ["12_gone", "·", "·", "·"],
    ]
    assert "#30_analysis" in [link["href"] for link in page.inside(head, "a")]


def test_a_question_that_no_notebook_asks_says_so(tmp_path):
    page = Page.read(write_index(tmp_path, [card("00_sanity"), card("10_anm")]))
    first, second = page.inside(page.all("section")[0], "article")
    assert badges(page, first) == ["no verdicts"]
    assert "No notebook of this folder asks it." in second.text
    assert "eighed in" not in page.all("main")[0].text


def test_cards_stand_under_the_tens_of_their_numbers(page):
    shown = {
        section["id"]: [article["id"] for article in page.inside(section, "article")]
        for section in page.all("section")
        if "id" in section.attributes
    }
    assert shown == {
        "foundations": ["00_sanity"],
        "mining": ["10_anm", "11_within", "12_gone"],
        "routing": ["20_hrm"],
        "analysis": ["30_analysis"],
        "others": ["77_else", "size%3D5%2Ctask%3Dlowrank"],
    }
    (nav,) = page.all("nav")
    assert [link["href"][1:] for link in page.inside(nav, "a")] == list(shown)
    assert badges(page, page.by_id("mining"))[:3] == ["2 supported", "7 refuted", "4 undecided"]


def test_headings_go_down_one_level_at_a_time(page):
    levels = [int(heading.tag[1]) for heading in page.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))
    assert levels.count(3) == 2 + len(many())


def test_landmarks_language_and_the_way_past_the_head(page):
    assert [len(page.all(tag)) for tag in ("header", "nav", "main", "footer")] == [1, 1, 1, 1]
    assert not [e for tag in ("header", "footer") for e in page.all(tag) if e.within("main")]
    assert page.all("html")[0]["lang"] == "en"
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [
        meta.attributes for meta in page.all("meta")
    ]
    first, main = page.all("a")[0], page.all("main")[0]
    assert (first["class"], first["href"], main["tabindex"]) == ("skip", f"#{main['id']}", "-1")


def test_every_id_is_one_element_s_and_every_label_leads_to_one(page):
    ids = [element["id"] for element in page.elements if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    assert not [name for name in ids if re.search(r"\s", name)]
    labels = [e["aria-labelledby"] for e in page.elements if "aria-labelledby" in e.attributes]
    assert len(labels) == len(many()) + 8
    assert set(labels) <= set(ids)


def test_every_figure_has_words_a_size_and_links_to_its_notebook_and_runs(page):
    figures = page.all("figure")
    assert len(figures) == len(page.all("img")) == 2
    for figure, name in zip(figures, ("10_anm", "11_within"), strict=True):
        (picture,) = page.inside(figure, "img")
        assert (picture["alt"], picture["width"], picture["height"]) == ("two curves", "640", "480")
        assert (picture.parents[-1].tag, picture.parents[-1]["href"]) == ("a", f"{name}.html")
    first, second = figures
    assert page.inside(first, "a")[-1]["href"] == "#runs-of-10_anm"
    assert first.words == "From the notebook, over 1 run."
    assert second.words == "From the notebook; no runs are noted for it."


def test_every_table_scrolls_in_a_box_that_keys_can_reach(page):
    assert len(page.all("table")) == 3
    for table in page.all("table"):
        box = table.parents[-1]
        assert (box["class"], box["role"], box["tabindex"]) == ("scroll", "region", "0")
        assert box["aria-label"]
    assert re.search(r"\.scroll \{[^}]*overflow-x: auto", page.all("style")[0].text)


def test_a_card_with_many_verdicts_folds_all_but_the_first(tmp_path):
    page = Page.read(write_index(tmp_path, [card("10_anm", verdicts=verdicts(refuted=3, supported=3))]))
    claims = [element for element in page.all("p") if element.attributes.get("class") == "claim"]
    assert [claim.within("details") for claim in claims] == [False] * 4 + [True] * 2
    assert "2 more: 2 supported" in [summary.words for summary in page.all("summary")]


def test_the_page_brings_all_it_needs(page):
    assert not page.all("script", "link", "iframe", "object", "embed", "base", "audio", "video", "source")
    loaded = [e[name] for e in page.elements for name in ("src", "srcset", "data", "poster") if name in e.attributes]
    assert len(loaded) == 2
    assert all(address.startswith("data:image/png;base64,") for address in loaded)
    assert not re.search(r"@import|url\(|@font-face", page.all("style")[0].text)
    assert not [element for element in page.elements if "style" in element.attributes]
    assert not [link for link in page.links if re.match(r"[a-z]+:|//", link)]


def test_whatever_a_card_says_is_text(tmp_path):
    said = Verdict(*[PAYLOAD] * 2, "refuted", *[PAYLOAD] * 2)
    run = UsedRun("0" * 16, "x/", *[PAYLOAD] * 4)
    strange = UsedRun(PAYLOAD, problem=PAYLOAD)
    spoiled = card(
        "10_x",
        title=PAYLOAD,
        error=PAYLOAD,
        problems=(PAYLOAD,),
        verdicts=(said,),
        figure=Figure(f"data:image/png;base64,{PAYLOAD}", PAYLOAD),
        notebook=PAYLOAD,
        rendering=PAYLOAD,
        runs=(run, strange),
    )
    page = Page.read(write_index(tmp_path, [spoiled, card(PAYLOAD)]))
    assert not page.all("b", "script")
    assert not [element for element in page.elements if "onerror" in element.attributes]
    assert [picture["alt"] for picture in page.all("img")] == [PAYLOAD]
    assert page.all("html")[0].text.count(PAYLOAD) >= 4 + 4 + 2 + 3
    assert "42" not in page.all("main")[0].text
    assert not [link for link in page.links if re.search(r"[<>\"'\s]", link)]


AWKWARD = ["10_plain", "11_a b=1,c=[2]", "12_50%", "13_#1", "14_x?y", "20_τ&"]


def test_every_link_leads_somewhere_whatever_the_names(tmp_path, monkeypatch):
    monkeypatch.setattr("anm_nb.gallery.cards.render", lambda path, _: write(path.with_suffix(".html")).name)
    folder = tmp_path / "a sweep"
    folder.mkdir()
    keys = ("0123456789abcdef", "f" * 16)
    store_run(tmp_path / "runs" / keys[0])
    for name in AWKWARD:
        (folder / f"{name}.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    write_outcomes([Outcome(name, "done", 1.0, 1.0, runs=keys) for name in AWKWARD], folder)
    page = Page.read(write_index(folder, read_cards(folder)))
    ids = {element["id"] for element in page.elements if "id" in element.attributes}
    inner = [link[1:] for link in page.links if link.startswith("#")]
    outer = [link for link in page.links if not link.startswith("#")]
    assert set(inner) <= ids
    assert len(outer) == 3 * len(AWKWARD)
    assert not [link for link in outer if "?" in link or "#" in link]
    assert not [link for link in outer if not (folder / unquote(link)).exists()]
    assert outer.count("../runs/0123456789abcdef/") == len(AWKWARD)


def write(path: Path) -> Path:
    path.write_text("")
    return path


def store_run(folder: Path, **facts) -> None:
    folder.mkdir(parents=True)
    summary = {"task": "lowrank", "method": "anm", "seeds": [0, 1], "commit": "97cc278aabbccdd", "dirty": False}
    write_manifest(folder, **summary | facts)


def test_runs_are_told_by_their_manifests(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))
    beside, elsewhere, spoiled, gone = (character * 16 for character in "abcd")
    store_run(tmp_path / "sweeps" / "runs" / beside, seeds=list(range(7)), dirty=True)
    store_run(tmp_path / "outputs" / "runs" / elsewhere, method=None, commit=None)
    store_run(tmp_path / "outputs" / "runs" / spoiled)
    (tmp_path / "outputs" / "runs" / spoiled / "manifest.json").write_text("{}")
    found = used_runs([beside, elsewhere, spoiled, gone, "../../etc"], tmp_path / "sweeps" / "grid")
    assert found == (
        UsedRun(beside, f"../runs/{beside}/", "lowrank", "anm", "7 of them", "97cc278a, dirty"),
        UsedRun(elsewhere, f"../../outputs/runs/{elsewhere}/", "lowrank", "–", "0, 1", "–"),
        UsedRun(
            spoiled,
            f"../../outputs/runs/{spoiled}/",
            problem="not as it was written; anm-nb runs verify says why",
        ),
        UsedRun(gone, problem="not in the store any more"),
        UsedRun("../../etc", problem="not a run's key"),
    )


def test_a_card_lists_its_runs(page):
    runs = page.by_id("runs-of-10_anm")
    rows = [[cell.words for cell in page.inside(row, "th", "td")] for row in page.inside(runs, "tr")]
    assert rows == [
        ["run", "task", "method", "seeds", "commit"],
        ["0000000000000000", "inverse", "anm", "0, 1, 2", "97cc278a"],
    ]
    assert [link["href"] for link in page.inside(runs, "a")] == ["../runs/0000000000000000/"]


def schemes(style: str) -> dict[str, dict[str, str]]:
    """The custom properties of both colour schemes; the dark ones replace the light."""
    blocks = [dict(re.findall(r"--([\w-]+):\s*(#\w+)", block)) for block in re.findall(r":root \{([^}]*)\}", style)]
    light, dark = blocks
    assert light.keys() == dark.keys()
    return {"light": light, "dark": dark}


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, contrast ratio of two sRGB colours `#rrggbb`."""
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_contrast_is_computed_as_published():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(page, scheme):
    """Every rule that sets a colour: before its own background, or else before the page's and the card's."""
    style = page.all("style")[0].text
    colours = schemes(style)[scheme]
    assert "prefers-color-scheme: dark" in style
    pairs = {("ink", "card")}  # a card's text has the colour of the page's
    for body in re.findall(r"\{([^{}]*)\}", style):
        properties = dict(re.findall(r"(?:^|[\s;])(color|background):\s*var\(--([\w-]+)\)", body))
        if "color" in properties:
            behind = [properties["background"]] if "background" in properties else ["page", "card"]
            pairs |= {(properties["color"], name) for name in behind}
    assert len(pairs) >= 10
    faint = {pair: contrast(*(colours[name] for name in pair)) for pair in pairs}
    assert {pair: ratio for pair, ratio in faint.items() if ratio < AA} == {}
    assert min(contrast(colours["focus"], colours[name]) for name in ("page", "card")) >= 3
    assert re.search(r":focus-visible \{ outline: \dpx solid var\(--focus\)", style)


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_but_tables_scrolls_sideways(tmp_path, width):
    api = pytest.importorskip("playwright.sync_api", reason="needs the browser extra")
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        pytest.skip("needs Chromium")
    long = card("10_" + "x" * 110, title="Why" + "y" * 90, error="Error: " + "z" * 200, status="failed")
    path = write_index(tmp_path, [*many(), long])
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        try:
            view = browser.new_page(viewport={"width": width, "height": 800})
            view.goto(path.as_uri())
            view.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            view.keyboard.press("Tab")
            assert view.evaluate("document.activeElement.className") == "skip"
            assert view.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
        finally:
            browser.close()
