"""Negatives mined over the answers of Sudoku (both sizes) and connectivity are answers, keep clues, and differ."""

import pytest
import torch
from tasks.sudoku_reference import BY_SIZE, board

from anm_nb.energy.miner import MinerConfig
from anm_nb.energy.negatives import DiscreteTask, MiningProblem, get_negatives
from anm_nb.energy.networks import get_network
from anm_nb.energy.schedule import NoiseSchedule, SharedNoise
from anm_nb.energy.train import EnergyConfig
from anm_nb.tasks import get_task
from anm_nb.tasks.sudoku import Sudoku
from anm_nb.training.seeds import RowDraws, generator, initialise

STRATEGIES = ["anm_simplex", "anm_simplex_legitimate"]


def problem(task):
    """A batch of the task at random levels, with a small random network of its own architecture."""
    source = generator(0, "test")
    batch = task.sample(8, generator=source)
    network = get_network(task.network).for_task(task, 4, "squared_norm", 4)
    initialise(network, generator(0, "weights"))
    network.requires_grad_(False)
    clues = task.clues(batch)
    noise = SharedNoise.draw(NoiseSchedule.cosine(4), batch.y, RowDraws([source], "cpu"), clues)
    draws = RowDraws([generator(1, "test")], "cpu")
    return MiningProblem(task, batch.x, batch.y, noise, network, network, draws, clues)


def decisions(task, y):
    """The answers' decisions as numbers, [n, decisions]: digits of cells, or signs of entries."""
    return y if task.classes == 1 else y.unflatten(1, (-1, task.classes)).argmax(2)


def legitimate(given, y_neg):
    return given.noise.optimal_margin(given.y_pos, y_neg) > 0


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("size", [4, 9])
def test_mined_boards_are_boards_with_the_clues_in_place(name, size):
    task = Sudoku.from_puzzles([puzzle for _, puzzle, _ in BY_SIZE[size]], size=size)
    assert isinstance(task, DiscreteTask)
    assert task.classes == size
    given = problem(task)
    mined = get_negatives(name, miner=MinerConfig(steps=3)).propose(given)
    cells = mined.y_neg.unflatten(1, (size**2, size))
    assert ((cells == 1).sum(2) == 1).all()
    assert ((cells == -1).sum(2) == size - 1).all()
    found, truth = decisions(task, mined.y_neg) + 1, (decisions(task, given.y_pos) + 1).tolist()
    puzzles = {tuple(board(solution)): board(puzzle) for _, puzzle, solution in BY_SIZE[size]}
    for filled, solution in zip(found.tolist(), truth, strict=True):
        assert all(clue in (0, digit) for clue, digit in zip(puzzles[tuple(solution)], filled, strict=True))
    different = (found != torch.tensor(truth)).sum(1)
    assert torch.equal(mined.log["decisions_changed"], different.float())
    assert (different > 0).any()
    if name == "anm_simplex_legitimate":
        assert legitimate(given, mined.y_neg)[different > 0].all()


@pytest.mark.parametrize("name", STRATEGIES)
def test_mined_reachabilities_are_signs(name):
    task = get_task("connectivity", size=5)
    assert isinstance(task, DiscreteTask)
    assert task.classes == 1
    given = problem(task)
    mined = get_negatives(name, miner=MinerConfig(steps=3)).propose(given)
    assert set(mined.y_neg.unique().tolist()) == {-1.0, 1.0}
    different = (mined.y_neg != given.y_pos).sum(1)
    assert torch.equal(mined.log["decisions_changed"], different.float())
    assert (different > 0).any()
    if name == "anm_simplex_legitimate":
        assert legitimate(given, mined.y_neg)[different > 0].all()


@pytest.mark.parametrize("name", STRATEGIES)
def test_small_boards_train_on_mined_negatives(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ANM_NB_OUTPUTS", str(tmp_path))
    config = EnergyConfig(
        **{"task": "sudoku", "size": 4, "width": 4, "negatives": name, "seeds": [0], "task_options": {"pool": 30}},
        **{"steps": 3, "batch": 8, "records": 3, "dev_examples": 4},
    )
    weights = config.train(tmp_path).weights
    start = {name: tensor for name, tensor in config.learner(0).model.members[0].state_dict().items()}
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert all(not torch.equal(weights[f"seed0.model.{name}"], tensor) for name, tensor in start.items())
