"""Tables, verdicts and figures of where iteration helps say what a calculation by other means says."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anm_nb.analysis import iteration_figures as figures
from anm_nb.analysis import iteration_tables as tables
from anm_nb.analysis import iteration_verdicts as verdicts
from anm_nb.analysis.ranking_tables import stalled_seeds
from anm_nb.analysis.reference import DISPLAYS, keep_reference, load_reference, summary
from anm_nb.analysis.stats import paired_difference, ratio_interval
from anm_nb.config import ParameterError
from anm_nb.ranking.train import trained_ranking
from anm_nb.studies.halting import refine_until_stable
from anm_nb.studies.iteration_study import MODELS, WhereIterationHelps
from anm_nb.tasks.kendall import kendall_tau_numpy

TINY = {
    "size": 6, "mask_rate": 0.5, "width": 8, "n_heads": 2, "max_inner_iters": 2, "train_samples": 16, "batch": 8,
    "epochs": 1, "dev_samples": 4, "test_samples": 4, "seeds": [1, 2, 3], "mask_rates": [0.6], "train_sizes": [8],
    "train_length": 5, "test_lengths": [5, 7], "test_iterations": [1, 3, 4], "chain_lengths": [1, 3],
    "wrong_rates": [0.0, 0.4], "patiences": [1], "problems": 30, "warmup_epochs": 0,
}  # fmt: skip
COMPARATORS = [
    "no iteration", "deep untied", "weight-tied", "random α", "untrained controller", "one timescale",
    "equal timescales", "HRM per token", "HRM per sequence",
]  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A tiny study: settings, runs and tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANM_NB_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        settings = WhereIterationHelps(**TINY)
        runs = settings.get_or_train()
        yield settings, runs, tables.study_tables(settings, runs)


def tau_of(run, seed, batch, iterations):
    """τ by the float64 NumPy implementation, of a model walked through its iterations one by one."""
    model = trained_ranking(run, seed)
    now = model.begin(batch.x)
    for iteration in range(iterations):
        now = model.advance(now, iteration)
    scores = model.decoder(now.z).numpy().astype(np.float32).round(4)
    return kendall_tau_numpy(scores, batch.y.numpy()).mean()


def problems(settings, seed, config):
    return dict(tables.fresh_problems(settings, config))[seed]


def scores_of(seeds=5, **levels):
    """τ by seed for every comparator, at 0.5 where no level is given, with a spread that differs between them."""
    source = np.random.default_rng(0)
    columns = {name: levels.get(name, 0.5) + 0.002 * source.standard_normal(seeds) for name in COMPARATORS}
    return pd.DataFrame(columns, index=pd.RangeIndex(seeds, name="seed"))


# ---- tables ------------------------------------------------------------------------------------------------------
def test_every_answer_is_on_fresh_problems_that_all_models_share(study):
    settings, _, _ = study
    own = settings.hrm()
    batch = problems(settings, 1, own)
    assert len(batch.x) == settings.problems
    assert torch.equal(batch.x, problems(settings, 1, settings.comparators()["no iteration"]).x)
    assert not torch.equal(batch.x, problems(settings, 2, own).x)
    seen = own.learner(1)
    for used, count in ((seen.x[0], 16), (seen.dev[0].x, 4), (seen.test[0].x, 4)):
        assert len(used) == count
        assert not (batch.x.flatten(1).unsqueeze(1) == used.flatten(1).unsqueeze(0)).all(-1).any()


def test_iterations_are_those_asked_for_and_tau_is_measured_after_each(study):
    settings, runs, found = study
    table = found["test_iterations"]
    asked = table.groupby("model", sort=False)["iterations"].apply(lambda each: sorted(set(each))).to_dict()
    assert list(asked) == COMPARATORS
    assert asked["no iteration"] == [1, 3, 4]
    assert asked["deep untied"] == [1, 2]
    assert asked["weight-tied"] == asked["HRM per token"] == [1, 2, 3, 4]
    by = table.set_index(["model", "seed", "iterations"])["tau_all"]
    for model, seed, count in (("HRM per token", 2, 4), ("deep untied", 1, 2), ("random α", 3, 3)):
        expected = tau_of(runs[model], seed, problems(settings, seed, settings.hrm()), count)
        assert by[model, seed, count] == pytest.approx(expected, abs=1e-9)
    scores = tables.at_trained(table)
    assert scores.loc[3, "weight-tied"] == by["weight-tied", 3, 2]
    assert scores.loc[3, "no iteration"] == by["no iteration", 3, 1]


def test_problems_are_of_the_kind_that_a_row_says(study):
    settings, runs, found = study
    kinds = {
        "chain_lengths": ("chain_length", 3, {"task_options": {"code_width": 8, "chain_length": 3}}, 6),
        "noise": ("wrong_rate", 0.4, {"task_options": {"code_width": 8, "wrong_rate": 0.4}}, 6),
        "mask_rates": ("mask_rate", 0.6, {"mask_rate": 0.6}, 6),
        "lengths": ("length", 7, {"size": 7}, 7),
    }
    names = {"mask_rates": "weight-tied, mask_rate = 0.6", "lengths": "weight-tied, size = 5"}
    for name, (column, value, changes, items) in kinds.items():
        batch = problems(settings, 2, settings.hrm().changed(**changes))
        assert batch.x.shape[1] == items
        rows = found[name]
        rows = rows[(rows[column] == value) & (rows["model"] == "weight-tied") & (rows["seed"] == 2)]
        rows = rows[rows["times"] == 1] if name == "lengths" else rows
        rows = rows[rows["train_wrong_rate"] == 0] if name == "noise" else rows
        expected = tau_of(runs[names.get(name, "weight-tied")], 2, batch, 2)
        assert rows["tau_all"].tolist() == [pytest.approx(expected, abs=1e-9)]
    hidden = ~problems(settings, 1, settings.hrm().changed(**kinds["chain_lengths"][2])).known
    assert hidden.sum(1).tolist() == [3] * 30


def test_lengths_noise_and_training_sets_are_answered_by_the_runs_they_name(study):
    settings, runs, found = study
    lengths = found["lengths"].groupby(["train_length", "length"])["times"].agg(lambda each: sorted(set(each)))
    assert lengths.to_dict() == {(5, 5): [1, 2, 4], (5, 7): [1, 2, 4], (6, 6): [1, 2, 4]}
    assert set(found["lengths"].query("times == 4")["model"]) == {"weight-tied", "HRM per token"}
    batch = problems(settings, 1, settings.hrm().changed(size=7))
    row = found["lengths"].query("model == 'HRM per token' and seed == 1 and length == 7 and times == 4")
    assert row["tau_all"].item() == pytest.approx(tau_of(runs["HRM per token, size = 5"], 1, batch, 8), abs=1e-9)
    noisy = found["noise"].query(
        "train_wrong_rate == 0.2 and wrong_rate == 0 and model == 'no iteration' and seed == 1"
    )
    own = problems(settings, 1, settings.hrm())
    expected = tau_of(runs["no iteration, wrong_rate = 0.2"], 1, own, 1)
    assert noisy["tau_all"].item() == pytest.approx(expected, abs=1e-9)
    few = found["train_sizes"].query("train_samples == 8 and model == 'deep untied' and seed == 3")
    expected = tau_of(runs["deep untied, train_samples = 8"], 3, problems(settings, 3, settings.hrm()), 2)
    assert few["tau_all"].item() == pytest.approx(expected, abs=1e-9)
    assert found["train_sizes"].groupby("train_samples").size().to_dict() == {8: 12, 16: 12}


def test_halting_and_control_are_of_the_same_problems(study):
    settings, runs, found = study
    halted = found["halting"].query("model == 'weight-tied' and seed == 1")
    everything = halted[halted["patience"].isna()]["tau_all"].item()
    scores = tables.at_trained(found["test_iterations"])
    assert everything == pytest.approx(scores.loc[1, "weight-tied"], abs=1e-9)
    batch = problems(settings, 1, settings.hrm())
    answer = refine_until_stable(trained_ranking(runs["weight-tied"], 1), batch.x, patience=1)
    expected = kendall_tau_numpy(answer.scores.numpy(), batch.y.numpy()).mean()
    assert halted[halted["patience"] == 1]["tau_all"].item() == pytest.approx(expected, abs=1e-9)
    true = found["control"].query("hints == 'true' and model == 'HRM per token'").set_index("seed")["tau_all"]
    assert true.to_dict() == pytest.approx(scores["HRM per token"].to_dict())
    assert len(found["control"]) == 2 * 3 * 3


def test_passes_of_a_few_problems_add_up_to_all(study, monkeypatch):
    settings, runs, _ = study
    model, batch = trained_ranking(runs["HRM per token"], 1), problems(settings, 1, settings.hrm())
    whole = tables.tau_after_each(model, batch, 3)
    monkeypatch.setattr(tables, "TOGETHER", 7)
    torch.testing.assert_close(tables.tau_after_each(model, batch, 3), whole)


def test_references_are_the_task_s_own_at_each_kind_of_problems(study):
    settings, _, found = study
    known = found["references"]
    at = known.groupby("varied")["value"].apply(lambda each: sorted(set(each))).to_dict()
    assert at == {
        "chain_length": [1, 3],
        "length": [5, 6, 7],
        "mask_rate": [0.5, 0.6],
        "wrong_rate": [0, 0.4],
        "hints": [0, 1],
    }
    shuffled = tables.references_at(known, "hints", 1).set_index("kind")["tau_all"]
    plain = settings.hrm().changed(task="partial_sort", task_options={}).make_task()
    assert shuffled["ceiling"] == pytest.approx(plain.all_pairs_ceiling())
    exact = known[(known["kind"] == "ceiling") & (known["varied"].isin(["chain_length", "length", "mask_rate"]))]
    assert set(exact["tau_all"]) == {1.0}


def test_a_study_that_lacks_a_run_is_refused(study):
    settings, runs, _ = study
    some = {name: run for name, run in runs.items() if name != "random α"}
    with pytest.raises(ParameterError, match="missing: random α"):
        tables.study_tables(settings, some)


# ---- verdicts ----------------------------------------------------------------------------------------------------
POSITIVE = st.floats(0.1, 1.0)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=3, max_size=8), st.floats(0.2, 3.0))
def test_a_ratio_lies_in_its_interval_exactly_where_the_paired_difference_is_not_told_from_zero(pairs, ratio):
    first, second = np.array(pairs).T
    _, low, high = ratio_interval(first, second)
    difference = paired_difference(first, ratio * second)
    if np.isnan(low) or min(abs(difference.low), abs(difference.high)) < 1e-9 or np.ptp(first - ratio * second) < 1e-9:
        return
    assert (low < ratio < high) == (difference.low < 0 < difference.high)


def test_a_ratio_to_what_may_be_zero_has_no_interval():
    assert np.isnan(ratio_interval([0.5, 0.6, 0.7], [-0.1, 0.1, 0.05])[1:]).all()
    assert ratio_interval([0.6], [0.3])[0] == pytest.approx(2)
    assert np.isnan(ratio_interval([0.6], [0.3])[1:]).all()


def test_components_are_judged_after_holm_over_all_comparisons():
    scores = scores_of(**{"no iteration": 0.3})
    scores["HRM per token"] = scores["weight-tied"] + np.array([0.001, 0.002, 0.0015, 0.0012, -0.0006])
    effects = verdicts.component_effects(scores).set_index("component")
    assert len(effects) == 8
    assert effects.loc["iteration", "state"] == "supported"
    assert effects.loc["iteration", "gain"] == pytest.approx((scores["weight-tied"] - scores["no iteration"]).mean())
    routing = effects.loc["routing"]
    assert routing["p_value"] < 0.1 < routing["p_holm"]
    assert routing["state"] == "undecided"
    assert (
        verdicts.component_effects(2 - scores, ceiling=5).set_index("component").loc["iteration", "state"] == "refuted"
    )
    few = verdicts.component_effects(scores.iloc[:2])
    assert set(few["state"]) == {"undecided"}


def test_a_component_s_sentence_has_interval_seeds_p_and_power():
    effects = verdicts.component_effects(scores_of(**{"no iteration": 0.3}))
    iteration, tying, *_ = verdicts.component_verdicts(effects)
    assert iteration.claim == "iteration: weight-tied has a higher τ than no iteration"
    assert iteration.state == "supported"
    row = effects.iloc[0]
    assert f"gain {row.gain:+.3f} [{row.low:+.3f}, {row.high:+.3f}], 5 seeds, p = < 0.001" in iteration.measured
    assert "by Holm over 8 comparisons" in iteration.measured
    assert f"{row.detectable:.3f} would have been found with 80 % power" in iteration.measured
    assert tying.state == "undecided"
    assert "would have been found with 80 % power" in str(tying)
    assert len(verdicts.component_verdicts(effects)) == 5
    assert len(verdicts.component_verdicts(effects, verdicts.BESIDE)) == 3


def test_two_models_at_the_ceiling_decide_nothing():
    at_top = {name: 0.998 for name in COMPARATORS}
    scores = scores_of(**at_top)
    scores["HRM per token"] = scores["weight-tied"] + 0.001 + 1e-6 * np.arange(5)
    effects = verdicts.component_effects(scores).set_index("component")
    assert effects.loc["routing", "p_holm"] < 0.05
    assert effects.loc["routing", "state"] == "undecided"
    routing = verdicts.component_verdicts(effects.reset_index())[2]
    assert "no headroom: both sit at the ceiling 1" in routing.measured


def test_hrm_is_never_credited_without_weight_tying():
    both = verdicts.credit(scores_of(**{"no iteration": 0.3}))
    assert both.state == "supported"
    assert both.claim == "HRM beats the one-pass baseline; but so does plain weight tying"
    alone = verdicts.credit(scores_of(**{"no iteration": 0.3, "weight-tied": 0.3}))
    assert alone.claim.endswith("plain weight tying is not shown to")
    assert "HRM − weight tying +0.20" in alone.measured


def test_seeds_that_stalled_are_counted_beside_the_means():
    scores = scores_of(**{"no iteration": 0.3, "weight-tied": 0.9})
    scores.loc[2, "weight-tied"] = scores["no iteration"].max()
    stalled = stalled_seeds(scores, "no iteration")
    assert (stalled["weight-tied"], stalled["deep untied"]) == (1, 0)
    known = pd.DataFrame([("best possible", "ceiling", "tau_all", 1.0)], columns=["name", "kind", "metric", "value"])
    shown = verdicts.shown_comparators(scores, known).set_index("ranking")
    assert shown["stalled seeds, of 5"].tolist() == ["", "", "0", "1", *["0"] * 6]
    assert shown.loc["weight-tied", "median"] == f"{scores['weight-tied'].median():.3f}"


def control(shuffled):
    models = {"no iteration": (0.5, 0.2), "HRM per token": (0.9, 0.2), "HRM per token, shuffled hints": (0.2, shuffled)}
    rows = [
        (model, seed, taus[place] + 0.001 * seed * (1 + place), hints)
        for (model, taus), seed, (place, hints) in itertools.product(models.items(), range(3), enumerate(tables.HINTS))
    ]
    known = [("hints", 1.0, "best possible", "ceiling", 0.25)]
    return (
        pd.DataFrame(rows, columns=["model", "seed", "tau_all", "hints"]),
        pd.DataFrame(known, columns=["varied", "value", "name", "kind", "tau_all"]),
    )


def test_the_control_has_to_lose_the_gain_and_not_exceed_what_is_possible():
    destroyed = verdicts.control_verdict(*control(0.2))
    assert destroyed.state == "supported"
    assert "without pointers the ceiling is 0.250" in destroyed.measured
    assert verdicts.control_verdict(*control(0.4)).state == "undecided"  # it lost much, and yet cheats
    assert verdicts.control_verdict(*control(0.95)).state == "refuted"


def tiered(baseline, hrm, tied=None, spread=0.002):
    noise = spread * np.array([-1, 0.5, 0, 0.2, 0.3])
    levels = {"no iteration": baseline, "weight-tied": hrm if tied is None else tied, "HRM per token": hrm}
    rows = [
        (model, seed, level + noise[(seed + place) % 5], 0.5)
        for place, (model, level) in enumerate(levels.items())
        for seed in range(5)
    ]
    known = [
        ("mask_rate", 0.5, kind, kind, tau) for kind, tau in (("trivial", 0.0), ("classical", 0.5), ("ceiling", 1.0))
    ]
    return verdicts.tier_table(
        pd.DataFrame(rows, columns=["model", "seed", "tau_all", "mask_rate"]),
        pd.DataFrame(known, columns=["varied", "value", "name", "kind", "tau_all"]),
    ).set_index(["model", "tier"])


def test_tiers_are_of_means_and_of_intervals():
    clear = tiered(0.5, 0.7).loc["HRM per token"]
    assert clear["by_means"].tolist() == clear["by_intervals"].tolist() == ["met", "met", "not met"]
    near = tiered(0.5, 0.6001, spread=0.02).loc["HRM per token"]
    assert near["by_means"].tolist() == ["met", "not met", "not met"]
    assert near["by_intervals"].tolist()[0] == "undecided"
    high = tiered(0.8, 0.97).loc["HRM per token"]
    assert high["reachable"].tolist() == [True, False, False]  # 1.35 × 0.8 is more than a perfect order has


def test_tiers_are_shown_for_weight_tying_in_the_place_of_hrm_too():
    table = tiered(0.5, 0.55, tied=0.9)
    assert table.loc["weight-tied", "by_means"].tolist() == ["met"] * 3
    assert table.loc["HRM per token", "by_means"].tolist() == ["not met"] * 3
    shown = verdicts.shown_tiers(table.reset_index())
    assert shown["model"].tolist() == ["HRM per token", "weight-tied"]
    assert shown["stretch"].tolist() == ["not met", "met"]
    assert shown["trivial, classical, ceiling"].tolist() == ["0.00, 0.50, 1.00"] * 2


# ---- figures -----------------------------------------------------------------------------------------------------
MAKERS = {
    "tau_by_chain_length": lambda t, e: figures.tau_by_chain_length(t["chain_lengths"], t["references"]),
    "tau_by_test_iterations": lambda t, e: figures.tau_by_test_iterations(t["test_iterations"]),
    "tau_by_length": lambda t, e: figures.tau_by_length(t["lengths"], t["references"]),
    "tau_by_training": lambda t, e: figures.tau_by_training(t["train_sizes"], t["mask_rates"], t["references"]),
    "tau_by_noise": lambda t, e: figures.tau_by_noise(t["noise"], t["references"]),
    "tau_by_halting": lambda t, e: figures.tau_by_halting(t["halting"], t["test_iterations"]),
    "tau_by_hints": lambda t, e: figures.tau_by_hints(t["control"], t["references"]),
    "headline": lambda t, e: figures.headline(
        t["chain_lengths"], e, tables.at_trained(t["test_iterations"]), t["references"]
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_figures_draw_without_complaint_and_say_what_they_show(study, name):
    _, _, found = study
    effects = verdicts.component_effects(tables.at_trained(found["test_iterations"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph among them
        figure = MAKERS[name](found, effects)
        assert len(figure._repr_png_()) > 5000
    assert figure.get_size_inches()[0] == pytest.approx(6.75)
    assert all(axes.get_xlabel() for axes in figure.axes if name != "tau_by_hints")


def test_every_figure_function_is_on_test():
    public = {
        name for name, value in vars(figures).items() if getattr(value, "__annotations__", {}).get("return") == "Figure"
    }
    assert public - {"new_figure"} == set(MAKERS)


def test_iterations_up_to_the_trained_number_are_drawn_alone(study):
    figure = figures.tau_by_test_iterations(study[2]["test_iterations"], beyond=False)
    drawn = [line.get_xdata() for axes in figure.axes for line in axes.lines if line.get_label() == "weight-tied"]
    assert [list(x) for x in drawn] == [[1, 2], [1, 2]]


def test_every_comparator_is_in_a_panel():
    assert {model for models in figures.PANELS.values() for model in models} == set(COMPARATORS)
    assert set(MODELS) <= set(COMPARATORS)


def test_the_axis_is_stretched_toward_one_and_back():
    tau = np.array([-0.5, 0.0, 0.5, 0.9, 0.99, 1.0])
    np.testing.assert_allclose(figures._unstretched(figures._stretched(tau)), tau, atol=1e-12)
    assert np.diff(figures._stretched(np.array([0.5, 0.9, 0.99]))).min() > 0.5


# ---- kept --------------------------------------------------------------------------------------------------------
def test_the_study_is_kept_with_its_tables_and_read_back_without_its_runs(study, tmp_path, monkeypatch):
    settings, runs, found = study
    monkeypatch.setattr("anm_nb.analysis.reference.reference_root", lambda: tmp_path)
    name = settings.notebook
    keep_reference(name, runs, settings.reference_scores(50), DISPLAYS[name].tables(settings, runs))
    kept = load_reference(name)
    for table, rows in found.items():
        pd.testing.assert_frame_equal(kept.table(table), rows)
    assert set(kept.provenance) == set(settings.configs())
    assert (kept.path / "figure.png").stat().st_size > 5000
    text = summary(kept)
    assert [len(table.splitlines()) for table in text.split("\n\n")] == [
        2 + 5 + 9,
        2 + 8,
        2 + 2 * 2,
    ]  # head, rule and rows
    with pytest.raises(ParameterError, match="did you mean 'lengths'"):
        kept.table("length")
