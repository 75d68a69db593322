"""Notebook 30's list of the ANM checklist names notebooks, columns and findings that exist, for every section."""

from pathlib import Path

import nbformat
import pandas as pd
from notebook_cells import names_of

from anm_nb.analysis.doctor import SIGNATURES
from anm_nb.energy.train import EnergyConfig

ROOT = Path(__file__).resolve().parents[1]
TINY = {"levels": 3, "width": 4, "dev_examples": 2, "inner_steps": 1, "steps": 2, "batch": 4, "records": 3}
RUNS = {
    "anm": {"size": 2, "negatives": "anm"},
    "mixed": {"size": 2, "negatives": "mixed"},
    "sudoku": {"task": "sudoku", "size": 9, "task_options": {"pool": 20}, "negatives": "stock"},
}


def test_every_section_has_lines_and_every_instrument_exists(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path / "outputs"))  # for the pool of puzzles
    recorded = set()
    for name, run in RUNS.items():
        (tmp_path / name).mkdir()
        recorded |= set(EnergyConfig(**TINY, **run, seeds=(0,)).train(tmp_path / name).metrics)
    lines = names_of("30_analysis", "lines", "lines-f", given={"pd": pd})["lines"]
    assert set(lines["section"]) == {*"ABCDEFGHIJK", "legitimacy"}
    assert not lines.duplicated().any()
    findings = {signature.name for signature in SIGNATURES}
    for line in lines.itertuples():
        kind, _, name = line.instrument.partition(" ")
        notebook = nbformat.read(ROOT / "notebooks" / f"{line.notebook}.ipynb", as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        found = {
            "finding": name in findings,
            "column": name in recorded or any(f'"{name}"' in cell.source for cell in code),
            "figure": any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs),
        }
        assert found[kind], line
