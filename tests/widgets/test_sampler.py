"""The solution shown is the sampler's own, state by state, and errors are counted against the truth."""

import numpy as np
import pytest
import torch
from stored_files import files

from anm_nb.energy.evaluate import trained_energy
from anm_nb.energy.sampler import sample
from anm_nb.energy.schedule import NoiseSchedule
from anm_nb.tasks.base import Batch
from anm_nb.tasks.sudoku import digits
from anm_nb.training.seeds import generator
from anm_nb.widgets import SamplerExplorer


@pytest.fixture(params=["board", "matrix"])
def explorer(stored, request):
    return SamplerExplorer(stored.board if request.param == "board" else stored.energies["anm"])


def problem_of(explorer):
    """The problem as the run's trace has it."""
    trace, place = files(explorer.run), explorer.problem.value
    board = explorer.run.settings["task"] == "sudoku"
    x, y, known = (
        torch.from_numpy(trace.array(f"probe_{name}")[0, 0, place : place + 1]) if name != "known" or board else None
        for name in ("x", "y", "known")
    )
    return Batch(x, y, known)


def shape_of(explorer, y):
    if explorer.run.settings["task"] == "sudoku":
        return digits(y)[0].reshape(4, 4).numpy()
    return y.reshape(2, 2).numpy()


def test_the_last_state_is_the_answer_of_the_sampler_without_anybody_looking(explorer):
    explorer.problem.value = 2
    explorer.state.value = explorer.state.values[-1]
    batch, config = problem_of(explorer), explorer.run.config
    task = config.make_task()
    y = sample(
        trained_energy(explorer.run, 0), NoiseSchedule.cosine(config.levels), batch.x, task.y_dim,
        generator(0, "explorer/2"), config.make_sampler(task), task.sample_clamp, task.clues(batch),
    )  # fmt: skip
    np.testing.assert_array_equal(explorer.shown().answers[-1], shape_of(explorer, y))
    truth, now = shape_of(explorer, batch.y), shape_of(explorer, y)
    np.testing.assert_array_equal(explorer.shown().truth, truth)
    if explorer.run.settings["task"] == "sudoku":
        free = (~batch.known.reshape(4, 4, 4)[..., 0]).sum()
        assert explorer.readouts["wrong cells"] == f"{(now != truth).sum()} of {free}"
    else:
        np.testing.assert_array_equal(explorer.images[0].get_array(), now)
        told = float(explorer.readouts["mean squared error"])
        assert told == pytest.approx(np.square(now - truth).mean(), rel=1e-2)


def test_energies_are_those_of_the_shown_answers_at_their_level(stored):
    """Of a matrix, as a board's picture keeps digits, not entries."""
    explorer = SamplerExplorer(stored.energies["anm"])
    model, solution, batch = trained_energy(explorer.run, 0), explorer.shown(), problem_of(explorer)
    schedule = NoiseSchedule.cosine(explorer.run.config.levels)
    for state in explorer.state.values:
        explorer.state.value = state
        k = torch.tensor([solution.level[state]])
        point = schedule.signal(k) * torch.from_numpy(solution.answers[state]).reshape(1, -1)
        energy = float(model(batch.x, point, k))
        assert energy == pytest.approx(solution.energy[state], rel=1e-4, abs=1e-6)
        assert explorer.readouts["level"] == str(int(k))
    curve = explorer.energy.get_ydata()
    np.testing.assert_allclose(curve[np.isfinite(curve)], solution.energy, rtol=1e-6)


def test_states_go_through_every_level_down_to_the_least_noise(explorer):
    solution = explorer.shown()
    assert len(explorer.state.values) == len(solution.level)
    assert list(dict.fromkeys(solution.level.tolist())) == list(range(10))[::-1]
    assert not solution.accepted[solution.step == 0].any()


def test_given_cells_hold_their_digit_throughout_and_are_marked(stored):
    explorer = SamplerExplorer(stored.board)
    solution = explorer.shown()
    assert solution.given.any()
    assert (solution.answers[:, solution.given] == solution.truth[solution.given]).all()
    for state in explorer.state.values:
        explorer.state.value = state
        colours = explorer.images[0].get_array()
        np.testing.assert_array_equal(colours == 0, solution.given)
        np.testing.assert_array_equal(colours == 2, solution.answers[state] != solution.truth)
        written = np.zeros((4, 4), int)
        for digit, marker in enumerate(explorer.digits[0], start=1):
            columns, rows = marker.get_data()
            written[np.asarray(rows, int), np.asarray(columns, int)] = digit
        np.testing.assert_array_equal(written, solution.answers[state])


def test_from_a_board_to_a_matrix_and_back(stored):
    explorer = SamplerExplorer(stored.board)
    before = explorer.picture.png()
    explorer.pick(stored.energies["anm"])
    assert not any(len(marker.get_xdata()) for marker in explorer.digits[0])
    explorer.pick(stored.board)
    assert explorer.picture.png() == before
