"""What all explorers have in common: the list of runs, words for those who cannot see, runs that cannot be shown."""

import shutil
import subprocess
import sys
import time
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import pytest

from anm_nb.config import ParameterError
from anm_nb.run import Manifest, key_of
from anm_nb.store import Run, store_root
from anm_nb.widgets import LandscapeExplorer, MarginExplorer, RoutingExplorer, SamplerExplorer

HOSTILE = Path(__file__).resolve().parents[1] / "hostile.matplotlibrc"
EXPLORERS = [MarginExplorer, LandscapeExplorer, RoutingExplorer, SamplerExplorer]
every_explorer = pytest.mark.parametrize("kind", EXPLORERS, ids=lambda kind: kind.name)


class Tags(HTMLParser):
    """The tags of a piece of HTML with their attributes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def below(widget):
    """A widget and all within it, in the order in which Tab meets them."""
    return [widget, *(found for child in getattr(widget, "children", ()) for found in below(child))]


def picture(explorer):
    ((tag, attributes),) = Tags(explorer.picture.widget.value).tags
    assert tag == "img"
    return attributes


@pytest.fixture
def copied(stored, store, tmp_path, monkeypatch):
    """A store of one's own, to be damaged."""
    shutil.copytree(store[0] / "runs", tmp_path / "runs")
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    return {run.key: Run(tmp_path / "runs" / run.key) for run in (*stored.energies.values(), stored.board)}


def own_strategy(run, **settings):
    """A run with another one's files, of a strategy that is defined elsewhere; the newest."""
    changed = run.settings | {"negatives": {"name": "lost"}} | settings
    identity = run.manifest.identity | {"config": changed}
    path = store_root() / key_of(identity)
    path.mkdir()
    contents = {name: (run.path / name).read_bytes() for name in run.manifest.files}
    summary = run.summary | {"method": "lost", "task": changed["task"], "finished_ns": time.time_ns()}
    Manifest.of(contents, identity, summary).write(path)
    for name, data in contents.items():
        (path / name).write_bytes(data)
    return Run(path)


def test_the_package_does_not_bring_widgets_along_unasked():
    code = "import sys, anm_nb, anm_nb.analysis; print([m for m in ('ipywidgets', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@every_explorer
def test_the_picker_lists_exactly_the_finished_runs_of_its_kind_newest_first(stored, kind):
    (store_root() / "never-finished").mkdir(exist_ok=True)  # a folder without a manifest
    matrices = list(stored.energies.values())
    expected = {LandscapeExplorer: matrices, RoutingExplorer: [stored.ranking]}.get(kind, [*matrices, stored.board])
    explorer = kind()
    newest_first = sorted(expected, key=lambda run: -run.summary["finished_ns"])
    assert explorer.picker.values == [run.key for run in newest_first]
    assert explorer.run.key == newest_first[0].key
    for label, run in zip(explorer.picker.input.options, newest_first, strict=True):
        assert label.startswith(f"{run.settings['task']}, size {run.settings['size']} · ")
        assert f"seeds 0, 1 · {run.summary['steps']} steps" in label
        assert label.endswith(run.key[:8])


def test_labels_name_every_field_that_differs_and_no_metrics_are_read(stored, copied, monkeypatch):
    for lr in (1e-3, 2e-3, 4e-3):
        own_strategy(stored.energies["none"], lr=lr, ema_decay=0.5 + lr, negatives={"name": "lost", "eps": lr})
    opened = []
    read = Run.file
    monkeypatch.setattr(Run, "file", lambda run, name: opened.append(run.key) or read(run, name))
    explorer = MarginExplorer()
    assert set(opened) == {explorer.run.key}
    labels = dict(zip(explorer.picker.values, explorer.picker.input.options, strict=True))
    for key, label in labels.items():
        settings = Run(store_root() / key).settings
        assert f" · lr = {settings['lr']} · " in label
        assert f" · ema_decay = {settings['ema_decay']} · " in label
        own = isinstance(settings["negatives"], dict) and settings["negatives"]["name"] == "lost"
        assert (f"eps = {settings['lr']} · " in label) == own
    assert len({label.rsplit(" · ", 2)[0] for label in labels.values()}) == len(labels)


def test_a_strategy_is_one_of_the_runs_alike_in_everything_else(stored):
    explorer = MarginExplorer(stored.energies["anm"])
    assert set(explorer.strategy.values) == {run.key for run in stored.energies.values()}
    explorer.strategy.value = stored.energies["none"].key
    assert explorer.run.key == stored.energies["none"].key
    assert "no negatives" in picture(explorer)["alt"]


