"""Seeds trained as one stack go through the states that each goes through alone, and none sees another."""

import functools
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from anm_nb.training.stacked import StackedLosses, StackedTraining
from anm_nb.training.stacked_network import StackedNetwork
from anm_nb.training.stacked_optimiser import clip_each_
from torch import nn

from anm_nb.config import ParameterError
from anm_nb.energy.negatives import Anm, Stock
from anm_nb.energy.sampler import SamplerConfig
from anm_nb.energy.train import EnergyConfig, EnergyLearner
from anm_nb.ranking.train import RankingConfig, RankingLearner
from anm_nb.training.learner import Measurement, ParameterGroup, StepLosses
from anm_nb.training.loop import LoopConfig, NonFiniteLoss, SeedTraining, train
from anm_nb.training.seeds import generator

SEEDS = (3, 0, 1)


def energy(negatives, seeds=SEEDS, loop=None, **options):
    small = {"size": 3, "width": 16, "levels": 4, "dev_examples": 4, "sampler": SamplerConfig(inner_steps=1)}
    steps = {"steps": 24, "batch": 9, "records": 3, "ema_decay": 0.9, "checkpoint_every": 7}
    return EnergyConfig(**small | options, negatives=negatives, seeds=seeds, loop=LoopConfig(**steps | (loop or {})))


def ranking(**options):
    small = {
        "size": 6, "width": 16, "n_heads": 2, "controller_width": 8, "max_inner_iters": 3, "hrm_period": 2, "batch": 16,
        "train_samples": 40, "dev_samples": 20, "test_samples": 30, "epochs": 7, "warmup_epochs": 2, "seeds": SEEDS,
    }  # fmt: skip
    return RankingConfig(**small | options)


class Line:
    """A learner small enough to calculate by hand: a linear model under plain gradient descent."""

    def __init__(self, seed, slope=1.0, clip=1e9, loss_at=None, scores=None, die_at=None, rate=0.1):
        self.model = nn.Linear(3, 1)
        for index, parameter in enumerate(self.model.parameters()):
            parameter.data = torch.randn(parameter.shape, generator=generator(seed, f"weights {index}"))
        parameters = list(self.model.parameters())
        self.groups = [ParameterGroup("line", parameters, torch.optim.SGD(parameters, lr=rate, momentum=0.5), clip)]
        self.generators = {"data": generator(seed, "data")}
        self.slope, self.loss_at, self.scores, self.die_at = slope, loss_at or {}, scores, die_at

    def drawn(self, step):
        if step == self.die_at:
            raise Killed
        return torch.randn(8, 3, generator=self.generators["data"]), torch.tensor(self.loss_at.get(step, self.slope))

    def squares(self, network, x, slope):
        return slope * (network(x) - x.sum(1, keepdim=True)).square().mean()

    def losses(self, step, averaged):
        loss = self.squares(self.model, *self.drawn(step))
        return StepLosses(loss, {"fit": loss})

    def stack_key(self):
        return "line"

    def stacked_losses(self, learners, step, model, averaged, compiled):
        drawn = zip(*(learner.drawn(step) for learner in learners), strict=True)
        loss = model.each(self.squares, *(torch.stack(parts) for parts in drawn))
        return StackedLosses(loss, {"fit": loss})

    def measure(self, step, averaged, losses):
        score = None if self.scores is None else self.scores[step]
        return Measurement({"norm": float(averaged.weight.norm())}, {"weights": averaged.weight.clone()}, score)

    def evaluate(self, selected):
        return Measurement({"end": float(selected.weight.detach().norm())})


class Killed(Exception):
    """Stands for a kill: nothing in the loop handles it."""


def both(make, config, seeds, folder):
    """The same training by the loop and by the stack."""
    trained = {}
    for how in ("loop", "stacked"):
        (folder / how).mkdir(parents=True)
        trained[how] = train(make, config.model_copy(update={"seeds_at_once": how}), seeds, folder / how)
    return trained["loop"], trained["stacked"]


def assert_close(one, other, rtol=1e-4, atol=1e-5):
    """The same metrics, trace and weights, up to rounding."""
    pd.testing.assert_frame_equal(one.metrics, other.metrics, rtol=rtol, atol=atol)
    for first, second in ((one.trace, other.trace), (one.weights, other.weights)):
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            torch.testing.assert_close(second[name], tensor, rtol=rtol, atol=atol, equal_nan=True, msg=name)


