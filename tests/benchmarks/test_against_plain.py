"""Benchmarks against plain references: both ways are the same mathematics, and the script prints and writes them."""

import json
import subprocess
import sys

import pytest
import torch

from anm_nb.files import project_root

FOLDER = project_root() / "benchmarks"
NAMES = (
    *("ranking_baseline", "ranking_12", "ired_none", "ired_stock", "ired_anm", "sampler", "line_scan", "mining"),
    *("data_inverse", "data_sudoku", "data_partial_sort", "kendall_tau"),
)
TOLERANCE = {"sampler": 3e-3}  # ten levels of descent amplify rounding: the first answer is divided by √ᾱ = 0.016


@pytest.fixture
def make_pair(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import pairs

    assert set(pairs.PAIRS) == set(NAMES)
    return lambda name: pairs.PAIRS[name][1](True)


@pytest.mark.parametrize("name", NAMES)
def test_the_package_and_the_plain_reference_compute_the_same(name, make_pair):
    pair = make_pair(name)
    for _ in range(12):  # past the first update of the EMA that negatives are mined against
        ours, plain = pair.ours(), pair.plain()
        assert set(ours) == set(plain)
        for key, value in ours.items():
            tolerance = TOLERANCE.get(name, 1e-5)
            torch.testing.assert_close(value, plain[key], rtol=10 * tolerance, atol=tolerance)


def test_the_script_prints_a_table_and_writes_results_with_their_commit(tmp_path):
    written = tmp_path / "results.json"
    command = [sys.executable, str(FOLDER / "against_plain.py"), "--tiny", "--seconds", "0.1", "--json", str(written)]
    command += ["--only", "ranking_12", "ired_stock"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "times as fast [95 %]" in answer.stdout
    kept = json.loads(written.read_text())
    assert {"commit", "versions", "threads", "load_average"} <= set(kept["environment"])
    assert list(kept["results"]) == ["ranking_12", "ired_stock"]
    for each in kept["results"].values():
        assert each["low"] < each["speedup"] < each["high"]
    ranking, ired = kept["results"].values()
    assert ranking["flops"] == ranking["plain_flops"] > 0  # the same products
    assert 0 < ired["flops"] < ired["plain_flops"]  # an energy and its score are one evaluation


def test_the_page_on_running_quotes_the_kept_measurement():
    kept = json.loads((project_root() / "outputs" / "reference" / "bench_cpu.json").read_text(encoding="utf-8"))
    page = (project_root() / "docs" / "running.md").read_text(encoding="utf-8")
    section = page.split("## How fast")[1].split("\n## ")[0]
    assert kept["environment"]["commit"][:8] in section
    speedups = [f"{each['speedup']:.2f}×" for each in kept["results"].values() if each.get("speedup")]
    assert [line.split(" | ")[-1].rstrip(" |") for line in section.splitlines() if line.endswith("× |")] == speedups
