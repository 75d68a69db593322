"""The document's grid as one table: eleven runs, differences that scipy agrees with, and decisions after correction."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from anm_nb.analysis.hrm_grid import compared, epochs_to, grid_configs, grid_figure, grid_summary
from anm_nb.analysis.reference import Reference
from anm_nb.studies.ranking_settings import HrmEntropy, HrmIterations, HrmPeriod, HrmTemperature, HrmVsBaseline

METHODS = ("baseline", "hrm", "hrm_period = 3")
REFERENCES = pd.DataFrame(
    [
        (name, kind, metric, value + 0.1 * (metric == "tau_obs"))
        for name, kind, value in [
            ("random scores", "trivial", 0.0),
            ("value", "classical", 0.5),
            ("best", "ceiling", 0.9),
        ]
        for metric in ("tau_obs", "tau_all", "tau_index")
    ],
    columns=["name", "kind", "metric", "value"],
)


@pytest.fixture
def metrics():
    """Two epochs of three models and four seeds, tested in the second; HRM is better, its neighbour a little worse."""
    source = np.random.default_rng(0)
    rows = []
    for seed in range(4):
        level = source.normal(0.5, 0.05)
        for method, gain in zip(METHODS, (0.0, 0.3, 0.29), strict=True):
            tau = level + gain + source.normal(0, 0.02)
            row = {"method": method, "seed": seed, "tau_obs": 0.5 + seed / 10, "tau_all": 0.1}
            rows.append(row | {"epoch": 0})
            tested = {"tau_obs": 0.997, "tau_all": tau, "test_tau_obs": 0.997, "test_tau_all": tau}
            rows.append(row | {"epoch": 1} | tested)
    return pd.DataFrame(rows)


def test_differences_are_those_of_a_paired_t_test_corrected_by_hand(metrics):
    table = compared(metrics, "tau_all")
    wide = metrics.dropna().pivot(index="seed", columns="method", values="test_tau_all")
    assert list(table.index) == list(METHODS)
    p_values = {}
    for method in METHODS[1:]:
        test = stats.ttest_rel(wide[method], wide["baseline"])
        low, high = test.confidence_interval()
        found = table.loc[method, ["from_baseline", "from_baseline_low", "from_baseline_high"]].to_numpy(float)
        assert found == pytest.approx([(wide[method] - wide["baseline"]).mean(), low, high])
        p_values[method] = test.pvalue
    smaller, larger = sorted(p_values, key=p_values.__getitem__)
    assert table["from_baseline_p"][smaller] == pytest.approx(2 * p_values[smaller])
    assert table["from_baseline_p"][larger] == pytest.approx(max(p_values[larger], 2 * p_values[smaller]))
    assert np.isnan(table["from_baseline"]["baseline"])
    assert np.isnan(table["from_hrm"]["hrm"])


def test_epochs_are_counted_to_the_first_that_gets_there(metrics):
    assert epochs_to(metrics, "tau_obs", 0.7)["hrm"].tolist() == [1, 1, 0, 0]
    assert epochs_to(metrics, "tau_obs", 0.999).isna().all(axis=None)


def kept(folder, metrics, task):
    metrics.to_parquet(folder / "metrics.parquet")
    REFERENCES.to_parquet(folder / "reference_scores.parquet")
    configs = {method: {"config": {"task": task, "selection": None}} for method in METHODS}
    (folder / "provenance.json").write_text(json.dumps(configs))
    return Reference(folder)


def test_the_table_has_every_reference_and_model_and_decides_by_the_task_s_metric(metrics, tmp_path):
    lines = grid_summary(kept(tmp_path, metrics, "hinted_sort")).split("\n")
    assert "against `baseline`, all pairs" in lines[0]
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 3 + 3
    assert len({row.count("|") for row in rows}) == 1
    by_name = {row.split("|")[1].strip(): row for row in rows}
    assert by_name["`hrm`"].count("better") == 1
    assert "better" in by_name["`hrm_period = 3`"]
    assert "undecided" in by_name["`hrm_period = 3`"]
    assert "| best | ceiling | 1.000 | 0.900 |" in by_name["best"]
    few = grid_summary(kept(tmp_path, metrics, "hinted_sort"), swept="temperature").split("\n")
    assert few == [line for line in lines if "hrm_period" not in line]
    observed = grid_summary(kept(tmp_path, metrics, "partial_sort"))
    assert "against `baseline`, observed pairs" in observed
    assert observed.count("no headroom") == 4 + 1  # every comparison, and the tiers


def test_at_the_ceiling_the_table_says_how_soon_and_below_it_which_seeds_stalled(metrics, tmp_path):
    at_ceiling = grid_summary(kept(tmp_path, metrics, "partial_sort"))
    assert "epochs to 0.99" in at_ceiling
    assert "1 (4 of 4 seeds)" in at_ceiling
    assert at_ceiling.split(" |\n")[0].endswith("| epochs to 0.99 | all pairs, dev, last epoch")
    last = metrics[(metrics["method"] == "baseline") & (metrics["epoch"] == 1)]["tau_all"]
    low, high = stats.t.interval(0.95, 3, last.mean(), stats.sem(last))
    assert f"| {last.mean():.3f} [{low:.3f}, {high:.3f}] |\n| `hrm`" in at_ceiling
    assert "stalled" not in at_ceiling
    late = metrics.assign(tau_obs=metrics["tau_obs"].where(metrics["method"] != "hrm", 0.98))
    (hrm,) = [
        line for line in grid_summary(kept(tmp_path, late, "partial_sort")).split("\n") if line.startswith("| `hrm` |")
    ]
    assert hrm.split(" | ")[-2] == "never"
    stuck = (metrics["method"] == "hrm") & (metrics["seed"] == 2)
    metrics.loc[stuck, ["tau_all", "test_tau_all"]] = metrics["test_tau_all"].where(stuck) - 0.5
    below = grid_summary(kept(tmp_path, metrics, "hinted_sort"))
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")] for line in below.split("\n")[:-2]}
    assert cells["ranking"][-3:] == ["median, all pairs", "stalled seeds, of 4", ""]
    median = metrics[metrics["method"] == "hrm"]["test_tau_all"].median()
    assert cells["`hrm`"][-3:] == [f"{median:.3f}", "1", ""]
    assert cells["`hrm_period = 3`"][-2] == "0"
    assert cells["`baseline`"][-2] == ""


def test_the_tiers_stand_below_the_table_with_what_the_difference_decides(metrics, tmp_path):
    tiers = grid_summary(kept(tmp_path, metrics, "hinted_sort")).split("\n")[-1]
    assert "tiers over all pairs, by the means: minimum reached, target reached, stretch " in tiers
    found = stats.ttest_rel(
        *(metrics[metrics["method"] == name]["test_tau_all"].dropna().to_numpy() for name in ("hrm", "baseline"))
    ).confidence_interval()
    assert f"[{found.low:+.3f}, {found.high:+.3f}]" in tiers
    assert "80 % power" in tiers


def test_the_figure_shows_every_seed_of_every_model(metrics):
    figure = grid_figure(metrics, REFERENCES)
    left, right = figure.axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["baseline (no iteration)", "HRM", "T = 3"]
    shown = sorted(x for line in right.lines if line.get_marker() == "." for x in line.get_xdata())
    assert shown == pytest.approx(sorted(metrics["test_tau_all"].dropna()))


def test_the_document_s_five_experiments_are_eleven_runs_under_names_of_their_own():
    experiments = [each() for each in (HrmVsBaseline, HrmIterations, HrmPeriod, HrmEntropy, HrmTemperature)]
    configs = grid_configs(experiments)
    assert list(configs)[:2] == ["baseline", "hrm"]
    assert len(configs) == len({config.model_dump_json() for config in configs.values()})
