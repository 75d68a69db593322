"""The verdict's tables say what its runs say: paired, in per cent, corrected for how many comparisons there are."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from anm_nb.analysis import anm_verdict
from anm_nb.analysis.anm_verdict import comparison_grid, comparisons, errors, reference_errors, score_grid
from anm_nb.analysis.anm_verdict_figures import forest
from anm_nb.config import ParameterError

SEEDS = 6
METHODS = {"anm_tuned": 0.8, "none_tuned": 1.0, "stock_tuned": 1.1, "none_longer": 0.7, "anm": 3.0, "stock": 1.2}
KINDS = {"inverse": {"zero": "trivial", "best constant": "trivial", "exact solution": "classical", "truth": "ceiling"}}


def confirmed(spread: float = 0.05) -> pd.DataFrame:
    """Runs of one task whose errors are the numbers of `METHODS`, more or less, on seeds in no order."""
    draw = np.random.default_rng(0)
    rows = [
        {
            "task": "inverse", "training": "unlimited", "method": method, "seed": seed,
            "same/mse/model": mean + spread * draw.standard_normal(), "same/mse/zero": 5.0 + seed,
            "same/mse/best constant": 4.0, "same/mse/exact solution": 0.1, "same/mse/truth": 0.0,
        }
        for method, mean in METHODS.items()
        for seed in draw.permutation(SEEDS)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def of(table: pd.DataFrame, method: str) -> np.ndarray:
    return table[table["method"] == method].sort_values("seed")["same/mse/model"].to_numpy()


def test_a_comparison_is_the_paired_t_test_of_the_same_seeds():
    table = confirmed()
    row = comparisons(table).set_index("against").loc["none_longer"]
    mine, other = of(table, "anm_tuned"), of(table, "none_longer")
    assert row["difference"] == pytest.approx(100 * (mine.mean() - other.mean()) / other.mean())
    assert row["p_value"] == pytest.approx(stats.ttest_rel(mine, other).pvalue)
    assert row["low"] < row["difference"] < row["high"]
    assert row["equal"] == "time"
    assert row["seeds"] == SEEDS


def test_what_the_study_lacks_is_not_compared():
    assert set(comparisons(confirmed())["against"]) == {"none_tuned", "stock_tuned", "none_longer", "stock"}


def test_decisions_follow_the_corrected_p_values():
    table = comparisons(confirmed())
    assert dict(zip(table["against"], table["decided"], strict=True)) == {
        "none_tuned": "better", "stock_tuned": "better", "none_longer": "worse", "stock": "worse",
    }  # fmt: skip
    noisy = comparisons(confirmed(spread=0.18))
    close = noisy[(noisy["p_value"] < 0.05) & (noisy["p_holm"] >= 0.05)]
    assert len(close)  # this data has one, on which the correction decides
    assert set(close["decided"]) == {"undecided"}


def test_two_seeds_decide_nothing():
    table = confirmed(spread=1e-6)
    few = comparisons(table[table["seed"] < 2])
    assert (few["p_value"] < 1e-3).all()
    assert set(few["decided"]) == {"undecided"}


def test_an_accuracy_becomes_an_error():
    table = pd.DataFrame(
        {"task": "sudoku", "training": "fixed", "method": ["a"], "seed": 0, "same/board_accuracy/model": 0.7}
    )
    assert errors(table)["error"].tolist() == pytest.approx([0.3])


def test_the_best_reference_of_a_kind_is_named():
    table = confirmed()
    assert reference_errors(table, KINDS["inverse"], "inverse", "trivial", "same") == "4.00 (best constant)"
    assert reference_errors(table, KINDS["inverse"], "inverse", "ceiling", "same") == "0.00"


def test_grids_have_a_row_for_each_task_and_kind_of_training():
    table = confirmed()
    grid = comparison_grid(comparisons(table))
    assert list(grid.index) == [("inverse", "unlimited")]
    assert "worse" in grid["no negatives, more steps (equal time)"].item()
    undecided = comparison_grid(comparisons(confirmed(spread=2.0)))
    assert "detectable" in undecided["no negatives, more steps (equal time)"].item()
    scores = score_grid(table, KINDS)
    assert list(scores.columns[:3]) == ["best trivial", "best classical", "ceiling"]
    assert scores["anm"].item().startswith(f"{of(table, 'anm').mean():.2f}")


def test_methods_that_never_differ_are_said_to_be_equal():
    table = confirmed()
    same = table.assign(**{"same/mse/model": 1.0})
    assert set(comparison_grid(comparisons(same)).iloc[0]) == {"0 % in every seed"}


def test_the_figure_shows_every_comparison_once():
    table = comparisons(confirmed())
    (axes,) = forest(table).axes
    assert len(axes.containers) == len(table)
    shown = sorted(container.lines[0].get_xdata()[0] for container in axes.containers)
    assert shown == pytest.approx(sorted(table["difference"]))


def test_a_missing_verdict_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(anm_verdict, "reference_root", lambda: tmp_path)
    with pytest.raises(ParameterError, match="no kept verdict"):
        anm_verdict.load_verdict()


def test_what_is_kept_names_its_runs():
    """What docs/results.md quotes: at least ten fresh seeds, every run with key, config, versions and commit."""
    kept = anm_verdict.load_verdict()
    settings = kept.provenance["settings"]
    assert len(settings["seeds"]) >= 10
    assert not set(settings["seeds"]) & set(settings["tuning_seeds"])
    names = {"/".join(name) for name in kept.confirmed[anm_verdict.RUN].itertuples(index=False)}
    assert names == set(kept.provenance["runs"])
    for run in kept.provenance["runs"].values():
        assert json.dumps(run["config"]["seeds"]) == json.dumps(settings["seeds"])
        assert run["provenance"]["versions"]["torch"]
        assert run["provenance"]["commit"]
    assert {"inverse", "lowrank", "sudoku"} <= set(kept.confirmed["task"])
