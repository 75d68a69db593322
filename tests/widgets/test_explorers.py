"""Common behaviour of the explorers: the list of runs, alternative texts, a second run, runs that cannot be shown."""

import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from anm_nb.analysis.style import PAGE
from anm_nb.config import ParameterError
from anm_nb.identity import key_of
from anm_nb.store import Run, store_root, write_manifest
from anm_nb.widgets import (
    LandscapeExplorer,
    MarginExplorer,
    RoutingExplorer,
    SamplerExplorer,
    project_runs,
)
from anm_nb.widgets.explorer import nearest

EXPLORERS = {"margin": MarginExplorer, "landscape": LandscapeExplorer, "routing": RoutingExplorer,
             "sampler": SamplerExplorer}  # fmt: skip
every_explorer = pytest.mark.parametrize("kind", EXPLORERS)
WIDGET = "application/vnd.jupyter.widget-view+json"


class Tags(HTMLParser):
    """The tags of an HTML fragment with their attributes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def below(widget):
    """A widget and its descendants, in tab order."""
    return [widget, *(found for child in getattr(widget, "children", ()) for found in below(child))]


def lists(explorer):
    """Controls with options."""
    return [(name, given) for name, given in explorer.inputs.items() if hasattr(given, "index")]


@pytest.fixture
def copied(stored, store, tmp_path, monkeypatch):
    """A copy of the store, which a test may damage."""
    shutil.copytree(store[0] / "runs", tmp_path / "runs")
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    return {run.key: Run(tmp_path / "runs" / run.key) for run in (*stored.energies.values(), stored.board)}


@pytest.fixture
def shown(monkeypatch):
    """The outputs that a cell displays for an explorer, in order, as data by MIME type."""

    def outputs(explorer):
        displayed = []
        monkeypatch.setattr("anm_nb.widgets.explorer.display", lambda data, **options: displayed.append(data))
        explorer._ipython_display_()
        return displayed

    return outputs


def own_strategy(run, **settings):
    """Store a new run with the files of another one and an undefined negative strategy; it is the newest."""
    changed = run.settings | {"negatives": {"name": "lost"}} | settings
    identity = run.manifest["identity"] | {"config": changed}
    path = store_root() / key_of(identity)
    path.mkdir()
    contents = {name: (run.path / name).read_bytes() for name in run.manifest["files"]}
    summary = run.summary | {"method": "lost", "task": changed["task"], "finished_ns": time.time_ns()}
    write_manifest(path, contents, identity, summary)
    for name, data in contents.items():
        (path / name).write_bytes(data)
    return Run(path)


def check_blank(explorer, *words):
    """Check that the reason replaces picture and numbers."""
    alert = Tags(explorer.readout.value)
    assert alert.tags == [("p", {"role": "alert"})]
    assert all(word in alert.text for word in words)
    assert explorer.picture.value == explorer.alt == ""
    assert explorer.readouts == []
    assert explorer.unshown == alert.text
    assert explorer.save.disabled


# the list of runs


def test_labels_name_the_score_and_every_field_that_differs(stored, copied):
    for lr in (1e-3, 2e-3, 4e-3):
        own_strategy(stored.energies["none"], lr=lr, ema_decay=0.5 + lr, negatives={"name": "lost", "eps": lr})
    (store_root() / "never-finished").mkdir()  # a folder without a manifest
    labels = MarginExplorer().labels
    finished = [Run(store_root() / key).summary["finished_ns"] for key in labels]
    assert finished == sorted(finished, reverse=True)
    assert len(finished) == 6
    for key, label in labels.items():
        run = Run(store_root() / key)
        settings, last = run.settings, run.metrics.groupby("seed").last()
        assert f" · lr = {settings['lr']} · " in label
        assert f" · ema_decay = {settings['ema_decay']} · " in label
        own = isinstance(settings["negatives"], dict) and settings["negatives"]["name"] == "lost"
        assert (f"eps = {settings['lr']} · " in label) == own
        name, score = label.split(" · ")[1].split(" ")
        assert float(score) == pytest.approx(last[name].mean(), rel=5e-3)
    assert len({label.rsplit(" · ", 1)[0] for label in labels.values()}) == len(labels)


def test_a_run_that_cannot_be_shown_is_refused(stored):
    with pytest.raises(ParameterError, match=stored.ranking.key):
        MarginExplorer(stored.ranking)


def test_an_empty_store_says_what_to_run(stored, tmp_path, monkeypatch, shown):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "nothing <here>"))
    explorer = MarginExplorer()
    still, live = shown(explorer)
    assert WIDGET in live
    assert "no finished run" in Tags(still["text/html"]).text
    assert "run notebook" in still["text/plain"]
    assert "<here>" not in explorer.readout.value
    assert "<here>" in Tags(explorer.readout.value).text


@every_explorer
def test_the_projects_own_runs_are_shown_with_an_empty_store(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    models = project_runs()
    assert models.keys() == {"inverse stock", "inverse anm_orthogonal", "sudoku none", "hinted_sort token"}
    size = sum(file.stat().st_size for run in models.values() for file in run.path.iterdir())
    assert size < 3 * 2**20
    explorer = EXPLORERS[kind]()
    for key in explorer.runs:
        explorer.picker.value = key
        assert not explorer.unshown
    if kind == "sampler":  # it solves the board
        assert SamplerExplorer(models["sudoku none"]).readouts[0]["wrong cells"].startswith("0 of ")
    if kind == "routing":  # it opens at the iteration where items differ most
        assert explorer.readouts[0]["method"] == "HRM per token"
        alphas = models["hinted_sort token"].trace["alphas"][0, -1, 0]
        assert explorer.inputs["iteration"].value == 1 + alphas.std(1, correction=0).mean(1).argmax()


# pictures, words and a second run


@every_explorer
def test_every_control_is_labelled_and_every_value_has_its_own_picture_words_and_read_outs(stored, kind):
    explorer = EXPLORERS[kind]()
    inputs = [widget for widget in below(explorer.root) if hasattr(widget, "index")]
    assert inputs[:2] == [explorer.picker, explorer.beside]  # the pickers come first in tab order
    for widget in inputs:
        assert widget.description
        assert widget.tooltip
    for name, given in lists(explorer):
        seen, before = set(), given.index
        places = range(len(given.options))[:4]
        for place in places:
            mover = explorer.players.get(name, given)
            mover.set_trait("value" if name in explorer.players else "index", place)
            _, (tag, attributes), *_ = Tags(explorer.picture.value).tags
            assert (tag, attributes["alt"]) == ("img", explorer.alt)
            readout = Tags(explorer.readout.value)
            assert ("div", {"role": "status", "aria-live": "polite"}) in readout.tags
            assert readout.text == "; ".join(f"{name} {value}" for name, value in explorer.readouts[0].items())
            seen.add((attributes["alt"], attributes["src"]))
        words, pictures = map(set, zip(*seen, strict=True))
        assert len(words) == len(places), name
        assert len(pictures) == len(places) or (kind, name) == ("margin", "level")  # some levels have no pairs
        given.index = before


@pytest.mark.parametrize("kind", ["margin", "landscape", "sampler"])
def test_two_runs_stand_on_shared_axes_each_with_its_own_numbers(stored, kind):
    none, anm = (stored.energies[name] for name in ("none", "anm"))
    explorer = EXPLORERS[kind](anm, none)
    assert [numbers["method"] for numbers in explorer.readouts] == ["ANM as written", "no negatives"]
    assert explorer.readouts == [EXPLORERS[kind](run).readouts[0] for run in (anm, none)]
    for upper, lower in explorer.axes.T:
        assert upper.get_xlim() == lower.get_xlim()
        assert upper.images or upper.get_ylim() == lower.get_ylim()
    if kind == "margin":
        bars = [axes.patches[0].get_data().edges.tolist() for axes in explorer.axes[:, 0]]
        assert bars[0] == bars[1]
    assert "ANM as written" in explorer.alt
    assert "no negatives" in explorer.alt
    explorer.beside.value = ""
    assert explorer.image("png") == EXPLORERS[kind](anm).image("png")


def test_a_second_run_without_the_value_shows_its_nearest():
    assert nearest(["all", 0, 1, 2], "all") == "all"
    assert nearest(["all", 0, 1, 2], 9) == 2
    assert nearest([0, 40, 100], 60) == 40


def test_a_still_picture_and_its_words_stand_before_the_widgets(stored, shown):
    explorer = RoutingExplorer()
    still, style, live = shown(explorer)
    assert still["image/png"][:4] == b"\x89PNG"
    assert all(f"{name} {value}" in still["text/plain"] for name, value in explorer.readouts[0].items())
    assert "anm-still" in style["text/html"]
    assert WIDGET in live


def test_a_saved_figure_has_the_page_s_width_and_leaves_the_picture_as_it_is(stored, tmp_path, monkeypatch):
    explorer = RoutingExplorer()
    before = explorer.image("png")
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    explorer.save.click()
    path = Path(Tags(explorer.saved.value).text.split(": ", 1)[1])
    assert path.name.startswith(f"routing-{explorer.picker.value[:8]}-")
    assert {file.suffix for file in tmp_path.rglob(f"{path.stem}.*")} == {".pdf", ".svg", ".png"}
    assert Image.open(path.with_suffix(".png")).size[0] == round(300 * PAGE.text)
    assert explorer.image("png") == before
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(path))  # a file in the folder's place
    explorer.save.click()
    assert "Not saved: " in explorer.saved.value


# runs that cannot be shown


def test_a_run_that_has_changed_on_disk_says_so_in_place_of_its_picture_and_numbers(stored, copied):
    good, bad = (copied[stored.energies[name].key] for name in ("none", "anm"))
    data = bytearray((bad.path / "trace.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (bad.path / "trace.safetensors").write_bytes(data)
    explorer = MarginExplorer(good)
    before = explorer.image("png")
    explorer.picker.value = bad.key
    check_blank(explorer, "trace.safetensors", "expected sha256")
    assert explorer.box.layout.visibility == "hidden"
    explorer.inputs["step"].index = 0  # a slider that is still playing
    check_blank(explorer, "expected sha256")
    explorer.picker.value = good.key
    assert explorer.box.layout.visibility == "visible"
    explorer.inputs["step"].index = len(explorer.inputs["step"].options) - 1
    assert explorer.image("png") == before


@pytest.mark.parametrize("kind", ["margin", "landscape", "sampler"])
def test_the_newest_run_is_shown_though_its_strategy_is_not_defined_here(stored, copied, kind):
    run = stored.energies["anm"]
    lost = own_strategy(run, negatives={"name": "lost", "depth": 3}, a_field_of_another_version=1)
    with pytest.raises(ParameterError):
        assert lost.config
    explorer = EXPLORERS[kind]()
    assert explorer.picker.value == lost.key
    (numbers,) = explorer.readouts
    assert numbers.pop("method") == "lost"
    explorer.picker.value = run.key
    assert explorer.readouts[0].items() >= numbers.items()
    if kind == "margin":  # it needs no task class either
        assert MarginExplorer(own_strategy(run, task="lost")).readouts[0].items() >= numbers.items()


@pytest.mark.parametrize("step", ["__init__", "draw"])
def test_an_error_of_any_kind_blanks_the_picture(stored, monkeypatch, step):
    explorer = MarginExplorer()
    before = explorer.image("png")
    error = MemoryError("too large")
    with monkeypatch.context() as patch:
        patch.setattr(explorer.view, step, lambda *args: (_ for _ in ()).throw(error))
        explorer.redraw()
        check_blank(explorer, "MemoryError: too large")
    explorer.redraw()
    assert explorer.image("png") == before
