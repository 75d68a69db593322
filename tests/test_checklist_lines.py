"""Notebook 30's list of the ANM checklist names notebooks, columns and findings that exist, for every section."""

from pathlib import Path

import nbformat
import pandas as pd

from anm_nb.analysis.signatures import SIGNATURES

ROOT = Path(__file__).resolve().parents[1]


def test_every_section_has_lines_and_every_instrument_exists():
    cells = nbformat.read(ROOT / "notebooks" / "30_analysis.ipynb", as_version=4).cells
    (source,) = [cell.source for cell in cells if cell.source.startswith("LINES = ")]
    names = {"pd": pd}
    exec(source, names)
    lines = names["lines"]
    assert set(lines["section"]) == {*"ABCDEFGHIJK", "legitimacy"}
    assert not lines.duplicated().any()
    package = "\n".join(path.read_text("utf-8") for path in (ROOT / "anm_nb").rglob("*.py"))
    findings = {signature.name for signature in SIGNATURES}
    assert findings >= {line.partition(" ")[2] for line in lines["instrument"] if line.startswith("finding")}
    for line in lines.itertuples():
        kind, _, name = line.instrument.partition(" ")
        assert kind in ("column", "figure", "finding"), line
        text = (ROOT / "notebooks" / f"{line.notebook}.ipynb").read_text("utf-8")
        if kind == "column":
            assert name in text or f'"{name}"' in package, line
        if kind == "figure":
            assert '"image/png"' in text, line
