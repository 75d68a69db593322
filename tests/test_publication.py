"""Published figures become reproducible files of a venue's width, with a manifest of the runs they used."""

import csv
import hashlib
import json
import re
import struct
from pathlib import Path

import nbformat
import pytest
from matplotlib.image import imread
from nbformat.v4 import new_code_cell, new_notebook
from typer.testing import CliRunner

from anm_nb.analysis import plots
from anm_nb.analysis.style import new_figure
from anm_nb.cli import app
from anm_nb.config import ParameterError
from anm_nb.files import project_root

DRAW = """
import pandas as pd
from anm_nb.analysis import kept
from anm_nb.analysis.plots import publish, seed_strips
from anm_nb.analysis.style import new_figure, use_style
from anm_nb.analysis.tables import final

use_style()
result = kept.load("10_anm_vs_corruption")
table = pd.DataFrame({"method": ["anm", "a_b"], "MSE": [0.05, -1e-3], "said": ["5 % & more", None]})
publish(seed_strips(final(result.metrics, "mse"), result.references), "anm_scores", table=table)
figure, axes = new_figure(1, 2, 2.0)
for panel in axes:
    panel.plot(range(size), label="a")
    panel.set(title="A title that is much too long for a column", xlabel="an axis label with several words in it")
publish(figure, "narrow", width="column")
figure.draw_without_rendering()
texts = [text for panel in axes for text in (panel._left_title, panel.xaxis.label)]
boxes = [text.get_window_extent() for text in texts]
assert all(text.get_fontsize() >= 6 and len(text.get_text().splitlines()) <= 2 for text in texts)
assert boxes[0].x1 < boxes[2].x0 and boxes[1].x1 < boxes[3].x0 and boxes[2].x1 < figure.bbox.width
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a notebook that publishes two figures, one that publishes none, and the kept results."""
    (tmp_path / "notebooks").mkdir()
    for name, source in {"10_draws": DRAW, "11_plain": "raise ValueError('not to be run')"}.items():
        cells = [new_code_cell("size = 9", metadata={"tags": ["parameters"]}), new_code_cell(source)]
        nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / f"{name}.ipynb")
    (tmp_path / "params" / "mid").mkdir(parents=True)
    monkeypatch.setattr("anm_nb.files.project_root", lambda: tmp_path)
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path


