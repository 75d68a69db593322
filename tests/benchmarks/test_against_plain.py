"""The package and the plain references compute the same, and the benchmark script prints and writes its results."""

import json
import sys

import against_plain
import pytest
import torch
from pairs import PAIRS

from anm_nb.files import project_root

TOLERANCE = {"sampler": 3e-3}  # ten levels of descent amplify rounding: the first answer is divided by √ᾱ = 0.016


@pytest.mark.parametrize("name", PAIRS)
def test_the_package_and_the_plain_reference_compute_the_same(name):
    pair = PAIRS[name][1](True)
    for _ in range(12 if name in ("ired_stock", "ired_anm") else 3):  # past the first EMA update, where mined
        ours, plain = pair.ours(), pair.plain()
        assert set(ours) == set(plain)
        for key, value in ours.items():
            tolerance = TOLERANCE.get(name, 1e-5)
            torch.testing.assert_close(value, plain[key], rtol=10 * tolerance, atol=tolerance)


def test_the_script_prints_a_table_and_writes_results_with_their_commit(tmp_path, monkeypatch, capsys):
    written = tmp_path / "results.json"
    options = ["--tiny", "--seconds", "0", "--json", str(written), "--only", "ranking_12", "ired_stock"]
    monkeypatch.setattr(sys, "argv", ["against_plain.py", *options])
    monkeypatch.setattr(against_plain, "SHORTEST", 0.0)
    monkeypatch.setattr(against_plain, "ROUNDS", (3, 3))
    against_plain.main()
    assert "times as fast [95 %]" in capsys.readouterr().out
    kept = json.loads(written.read_text())
    assert {"commit", "versions", "threads", "load_average"} <= set(kept["environment"])
    assert list(kept["results"]) == ["ranking_12", "ired_stock"]
    for each in kept["results"].values():
        assert each["low"] < each["speedup"] < each["high"]
    ranking, ired = kept["results"].values()
    assert ranking["flops"] == ranking["plain_flops"] > 0  # the same matrix products
    assert 0 < ired["flops"] < ired["plain_flops"]  # energy and score share one evaluation


def test_the_page_on_running_quotes_the_kept_measurement():
    kept = json.loads((project_root() / "outputs" / "reference" / "bench_cpu.json").read_text(encoding="utf-8"))
    page = (project_root() / "docs" / "running.md").read_text(encoding="utf-8")
    section = page.split("## How fast")[1].split("\n## ")[0]
    assert kept["environment"]["commit"][:8] in section
    speedups = [f"{each['speedup']:.2f}×" for each in kept["results"].values() if each.get("speedup")]
    assert [line.split(" | ")[-1].rstrip(" |") for line in section.splitlines() if line.endswith("× |")] == speedups
