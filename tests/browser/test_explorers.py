"""Notebooks 40 and 41 in JupyterLab and a browser: pictures and read-outs follow the sliders to the right values."""

from itertools import pairwise
from statistics import median

import numpy as np
import pytest
from jupyter_lab import jupyter_lab
from jupyter_page import NotebookPage, chromium
from stored_files import files

from anm_nb.energy.train import EnergyConfig
from anm_nb.files import project_root
from anm_nb.store import finished_runs, get_or_train
from anm_nb.widgets import LandscapeExplorer, SamplerExplorer

pytestmark = pytest.mark.browser

NOTEBOOKS = ("40_explore_margins", "41_explore_routing")
PICTURES = project_root() / "outputs" / "browser"
OTHERS = 12  # runs in the store beside the notebooks' own
MOVES = 20
# the slider that is moved, by its name and the read-out that tells its value
MOVED = {
    "margin": ("Training step", "step"),
    "landscape": ("Noise level", "level"),
    "sampler": ("Sampler step", "sampler step"),
    "routing": ("Iteration", "iteration"),
}
PLAYED = MOVED | {"landscape": ("Training step", "step")}
ENERGY_CONTROLS = ["anm-control-run", "anm-control-strategy"]
TABBED = {
    "margin": [*ENERGY_CONTROLS, "anm-control-pairs", "anm-control-seed", "anm-control-step", *["anm-play-step"] * 2,
               "anm-control-level", "anm-control-bar"],
    "landscape": [*ENERGY_CONTROLS, "anm-control-direction", "anm-control-seed", "anm-control-step",
                  *["anm-play-step"] * 2, "anm-control-level", *["anm-play-level"] * 2, "anm-control-problem"],
    "sampler": ["anm-control-run", "anm-control-seed", "anm-control-problem", "anm-control-state",
                *["anm-play-state"] * 2],
    "routing": ["anm-control-run", "anm-control-seed", "anm-control-epoch", *["anm-play-epoch"] * 2,
                "anm-control-sample", "anm-control-iteration", *["anm-play-iteration"] * 2],
}  # fmt: skip
every_explorer = pytest.mark.parametrize("kind", MOVED)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A store that has some runs before those of the notebooks."""
    folder = tmp_path_factory.mktemp("outputs")
    tiny = {"task": "inverse", "size": 2, "width": 8, "batch": 8, "steps": 3, "records": 3, "dev_examples": 8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANM_NB_OUTPUTS", str(folder))
        for place in range(OTHERS):
            get_or_train(EnergyConfig(**tiny, seeds=[0, 1], lr=1e-3 * (place + 1), keep_weights=True))
        yield folder


@pytest.fixture(scope="module")
def notebooks(outputs, tmp_path_factory):
    """Both notebooks as they are after all their cells ran, in one JupyterLab and one browser."""
    paths = [project_root() / "notebooks" / f"{name}.ipynb" for name in NOTEBOOKS]
    with jupyter_lab(tmp_path_factory.mktemp("lab"), paths, outputs) as address, chromium() as browser:
        yield {name: NotebookPage(browser, address, name) for name in NOTEBOOKS}


@pytest.fixture(scope="module")
def explorers(notebooks):
    margins, routing = (notebooks[name] for name in NOTEBOOKS)
    shown = {kind: margins.explorer(kind) for kind in ("margin", "landscape", "sampler")}
    return shown | {"routing": routing.explorer("routing")}


@pytest.fixture
def explorer(explorers, kind):
    explorers[kind].page.bring_to_front()
    return explorers[kind]


def run_of(method, task):
    """The newest run of a notebook, by what a list shows of it."""
    return [run for run in finished_runs() if (run.summary["method"], run.summary["task"]) == (method, task)][-1]


def close(value):
    """As near as a number of three digits tells it."""
    return pytest.approx(value, rel=5.1e-3, abs=1e-6)


# what every explorer does


@every_explorer
def test_nothing_is_wider_than_a_window_of_1000_pixels(explorer):
    explorer.photograph(PICTURES, "opened")
    assert explorer.page.evaluate("document.documentElement.scrollWidth") <= 1000
    assert explorer.too_wide() == []
    explorer.page.keyboard.press("Control+b")  # without the list of files there is room for more
    explorer.photograph(PICTURES, "with-room")
    assert explorer.too_wide() == []
    explorer.page.keyboard.press("Control+b")


@every_explorer
def test_tab_reaches_every_control_in_order(explorer, kind):
    assert explorer.focus_order() == TABBED[kind]


@every_explorer
def test_a_slider_is_told_by_its_name_and_the_value_it_stands_for(explorer, kind):
    label, readout = MOVED[kind]
    explorer.press(label, "Home")
    for key in ("ArrowRight", "ArrowLeft"):
        explorer.press(label, key)
        shown = explorer.part(label, ".widget-readout").inner_text()
        assert explorer.readouts[readout].split()[0] == shown
        explorer.part(label, f'[aria-valuetext="{shown}"]').wait_for()
        assert explorer.page.evaluate("document.activeElement.ariaLabel") == label  # the keyboard stays where it is


@every_explorer
def test_picture_and_words_follow_each_move_there_and_back(explorer, kind, record_property):
    label, readout = MOVED[kind]
    explorer.press(label, "Home")
    states, waits = [(explorer.picture, explorer.alt, explorer.readouts)], []
    forth = explorer.last(label)
    while len(waits) < MOVES:
        for key, moves in (("ArrowRight", forth), ("ArrowLeft", forth)):
            for _ in range(moves):
                waits.append(explorer.press(label, key))
                states.append((explorer.picture, explorer.alt, explorer.readouts))
    for before, after in pairwise(states):
        assert all(one != other for one, other in zip(before, after, strict=True))
    there, back = states[: forth + 1], states[forth : 2 * forth + 1]
    assert there == back[::-1]
    assert len({picture for picture, _, _ in there}) == len({told[readout] for _, _, told in there}) == forth + 1
    first = f"{median(waits[:forth]):.0f} ms of the {forth} to values seen for the first time"
    text = f"{kind}: slider to new picture {median(waits):.0f} ms (median of {len(waits)} moves; {first})"
    record_property("browser", text)


@every_explorer
def test_a_player_plays_to_the_end_and_goes_back_by_the_keyboard(explorer, kind):
    label, readout = PLAYED[kind]
    explorer.press(label, "End")
    last = explorer.readouts[readout]
    explorer.press(label, "Home")
    first, shown = explorer.readouts[readout], len(explorer.pictures)
    explorer.button(f"Play or pause: {label}").focus()
    explorer.page.keyboard.press("Space")
    explorer.wait_for(readout, last)
    assert len(set(explorer.pictures[shown:])) >= 2  # a slow machine leaves some out
    explorer.button(f"Back to the start: {label}").focus()
    explorer.page.keyboard.press("Enter")
    explorer.wait_for(readout, first)
    explorer.photograph(PICTURES, "first")


@every_explorer
def test_another_run_is_chosen_by_the_keyboard(explorer, kind):
    explorer.press(PLAYED[kind][0], "End")  # at their first step runs of one seed tell the same
    picker = explorer.root.get_by_label("Run", exact=True)
    picker.focus()
    before, alt = picker.input_value(), explorer.alt
    up = picker.locator("option").first.get_attribute("value") != before
    explorer.until_new_picture(lambda: explorer.page.keyboard.press("ArrowUp" if up else "ArrowDown"))
    assert picker.input_value() != before
    assert explorer.alt != alt
    explorer.photograph(PICTURES, "another-run")
    picker.focus()
    explorer.until_new_picture(lambda: explorer.page.keyboard.press("ArrowDown" if up else "ArrowUp"))
    assert picker.input_value() == before


# what each of them shows


def test_margins_are_those_of_the_runs_files(explorers):
    explorer, stored = explorers["margin"], files(run_of("anm", "inverse"))
    margins, metrics = stored.array("dev_margins"), stored.metrics.groupby("step")["dev_p_hard"].mean()
    outermost = np.quantile(np.abs(margins), 0.95)
    edges = np.linspace(-outermost, outermost, 41)
    explorer.press("Training step", "Home")
    for record, (step, p_hard) in enumerate(metrics.items()):
        if record:
            explorer.press("Training step", "ArrowRight")
        assert explorer.readouts["step"] == str(step)
        assert explorer.number("pairs") == margins[:, record].size
        assert explorer.number("p_hard") == pytest.approx(100 * p_hard, abs=0.051)
        for name, share in (("first quartile", 0.25), ("median", 0.5), ("third quartile", 0.75)):
            assert explorer.number(name) == close(np.quantile(margins[:, record], share))
        in_bar = (margins[:, record] >= edges[24]) & (margins[:, record] < edges[25])  # as the notebook's cell asks
        assert explorer.number("pairs in bar") == in_bar.sum()
        assert f"at training step {step}: median {explorer.readouts['median'].split()[0]}" in explorer.alt


def test_routing_is_that_of_the_runs_files(explorers):
    explorer, stored = explorers["routing"], files(run_of("token", "partial_sort"))
    explorer.page.bring_to_front()
    alphas, entropies = stored.array("alphas").astype(float), stored.array("entropies")
    taus = {name: stored.array(name) for name in ("tau_obs", "tau_all")}
    epochs = stored.metrics["epoch"].unique().astype(int)
    for sample in range(2):
        if sample:
            explorer.press("Sample", "ArrowRight")
        explorer.press("Epoch", "Home")
        for record, epoch in enumerate(epochs):
            if record:
                explorer.press("Epoch", "ArrowRight")
            explorer.press("Iteration", "Home")
            for iteration in range(alphas.shape[3]):
                if iteration:
                    explorer.press("Iteration", "ArrowRight")
                alpha = alphas[0, record, sample, iteration]
                assert explorer.readouts["epoch"] == str(epoch)
                assert explorer.number("entropy") == pytest.approx(-(alpha * np.log(alpha)).sum(1).mean(), abs=6e-4)
                assert explorer.number("mean entropy") == pytest.approx(entropies[0, record, iteration], abs=6e-4)
                assert explorer.number("largest α") == pytest.approx(alpha.max(), abs=6e-4)
                for name, values in taus.items():
                    assert explorer.number(name) == pytest.approx(values[0, record, iteration], abs=6e-4)


@pytest.mark.parametrize("kind", ["landscape", "sampler"])
def test_what_is_computed_in_the_page_is_what_is_computed_here(explorer, kind):
    """That the numbers are right is a matter of the explorers' own tests."""
    run = run_of("anm_orthogonal", "inverse") if kind == "landscape" else run_of("stock", "sudoku")
    here = LandscapeExplorer(run) if kind == "landscape" else SamplerExplorer(run)
    label, _ = MOVED[kind]
    control = here.level if kind == "landscape" else here.state
    if kind == "landscape":
        explorer.press("Training step", "End")
    explorer.press(label, "Home")
    for place, value in enumerate(control.values):
        if place:
            explorer.press(label, "ArrowRight")
        control.value = value
        assert explorer.readouts == here.readouts
        assert explorer.alt == here.picture.alt


