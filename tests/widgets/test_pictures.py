"""Pictures and read-outs of the explorers equal those of plain loops over a run's files."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from anm_nb import store
from anm_nb.energy.landscape import SCAN_GRID
from anm_nb.energy.sampler import sample
from anm_nb.energy.schedule import NoiseSchedule
from anm_nb.energy.train import trained_energy
from anm_nb.tasks import Batch
from anm_nb.training.seeds import generator
from anm_nb.widgets import LandscapeExplorer, MarginExplorer, RoutingExplorer, SamplerExplorer
from anm_nb.widgets.records import BARS

T = SCAN_GRID.numpy()


def array_of(run, name):
    return load_file(run.path / "trace.safetensors")[name]


def metrics_of(run):
    return pd.read_parquet(run.path / "metrics.parquet")


def choose(explorer, **chosen):
    for name, value in chosen.items():
        explorer.inputs[name].value = value


def number(explorer, name):
    return float(explorer.readouts[0][name].split()[0])


@pytest.mark.parametrize("level", ["all", 1])
def test_bars_quartiles_and_curve_are_those_of_the_stored_margins(stored, level):
    explorer = MarginExplorer(stored.energies["anm"])
    run = explorer.views[0].run
    choose(explorer, seed=1, level=level)
    chosen = (array_of(run, "dev_levels")[1, 0] == level) | (level == "all")
    array = array_of(run, "dev_margins")[1][:, chosen]
    metrics = metrics_of(run)
    hard = metrics[metrics["seed"] == 1].set_index("step")["dev_p_hard"]
    histogram, curve = explorer.axes[0]
    for shown, step in zip(array, hard.index, strict=True):
        choose(explorer, step=step)
        heights, edges, _ = histogram.patches[0].get_data()
        counts = np.zeros(BARS)
        for margin in shown:  # it belongs to the last bar whose lower edge is not above it
            counts[sum(margin >= edge for edge in edges[1:-1])] += 1
        np.testing.assert_array_equal(heights, counts / len(shown))
        quartiles = np.quantile(shown, [0.25, 0.5, 0.75])
        assert number(explorer, "median") == pytest.approx(quartiles[1], rel=6e-3, abs=1e-6)
        np.testing.assert_allclose(curve.lines[0].get_ydata(), (array < 0).mean(1), atol=1e-6)
        assert level != "all" or (shown < 0).mean() == pytest.approx(hard[step])
        assert curve.lines[1].get_xdata()[0] == step
        assert explorer.readouts[0]["p_hard"].startswith(f"{100 * (shown < 0).mean():.1f} % [")
        assert explorer.readouts[0]["pairs"] == str(len(shown))
        numbers = re.findall(r'<i title="[^"]+: (\d+) of (\d+) pairs"', explorer.picture.value)
        assert [[*map(int, each)] for each in numbers] == [[count, len(shown)] for count in counts if count]
    assert edges[BARS // 2] == 0
    assert explorer.axes[0, 0].patches[0].get_facecolor()[:3] == pytest.approx((0.835, 0.369, 0), abs=2e-3)


def ends(run, level, problem):
    """x, noised truth, noised negative, ε and σ of seed 0's held-out problem."""
    alpha = NoiseSchedule.cosine(10).alphas_cumprod[level].double()
    signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
    arrays = (array_of(run, f"probe_{name}") for name in ("x", "y", "negatives"))
    x, truth, negative = (torch.from_numpy(array).double()[0, 0, problem - 1] for array in arrays)
    eps = torch.randn(4, generator=generator(0, f"explorer/{problem}"), dtype=torch.float64)
    return x, signal * truth + sigma * eps, signal * negative + sigma * eps, eps, float(sigma)


def test_profiles_and_read_outs_are_energies_of_the_stored_weights_and_their_differences(stored):
    explorer = LandscapeExplorer(stored.energies["anm"])
    run, (profiles,) = explorer.views[0].run, explorer.axes[0]
    assert [*explorer.inputs["step"].options] == sorted(run.metrics["step"].unique())
    assert len(explorer.inputs["problem"].options) == 12
    for step, level, problem in ((0, 0, 1), (6, 4, 3), (6, 9, 1), (6, 2, 12)):
        choose(explorer, step=step, level=level, problem=problem)
        (x, start, end, eps, sigma), model = ends(run, level, problem), trained_energy(run, 0, step).double()

        def energy(point, x=x, level=level, model=model):
            return float(model(x[None], point[None], torch.tensor([level]))[0])

        profile = np.array([energy((1 - t) * start + t * end) - energy(start) for t in SCAN_GRID])
        drawn = {line.get_label(): line.get_ydata() for line in profiles.lines}
        np.testing.assert_allclose(drawn["ANM as written"], profile, atol=1e-6)
        unit, shift, h = (end - start) / (end - start).norm(), end - start, 1e-3
        perfect = T * float(eps @ shift) + T**2 * float(shift @ shift) / (2 * sigma)
        np.testing.assert_allclose(drawn["perfect denoiser"], perfect, atol=1e-5)
        ahead, here, behind = energy(start + h * unit), energy(start), energy(start - h * unit)
        expected = {"barrier": [max(each[(T >= 0) & (T <= 1)]) for each in (profile, perfect)]}
        expected["curvature"] = [(ahead - 2 * here + behind) / h**2, 1 / sigma]
        for name, pair in expected.items():
            numbers = re.findall(r"-?\d[\d.e-]*", explorer.readouts[0][name])
            assert [float(numbers[0]), float(numbers[-1])] == pytest.approx(pair, rel=1e-2, abs=1e-5), name


