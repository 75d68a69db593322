"""What all explorers have in common: the list of runs, labels, words for those who cannot see, an empty store."""

import json
import subprocess
import sys
from base64 import b64decode
from html.parser import HTMLParser

import pytest
from ipywidgets import Widget

from anm_nb.analysis.widgets import LandscapeExplorer, MarginExplorer, RoutingExplorer, SamplerExplorer
from anm_nb.config import ParameterError
from anm_nb.store import Run, store_root

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


def test_the_package_does_not_bring_widgets_along_unasked():
    code = "import sys, anm_nb, anm_nb.analysis; print([m for m in ('ipywidgets', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@every_explorer
def test_the_picker_lists_exactly_the_finished_runs_of_its_kind_newest_first(stored, kind):
    (store_root() / "never-finished").mkdir(exist_ok=True)  # a folder without a manifest
    matrices = list(stored.energies.values())
    expected = {
        MarginExplorer: [*matrices, stored.board],
        SamplerExplorer: [*matrices, stored.board],
        LandscapeExplorer: matrices,
        RoutingExplorer: list(stored.rankings.values()),
    }[kind]
    picker = kind().picker
    newest_first = sorted(expected, key=lambda run: -run.manifest.summary["finished_ns"])
    assert picker.run.values == [run.key for run in newest_first]
    for label, key in zip(picker.run.input.options, picker.run.values, strict=True):
        run = Run(store_root() / key)
        assert label.startswith(f"{run.settings['task']}, size {run.settings['size']} · ")
        assert f"seeds {', '.join(map(str, run.settings['seeds']))}" in label
        assert label.endswith(key[:8])


def test_runs_of_one_description_are_told_apart_by_what_differs(stored):
    labels = MarginExplorer().picker.run.input.options
    assert len({label.rsplit(" · ", 2)[0] for label in labels}) == len(labels)


def test_a_strategy_is_one_of_the_runs_alike_in_everything_else(stored):
    explorer = MarginExplorer(stored.energies["anm"])
    assert set(explorer.picker.strategy.values) == {run.key for run in stored.energies.values()}
    explorer.picker.strategy.value = stored.energies["none"].key
    assert explorer.run.key == stored.energies["none"].key
    assert "no negatives" in picture(explorer)["alt"]


def test_a_run_that_cannot_be_shown_is_refused(stored):
    with pytest.raises(ParameterError, match=stored.rankings["hrm"].key):
        MarginExplorer(stored.rankings["hrm"])


@every_explorer
def test_every_control_is_labelled_and_found_by_its_class(stored, kind):
    explorer = kind()
    inputs = [widget for widget in below(explorer.root) if hasattr(widget, "index") or hasattr(widget, "playing")]
    assert len(inputs) >= 5
    for widget in inputs:
        assert widget.description
        assert widget.tooltip
        assert any(name.startswith(("anm-control-", "anm-play-")) for name in widget._dom_classes)
    assert {"anm-explorer", f"anm-{kind.name}-explorer"} <= set(explorer.root._dom_classes)
    assert inputs[0] is explorer.picker.run.input  # Tab meets the run first


@every_explorer
def test_every_picture_has_its_own_words_and_they_follow_it(stored, kind):
    explorer = kind()
    for control in explorer.controls:
        seen = set()
        for value in control.values:
            control.value = value
            attributes = picture(explorer)
            assert attributes["alt"] == explorer.picture.alt
            assert b64decode(attributes["src"].removeprefix("data:image/png;base64,"))[:4] == b"\x89PNG"
            seen.add(attributes["alt"])
        if control.name != "bar":
            assert len(seen) == len(control.values), control.name


@every_explorer
def test_read_outs_in_the_page_are_those_of_the_explorer(stored, kind):
    explorer = kind()
    parsed = Tags(explorer.readout.value)
    assert ("div", {"role": "status", "aria-live": "polite"}) in parsed.tags
    assert [attributes["data-readout"] for tag, attributes in parsed.tags if tag == "b"] == list(explorer.readouts)
    assert parsed.text == "; ".join(f"{name} {value}" for name, value in explorer.readouts.items())


@every_explorer
def test_playing_goes_through_every_value_to_the_last(stored, kind):
    explorer = kind()
    playable = [control for control in explorer.controls if getattr(control, "play", None)]
    assert playable
    for control in playable:
        assert control.play.max == len(control.values) - 1
        shown = []
        for frame in range(control.play.max + 1):
            control.play.value = frame
            assert control.value == control.values[frame]
            shown.append(explorer.picture.widget.value)
        assert len(set(shown)) == len(shown)


@every_explorer
def test_an_empty_store_says_what_to_run(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "nothing <here>"))
    explorer = kind()
    data, _ = explorer._repr_mimebundle_()
    assert "no finished run" in data["text/plain"]
    assert "run notebook" in data["text/plain"]
    assert "image/png" not in data
    assert "<here>" not in explorer.readout.value
    assert "<here>" in Tags(explorer.readout.value).text


@every_explorer
def test_a_still_picture_and_its_words_stand_in_where_widgets_cannot_run(stored, kind):
    explorer = kind()
    data, metadata = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["image/png"][:4] == b"\x89PNG"
    assert metadata["image/png"]["alt"] == explorer.picture.alt
    for name, value in explorer.readouts.items():
        assert f"{name}: {value}" in data["text/plain"]


def test_what_a_run_is_called_is_text_in_the_page(stored, monkeypatch):
    """A strategy's name is a user's own, and may be anything."""
    explorer = MarginExplorer()
    hostile = '<img src=x onerror="alert(1)">'
    monkeypatch.setitem(explorer.picker.stored.listed.summary, "method", hostile)
    explorer._redraw()
    assert len(Tags(explorer.picture.widget.value).tags) == 1
    assert hostile in picture(explorer)["alt"]
    explorer._present("alt", {hostile: hostile})
    assert [tag for tag, _ in Tags(explorer.readout.value).tags] == ["div", "b"]


def test_a_run_that_has_changed_on_disk_says_so_in_place_of_its_numbers(stored, store, tmp_path, monkeypatch):
    import shutil

    shutil.copytree(store[0] / "runs", tmp_path / "runs")
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    changed = tmp_path / "runs" / stored.energies["anm"].key / "trace.safetensors"
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    explorer = MarginExplorer(Run(tmp_path / "runs" / stored.energies["none"].key))
    explorer.pick(Run(changed.parent))
    assert '<p role="alert">' in explorer.readout.value
    assert "expected sha256" in explorer.readout.value
    explorer.pick(stored.energies["none"])
    assert "aria-live" in explorer.readout.value


@every_explorer
def test_a_page_holds_pictures_and_words_and_no_arrays(stored, kind):
    """What goes to the browser is the picture, words and labels: no array of a run."""
    state = json.dumps([widget.get_state() for widget in below(kind().root)], default=lambda value: f"<{type(value)}>")
    assert len(state) < 1_000_000
    assert all(isinstance(widget, Widget) for widget in below(kind().root))