def assert_same(one, other):
    """The same to the last bit."""
    assert_close(one, other, rtol=0, atol=0)


def in_float64(config):
    """A config's learners in double precision, in which rounding is far below what a mistake would be.

    In float32 Adam makes steps of full length from gradients that are nothing but rounding, such as those of a bias
    that no loss can see.
    """

    def make(seed, device):
        learner = config.learner(seed, device)
        learner.model.double()
        for name in ("training", "dev", "test"):
            batch = getattr(learner, name)
            object.__setattr__(batch, "x", batch.x.double())
        learner.supervision = learner.supervision.double()
        return learner

    return make


# ---- the same as the loop ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient": "last", "deep_supervision": False, "routing": "sequence"},
        {"two_optimisers": False, "top_k": 1, "warmup_epochs": 0},
        {"loss": "cross_entropy"},
        {"patience": 1},
        {"routing": "uniform", "max_inner_iters": 1, "hrm_period": 1},
        {"routing": "random", "tied": False},
        {"trained_routing": False},
        {"slow_state": False, "task": "hinted_sort"},
    ],
    ids=lambda options: ", ".join(f"{name}={value}" for name, value in options.items()) or "routed",
)
@pytest.mark.filterwarnings("ignore:seed . stopped")
def test_a_stack_of_rankings_is_trained_as_each_alone(options, tmp_path):
    config = ranking(**options)
    loop, stacked = both(in_float64(config), config.loop, SEEDS, tmp_path)
    assert_close(loop, stacked, rtol=1e-6, atol=1e-7)
    assert loop.metrics["seed"].drop_duplicates().tolist() == list(SEEDS)


@pytest.mark.parametrize(
    ("negatives", "options"),
    [
        ("none", {"training_examples": 24}),
        ("stock", {"loop": {"keep_weights": True, "ema_every": 3}}),
        ("stock", {"balance": {"every": 2}, "training_examples": 24}),
        ("stock", {"task": "sudoku", "size": 4, "width": 4, "loop": {"steps": 4, "records": 3}}),
        ("random", {"probes": True}),
        ("anm", {}),
        ("anm_orthogonal", {"soft_label": True, "contrast_from": 0.5, "contrastive_weight_end": 0.1}),
        ("anm_simplex", {"task": "connectivity", "size": 3, "width": 4, "loop": {"steps": 5, "records": 3}}),
        ("mixed", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_stack_of_energies_is_trained_as_each_alone(negatives, options, tmp_path):
    config = energy(negatives, **options)
    loop, stacked = both(config.learner, config.loop, SEEDS, tmp_path)
    for trained in (loop, stacked):  # counts of signs: where a discrete negative is the truth itself, those of rounding
        trained.metrics = trained.metrics.drop(columns=["p_hard", "dev_p_hard"], errors="ignore")
    assert_close(loop, stacked, rtol=1e-3, atol=2e-5)


def test_seeds_draw_what_they_draw_alone(tmp_path):
    """Also where one seed's miner starts anew and another's does not."""
    config = energy({"name": "anm", "miner": {"delta": 0.49, "start": 0.5, "steps": 1}})
    states = []
    for how in ("loop", "stacked"):
        learners = {seed: config.learner(seed, "cpu") for seed in SEEDS}
        (tmp_path / how).mkdir()
        loop = config.loop.model_copy(update={"seeds_at_once": how})
        trained = train(lambda seed, device, made=learners: made[seed], loop, SEEDS, tmp_path / how)
        states.append([source.get_state() for seed in SEEDS for source in learners[seed].generators.values()])
    assert 0 < trained.metrics["miner_restarts"].max() < 1
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))


@pytest.mark.parametrize("config", [ranking(precision="bfloat16"), energy("anm", loop={"precision": "bfloat16"})])
def test_bfloat16_follows_the_loop_in_bfloat16(config, tmp_path):
    loop, stacked = both(config.learner, config.loop, SEEDS, tmp_path)
    losses = [name for name in loop.metrics if name.startswith(("loss_", "grad_norm"))]
    first = loop.metrics["step"] <= loop.metrics["step"].unique()[1]
    pd.testing.assert_frame_equal(
        loop.metrics.loc[first, losses], stacked.metrics.loc[first, losses], rtol=0.1, atol=1e-3
    )
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in stacked.weights.values())


