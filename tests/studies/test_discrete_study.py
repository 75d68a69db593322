"""The study of discrete negatives tells of stored runs what plain sums over their held-out problems say."""

from math import log

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from anm_nb.config import ParameterError
from anm_nb.energy.evaluate import kept_steps, trained_energy
from anm_nb.energy.landscape import optimal_energy
from anm_nb.energy.miner import Mined
from anm_nb.energy.negatives import get_negatives
from anm_nb.studies.discrete_study import (
    HELD_OUT,
    UNDENOISED,
    DiscreteFeasibility,
    DiscreteStudy,
    at_every_level,
    denoised_rows,
    negative_rows,
    order_rates,
    proposed,
)

LEVELS, DEV = 10, 4
VALUES = {
    "width": 8, "batch": 4, "steps": 6, "records": 3, "dev_examples": DEV, "seeds": [0, 1], "size": 3,
    "per_task": {"sudoku": {"size": 4, "task_options": {"pool": 40}}},
}  # fmt: skip
SETTINGS = DiscreteFeasibility(**VALUES)
MINED = ["anm_simplex", "anm_simplex_legitimate"]
CASES = [("sudoku", 4), ("connectivity", 1)]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANM_NB_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        yield DiscreteStudy(SETTINGS)


def learner_of(study, task, method="anm_simplex", seed=1):
    return study.runs[task][method].config.learner(seed, "cpu")


def rows_of(table, **place):
    for column, value in place.items():
        table = table[table[column] == value]
    return table


# what the energies are shown


@pytest.mark.parametrize("task", SETTINGS.tasks)
def test_problems_are_the_held_out_ones_with_their_own_noise_at_every_level(study, task):
    learner = learner_of(study, task)
    problem = at_every_level(learner, learner.model, "test")
    dev, own = learner.dev_problem, learner.dev_problem.noise
    assert problem.noise.k.tolist() == [level for level in range(LEVELS) for _ in range(DEV)]
    noised = problem.noise.noised(problem.y_pos).unflatten(0, (LEVELS, DEV))
    assert torch.equal(noised[own.k, torch.arange(DEV)], own.noised(dev.y_pos))  # level and example as in training
    assert torch.equal(problem.x[DEV : 2 * DEV], dev.x)
    if task == "sudoku":
        assert torch.equal(problem.clues.mask[-DEV:], dev.clues.mask)
        assert (problem.noise.eps[problem.clues.mask] == 0).all()
    other = at_every_level(learner_of(study, task, "stock"), learner.model, "test")
    assert torch.equal(problem.noise.eps, other.noise.eps)


@pytest.mark.parametrize("name", MINED)
@pytest.mark.parametrize(("task", "classes"), CASES)
def test_negatives_are_the_strategy_s_own_and_relaxed_ones_those_it_rounds(study, task, classes, name):
    learner, strategy = learner_of(study, task), get_negatives(name)
    model = trained_energy(study.runs[task][name], 1)

    def fresh():
        return at_every_level(learner, model, "test")

    shown, relaxed, _ = proposed(strategy, fresh())
    mined = strategy.propose(fresh())
    assert torch.equal(shown, mined.y_neg)
    assert not torch.equal(shown, relaxed)
    unrounded = strategy.model_copy(update={"round": False})
    assert torch.equal(proposed(unrounded, fresh())[0], relaxed)
    stock = get_negatives("stock")
    for each in proposed(stock, fresh())[:2]:
        assert torch.equal(each, stock.propose(fresh()).y_neg)


# a row per pair


@pytest.mark.parametrize("name", MINED)
@pytest.mark.parametrize(("task", "classes"), CASES)
def test_rows_are_plain_sums_over_the_relaxed_points(study, task, classes, name):
    """Entropies by scipy, decision by decision; margins as differences of the optimal energy itself."""
    learner, strategy = learner_of(study, task), get_negatives(name)
    model = trained_energy(study.runs[task][name], 1)
    rows = negative_rows(learner, model, strategy)
    problem = at_every_level(learner, model, strategy.name)
    shown, relaxed, _ = proposed(strategy, problem)
    answers = strategy.answers(problem)
    assert rows["level"].tolist() == problem.noise.k.tolist()
    for row in range(0, len(rows), 7):
        p = (relaxed[row].double().numpy() + 1) / 2
        if classes > 1:
            open_ = (answers.allowed & ~problem.clues.mask)[row].unflatten(0, (-1, classes))
            free = [cell for cell in range(len(open_)) if open_[cell].sum() > 1]
            cells = p.reshape(-1, classes)
            own = [entropy(cells[cell]) for cell in free]
            largest = [log(int(open_[cell].sum())) for cell in free]
            forbidden = ~answers.allowed[row].numpy()
            assert np.abs(p[forbidden & ~problem.clues.mask[row].numpy()]).sum() == rows["invalid_mass"][row] == 0
        else:
            free = [i for i in range(len(p)) if not answers.fixed[row, i]]
            own = [entropy([p[i], 1 - p[i]]) for i in free]
            largest = [log(2)] * len(free)
            assert ((p >= 0) & (p <= 1)).all()
        assert rows["entropy"][row] == pytest.approx(np.mean(own), abs=1e-5)
        assert rows["relative_entropy"][row] == pytest.approx(np.mean(np.divide(own, largest)), abs=1e-5)
    assert (rows["clue_error"] == 0).all()
    perfect = optimal_energy(learner.schedule, problem.y_pos)
    energies = [perfect(problem.x, problem.noise.noised(y), problem.noise.k) for y in (shown, problem.y_pos)]
    np.testing.assert_allclose(rows["optimal_margin"], energies[0] - energies[1], atol=1e-3)
    decided = [y.unflatten(1, (-1, classes)).argmax(2) if classes > 1 else y > 0 for y in (shown, problem.y_pos)]
    assert rows["decisions_changed"].tolist() == (decided[0] != decided[1]).sum(1).tolist()
    assert (rows["illegitimate"] == (rows["optimal_margin"] < 0)).all()
    if name == "anm_simplex_legitimate":
        assert not rows["illegitimate"].any()


