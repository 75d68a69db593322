"""What all explorers have in common: the list of runs, labels, words for those who cannot see, an empty store."""

import json
import shutil
import subprocess
import sys
import time
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import pytest
from ipywidgets import Widget
from stored_files import files

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


def as_run_of(identity, summary, run):
    """A stored run with another one's files, of another identity; the newest."""
    path = store_root() / key_of(identity)
    path.mkdir()
    contents = {name: (run.path / name).read_bytes() for name in run.manifest.files}
    summary = summary | {"finished_ns": time.time_ns()}
    Manifest.of(contents, identity, summary).write(path)
    for name, data in contents.items():
        (path / name).write_bytes(data)
    return Run(path)


def own_strategy(run, settings):
    """A run of a strategy that is defined elsewhere."""
    return as_run_of(run.manifest.identity | {"config": settings}, run.summary | {"method": "lost"}, run)


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
    explorer = kind()
    picker = explorer.picker
    newest_first = sorted(expected, key=lambda run: -run.manifest.summary["finished_ns"])
    assert picker.values == [run.key for run in newest_first]
    for label, key in zip(picker.input.options, picker.values, strict=True):
        run = Run(store_root() / key)
        assert label.startswith(f"{run.settings['task']}, size {run.settings['size']} · ")
        assert f"seeds {', '.join(map(str, run.settings['seeds']))}" in label
        assert label.endswith(key[:8])


def test_labels_name_every_field_that_differs_and_the_score(stored, copied):
    runs = list(stored.energies.values())
    rates = [1e-3, 2e-3, 4e-3]
    for place, lr in enumerate(rates):
        changes = {"lr": lr, "ema_decay": 0.5 + 0.1 * place, "negatives": {"name": "lost", "eps": lr}}
        own_strategy(runs[0], runs[0].settings | changes)
    explorer = MarginExplorer()
    labels = dict(zip(explorer.picker.values, explorer.picker.input.options, strict=True))
    for key, label in labels.items():
        run = Run(store_root() / key)
        settings = run.settings
        assert f" · lr = {settings['lr']} · " in label
        assert f" · ema_decay = {settings['ema_decay']} · " in label
        own = isinstance(settings["negatives"], dict) and settings["negatives"]["name"] == "lost"
        assert (f"eps = {settings['lr']} · " in label) == own
        metric = "board_accuracy" if settings["task"] == "sudoku" else "mse"
        last = files(run).metrics.groupby("seed")[metric].last().mean()
        shown = label.partition(f" · {metric} ")[2].partition(" · ")[0]
        assert float(shown) == pytest.approx(last, rel=5.1e-3)
    assert len({label.rsplit(" · ", 2)[0] for label in labels.values()}) == len(labels)


def test_a_strategy_is_one_of_the_runs_alike_in_everything_else(stored):
    explorer = MarginExplorer(stored.energies["anm"])
    assert set(explorer.strategy.values) == {run.key for run in stored.energies.values()}
    explorer.strategy.value = stored.energies["none"].key
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
    assert inputs[0] is explorer.picker.input  # Tab meets the run first


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


@every_explorer
def test_a_person_s_own_matplotlib_settings_change_no_picture(stored, kind):
    def pictures():
        explorer = kind()
        opened = explorer.picture.widget.value
        control = explorer.controls[-1]
        control.value = control.values[1]
        return opened, explorer.picture.widget.value, explorer._repr_mimebundle_()[0]["image/png"]

    expected = pictures()
    with mpl.rc_context(fname=HOSTILE):
        assert pictures() == expected


def test_what_a_run_is_called_is_text_in_the_page(stored, monkeypatch):
    """A strategy's name is a user's own, and may be anything."""
    explorer = MarginExplorer()
    hostile = '<img src=x onerror="alert(1)">'
    monkeypatch.setitem(explorer.run.summary, "method", hostile)
    explorer._redraw()
    assert len(Tags(explorer.picture.widget.value).tags) == 1
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
    data, _ = explorer._repr_mimebundle_()
    assert data["text/plain"] == alert.text
    assert "image/png" not in data


def in_sight(explorer):
    return [control.widget.layout.visibility != "hidden" for control in explorer.controls]


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
    assert not any(in_sight(explorer))
    explorer.step.value = explorer.step.values[0]  # a slider that plays on
    check_blank(explorer, "expected sha256")
    explorer.pick(good)
    assert "aria-live" in explorer.readout.value
    assert all(in_sight(explorer))
    explorer.step.value = explorer.step.values[-1]
    assert explorer.picture.png() == before


