"""A finished run's model comes back as it was selected, and is assessed at any number of iterations and items."""

import pytest
import torch

from anm_nb import store
from anm_nb.config import ParameterError
from anm_nb.energy.train import EnergyConfig
from anm_nb.ranking.evaluate import assess
from anm_nb.ranking.train import RankingConfig, trained_ranking
from anm_nb.tasks.kendall import kendall_tau
from anm_nb.training.seeds import generator

CONFIG = RankingConfig(
    size=6, width=8, n_heads=2, controller_width=4, max_inner_iters=3, train_samples=40, dev_samples=20,
    test_samples=30, batch=16, epochs=2, seeds=(0, 3), device="cpu", task="hinted_sort", warmup_epochs=0,
)  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    return store.get_or_train(CONFIG)


def test_a_trained_model_scores_on_test_what_its_run_says(run):
    for seed in CONFIG.seeds:
        model = trained_ranking(run, seed)
        test = CONFIG.make_task().sample(30, generator=generator(seed, "test"), stream="test")
        row = run.metrics[run.metrics["seed"] == seed].iloc[-1]
        assert assess(model(test.x), test).last()["tau_all"] == pytest.approx(row["test_tau_all"])
        selected = run.metrics[(run.metrics["seed"] == seed) & (run.metrics["step"] == row["selected_step"])].iloc[0]
        assert float(model.controller.temperature) == pytest.approx(selected["temperature"])
    with pytest.raises(ParameterError, match=r"seed = 7: run \w+ has 0, 3"):
        trained_ranking(run, 7)


def test_more_iterations_and_more_items_are_assessed_alike(run):
    model = trained_ranking(run, 0)
    longer = CONFIG.changed(size=9).make_task().sample(20, generator=generator(0, "longer"))
    assessed = assess(model(longer.x, 8), longer)
    assert assessed.tau_all.shape == (8,)
    for t in range(8):
        alone = model(longer.x, t + 1).scores[:, -1].round(decimals=4)
        assert float(assessed.tau_all[t]) == pytest.approx(float(kendall_tau(alone, longer.y).mean()))
    assert torch.equal(assess(model(longer.x), longer).tau_all, assessed.tau_all[:3])


def test_runs_of_another_family_are_refused(run, monkeypatch):
    monkeypatch.setitem(vars(run), "config", EnergyConfig())
    with pytest.raises(ParameterError, match="its config is EnergyConfig, which trains no ranking"):
        trained_ranking(run, 0)