def test_a_clue_that_was_moved_and_mass_outside_are_seen(study, monkeypatch):
    """What the instrument reads is not 0 whatever it is shown."""
    learner, strategy = learner_of(study, "sudoku"), get_negatives("stock")
    wrong = -learner.dev_problem.y_pos.repeat(LEVELS, 1)
    monkeypatch.setattr(type(strategy), "propose", lambda *_: Mined(wrong))
    rows = negative_rows(learner, learner.model, strategy)
    assert (rows["clue_error"] == 2).all()
    assert (rows["excluded_mass"] > 0.5).all()


# energies


class Perfect(torch.nn.Module):
    """The energy that denoising asks for, for the held-out problems at every level."""

    def __init__(self, learner):
        super().__init__()
        self.energy = optimal_energy(learner.schedule, learner.dev.y.repeat(LEVELS, 1))

    def forward(self, x, y, k):
        return self.energy(x, y, k)


@pytest.mark.parametrize(("task", "classes"), CASES)
def test_a_perfect_energy_breaks_no_rule_and_none_at_all_reads_the_noise(study, task, classes):
    learner = learner_of(study, task)
    perfect = denoised_rows(learner, Perfect(learner))
    assert perfect["level"].tolist() == list(range(LEVELS))
    assert not perfect[["violation_rate", "wrong"]].to_numpy().any()
    problem = at_every_level(learner, learner.model, "test")
    noised = torch.Tensor(problem.noise.noised(problem.y_pos))
    decided = [y.unflatten(1, (-1, classes)).argmax(2) if classes > 1 else y > 0 for y in (noised, problem.y_pos)]
    free = ~problem.clues.mask[:, ::classes] if classes > 1 else torch.ones_like(decided[0])
    wrong = ((decided[0] != decided[1]) & free).sum(1) / free.sum(1)
    expected = wrong.unflatten(0, (LEVELS, DEV)).mean(1)
    none = denoised_rows(learner, None)
    np.testing.assert_allclose(none["wrong"], expected, atol=1e-6)
    assert none["violation_rate"].iloc[-1] > 0.2


@pytest.mark.parametrize(("task", "classes"), CASES)
def test_a_perfect_energy_orders_every_legitimate_pair_and_no_other(study, task, classes):
    learner = learner_of(study, task)
    rates = order_rates(learner, Perfect(learner), [get_negatives(name) for name in ("stock", *MINED)])
    assert rates["kind"].tolist() == [HELD_OUT, "stock", *MINED]
    assert not rates["wrong"].any(skipna=True)  # NaN where the free miner finds no legitimate one
    np.testing.assert_allclose(rates["all_pairs"], 1 - rates["legitimate"], atol=0.02)
    by_kind = rates.set_index("kind")
    assert by_kind.loc[HELD_OUT, "legitimate"] == by_kind.loc["anm_simplex_legitimate", "legitimate"] == 1
    assert by_kind.loc["anm_simplex", "all_pairs"] > 0.9  # the free miner finds where the noise is less


def test_order_rates_are_counts_of_energies(study):
    learner = learner_of(study, "connectivity")
    model = trained_energy(study.runs["connectivity"]["stock"], 1)
    rates = order_rates(learner, model, []).iloc[0]
    problem = at_every_level(learner, model, "test")
    y_neg = learner.dev_negatives.repeat(LEVELS, 1)
    k = problem.noise.k
    below = [
        float(model(problem.x[i : i + 1], problem.noise.noised(y_neg)[i : i + 1], k[i : i + 1]))
        < float(model(problem.x[i : i + 1], problem.noise.noised(problem.y_pos)[i : i + 1], k[i : i + 1]))
        for i in range(len(k))
    ]
    assert rates["all_pairs"] == rates["wrong"] == pytest.approx(np.mean(below))


# the tables


