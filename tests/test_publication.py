"""Figures for a paper: as wide as the venue wants, the same bytes everywhere, and tied to the runs behind them."""

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.image import imread
from matplotlib.text import Text
from typer.testing import CliRunner

from anm_nb import publication
from anm_nb.analysis.fitting import fit
from anm_nb.analysis.reference import DISPLAYS, reference_root
from anm_nb.cli import app
from anm_nb.config import ParameterError

WIDTHS = {"icml": (3.25, 6.75), "neurips": (5.5, 5.5), "thesis": (6.0, 6.0)}  # column, text
FEW = ["anm_scores", "anm_curves"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A few figures and tables for a page of two columns."""
    folder = tmp_path_factory.mktemp("few") / "icml"
    publication.export("icml", folder, FEW)
    return folder


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    """All figures and tables for a page of one column."""
    folder = tmp_path_factory.mktemp("every") / "neurips"
    publication.export("neurips", folder, [])
    return folder


def pdf_width(path: Path) -> float:
    """In inches."""
    (box,) = re.findall(rb"/MediaBox \[ ([\d. ]+) \]", path.read_bytes())
    left, _, right, _ = map(float, box.split())
    return (right - left) / 72


def png_width(path: Path) -> float:
    """In inches, by the pixels a metre that the file itself names."""
    data = path.read_bytes()
    (pixels,) = struct.unpack(">I", data[16:20])
    start = data.index(b"pHYs") + 4
    return pixels / struct.unpack(">I", data[start : start + 4])[0] / 0.0254


def svg_width(path: Path) -> float:
    return float(re.search(r'<svg [^>]*?width="([\d.]+)pt"', path.read_text(encoding="utf-8"))[1]) / 72


@pytest.mark.parametrize("venue", WIDTHS)
def test_files_are_as_wide_as_the_venue_s_page(venue, few, every, tmp_path):
    column, text = WIDTHS[venue]
    made = {"icml": few, "neurips": every}.get(venue)
    if made is None:
        made = tmp_path
        publication.export(venue, made, ["anm_scores"])
    drawn = sorted(made.glob("*.pdf"))
    assert drawn
    for path in drawn:
        wanted = column if publication.EXHIBITS[path.stem].width == "column" else text
        assert pdf_width(path) == pytest.approx(wanted, abs=1e-6)
        assert svg_width(path.with_suffix(".svg")) == pytest.approx(wanted, abs=1e-6)
        assert png_width(path.with_suffix(".png")) == pytest.approx(wanted, abs=1 / 300)
        assert manifest_of(made)["figures"][path.stem]["width_in"] == wanted


def test_another_process_elsewhere_writes_the_same_bytes(few, tmp_path):
    """Another hash seed, time zone, locale, clock and personal matplotlib settings change nothing."""
    elsewhere = {
        "PYTHONHASHSEED": "4711",
        "TZ": "Asia/Kathmandu",
        "LC_ALL": "C",
        "SOURCE_DATE_EPOCH": "86400",
        "MATPLOTLIBRC": str(Path(__file__).with_name("hostile.matplotlibrc")),
    }
    out = tmp_path / "again"
    command = [sys.executable, "-m", "anm_nb.cli", "figures", "--venue", "icml", "--out", str(out)]
    for name in FEW:
        command += ["--only", name]
    done = subprocess.run(command, env=os.environ | elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(out / name) for name in manifest_files(out)] + [str(out / "manifest.json")]
    assert contents(out) == contents(few)


def manifest_files(folder: Path) -> list[str]:
    return [name for entry in manifest_of(folder)["figures"].values() for name in entry["files"]]


def test_no_file_carries_a_date(every):
    for name, data in contents(every).items():
        assert not re.search(rb"CreationDate|ModDate|<dc:date>|tIME", data), name


# fonts


def test_letters_are_embedded_as_truetype(every):
    for path in every.glob("*.pdf"):
        data = path.read_bytes()
        assert b"/FontFile2" in data
        assert not re.search(rb"/Subtype /Type[13]\b|/FontFile3|/FontFile ", data), path.name


@pytest.mark.skipif(shutil.which("pdffonts") is None, reason="pdffonts (poppler-utils) is not on the PATH")
def test_pdffonts_shows_embedded_truetype_only(every):
    for path in every.glob("*.pdf"):
        listed = subprocess.run(["pdffonts", path], capture_output=True, text=True, check=True).stdout.splitlines()
        assert len(listed) > 2
        for line in listed[2:]:  # name, type, encoding, emb, sub, uni, object number and generation
            assert re.fullmatch(r"\S+\s+(CID )?TrueType\s+\S+\s+yes\s+yes\s+\S+\s+\d+\s+\d+", line), line


def test_svg_needs_no_font(every):
    for path in every.glob("*.svg"):
        assert "<text" not in path.read_text(encoding="utf-8")


def test_pictures_have_a_white_page_of_their_own(every):
    """So they are legible on a dark page too; and nothing reaches over its edge."""
    for path in every.glob("*.png"):
        picture = imread(path)
        if picture.shape[2] == 4:
            assert (picture[..., 3] == 1).all()
        for rim in (picture[:2], picture[-2:], picture[:, :2], picture[:, -2:]):
            assert rim.min() > 0.95, path.name  # ink there would be the rest of something cut off
        (page,) = re.findall(r'<g id="patch_1">\s*<path [^>]*?style="([^"]*)"', path.with_suffix(".svg").read_text())
        assert "fill: #ffffff" in page
        assert "opacity" not in page


# how it looks


@pytest.mark.parametrize("venue", WIDTHS)
@pytest.mark.parametrize("name", publication.EXHIBITS)
def test_text_is_large_enough_inside_the_page_and_apart(name, venue):
    exhibit, page = publication.EXHIBITS[name], publication.VENUES[venue]
    with publication.settings(exhibit, page):  # measured within too: how many ticks there are depends on them
        figure = exhibit.figure(publication.open_source(exhibit.result).content)
        fit(figure)
        figure.draw_without_rendering()
        check_looks(figure)


def check_looks(figure):
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 6
    bounds = figure.get_tightbbox()  # in inches
    width, height = figure.get_size_inches()
    assert bounds.x0 > 0
    assert bounds.x1 < width
    assert bounds.y0 > 0
    assert bounds.y1 < height
    for axes in figure.axes:
        low, high = sorted(axes.get_xlim())
        labels = [
            tick.label1
            for tick in (*axes.xaxis.get_major_ticks(), *axes.xaxis.get_minor_ticks())
            if tick.label1.get_visible() and tick.label1.get_text() and low <= tick.get_loc() <= high
        ]
        boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.x0)
        assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


# the manifest


def test_the_manifest_ties_every_file_to_its_runs(every):
    figures = manifest_of(every)["figures"]
    assert list(figures) == list(publication.EXHIBITS)
    files = {name: digest for entry in figures.values() for name, digest in entry["files"].items()}
    assert set(files) | {"manifest.json"} == set(contents(every))
    for name, digest in files.items():
        assert sha256(every / name) == digest
    for title, entry in figures.items():
        exhibit = publication.EXHIBITS[title]
        assert entry["result"] == exhibit.result
        kinds = {Path(name).suffix for name in entry["files"]}
        assert kinds == {".pdf", ".svg", ".png"} | ({".tex"} if exhibit.table else set())
        folder = reference_root() / entry["result"]
        assert entry["drawn_from"]
        for name, digest in entry["drawn_from"].items():
            assert sha256((folder if folder.is_dir() else reference_root()) / name) == digest


def test_run_keys_are_those_of_the_kept_provenance(every):
    figures = manifest_of(every)["figures"]
    for entry in figures.values():
        folder = reference_root() / entry["result"]
        if folder.is_dir():
            provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        else:
            provenance = json.loads(folder.with_suffix(".json").read_text(encoding="utf-8"))["runs"]
        kept = {name: (run["key"], run["provenance"]["commit"]) for name, run in provenance.items()}
        assert {name: (run["key"], run["commit"]) for name, run in entry["runs"].items()} == kept


def test_what_is_not_drawn_anew_stays_in_the_manifest(few, tmp_path):
    folder = tmp_path / "icml"
    shutil.copytree(few, folder)
    before = manifest_of(folder)
    spoilt = before["figures"]["anm_curves"]["files"] | {"anm_curves.tex": "0" * 64}
    before["figures"]["anm_curves"]["files"] = spoilt
    (folder / "manifest.json").write_text(json.dumps(before))
    publication.export("icml", folder, ["anm_scores"])
    assert manifest_of(folder) == before
    publication.export("icml", folder, ["anm_curves"])
    assert contents(folder) == contents(few)


def test_every_kept_result_has_a_figure():
    kept = {name for name in DISPLAYS if (reference_root() / name).exists()}
    assert {exhibit.result for exhibit in publication.EXHIBITS.values()} >= kept


def test_tables_are_inputable(every):
    tables = list(every.glob("*.tex"))
    assert tables
    for path in tables:
        text = path.read_text(encoding="utf-8")
        assert text.isascii()
        assert text.count("{") == text.count("}")
        for body in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.DOTALL):
            rows = [line for line in body.splitlines() if line != r"\midrule"]
            assert all(row.endswith(r" \\") for row in rows)
            assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1


# what cannot be


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--venue", "icmll"], "unknown venue 'icmll' (did you mean 'icml'?)"),
        (["--venue", "icml", "--only", "anm_score"], "unknown figure 'anm_score' (did you mean 'anm_scores'?)"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_before_any_work(arguments, says, tmp_path, monkeypatch):
    monkeypatch.setattr(publication, "open_source", lambda result: pytest.fail("work was begun"))
    result = CliRunner().invoke(app, ["figures", *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (tmp_path / "out").exists()


def test_figures_of_two_venues_are_not_mixed_in_a_folder(few, tmp_path):
    folder = tmp_path / "icml"
    shutil.copytree(few, folder)
    with pytest.raises(ParameterError, match="holds the figures of icml; choose another folder for thesis"):
        publication.export("thesis", folder, ["anm_curves"])
    assert contents(folder) == contents(few)


def test_nothing_is_written_where_a_figure_cannot_be_drawn(tmp_path, monkeypatch):
    def broken(kept):
        raise ParameterError("table without rows")

    exhibit = publication.Exhibit("10_anm_vs_corruption", "column", broken)
    monkeypatch.setitem(publication.EXHIBITS, "anm_scores", exhibit)
    with pytest.raises(ParameterError, match="without rows"):
        publication.export("icml", tmp_path / "out", ["anm_curves", "anm_scores"])
    assert not (tmp_path / "out").exists()


def test_figures_go_to_a_folder_of_the_venue_where_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    result = CliRunner().invoke(app, ["figures", "--venue", "icml", "--only", "anm_curves"])
    assert result.exit_code == 0, result.stderr
    made = {f"anm_curves.{kind}" for kind in ("pdf", "svg", "png", "tex")}
    assert set(contents(tmp_path / "figures" / "icml")) == made | {"manifest.json"}
