"""Fixtures for the tests of sweeps."""

import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from trivial_sweep import TrivialSweep

from anm_nb.analysis import VERDICT_MIME
from anm_nb.cases import keep


@pytest.fixture
def trivial(tmp_path) -> TrivialSweep:
    """A sweep of a trivial notebook in an empty folder."""
    return TrivialSweep(tmp_path)


@pytest.fixture
def instant(monkeypatch) -> list[int]:
    """Replace cases by instant ones that judge "n is n" and fail at n = 13; returns the list of all n that ran."""
    ran: list[int] = []

    def run_case(case, until, env):
        if time.time() >= until:
            return None
        n = case.parameters.get("n", 1)
        ran.append(n)
        folder = case.output.parent / f".partial-{case.name}"
        folder.mkdir(parents=True, exist_ok=True)
        row = {"claim": "n is n", "measured": f"{n}", "verdict": "refuted", "estimate": n, "low": 0, "high": None}
        outputs = [new_output("display_data", {VERDICT_MIME: {"verdicts": [row]}})] if n != 13 else []
        nbformat.write(new_notebook(cells=[new_code_cell("n", outputs=outputs, id="n")]), folder / "notebook.ipynb")
        (folder / "runs").write_text(f"run{n}\nkept:a\nrun{n}\n")
        return keep(case, folder, "ValueError: 13" if n == 13 else "", 65.2)

    monkeypatch.setattr("anm_nb.sweep.run_case", run_case)
    return ran
