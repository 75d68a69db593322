"""The final test scores all predictors on the same unseen problems; clues are neither noised nor scored."""

import numpy as np
import pytest
import torch
from first_step import begun, losses_at

from anm_nb.config import ParameterError
from anm_nb.energy.sampler import predict
from anm_nb.energy.schedule import SharedNoise
from anm_nb.energy.train import EnergyConfig, EnergyLearner, kept_steps, trained_energy
from anm_nb.store import get_or_train
from anm_nb.tasks import get_task
from anm_nb.training.seeds import RowDraws, generator

SMALL = {
    "lowrank": {"size": 4, "width": 8},
    "connectivity": {"size": 4, "width": 4},
    "sudoku": {"size": 4, "width": 4, "task_options": {"pool": 20}},
}


@pytest.fixture(autouse=True)
def outputs(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path_factory.getbasetemp() / "pools"))


def config(task, **options):
    base = {"negatives": "stock", "levels": 3, "dev_examples": 4, "seeds": [0], "inner_steps": 2}
    base |= {"steps": 3, "batch": 4, "records": 3, "test_examples": 4, "test_inner_steps": (1, 3)}
    return EnergyConfig(task=task, **base | SMALL[task] | options)


@pytest.mark.parametrize("task", SMALL)
def test_every_task_trains_with_its_published_recipe(task, tmp_path):
    """One run per task, with its network, corruption, clamp and weight, ends with finite losses and test scores."""
    run = config(task).train(tmp_path)
    metric = get_task(task, size=SMALL[task]["size"]).metric
    assert np.isfinite(run.metrics[["loss_mse", "loss_con", metric]].to_numpy()).all()
    last = run.metrics.iloc[-1]
    for split in ("same", "harder"):
        assert np.isfinite([last[f"{split}/{metric}/{who}"] for who in ("model", "steps=1", "steps=3")]).all()
    assert run.metrics.iloc[:-1].filter(like="/").isna().all(axis=None)


def test_predictors_share_test_problems_and_the_harder_clamp_holds_harder_answers():
    """The column of a reference equals its score on the test problems drawn again from the seed."""
    learner = config("lowrank").learner(0)
    columns, source = learner.test_scores(learner.model, 12, 0), generator(0, "test/harder")
    problems = learner.task.sample(12, generator=source, harder=True)
    copying = np.mean((problems.x.double().numpy() - problems.y.double().numpy()) ** 2)
    assert columns["harder/mse/copy the observed"] == pytest.approx(copying)
    ours = predict(learner.model, learner.task, problems, learner.schedule, 2, [0], clamp=10.0)
    assert columns["harder/mse/model"] == pytest.approx(((ours - problems.y) ** 2).mean().item(), rel=1e-5)
    assert columns["harder/mse/published clamp"] != columns["harder/mse/model"]
    assert "same/mse/published clamp" not in columns
    for name in ("addition", "inverse", "lowrank"):
        task = get_task(name, size=6)
        for harder in (False, True):
            y = task.sample(2000, generator=generator(0, "test"), harder=harder).y
            assert (y.clamp(-task.clamp(harder), task.clamp(harder)) - y).square().mean() < 1e-5


def test_the_loss_is_the_published_one_on_entries_that_are_not_given():
    learner = config("sudoku", negatives="none").learner(0)
    batch = learner.training.sample(4, generator=generator(0, "data"))
    draws = RowDraws([generator(0, "noise")], "cpu")
    noise = SharedNoise.draw(learner.schedule, batch.y, draws, learner.task.clues(batch))
    point = torch.Tensor(noise.noised(batch.y)).requires_grad_()
    (score,) = torch.autograd.grad(learner.model(batch.x, point, noise.k).sum(), point)
    expected = torch.where(batch.known, 0.0, score - noise.eps).square().mean()
    assert losses_at(begun(learner.config, learner=learner)).total.item() == pytest.approx(expected.item(), rel=1e-5)


TINY = {
    "size": 2, "width": 8, "batch": 8, "steps": 6, "records": 3, "dev_examples": 5, "seeds": [0, 1], "negatives": "anm",
}  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run that kept the weights of every record, and the energies of the EMA in training, by seed and step."""
    seen, measure = {}, EnergyLearner.measure

    def watched(self, training, losses):
        noise = self.dev_problem.noise
        energies = training.averaged(self.dev.x, noise.noised(self.dev.y).as_subclass(torch.Tensor), noise.k)
        seen[self.seeds[0], training.step] = energies, self
        return measure(self, training, losses)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANM_NB_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        patch.setattr(EnergyLearner, "measure", watched)
        yield get_or_train(EnergyConfig(**TINY, keep_weights=True)), seen


def test_a_loaded_energy_is_the_ema_that_was_measured_at_its_step(kept):
    run, seen = kept
    assert kept_steps(run) == sorted(run.metrics["step"].unique()) == [0, 1, 6]
    assert len(seen) == 2 * 3
    for (seed, step), (expected, learner) in seen.items():
        noise = learner.dev_problem.noise
        for moment in [step, *([None] if step == 6 else [])]:
            energy = trained_energy(run, seed, moment)
            assert torch.equal(energy(learner.dev.x, noise.noised(learner.dev.y), noise.k), expected)
            assert not any(parameter.requires_grad for parameter in energy.parameters())
            assert not energy.training
    assert not torch.equal(seen[0, 0][0], seen[0, 6][0])
    assert not torch.equal(seen[0, 6][0], seen[1, 6][0])


def test_missing_weights_are_refused(kept):
    for seed, step in ((0, 4), (2, None)):
        message = rf"seed = {seed}, step = {step}: run \w+ has seeds 0, 1, and weights of steps 0, 1, 6"
        with pytest.raises(ParameterError, match=message):
            trained_energy(kept[0], seed, step)
    plain = get_or_train(EnergyConfig(**TINY))
    assert kept_steps(plain) == []
    assert trained_energy(plain, 1) is not None
    with pytest.raises(ParameterError, match=r"steps none \(train with keep_weights\)"):
        trained_energy(plain, 0, 6)