def test_a_run_without_kept_weights_shows_its_end(stored):
    plain = store.get_or_train(stored.energies["anm"].config.model_copy(update={"keep_weights": False}))
    explorer, kept = LandscapeExplorer(plain), LandscapeExplorer(stored.energies["anm"])
    shutil.rmtree(plain.path)  # other tests share the store
    assert explorer.inputs["step"].options == (6,)
    assert explorer.readouts == kept.readouts


def test_every_heatmap_holds_the_stored_weights_in_true_order_visible_items_first(stored):
    explorer = RoutingExplorer(stored.ranking)
    run = stored.ranking
    ranks, known, alphas = (array_of(run, name) for name in ("probe_ranks", "probe_known", "alphas"))
    heat, every, entropy, tau = explorer.axes[0]
    (scale,) = heat.child_axes
    assert [text.get_text() for text in scale.get_yticklabels()] == ["0", "α", f"{alphas.max():.2f}"]
    for place, record, sample_shown, iteration in np.ndindex(2, alphas.shape[1], 2, alphas.shape[3]):
        choose(explorer, seed=place, epoch=record, sample=sample_shown + 1, iteration=iteration + 1)
        own = ranks[place, 0, sample_shown], known[place, 0, sample_shown]
        order = sorted(range(len(own[0])), key=lambda item, own=own: (not own[1][item], own[0][item]))
        names = [label.get_text() for label in heat.get_yticklabels()]
        assert names == [f"{own[0][item] + 1}" if own[1][item] else f"({own[0][item] + 1})" for item in order]
        assert heat.lines[0].get_ydata()[0] == own[1].sum() - 0.5
        expected = alphas[place, record, sample_shown]
        np.testing.assert_array_equal(heat.images[0].get_array(), expected[iteration][order])
        blocks = np.split(np.insert(every.images[0].get_array().filled(np.nan), 0, np.nan, 1), len(expected), 1)
        np.testing.assert_array_equal([block[:, 1:] for block in blocks], expected[:, order])
        assert every.patches[0].get_x() == iteration * blocks[0].shape[1] - 0.5  # framed
        assert heat.images[0].get_clim() == every.images[0].get_clim()
        assert heat.images[0].get_clim() == (0, pytest.approx(alphas.max()))
        assert explorer.readouts[0]["largest α"] == f"{expected[iteration].max():.3f}"
        curves = {"entropies": (entropy.lines[1], "mean entropy")}
        curves |= {name: (line, name) for name, line in zip(("tau_obs", "tau_all"), tau.lines, strict=False)}
        for name, (line, readout) in curves.items():
            curve = array_of(run, name)[place, record]
            np.testing.assert_array_equal(line.get_ydata(), curve)
            assert explorer.readouts[0][readout].split()[0] == f"{curve[iteration]:.3f}"
        assert [axes.lines[-1].get_xdata()[0] for axes in (entropy, tau)] == [iteration + 1] * 2


def test_the_last_state_is_the_answer_of_the_sampler_without_anybody_looking(stored):
    explorer = SamplerExplorer(stored.energies["anm"])
    choose(explorer, problem=3, state=explorer.inputs["state"].options[-1])
    run = explorer.views[0].run
    batch = Batch(*(torch.from_numpy(array_of(run, f"probe_{name}")[0, 0, 2:3]) for name in ("x", "y")))
    config, model, task = run.config, trained_energy(run, 0), run.config.make_task()
    schedule = NoiseSchedule.cosine(config.levels)
    how = config.inner_steps or task.inner_steps, task.sample_clamp
    y = sample(model, schedule, batch.x, task.y_dim, generator(0, "explorer/2"), *how)
    levels, values, _, answers, truth, _ = explorer.views[0].solve(0, 3, "")
    np.testing.assert_array_equal(answers[-1], y.reshape(2, 2))
    np.testing.assert_array_equal(truth, batch.y.reshape(2, 2))
    answer, _, energies, _ = explorer.axes[0]
    np.testing.assert_array_equal(answer.images[0].get_array(), y.reshape(2, 2))
    error = float((y - batch.y).square().mean())
    assert number(explorer, "mean squared error") == pytest.approx(error, rel=1e-2)
    assert list(dict.fromkeys(levels.tolist())) == list(range(10))[::-1]
    for now, level, value in zip(answers, levels, values, strict=True):
        k = torch.tensor([level])
        point = schedule.signal(k) * torch.from_numpy(now).reshape(1, -1)
        assert float(model(batch.x, point, k)) == pytest.approx(value, rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(energies.lines[0].get_ydata(), values, rtol=1e-6)


def test_a_sudoku_of_one_s_own_is_solved_and_a_wrong_one_is_explained(stored):
    explorer = SamplerExplorer(stored.board, stored.energies["anm"])
    before = explorer.image("png")
    explorer.beside.value = ""
    puzzle, solution = "1... ..2. .4.. ...3", "1234432134122143"
    choose(explorer, puzzle=puzzle.replace(" ", "\n"))
    cells = puzzle.replace(" ", "")
    _, _, _, answers, truth, given = explorer.views[0].solve(0, 1, cells)
    assert explorer.readouts[0]["problem"] == "your own"
    assert "Own Sudoku 1..." in explorer.alt
    np.testing.assert_array_equal(truth.ravel(), [*map(int, solution)])
    np.testing.assert_array_equal(given.ravel(), [cell != "." for cell in cells])
    assert (answers[:, given] == truth[given]).all()
    for wrong, words in (("1...", "4 characters, should be 16"), ("11" + "." * 14, "1 more than once in row 1")):
        choose(explorer, puzzle=wrong)
        assert words in explorer.unshown
        assert explorer.picture.value == ""
    choose(explorer, puzzle="")
    explorer.beside.value = stored.energies["anm"].key
    assert explorer.image("png") == before