def figures(*arguments: str):
    return CliRunner().invoke(app, ["figures", *arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != "."}


def width(path: Path) -> float:
    """The width of a PDF, SVG or PNG in inches, as stored in the file."""
    data = path.read_bytes()
    if path.suffix == ".pdf":
        (box,) = re.findall(rb"/MediaBox \[ ([\d. ]+) \]", data)
        left, _, right, _ = map(float, box.split())
        return (right - left) / 72
    if path.suffix == ".svg":
        return float(re.search(rb'<svg [^>]*?width="([\d.]+)pt"', data)[1]) / 72
    start = data.index(b"pHYs") + 4
    return struct.unpack(">I", data[16:20])[0] / struct.unpack(">I", data[start : start + 4])[0] / 0.0254


def test_what_a_notebook_publishes_is_written_at_the_venue_s_width_the_same_bytes_twice(project, monkeypatch):
    ran = figures("--venue", "icml")
    assert ran.exit_code == 0, ran.output
    out = project / "outputs" / "figures" / "icml"
    first = contents(out)
    names = {f"{name}.{end}" for name in ("anm_scores", "narrow") for end in plots.UNDATED}
    assert set(first) == names | {"anm_scores.tex", "anm_scores.csv", "manifest.json"}
    for name, inches in (("anm_scores", 6.75), ("narrow", 3.25)):
        for end in plots.UNDATED:
            assert width(out / f"{name}.{end}") == pytest.approx(inches, abs=1 / 300)

    # hash seed, time zone, locale, clock and user matplotlib settings make no difference
    elsewhere = {"PYTHONHASHSEED": "4711", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "SOURCE_DATE_EPOCH": "86400"}
    elsewhere |= {"MATPLOTLIBRC": str(Path(__file__).with_name("hostile.matplotlibrc"))}
    for name, value in elsewhere.items():
        monkeypatch.setenv(name, value)
    again = project / "again"
    ran = figures("--venue", "icml", "--notebook", "10", "--out", str(again))
    assert contents(again) == first
    assert ran.stdout.splitlines()[-1] == str(again / "manifest.json")

    manifest = json.loads(first["manifest.json"])
    kept = json.loads((project_root() / "outputs/reference/10_anm_vs_corruption/provenance.json").read_text())
    for entry in manifest["figures"].values():
        assert entry["files"] == {file: hashlib.sha256(first[file]).hexdigest() for file in entry["files"]}
        assert [(run["method"], run["key"], run["commit"]) for run in entry["runs"]] == [
            (name, run["key"], run["provenance"]["commit"]) for name, run in kept.items()
        ]
    check_files(out)


def check_files(out: Path) -> None:
    """Check that PDFs embed TrueType fonts, SVGs need no font, PNGs are white at the rim, and no file has a date."""
    for name, data in contents(out).items():
        assert not re.search(rb"CreationDate|ModDate|<dc:date>|tIME", data), name
    for path in out.glob("*.pdf"):
        assert b"/FontFile2" in path.read_bytes()
        assert not re.search(rb"/Subtype /Type[13]\b|/FontFile3|/FontFile ", path.read_bytes())
    for path in out.glob("*.svg"):
        assert "<text" not in path.read_text(encoding="utf-8")
    for path in out.glob("*.png"):
        picture = imread(path)
        for rim in (picture[:2], picture[-2:], picture[:, :2], picture[:, -2:]):
            assert rim.min() > 0.95, path.name  # darker pixels would be part of something cut off
    tex = (out / "anm_scores.tex").read_text()
    assert r"anm & 0.05 & 5 \% \& more \\" in tex
    assert r"a\_b & -0.001 &  \\" in tex
    assert list(csv.reader((out / "anm_scores.csv").open(encoding="utf-8")))[2][1:] == ["a_b", "-0.001", ""]


def test_figures_of_other_notebooks_stay_and_names_are_unique(project, monkeypatch):
    out = project / "figures"
    out.mkdir()
    monkeypatch.setenv(plots.FIGURES, str(out))
    monkeypatch.setenv("ANM_NB_VENUE", "thesis")
    for notebook, name in (("10_draws", "b"), ("12_other", "a"), ("10_draws", "b")):
        monkeypatch.setenv(plots.NOTEBOOK, notebook)
        plots.publish(new_figure(1, 1, 2)[0], name)
    venue, listed = plots.published(out)
    assert (venue, list(listed)) == ("thesis", ["a", "b"])
    with pytest.raises(ParameterError, match="10_draws and 12_other publish 'a': rename one"):
        plots.publish(new_figure(1, 1, 2)[0], "a")
    refused = figures("--venue", "icml", "--out", str(out))
    assert (refused.exit_code, "holds figures for thesis; choose another folder" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--venue", "icmll"], "unknown venue 'icmll' (did you mean 'icml'?)"),
        (["--venue", "icml", "--notebook", "10_darws"], "unknown notebook '10_darws' (did you mean '10_draws'?)"),
        (["--venue", "icml", "--profile", "mif"], "unknown profile 'mif' (did you mean 'mid'?)"),
        (["--venue", "icml", "--notebook", "11"], "none of these notebooks publishes a figure"),
    ],
)
def test_refusals_come_before_anything_runs(project, arguments, message):
    refused = figures(*arguments)
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert not (project / "outputs").exists()


def test_outside_that_command_publishing_only_returns_the_figure(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    figure, _ = new_figure(1, 1, 2)
    assert plots.publish(figure, "a") is figure
    for bad in ("a/b", "../a", "", "τ"):
        with pytest.raises(ParameterError, match="as it names files"):
            plots.publish(figure, bad)
    with pytest.raises(ParameterError, match="width = 'page': 'column' or 'text'"):
        plots.publish(figure, "a", width="page")
    assert not list(tmp_path.iterdir())