def test_tables_have_a_row_for_every_run_and_kept_step(study):
    steps = kept_steps(study.runs["sudoku"]["stock"])
    runs = 2 * 3 * 2  # tasks, strategies, seeds
    assert len(study.negatives()) == runs * len(steps) * LEVELS * DEV
    assert len(study.sampled()) == len(study.metrics) == runs * len(steps)
    assert len(study.orders()) == runs * 4
    denoised = study.denoised()
    assert len(denoised) == (runs + 4) * len(steps) * LEVELS
    undenoised = rows_of(denoised, method=UNDENOISED)
    assert undenoised.groupby(["task", "seed", "level"])["violation_rate"].nunique().max() == 1
    assert not denoised.duplicated(["task", "method", "seed", "step", "level"]).any()


def test_sampled_violations_are_those_that_were_recorded_in_training(study):
    recorded = study.metrics.dropna(subset=["violation_rate"])
    assert set(recorded["task"]) == {"sudoku"}
    keys = ["task", "method", "seed", "step"]
    ours = study.sampled().set_index(keys)["violation_rate"]
    for _, row in recorded.iterrows():
        assert ours[tuple(row[keys])] == pytest.approx(row["violation_rate"])
    assert ours["connectivity"].between(0, 1).all()


def test_references_are_scored_on_the_problems_that_the_runs_are(study):
    references = study.references()
    for task, metric, trivial in (
        ("sudoku", "cell_accuracy", "clues, most frequent digit"),
        ("connectivity", "balanced_accuracy", "copy the edges"),
    ):
        learner = learner_of(study, task)
        own = rows_of(references, task=task, seed=1).set_index(["name", "metric"])["value"]
        assert own["truth", metric] == 1
        assert own["truth", "violation_rate"] == 0
        assert 0 <= own[trivial, metric] <= 1
    copied = learner.task.metrics(learner.dev.x, learner.dev)["balanced_accuracy"]
    assert own["copy the edges", "balanced_accuracy"] == pytest.approx(copied)


def test_a_run_without_negatives_is_measured_by_its_energy_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    values = VALUES | {
        "tasks": ["connectivity"],
        "strategies": ["none", "anm", "anm_simplex"],
        "seeds": [0],
        "steps": 3,
    }
    study = DiscreteStudy(DiscreteFeasibility(**values))
    negatives = study.negatives()
    assert set(negatives["method"]) == {"anm", "anm_simplex"}
    assert negatives[negatives["method"] == "anm"]["entropy"].isna().all()  # a ball is no set of distributions
    assert set(study.orders()["kind"]) == {HELD_OUT, "anm", "anm_simplex"}
    assert set(study.sampled()["method"]) == {"none", "anm", "anm_simplex"}


# the settings


def test_runs_of_a_task_differ_in_their_negatives_alone():
    for of_task in SETTINGS.configs().values():
        assert list(of_task) == ["stock", *MINED]
        assert all(config.keep_weights for config in of_task.values())
        others = [config.model_dump(exclude={"negatives"}) for config in of_task.values()]
        assert all(other == others[0] for other in others)


def test_what_differs_for_a_task_replaces_single_values():
    assert SETTINGS.training("sudoku") == replace_values(SETTINGS.training("connectivity"), size=4, pool=40)
    config = SETTINGS.configs()["sudoku"]["stock"]
    assert (config.size, config.task_options, config.width, config.batch) == (4, {"pool": 40}, 8, 4)


def replace_values(training, size, pool):
    return training.model_copy(update={"size": size, "task_options": {"pool": pool}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tasks": ["inverse"]}, r"task = 'inverse': its answers follow no discrete rules; allowed: connectivity, sud"),
        ({"tasks": ["sudoko"]}, r"unknown task 'sudoko' \(did you mean 'sudoku'\?\)"),
        ({"per_task": {"addition": {}}}, r"task = 'addition': its answers follow no discrete rules"),
        ({"per_task": {"sudoku": {"stpes": 3}}}, r"unknown parameter 'stpes' \(did you mean 'steps'\?\)"),
        ({"per_task": {"sudoku": {"size": 5}}}, r"size = 5: should be 4 or 9"),
        ({"strategies": ["stock", "stock"]}, r"strategies = \['stock', 'stock'\]: each may appear once"),
        ({"strategies": ["anm_simplx"]}, r"unknown negative strategy 'anm_simplx' \(did you mean 'anm_simplex'"),
        ({"strategies": []}, r"strategies = \[\]: needs at least 1 item"),
        ({"noise_levels": [0, 10]}, r"noise_levels = \[0, 10\]: should be different levels from 0 to 9"),
        ({"noise_levels": [3, 3]}, r"noise_levels = \[3, 3\]: should be different levels"),
        ({"network": "sudoku_conf"}, r"unknown energy network 'sudoku_conf' \(did you mean 'sudoku_conv'\?\)"),
        ({"network": "sudoku_conv"}, r"network 'sudoku_conv': needs as many entries in x as in y, 64"),
    ],
)
def test_what_cannot_be_meant_is_refused(values, message):
    with pytest.raises(ParameterError, match=message):
        DiscreteFeasibility(**values)
