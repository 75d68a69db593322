"""Tables and claims of ranking runs agree with independent calculations from the same predictions."""

import numpy as np
import pandas as pd
import pytest
import torch
from notebook_cells import names_of

from anm_nb.analysis import ranking
from anm_nb.analysis.tables import collect
from anm_nb.config import ParameterError
from anm_nb.ranking.train import RankingConfig, at_values
from anm_nb.store import get_or_train
from anm_nb.tasks.kendall import kendall_tau_numpy
from anm_nb.training.seeds import generator

HRM = RankingConfig(
    size=6, width=8, n_heads=2, max_inner_iters=3, train_samples=16, batch=8, epochs=2, dev_samples=8,
    test_samples=20, warmup_epochs=1, entropy_every=1, seeds=(1, 2),
)  # fmt: skip
SPREAD = np.array([-0.004, -0.002, 0.0, 0.002, 0.004])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANM_NB_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        yield {name: get_or_train(config) for name, config in at_values(HRM, "max_inner_iters", (2, 3)).items()}


@pytest.fixture(scope="module")
def references():
    return HRM.make_task().reference_scores(100, generator=generator(0, "references"))


def test_tau_is_that_of_the_stored_predictions_by_another_implementation(runs):
    by_iteration = ranking.tau_by_iteration(runs).set_index(["method", "seed", "iteration"])
    tested = ranking.on_test(collect(runs), "tau_all")
    assert list(tested) == ["baseline", "max_inner_iters = 2", "max_inner_iters = 3"]
    for method, run in runs.items():
        for place, seed in enumerate(HRM.seeds):
            scores, ranks = run.trace["test_scores"][place, 0].numpy(), run.trace["test_ranks"][place, 0].numpy()
            for iteration in range(scores.shape[1]):
                expected = np.nanmean(kendall_tau_numpy(scores[:, iteration], ranks))
                assert by_iteration.loc[(method, seed, iteration + 1), "tau_all"] == pytest.approx(expected)
            assert tested.loc[seed, method] == pytest.approx(expected)


def test_a_probe_is_the_problem_its_weights_were_recorded_on(runs):
    learner = HRM.learner(1)
    model, dev = learner.model.members[0], learner.dev[0]
    prefix, run = "seed1.averaged.", runs["max_inner_iters = 3"]
    model.load_state_dict({n.removeprefix(prefix): w for n, w in run.weights.items() if n.startswith(prefix)})
    with torch.no_grad():
        alphas = model(dev.x[:1]).alphas[0].numpy()
    seen, visible = names_of("20_hrm_vs_baseline", "cell-26", given={"np": np, "runs": {"hrm": run}})["probe"](run)
    np.testing.assert_allclose(seen, alphas[:, np.lexsort((dev.y[0], ~dev.known[0]))], atol=1e-6)
    assert visible == 3


def test_tiers_follow_the_document_and_need_every_condition():
    tier_rows = names_of("20_hrm_vs_baseline", "tier-rows", given={"np": np, "pd": pd})["tier_rows"]
    table = tier_rows(0.20 + SPREAD, 0.28 + SPREAD, ceiling=0.5)
    assert table["asks for"]["stretch"] == "τ > 0.2, τ > 0.3, + 50 %"
    assert table["by the means"].tolist() == ["yes", "yes", "no"]
    assert table["by intervals"].tolist() == ["yes", "yes", "no"]
    assert set(table["reachable"]) == {"yes"}
    at_ceiling = tier_rows(0.999 + SPREAD / 10, 0.9995 + SPREAD / 10, ceiling=1.0)
    assert set(at_ceiling["by the means"]) == set(at_ceiling["reachable"]) == {"no"}
    few = tier_rows([0.2, 0.21], [0.4, 0.41], ceiling=0.5)
    assert set(few["by intervals"]) == {"undecided"}


def grid(differences):
    """Test scores of a grid with five seeds; each model is better than the centre by the given difference."""
    base = np.array([0.5, 0.95, 0.96, 0.97, 0.98])
    scores = {"baseline": base - 0.2, "T = 4": base} | {
        name: base + gap + SPREAD / 4 for name, gap in differences.items()
    }
    rows = [(m, s, tau) for m, taus in scores.items() for s, tau in enumerate(taus)]
    table = pd.DataFrame(rows, columns=["method", "seed", "test_tau_all"])
    return table.assign(test_tau_obs=1.0, test_tau_index=0.1)


def test_values_are_judged_against_the_centre_with_a_margin():
    judged = ranking.judge_sweep(grid({"T = 3": -0.05, "T = 6": 0.001}), "baseline", "T = 4", "tau_all").table
    assert judged["claim"].tolist()[:2] == ["T = 3 ranks better than T = 4", "T = 6 ranks better than T = 4"]
    assert judged["verdict"].tolist() == ["refuted", "equivalent", "supported", "supported", "supported"]
    assert judged["primary"].tolist() == [True, True, False, False, False]


def test_runs_of_other_settings_are_not_put_into_a_kept_grid(runs, references, monkeypatch):
    written = []
    monkeypatch.setattr("anm_nb.analysis.kept.keep", lambda *given, **options: written.append((given, options)))
    with pytest.raises(ParameterError, match=r"size = 6: kept result 'hrm' has 20 only"):
        ranking.keep_in_grid(runs, references, HRM)
    own = HRM.changed(
        size=20, width=128, n_heads=4, train_samples=1000, epochs=100, seeds=(1, 2, 3, 4, 5), task="hinted_sort"
    )
    ranking.keep_in_grid(runs, references, own, "max_inner_iters = 3")
    (((name, kept_runs, _), options),) = written
    assert (name, list(kept_runs), options) == ("hrm_hinted", ["baseline", "max_inner_iters = 2", "hrm"], {"add": True})
