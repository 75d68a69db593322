"""Runs become experiments, compared as scipy does; what cannot be read is named, and an empty store explained."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from stored_training import CONFIGS, Line, energy

from anm_nb.analysis import anm_verdict, answers, answers_figures, overturning, overview
from anm_nb.analysis.collecting import collect_experiments, kept_experiments, stored_experiments
from anm_nb.analysis.experiment import Comparison, Finished, experiments_of
from anm_nb.analysis.grouping import comparable, method_names, method_of
from anm_nb.analysis.reference import load_reference
from anm_nb.analysis.tables import final
from anm_nb.config import ParameterError
from anm_nb.ranking.train import RankingConfig
from anm_nb.ranking.variants import comparators
from anm_nb.store import get_or_train

HRM = RankingConfig(routing="token", hrm_period=2, max_inner_iters=4)
RANKING = HRM.model_dump(mode="json")
ENERGY = energy("none").model_dump(mode="json")
REFERENCES = pd.DataFrame(
    [("zero", "trivial", "mse", 1.0), ("exact", "classical", "mse", 0.1), ("truth", "ceiling", "mse", 0.0)],
    columns=["name", "kind", "metric", "value"],
)


def finished(values, method=None, settings=ENERGY, column="mse", **changes) -> Finished:
    """A run whose last value of a column is given for each seed, after another one."""
    rows = [
        {"seed": seed, "step": step, column: value + 5 * (step == 0)}
        for seed, value in values.items()
        for step in (0, 9)
    ]
    provenance = {
        "key": "k",
        "commit": "abcdef0123",
        "dirty": True,
        "finished": "2026-01-02T00:00:00Z",
        "device": "cpu",
    }
    return Finished(method, settings | changes, pd.DataFrame(rows), provenance)


def experiments(*several: Finished):
    return experiments_of(several, ["one"] * len(several), {"one": REFERENCES})


# what can be compared


def test_the_method_and_the_seeds_are_all_that_comparable_runs_differ_in():
    assert comparable(ENERGY) == comparable(energy("anm", contrastive_weight=0.1, seeds=[5]).model_dump(mode="json"))
    assert comparable(ENERGY) != comparable(ENERGY | {"width": 9})
    assert comparable(ENERGY) != comparable(ENERGY | {"steps": 13})
    assert len({comparable(config.model_dump(mode="json")) for config in comparators(HRM).values()}) == 1


def test_ranking_models_are_called_what_the_comparators_are():
    for name, config in comparators(HRM).items():
        assert method_of(config.model_dump(mode="json")) == name


def test_what_is_of_no_family_is_refused():
    with pytest.raises(ParameterError, match="no family"):
        comparable(Line().model_dump(mode="json"))


def test_variants_of_a_method_are_named_by_what_most_of_them_do_not_share():
    group = [RANKING, RANKING | {"max_inner_iters": 6}, RANKING | {"temperature": 1.0}, RANKING | {"routing": "random"}]
    assert method_names(group) == [
        "HRM per token", "HRM per token, max_inner_iters = 6", "HRM per token, temperature = 1", "random α",
    ]  # fmt: skip
    assert len(set(method_names([RANKING, RANKING | {"entropy_weight": 0.5}]))) == 2


def test_runs_of_one_config_are_one_method_and_the_newest_has_the_word_on_a_seed():
    (one,) = experiments(finished({0: 1.0, 1: 2.0}), finished({1: 7.0, 2: 3.0}, seeds=[1, 2]))
    assert one.scores["mse"]["none"].to_dict() == {0: 1.0, 1: 7.0, 2: 3.0}
    assert one.measured_on == "dev"


def test_experiments_of_one_name_say_what_differs_from_the_largest():
    anm = energy("anm").model_dump(mode="json")
    found = experiments(finished({0: 1.0}, width=16), finished({0: 1.0}), finished({0: 2.0}, settings=anm))
    assert [(each.name, list(each.settings)) for each in found] == [
        ("one", ["none", "anm"]),
        ("one, width = 16", ["none"]),
    ]
    assert found[0].references is REFERENCES
    assert set(found[1].references["name"]) > {"zero"}  # measured anew: those kept need not be of these problems


def test_a_kept_name_loses_the_ending_that_the_experiment_has():
    changed = {"settings": RANKING, "column": "test_tau_obs", "mask_rate": 0.25}
    baseline = HRM.baseline().model_dump(mode="json") | {"mask_rate": 0.25}
    found = experiments(
        finished({0: 0.5}, "hrm", **changed | {"mask_rate": 0.5}),
        finished({0: 0.5}, "HRM per token, mask_rate = 0.25", **changed),
        finished({0: 0.4}, "no iteration, mask_rate = 0.25", settings=baseline, column="test_tau_obs"),
    )
    assert {each.name: list(each.settings) for each in found}["one"] == ["HRM per token", "no iteration"]


# differences


def draw(*means: float, seeds: int = 6) -> list[dict[int, float]]:
    source = np.random.default_rng(1)
    return [{seed: mean + 0.1 * source.standard_normal() for seed in source.permutation(seeds)} for mean in means]


def three_methods():
    settings = [energy(name).model_dump(mode="json") for name in ("none", "stock", "anm")]
    (one,) = experiments(*(finished(v, settings=s) for v, s in zip(draw(1.0, 1.02, 3.0), settings, strict=True)))
    return one


def test_differences_are_the_paired_t_test_of_the_same_seeds_against_the_baseline():
    one = three_methods()
    table = overview.differences(overview.against_baselines([one])).set_index("method")
    assert list(table.index) == ["stock", "anm"]
    assert set(table["against"]) == {"none"}
    scores = one.scores["mse"]
    for method, row in table.iterrows():
        test = stats.ttest_rel(scores[method], scores["none"])
        assert row["p_value"] == pytest.approx(test.pvalue)
        low, high = test.confidence_interval(0.95)
        assert (row["low"], row["high"]) == pytest.approx((low, high))
    assert table["p_holm"].tolist() == pytest.approx(stats_holm(table["p_value"]))
    assert table.loc["anm", "decided"] == "worse"
    assert table.loc["stock", "decided"] == "undecided"
    assert table.loc["anm", "room"] == pytest.approx(scores["none"].mean())


def stats_holm(p_values) -> list[float]:
    """Two p-values: the smaller twice, the other as it is, never below."""
    small = 2 * min(p_values)
    return [small if p == min(p_values) else max(small, p) for p in p_values]


def test_runs_without_a_seed_in_common_are_not_compared():
    stock = energy("stock").model_dump(mode="json")
    (one,) = experiments(finished({0: 1.0, 1: 1.0}), finished({2: 2.0, 3: 2.0}, settings=stock))
    assert overview.against_baselines([one]) == []
    (partly,) = experiments(finished({0: 1.0, 1: 1.5}), finished({1: 2.0, 0: 2.0, 3: 9.0}, settings=stock))
    (row,) = overview.differences(overview.against_baselines([partly])).to_dict("records")
    assert (row["seeds"], row["difference"]) == (2, pytest.approx(0.75))


def test_a_score_is_better_above_and_an_error_below():
    up = Comparison(
        "e", "tau_all", "a", "b", np.array([0.5, 0.6, 0.7, 0.6]), np.array([0.1, 0.21, 0.3, 0.2]), True, 1.0
    )
    assert overview.differences([up])["decided"].tolist() == ["better"]
    assert overview.differences([replace(up, metric="mse", more_is_better=False)])["decided"].tolist() == ["worse"]
    full = replace(up, first=np.full(4, 1.0), second=np.array([0.999, 0.998, 0.999, 0.998]))
    assert overview.differences([full])["decided"].tolist() == ["no headroom"]


def test_what_is_shown_is_what_the_tables_hold():
    one = three_methods()
    scores = overview.scores([one])
    row = scores.set_index("method").loc["anm"]
    text = overview.shown_scores(scores).loc[("one", "MSE, dev", "anm")]
    assert text["score [95 %]"] == f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    assert row["mean"] == pytest.approx(one.scores["mse"]["anm"].mean())
    assert (text["best trivial"], text["best classical"], text["ceiling"]) == ("1.00 (zero)", "0.100 (exact)", "0.00")
    assert float(text["skill"]) == pytest.approx(1 - row["mean"], abs=0.005)
    differences = overview.differences(overview.against_baselines([one]))
    shown = overview.shown_differences(differences).loc[("one", "MSE", "anm − none")]
    assert shown["difference [95 %]"].startswith(f"+{differences['difference'].iloc[1]:.2f} [")
    there = overview.overview([one]).loc["one"]
    assert (there["methods"], there["seeds"], there["commit"], there["finished"]) == (
        "none, stock, anm", "6", "abcdef0+", "2026-01-02",
    )  # fmt: skip


def test_tiers_name_their_space_wherever_baseline_and_hrm_are():
    reports = overview.tier_reports(kept_experiments())
    assert {"02_kendall_forensics", "20_hrm_vs_baseline"} <= set(reports)
    kept = load_reference("20_hrm_vs_baseline")
    taus = kept.metrics.dropna(subset=["test_tau_all"]).groupby("method")["test_tau_all"].mean()
    all_pairs = next(each for each in reports["20_hrm_vs_baseline"] if each.space == "all pairs")
    assert (all_pairs.baseline[0], all_pairs.hrm[0]) == pytest.approx((taus["baseline"], taus["hrm"]))
    assert set(overview.shown_tiers(reports).reset_index()["measured in"]) == {
        "observed pairs",
        "all pairs",
        "index space",
    }


# the two answers, on what is kept


def test_kept_scores_are_those_of_the_kept_tables():
    by_name = {each.name: each for each in kept_experiments()}
    kept = load_reference("10_anm_vs_corruption")
    expected = final(kept.metrics, "mse")
    found = by_name["10_anm_vs_corruption"].scores["mse"]
    pd.testing.assert_frame_equal(found[list(expected)], expected, check_names=False)
    assert {each.partition(",")[0] for each in by_name} >= {"15_ired_table", "anm_verdict"}


def test_mining_is_decided_as_the_kept_study_decides_it():
    kept = anm_verdict.load_verdict()
    theirs, ours = anm_verdict.comparisons(kept.confirmed), overview.differences(answers.tuned_comparisons(kept))
    assert ours["p_holm"].tolist() == pytest.approx(theirs["p_holm"].tolist(), rel=1e-6)
    assert ours["decided"].tolist() == theirs["decided"].tolist()
    assert ours["difference"].tolist() == pytest.approx(theirs["difference"].tolist(), abs=1e-9)


def test_mining_beats_every_rival_only_where_it_beats_each():
    def table(*decided: str) -> pd.DataFrame:
        rows = zip(("none_longer", "stock_longer"), decided, (1.0, -2.0), strict=True)
        fixed = {
            "task": "inverse",
            "training": "fixed",
            "equal": "time",
            "method": "anm_tuned",
            "low": -3.0,
            "high": 3.0,
        }
        fixed |= {"p_value": 0.5, "p_holm": 0.5, "detectable": 1.0, "seeds": 10}
        return pd.DataFrame([{"against": a, "decided": d, "difference": x, **fixed} for a, d, x in rows])

    cases = {("better", "better"): "supported", ("better", "worse"): "refuted", ("better", "undecided"): "undecided"}
    for decided, state in cases.items():
        (verdict,) = answers.mining_verdicts(table(*decided))
        assert verdict.state == state
        assert verdict.estimate == 1.0  # the strongest rival's


def test_components_are_compared_wherever_their_two_models_are():
    source, models = np.random.default_rng(0), comparators(HRM)
    worth = {"no iteration": 0.4, "weight-tied": 0.7, "HRM per token": 0.7, "one timescale": 0.69}
    taus = {model: {seed: tau + 0.01 * source.standard_normal() for seed in range(5)} for model, tau in worth.items()}
    runs_of = [
        finished(values, None, models[model].model_dump(mode="json"), "test_tau_obs") for model, values in taus.items()
    ]
    (one,) = experiments_of(runs_of, ["sort"] * 4)
    found = {each.part: each for each in answers.iteration_comparisons([one])}
    assert set(found) == {"all of HRM", "iteration", "routing", "two time scales"}
    assert (found["iteration"].method, found["iteration"].against) == ("weight-tied", "no iteration")
    effects = overview.differences([*found.values()]).set_index("part")
    assert effects.loc["iteration", "difference"] == pytest.approx(0.3, abs=0.03)
    assert effects.loc["iteration", "room"] == pytest.approx(0.6, abs=0.03)
    panels = answers_figures.effect_panels(effects.reset_index(), "Δτ", "right").axes
    assert [axes.get_title(loc="left").replace("\n", " ") for axes in panels] == list(effects.index)
    drawn = panels[1].containers[-1][0].get_xdata()
    assert drawn == pytest.approx([effects["difference"].iloc[1]])


def test_accuracies_count_as_errors_in_per_cent():
    each = Comparison("e", "board_accuracy", "a", "b", np.array([0.9, 0.7]), np.array([0.8, 0.6]), True)
    found = answers.in_percent(each)
    assert overview.differences([found])["difference"].tolist() == pytest.approx([100 * (0.2 - 0.3) / 0.3])
    assert not found.more_is_better
    assert answers.in_percent(replace(each, second=np.ones(2))).pairs == 0  # no error, so no per cent of it


# what would change them


@given(st.floats(0.05, 5.0))
def test_no_fewer_seeds_would_do_and_so_many_do(effect):
    needed = overturning.seeds_needed(effect)
    power = [
        stats.ncf.sf(stats.t.ppf(0.975, n - 1) ** 2, 1, n - 1, n * effect**2) if n > 1 else 0.0
        for n in (needed - 1, needed)
    ]
    assert power[0] < 0.8 <= power[1]
    assert overturning.seeds_needed(-effect) == needed


def test_what_would_change_a_verdict_follows_from_the_verdict():
    low, high = np.array([1.0, 1.1, 0.9, 1.0]), np.array([2.0, 2.2, 1.9, 2.1])
    worse = answers.in_percent(Comparison("e", "mse", "a", "b", high, low, False))
    (row,) = overturning.overturning([worse]).to_dict("records")
    assert row["change"].startswith(f"an error {100 * (1 - low.mean() / high.mean()):.0f} % lower")
    undecided = Comparison("e", "mse", "a", "b", np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.5, 1.9, 3.6, 4.2]), False)
    (row,) = overturning.overturning([undecided]).to_dict("records")
    spread = np.std(undecided.first - undecided.second, ddof=1)
    needed = overturning.seeds_needed(float(np.mean(undecided.first - undecided.second)) / spread)
    assert row["change"].startswith(f"{needed} seeds")
    single = replace(undecided, first=undecided.first[:1], second=undecided.second[:1])
    assert "3 seeds or more" in overturning.overturning([single])["change"].iloc[0]
    same = replace(undecided, second=undecided.first)
    assert "no number of seeds" in overturning.overturning([same])["change"].iloc[0]


def test_other_statistics_are_scipys():
    source = np.random.default_rng(3)
    each = Comparison("e", "mse", "a", "b", source.standard_normal(8) + 1, source.standard_normal(8), False)
    (row,) = overturning.robustness([each], np.random.default_rng(0)).to_dict("records")
    assert row["p, t"] == overview.p_text(stats.ttest_rel(each.first, each.second).pvalue)
    assert row["p, Wilcoxon"] == overview.p_text(stats.wilcoxon(each.first - each.second).pvalue)


def test_what_was_not_run_is_read_from_the_profiles():
    table = overturning.not_run(kept_experiments())
    assert "batch 128 of 2048" in table.loc["10_anm_vs_corruption", "at most, of what is published"]
    assert table.loc["13_landscape_line_scans", "runs kept"] == 0
    assert not {"30_analysis", "40_explore_margins"} & {*table.index}


def test_the_runs_of_a_sweep_are_those_of_the_notebooks_it_unites():
    (whole,) = (each for each in kept_experiments() if each.name == "hrm")
    stopped = replace(
        whole, settings={method: {**settings, "stop_at_score": 0.99} for method, settings in whole.settings.items()}
    )
    for experiment, less in ((whole, "–"), (stopped, "some only until dev score 0.99")):
        table = overturning.not_run([experiment])
        kept = table[table["runs kept"] > 0]
        assert [name[:2] for name in kept.index] == ["20", "21", "22", "23", "24"]
        assert set(kept["at most, of what is published"]) == {less}


# the store


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return tmp_path


def test_an_empty_store_says_what_to_run_and_what_is_kept_follows(store):
    collection = collect_experiments("store")
    assert "No finished runs in" in collection.message
    assert "make demo" in collection.message
    assert collection.read_from == "reference"
    assert collection.experiments
    assert collect_experiments("reference").message == ""


def test_an_empty_store_beside_nothing_kept_says_what_keeps(store, monkeypatch, tmp_path):
    monkeypatch.setattr("anm_nb.analysis.collecting.reference_root", lambda: tmp_path / "reference")
    collection = collect_experiments("store")
    assert "anm-nb reference" in collection.message
    assert collection.experiments == []
    assert overview.overview([]).empty
    assert overview.shown_differences(overview.differences([])).empty
    assert overview.shown_scores(overview.scores([])).empty
    assert overview.shown_tiers({}).empty
    assert overturning.shown_overturning(overturning.overturning([])).empty
    assert overturning.robustness([], np.random.default_rng(0)).empty
    assert answers_figures.mining_figure(collection).axes[0].texts
    assert answers.verdicts_of_mining(collection) == []


def test_corrupt_and_unfinished_runs_are_named_and_the_others_read(store):
    good, changed, torn, other = (
        get_or_train(config) for config in (energy("none"), energy("stock"), CONFIGS["ranking"], Line())
    )
    metrics = changed.path / "metrics.parquet"
    data = bytearray(metrics.read_bytes())
    data[40] ^= 1  # of the same size, so that only its checksum tells
    metrics.write_bytes(data)
    (torn.path / "config.json").unlink()
    (store / "runs" / ".partial" / "0123456789abcdef").mkdir()
    collection = stored_experiments()
    assert set(collection.unreadable) == {changed.key, torn.key, other.key, "0123456789abcdef"}
    assert "sha256" in collection.unreadable[changed.key]
    assert "missing" in collection.unreadable[torn.key]
    (one,) = collection.experiments
    assert one.provenance["none"]["key"] == good.key
    assert one.name == "inverse 2"
    expected = good.metrics.sort_values("step").groupby("seed")["mse"].last()
    pd.testing.assert_series_equal(one.scores["mse"]["none"], expected, check_names=False)
    assert list(collection.unreadable_table.index) == list(collection.unreadable)


def test_provenance_of_the_kept_results_is_shown(store):
    kept = json.loads((load_reference("20_hrm_vs_baseline").path / "provenance.json").read_text())
    row = overview.overview(kept_experiments()).loc["20_hrm_vs_baseline"]
    assert row["commit"] == kept["hrm"]["provenance"]["commit"][:7]


# the notebook, as papermill runs it

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "30_analysis.ipynb"


def printed(folder: Path) -> str:
    """All that the notebook printed, run with the store as its source."""
    import nbformat
    import papermill

    papermill.execute_notebook(NOTEBOOK, folder / "out.ipynb", {"source": "store"}, progress_bar=False)
    outputs = [out for cell in nbformat.read(folder / "out.ipynb", 4).cells for out in cell.get("outputs", [])]
    return "\n".join(out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs)


@pytest.mark.slow
def test_the_notebook_runs_on_an_empty_store_and_on_trained_runs(store):
    assert "No finished runs in" in printed(store)
    for negatives in ("none", "anm"):
        get_or_train(energy(negatives, seeds=[0, 1, 2]))
    text = printed(store)
    assert "1 experiments; could not be read: 0" in text
    assert "inverse 2: anm is better than none" in text
