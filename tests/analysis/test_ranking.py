"""Tables, verdicts and figures of ranking runs say what a hand calculation on the same predictions says."""

import itertools
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from anm_nb.analysis import ranking_figures as figures
from anm_nb.analysis.ranking_checklist import (
    ceilings,
    gain,
    iteration_gain,
    routing_bands,
    sweep_verdicts,
    tier_reports,
)
from anm_nb.analysis.ranking_tables import (
    SPACES,
    Probe,
    check_bands,
    fix_effects,
    on_test,
    probe,
    reached_by,
    tau_by_iteration,
    time_to_tau,
    waterfall,
)
from anm_nb.analysis.tables import collect, score_table
from anm_nb.ranking.variants import FIXES
from anm_nb.store import get_or_train
from anm_nb.studies.ranking_settings import HrmVsBaseline

TINY = {
    "size": 6, "width": 8, "n_heads": 2, "max_inner_iters": 3, "train_samples": 16, "batch": 8, "epochs": 2,
    "dev_samples": 8, "test_samples": 20, "seeds": [1, 2],
}  # fmt: skip
REFERENCES = pd.DataFrame(
    [
        ("random scores", "trivial", "tau_obs", 0.01), ("random scores", "trivial", "tau_all", 0.0),
        ("random scores", "trivial", "tau_index", 0.0), ("sorted", "classical", "tau_obs", 1.0),
        ("sorted", "classical", "tau_all", 0.5), ("sorted", "classical", "tau_index", 0.06),
        ("best possible", "ceiling", "tau_obs", 1.0), ("best possible", "ceiling", "tau_all", 0.5),
    ],
    columns=["name", "kind", "metric", "value"],
)  # fmt: skip
ABLATED = ["published", *(f"only {fix}" for fix in FIXES), *(f"all but {fix}" for fix in FIXES), "all"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two tiny runs, their settings with them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANM_NB_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        settings = HrmVsBaseline(**TINY)
        yield settings, settings.get_or_train()


def metrics(methods=("baseline", "hrm"), seeds=3, level=0.4):
    """Three epochs of every method; τ rises, test scores stand in the last row as in a run."""
    source = np.random.default_rng(0)
    rows = pd.DataFrame(itertools.product(methods, range(seeds), range(3)), columns=["method", "seed", "epoch"])
    rows["step"] = rows["epoch"] * 5
    for column in ("tau_obs", "tau_all", "tau_index", "entropy", "herfindahl", "max_alpha"):
        rows[column] = level + source.uniform(-0.05, 0.05, len(rows))
        if column.startswith("tau"):
            rows[f"test_{column}"] = rows[column].where(rows["epoch"] == 2)
    return rows


def spaces(methods=("published baseline", "published", "hrm")):
    rows = itertools.product(methods, range(3), SPACES)
    return pd.DataFrame(
        [(method, seed, space, 0.1 * (seed + 1)) for method, seed, space in rows],
        columns=["method", "seed", "space", "tau"],
    )


def iterations(counts):
    rows = [
        (method, seed, iteration, 0.9 + 0.01 * (1 + 0.1 * seed) * iteration, 0.4 + 0.01 * (1 + 0.1 * seed) * iteration)
        for method, count in counts.items()
        for seed in range(3)
        for iteration in range(1, count + 1)
    ]
    return pd.DataFrame(rows, columns=["method", "seed", "iteration", "tau_obs", "tau_all"])


def a_probe(count=5):
    return Probe(np.full((count, 6, 4), 0.25), np.arange(6), np.arange(6) < 3)


# ---- tables ------------------------------------------------------------------------------------------------------
def test_the_waterfall_measures_the_predictions_that_the_run_was_scored_by(trained):
    _, runs = trained
    found = waterfall(runs).set_index(["method", "seed", "space"])["tau"]
    for method, run in runs.items():
        ends = run.metrics.groupby("seed").last()
        for seed, (space, metric) in itertools.product([1, 2], SPACES.items()):
            assert found[method, seed, space] == pytest.approx(ends.loc[seed, f"test_{metric}"])


def test_the_last_iteration_is_the_answer(trained):
    _, runs = trained
    table = tau_by_iteration(runs)
    assert table.groupby("method")["iteration"].max().to_dict() == {"baseline": 1, "hrm": 3}
    last = table[table["method"] == "hrm"].groupby("seed").last()
    np.testing.assert_allclose(last["tau_all"], on_test(collect(runs), "test_tau_all")["hrm"])


def finished(taus, seconds):
    """What is read of a run: τ by seed and epoch, five steps an epoch, and seconds where there are any."""
    rows = [
        {"seed": seed, "epoch": float(epoch), "step": 5 * epoch, "tau_obs": tau}
        for seed, of_seed in taus.items()
        for epoch, tau in enumerate(of_seed)
    ]
    return SimpleNamespace(metrics=pd.DataFrame(rows), provenance={"training_seconds": seconds})


def test_time_to_tau_is_the_first_epoch_that_reaches_it():
    taus = {4: [-0.1, 0.25, 0.2, 0.95, 0.9], 0: [0.3, math.nan, 0.9, 0.9, 0.99]}
    seconds = {"4": [0.0, 1.5, 3.0, 4.5, 6.0], "0": [0.5, 1.0, 1.5, 2.0, 2.5]}
    table = time_to_tau({"hrm": finished(taus, seconds), "untimed": finished({1: [0.9]}, {})})
    expected = pd.DataFrame(
        [
            ("hrm", 4, 0.25, 1, 5, 1.5), ("hrm", 4, 0.9, 3, 15, 4.5), ("hrm", 4, 0.99, None, None, math.nan),
            ("hrm", 0, 0.25, 0, 0, 0.5), ("hrm", 0, 0.9, 2, 10, 1.5), ("hrm", 0, 0.99, 4, 20, 2.5),
            ("untimed", 1, 0.25, 0, 0, math.nan), ("untimed", 1, 0.9, 0, 0, math.nan),
            ("untimed", 1, 0.99, None, None, math.nan),
        ],
        columns=["method", "seed", "tau", "epoch", "step", "seconds"],
    ).astype({"epoch": "Int64", "step": "Int64"})  # fmt: skip
    pd.testing.assert_frame_equal(table, expected)
    glance = reached_by(table[table["method"] == "hrm"], "epoch")
    assert glance.to_numpy().tolist() == [[0, 1], [2, 3], [4, "never"]]
    assert glance.index.tolist() == [("hrm", 0.25), ("hrm", 0.9), ("hrm", 0.99)]
    assert glance.columns.tolist() == [0, 4]


def test_time_to_tau_reads_a_run_as_it_is_stored(trained):
    _, runs = trained
    table = time_to_tau(runs, milestones=[-2.0])  # which every τ reaches at once
    assert table["epoch"].tolist() == table["step"].tolist() == [0] * 4
    assert table["seconds"].tolist() == [0.0] * 4
    ends = time_to_tau(runs, milestones=[2.0])
    assert ends[["epoch", "step", "seconds"]].isna().all(axis=None)


def test_a_probe_is_of_the_last_epoch_of_a_seed_that_stopped_before_another(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    config = HrmVsBaseline(**TINY | {"epochs": 12, "seeds": [1, 2, 3]}).hrm()
    score = sorted(get_or_train(config).metrics.groupby("seed")["tau_obs"].max())[0]
    stopped = get_or_train(config.changed(stop_at_score=score))
    lengths = stopped.metrics.groupby("seed").size()
    first = lengths.idxmin()
    assert lengths[first] < lengths.max()
    alone = get_or_train(config.changed(stop_at_score=score, seeds=(int(first), int(lengths.idxmax()))))
    assert np.isfinite(probe(alone).alphas).all()


def test_a_probe_is_the_problem_its_weights_were_recorded_on(trained):
    settings, runs = trained
    learner = settings.hrm().learner(1)
    model, dev = learner.model.members[0], learner.dev[0]
    model.load_state_dict(
        {
            name.removeprefix("seed1.averaged."): weight
            for name, weight in runs["hrm"].weights.items()
            if name.startswith("seed1.averaged.")
        }
    )
    with torch.no_grad():
        alphas = model(dev.x[:1]).alphas[0].numpy()
    seen = probe(runs["hrm"])
    order = np.lexsort((dev.y[0], ~dev.known[0]))
    np.testing.assert_allclose(seen.alphas, alphas[:, order], atol=1e-6)
    assert seen.known.tolist() == [True] * 3 + [False] * 3
    assert all(np.diff(seen.ranks[:3]) > 0)


def test_effects_are_paired_differences_in_favour_of_the_fix():
    table = metrics(ABLATED)
    effects = fix_effects(table).set_index(["fix", "how", "metric"])
    scores = on_test(table, "test_tau_obs")
    added = (scores["only ranking loss"] - scores["published"]).mean()
    removed = (scores["all"] - scores["all but ranking loss"]).mean()
    assert effects.loc[("ranking loss", "added", "tau_obs"), "estimate"] == pytest.approx(added)
    assert effects.loc[("ranking loss", "removed", "tau_obs"), "estimate"] == pytest.approx(removed)
    assert len(effects) == 2 * 2 * len(FIXES)


def test_skill_of_a_score_that_rises_is_its_share_of_the_way_to_the_ceiling():
    scores = pd.DataFrame({"hrm": [0.3, 0.2]})
    assert score_table(scores, REFERENCES, "tau_all").loc["hrm", "skill"] == pytest.approx(0.5)


# ---- verdicts ----------------------------------------------------------------------------------------------------
def test_models_at_the_ceiling_have_no_headroom_whatever_their_difference():
    table = metrics(level=0.4)
    rows = table["epoch"] == 2
    table.loc[rows, "test_tau_obs"] = [0.995, 0.996, 0.997, 0.9991, 0.9995, 0.9999]
    verdict = gain(table, REFERENCES, "hrm", "baseline", "observed pairs")
    assert verdict.p_value < 0.05
    assert verdict.state == "undecided"
    assert "no headroom" in verdict.measured
    assert "would have been found" in str(verdict)


def test_a_gain_below_the_ceiling_is_judged():
    table = metrics()
    rows = table["epoch"] == 2
    table.loc[rows, "test_tau_all"] = [0.20, 0.21, 0.22, 0.31, 0.30, 0.32]
    assert gain(table, REFERENCES, "hrm", "baseline", "all pairs").state == "supported"
    assert gain(table, REFERENCES, "baseline", "hrm", "all pairs").state == "refuted"


def test_tiers_are_reported_in_every_space():
    reports = tier_reports(metrics(), REFERENCES)
    assert [report.space for report in reports] == ["observed pairs", "all pairs", "index space"]
    assert ceilings(REFERENCES) == {"index space": 1.0, "all pairs": 0.5, "observed pairs": 1.0}


def test_other_verdicts_are_about_what_they_say():
    assert iteration_gain(iterations({"hrm": 3}), "hrm", "tau_obs").state == "supported"
    entropy, concentration, largest = routing_bands(metrics(seeds=10), "hrm")
    assert (entropy.state, concentration.state, largest.state) == ("refuted", "supported", "supported")
    names = ["baseline", "hrm_period = 1", "hrm_period = 2"]
    verdicts = sweep_verdicts(metrics(names), REFERENCES, "hrm_period = 2")
    assert [verdict.claim.split(" (")[0] for verdict in verdicts] == [
        "hrm_period = 1 has a higher τ than baseline",
        "hrm_period = 2 has a higher τ than baseline",
        "hrm_period = 1 has a higher τ than hrm_period = 2",
    ]


# ---- figures -----------------------------------------------------------------------------------------------------
SWEPT = ["baseline", *(f"max_inner_iters = {count}" for count in (2, 3, 6))]
MAKERS = {
    "tau_waterfall": lambda: figures.tau_waterfall(spaces(), REFERENCES),
    "tau_against_iteration": lambda: figures.tau_against_iteration(iterations({"baseline": 1, "hrm": 3}), REFERENCES),
    "tau_curves": lambda: figures.tau_curves(metrics(), REFERENCES),
    "routing_curves": lambda: figures.routing_curves(metrics(SWEPT), 4),
    "routing_heatmaps": lambda: figures.routing_heatmaps({"hrm": a_probe(), "max_inner_iters = 2": a_probe(2)}),
    "fix_effect_intervals": lambda: figures.fix_effect_intervals(fix_effects(metrics(ABLATED))),
}


@pytest.mark.parametrize("name", MAKERS)
def test_figures_draw_without_complaint_and_say_what_they_show(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph among them
        figure = MAKERS[name]()
        assert len(figure._repr_png_()) > 5000
    assert figure.get_size_inches()[0] == pytest.approx(6.75)
    shown = [axes for axes in figure.axes if axes.axison and axes.get_subplotspec() is not None]
    assert all(axes.get_xlabel() for axes in shown if axes.get_subplotspec().is_last_row() and name != "tau_waterfall")
    assert all(
        axes.get_ylabel() or axes.get_title(loc="left") or axes.get_yticklabels()
        for axes in shown
        if axes.get_subplotspec().is_first_col()
    )


def test_every_figure_function_is_on_test():
    public = {
        name for name, value in vars(figures).items() if getattr(value, "__annotations__", {}).get("return") == "Figure"
    }
    assert public == set(MAKERS)


def test_few_seeds_are_drawn():
    one = metrics(seeds=1)
    figures.tau_curves(one, REFERENCES).draw_without_rendering()
    figures.routing_curves(one, 4).draw_without_rendering()


def test_values_of_a_sweep_get_shades_of_their_own():
    given = figures.shades(SWEPT)
    assert given["baseline"] == figures.PALETTE["baseline"]
    assert len(set(given.values())) == len(SWEPT)
    assert not set(given.values()) & (set(figures.PALETTE.values()) - {figures.PALETTE["baseline"]})


def test_bands_report_and_never_raise():
    healthy = check_bands({"entropy": 1.2, "herfindahl": 0.3, "max_alpha": 0.45}).set_index("quantity")
    assert healthy["inside"].all()
    collapsed = check_bands({"entropy": 0.1, "herfindahl": 0.9, "max_alpha": 0.97}).set_index("quantity")
    assert not collapsed["inside"].any()
    uniform = check_bands({"entropy": math.log(4), "herfindahl": 0.25, "max_alpha": 0.25}).set_index("quantity")
    assert uniform["inside"].to_dict() == {"entropy": True, "herfindahl": True, "max_alpha": False}
    assert not check_bands({"entropy": float("nan")})["inside"].any()
    edges = check_bands({"entropy": 2.0, "herfindahl": 0.5, "max_alpha": 0.6})
    assert not edges["inside"].any()  # the document's bands are open