def test_a_run_that_cannot_be_shown_is_refused(stored):
    with pytest.raises(ParameterError, match=stored.ranking.key):
        MarginExplorer(stored.ranking)


@every_explorer
def test_every_control_is_labelled_and_every_value_has_its_own_picture_words_and_read_outs(stored, kind):
    explorer = kind()
    inputs = [widget for widget in below(explorer.root) if hasattr(widget, "index") or hasattr(widget, "playing")]
    assert inputs[0] is explorer.picker.input  # Tab meets the run first
    for widget in inputs:
        assert widget.description
        assert widget.tooltip
        assert any(name.startswith(("anm-control-", "anm-play-")) for name in widget._dom_classes)
    for control in explorer.controls:
        seen, pictures = set(), set()
        for place in range(len(control.values)):
            (control.play or control.input).set_trait("value" if control.play else "index", place)
            attributes = picture(explorer)
            assert attributes["alt"] == explorer.picture.alt
            assert b64decode(attributes["src"].removeprefix("data:image/png;base64,"))[:4] == b"\x89PNG"
            told = Tags(explorer.readout.value)
            assert ("div", {"role": "status", "aria-live": "polite"}) in told.tags
            assert told.text == "; ".join(f"{name} {value}" for name, value in explorer.readouts.items())
            seen.add(attributes["alt"])
            pictures.add(attributes["src"])
        if control.name != "bar":
            assert len(seen) == len(pictures) == len(control.values), control.name


@every_explorer
def test_a_way_there_and_back_ends_with_the_picture_of_its_beginning(stored, kind):
    """Nothing of one picture is left in another."""
    explorer = kind()
    before = explorer.picture.png()
    for control in explorer.controls:
        start = control.value
        for value in (*control.values, start):
            control.value = value
        assert explorer.picture.png() == before, control.name
    for run in [run for run in explorer.runs.values() if run.key != explorer.run.key]:
        own = explorer.run
        explorer.pick(run)
        explorer.pick(own)
        assert explorer.readouts == kind(own).readouts


@every_explorer
def test_an_empty_store_says_what_to_run(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "nothing <here>"))
    explorer = kind()
    data, _ = explorer.still()
    assert "no finished run" in data["text/plain"]
    assert "run notebook" in data["text/plain"]
    assert "image/png" not in data
    assert "<here>" not in explorer.readout.value
    assert "<here>" in Tags(explorer.readout.value).text


@every_explorer
def test_a_still_picture_and_its_words_stand_before_the_widgets(stored, kind, monkeypatch):
    shown = []
    monkeypatch.setattr("anm_nb.widgets.explorer.display", lambda data, **options: shown.append((data, options)))
    explorer = kind()
    explorer._ipython_display_()
    (still, options), (live, _) = shown
    assert still["image/png"][:4] == b"\x89PNG"
    assert options["metadata"]["image/png"]["alt"] == explorer.picture.alt
    assert all(f"{name}: {value}" in still["text/plain"] for name, value in explorer.readouts.items())
    assert "application/vnd.jupyter.widget-view+json" in live


@every_explorer
def test_a_person_s_own_matplotlib_settings_change_no_picture(stored, kind):
    def pictures():
        explorer = kind()
        opened = explorer.picture.widget.value
        control = explorer.controls[-1]
        control.value = control.values[1]
        return opened, explorer.picture.widget.value, explorer.still()[0]["image/png"]

    expected = pictures()
    with mpl.rc_context(fname=HOSTILE):
        assert pictures() == expected


def test_what_a_run_is_called_is_text_in_the_page(stored, monkeypatch):
    """A strategy's name is a user's own, and may be anything."""
    explorer = MarginExplorer()
    hostile = '<img src=x onerror="alert(1)">'
    monkeypatch.setitem(explorer.run.summary, "method", hostile)
    explorer._redraw()
    assert hostile in picture(explorer)["alt"]
    explorer._present("alt", {hostile: hostile})
    assert [tag for tag, _ in Tags(explorer.readout.value).tags] == ["div", "b"]


# runs that cannot be shown


def check_blank(explorer, *words):
    """No picture, no numbers and no controls of another run; the reason in their place, in the page and outside it."""
    alert = Tags(explorer.readout.value)
    assert alert.tags == [("p", {"role": "alert"})]
    assert all(word in alert.text for word in words)
    assert explorer.picture.widget.value == explorer.picture.alt == ""
    assert explorer.readouts == {}
    assert explorer.still() == ({"text/plain": alert.text}, {})


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_run_that_has_changed_on_disk_says_so_in_place_of_its_picture_and_numbers(stored, copied):
    good, bad = (copied[stored.energies[name].key] for name in ("none", "anm"))
    flip(bad.path / "trace.safetensors")
    explorer = MarginExplorer(good)
    before = explorer.picture.png()
    explorer.pick(bad)
    check_blank(explorer, "trace.safetensors", "expected sha256")
    assert all(control.widget.layout.visibility == "hidden" for control in explorer.controls)
    explorer.step.value = explorer.step.values[0]  # a slider that plays on
    check_blank(explorer, "expected sha256")
    explorer.pick(good)
    assert all(control.widget.layout.visibility == "visible" for control in explorer.controls)
    explorer.step.value = explorer.step.values[-1]
    assert explorer.picture.png() == before


