"""`anm-nb bench`: that it runs, what it refuses, and that README says what is kept."""

import json
from dataclasses import asdict

import pytest
from typer.testing import CliRunner

from anm_nb.bench import report, results
from anm_nb.bench.results import Bench, keep, load_bench, run_bench
from anm_nb.cli import app
from anm_nb.config import ParameterError
from anm_nb.files import project_root

KEPT = load_bench()


def bench(*arguments: str):
    return CliRunner().invoke(app, ["bench", *arguments])


def test_it_runs_in_two_processes_and_prints_json():
    result = bench("--tiny", "--seconds", "0.1", "--json", "--only", "ranking_two_seeds", "--only", "memory")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    found = printed["results"]["ranking_two_seeds"]
    assert found["processes"] == 2
    assert found["seconds"] > 0
    assert found["flops"] == found["plain_flops"] > 0  # the same products, so the same number of operations
    assert found["peak_mib"] > found["start_mib"] > 0
    assert list(printed["results"]) == ["ranking_two_seeds", "memory"]
    met = {target["target"]: target["met"] for target in printed["targets"]}
    assert met["linear"] is True
    assert met["under 4 h"] is None


def test_without_a_gpu_its_rows_are_listed_as_not_measured(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = bench("--only", "gpu_paper_run")
    assert result.exit_code == 0
    assert "not measured: no GPU" in " ".join(result.stdout.split())
    assert "measured by the same command" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "smapler"], "unknown workload 'smapler' (did you mean 'sampler'?)"),
        (["--keep", "--tiny"], "--keep keeps a whole bench at full size"),
        (["--keep", "--only", "sampler"], "--keep keeps a whole bench at full size"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_measured(arguments, message):
    refused = bench(*arguments)
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert "measuring" not in refused.stderr


def test_a_workload_that_fails_is_named_and_the_others_are_measured(monkeypatch):
    def measured(name, *_):
        raise RuntimeError("no luck")

    monkeypatch.setattr("anm_nb.bench.results.measured", measured)
    result = bench("--tiny", "--only", "sampler", "--only", "memory", "--json")
    assert result.exit_code == 1
    assert "sampler RuntimeError: no luck" in result.stderr
    assert "mib" in json.loads(result.stdout)["results"]["memory"]


def test_only_a_whole_bench_is_kept(monkeypatch, tmp_path):
    monkeypatch.setattr("anm_nb.bench.results.project_root", lambda: tmp_path)
    with pytest.raises(ParameterError, match="missing: sampler"):
        keep(Bench(KEPT.environment, {name: r for name, r in KEPT.results.items() if name != "sampler"}))
    with pytest.raises(ParameterError, match="missing: mining"):
        keep(Bench(KEPT.environment, KEPT.results | {"mining": {"not_measured": "killed"}}))
    assert not list(tmp_path.rglob("*.json"))
    assert load_bench(keep(KEPT)) == KEPT


def test_names_are_looked_at_before_anything_is_measured():
    with pytest.raises(ParameterError, match="did you mean 'memory'"):
        run_bench(["memroy"], tell=lambda title: pytest.fail(title))


def test_every_target_is_judged_by_its_own_numbers():
    found = dict(KEPT.results)
    stock = KEPT.results["ired_stock"] | {"flops": 50, "share": 0.5}
    mined = KEPT.results["ired_anm"] | {"flops": 60}
    for share, met in ((0.31, True), (0.29, False)):  # in matrix products 60/0.3 = 2 · 50/0.5
        judged = Bench(KEPT.environment, found | {"ired_stock": stock, "ired_anm": mined | {"share": share}})
        assert {target.workload: target.met for target in report.targets(judged)}["`anm` step"] is met
    for speedup, met in ((1.9, True), (1.8, False)):
        judged = Bench(KEPT.environment, found | {"ired_stock": stock | {"speedup": speedup}})
        by_target = {target.target: target.met for target in report.targets(judged)}
        assert by_target["≤ 0.55× the plain reference's time"] is met


def test_a_busy_machine_is_said_to_be_one():
    for load, busy in ((0.1, False), (3.0, True)):
        about = KEPT.environment | {"load_average": [load, 0.0, 0.0]}
        assert ("was busy" in report.measured_on(Bench(about, KEPT.results))) is busy


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0123, "12.3 ms"), (1.5, "1.5 s"), (130.0, "2.17 min"), (7300.0, "2.03 h")]
)
def test_times_are_shown_with_three_digits(seconds, shown):
    assert report.shown_seconds(seconds) == shown


def test_the_kept_bench_is_whole_and_says_where_it_comes_from():
    assert set(KEPT.results) == set(results.TITLES)
    assert KEPT.failed == []
    assert {"versions", "commit", "dirty", "cpu", "load_average", "started"} <= set(KEPT.environment)
    assert len(report.workload_rows(KEPT)) == len(report.WORKLOADS)
    assert all(target.measured for target in report.targets(KEPT))


def test_readme_quotes_the_kept_bench():
    readme = (project_root() / "README.md").read_text(encoding="utf-8")
    quoted = readme.split(f"<!-- begin: {results.NAME} -->\n")[1].split(f"\n<!-- end: {results.NAME} -->")[0]
    assert quoted == report.markdown(KEPT)
    assert json.loads(results.kept_path().read_text()) == asdict(KEPT)
