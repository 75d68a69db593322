"""What the landscape explorer draws and tells is what a plain loop over the stored weights finds."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stored_files import files

from anm_nb.energy.landscape import SCAN_GRID
from anm_nb.energy.schedule import NoiseSchedule
from anm_nb.training.seeds import generator
from anm_nb.widgets import LandscapeExplorer
from anm_nb.widgets.landscape import ACROSS, PROBLEMS, S


@pytest.fixture
def explorer(stored):
    return LandscapeExplorer(stored.energies["anm"])


def energy_of_files(run, seed, step):
    """The EMA energy of a step, its weights read from the file in the run's folder."""
    prefix = f"seed{seed}.step{step}.averaged."
    weights = load_file(run.path / "checkpoint.safetensors")
    model = run.config.make_network(run.config.make_task())
    model.load_state_dict({name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)})
    return model.double().requires_grad_(False)


def ends(run, seed, level, problem):
    """x, noised truth, noised negative, ε and σ of a held-out problem, in float64, by the arrays in the file."""
    alpha = NoiseSchedule.cosine(10).alphas_cumprod[level].double()
    signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
    arrays = (files(run).array(f"probe_{name}") for name in ("x", "y", "negatives"))
    x, truth, negative = (torch.from_numpy(array).double()[seed, 0, problem] for array in arrays)
    eps = torch.randn((4, 4), generator=generator(seed, "explorer/noise"), dtype=torch.float64)[problem]
    return x, signal * truth + sigma * eps, signal * negative + sigma * eps, eps, float(sigma)


def energy_at(model, x, level):
    return lambda point: float(model(x[None], point[None], torch.tensor([level]))[0])


@pytest.mark.parametrize("problem", [0, 2])
def test_profile_and_slice_are_energies_of_the_stored_weights(explorer, problem):
    explorer.problem.value = problem
    for step in explorer.step.values:
        explorer.step.value = step
        for level in (0, 4, 9):
            explorer.level.value = level
            x, start, end, _, _ = ends(explorer.run, 0, level, problem)
            energy = energy_at(energy_of_files(explorer.run, 0, step), x, level)
            profile = np.array([energy((1 - t) * start + t * end) - energy(start) for t in SCAN_GRID])
            np.testing.assert_allclose(explorer.own.get_ydata(), profile, atol=1e-6)
            shown = explorer.image.get_array()
            along = [energy(start + s * (end - start)) - energy(start) for s in S]
            np.testing.assert_allclose(shown[len(ACROSS) // 2], along, atol=1e-6)


def test_read_outs_are_barrier_curvature_and_slope_by_differences(explorer):
    explorer.step.value, explorer.level.value = explorer.step.values[-1], 2
    scan = explorer.shown()
    x, start, end, eps, sigma = ends(explorer.run, 0, 2, 0)
    energy = energy_at(energy_of_files(explorer.run, 0, explorer.step.value), x, 2)
    between = [energy(start + t * (end - start)) - energy(start) for t in np.linspace(0, 1, 21)]
    unit, h = (end - start) / (end - start).norm(), 1e-3
    ahead, here, behind = energy(start + h * unit), energy(start), energy(start - h * unit)
    assert scan["barrier"][0] == pytest.approx(max(between), abs=1e-6)
    assert scan["curvature"][0] == pytest.approx((ahead - 2 * here + behind) / h**2, rel=1e-3)
    assert scan["slope"][0] == pytest.approx((ahead - behind) / (2 * h), rel=1e-3)
    assert scan["perfect curvature"][0] == pytest.approx(1 / sigma, rel=1e-6)
    assert scan["perfect slope"][0] == pytest.approx(float(eps @ unit), abs=1e-6)
    told = {name: float(value.split()[0]) for name, value in explorer.readouts.items()}
    for name in ("barrier", "curvature", "slope"):
        assert told[name] == pytest.approx(scan[name][0], rel=1e-2, abs=1e-6)
    assert told["mean barrier"] == pytest.approx(scan["barrier"].mean(), rel=1e-2, abs=1e-6)


def test_the_barrier_is_drawn_from_the_truth_to_the_highest_point_before_the_negative(explorer):
    for direction in explorer.direction.values:
        explorer.direction.value = direction
        (place, _), (bottom, top) = explorer.height.get_data()
        profile = explorer.own.get_ydata()
        inside = (SCAN_GRID >= 0) & (SCAN_GRID <= 1)
        assert (bottom, top) == (0, pytest.approx(profile[inside].max()))
        (at,) = profile[place == SCAN_GRID]
    assert at == pytest.approx(top)


def test_the_perfect_denoiser_has_the_closed_form(explorer):
    explorer.level.value = 5
    _, start, end, eps, sigma = ends(explorer.run, 0, 5, 0)
    shift, t = end - start, SCAN_GRID.numpy()
    expected = t * float(eps @ shift) + t**2 * float(shift @ shift) / (2 * sigma)
    np.testing.assert_allclose(explorer.optimal.get_ydata(), expected, atol=1e-5)


def test_before_training_steps_are_those_whose_weights_were_kept(explorer):
    assert explorer.step.values == sorted(explorer.run.metrics["step"].unique())
    assert explorer.problem.values == list(range(PROBLEMS))


def test_a_run_without_kept_weights_shows_its_end(stored):
    from anm_nb import store

    config = stored.energies["anm"].config
    plain = store.get_or_train(config.model_copy(update={"keep_weights": False}))
    explorer = LandscapeExplorer(plain)
    assert explorer.step.values == [None]
    end = LandscapeExplorer(stored.energies["anm"])
    np.testing.assert_allclose(explorer.own.get_ydata(), end.own.get_ydata())
    assert "the end of training" in explorer.picture.alt
    import shutil

    shutil.rmtree(plain.path)  # the store is shared with other tests