def test_plain_learners_train_as_calculated_by_the_loop(tmp_path):
    config = LoopConfig(steps=12, records=5, ema_decay=0.7, ema_every=2)
    assert_close(*both(lambda seed, device: Line(seed), config, SEEDS, tmp_path))


COMPILED = """
import pathlib, sys
from anm_nb.energy.train import EnergyConfig
from anm_nb.ranking.train import RankingConfig
config = {"EnergyConfig": EnergyConfig, "RankingConfig": RankingConfig}[sys.argv[2]].model_validate_json(sys.argv[1])
folder = pathlib.Path(sys.argv[3])
config.train(folder).metrics.to_parquet(folder / "metrics.parquet")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        ranking(epochs=3, routing="uniform", max_inner_iters=1, hrm_period=1, seeds_at_once="stacked"),
        energy("stock", loop={"steps": 8, "seeds_at_once": "stacked"}),
    ],
    ids=["ranking", "stock"],
)
def test_a_compiled_stack_is_trained_as_one_that_is_not(config, tmp_path):
    """In a process of its own: torch.compile cannot trace the checks of shapes that tests run with."""
    metrics = {}
    for on in (False, True):
        (tmp_path / str(on)).mkdir()
        loop = {"loop": config.loop.model_copy(update={"compiled": on})} if isinstance(config, EnergyConfig) else {}
        asked = config.model_copy(update=loop or {"compiled": on})
        command = [
            sys.executable,
            "-c",
            COMPILED,
            asked.model_dump_json(),
            type(config).__name__,
            str(tmp_path / str(on)),
        ]
        subprocess.run(command, check=True, capture_output=True)
        metrics[on] = pd.read_parquet(tmp_path / str(on) / "metrics.parquet")
    losses = [name for name in metrics[True] if name.startswith(("loss_", "grad_norm"))]
    pd.testing.assert_frame_equal(metrics[False][losses], metrics[True][losses], rtol=1e-3, atol=1e-5)


# ---- configurations that differ in numbers only ------------------------------------------------------------------
def test_schedules_may_differ_within_a_stack(tmp_path):
    configs = [ranking(), ranking(entropy_weight=0.3, entropy_every=1), ranking(temperature=5.0, temperature_min=0.1)]
    trainings = [SeedTraining(in_float64(each)(0, "cpu"), each.loop, 0, "cpu") for each in configs]
    StackedTraining(trainings).run(tmp_path / "all.safetensors")
    for index, (config, together) in enumerate(zip(configs, trainings, strict=True)):
        alone = SeedTraining(in_float64(config)(0, "cpu"), config.loop, 0, "cpu")
        alone.run(tmp_path / f"{index}.safetensors")
        pd.testing.assert_frame_equal(pd.DataFrame(together.rows), pd.DataFrame(alone.rows), rtol=1e-6, atol=1e-9)
    ends = [training.rows[-1]["loss_rank"] for training in trainings]
    assert len(set(ends)) == len(ends)


# ---- no seed sees another ----------------------------------------------------------------------------------------
def test_clipping_is_each_seeds_own(tmp_path):
    """A seed with a huge gradient is clipped, and changes nothing for its neighbours."""
    config = LoopConfig(steps=8, records=5, seeds_at_once="stacked")
    slopes = {0: 1.0, 1: 1e6, 2: 1.0}
    for folder in ("calm", "wild"):
        (tmp_path / folder).mkdir()
    calm = train(lambda s, device: Line(s, clip=0.5), config, list(slopes), tmp_path / "calm")
    wild = train(lambda s, device: Line(s, slopes[s], clip=0.5), config, list(slopes), tmp_path / "wild")
    for seed in (0, 2):
        for name in ("model.weight", "averaged.weight"):
            assert torch.equal(calm.weights[f"seed{seed}.{name}"], wild.weights[f"seed{seed}.{name}"])
    norms = wild.metrics.query("seed == 1")["grad_norm_line"].dropna()
    assert (norms > 1e5).all()  # as it was before clipping
    assert all(np.isfinite(wild.metrics["norm"]))


@pytest.mark.parametrize("max_norm", [1e-3, 0.7, 1e3])
def test_clipping_is_torchs_for_each_seed(max_norm):
    source = generator(0, "gradients")
    shapes = [(4, 3), (5,), ()]
    gradients = [
        torch.randn(3, *shape, generator=source) * torch.tensor([1.0, 100, 0.01]).view(3, *[1] * len(shape))
        for shape in shapes
    ]
    stacks = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for stack, gradient in zip(stacks, gradients, strict=True):
        stack.grad = gradient.clone()
    norms = clip_each_([*stacks, nn.Parameter(torch.zeros(3, 2))], max_norm)  # one without a gradient
    for seed in range(3):
        own = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
        for parameter, gradient in zip(own, gradients, strict=True):
            parameter.grad = gradient[seed].clone()
        torch.testing.assert_close(norms[seed], nn.utils.clip_grad_norm_(own, max_norm))
        for stack, parameter in zip(stacks, own, strict=True):
            torch.testing.assert_close(stack.grad[seed], parameter.grad)


def test_members_are_views_of_the_stack_and_share_what_they_shared():
    def tied(seed):
        network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        network[1].weight = network[0].weight
        network[0].weight.data = torch.randn(2, 2, generator=generator(seed, "weights"))
        return network

    alone, members = [tied(seed) for seed in range(3)], [tied(seed) for seed in range(3)]
    for one, member in zip(alone, members, strict=True):
        one.load_state_dict(member.state_dict())
    stack = StackedNetwork(members)
    assert len(list(stack.parameters())) == 3
    x = torch.randn(6, 2, generator=generator(0, "x"))
    torch.testing.assert_close(stack(x), torch.cat([one(rows) for one, rows in zip(alone, x.chunk(3), strict=True)]))
    with torch.no_grad():
        next(stack.parameters()).mul_(2)
        members[1][0].bias.fill_(7)
    assert torch.equal(members[2][1].weight, 2 * alone[2][0].weight)
    assert torch.equal(dict(stack.named_parameters())["network.inner.0.bias"][1], torch.full((2,), 7.0))


# ---- stopping ----------------------------------------------------------------------------------------------------
def scored(seed, device, **options):
    """Seed 0 is best at step 1, seed 1 gets better throughout, seed 2 does until step 4."""
    scores = {0: [1, 2, 1, 1, 1, 1, 1, 1, 1], 1: list(range(9)), 2: [0, 1, 2, 3, 4, 0, 0, 0, 0]}
    return Line(seed, scores=[float(score) for score in scores[seed]], **options)


PATIENT = LoopConfig(steps=8, record_every=1, patience=2, checkpoint_every=2, ema_decay=0.6)


@pytest.mark.filterwarnings("ignore:seed . stopped")
def test_a_seed_that_stops_stays_as_it_was_and_the_others_go_on(tmp_path):
    loop, stacked = both(scored, PATIENT, [0, 1, 2], tmp_path)
    assert_close(loop, stacked, rtol=1e-5, atol=1e-6)
    assert stacked.metrics.groupby("seed")["step"].max().tolist() == [3, 8, 6]
    assert stacked.metrics["selected_step"].dropna().tolist() == [1, 8, 4]


# ---- resuming ----------------------------------------------------------------------------------------------------
@functools.cache
def patient_whole(folder):
    folder.mkdir()
    return train(scored, PATIENT.model_copy(update={"seeds_at_once": "stacked"}), [0, 1, 2], folder)


@pytest.mark.filterwarnings("ignore:seed . stopped")
@pytest.mark.parametrize("killed_at", range(9))
def test_a_stack_resumes_to_the_same_bits_whoever_has_left_it(killed_at, tmp_path, tmp_path_factory):
    whole = patient_whole(tmp_path_factory.getbasetemp() / "patient")
    config = PATIENT.model_copy(update={"seeds_at_once": "stacked"})
    with pytest.raises(Killed):
        train(lambda s, device: scored(s, device, die_at=killed_at if s == 1 else None), config, [0, 1, 2], tmp_path)
    for _ in range(2):  # the second time everything is there already
        assert_same(train(scored, config, [0, 1, 2], tmp_path), whole)


@pytest.mark.parametrize(
    "config",
    [ranking(seeds_at_once="stacked", checkpoint_every=5), energy("anm", loop={"seeds_at_once": "stacked"})],
    ids=["ranking", "anm"],
)
def test_interrupted_stacks_of_either_family_resume_to_the_same_bits(config, tmp_path, monkeypatch):
    (tmp_path / "whole").mkdir()
    whole = config.train(tmp_path / "whole")
    for learner in (RankingLearner, EnergyLearner):
        original = learner.stacked_losses

        def dying(self, learners, step, *rest, original=original):
            drawn = original(self, learners, step, *rest)  # the generators have moved on when the kill comes
            if step == 13:
                raise Killed
            return drawn

        monkeypatch.setattr(learner, "stacked_losses", dying)
    (tmp_path / "resumed").mkdir()
    with pytest.raises(Killed):
        config.train(tmp_path / "resumed")
    monkeypatch.undo()
    assert_same(config.train(tmp_path / "resumed"), whole)


# ---- what goes wrong ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_its_seed_and_step(bad, tmp_path):
    """Though it is looked for at records and checkpoints only: what is said is what was first."""
    failing = {5: {}, 7: {4: bad}, 9: {5: bad}}
    config = LoopConfig(steps=9, record_every=9, seeds_at_once="stacked")
    with pytest.raises(NonFiniteLoss, match=rf"loss = {bad:g} at step 4 of seed 7 \(fit = {bad:g}\)"):
        train(lambda s, device: Line(s, loss_at=failing[s]), config, list(failing), tmp_path)


def test_a_checkpoint_never_holds_what_is_not_finite(tmp_path):
    config = LoopConfig(steps=9, record_every=9, checkpoint_every=3, seeds_at_once="stacked")
    with pytest.raises(NonFiniteLoss):
        train(lambda s, device: Line(s, loss_at={4: math.nan}), config, [0, 1], tmp_path)
    # had it been written after step 4, it would go on from there and fail again
    resumed = train(lambda s, device: Line(s), config, [0, 1], tmp_path)
    assert np.isfinite(resumed.metrics["norm"]).all()


def test_a_real_stack_that_diverges_is_stopped(tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"at step \d+ of seed \d \(loss_mse = "):
        energy("stock", loop={"lr": 1e30, "steps": 12, "seeds_at_once": "stacked"}).train(tmp_path)


class Changed(Line):
    """A subclass may have changed the step that the inherited `stacked_losses` stands for."""


class Unstackable(Line):
    stacked_losses = None


@pytest.mark.parametrize("kind", [Changed, Unstackable])
def test_a_learner_that_does_not_say_how_is_refused_a_stack(kind, tmp_path):
    config = LoopConfig(steps=3, seeds_at_once="stacked")
    with pytest.raises(ParameterError, match=rf"seeds_at_once = 'stacked': {kind.__name__} does not define"):
        train(lambda s, device: kind(s), config, [0, 1], tmp_path)


def test_learners_that_differ_in_shape_or_optimiser_are_refused_a_stack():
    def trainings(*learners):
        return [SeedTraining(learner, LoopConfig(), 0, "cpu") for learner in learners]

    with pytest.raises(ParameterError, match="differ in more than"):
        StackedTraining(trainings(ranking().learner(0, "cpu"), ranking(width=8).learner(0, "cpu")))
    odd = Line(0)
    odd.groups[0].optimiser = torch.optim.Adagrad(odd.model.parameters())
    with pytest.raises(ParameterError, match="optimiser Adagrad: cannot be stacked; allowed: Adam, AdamW, SGD"):
        StackedTraining(trainings(odd))


def test_a_strategy_that_overrides_propose_alone_is_asked_seed_by_seed():
    class OwnStock(Stock):
        name = "own stock"

        def propose(self, problem):
            return super().propose(problem)

    class Wider(Anm):
        name = "wider"

    assert OwnStock.propose_stacked is not Stock.propose_stacked
    assert Wider.propose_stacked is Anm.propose_stacked


def test_auto_is_the_loop_on_a_cpu(tmp_path):
    train(lambda s, device: Line(s), LoopConfig(steps=3, device="cpu"), [0, 1], tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["seed-0.safetensors", "seed-1.safetensors"]


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("config", [ranking(), energy("none"), energy("stock"), energy("anm")])
def test_a_stack_on_a_gpu_is_trained_as_each_alone_there(config, compiled, tmp_path):
    loop = config.loop.model_copy(update={"device": "cuda", "compiled": compiled})
    alone, stacked = both(config.learner, loop, SEEDS, tmp_path)
    losses = [name for name in alone.metrics if name.startswith(("loss_", "grad_norm"))]
    pd.testing.assert_frame_equal(alone.metrics[losses], stacked.metrics[losses], rtol=2e-2, atol=1e-3)
