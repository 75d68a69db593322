"""The loop updates, clips, averages and measures like hand-written torch code, for any number of seeds in a stack."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from toy import Toy, ToyConfig, squares, toy_trained, toy_training, weights_of

from anm_nb.config import ParameterError
from anm_nb.training import Member, NonFiniteLoss, resolve_device

ALL = ((3,), (3, 0, 1))


def by_hand(config, seed, clip=1e9, frozen=0):
    """Train the toy with torch's own optimisers, clipping and averaging; return weights, averages and rows."""
    learner = Toy([Member(config, seed)], "cpu")
    network = learner.model.members[0]
    layers = [list(network[0].parameters()), list(network[2].parameters())]
    optimisers = [
        torch.optim.AdamW(layers[0], lr=config.lr, weight_decay=0.1),
        torch.optim.Adam(layers[1], lr=2 * config.lr),
    ]
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.decay))
    rows, norms = [], [math.nan, math.nan]
    for step in range(config.steps + 1):
        loss = config.slope * squares(network, learner.inputs(step)["x"]).mean()
        if step in config.record_steps():
            rows.append({"fit": float(loss.detach()), "grad_norm_first": norms[0], "grad_norm_second": norms[1]})
        if step == config.steps:
            break
        for group, (optimiser, parameters) in enumerate(zip(optimisers, layers, strict=True)):
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
            if group == 1 and step < frozen:
                continue
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            norms[group] = float(nn.utils.clip_grad_norm_(parameters, clip))
            optimiser.param_groups[0]["lr"] = (group + 1) * config.lr * config.lr_factor(step)
        for group, optimiser in enumerate(optimisers):
            if group == 0 or step >= frozen:
                optimiser.step()
        if (step + 1) % config.every == 0:
            average.update_parameters(network)
    return weights_of(network), weights_of(average.module), rows


@pytest.mark.parametrize("seeds", ALL)
@pytest.mark.parametrize(("clip", "frozen", "every"), [(1e9, 0, 1), (0.05, 0, 3), (0.3, 5, 1)])
def test_training_matches_hand_written_torch(seeds, clip, frozen, every, tmp_path):
    """Covers losses, AdamW and Adam, clipping, learning rate schedule, frozen groups, the EMA and gradient norms."""
    config = ToyConfig(every=every)
    trained = toy_trained(config, tmp_path, seeds, clip=clip, frozen=frozen)
    for seed in seeds:
        weights, averages, rows = by_hand(config, seed, clip, frozen)
        for kind, expected in (("model", weights), ("averaged", averages)):
            for name, tensor in expected.items():
                torch.testing.assert_close(trained.weights[f"seed{seed}.{kind}.{name}"], tensor, rtol=1e-5, atol=1e-6)
        found = trained.metrics[trained.metrics["seed"] == seed]
        assert found["step"].tolist() == config.record_steps()
        for name in rows[0]:
            np.testing.assert_allclose(found[name], [row[name] for row in rows], rtol=1e-5)


@pytest.mark.parametrize("seeds", ALL)
def test_rows_and_arrays_belong_to_their_step_and_measuring_changes_nothing(seeds, tmp_path):
    trained = {}
    for every in (1, 5):
        training = toy_training(
            ToyConfig(record_every=every, keep_weights=True, decay=0.0), tmp_path / str(every), seeds
        )
        records = trained[every] = training.run()
        for place, record in enumerate(records):
            assert [row["step"] for row in record.rows] == training.config.record_steps()
            assert [row["steps_so_far"] for row in record.rows] == [step + 1 for step in training.config.record_steps()]
            for step, array in zip(training.config.record_steps(), record.arrays["slope"], strict=True):
                # with decay 0 the average equals the weights before that step
                assert torch.equal(array, training.learner.seen[step][place]["0.weight"])
                assert torch.equal(array, record.weights[f"step{step}.averaged.0.weight"])
    for often, seldom in zip(trained[1], trained[5], strict=True):
        assert all(torch.equal(often.weights[name], tensor) for name, tensor in seldom.weights.items())
        assert repr([row for row in often.rows[:-1] if row["step"] % 5 == 0]) == repr(seldom.rows[:-1])


# ---- non-finite losses -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("host", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_loss_names_seed_step_and_parts_and_other_seeds_continue(bad, host, tmp_path):
    """The first non-finite step is named, even if values are not read in every step."""
    training = toy_training(ToyConfig(record_every=6), tmp_path / "some", (5, 7, 9), host, changes={7: {4: bad}})
    with pytest.raises(NonFiniteLoss) as refusal:
        training.run()
    message = rf"loss = {bad:g} at step 4 of seed 7 \(fit = {bad:g}, steps_so_far = 5\)"
    assert refusal.match(message)
    assert "\n" not in str(refusal.value)
    whole = toy_training(ToyConfig(record_every=6), tmp_path / "all", (5, 7, 9)).run()
    for place in (0, 2):
        assert repr(training.records[place].rows) == repr(whole[place].rows)  # NaN equals NaN
        assert all(torch.equal(training.records[place].weights[n], t) for n, t in whole[place].weights.items())


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_a_checkpoint_never_holds_a_non_finite_state(seeds, tmp_path):
    config = ToyConfig(checkpoint_every=3, record_every=12)
    with pytest.raises(NonFiniteLoss):
        toy_trained(config, tmp_path / "a", seeds, changes={seed: {4: math.nan} for seed in seeds})
    resumed = toy_training(config, tmp_path / "a", seeds)  # a checkpoint after step 4 would fail again
    records = resumed.run()
    assert len(resumed.learner.seen) == 10  # steps 3 … 12
    assert all(np.isfinite(row["error"]) for record in records for row in record.rows)


# ---- the device --------------------------------------------------------------------------------------------------
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_device_is_refused_before_any_work(tmp_path):
    with pytest.raises(ParameterError, match=r"device = 'cuda': no CUDA device on this machine; allowed: auto, cpu"):
        ToyConfig(device="cuda").train(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert resolve_device("auto") == "cpu"