@every_explorer
def test_whatever_file_of_the_newest_run_was_changed_an_explorer_opens(stored, store, tmp_path, monkeypatch, kind):
    """Either another run is shown, or none and the reason."""
    newest = kind().run.key
    for file in sorted(path.name for path in (store[0] / "runs" / newest).iterdir()):
        shutil.copytree(store[0] / "runs", tmp_path / file / "runs")
        monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / file))
        flip(tmp_path / file / "runs" / newest / file)
        explorer = kind()
        data, _ = explorer.still()
        assert ("image/png" in data) == bool(explorer.readouts)
        if explorer.readouts:
            assert file not in ("trace.safetensors", "manifest.json") or explorer.run.key != newest
        else:
            assert file in data["text/plain"] or "no finished run" in data["text/plain"]


def test_a_damaged_manifest_is_named_beside_the_others(stored, copied):
    lost = own_strategy(stored.energies["anm"])
    content = {name: (lost.path / name).read_bytes() for name in lost.manifest.files}
    summary = lost.summary | {"finished": "2026-13-01T00:00:00Z"}
    Manifest.of(content, lost.manifest.identity, summary).write(lost.path)
    notes = [str(getattr(widget, "value", "")) for widget in below(MarginExplorer().root)]
    assert any("cannot be read" in note and lost.key in note for note in notes)
    with pytest.raises(ParameterError, match=f"{lost.key} cannot be read"):
        MarginExplorer(lost)


@pytest.mark.parametrize("kind", [MarginExplorer, LandscapeExplorer, SamplerExplorer])
def test_the_newest_run_is_shown_though_its_strategy_is_not_defined_here(stored, copied, kind):
    run = stored.energies["anm"]
    lost = own_strategy(run, negatives={"name": "lost", "depth": 3})
    with pytest.raises(ParameterError):
        assert lost.config
    explorer = kind()
    assert explorer.run.key == lost.key
    assert "lost" in explorer.picture.alt
    shown = explorer.readouts
    explorer.pick(run)
    assert explorer.readouts == shown


def test_a_margin_needs_no_class_of_a_task_either(stored, copied):
    lost = own_strategy(stored.energies["anm"], task="lost")
    explorer = MarginExplorer()
    assert explorer.run.key == lost.key
    assert explorer.readouts == MarginExplorer(stored.energies["anm"]).readouts


@every_explorer
def test_a_run_that_keeps_no_problems_says_so_or_shows_its_margins(stored, monkeypatch, kind):
    read = Run._tensors

    def without(run, name):
        return {key: array for key, array in read(run, name).items() if not key.startswith(("probe_", "dev_levels"))}

    monkeypatch.setattr(Run, "_tensors", without)
    explorer = kind()
    assert bool(explorer.readouts) == (kind is MarginExplorer)
    if kind is not MarginExplorer:
        check_blank(explorer, "keeps no problems", "train it again")
        return
    assert explorer.level.values == [None]
    explorer.bar.value = 20
    assert "the run keeps no pairs" in explorer.picture.alt


@every_explorer
def test_where_a_run_was_trained_changes_nothing(stored, monkeypatch, kind):
    """Another kind of device draws other numbers from one seed: problems are those of the trace."""
    expected = kind().readouts
    assert expected
    monkeypatch.setattr(Run, "provenance", property(lambda run: {"device": "cuda an accelerator", "torch": "9.9"}))
    assert kind().readouts == expected


@every_explorer
@pytest.mark.parametrize("step", ["open", "draw"])
def test_an_error_of_any_kind_blanks_the_picture(stored, monkeypatch, kind, step):
    explorer = kind()
    before = explorer.picture.png()
    for error in (KeyError("margins"), AssertionError(), MemoryError("too large"), EOFError()):
        with monkeypatch.context() as patch:
            patch.setattr(kind, step, lambda *args, error=error: (_ for _ in ()).throw(error))
            explorer._pick()
            check_blank(explorer, type(error).__name__, str(error))
    explorer._pick()
    assert explorer.picture.png() == before