FAULTS = ["shortened", "missing", "a folder"]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [*((kind, "flipped") for kind in EXPLORERS), *((MarginExplorer, fault) for fault in FAULTS)],
    ids=lambda value: getattr(value, "name", value),
)
def test_whatever_befell_the_newest_run_an_explorer_opens(stored, store, tmp_path, monkeypatch, kind, fault):
    """File by file; either another run is shown, or none and the reason."""
    newest = kind().run.key
    for file in sorted(path.name for path in (store[0] / "runs" / newest).iterdir()):
        if (fault, file) == ("a folder", "manifest.json"):
            continue  # which stops the store's own list
        outputs = tmp_path / file
        folder = outputs / "runs" / newest
        shutil.copytree(store[0] / "runs", outputs / "runs")
        monkeypatch.setenv("ANM_NB_OUTPUTS", str(outputs))
        if fault == "flipped":
            flip(folder / file)
        elif fault == "shortened":
            (folder / file).write_bytes((folder / file).read_bytes()[:-7])
        else:
            (folder / file).unlink()
            if fault == "a folder":
                (folder / file).mkdir()
        explorer = kind()
        data, _ = explorer._repr_mimebundle_()
        shown = "image/png" in data
        assert shown == bool(explorer.readouts)
        if shown and explorer.run.key != newest:  # the damaged one is not in the list
            assert newest not in explorer.runs
        if not shown:
            assert file in data["text/plain"] or "no finished run" in data["text/plain"]


def test_a_damaged_manifest_is_named_beside_the_others(stored, copied):
    bad = copied[stored.energies["anm"].key]
    identity = bad.manifest.identity | {"config": {"seeds": [0, 1]}}
    as_run_of(identity, bad.summary | {"finished": "2026-13-01T00:00:00Z"}, bad)
    explorer = MarginExplorer()
    notes = [widget.value for widget in below(explorer.root) if "cannot be read" in str(getattr(widget, "value", ""))]
    assert len(notes) == 1
    (key,) = explorer.unreadable
    assert key in notes[0]
    with pytest.raises(ParameterError, match=f"{key} cannot be read"):
        MarginExplorer(Run(store_root() / key))


@every_explorer
def test_a_run_of_a_strategy_that_is_not_defined_here_is_shown(stored, copied, kind):
    """As the newest and as a picked one: its arrays and weights are all that is needed."""
    if kind is RoutingExplorer:
        pytest.skip("a ranking has no strategy")
    run = stored.energies["anm"]
    lost = own_strategy(run, {**run.settings, "negatives": {"name": "lost", "depth": 3}})
    with pytest.raises(ParameterError):
        assert lost.config
    explorer = kind()
    assert explorer.run.key == lost.key
    assert "lost" in explorer.picture.alt
    shown = explorer.readouts
    explorer.pick(run)
    assert explorer.readouts == shown


def test_a_margin_needs_no_class_at_all(stored, copied):
    """A task and a config of another notebook, too."""
    run = stored.energies["anm"]
    identity = run.manifest.identity | {"class": "elsewhere:OwnConfig", "config": run.settings | {"task": "lost"}}
    lost = as_run_of(identity, run.summary | {"task": "lost"}, run)
    explorer = MarginExplorer()
    assert explorer.run.key == lost.key
    assert explorer.readouts == MarginExplorer(run).readouts


@every_explorer
def test_where_a_run_was_trained_changes_nothing(stored, monkeypatch, kind):
    """Another kind of device draws other numbers from one seed: problems are those of the trace."""
    explorer = kind()
    provenance = stored.energies["anm"].provenance | {"device": "an accelerator"}
    monkeypatch.setattr(Run, "provenance", property(lambda run: provenance))
    assert kind().readouts == explorer.readouts


@every_explorer
def test_a_run_that_keeps_no_problems_says_so_or_shows_its_margins(stored, monkeypatch, kind):
    def without(run):
        trace = run._tensors("trace.safetensors")
        return {name: array for name, array in trace.items() if not name.startswith(("probe_", "dev_levels"))}

    monkeypatch.setattr(Run, "trace", property(without))
    explorer = kind()
    assert bool(explorer.readouts) == (kind is MarginExplorer)
    if kind is not MarginExplorer:
        check_blank(explorer, "keeps no problems", "train it again")


ERRORS = [KeyError("margins"), AssertionError(), MemoryError("too large"), RuntimeError("size mismatch"), EOFError()]


@pytest.mark.parametrize(
    ("kind", "error"),
    [*((MarginExplorer, error) for error in ERRORS), *((kind, ERRORS[0]) for kind in EXPLORERS[1:])],
    ids=lambda value: getattr(value, "name", type(value).__name__),
)
@pytest.mark.parametrize("step", ["open", "draw"])
def test_an_error_of_any_kind_blanks_the_picture(stored, monkeypatch, kind, step, error):
    explorer = kind()
    before = explorer.picture.png()

    def fails(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(kind, step, fails)
        explorer._pick()
        check_blank(explorer, type(error).__name__, str(error))
        check_blank(kind(), type(error).__name__)  # the newest when it is made
    explorer._pick()
    assert explorer.picture.png() == before


@every_explorer
def test_a_page_holds_pictures_and_words_and_no_arrays(stored, kind):
    """What goes to the browser is the picture, words and labels: no array of a run."""
    state = json.dumps([widget.get_state() for widget in below(kind().root)], default=lambda value: f"<{type(value)}>")
    assert len(state) < 1_000_000
    assert all(isinstance(widget, Widget) for widget in below(kind().root))
