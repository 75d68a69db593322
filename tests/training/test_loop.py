"""The loop repeats itself bit for bit, also after a kill; it averages, clips, freezes and measures as it says."""

import functools
import hashlib
import math
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anm_nb.config import ParameterError
from anm_nb.energy.sampler import SamplerConfig
from anm_nb.energy.train import EnergyConfig
from anm_nb.training.learner import Measurement, ParameterGroup, StepLosses
from anm_nb.training.loop import LoopConfig, NonFiniteLoss, cpu_threads, resolve_device, train
from anm_nb.training.seeds import generator

METHODS = ["none", "stock", "anm"]


class Killed(Exception):
    """Stands for a kill: nothing in the loop handles it."""


class Plain:
    """A learner small enough to calculate by hand: plain gradient descent on a linear layer, one seed's own data."""

    def __init__(self, seed, lr=0.1, clip=1e9, loss=None, frozen=0, die_at=None, die_in="losses"):
        self.model = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 1))
        for index, parameter in enumerate(self.model.parameters()):
            parameter.data = torch.randn(parameter.shape, generator=generator(seed, f"weights {index}"))
        first, second = self.model
        self.groups = [
            ParameterGroup(
                "first", [*first.parameters()], torch.optim.SGD(first.parameters(), lr=lr, momentum=0), clip
            ),
            ParameterGroup(
                "second", [*second.parameters()], torch.optim.Adam(second.parameters(), lr=lr), clip, frozen
            ),
        ]
        self.generators = {"data": generator(seed, "data")}
        self.loss = loss or (lambda x, model: (model(x) - x.sum(1, keepdim=True)).square().mean())
        self.die_at, self.die_in = die_at, die_in
        self.seen = []  # the weights as each step finds them

    def die(self, step, where):
        if (step, where) == (self.die_at, self.die_in):
            raise Killed

    def losses(self, step, averaged):
        self.seen.append([parameter.detach().clone() for parameter in self.model.parameters()])
        x = torch.randn(8, 3, generator=self.generators["data"])
        self.die(step, "losses")
        loss = self.loss(x, self.model)
        return StepLosses(loss, {"fit": loss, "step_part": torch.tensor(float(step))})

    def measure(self, step, averaged, losses):
        self.die(step, "measure")
        return Measurement({"norm": float(averaged[0].weight.norm())}, {"weights": averaged[0].weight.clone()})


def assert_same(one, other):
    """Two trainings left the same metrics, trace and weights, to the last bit."""
    pd.testing.assert_frame_equal(one.metrics, other.metrics, check_exact=True)
    for first, second in ((one.trace, other.trace), (one.weights, other.weights)):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


