"""Figures that a notebook publishes become files of a venue's width, the same bytes twice, with a manifest of runs."""

import csv
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

import nbformat
import pandas as pd
import pytest
from matplotlib.image import imread
from matplotlib.text import Text
from nbformat.v4 import new_code_cell, new_notebook
from typer.testing import CliRunner

from anm_nb.analysis import plots, publication
from anm_nb.analysis.publication import fit, latex
from anm_nb.analysis.style import VENUE, VENUES, house_style, layout, new_figure
from anm_nb.cli import app
from anm_nb.config import ParameterError
from anm_nb.files import project_root

DRAW = """
import pandas as pd
from anm_nb.analysis import kept
from anm_nb.analysis.plots import learning_curves, publish
from anm_nb.analysis.style import new_figure, use_style

use_style()
result = kept.load("10_anm_vs_corruption")
table = pd.DataFrame({"method": ["`anm`", "a_b"], "MSE": [0.05, -1e-3], "said": ["τ ≥ 0.9 & 5 % of them or more", "–"]})
publish(learning_curves(result.metrics, result.references), "anm_curves", table=table)
figure, axes = new_figure(1, 2, 2.0)
for panel in axes:
    panel.plot(range(size), label="a")
    panel.set(title="A title that is much too long for a column", xlabel="an axis label with several words in it")
publish(figure, "narrow", width="column")
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one notebook that publishes two figures, one that publishes none, and the kept results."""
    (tmp_path / "notebooks").mkdir()
    for name, source in {"10_draws": DRAW, "11_plain": "raise ValueError('not to be run')"}.items():
        cells = [new_code_cell("size = 9", metadata={"tags": ["parameters"]}), new_code_cell(source)]
        nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / f"{name}.ipynb")
    (tmp_path / "params" / "mid").mkdir(parents=True)
    (tmp_path / "params" / "mid" / "10_draws.yaml").write_text("size: 5\n")
    monkeypatch.setattr("anm_nb.files.project_root", lambda: tmp_path)
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path


def figures(*arguments: str):
    return CliRunner().invoke(app, ["figures", *arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != "."}


def width(path: Path) -> float:
    """Of a PDF, SVG or PNG in inches, as the file itself says."""
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
    assert figures("--venue", "icml").exit_code == 0
    out = project / "outputs" / "figures" / "icml"
    first = contents(out)
    ends = ("pdf", "svg", "png")
    names = {f"{name}.{end}" for name in ("anm_curves", "narrow") for end in ends}
    names |= {"anm_curves.tex", "anm_curves.csv"}
    assert set(first) == names | {"manifest.json"}
    for name, inches in (("anm_curves", 6.75), ("narrow", 3.25)):
        for end in ends:
            assert width(out / f"{name}.{end}") == pytest.approx(inches, abs=1 / 300)

    # another hash seed, time zone, locale, clock and personal matplotlib settings change nothing
    elsewhere = {"PYTHONHASHSEED": "4711", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "SOURCE_DATE_EPOCH": "86400"}
    elsewhere |= {"MATPLOTLIBRC": str(Path(__file__).with_name("hostile.matplotlibrc"))}
    for name, value in elsewhere.items():
        monkeypatch.setenv(name, value)
    again = project / "again"
    ran = figures("--venue", "icml", "--notebook", "10", "--out", str(again))
    assert contents(again) == first
    assert [Path(line).name for line in ran.stdout.splitlines() if line.startswith(str(again))][-1] == "manifest.json"

    manifest = json.loads(first["manifest.json"])
    assert manifest["venue"] == "icml"
    for title, entry in manifest["figures"].items():
        for file, digest in entry["files"].items():
            assert hashlib.sha256(first[file]).hexdigest() == digest
        kept = json.loads((project_root() / "outputs/reference/10_anm_vs_corruption/provenance.json").read_text())
        assert [(run["method"], run["key"], run["commit"]) for run in entry["runs"]] == [
            (name, run["key"], run["provenance"]["commit"]) for name, run in kept.items()
        ], title
    check_files(out)


def check_files(out: Path) -> None:
    """Letters are embedded as TrueType, pictures need no font, have a white page of their own, and no date."""
    for path in out.glob("*.pdf"):
        data = path.read_bytes()
        assert b"/FontFile2" in data
        assert not re.search(rb"/Subtype /Type[13]\b|/FontFile3|/FontFile ", data)
    for name, data in contents(out).items():
        assert not re.search(rb"CreationDate|ModDate|<dc:date>|tIME", data), name
    for path in out.glob("*.svg"):
        assert "<text" not in path.read_text(encoding="utf-8")
    for path in out.glob("*.png"):
        picture = imread(path)
        for rim in (picture[:2], picture[-2:], picture[:, :2], picture[:, -2:]):
            assert rim.min() > 0.95, path.name  # ink there would be the rest of something cut off
    tex = (out / "anm_curves.tex").read_text()
    assert tex.isascii()
    assert r"ANM as written & 0.05 & $\tau$ $\geq$ 0.9 \& 5 \% of them or more \\" in tex
    assert r"a\_b & $-$0.001 & -- \\" in tex
    assert list(csv.reader((out / "anm_curves.csv").open(encoding="utf-8")))[2][1:] == ["a_b", "-0.001", "–"]


def test_a_profile_is_used_and_figures_of_other_notebooks_stay_in_the_manifest(project):
    out = project / "figures"
    path = project / "notebooks" / "10_draws.ipynb"
    other = path.with_name("12_other.ipynb")
    source = path.read_text().replace("anm_curves", "other_curves").replace('\\"narrow\\"', '\\"slim\\"')
    other.write_text(source)
    assert figures("--venue", "thesis", "--out", str(out)).exit_code == 0
    before = json.loads((out / "manifest.json").read_text())["figures"]
    assert sorted(before) == ["anm_curves", "narrow", "other_curves", "slim"]
    assert figures("--venue", "thesis", "--notebook", "10_draws", "--profile", "mid", "--out", str(out)).exit_code == 0
    after = json.loads((out / "manifest.json").read_text())["figures"]
    assert {name for name in after if after[name] != before[name]} == {"narrow"}  # five points in place of nine
    refused = figures("--venue", "icml", "--out", str(out))
    assert (refused.exit_code, "holds the figures of thesis; choose another folder for icml" in refused.stderr) == (
        2,
        True,
    )
    other.write_text(source.replace("other_curves", "anm_curves"))
    refused = figures("--venue", "thesis", "--notebook", "12", "--out", str(out))
    assert (refused.exit_code, refused.stderr) == (
        2, "anm-nb: 12_other publishes 'anm_curves', and 10_draws does; give one another name\n",
    )  # fmt: skip


def test_where_a_notebook_fails_the_figures_stay_as_they_were(project):
    out = project / "figures"
    assert figures("--venue", "neurips", "--out", str(out)).exit_code == 0
    before = contents(out)
    path = project / "notebooks" / "10_draws.ipynb"
    path.write_text(path.read_text().replace('width=\\"column\\"', 'width=\\"page\\"'))
    failed = figures("--venue", "neurips", "--out", str(out))
    assert failed.exit_code == 1
    assert "width = 'page': 'column' or 'text'" in failed.stdout
    assert contents(out) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--venue", "icmll"], "unknown venue 'icmll' (did you mean 'icml'?)"),
        (["--venue", "icml", "--notebook", "10_darws"], "unknown notebook '10_darws' (did you mean '10_draws'?)"),
        (["--venue", "icml", "--profile", "mif"], "unknown profile 'mif' (did you mean 'mid'?)"),
        (["--venue", "icml", "--notebook", "11"], "none of these notebooks publishes a figure"),
    ],
)
def test_refusals_come_before_anything_runs(project, monkeypatch, arguments, said):
    monkeypatch.setattr("anm_nb.sweep.run_case", lambda *_: pytest.fail("ran"))
    refused = figures(*arguments)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert not (project / "outputs").exists()


