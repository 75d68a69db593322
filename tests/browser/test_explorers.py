"""Notebooks 40 and 41 in JupyterLab and a browser: pictures and read-outs follow the sliders and are correct."""

import re
from itertools import pairwise
from pathlib import Path
from shutil import copy, copytree
from statistics import median

import nbformat
import pytest
from jupyter_lab import jupyter_lab
from jupyter_page import NotebookPage, chromium

from anm_nb.files import project_root
from anm_nb.gallery import write_gallery
from anm_nb.widgets import LandscapeExplorer, MarginExplorer, RoutingExplorer, SamplerExplorer, project_runs

pytestmark = pytest.mark.browser

NOTEBOOKS = {"40_explore_margins": ("margin", "landscape", "sampler"), "41_explore_routing": ("routing",)}
MINED, STOCK = "inverse anm_orthogonal", "inverse stock"
EXPLORERS = {
    "margin": (MarginExplorer, MINED, STOCK),
    "sampler": (SamplerExplorer, "sudoku none"),
    "landscape": (LandscapeExplorer, MINED, STOCK),
    "routing": (RoutingExplorer, "hinted_sort token"),
}
# label (on the page) and name (in the package) of the slider that each test moves
MOVED = {"margin": ("Training step", "step"), "landscape": ("Training step", "step"),
         "sampler": ("Sampler step", "state"), "routing": ("Iteration", "iteration")}  # fmt: skip