def energy_config(method, seeds=(0, 1), **loop):
    loop = {"steps": 8, "batch": 8, "records": 4, "checkpoint_every": 3, "seeds_at_once": "loop", **loop}
    small = {"size": 2, "width": 8, "levels": 4, "dev_examples": 4, "sampler": SamplerConfig(inner_steps=1)}
    return EnergyConfig(**small, negatives=method, loop=LoopConfig(**loop), seeds=seeds)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted training of a method, made once."""
    return functools.cache(lambda method: energy_config(method).train(tmp_path_factory.mktemp(method)))


# the same again


@pytest.mark.parametrize("method", METHODS)
def test_same_config_and_seed_give_the_same_bits(method, whole, tmp_path):
    one = whole(method)
    torch.manual_seed(1234)  # the global generator has no say
    assert_same(one, energy_config(method).train(tmp_path))
    assert not torch.equal(one.weights["seed0.model.output.weight"], one.weights["seed1.model.output.weight"])


FINGERPRINT = """
import hashlib, pathlib, sys
from anm_nb.energy.train import EnergyConfig
metrics = EnergyConfig.model_validate_json(sys.argv[1]).train(pathlib.Path(sys.argv[2])).metrics
print(metrics.to_csv(), hashlib.sha256(metrics.to_numpy().tobytes()).hexdigest())
"""


def test_separate_processes_give_the_same_bits(whole, tmp_path):
    """Whatever the hash seed and the number of threads that a process is started with."""
    command = [sys.executable, "-c", FINGERPRINT, energy_config("anm").model_dump_json(), str(tmp_path)]
    env = os.environ | {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "2"}
    answer = subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout
    metrics = whole("anm").metrics
    assert answer.split()[-1] == hashlib.sha256(metrics.to_numpy().tobytes()).hexdigest(), answer


# kill and resume


def resume_energy(config, seed, step, workdir):
    """Kill the training of one seed at a step, resume it, and count the steps that were computed in all."""
    computed = []

    def learner(dying):
        def make(this_seed, device):
            made = config.learner(this_seed, device)
            computing = made.losses

            def losses(this_step, averaged):
                if dying and (this_seed, this_step) == (seed, step):
                    computing(this_step, averaged)  # the generators have moved on when the kill comes
                    raise Killed
                computed.append((this_seed, this_step))
                return computing(this_step, averaged)

            made.losses = losses
            return made

        return make

    with pytest.raises(Killed):
        train(learner(True), config.loop, config.seeds, workdir)
    return train(learner(False), config.loop, config.seeds, workdir), computed


@pytest.mark.parametrize(
    ("method", "seed", "step"),
    [("none", 0, 7), ("stock", 0, 2), ("stock", 1, 6), ("anm", 0, 3), ("anm", 1, 5), ("anm", 1, 8)],
)
def test_a_killed_training_resumes_to_the_same_bits(method, seed, step, whole, tmp_path):
    config = energy_config(method)
    resumed, computed = resume_energy(config, seed, step, tmp_path)
    assert_same(resumed, whole(method))
    # what lies before the last checkpoint is not computed twice, nor a seed that was done
    lost = step % config.loop.checkpoint_every
    assert len(computed) == len(config.seeds) * (config.loop.steps + 1) + lost


@settings(max_examples=25)
@given(
    die_at=st.integers(0, 12),
    die_in=st.sampled_from(["losses", "measure"]),
    every=st.integers(1, 14),
    seed=st.sampled_from([0, 1]),
)
def test_resuming_is_exact_wherever_the_kill_falls(die_at, die_in, every, seed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resumed")
    config = LoopConfig(steps=12, records=6, checkpoint_every=every, ema_every=2, ema_decay=0.9)
    whole = train(lambda s, device: Plain(s, frozen=5), config, [0, 1], tmp_path_factory.mktemp("whole"))
    dying = {"die_at": die_at, "die_in": die_in}
    try:
        train(lambda s, device: Plain(s, frozen=5, **dying if s == seed else {}), config, [0, 1], folder)
    except Killed:
        pass
    else:
        assert die_in == "measure"  # that step was not one of those measured
        assert die_at not in config.record_steps()
    assert_same(whole, train(lambda s, device: Plain(s, frozen=5), config, [0, 1], folder))


def test_an_array_is_kept_as_it_was_when_measured(tmp_path):
    """A learner may hand over a live weight; the trace must hold its value of that step, not of the end."""

    class Live(Plain):
        def measure(self, step, averaged, losses):
            return Measurement({}, {"weight": self.model[0].weight})

    learner = Live(0)
    config = LoopConfig(steps=6, records=4)
    trained = train(lambda s, device: learner, config, [0], tmp_path)
    for kept, step in zip(trained.trace["weight"][0], config.record_steps(), strict=True):
        assert torch.equal(kept, learner.seen[step][0])


def test_a_finished_training_is_read_and_not_computed_again(tmp_path):
    config = LoopConfig(steps=6, records=3)
    first = train(lambda s, device: Plain(s), config, [0], tmp_path)
    assert_same(first, train(lambda s, device: Plain(s, die_at=6), config, [0], tmp_path))


# measuring


@pytest.mark.parametrize("method", METHODS)
def test_measuring_more_often_does_not_change_what_is_trained(method, whole, tmp_path):
    seldom = whole(method)
    often = energy_config(method, records=12).train(tmp_path)
    assert len(often.metrics) > len(seldom.metrics)
    assert seldom.weights.keys() == often.weights.keys()
    assert all(torch.equal(seldom.weights[name], often.weights[name]) for name in seldom.weights)
    shared = often.metrics[often.metrics["step"].isin(seldom.metrics["step"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(shared, seldom.metrics, check_exact=True)


def test_metrics_and_trace_say_what_each_step_found(tmp_path):
    config = LoopConfig(steps=10, records=5)
    learners = {}
    trained = train(lambda s, device: learners.setdefault(s, Plain(s)), config, [3, 1], tmp_path)
    steps = config.record_steps()
    assert trained.metrics["seed"].tolist() == [3] * len(steps) + [1] * len(steps)
    assert trained.metrics["step"].tolist() == steps * 2
    assert trained.metrics["step_part"].tolist() == steps * 2
    assert trained.trace["weights"].shape == (2, len(steps), 1, 3)
    assert torch.equal(trained.trace["weights"][1, 0], learners[1].seen[0][0])  # the average starts at the model
    assert torch.equal(trained.weights["seed3.model.0.weight"], learners[3].model[0].weight)


@given(steps=st.integers(5, 5000), records=st.integers(3, 60))
def test_record_steps_begin_at_0_end_at_the_last_and_are_dense_over_the_first_fifth(steps, records):
    chosen = LoopConfig(steps=steps, records=records).record_steps()
    assert chosen == sorted(set(chosen))
    assert (chosen[0], chosen[-1]) == (0, steps)
    assert len(chosen) <= records
    early = [step for step in chosen if step <= steps / 5]
    # at least half of what was asked for, or every step there is
    assert len(early) >= min(records // 2 + 1, math.floor(steps / 5) + 1)
    # the last of them stands at 20 %, not somewhere before
    assert early[-1] == math.floor(steps / 5)


# the update


def test_the_learning_rate_is_a_cosine_between_its_endpoints():
    config = LoopConfig(steps=200, lr_final=0.1)
    factors = [config.lr_factor(step) for step in range(201)]
    assert factors[0] == 1
    assert factors[200] == pytest.approx(0.1)
    assert factors[100] == pytest.approx(0.55)  # halfway
    assert factors[50] - 0.55 == pytest.approx(0.45 * math.cos(math.pi / 4))
    assert all(later < earlier for earlier, later in pairwise(factors))
    assert {LoopConfig(steps=200, lr_final=1.0).lr_factor(step) for step in range(201)} == {1.0}


def test_every_update_takes_the_learning_rate_of_its_step(tmp_path):
    """Under a loss of slope 1 a weight moves by the learning rate itself; not by a product of all factors so far."""
    config = LoopConfig(steps=10, lr_final=0.2, records=3)
    learner = Plain(0, lr=0.1, loss=lambda x, model: model[0].weight.sum() + 0 * model[1].weight.sum())
    train(lambda s, device: learner, config, [0], tmp_path)
    moved = [float((before[0] - after[0]).mean()) for before, after in pairwise(learner.seen)]
    assert moved == pytest.approx([0.1 * config.lr_factor(step) for step in range(10)], rel=1e-4)


@pytest.mark.parametrize("every", [1, 3])
def test_the_average_follows_its_recurrence(every, tmp_path):
    """a ← d·a + (1 − d)·θ after every `every`-th update, from the first such θ on."""
    learner = Plain(0)
    config = LoopConfig(steps=11, ema_decay=0.7, ema_every=every, records=3)
    trained = train(lambda s, device: learner, config, [0], tmp_path)
    expected = None
    for updates, weights in enumerate(learner.seen):
        if updates and updates % every == 0:
            new = weights[0].double()
            expected = new if expected is None else 0.7 * expected + 0.3 * new
    torch.testing.assert_close(trained.weights["seed0.averaged.0.weight"].double(), expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(trained.weights["seed0.averaged.0.weight"], trained.weights["seed0.model.0.weight"])


def test_the_average_is_in_eval_mode_and_takes_no_gradient(tmp_path):
    class Looking(Plain):
        def losses(self, step, averaged):
            assert not averaged.training
            assert self.model.training
            assert not any(parameter.requires_grad for parameter in averaged.parameters())
            return super().losses(step, averaged)

    train(lambda s, device: Looking(s), LoopConfig(steps=3, records=3), [0], tmp_path)


@pytest.mark.parametrize(("slope", "clip"), [(50.0, 0.3), (0.01, 0.3)])
def test_clipping_bounds_the_gradient_and_keeps_its_direction(slope, clip, tmp_path):
    direction = torch.tensor([[3.0, 0.0, -4.0]]) / 5
    learner = Plain(0, lr=1.0, clip=clip, loss=lambda x, model: slope * (model[0].weight * direction).sum())
    trained = train(lambda s, device: learner, LoopConfig(steps=5, lr_final=1.0, records=3), [0], tmp_path)
    for before, after in pairwise(learner.seen):
        torch.testing.assert_close(before[0] - after[0], min(slope, clip) * direction, atol=1e-5, rtol=1e-4)
    norms = trained.metrics["grad_norm_first"]
    assert np.isnan(norms.iloc[0])  # nothing was updated yet
    assert norms.iloc[1:].tolist() == pytest.approx([slope] * (len(norms) - 1))  # as it was before clipping


def test_a_frozen_group_stays_until_its_step_and_then_moves(tmp_path):
    class Looking(Plain):
        def losses(self, step, averaged):
            # frozen weights cost no gradient either
            assert [parameter.requires_grad for parameter in self.model.parameters()] == [True] * 2 + [step >= 4] * 2
            return super().losses(step, averaged)

    learner = Looking(0, frozen=4)
    trained = train(lambda s, device: learner, LoopConfig(steps=8, records=9), [0], tmp_path)
    first = [weights[0] for weights in learner.seen]
    second = [weights[2] for weights in learner.seen]
    assert all(torch.equal(second[0], second[step]) for step in range(5))  # as found by steps 0 … 4
    assert all(not torch.equal(second[step], second[step + 1]) for step in range(4, 8))
    assert all(not torch.equal(first[step], first[step + 1]) for step in range(8))
    frozen = trained.metrics.set_index("step")["grad_norm_second"]
    assert frozen.index[frozen.notna()].min() > 4


# what goes wrong


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_seed_step_and_parts(bad, tmp_path):
    class Exploding(Plain):
        def losses(self, step, averaged):
            losses = super().losses(step, averaged)
            broken = losses.total * (bad if step == 3 else 1.0)
            return StepLosses(broken, {"loss_mse": torch.tensor(0.25), "loss_con": broken})

    learners = {}
    with pytest.raises(NonFiniteLoss) as refusal:
        train(lambda s, device: learners.setdefault(s, Exploding(s)), LoopConfig(steps=5, records=3), [7], tmp_path)
    message = str(refusal.value)
    assert "step 3 of seed 7" in message
    assert "loss_mse = 0.25" in message
    assert f"loss_con = {bad:g}" in message
    assert all(parameter.isfinite().all() for parameter in learners[7].model.parameters())


def test_a_real_training_that_diverges_is_stopped(tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"at step \d+ of seed 0 \(loss_mse = "):
        energy_config("stock", lr=1e30, steps=12).train(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_device_is_refused_before_any_work(tmp_path):
    with pytest.raises(ParameterError, match=r"device = 'cuda': no CUDA device here; allowed: auto, cpu"):
        energy_config("none", device="cuda").train(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert resolve_device("auto") == "cpu"


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_stays_finite_and_follows_float32(method, tmp_path):
    plain, rough = (
        energy_config(method, seeds=[0], precision=precision, steps=4).train(folder)
        for precision in ("float32", "bfloat16")
        if (folder := tmp_path / precision).mkdir() is None
    )
    columns = [name for name in plain.metrics if name.startswith(("loss_", "grad_norm_", "grad_share_"))]
    assert np.isfinite(rough.metrics.drop(columns="grad_norm_energy").to_numpy()).all()
    assert not np.array_equal(rough.metrics["loss_mse"], plain.metrics["loss_mse"])  # it is not float32 under a name
    pd.testing.assert_frame_equal(
        rough.metrics[columns].iloc[:2], plain.metrics[columns].iloc[:2], rtol=0.15, atol=1e-3
    )
    for kept in (rough.weights, rough.trace):  # float32 is what figures and safetensors' readers take
        assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in kept.values())


def test_threads_are_those_of_the_config_and_given_back():
    before = torch.get_num_threads()
    inside = []

    def training_that_dies():
        with cpu_threads(before + 1):
            inside.append(torch.get_num_threads())
            raise Killed

    with pytest.raises(Killed):
        training_that_dies()
    assert (inside, torch.get_num_threads()) == ([before + 1], before)


# comparisons across methods


def test_all_strategies_see_the_same_batches_noise_and_initial_weights(tmp_path):
    trained = {}
    states = {}
    for method in ("none", "stock", "random", "anm", "anm_orthogonal"):
        config = energy_config(method, steps=4, records=3)
        folder = tmp_path / method
        folder.mkdir()
        learners = {}
        trained[method] = train(
            lambda s, device, config=config, learners=learners: learners.setdefault(s, config.learner(s, device)),
            config.loop,
            config.seeds,
            folder,
        )
        states[method] = [learners[s].generators[name].get_state() for s in (0, 1) for name in ("data", "noise")]
    first = {method: one.metrics.query("step == 0") for method, one in trained.items()}
    for column in ("loss_mse", "mse", "dev_margin_mean"):
        assert len({tuple(rows[column]) for rows in first.values()}) == 1
    # and go on seeing the same: none has drawn more or less than another by the end
    assert all(torch.equal(a, b) for other in states.values() for a, b in zip(states["none"], other, strict=True))
    last = {method: tuple(one.metrics.query("step == 4")["loss_mse"]) for method, one in trained.items()}
    assert len(set(last.values())) == len(last)