def test_outside_that_command_publishing_only_returns_the_figure(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    figure, _ = new_figure(1, 1, 2)
    assert plots.publish(figure, "a") is figure
    for bad in ("a/b", "../a", "", "τ"):
        with pytest.raises(ParameterError, match="as it names files"):
            plots.publish(figure, bad)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("venue", VENUES)
def test_text_is_large_enough_inside_the_page_and_apart(venue):
    page = VENUES[venue]
    with layout(page.text, page.points), house_style():
        wide, panels = new_figure(1, 2, 2.0)
        for panel in panels:
            panel.plot([0, 20_000], [0, 1])
            panel.set(title="A title of many words that is too long", xlabel="an axis label with several words in it")
        rows, (names,) = new_figure(1, 1, 1.5)
        names.barh(range(5), range(5))
        names.set_yticks(range(5), [f"a name of a row that is rather long {n}" for n in range(5)])
        names.set_xticks(range(0, 5, 2), ["several words here"] * 3)
        for figure in (wide, rows):
            figure.set_size_inches(page.column, figure.get_figheight())
            fit(figure)
            figure.draw_without_rendering()
            check_looks(figure)


def check_looks(figure) -> None:
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 6
    bounds, (inches, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert 0 < bounds.x0 < bounds.x1 < inches
    assert 0 < bounds.y0 < bounds.y1 < height
    for axes in figure.axes:
        low, high = sorted(axes.get_xlim())
        ticks = [t for t in axes.xaxis.get_major_ticks() if t.label1.get_text() and low <= t.get_loc() <= high]
        boxes = sorted((tick.label1.get_window_extent() for tick in ticks), key=lambda box: box.x0)
        assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


def test_a_character_without_latex_is_named_and_brackets_are_no_argument():
    with pytest.raises(ParameterError, match=r"no LaTeX for '語' \(U\+8A9E\)"):
        latex(pd.DataFrame({"a": ["語"]}))
    tex = latex(pd.DataFrame({"a": ["[0.1, -0.2]"], "b": [float("nan")]}, index=pd.Index(["x"], name="method")))
    assert r"x & [0.1, $-$0.2] &  \\" in tex
    assert "{}[0.1" in latex(pd.DataFrame({"a": ["[0.1]"]}))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_a_table_is_set_by_latex(tmp_path):
    signs = "".join(sorted(set(publication.LATEX)))
    table = latex(pd.DataFrame({"a": [signs], "b": ["[1]"]}))
    head = "\\documentclass{article}\\usepackage{booktabs,tabularx}\\begin{document}"
    (tmp_path / "t.tex").write_text(f"{head}\n{table}\\end{{document}}")
    subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_the_venue_s_width_is_a_notebook_s_from_the_start():
    program = "from anm_nb.analysis.style import figure_width, points; print(figure_width(), points(8))"
    told = [
        subprocess.run([sys.executable, "-c", program], env=os.environ | {VENUE: venue}, capture_output=True, text=True)
        for venue in ("neurips", "thesis", "")
    ]
    assert [ran.stdout.split() for ran in told] == [["5.5", "8.0"], ["6.0", "9.0"], ["6.75", "8.0"]]