# last, as it makes the explorers anew


@every_explorer
def test_an_explorer_opens_again(explorer, kind, record_property):
    waits = [explorer.reopening_time() for _ in range(3)]
    text = f"{kind}: opened in {median(waits):.0f} ms beside {OTHERS} other runs (median of {len(waits)})"
    record_property("browser", text)
    assert explorer.too_wide() == []


def test_a_saved_notebook_shows_its_still_pictures_without_a_kernel(notebooks):
    """Live, the widgets hide them."""
    for name, count in zip(NOTEBOOKS, (3, 1), strict=True):
        page = notebooks[name].page
        page.bring_to_front()
        stills = page.locator(".jp-OutputArea:has(.anm-explorer) .jp-RenderedImage")
        assert stills.count() == count
        assert not any(still.is_visible() for still in stills.all())
        page.keyboard.press("Control+s")
        page.get_by_role("menuitem", name="Kernel", exact=True).click()
        page.get_by_role("menuitem", name="Shut Down Kernel", exact=True).click()
        page.wait_for_timeout(2000)
        page.reload()
        for still in page.locator(".jp-RenderedImage img[alt]").all()[-count:]:
            still.wait_for()


def test_nothing_was_asked_of_the_network(notebooks):
    assert [page.strangers for page in notebooks.values()] == [[], []]