FORTH = 3  # moves
NO_WIDGET = re.compile("model not found|Loading widget")
every_explorer = pytest.mark.parametrize("kind", EXPLORERS)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A browser, and a JupyterLab with both notebooks over an empty store and a third over a damaged one."""
    folder, outputs = (tmp_path_factory.mktemp(name) for name in ("lab", "outputs"))
    paths = [project_root() / "notebooks" / f"{name}.ipynb" for name in NOTEBOOKS]
    paths.append(notebook_over_a_spoilt_store(tmp_path_factory.mktemp("spoilt")))
    with jupyter_lab(folder, paths, outputs) as address, chromium() as browser:
        yield browser, address


def notebook_over_a_spoilt_store(folder):
    """Write a notebook with an explorer over a store of two runs, of which the newest has one changed byte."""
    runs = sorted((project_runs()[name] for name in (MINED, STOCK)), key=lambda run: run.summary["finished_ns"])
    for run in runs:
        copytree(run.path, folder / "runs" / run.key)
    trace = folder / "runs" / runs[-1].key / "trace.safetensors"
    trace.write_bytes(trace.read_bytes()[:-1] + bytes([trace.read_bytes()[-1] ^ 1]))
    source = f"import os\nos.environ['ANM_NB_OUTPUTS'] = {str(folder)!r}\n"
    source += "from anm_nb.widgets import MarginExplorer\nMarginExplorer()"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}  # else JupyterLab asks for one
    cells = [nbformat.v4.new_code_cell(source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "spoilt.ipynb")
    return folder / "spoilt.ipynb"


@pytest.fixture(scope="module")
def notebooks(lab):
    """Pages of both notebooks; their cells are still running."""
    return {name: NotebookPage(*lab, name) for name in NOTEBOOKS}


@pytest.fixture(scope="module")
def explorers(notebooks):
    found = {kind: notebooks[name].explorer(kind) for name, kinds in NOTEBOOKS.items() for kind in kinds}
    for notebook in notebooks.values():
        notebook.page.bring_to_front()
        notebook.wait_until_idle()
    return found


@pytest.fixture
def explorer(explorers, kind):
    explorers[kind].page.bring_to_front()
    return explorers[kind]


@every_explorer
def test_picture_and_words_follow_each_move_there_and_back_to_the_right_values(explorer, kind, record_property):
    label, name = MOVED[kind]
    make, *models = EXPLORERS[kind]
    here = make(*(project_runs()[model] for model in models))
    explorer.press(label, "Home")
    states, waits = [(explorer.picture, explorer.alt, explorer.readouts)], []
    forth = min(FORTH, explorer.last(label))
    for key in ("ArrowRight",) * forth + ("ArrowLeft",) * forth:
        waits.append(explorer.press(label, key))
        states.append((explorer.picture, explorer.alt, explorer.readouts))
        shown = explorer.part(label, ".widget-readout").inner_text()
        explorer.part(label, f'[aria-valuetext="{shown}"]').wait_for()  # announced by a screen reader
        assert explorer.page.evaluate("document.activeElement.ariaLabel") == label  # the focus stays
    for before, after in pairwise(states):
        assert all(one != other for one, other in zip(before, after, strict=True))
    there = states[: forth + 1]
    assert there == states[forth:][::-1]
    for place, (_, alt, readouts) in enumerate(there):
        here.inputs[name].index = place
        assert readouts == [[*each] for numbers in here.readouts for each in numbers.items()]
        assert alt == here.alt
    record_property("browser", f"{kind}: slider to new picture {median(waits):.0f} ms (median of {len(waits)} moves)")


@pytest.mark.parametrize("kind", ["margin"])
def test_other_runs_are_chosen_by_the_keyboard(explorer, kind):
    numbers = explorer.readouts
    for label, key, back in (("Beside", "ArrowUp", "ArrowDown"), ("Run", "ArrowDown", "ArrowUp")):
        picker = explorer.root.get_by_label(label, exact=True)
        picker.focus()
        before = picker.input_value()
        if label == "Run" and picker.locator("option").last.get_attribute("value") == before:
            key, back = back, key
        explorer.until_new_picture(lambda key=key: explorer.page.keyboard.press(key))
        assert picker.input_value() != before
        assert explorer.readouts != numbers
        picker.focus()
        explorer.until_new_picture(lambda back=back: explorer.page.keyboard.press(back))
    assert explorer.readouts[0] == numbers[0]


@pytest.mark.parametrize("kind", ["margin"])
def test_a_bar_tells_its_numbers_when_it_is_pointed_at_or_clicked_on(explorer, kind):
    bars = explorer.root.locator(".anm-sheet i")
    for bar, act in ((bars.first, "hover"), (bars.last, "click")):
        getattr(bar, act)()
        assert re.search(r"nats: \d+ of \d+ pairs", title := bar.get_attribute("title"))
        assert explorer.root.locator(".anm-sheet + p").inner_text() == title


@pytest.mark.parametrize("kind", ["sampler"])
def test_a_sudoku_of_one_s_own_is_pasted_played_and_saved(explorer):
    explorer.press("Sampler step", "End")
    numbers, puzzle = explorer.readouts, explorer.root.get_by_label("Own Sudoku", exact=True)
    puzzle.fill("1.....2..4.....3")
    explorer.until_new_picture(lambda: explorer.page.keyboard.press("Enter"))
    assert "Own Sudoku 1.....2..4.....3" in explorer.alt
    shown = len(explorer.pictures)
    explorer.button("Play or pause: Sampler step").click()
    element = explorer.root.element_handle()
    explorer.page.wait_for_function("([root, count]) => root.seen.pictures.length > count + 2", arg=[element, shown])
    explorer.button("Play or pause: Sampler step").click()
    explorer.until_new_picture(lambda: explorer.button("Back to the start: Sampler step").click())
    explorer.button("Save figure").click()
    saved = explorer.root.get_by_text("Saved, 6.75 inches wide")
    saved.wait_for()
    assert Path(saved.inner_text().rsplit(": ", 1)[1]).read_bytes().startswith(b"%PDF")
    puzzle.fill("")
    explorer.until_new_picture(lambda: explorer.page.keyboard.press("Enter"))
    explorer.press("Sampler step", "End")
    assert explorer.readouts == numbers


def test_a_saved_notebook_shows_its_still_pictures_and_no_error_without_a_kernel(notebooks, explorers):
    """Live widgets hide them."""
    for name, kinds in NOTEBOOKS.items():
        page = notebooks[name].page
        page.bring_to_front()
        stills = page.locator(".jp-OutputArea:has(.anm-still) .jp-RenderedImage")
        assert stills.count() == len(kinds) + 1
        assert not any(still.is_visible() for still in stills.all())
        page.keyboard.press("Control+s")
        page.get_by_role("menuitem", name="Kernel", exact=True).click()
        page.get_by_role("menuitem", name="Shut Down Kernel", exact=True).click()
        page.wait_for_timeout(2000)
        page.reload()
        for place in range(len(kinds) + 1):
            stills.nth(place).wait_for()
        page.wait_for_timeout(2000)
        assert not any(each.is_visible() for each in page.get_by_text(NO_WIDGET).all())


def test_a_run_that_cannot_be_read_leaves_no_picture_and_says_why_also_where_it_is_the_newest(lab):
    page = NotebookPage(*lab, "spoilt").page
    root = page.locator(".anm-margin-explorer").first
    alert, picture = root.get_by_role("alert"), root.locator(".anm-picture-image")
    picker = root.get_by_label("Run", exact=True)
    alert.wait_for()
    for _ in range(2):
        assert re.search(r"Cannot be shown: .*trace\.safetensors: expected sha256 \w+, found", alert.inner_text())
        assert picture.count() == 0
        assert root.get_by_label("Training step", exact=True).is_hidden()
        picker.select_option(index=1)
        picture.wait_for()
        assert alert.count() == 0
        picker.select_option(index=0)
        picture.wait_for(state="detached")
        alert.wait_for()


def test_a_card_of_the_gallery_shows_the_kept_answer_and_then_that_the_quick_run_was_short(lab, tmp_path):
    copy(project_root() / "notebooks" / "16_anm_verdict.ipynb", tmp_path)
    page = write_gallery(tmp_path)
    seen = lab[0].new_page()
    seen.goto(page.as_uri())
    text = seen.locator("body").inner_text()
    answer = text.index("Mining wins at equal steps and loses at equal compute.")
    assert 0 < answer < text.index("not trained long enough")


def test_the_notebooks_made_no_network_requests(notebooks):
    assert [page.strangers for page in notebooks.values()] == [[], []]
