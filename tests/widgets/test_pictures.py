"""What the explorers draw and tell is what plain loops over a run's files find."""

import numpy as np
import pytest
import torch
from stored_files import files

from anm_nb import store
from anm_nb.energy.evaluate import trained_energy
from anm_nb.energy.landscape import SCAN_GRID
from anm_nb.energy.sampler import sample
from anm_nb.energy.schedule import NoiseSchedule
from anm_nb.tasks.base import Batch
from anm_nb.tasks.sudoku import digits
from anm_nb.training.seeds import generator
from anm_nb.widgets import LandscapeExplorer, MarginExplorer, RoutingExplorer, SamplerExplorer
from anm_nb.widgets.landscape import ACROSS, PROBLEMS, S
from anm_nb.widgets.margins import BARS, BATCH, HELD_OUT

# margins


@pytest.fixture
def margins(stored):
    return MarginExplorer(stored.energies["anm"])


@pytest.mark.parametrize(("kind", "column"), [(HELD_OUT, "dev_p_hard"), (BATCH, "p_hard")])
@pytest.mark.parametrize("place", [None, 1])
def test_bars_quartiles_and_curve_are_those_of_the_stored_margins(margins, kind, column, place):
    array = files(margins.run).array({HELD_OUT: "dev_margins", BATCH: "margins"}[kind])
    metrics = files(margins.run).metrics
    margins.source.value, margins.seed.value = kind, place
    array = array if place is None else array[[place]]
    expected = metrics[metrics["seed"].isin([0, 1] if place is None else [place])].groupby("step")[column].mean()
    for record in range(array.shape[1]):
        margins.step.value = record
        shown = array[:, record].ravel()
        heights, edges, _ = margins.bars.get_data()
        counts = np.zeros(BARS)
        for margin in shown:  # it belongs to the last bar whose lower edge it has reached
            counts[sum(margin >= edge for edge in edges[1:-1])] += 1
        np.testing.assert_array_equal(heights, counts / len(shown))
        quartiles = np.quantile(shown, [0.25, 0.5, 0.75])
        marks = [segment[0, 0] for segment in margins.quartiles.get_segments()]
        np.testing.assert_allclose(marks, np.clip(quartiles, edges[0], edges[-1]), rtol=1e-6)
        assert float(margins.readouts["median"].split()[0]) == pytest.approx(quartiles[1], rel=6e-3, abs=1e-6)
        np.testing.assert_allclose(margins.p_hard.get_ydata(), expected, atol=1e-6)
        assert margins.cursor.get_xdata()[0] == margins.steps[record]
        assert margins.readouts["p_hard"] == f"{100 * expected.iloc[record]:.1f} %"
        assert margins.readouts["pairs"] == str(len(shown))
    assert edges[BARS // 2] == 0


def test_levels_part_the_held_out_pairs(margins):
    """The levels, pairs and margins belong together: the weights of the file give the margins of the file."""
    run, dev, found = margins.run, files(margins.run).array("dev_margins")[:, -1], 0
    for level in range(10):
        margins.level.value = level
        found += len(margins.shown_margins())
        for place, seed in enumerate(run.settings["seeds"]):
            learner = run.config.learner(seed)
            noise, x = learner.dev_problem.noise, learner.dev.x
            np.testing.assert_array_equal(margins.chosen()[place], noise.k.numpy() == level)
            model = trained_energy(run, seed)
            e_neg, e_pos = (model(x, noise.noised(y), noise.k) for y in (learner.dev_negatives, learner.dev.y))
            np.testing.assert_allclose(e_neg - e_pos, dev[place], rtol=1e-4, atol=1e-6)
    assert found == dev.size


def test_the_pairs_behind_every_bar_are_those_whose_margins_fall_in_it(margins):
    edges, trace = margins.edges[HELD_OUT], files(margins.run)
    last, levels, listed = trace.array("dev_margins")[:, -1], trace.array("dev_levels"), 0
    for bar in range(BARS):
        margins.bar.value = bar
        behind = margins.behind_bar()
        low = -np.inf if bar == 0 else edges[bar]
        high = np.inf if bar == BARS - 1 else edges[bar + 1]
        expected = [(place, example) for (place, example), m in np.ndenumerate(last) if low <= m < high]
        assert set(map(tuple, behind)) == set(expected)
        assert margins.readouts["pairs in bar"] == str(len(expected))
        listed += len(behind)
        assert len(margins.images) == 2 * min(4, len(behind))
        for column, (place, example) in enumerate(behind[:4]):
            for image, name in zip(margins.images[2 * column :], ("probe_y", "probe_negatives"), strict=False):
                np.testing.assert_array_equal(image.get_array(), trace.array(name)[place, 0, example].reshape(2, 2))
            assert margins.titles[column].get_text().startswith(f"k = {levels[place, 0, example]}\nm = ")
    assert listed == last.size


def test_a_batchs_pairs_have_no_levels_to_choose_and_no_pictures(stored, margins):
    margins.level.value = 3
    margins.source.value = BATCH
    assert margins.level.values == [None]
    margins.bar.value = 20
    assert "not kept" in margins.about.get_text()
    assert not margins.images
    assert MarginExplorer(stored.energies["none"]).source.values == [HELD_OUT]


# landscapes


@pytest.fixture
def landscape(stored):
    return LandscapeExplorer(stored.energies["anm"])


def ends(run, level, problem):
    """Noised truth, noised negative, ε and σ of seed 0's held-out problem, and its energy by the last weights."""
    alpha = NoiseSchedule.cosine(10).alphas_cumprod[level].double()
    signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
    arrays = (files(run).array(f"probe_{name}") for name in ("x", "y", "negatives"))
    x, truth, negative = (torch.from_numpy(array).double()[0, 0, problem] for array in arrays)
    eps = torch.randn((4, 4), generator=generator(0, "explorer/noise"), dtype=torch.float64)[problem]
    return x, signal * truth + sigma * eps, signal * negative + sigma * eps, eps, float(sigma)


def energy_at(run, step, x, level):
    model = trained_energy(run, 0, step).double()
    return lambda point: float(model(x[None], point[None], torch.tensor([level]))[0])


@pytest.mark.parametrize("problem", [0, 2])
def test_profile_and_slice_are_energies_of_the_stored_weights(landscape, problem):
    landscape.problem.value = problem
    assert landscape.step.values == sorted(landscape.run.metrics["step"].unique())
    assert landscape.problem.values == list(range(PROBLEMS))
    for step in landscape.step.values:
        landscape.step.value = step
        for level in (0, 4, 9):
            landscape.level.value = level
            x, start, end, _, _ = ends(landscape.run, level, problem)
            energy = energy_at(landscape.run, step, x, level)
            profile = np.array([energy((1 - t) * start + t * end) - energy(start) for t in SCAN_GRID])
            np.testing.assert_allclose(landscape.own.get_ydata(), profile, atol=1e-6)
            along = [energy(start + s * (end - start)) - energy(start) for s in S]
            np.testing.assert_allclose(landscape.image.get_array()[len(ACROSS) // 2], along, atol=1e-6)


def test_read_outs_are_barrier_curvature_and_slope_by_differences(landscape):
    landscape.level.value = 2
    scan = landscape.shown()
    x, start, end, eps, sigma = ends(landscape.run, 2, 0)
    energy = energy_at(landscape.run, landscape.step.value, x, 2)
    between = [energy(start + t * (end - start)) - energy(start) for t in np.linspace(0, 1, 21)]
    unit, h = (end - start) / (end - start).norm(), 1e-3
    ahead, here, behind = energy(start + h * unit), energy(start), energy(start - h * unit)
    assert scan["barrier"][0] == pytest.approx(max(between), abs=1e-6)
    assert scan["curvature"][0] == pytest.approx((ahead - 2 * here + behind) / h**2, rel=1e-3)
    assert scan["slope"][0] == pytest.approx((ahead - behind) / (2 * h), rel=1e-3)
    assert scan["perfect curvature"][0] == pytest.approx(1 / sigma, rel=1e-6)
    assert scan["perfect slope"][0] == pytest.approx(float(eps @ unit), abs=1e-6)
    for name in ("barrier", "curvature", "slope"):
        told = float(landscape.readouts[name].split()[0])
        assert told == pytest.approx(scan[name][0], rel=1e-2, abs=1e-6)
    shift, t = end - start, SCAN_GRID.numpy()
    perfect = t * float(eps @ shift) + t**2 * float(shift @ shift) / (2 * sigma)
    np.testing.assert_allclose(landscape.optimal.get_ydata(), perfect, atol=1e-5)


def test_the_barrier_is_drawn_from_the_truth_to_the_highest_point_before_the_negative(landscape):
    for direction in landscape.direction.values:
        landscape.direction.value = direction
        (place, _), (bottom, top) = landscape.barrier.get_data()
        profile = landscape.own.get_ydata()
        assert (bottom, top) == (0, pytest.approx(profile[(SCAN_GRID >= 0) & (SCAN_GRID <= 1)].max()))
        assert profile[place == SCAN_GRID] == pytest.approx(top)


def test_a_run_without_kept_weights_shows_its_end(stored, landscape):
    plain = store.get_or_train(stored.energies["anm"].config.model_copy(update={"keep_weights": False}))
    explorer = LandscapeExplorer(plain)
    store.remove(plain.key)  # the store is shared with other tests
    assert explorer.step.values == [None]
    np.testing.assert_allclose(explorer.own.get_ydata(), landscape.own.get_ydata())
    assert "the end of training" in explorer.picture.alt


# routing


@pytest.fixture
def routing(stored):
    return RoutingExplorer(stored.ranking)


def test_every_heatmap_holds_the_stored_weights_in_true_order_visible_items_first(routing):
    stored = files(routing.run)
    ranks, known, alphas = (stored.array(name) for name in ("probe_ranks", "probe_known", "alphas"))
    for where in np.ndindex(alphas.shape[:2]):
        routing.seed.value, routing.epoch.value = where
        for sample_shown in routing.sample.values[:2]:
            routing.sample.value = sample_shown
            own = ranks[where[0], 0, sample_shown], known[where[0], 0, sample_shown]
            order = sorted(range(len(own[0])), key=lambda item, own=own: (not own[1][item], own[0][item]))
            _, names = routing.shown()
            assert [int(name.strip("()")) - 1 for name in names] == own[0][order].tolist()
            assert [name.startswith("(") for name in names] == (~own[1][order]).tolist()
            assert routing.border == own[1].sum() - 0.5
            for iteration in routing.iteration.values:
                routing.iteration.value = iteration
                expected = alphas[(*where, sample_shown, iteration)]
                np.testing.assert_array_equal(routing.image.get_array(), expected[order])
                assert routing.readouts["largest α"] == f"{expected.max():.3f}"
                assert routing.image.get_clim() == (0, pytest.approx(alphas.max()))


def test_curves_and_read_outs_are_the_stored_entropies_and_taus(routing):
    stored, told = files(routing.run), {"entropies": "mean entropy", "tau_obs": "tau_obs", "tau_all": "tau_all"}
    for record in routing.epoch.values:
        routing.epoch.value = record
        alphas = stored.array("alphas")[0, record, 0].astype(float)
        np.testing.assert_allclose(
            routing.lines["own"].get_ydata(), -(alphas * np.log(alphas)).sum(-1).mean(-1), rtol=1e-5
        )
        for iteration in routing.iteration.values:
            routing.iteration.value = iteration
            assert [cursor.get_xdata()[0] for cursor in routing.cursors] == [iteration + 1] * 2
            for name, readout in told.items():
                values = stored.array(name)[0, record]
                np.testing.assert_array_equal(routing.lines[name].get_ydata(), values)
                assert routing.readouts[readout].split()[0] == f"{values[iteration]:.3f}"


def test_a_seed_that_stopped_early_has_the_epochs_it_trained(stored):
    run = store.get_or_train(stored.ranking.config.changed(epochs=4, patience=1))
    explorer = RoutingExplorer(run)
    for place, (_, rows) in enumerate(files(run).metrics.groupby("seed", sort=False)):
        explorer.seed.value = place
        assert [int(label) for label in explorer.epoch.input.options] == rows["epoch"].astype(int).tolist()
        assert np.isfinite(np.asarray(explorer.image.get_array())).all()
    store.remove(run.key)  # the store is shared with other tests


# samplers


def problem_of(explorer):
    """The problem as the run's trace has it."""
    trace, place = files(explorer.run), explorer.problem.value
    names = ("x", "y", "known") if explorer.answers.digits else ("x", "y")
    return Batch(*(torch.from_numpy(trace.array(f"probe_{name}")[0, 0, place : place + 1]) for name in names))


@pytest.mark.parametrize("board", [True, False])
def test_the_last_state_is_the_answer_of_the_sampler_without_anybody_looking(stored, board):
    explorer = SamplerExplorer(stored.board if board else stored.energies["anm"])
    explorer.problem.value = 2
    explorer.state.value = explorer.state.values[-1]
    batch, config = problem_of(explorer), explorer.run.config
    task = config.make_task()
    y = sample(
        trained_energy(explorer.run, 0), NoiseSchedule.cosine(config.levels), batch.x, task.y_dim,
        generator(0, "explorer/2"), config.make_sampler(task), task.sample_clamp, task.clues(batch),
    )  # fmt: skip
    now, truth = (digits(each)[0].reshape(4, 4) if board else each.reshape(2, 2) for each in (y, batch.y))
    np.testing.assert_array_equal(explorer.shown().answers[-1], now)
    np.testing.assert_array_equal(explorer.shown().truth, truth)
    if board:
        free = (~batch.known.reshape(4, 4, 4)[..., 0]).sum()
        assert explorer.readouts["wrong cells"] == f"{(now != truth).sum()} of {free}"
    else:
        np.testing.assert_array_equal(explorer.images[0].get_array(), now)
        told = float(explorer.readouts["mean squared error"])
        assert told == pytest.approx(float((now - truth).square().mean()), rel=1e-2)


def test_energies_are_those_of_the_shown_answers_at_their_level(stored):
    """Of a matrix, as a board's picture keeps digits, not entries."""
    explorer = SamplerExplorer(stored.energies["anm"])
    model, solution, batch = trained_energy(explorer.run, 0), explorer.shown(), problem_of(explorer)
    schedule = NoiseSchedule.cosine(explorer.run.config.levels)
    assert list(dict.fromkeys(solution.level.tolist())) == list(range(10))[::-1]
    assert not solution.accepted[solution.step == 0].any()
    for state in explorer.state.values:
        explorer.state.value = state
        k = torch.tensor([solution.level[state]])
        point = schedule.signal(k) * torch.from_numpy(solution.answers[state]).reshape(1, -1)
        assert float(model(batch.x, point, k)) == pytest.approx(solution.energy[state], rel=1e-4, abs=1e-6)
        assert explorer.readouts["level"] == str(int(k))
    curve = explorer.lines[0].get_ydata()
    np.testing.assert_allclose(curve[np.isfinite(curve)], solution.energy, rtol=1e-6)


def test_given_cells_hold_their_digit_throughout_and_wrong_ones_are_marked(stored):
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
        for marker in [line for line in explorer.boards[0].lines if line.get_gid()]:
            columns, rows = marker.get_data()
            written[np.asarray(rows, int), np.asarray(columns, int)] = int(marker.get_gid())
        np.testing.assert_array_equal(written, solution.answers[state])
