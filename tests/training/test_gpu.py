"""GPU tests: steps captured as graphs give the same bits as eager steps, and errors say what cannot be captured."""

import math
import os
import subprocess
import sys

import pandas as pd
import pytest
from families import config_of
from toy import Killed, ToyConfig, assert_same, toy_training

from anm_nb.training import NonFiniteLoss
from anm_nb.training.loop import Training
from anm_nb.training.run import arithmetic, assemble

pytestmark = pytest.mark.gpu

LONG = {"energy": {"steps": 40, "records": 5, "ema_every": 2}, "ranking": {"epochs": 14}}
FEW = (
    "energy: none",
    "energy: stock",
    "energy: anm_orthogonal",
    "ranking: routed",
    "energy: stock on boards",
)


def on_gpu(name, seeds=(0, 1), **options):
    """A case of about 40 steps with records in between."""
    return config_of(name, seeds, **{**LONG[name.partition(":")[0]], "device": "cuda", **options})


def begun(config, folder, seeds):
    """A training of these seeds on the GPU, ready to run."""
    folder.mkdir(parents=True, exist_ok=True)
    return Training(config.learner(*seeds, device="cuda"), [folder] * len(seeds))


def ran(config, folder, seeds=(0, 1)):
    """The same training after its run, and its results."""
    with arithmetic(config):
        training = begun(config, folder, seeds)
        return training, assemble(training.run())


@pytest.mark.parametrize("name", [*FEW, "energy: soft labels"])
def test_captured_steps_give_the_same_bits_as_eager_steps(name, tmp_path):
    plain = [ran(on_gpu(name, graph=False), tmp_path / f"plain{time}")[1] for time in range(2)]
    assert_same(*plain)  # if this fails, graphs are not the cause
    training, captured = ran(on_gpu(name), tmp_path / "graph")
    assert training.graphs.replays > 15
    assert_same(captured, plain[0])


@pytest.mark.parametrize("name", [*FEW, "energy: anm"])
def test_a_stack_trains_like_each_seed_alone(name, tmp_path):
    together = ran(on_gpu(name), tmp_path / "together", (3, 0, 1))[1].metrics
    alone = [ran(on_gpu(name), tmp_path / str(seed), (seed,))[1].metrics for seed in (3, 0, 1)]
    rows = pd.concat(alone, ignore_index=True)
    losses = [column for column in rows if column.startswith(("loss_", "grad_norm"))]
    pd.testing.assert_frame_equal(together[["seed", "step"]], rows[["seed", "step"]])
    pd.testing.assert_frame_equal(together[losses], rows[losses], rtol=2e-2, atol=1e-3)
    first = rows["step"] == 0
    pd.testing.assert_frame_equal(together.loc[first, losses], rows.loc[first, losses], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("name", ["energy: stock", "energy: anm_orthogonal", "ranking: routed"])
def test_a_killed_training_resumes_to_the_same_bits(name, graph, tmp_path):
    """Graphs draw from generators whose states are saved between replays."""
    long = (
        {"steps": 150, "records": 5, "checkpoint_every": 60} if name.startswith("energy") else {"checkpoint_every": 10}
    )
    config = on_gpu(name, graph=graph, **long)
    _, whole = ran(config, tmp_path / "whole")
    killed_at = 140 if name.startswith("energy") else 35
    training = begun(config, tmp_path / "killed", (0, 1))
    inputs = training.learner.inputs

    def dying(step):
        drawn = inputs(step)
        if step == killed_at:
            raise Killed
        return drawn

    training.learner.inputs = dying
    with pytest.raises(Killed):
        training.run()
    assert_same(ran(config, tmp_path / "killed")[1], whole)


def test_a_non_finite_loss_inside_a_replay_is_named_and_other_seeds_continue(tmp_path):
    config = ToyConfig(steps=30, record_every=10)
    changes = {1: {17: math.nan}}
    failing = toy_training(config, tmp_path / "failing", (0, 1, 2), device="cuda", changes=changes)
    with pytest.raises(NonFiniteLoss, match=r"loss = nan at step 17 of seed 1 \(fit = nan, steps_so_far = 18\)"):
        failing.run()
    assert failing.graphs.replays > 15
    whole = toy_training(config, tmp_path / "whole", (0, 1, 2), device="cuda").run()
    for place in (0, 2):
        assert repr(failing.records[place].rows) == repr(whole[place].rows)


WAITS = """
import pathlib, sys
from families import Own, energy
from anm_nb.training.stack import NotCapturable
from anm_nb.training.run import train_together
config, folder = energy((0, 1), negatives=Own(), device="cuda"), pathlib.Path(sys.argv[1])
for name in ("graph", "plain"):
    (folder / name).mkdir()
try:
    train_together([config], [folder / "graph"])
except NotCapturable as error:
    print(error)
trained = train_together([config.model_copy(update={"graph": False})], [folder / "plain"])[0]
print("trained to step", trained.metrics["step"].max(), trained.metrics["loss_mse"].notna().all())
"""


def test_a_user_strategy_that_waits_is_named_and_trains_without_a_graph(tmp_path):
    """In a separate process that continues after the error, as a notebook's kernel would."""
    path = os.pathsep.join([os.path.dirname(os.path.dirname(__file__)), *sys.path])
    ran = subprocess.run(
        [sys.executable, "-c", WAITS, tmp_path], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    for text in ("cannot be captured as a CUDA graph", "Own", ".item()", "graph = False", "trained to step 10 True"):
        assert text in ran.stdout
