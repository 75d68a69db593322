"""Options of an energy's training: soft labels, a balanced gradient share, probes, and weights kept along the way."""

import pytest
import torch
from first_step import begun, losses_at

from anm_nb.config import ParameterError
from anm_nb.energy.contrast import NoisedTwice
from anm_nb.energy.learner import Balance
from anm_nb.energy.losses import info_nce, soft_info_nce
from anm_nb.energy.negatives import NegativeStrategy
from anm_nb.energy.train import EnergyConfig


def config(negatives="anm_orthogonal", steps=6, **options):
    small = {"size": 2, "width": 8, "levels": 4, "dev_examples": 8, "seeds": [0], "inner_steps": 1}
    return EnergyConfig(**small | {"steps": steps, "batch": 16, "records": 3} | options, negatives=negatives)


def trained(wanted, folder):
    """The training of a config in a folder of its own."""
    folder.mkdir(exist_ok=True)
    return wanted.train(folder)


def weights(trained):
    return {name: tensor for name, tensor in trained.weights.items() if "step" not in name}


def alike(first, second):
    """Whether two trainings left the same bits."""
    ours, theirs = weights(first), weights(second)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# soft labels


def test_a_soft_label_is_the_optimal_margin_s(tmp_path):
    """The loss of the first step, from the same pairs, with either label."""
    losses = {}
    for soft in (False, True):
        step = losses_at(begun(config("stock", soft_label=soft)))
        contrast = step.detail.contrast
        losses[soft] = (step.parts["loss_con"][0], (contrast.e_pos, contrast.e_neg), contrast.optimal_margin)
    for soft, (loss, pair, margin) in losses.items():
        expected = soft_info_nce(*pair, margin) if soft else info_nce(*pair)
        torch.testing.assert_close(loss, expected.mean())
    assert losses[False][0] != losses[True][0]


# the gradient share


def test_a_tiny_weight_grows_until_the_share_is_in_the_band(tmp_path):
    run = trained(config(steps=60, contrastive_weight=1e-3, balance=Balance(every=1, factor=2.0)), tmp_path)
    trajectory = run.metrics["contrastive_weight"].to_numpy()
    assert trajectory[0] == pytest.approx(1e-3)
    assert trajectory[-1] > 0.05
    fixed = trained(config(steps=60, contrastive_weight=1e-3), tmp_path / "fixed")
    assert fixed.metrics["contrastive_weight"].nunique() == 1
    assert fixed.metrics["grad_share_contrast"].iloc[-1] < 0.1 < run.metrics["grad_share_contrast"].iloc[-1]


def test_a_band_has_two_ends():
    with pytest.raises(ParameterError, match=r"low = 0.7, high = 0.3: low < high"):
        config(balance={"low": 0.7, "high": 0.3})


# probes


@pytest.mark.parametrize("negatives", ["stock", "anm", "anm_orthogonal"])
def test_probes_do_not_disturb_the_training(negatives, tmp_path):
    quiet = trained(config(negatives), tmp_path / "off")
    probed = trained(config(negatives, probes=True), tmp_path / "on")
    assert alike(quiet, probed)
    assert (probed.metrics["shared_noise_residual"] <= probed.metrics["shared_noise_rounding"]).all()


def test_a_second_noising_is_found_by_the_probes():
    losses_at(begun(config("stock", probes=True)))

    class Renoising(NegativeStrategy):
        name = "renoising"

        def propose(self, problem):
            proposed = config("stock").negatives.propose(problem)
            problem.noise.noised(proposed.y_neg)  # as the notorious bug does, before the trainer's own noising
            return proposed

    with pytest.raises(NoisedTwice, match="'renoising' were noised 2 times"):
        losses_at(begun(config(Renoising(), probes=True)))


# weights of the records


def test_kept_weights_are_those_of_their_step(tmp_path):
    kept = trained(config(steps=6, keep_weights=True), tmp_path / "kept")
    plain = trained(config(steps=6), tmp_path / "plain")
    assert alike(kept, plain)
    steps = sorted({int(name.split(".")[1].removeprefix("step")) for name in kept.weights if ".step" in name})
    assert steps == sorted(kept.metrics["step"])
    for name, tensor in kept.weights.items():
        if f".step{steps[-1]}." in name:  # a record is taken before the update of its step; the last has none
            assert torch.equal(tensor, kept.weights[name.replace(f"step{steps[-1]}.", "")])
    fresh = config(steps=6).learner(0)
    for name, tensor in fresh.model.members[0].state_dict().items():
        assert torch.equal(kept.weights[f"seed0.step0.averaged.{name}"], tensor)


# schedules of the contrastive weight, and fixed training sets


def test_the_weight_moves_linearly_from_where_it_starts_to_where_it_ends(tmp_path):
    run = config(steps=8, contrastive_weight=1.0, contrastive_weight_end=0.2, record_every=2).train(tmp_path)
    assert run.metrics["contrastive_weight"].tolist() == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_there_is_no_contrast_before_its_time(tmp_path):
    """Until then the training is plain denoising, bit by bit, and negatives are made for the record alone."""
    plain = begun(config("none", steps=4))
    warming = begun(config("stock", steps=4, contrast_from=0.5, record_every=4))
    totals = [
        [float(losses_at(training, step, recorded=False).total.detach()) for step in range(3)]
        for training in (plain, warming)
    ]
    assert totals[0][:2] == totals[1][:2]
    assert totals[0][2] != totals[1][2]
    run = trained(config("stock", steps=4, contrast_from=0.5, record_every=1), tmp_path / "run")
    assert run.metrics["contrastive_weight"].tolist() == [0, 0, 0.5, 0.5, 0.5]
    assert run.metrics["p_hard"].notna().all()


def test_a_fixed_training_set_is_gone_through_in_epochs():
    learner = config("stock", training_examples=40).learner(0)
    epoch = torch.cat([learner.inputs(step)["x"] for step in range(3)])
    rows = {tuple(row) for row in epoch.tolist()}
    assert len(epoch) == len(rows) == 40
    assert rows == {tuple(row) for row in learner.fixed[0].x.tolist()}
    assert {tuple(row) for row in learner.inputs(7)["x"].tolist()} <= rows
    other = config("none", training_examples=40).learner(0)
    assert torch.equal(other.inputs(5)["x"], learner.inputs(5)["x"])  # methods see the same batches
    few = config("none", training_examples=5).learner(0)
    assert len(few.inputs(3)["x"]) == 5


def test_a_record_may_fall_on_the_short_last_batch_of_an_epoch(tmp_path):
    """40 problems in batches of 16: the third of an epoch holds 8, and what is recorded of each example has gaps."""
    wanted = config("stock", steps=6, training_examples=40, record_every=1)
    (margins,) = trained(wanted, tmp_path / "run").trace["margins"]
    assert margins.isfinite().sum(1).tolist() == [16, 16, 8, 16, 16, 8, 16]


def test_two_ways_to_adapt_the_weight_are_one_too_many():
    with pytest.raises(ParameterError, match="not both"):
        config(balance=Balance(), contrastive_weight_end=0.1)
