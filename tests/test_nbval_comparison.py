"""Stored outputs bind: a notebook passes with other last digits, and with nothing else changed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
SHOW = "from IPython.display import publish_display_data as show\n"


def stream(text: str, name: str = "stdout"):
    return [new_output("stream", name=name, text=text)]


MIMES = {
    "plain": "text/plain",
    "html": "text/html",
    "png": "image/png",
    "svg": "image/svg+xml",
    "verdict": "application/vnd.anm-nb.verdict+json",
    "widget": "application/vnd.jupyter.widget-view+json",
}


def data(**contents):
    return [new_output("display_data", {MIMES[name]: content for name, content in contents.items()})]


PRINT = "print('mse 0.1234 after 50 steps')"
TABLE = SHOW + "show({'text/html': '<td>0.52</td><td>7</td>', 'text/plain': 'a  0.52\\nb 10.01'})"
PICTURE = SHOW + "show({'image/png': 'AAAA', 'image/svg+xml': '<a/>', 'text/plain': '<Figure>'})"
VERDICT = SHOW + "show({'application/vnd.anm-nb.verdict+json': {'estimate': 1}, 'text/plain': 'claim: 1.00'})"
WIDGET = SHOW + "show({'application/vnd.jupyter.widget-view+json': {}, 'text/plain': '0it/s'})"

CELLS = {
    "unchanged": (PRINT, stream("mse 0.1234 after 50 steps\n"), "PASSED"),
    "last digit by one": (PRINT, stream("mse 0.1235 after 50 steps\n"), "PASSED"),
    "last digit by two": (PRINT, stream("mse 0.1236 after 50 steps\n"), "FAILED"),
    "integer by one": (PRINT, stream("mse 0.1234 after 51 steps\n"), "FAILED"),
    "word": (PRINT, stream("rmse 0.1234 after 50 steps\n"), "FAILED"),
    "output missing": ("1.5", [], "FAILED"),
    "table by two": (TABLE, data(html="<td>0.50</td><td>7</td>", plain="a  0.52\nb 10.01"), "FAILED"),
    "picture": (PICTURE, data(png="BBBB", svg="<b/>", plain="<Figure>"), "PASSED"),
    "verdict": (VERDICT, data(verdict={"estimate": 1.02}, plain="claim: 1.01"), "PASSED"),
    "verdict's text": (VERDICT, data(verdict={"estimate": 1.0}, plain="claim: 1.02"), "FAILED"),
    "widget": (WIDGET, data(widget={"model_id": "x"}, plain="9it/s"), "PASSED"),
    "ignored": ("# NBVAL_IGNORE_OUTPUT\n" + PRINT, stream("quite other\n"), "PASSED"),
}  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, str]:
    """How each cell fares under nbval, in a project set up as this one is."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", "conftest.py", "tests/nbval_tolerance.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "notebooks").mkdir()
    cells = [new_code_cell(source, outputs=stored, execution_count=1) for source, stored, _ in CELLS.values()]
    nbformat.write(new_notebook(cells=cells), folder / "notebooks" / "cells.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-v", "notebooks"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    fates = dict(re.findall(r"::Cell (\d+) (PASSED|FAILED)", run.stdout))
    assert len(fates) == len(CELLS), run.stdout + run.stderr
    return {name: fates[str(number)] for number, name in enumerate(CELLS)}


@pytest.mark.parametrize("name", CELLS)
def test_cell(results, name):
    assert results[name] == CELLS[name][2]
