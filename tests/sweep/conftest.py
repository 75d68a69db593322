"""What the tests of sweeps share."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from trivial_sweep import TrivialSweep

from anm_nb import files
from anm_nb.analysis import VERDICT_MIME
from anm_nb.sweep.outcomes import Outcome


@pytest.fixture
def trivial(tmp_path) -> TrivialSweep:
    """A sweep of a trivial notebook in an empty folder."""
    return TrivialSweep(tmp_path)


@pytest.fixture
def fake(trivial, monkeypatch):
    """Notebooks that end at once, with the verdict that n is n, or failing at n = 13; counts which ran."""
    ran: list[int] = []

    def run_cases(cases, *options):
        for case in cases:
            n = case.parameters.get("n", 1)
            ran.append(n)
            verdict = {
                "claim": "n is n",
                "measured": f"{n}",
                "verdict": "refuted",
                "estimate": n,
                "low": 0,
                "high": None,
            }
            outputs = [new_output("display_data", {VERDICT_MIME: {"verdicts": [verdict]}})] if n != 13 else []
            nbformat.write(new_notebook(cells=[new_code_cell("n", outputs=outputs, id="n")]), case.output)
            end = ("failed", 2.0, 64.0, "ValueError: 13") if n == 13 else ("done", 2.0, 64.0, None)
            checksum = files.sha256_of(case.output)
            yield Outcome(case.name, *end, case.digest, (f"run{n}",), checksum)

    monkeypatch.setattr("anm_nb.sweep.workers.run_cases", run_cases)
    return ran
